/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The local APIC's save / check / load. What is derived (PPR, ID and LDR in x2APIC mode, the
 * summary of IRR, the current count) is not in the stream; deadlines are, in VM clock time.
 *
 * Check holds a state to what the rest relies on: illegal vectors are never requested or in
 * service, reserved bits are never set, a software-disabled APIC has all LVT entries masked, the
 * timer is armed only in a way in which lapic_timer.c arms it (above all: never periodic with a
 * count of 0, which would divide by zero).
 */
#include "core/err.h"
#include "core/mem.h"
#include "x86/lapic_private.h"

enum { VECTOR_WORDS = 8, APIC_ICR_BITS = 0xCCFFF };

static const uint16_t vector_registers[] = {LAPIC_ISR, LAPIC_TMR, LAPIC_IRR};

/* Registers that are saved as they are. DFR and LDR are checked by hand. */
static const uint16_t plain_registers[] = {
    LAPIC_TPR,       LAPIC_LDR,       LAPIC_DFR,       LAPIC_SVR,           LAPIC_ESR,
    LAPIC_ICR,       LAPIC_ICR_HIGH,  LAPIC_LVT_TIMER, LAPIC_LVT_THERMAL,   LAPIC_LVT_PERF,
    LAPIC_LVT_LINT0, LAPIC_LVT_LINT1, LAPIC_LVT_ERROR, LAPIC_TIMER_INITIAL, LAPIC_TIMER_DIVIDE,
};

/* The stream's content. */
struct saved {
    uint64_t base;
    uint32_t vectors[ARRAY_SIZE(vector_registers)][VECTOR_WORDS];
    uint32_t plain[ARRAY_SIZE(plain_registers)];
    uint32_t esr_pending;
    bool extint_message;
    uint64_t timer_start, timer_deadline, tsc_deadline;
};

static struct lapic *lapic_of(const void *object)
{
    return ((const struct x86_cpu *)object)->lapic;
}

/* A register in the scratch copy, by its offset in the page. */
static uint32_t plain_of(const struct saved *s, uint32_t offset)
{
    for (size_t i = 0; i < ARRAY_SIZE(plain_registers); i++)
        if (plain_registers[i] == offset)
            return s->plain[i];
    return 0;
}

static void put(const struct saved *s, struct state_writer *w)
{
    state_put_u64(w, s->base);
    for (size_t i = 0; i < ARRAY_SIZE(vector_registers); i++)
        for (size_t j = 0; j < VECTOR_WORDS; j++)
            state_put_u32(w, s->vectors[i][j]);
    for (size_t i = 0; i < ARRAY_SIZE(plain_registers); i++)
        state_put_u32(w, s->plain[i]);
    state_put_u32(w, s->esr_pending);
    state_put_bool(w, s->extint_message);
    state_put_u64(w, s->timer_start);
    state_put_u64(w, s->timer_deadline);
    state_put_u64(w, s->tsc_deadline);
}

static void get(struct saved *s, struct state_reader *r)
{
    s->base = state_get_u64(r);
    for (size_t i = 0; i < ARRAY_SIZE(vector_registers); i++)
        for (size_t j = 0; j < VECTOR_WORDS; j++)
            s->vectors[i][j] = state_get_u32(r);
    for (size_t i = 0; i < ARRAY_SIZE(plain_registers); i++)
        s->plain[i] = state_get_u32(r);
    s->esr_pending = state_get_u32(r);
    s->extint_message = state_get_bool(r);
    s->timer_start = state_get_u64(r);
    s->timer_deadline = state_get_u64(r);
    s->tsc_deadline = state_get_u64(r);
}

static void lapic_save(const void *object, struct state_writer *w)
{
    struct lapic *l = lapic_of(object);
    struct saved s = {.base = lapic_get_base(l)};
    for (size_t i = 0; i < ARRAY_SIZE(vector_registers); i++)
        for (uint32_t j = 0; j < VECTOR_WORDS; j++)
            s.vectors[i][j] = lapic_reg(l, vector_registers[i] + j * 16);
    for (size_t i = 0; i < ARRAY_SIZE(plain_registers); i++)
        s.plain[i] = lapic_reg(l, plain_registers[i]);
    s.esr_pending = atomic_load(&l->esr_pending);
    s.extint_message = atomic_load(&l->extint_message);
    lock_take(&l->timer_lock);
    s.timer_start = l->timer_start;
    s.timer_deadline = l->timer_deadline;
    s.tsc_deadline = l->tsc_deadline;
    lock_release(&l->timer_lock);
    put(&s, w);
}

