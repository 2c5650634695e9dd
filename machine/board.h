/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* struct pc: all parts of the machine in one place. Inside machine/ only; machine/pc.h is what the
 * homes see. */
#ifndef LODGE_MACHINE_BOARD_H
#define LODGE_MACHINE_BOARD_H

#include "device/acpi_pm.h"
#include "device/i8254.h"
#include "device/i8259.h"
#include "device/ioapic.h"
#include "device/pci_host.h"
#include "device/rtc.h"
#include "device/uart.h"
#include "machine/pc.h"
#include "x86/lapic.h"

struct pc {
    struct vm *vm;
    const struct engine *engine;
    const struct x86_level *level;
    const struct console_ops *console;
    void *console_owner;
    uint64_t memory; /* bytes of RAM */
    char append[CONFIG_APPEND];

    uint8_t generation[16]; /* the VM's identity, as its guest has it */
    bool engine_created;
    struct apic_bus apic_bus;
    struct i8259 pic;
    struct ioapic ioapic;
    struct i8254 pit;
    struct rtc rtc;
    struct uart com1;
    struct acpi_pm acpi;
    struct pci_host pci;
};

static inline struct pc *pc_of(const struct vm *vm)
{
    return vm->machine;
}

/* machine/exits.c: vm->handle_exit. */
int pc_handle_exit(struct vcpu *v, struct exit *e);

/* machine/pc_state.c: what identifies the machine, and its clock. object: struct pc. */
extern const struct state_ops pc_state_ops;

/* machine/firmware.c: what firmware does to a processor before anything else runs, to the board,
 * and to memory (ACPI tables). */
void firmware_init_cpu(struct x86_cpu *cpu);
int must_check firmware_init_board(struct vm *vm);

#endif
