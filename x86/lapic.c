/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The local APIC: acceptance and taking of interrupts, modes, reset (SDM 3A, chapter 10). Registers
 * as guests see them are in lapic_regs.c.
 *
 * Acceptance, and its memory ordering. Any thread may post a vector (lapic_accept): it sets or
 * clears the vector's TMR bit, then sets its IRR bit, then the bit of that word in irr_words, then
 * VCPU_REQ_INTR, all with sequentially consistent atomics, in that order. The own thread reads in
 * the other order (request, irr_words, IRR, and TMR only at EOI), so it never sees an IRR bit
 * without the TMR bit that came with it, and never clears a request whose IRR bit it could not
 * see. Only the own thread clears IRR bits and touches ISR, TPR and PPR, so taking an interrupt and
 * EOI need no lock against posts: a vector that is posted again while it is in service simply has
 * both bits set. TMR of a vector that is used for level- and edge-triggered interrupts at the same
 * time follows the newest post; a guest that shares one so may lose the I/O APIC's EOI, as it may
 * on hardware.
 *
 * irr_words summarizes IRR so that "nothing pending" costs one load: a bit may be set without
 * reason, but is never clear while its word holds a vector that has been posted to the end. Whoever
 * finds its word empty clears it and looks at the word once more (lapic_highest_irr).
 *
 * Errors do not recurse (XSA-462): lapic_error posts the error vector through accept_legal, and an
 * illegal vector in the error LVT only adds its own ESR bit.
 *
 * EOI broadcasts can be suppressed (10.8.5): KVM's local APIC says so in its version register where
 * it has no I/O APIC beside it, and cannot be told not to; so all engines offer it.
 *
 * Not done: CMCI (no machine checks), focus processors, arbitration ids, remote read, SMI.
 */
#include "core/err.h"
#include "lodge/ports.h"
#include "x86/lapic_private.h"
#include "x86/level.h"

enum {
    /* integrated; number of LVT entries less one; EOI broadcasts can be suppressed */
    VERSION = 0x14 | (LAPIC_LVT_COUNT - 1) << 16 | 1 << 24,
    SVR_RESET = 0xFF,
    LVT_DELIVERY_SHIFT = 8,
    LAPIC_PAGE_COUNT = (sizeof(struct lapic) + PAGE_SIZE - 1) / PAGE_SIZE,
};

static bool is_boot_processor(const struct lapic *l)
{
    return l->cpu->vcpu.id == 0;
}

/* --- ISR and IRR ------------------------------------------------------------------------------ */

static uint32_t word_offset(uint32_t base, uint8_t vector)
{
    return base + (uint32_t)(vector / 32) * 16;
}

static uint32_t word_bit(uint8_t vector)
{
    return 1u << (vector % 32);
}

static void set_bit(struct lapic *l, uint32_t base, uint8_t vector)
{
    atomic_fetch_or(&l->page[word_offset(base, vector) / 4], word_bit(vector));
}

static void clear_bit(struct lapic *l, uint32_t base, uint8_t vector)
{
    atomic_fetch_and(&l->page[word_offset(base, vector) / 4], ~word_bit(vector));
}

static bool test_bit(const struct lapic *l, uint32_t base, uint8_t vector)
{
    return (lapic_reg(l, word_offset(base, vector)) & word_bit(vector)) != 0;
}

static int highest_bit(uint32_t word)
{
    return 31 - __builtin_clz(word);
}

/* Highest vector in service, or -1. Own thread. */
int lapic_highest_isr(const struct lapic *l)
{
    for (int i = 7; i >= 0; i--) {
        uint32_t word = lapic_reg(l, LAPIC_ISR + (uint32_t)i * 16);
        if (word != 0)
            return i * 32 + highest_bit(word);
    }
    return -1;
}

/* Highest vector requested, or -1. Own thread. Ends: each round returns or clears a bit, which a
 * post may set again, but then the next round returns. */
int lapic_highest_irr(struct lapic *l)
{
    for (;;) {
        uint32_t words = atomic_load(&l->irr_words);
        if (likely(words == 0))
            return -1;
        int i = highest_bit(words);
        _Atomic uint32_t *word = &l->page[(LAPIC_IRR + (uint32_t)i * 16) / 4];
        uint32_t bits = atomic_load(word);
        if (bits != 0)
            return i * 32 + highest_bit(bits);
        atomic_fetch_and(&l->irr_words, ~(1u << i));
        if (atomic_load(word) != 0)
            atomic_fetch_or(&l->irr_words, 1u << i);
    }
}