/* LDR and ICR have other bits in x2APIC mode. */
static bool identity_is_valid(const struct lapic *l, const struct saved *s)
{
    bool x2apic = (s->base & LAPIC_BASE_X2APIC) != 0;
    uint32_t ldr = plain_of(s, LAPIC_LDR);
    if (x2apic)
        return ldr == lapic_x2apic_ldr(l->cpu->vcpu.id);
    /* There is no way from x2APIC mode back to here but through reset: nothing is left of it. */
    return (ldr & 0xFFFFFF) == 0 && (plain_of(s, LAPIC_ICR_HIGH) & 0xFFFFFF) == 0;
}

static bool registers_are_valid(const struct lapic *l, const struct saved *s)
{
    static const uint16_t masked[] = {
        LAPIC_TPR,       LAPIC_SVR,       LAPIC_LVT_TIMER, LAPIC_LVT_THERMAL,  LAPIC_LVT_PERF,
        LAPIC_LVT_LINT0, LAPIC_LVT_LINT1, LAPIC_LVT_ERROR, LAPIC_TIMER_DIVIDE,
    };
    for (size_t i = 0; i < ARRAY_SIZE(masked); i++)
        if (plain_of(s, masked[i]) & ~lapic_writable_bits(l, masked[i]))
            return false;
    if ((plain_of(s, LAPIC_SVR) & LAPIC_SVR_ENABLE) == 0)
        for (uint32_t lvt = LAPIC_LVT_TIMER; lvt <= LAPIC_LVT_ERROR; lvt += 16)
            if ((plain_of(s, lvt) & LAPIC_LVT_MASKED) == 0)
                return false;
    return (plain_of(s, LAPIC_DFR) & 0x0FFFFFFF) == 0x0FFFFFFF &&
           (plain_of(s, LAPIC_ICR) & ~(uint32_t)APIC_ICR_BITS) == 0 &&
           ((plain_of(s, LAPIC_ESR) | s->esr_pending) & ~(uint32_t)LAPIC_ERROR_BITS) == 0;
}

static bool vectors_are_valid(const struct saved *s)
{
    for (size_t i = 0; i < ARRAY_SIZE(vector_registers); i++)
        if ((s->vectors[i][0] & ((1u << LAPIC_FIRST_VECTOR) - 1)) != 0)
            return false;
    return true;
}

static bool timer_is_valid(const struct saved *s)
{
    uint32_t initial = plain_of(s, LAPIC_TIMER_INITIAL);
    bool armed = s->timer_deadline != VM_TIMER_NEVER;
    uint32_t mode = plain_of(s, LAPIC_LVT_TIMER) >> LAPIC_TIMER_MODE_SHIFT & 3;
    if (mode == LAPIC_TSC_DEADLINE)
        return initial == 0 && (!armed || s->tsc_deadline != 0);
    if (s->tsc_deadline != 0)
        return false;
    if (mode == LAPIC_TIMER_RESERVED)
        return initial == 0 && !armed;
    return !armed || initial != 0;
}

static int lapic_check(const void *object, struct state_reader *r)
{
    const struct lapic *l = lapic_of(object);
    struct saved s;
    get(&s, r);
    int err = state_get_end(r);
    if (err != OK)
        return err;
    bool bsp = (s.base & LAPIC_BASE_BSP) != 0;
    if (!lapic_base_is_valid(l, s.base) || bsp != (l->cpu->vcpu.id == 0) ||
        !identity_is_valid(l, &s) || !registers_are_valid(l, &s) || !vectors_are_valid(&s) ||
        !timer_is_valid(&s))
        return ERR_CORRUPT;
    return OK;
}

static int lapic_load(void *object, struct state_reader *r)
{
    struct lapic *l = lapic_of(object);
    struct saved s;
    get(&s, r);
    lapic_reset(l->cpu, false);
    atomic_store(&l->base, s.base);
    lapic_set_identity(l);
    uint32_t words = 0;
    for (size_t i = 0; i < ARRAY_SIZE(vector_registers); i++)
        for (uint32_t j = 0; j < VECTOR_WORDS; j++)
            lapic_set_reg(l, vector_registers[i] + j * 16, s.vectors[i][j]);
    for (uint32_t j = 0; j < VECTOR_WORDS; j++)
        if (lapic_reg(l, LAPIC_IRR + j * 16) != 0)
            words |= 1u << j;
    for (size_t i = 0; i < ARRAY_SIZE(plain_registers); i++)
        lapic_set_reg(l, plain_registers[i], s.plain[i]);
    atomic_store(&l->irr_words, words);
    atomic_store(&l->esr_pending, s.esr_pending);
    atomic_store(&l->extint_message, s.extint_message);
    lapic_update_ppr(l);
    lapic_timer_load(l, s.timer_start, s.timer_deadline, s.tsc_deadline);
    /* Requests are not saved: whatever is pending is found again by looking. */
    vcpu_request(&l->cpu->vcpu, VCPU_REQ_INTR);
    return OK;
}

const struct state_ops lapic_state_ops = {
    .name = "lapic",
    .version = 1,
    .save = lapic_save,
    .check = lapic_check,
    .load = lapic_load,
};
