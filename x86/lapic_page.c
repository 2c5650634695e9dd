/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The local APIC as those keep it who run it in our place (KVM; AVIC and APICv later): the first
 * KiB of the architectural page, and beside it APIC_BASE and the TSC deadline.
 *
 * A running count is a point in time in our form, so that it does not depend on when somebody
 * looks; in the page it is what is left to count. Each is made of the other here. A one-shot count
 * that has run out looks the same in the page whether its interrupt has been posted or, in KVM, is
 * still to be: so it comes from there as due, since one interrupt too many is better than one too
 * few, unless it waits in IRR; and goes there without its initial count.
 *
 * The vCPU is at rest, and its engine keeps the APIC (engine.h, keeps_apic): so no timer of ours is
 * to fire; loading a state arms it, lapic_hold_timer undoes that. Whoever gives the APIC back to
 * x86/lapic.c loads it as a saved state.
 */
#include "core/mem.h"
#include "x86/lapic_private.h"
#include "x86/msr.h"

static uint32_t word_of(const uint8_t *page, uint32_t offset)
{
    uint32_t v;
    memcpy(&v, page + offset, sizeof(v));
    return v;
}

static void put_word(uint8_t *page, uint32_t offset, uint32_t v)
{
    memcpy(page + offset, &v, sizeof(v));
}

void lapic_hold_timer(struct x86_cpu *cpu)
{
    vm_timer_cancel(cpu->vcpu.vm, &cpu->lapic->timer);
}

void lapic_get_page(const struct x86_cpu *cpu, uint8_t page[LAPIC_PAGE_SIZE])
{
    struct lapic *l = cpu->lapic;
    memset(page, 0, LAPIC_PAGE_SIZE);
    for (uint32_t offset = 0; offset < LAPIC_PAGE_SIZE; offset += 16)
        put_word(page, offset, lapic_reg(l, offset));
    uint32_t initial, left;
    lapic_timer_hand_over(l, &initial, &left);
    put_word(page, LAPIC_TIMER_INITIAL, initial);
    put_word(page, LAPIC_TIMER_CURRENT, left);
    put_word(page, LAPIC_ESR, lapic_reg(l, LAPIC_ESR) | atomic_load(&l->esr_pending));
}

uint64_t lapic_get_tsc_deadline(const struct x86_cpu *cpu)
{
    return lapic_timer_read_deadline(cpu->lapic);
}

void lapic_set_page(struct x86_cpu *cpu, const uint8_t page[LAPIC_PAGE_SIZE], uint64_t base,
                    uint64_t tsc_deadline)
{
    /* What is derived from the id, the mode or other registers is not taken. */
    static const uint16_t derived[] = {LAPIC_ID, LAPIC_VERSION, LAPIC_APR, LAPIC_PPR,
                                       LAPIC_TIMER_CURRENT};
    struct lapic *l = cpu->lapic;
    uint32_t words = 0;
    atomic_store(&l->base, base);
    lapic_set_identity(l);
    for (uint32_t offset = 0; offset < LAPIC_PAGE_SIZE; offset += 16) {
        bool is_derived = false;
        for (size_t i = 0; i < ARRAY_SIZE(derived); i++)
            is_derived |= derived[i] == offset;
        if (!is_derived)
            lapic_set_reg(l, offset, word_of(page, offset));
    }
    for (uint32_t n = 0; n < 8; n++)
        if (lapic_reg(l, LAPIC_IRR + n * 16) != 0)
            words |= 1u << n;
    atomic_store(&l->irr_words, words);
    atomic_store(&l->esr_pending, 0);
    lapic_update_ppr(l);
    lapic_timer_take_over(l, word_of(page, LAPIC_TIMER_CURRENT), tsc_deadline);
}

bool lapic_page_suppresses_eoi(const uint8_t page[LAPIC_PAGE_SIZE])
{
    return (word_of(page, LAPIC_SVR) & LAPIC_SVR_NO_EOI_BROADCAST) != 0;
}
