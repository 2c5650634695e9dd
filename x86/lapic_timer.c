/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The local APIC's timer (SDM 3A 10.5.4): one-shot, periodic, TSC-deadline.
 *
 * Time is the VM clock. The input clock is 1 GHz (LAPIC_TIMER_HZ): at divide-by-1 a count is a
 * nanosecond, so no conversion can lose anything, and the CPUID and KVM leaves that name a
 * frequency name this one. Nothing counts: the current count is computed from the time at which
 * counting began.
 *
 * Bad-inputs D4: a periodic timer interrupts at most every LAPIC_TIMER_MIN_PERIOD_NS. A shorter
 * period keeps counting at its own rate, but expiries in between are merged; so are those that the
 * host was too late for. One-shot and TSC-deadline timers need a guest's write for each interrupt
 * and are not limited.
 *
 * Locking: timer_lock (LOCK_RANK_APIC) guards all that is below `timer_lock` in struct lapic, and
 * the registers LVT_TIMER, INITIAL and DIVIDE against the timer thread. The own thread writes,
 * lapic_timer_fire on the timer thread reruns periodic timers. A timer that was re-armed while
 * fire waited for the lock is recognized by its deadline. Interrupts are posted with the lock
 * dropped.
 */
#include "x86/lapic_private.h"
#include "x86/msr.h"

static struct vm *vm_of(const struct lapic *l)
{
    return l->cpu->vcpu.vm;
}

/* Divide configuration (figure 10-10): bits 3, 1, 0 select 2, 4 .. 128, 1. */
static unsigned int timer_shift(const struct lapic *l)
{
    uint32_t r = lapic_reg(l, LAPIC_TIMER_DIVIDE);
    return ((r & 3) + (r >> 1 & 4) + 1) & 7;
}

/* Of one whole count, ns: at most 2^39. 0: the timer is off. */
static uint64_t timer_period(const struct lapic *l)
{
    return (uint64_t)lapic_reg(l, LAPIC_TIMER_INITIAL) << timer_shift(l);
}

/* From one interrupt to the next in periodic mode; period is not 0. */
static uint64_t timer_step(uint64_t period)
{
    if (period >= LAPIC_TIMER_MIN_PERIOD_NS)
        return period;
    return (LAPIC_TIMER_MIN_PERIOD_NS + period - 1) / period * period;
}

/* With timer_lock held. */
static void timer_arm(struct lapic *l, uint64_t deadline)
{
    l->timer_deadline = deadline;
    vm_timer_set(vm_of(l), &l->timer, deadline);
}

/* Counts that are left; with timer_lock held. */
static uint32_t timer_count(const struct lapic *l)
{
    uint32_t initial = lapic_reg(l, LAPIC_TIMER_INITIAL);
    if (initial == 0 || l->timer_deadline == VM_TIMER_NEVER)
        return 0;
    uint64_t counted = (vm_clock_ns(vm_of(l)) - l->timer_start) >> timer_shift(l);
    if (lapic_timer_mode(l) == LAPIC_PERIODIC)
        return initial - (uint32_t)(counted % initial);
    return counted < initial ? initial - (uint32_t)counted : 0;
}

/* Begins to count, with so many of the initial count already done. With timer_lock held. */
static void timer_start(struct lapic *l, uint32_t done)
{
    uint64_t period = timer_period(l);
    l->timer_start = vm_clock_ns(vm_of(l)) - ((uint64_t)done << timer_shift(l));
    if (lapic_timer_mode(l) == LAPIC_PERIODIC)
        period = timer_step(period);
    timer_arm(l, l->timer_start + period);
}

/* A periodic timer has expired: on to the first expiry after now. With timer_lock held. */
static void timer_advance(struct lapic *l, uint64_t now)
{
    uint64_t period = timer_period(l);
    l->timer_start += (now - l->timer_start) / period * period;
    timer_arm(l, l->timer_start + timer_step(period));
}

/* Runs on the timer thread, no lock held. */
static void lapic_timer_fire(void *owner)
{
    struct lapic *l = owner;
    lock_take(&l->timer_lock);
    uint64_t now = vm_clock_ns(vm_of(l));
    bool due = now >= l->timer_deadline; /* VM_TIMER_NEVER: switched off meanwhile */
    if (due) {
        l->tsc_deadline = 0;
        if (lapic_timer_mode(l) == LAPIC_PERIODIC)
            timer_advance(l, now);
        else
            l->timer_deadline = VM_TIMER_NEVER;
    }
    lock_release(&l->timer_lock);
    if (due)
        lapic_deliver_lvt(l, LAPIC_LVT_TIMER);
}

void lapic_timer_create(struct lapic *l)
{
    lock_init(&l->timer_lock, LOCK_RANK_APIC);
    vm_timer_init(&l->timer, lapic_timer_fire, l);
    l->timer_deadline = VM_TIMER_NEVER;
}

/* With timer_lock held. */
static void timer_disarm(struct lapic *l)
{
    l->tsc_deadline = 0;
    timer_arm(l, VM_TIMER_NEVER);
}

void lapic_timer_reset(struct lapic *l)
{
    lock_take(&l->timer_lock);
    timer_disarm(l);
    l->timer_start = 0;
    lapic_set_reg(l, LAPIC_LVT_TIMER, LAPIC_LVT_MASKED);
    lapic_set_reg(l, LAPIC_TIMER_INITIAL, 0);
    lapic_set_reg(l, LAPIC_TIMER_DIVIDE, 0);
    lock_release(&l->timer_lock);
}

