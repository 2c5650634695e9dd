/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Port I/O for instruction handlers: privilege, then the exit (x86/op_io.c). */
#ifndef LODGE_X86_IO_H
#define LODGE_X86_IO_H

#include "x86/cpu.h"

/* May the current privilege level access `size` ports from `port` on (SDM 1, 18.5)? X86_OK, or
 * X86_FAULT: #GP(0), or what reading the TSS raised. */
int x86_io_allowed(struct x86_cpu *cpu, uint16_t port, uint8_t size);

/* The access itself, for 1, 2 or 4 bytes. X86_OK, or X86_EXIT: done, and the vCPU must leave. */
int x86_io_read(struct x86_cpu *cpu, uint16_t port, uint8_t size, uint64_t *value);
int x86_io_write(struct x86_cpu *cpu, uint16_t port, uint8_t size, uint64_t value);

#endif