/* PPR (10.8.3.1). */
void lapic_update_ppr(struct lapic *l)
{
    uint32_t tpr = lapic_reg(l, LAPIC_TPR);
    int isr = lapic_highest_isr(l);
    uint32_t in_service = isr < 0 ? 0 : (uint32_t)isr & 0xF0;
    lapic_set_reg(l, LAPIC_PPR, (tpr & 0xF0) >= in_service ? tpr : in_service);
}

/* The highest request if it is above the processor's priority, else -1. */
static int deliverable(struct lapic *l)
{
    int vector = lapic_highest_irr(l);
    if (vector < 0 || !lapic_is_enabled(l))
        return -1;
    return ((uint32_t)vector & 0xF0) > (lapic_reg(l, LAPIC_PPR) & 0xF0) ? vector : -1;
}

/* PPR may have fallen: have the run loop look. */
void lapic_priority_changed(struct lapic *l)
{
    lapic_update_ppr(l);
    if (deliverable(l) >= 0)
        vcpu_request(&l->cpu->vcpu, VCPU_REQ_INTR);
}

/* --- acceptance ------------------------------------------------------------------------------- */

/* Order: see above. */
static void accept_legal(struct lapic *l, uint8_t vector, bool level)
{
    if (!lapic_is_software_enabled(l))
        return; /* 10.4.7.2 */
    if (test_bit(l, LAPIC_TMR, vector) != level) {
        if (level)
            set_bit(l, LAPIC_TMR, vector);
        else
            clear_bit(l, LAPIC_TMR, vector);
    }
    set_bit(l, LAPIC_IRR, vector);
    atomic_fetch_or(&l->irr_words, 1u << (vector / 32));
    vcpu_request(&l->cpu->vcpu, VCPU_REQ_INTR);
}

/* One interrupt per write of ESR, which re-arms it (10.5.3). */
void lapic_error(struct lapic *l, uint32_t bit)
{
    if (atomic_fetch_or(&l->esr_pending, bit) != 0)
        return;
    uint32_t lvt = lapic_reg(l, LAPIC_LVT_ERROR);
    if (lvt & LAPIC_LVT_MASKED)
        return;
    uint8_t vector = (uint8_t)lvt;
    if (vector < LAPIC_FIRST_VECTOR)
        atomic_fetch_or(&l->esr_pending, LAPIC_ERROR_RECEIVE_VECTOR);
    else
        accept_legal(l, vector, false);
}

void lapic_accept(struct lapic *l, uint8_t vector, bool level)
{
    if (vector < LAPIC_FIRST_VECTOR)
        lapic_error(l, LAPIC_ERROR_RECEIVE_VECTOR);
    else
        accept_legal(l, vector, level);
}

void lapic_deliver_lvt(struct lapic *l, uint32_t lvt_offset)
{
    uint32_t lvt = lapic_reg(l, lvt_offset);
    if (lvt & LAPIC_LVT_MASKED)
        return;
    /* Timer and error entries have no delivery mode: these bits are 0 there, fixed. */
    switch (lvt >> LVT_DELIVERY_SHIFT & 7) {
    case APIC_FIXED:
        lapic_accept(l, (uint8_t)lvt, false);
        break;
    case APIC_NMI:
        vcpu_request(&l->cpu->vcpu, VCPU_REQ_NMI);
        break;
    case APIC_INIT:
        vcpu_request(&l->cpu->vcpu, VCPU_REQ_INIT);
        break;
    case APIC_EXTINT:
        atomic_store(&l->extint_message, true);
        vcpu_request(&l->cpu->vcpu, VCPU_REQ_INTR);
        break;
    default: /* SMI and reserved */
        break;
    }
}

void apic_pulse_lint1(struct vm *vm)
{
    for (uint32_t id = 0; id < vm->vcpu_count; id++)
        if (vm->vcpu[id])
            lapic_deliver_lvt(x86_cpu_of(vm->vcpu[id])->lapic, LAPIC_LVT_LINT1);
}

/* Does the 8259's INTR reach this processor, and is it asserted? With the APIC off by APIC_BASE,
 * LINT0 is the plain INTR pin (10.4.3). */
