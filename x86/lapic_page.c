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
 * Who runs it in our place may take from a guest what we would not: KVM keeps reserved bits of ICR
 * and LVT, the BSP flag as it was written, vectors below 16. Nothing of that means anything, and
 * none of it comes here: else a guest could bring itself into a state that no engine loads.
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

static void mask_reg(struct lapic *l, uint32_t offset, uint32_t bits)
{
    lapic_set_reg(l, offset, lapic_reg(l, offset) & bits);
}

/* What lapic_state.c's check wants of registers; their mode, in APIC_BASE, is set. */
static void make_reachable(struct lapic *l)
{
    static const uint16_t masked[] = {LAPIC_TPR, LAPIC_SVR, LAPIC_ICR, LAPIC_TIMER_DIVIDE};
    for (size_t i = 0; i < ARRAY_SIZE(masked); i++)
        mask_reg(l, masked[i], lapic_writable_bits(l, masked[i]));
    for (uint32_t lvt = LAPIC_LVT_TIMER; lvt <= LAPIC_LVT_ERROR; lvt += 16) {
        mask_reg(l, lvt, lapic_writable_bits(l, lvt));
        if (!(lapic_reg(l, LAPIC_SVR) & LAPIC_SVR_ENABLE))
            lapic_set_reg(l, lvt, lapic_reg(l, lvt) | LAPIC_LVT_MASKED);
    }
    for (uint32_t first = LAPIC_ISR; first <= LAPIC_IRR; first += LAPIC_TMR - LAPIC_ISR)
        mask_reg(l, first, ~((1u << LAPIC_FIRST_VECTOR) - 1));
    mask_reg(l, LAPIC_ESR, LAPIC_ERROR_BITS);
    lapic_set_reg(l, LAPIC_DFR, lapic_reg(l, LAPIC_DFR) | 0x0FFFFFFF);
    if (lapic_is_x2apic(l)) {
        lapic_set_reg(l, LAPIC_LDR, lapic_x2apic_ldr(l->cpu->vcpu.id));
    } else {
        mask_reg(l, LAPIC_LDR, 0xFF000000);
        mask_reg(l, LAPIC_ICR_HIGH, 0xFF000000);
    }
    if (lapic_timer_mode(l) >= LAPIC_TSC_DEADLINE)
        lapic_set_reg(l, LAPIC_TIMER_INITIAL, 0);
}

void lapic_set_page(struct x86_cpu *cpu, const uint8_t page[LAPIC_PAGE_SIZE], uint64_t base,
                    uint64_t tsc_deadline)
{
    /* What is derived from the id, the mode or other registers is not taken. */
    static const uint16_t derived[] = {LAPIC_ID, LAPIC_VERSION, LAPIC_APR, LAPIC_PPR,
                                       LAPIC_TIMER_CURRENT};
    struct lapic *l = cpu->lapic;
    uint32_t words = 0;
    base = (base & ~LAPIC_BASE_BSP) | (cpu->vcpu.id == 0 ? LAPIC_BASE_BSP : 0);
    atomic_store(&l->base, base);
    lapic_set_identity(l);
    for (uint32_t offset = 0; offset < LAPIC_PAGE_SIZE; offset += 16) {
        bool is_derived = false;
        for (size_t i = 0; i < ARRAY_SIZE(derived); i++)
            is_derived |= derived[i] == offset;
        if (!is_derived)
            lapic_set_reg(l, offset, word_of(page, offset));
    }
    make_reachable(l);
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

bool lapic_add_held(const struct x86_cpu *cpu, uint64_t held[4])
{
    const struct lapic *l = cpu->lapic;

    for (uint32_t n = 0; n < 8; n++) {
        uint32_t word = lapic_reg(l, LAPIC_ISR + n * 16) | lapic_reg(l, LAPIC_IRR + n * 16);

        held[n / 2] |= (uint64_t)word << n % 2 * 32;
    }
    return !(lapic_reg(l, LAPIC_SVR) & LAPIC_SVR_NO_EOI_BROADCAST);
}
