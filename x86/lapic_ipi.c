/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Sending and routing: the interrupt command register, and the software model of the APIC bus that
 * carries messages between local APICs, I/O APIC and MSI (SDM 3A 10.6, 10.12.9, 10.12.10).
 *
 * Everything here may run on any thread and with locks held (the board's, for the I/O APIC): it
 * takes none, reads its targets' registers as they are at that moment, and ends in atomic posts.
 * A guest that changes a target's mode or destination registers while messages are under way gets
 * one or the other, as on hardware.
 *
 * Destinations. Physical 0xFF and 0xFFFFFFFF are broadcasts whoever sends them: there is no
 * processor 255 (VM_MAX_VCPUS), so an x2APIC sender that names it loses nothing. Lowest-priority
 * messages go to the matching processor that a hash of the vector picks, as chipsets with vector
 * hashing do: no state, no arbitration, and an interrupt stays with one processor's caches.
 */
#include "core/err.h"
#include "x86/lapic_private.h"

enum {
    ICR_LOGICAL = 1 << 11,
    ICR_ASSERT = 1 << 14,
    ICR_LEVEL = 1 << 15,
    ICR_SHORTHAND_SHIFT = 18,
    SHORTHAND_NONE = 0,
    SHORTHAND_SELF = 1,
    SHORTHAND_ALL = 2,
    SHORTHAND_OTHERS = 3,
    BROADCAST_8 = 0xFF,
};
#define BROADCAST_32 0xFFFFFFFFu

static struct lapic *lapic_of(const struct vm *vm, uint32_t id)
{
    struct vcpu *v = vm->vcpu[id];
    return v ? x86_cpu_of(v)->lapic : NULL;
}

/* x2APIC logical destinations are cluster:members (10.12.10.2). */
static bool matches_logical_x2apic(const struct lapic *l, uint32_t destination)
{
    uint32_t ldr = lapic_x2apic_ldr(l->cpu->vcpu.id);
    return destination >> 16 == ldr >> 16 && (destination & ldr & 0xFFFF) != 0;
}

/* 10.6.2.2: flat model, or clusters of four in bits 7:4 with members in bits 3:0. */
static bool matches_logical_xapic(const struct lapic *l, uint32_t destination)
{
    uint32_t ldr = lapic_reg(l, LAPIC_LDR) >> 24;
    if (destination > 0xFF)
        return false;
    if (destination == BROADCAST_8)
        return true;
    if (lapic_reg(l, LAPIC_DFR) >> 28 == LAPIC_DFR_FLAT)
        return (destination & ldr) != 0;
    return destination >> 4 == ldr >> 4 && (destination & ldr & 0xF) != 0;
}

static bool matches(const struct lapic *l, const struct apic_message *m)
{
    if (!lapic_is_enabled(l))
        return false;
    if (m->destination == BROADCAST_32)
        return true;
    if (!m->logical)
        return m->destination == l->cpu->vcpu.id || m->destination == BROADCAST_8;
    return lapic_is_x2apic(l) ? matches_logical_x2apic(l, m->destination)
                              : matches_logical_xapic(l, m->destination);
}

/* Not __builtin_popcount, which becomes a call into libgcc where POPCNT may not be assumed. */
static unsigned int count_bits(uint32_t v)
{
    unsigned int n = 0;
    for (; v != 0; v &= v - 1)
        n++;
    return n;
}

/* --- what a processor does with a message, by delivery mode --- */

static void deliver_fixed(struct lapic *l, const struct apic_message *m)
{
    lapic_accept(l, m->vector, m->level);
}

static void deliver_nothing(struct lapic *l, const struct apic_message *m)
{
    (void)l; /* SMI: there is no system management mode. 3: remote read is not supported. */
    (void)m;
}

static void deliver_nmi(struct lapic *l, const struct apic_message *m)
{
    (void)m;
    vcpu_request(&l->cpu->vcpu, VCPU_REQ_NMI);
}

/* INIT level de-assert only synchronized arbitration ids, long ago: ignored (10.6.1). */
static void deliver_init(struct lapic *l, const struct apic_message *m)
{
    if (!m->deassert)
        vcpu_request(&l->cpu->vcpu, VCPU_REQ_INIT);
}

static void deliver_sipi(struct lapic *l, const struct apic_message *m)
{
    atomic_store(&l->cpu->vcpu.sipi_vector, m->vector);
    vcpu_request(&l->cpu->vcpu, VCPU_REQ_SIPI);
}

static void deliver_extint(struct lapic *l, const struct apic_message *m)
{
    (void)m;
    atomic_store(&l->extint_message, true);
    vcpu_request(&l->cpu->vcpu, VCPU_REQ_INTR);
}

static void deliver(struct lapic *l, const struct apic_message *m)
{
    static void (*const by_mode[8])(struct lapic *, const struct apic_message *) = {
        [APIC_FIXED] = deliver_fixed, [APIC_LOWEST] = deliver_fixed,  [APIC_SMI] = deliver_nothing,
        [3] = deliver_nothing,        [APIC_NMI] = deliver_nmi,       [APIC_INIT] = deliver_init,
        [APIC_SIPI] = deliver_sipi,   [APIC_EXTINT] = deliver_extint,
    };
    by_mode[m->delivery & 7](l, m);
}

_Static_assert(VM_MAX_VCPUS <= 32, "a set of processors is a word");

/* Delivers to a set of processors (bit n: id n), or to one of it if lowest-priority. */
static int deliver_to(struct vm *vm, uint32_t targets, const struct apic_message *m)
{
    if (m->delivery == APIC_LOWEST) {
        for (uint32_t set = targets; set != 0; set &= set - 1) {
            uint32_t id = (uint32_t)__builtin_ctz(set);
            if (!lapic_is_software_enabled(lapic_of(vm, id)))
                targets &= ~(1u << id);
        }
        uint32_t skip = targets ? m->vector % count_bits(targets) : 0;
        while (skip-- > 0)
            targets &= targets - 1;
        targets &= 0u - targets;
    }
    if (targets == 0)
        return ERR_NOT_FOUND;
    for (; targets != 0; targets &= targets - 1)
        deliver(lapic_of(vm, (uint32_t)__builtin_ctz(targets)), m);
    return OK;
}

int lapic_bus_send(struct vm *vm, const struct apic_message *m)
{
    uint32_t targets = 0;
    for (uint32_t id = 0; id < vm->vcpu_count && id < VM_MAX_VCPUS; id++) {
        const struct lapic *l = lapic_of(vm, id);
        if (l && matches(l, m))
            targets |= 1u << id;
    }
    return deliver_to(vm, targets, m);
}

/* INIT and SIPI are not valid with the shorthands that include the sender (table 10-3). */
static void send_shorthand(struct lapic *l, const struct apic_message *m, uint32_t shorthand)
{
    struct vm *vm = l->cpu->vcpu.vm;
    bool resets = m->delivery == APIC_INIT || m->delivery == APIC_SIPI;
    uint32_t targets = 0;
    for (uint32_t id = 0; id < vm->vcpu_count && id < VM_MAX_VCPUS; id++) {
        const struct lapic *target = lapic_of(vm, id);
        bool wanted =
            target == l ? shorthand != SHORTHAND_OTHERS && !resets : shorthand != SHORTHAND_SELF;
        if (target && wanted && lapic_is_enabled(target))
            targets |= 1u << id;
    }
    (void)deliver_to(vm, targets, m);
}

void lapic_send_ipi(struct lapic *l, uint32_t icr, uint32_t destination)
{
    struct apic_message m = {
        .destination = destination,
        .logical = (icr & ICR_LOGICAL) != 0,
        .delivery = (uint8_t)(icr >> 8 & 7),
        .vector = (uint8_t)icr,
    };
    /* Level-triggered IPIs are sent as edges (10.6.1, "Trigger Mode"), but for INIT de-assert. */
    m.deassert = (icr & (ICR_LEVEL | ICR_ASSERT)) == ICR_LEVEL;
    bool has_vector = m.delivery == APIC_FIXED || m.delivery == APIC_LOWEST;
    if (has_vector && m.vector < LAPIC_FIRST_VECTOR) {
        lapic_error(l, LAPIC_ERROR_SEND_VECTOR);
        return;
    }
    uint32_t shorthand = icr >> ICR_SHORTHAND_SHIFT & 3;
    if (shorthand != SHORTHAND_NONE)
        send_shorthand(l, &m, shorthand);
    else
        (void)lapic_bus_send(l->cpu->vcpu.vm, &m); /* nobody there: nobody is told */
}