bool lapic_has_extint(const struct lapic *l)
{
    if (atomic_load_explicit(&l->extint_message, memory_order_acquire))
        return true;
    const struct apic_bus *bus = l->cpu->vcpu.vm->apic_bus;
    if (!is_boot_processor(l) || !bus || !atomic_load_explicit(&bus->extint, memory_order_acquire))
        return false;
    if (!lapic_is_enabled(l))
        return true;
    uint32_t lvt = lapic_reg(l, LAPIC_LVT_LINT0);
    return (lvt & LAPIC_LVT_MASKED) == 0 && (lvt >> LVT_DELIVERY_SHIFT & 7) == APIC_EXTINT;
}

bool lapic_has_interrupt(struct x86_cpu *cpu)
{
    struct lapic *l = cpu->lapic;
    return lapic_has_extint(l) || deliverable(l) >= 0;
}

/* ExtINT comes first: it has no priority in the APIC's sense. */
static int take_extint(struct lapic *l)
{
    struct apic_bus *bus = l->cpu->vcpu.vm->apic_bus;
    atomic_store(&l->extint_message, false);
    return bus && bus->ack_extint ? bus->ack_extint(bus->pic) : -1;
}

int lapic_take_interrupt(struct x86_cpu *cpu)
{
    struct lapic *l = cpu->lapic;
    if (lapic_has_extint(l)) {
        int vector = take_extint(l);
        if (vector >= 0)
            return vector;
    }
    int vector = deliverable(l);
    if (vector < 0)
        return -1;
    clear_bit(l, LAPIC_IRR, (uint8_t)vector);
    set_bit(l, LAPIC_ISR, (uint8_t)vector);
    lapic_update_ppr(l);
    return vector;
}

/* Ends the highest interrupt in service (10.8.5). The I/O APIC is told last and with no lock held:
 * it may post the next one at once. */
void lapic_eoi(struct lapic *l)
{
    int vector = lapic_highest_isr(l);
    if (vector < 0)
        return;
    bool level = test_bit(l, LAPIC_TMR, (uint8_t)vector);
    clear_bit(l, LAPIC_ISR, (uint8_t)vector);
    lapic_priority_changed(l);
    struct apic_bus *bus = l->cpu->vcpu.vm->apic_bus;
    if (level && !(lapic_reg(l, LAPIC_SVR) & LAPIC_SVR_NO_EOI_BROADCAST) && bus && bus->eoi)
        bus->eoi(bus->io_apic, (uint8_t)vector);
}

/* --- modes and reset ----------------------------------------------------------------------------
 */

/* What reset leaves in the registers (10.4.7.1), the timer's and IDs apart. table */
static const struct {
    uint16_t offset;
    uint32_t value;
} reset_values[] = {
    {LAPIC_VERSION, VERSION},
    {LAPIC_DFR, 0xFFFFFFFF},
    {LAPIC_SVR, SVR_RESET},
    {LAPIC_LVT_THERMAL, LAPIC_LVT_MASKED},
    {LAPIC_LVT_PERF, LAPIC_LVT_MASKED},
    {LAPIC_LVT_LINT0, LAPIC_LVT_MASKED},
    {LAPIC_LVT_LINT1, LAPIC_LVT_MASKED},
    {LAPIC_LVT_ERROR, LAPIC_LVT_MASKED},
};

void lapic_set_identity(struct lapic *l)
{
    uint32_t id = l->cpu->vcpu.id;
    bool x2apic = lapic_is_x2apic(l);
    lapic_set_reg(l, LAPIC_ID, x2apic ? id : id << 24);
    lapic_set_reg(l, LAPIC_LDR, x2apic ? lapic_x2apic_ldr(id) : 0);
}

static void reset_registers(struct lapic *l)
{
    lapic_timer_reset(l);
    for (uint32_t offset = 0; offset < LAPIC_REGISTERS * 16; offset += 16)
        if (offset != LAPIC_LVT_TIMER)
            lapic_set_reg(l, offset, 0);
    for (size_t i = 0; i < ARRAY_SIZE(reset_values); i++)
        lapic_set_reg(l, reset_values[i].offset, reset_values[i].value);
    lapic_set_identity(l);
    atomic_store(&l->irr_words, 0);
    atomic_store(&l->esr_pending, 0);
    atomic_store(&l->extint_message, false);
}