void lapic_timer_load(struct lapic *l, uint64_t start, uint64_t deadline, uint64_t tsc_deadline)
{
    lock_take(&l->timer_lock);
    l->timer_start = start;
    l->tsc_deadline = tsc_deadline;
    timer_arm(l, deadline);
    lock_release(&l->timer_lock);
}

void lapic_timer_hand_over(struct lapic *l, uint32_t *initial, uint32_t *left)
{
    lock_take(&l->timer_lock);
    bool counts = l->timer_deadline != VM_TIMER_NEVER;
    *left = timer_count(l);
    *initial = counts ? lapic_reg(l, LAPIC_TIMER_INITIAL) : 0;
    if (*initial != 0 && *left == 0)
        *left = 1;
    lock_release(&l->timer_lock);
}

/* See x86/lapic_page.c. */
static bool may_be_due(const struct lapic *l)
{
    uint32_t lvt = lapic_reg(l, LAPIC_LVT_TIMER), vector = lvt & 0xFF;
    uint32_t irr = lapic_reg(l, LAPIC_IRR + vector / 32 * 16);
    return lapic_timer_mode(l) == LAPIC_ONE_SHOT && !(lvt & LAPIC_LVT_MASKED) &&
           !(irr >> vector % 32 & 1);
}

void lapic_timer_take_over(struct lapic *l, uint32_t left, uint64_t tsc_deadline)
{
    uint32_t initial = lapic_reg(l, LAPIC_TIMER_INITIAL);
    uint64_t now = vm_clock_ns(vm_of(l));
    lock_take(&l->timer_lock);
    l->timer_deadline = VM_TIMER_NEVER;
    l->tsc_deadline = 0;
    if (lapic_timer_mode(l) == LAPIC_TSC_DEADLINE && tsc_deadline != 0) {
        l->tsc_deadline = tsc_deadline;
        l->timer_deadline = x86_tsc_to_clock(l->cpu, tsc_deadline);
    } else if (lapic_timer_mode(l) < LAPIC_TSC_DEADLINE && left != 0 && left <= initial) {
        l->timer_start = now - ((uint64_t)(initial - left) << timer_shift(l));
        l->timer_deadline = now + ((uint64_t)left << timer_shift(l));
    } else if (left == 0 && initial != 0 && may_be_due(l)) {
        l->timer_start = now - timer_period(l);
        l->timer_deadline = now;
    }
    lock_release(&l->timer_lock);
}

/* Going to or from TSC-deadline mode disarms the timer (10.5.4.1). */
void lapic_timer_write_lvt(struct lapic *l, uint32_t value)
{
    lock_take(&l->timer_lock);
    enum lapic_timer_mode before = lapic_timer_mode(l);
    lapic_set_reg(l, LAPIC_LVT_TIMER, value);
    enum lapic_timer_mode after = lapic_timer_mode(l);
    if (before != after && (before >= LAPIC_TSC_DEADLINE || after >= LAPIC_TSC_DEADLINE)) {
        timer_disarm(l);
        lapic_set_reg(l, LAPIC_TIMER_INITIAL, 0);
    }
    lock_release(&l->timer_lock);
}

/* Ignored in TSC-deadline mode (10.5.4.1). */
void lapic_timer_write_initial(struct lapic *l, uint32_t value)
{
    if (lapic_timer_mode(l) >= LAPIC_TSC_DEADLINE)
        return;
    lock_take(&l->timer_lock);
    lapic_set_reg(l, LAPIC_TIMER_INITIAL, value);
    if (value == 0)
        timer_disarm(l);
    else
        timer_start(l, 0);
    lock_release(&l->timer_lock);
}

/* The count goes on from where it is, at the new rate. */
void lapic_timer_write_divide(struct lapic *l, uint32_t value)
{
    lock_take(&l->timer_lock);
    uint32_t left = timer_count(l);
    lapic_set_reg(l, LAPIC_TIMER_DIVIDE, value);
    if (left != 0)
        timer_start(l, lapic_reg(l, LAPIC_TIMER_INITIAL) - left);
    lock_release(&l->timer_lock);
}

uint32_t lapic_timer_read_current(struct lapic *l)
{
    lock_take(&l->timer_lock);
    uint32_t count = timer_count(l);
    lock_release(&l->timer_lock);
    return count;
}

uint64_t lapic_timer_read_deadline(struct lapic *l)
{
    lock_take(&l->timer_lock);
    uint64_t tsc = l->tsc_deadline;
    lock_release(&l->timer_lock);
    return tsc;
}

/* Ignored outside TSC-deadline mode. A deadline that has passed interrupts at once, without a
 * detour over the timer thread. */
void lapic_timer_write_deadline(struct lapic *l, uint64_t tsc)
{
    if (lapic_timer_mode(l) != LAPIC_TSC_DEADLINE)
        return;
    bool due = false;
    lock_take(&l->timer_lock);
    if (tsc == 0) {
        timer_disarm(l);
    } else {
        uint64_t deadline = x86_tsc_to_clock(l->cpu, tsc);
        due = deadline <= vm_clock_ns(vm_of(l));
        l->tsc_deadline = due ? 0 : tsc;
        timer_arm(l, due ? VM_TIMER_NEVER : deadline);
    }
    lock_release(&l->timer_lock);
    if (due)
        lapic_deliver_lvt(l, LAPIC_LVT_TIMER);
}

void lapic_tsc_changed(struct x86_cpu *cpu)
{
    struct lapic *l = cpu->lapic;
    uint64_t tsc = lapic_timer_read_deadline(l);
    if (tsc != 0)
        lapic_timer_write_deadline(l, tsc);
}
