/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Addresses that guests, tools and both homes share: the machine's documented interface. Usable
 * from assembly. */
#ifndef LODGE_PORTS_H
#define LODGE_PORTS_H

#define LODGE_PORT_EXIT   0xF4  /* value v ends the run with status (v << 1) | 1, when offered */
#define LODGE_PORT_SERIAL 0x3F8 /* 16550, IRQ 4 */
#define LODGE_IRQ_SERIAL  4

#define LODGE_PORT_ACPI_PM1_EVENT   0x600 /* status 2, enable 2 */
#define LODGE_PORT_ACPI_PM1_CONTROL 0x604 /* 2 */
#define LODGE_PORT_ACPI_PM_TIMER    0x608 /* 4 */
#define LODGE_PORT_ACPI_GPE0        0x60C /* status 1, enable 1 */
#define LODGE_PORT_RESET            0xCF9 /* reset register: 0x06 or 0x0E */
#define LODGE_IRQ_SCI 9

#define LODGE_MMIO_HOLE     0xC0000000 /* RAM below ends at most here; the rest goes above 4 GiB */
#define LODGE_MMIO_ECAM     0xE0000000 /* PCI configuration space, 1 MiB per bus */
#define LODGE_ECAM_BUSES    1
#define LODGE_MMIO_IO_APIC  0xFEC00000
#define LODGE_MMIO_APIC     0xFEE00000

#endif
