/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The parts of the APIC bus that do not depend on who keeps the local APICs: decoding of
 * message-signalled interrupts, and the 8259's INTR wire.
 *
 * INTR is wired to the boot processor's LINT0 only, as on boards whose firmware sets up virtual
 * wire mode (MultiProcessor Specification 1.4, 3.6.2.2).
 */
#include "core/err.h"
#include "x86/lapic.h"

/* Address bits (SDM 3A 10.11.1) and data bits (10.11.2). The redirection hint says nothing that the
 * delivery mode does not: it is ignored, as is the data's level bit for edge-triggered messages. */
int msi_send(struct vm *vm, uint64_t address, uint32_t data)
{
    if (address >> 20 != 0xFEE)
        return ERR_RANGE;
    struct apic_message m = {
        .destination = (uint32_t)(address >> 12) & 0xFF,
        .logical = (address >> 2 & 1) != 0,
        .delivery = (uint8_t)(data >> 8 & 7),
        .vector = (uint8_t)data,
        .level = (data >> 15 & 1) != 0,
    };
    m.deassert = m.level && (data >> 14 & 1) == 0;
    return apic_send(vm, &m);
}

void apic_set_extint(struct vm *vm, bool level)
{
    /* The store comes before the request: who takes the request sees the level. */
    atomic_store(&vm->apic_bus->extint, level);
    if (level && vm->vcpu[0])
        vcpu_request(vm->vcpu[0], VCPU_REQ_INTR);
}
