/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Where things are in our address space (docs/native.md, "Memory"). For C, assembly and the linker script alike, so
 * macros only. */
#ifndef LODGE_NATIVE_LAYOUT_H
#define LODGE_NATIVE_LAYOUT_H

#define LAYOUT_DIRECT  0xFFFF800000000000
#define LAYOUT_WINDOWS 0xFFFFC00000000000
#define LAYOUT_DEVICES 0xFFFFD00000000000
#define LAYOUT_STACKS  0xFFFFE00000000000
#define LAYOUT_EXEC    0xFFFFF00000000000
#define LAYOUT_IMAGE   0xFFFFFFFF80000000

/* What boot.S maps before paging.c takes over: the image, and this much of physical memory. */
#define LAYOUT_IMAGE_MAX 0x1000000
#define LAYOUT_EARLY_MAX 0x100000000

/* Selectors of every CPU's GDT (cpu.c); the first three are those of boot.S and trampoline.S, too. */
#define SELECTOR_CODE 0x08
#define SELECTOR_DATA 0x10
#define SELECTOR_TSS  0x20

/* Where in the TSS the stacks of events that come at any time are (SDM 3A, 7.7), as numbers for the IDT. */
#define IST_NMI           1
#define IST_DOUBLE_FAULT  2
#define IST_MACHINE_CHECK 3

#endif