bool lapic_base_is_valid(const struct lapic *l, uint64_t base)
{
    const struct x86_level *level = l->cpu->level;
    uint64_t allowed = LAPIC_BASE_BSP | LAPIC_BASE_ENABLE |
                       (level->x2apic ? LAPIC_BASE_X2APIC : 0) |
                       (((uint64_t)1 << level->physical_bits) - PAGE_SIZE);
    if (base & ~allowed)
        return false;
    return (base & LAPIC_BASE_ENABLE) != 0 || (base & LAPIC_BASE_X2APIC) == 0;
}

/* The ways between disabled, xAPIC and x2APIC (figure 10-27): into x2APIC only from xAPIC, out of
 * it only to disabled. The BSP flag is not the guest's to change. */
int lapic_write_base(struct lapic *l, uint64_t value)
{
    uint64_t old = lapic_get_base(l);
    bool was_x2apic = (old & LAPIC_BASE_X2APIC) != 0, x2apic = (value & LAPIC_BASE_X2APIC) != 0;
    bool was_on = (old & LAPIC_BASE_ENABLE) != 0, on = (value & LAPIC_BASE_ENABLE) != 0;
    if (!lapic_base_is_valid(l, value) || (x2apic && !was_on) || (was_x2apic && on && !x2apic))
        return ERR_INVALID;
    value = (value & ~LAPIC_BASE_BSP) | (old & LAPIC_BASE_BSP);
    atomic_store(&l->base, value);
    if (was_on != on)
        reset_registers(l);
    else if (was_x2apic != x2apic)
        lapic_set_identity(l);
    /* LINT0 is INTR itself now, or not any more. */
    if (lapic_has_extint(l))
        vcpu_request(&l->cpu->vcpu, VCPU_REQ_INTR);
    return OK;
}

/* --- life --------------------------------------------------------------------------------------
 */

int lapic_create(struct x86_cpu *cpu)
{
    struct lapic *l = seam_pages_alloc(LAPIC_PAGE_COUNT);
    if (!l)
        return ERR_NO_MEMORY;
    l->cpu = cpu;
    cpu->lapic = l;
    lapic_timer_create(l);
    lapic_reset(cpu, false);
    return OK;
}

void lapic_destroy(struct x86_cpu *cpu)
{
    if (!cpu->lapic)
        return;
    vm_timer_cancel(cpu->vcpu.vm, &cpu->lapic->timer);
    seam_pages_free(cpu->lapic, LAPIC_PAGE_COUNT);
    cpu->lapic = NULL;
}

/* INIT keeps APIC_BASE, and so the mode (10.4.7.3, 10.12.5.1). */
void lapic_reset(struct x86_cpu *cpu, bool init)
{
    struct lapic *l = cpu->lapic;
    if (!init) {
        uint64_t bsp = is_boot_processor(l) ? LAPIC_BASE_BSP : 0;
        atomic_store(&l->base, LODGE_MMIO_APIC | LAPIC_BASE_ENABLE | bsp);
    }
    reset_registers(l);
}

void lapic_set_virtual_wire(struct x86_cpu *cpu)
{
    struct lapic *l = cpu->lapic;
    lapic_set_reg(l, LAPIC_SVR, SVR_RESET | LAPIC_SVR_ENABLE);
    lapic_set_reg(l, LAPIC_LVT_LINT0, APIC_EXTINT << LVT_DELIVERY_SHIFT);
    lapic_set_reg(l, LAPIC_LVT_LINT1, APIC_NMI << LVT_DELIVERY_SHIFT);
}

uint8_t lapic_id(const struct x86_cpu *cpu)
{
    return (uint8_t)cpu->vcpu.id;
}

uint64_t lapic_base_msr(const struct x86_cpu *cpu)
{
    return lapic_get_base(cpu->lapic);
}

uint8_t lapic_get_cr8(const struct x86_cpu *cpu)
{
    return (uint8_t)(lapic_reg(cpu->lapic, LAPIC_TPR) >> 4 & 0xF);
}

void lapic_set_cr8(struct x86_cpu *cpu, uint8_t cr8)
{
    lapic_set_reg(cpu->lapic, LAPIC_TPR, (uint32_t)(cr8 & 0xF) << 4);
    lapic_priority_changed(cpu->lapic);
}
