/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The local APIC's registers (SDM 3A, tables 10-1 and 10-6): a table by offset, which says who may
 * read and write them in which mode, which bits exist, and functions where there is more to it than
 * a word in the page. xAPIC (MMIO) and x2APIC (MSRs) are two ways into the same table; they differ
 * in what they refuse (silence against #GP) and in ICR, which is one 64-bit register in x2APIC
 * mode.
 *
 * All of this runs on the vCPU's own thread. Offsets and MSR indices are the guest's: each is
 * checked once, in is_mmio_register and x2apic_offset, before it indexes anything.
 */
#include "core/err.h"
#include "x86/lapic_private.h"
#include "x86/level.h"

enum { SVR_WRITABLE = 0x3FF | LAPIC_SVR_NO_EOI_BROADCAST };

/* --- registers with effects ------------------------------------------------------------------- */

/* Arbitration priority (10.6.2.4). */
static uint32_t read_apr(struct lapic *l)
{
    uint32_t tpr = lapic_reg(l, LAPIC_TPR);
    int request = lapic_highest_irr(l), service = lapic_highest_isr(l);
    uint32_t irr = request < 0 ? 0 : (uint32_t)request & 0xF0;
    uint32_t isr = service < 0 ? 0 : (uint32_t)service & 0xF0;
    if ((tpr & 0xF0) >= irr && (tpr & 0xF0) > isr)
        return tpr;
    uint32_t both = tpr & isr & 0xF0;
    return both > irr ? both : irr;
}

static void write_tpr(struct lapic *l, uint32_t value)
{
    lapic_set_reg(l, LAPIC_TPR, value);
    lapic_priority_changed(l);
}

static void write_eoi(struct lapic *l, uint32_t value)
{
    (void)value;
    lapic_eoi(l);
}

static void write_dfr(struct lapic *l, uint32_t value)
{
    lapic_set_reg(l, LAPIC_DFR, value | 0x0FFFFFFF);
}

/* Disabling by software masks all LVT entries (10.4.7.2). */
static void write_svr(struct lapic *l, uint32_t value)
{
    lapic_set_reg(l, LAPIC_SVR, value);
    if (value & LAPIC_SVR_ENABLE)
        return;
    lapic_timer_write_lvt(l, lapic_reg(l, LAPIC_LVT_TIMER) | LAPIC_LVT_MASKED);
    for (uint32_t lvt = LAPIC_LVT_THERMAL; lvt <= LAPIC_LVT_ERROR; lvt += 16)
        lapic_set_reg(l, lvt, lapic_reg(l, lvt) | LAPIC_LVT_MASKED);
}

/* A write makes the errors since the last one readable (10.5.3). */
static void write_esr(struct lapic *l, uint32_t value)
{
    (void)value;
    lapic_set_reg(l, LAPIC_ESR, atomic_exchange(&l->esr_pending, 0));
}

static void write_icr(struct lapic *l, uint32_t value)
{
    lapic_set_reg(l, LAPIC_ICR, value);
    lapic_send_ipi(l, value, lapic_reg(l, LAPIC_ICR_HIGH) >> 24);
}

/* While disabled by software, an LVT entry's mask bit cannot be cleared (10.4.7.2). */
static uint32_t lvt_value(const struct lapic *l, uint32_t value)
{
    bool enabled = (lapic_reg(l, LAPIC_SVR) & LAPIC_SVR_ENABLE) != 0;
    return enabled ? value : value | LAPIC_LVT_MASKED;
}

static void write_lvt_timer(struct lapic *l, uint32_t value)
{
    lapic_timer_write_lvt(l, lvt_value(l, value));
}

static void write_lvt_thermal(struct lapic *l, uint32_t value)
{
    lapic_set_reg(l, LAPIC_LVT_THERMAL, lvt_value(l, value));
}

static void write_lvt_perf(struct lapic *l, uint32_t value)
{
    lapic_set_reg(l, LAPIC_LVT_PERF, lvt_value(l, value));
}

/* INTR may have been waiting for this. */
static void write_lvt_lint0(struct lapic *l, uint32_t value)
{
    lapic_set_reg(l, LAPIC_LVT_LINT0, lvt_value(l, value));
    if (lapic_has_extint(l))
        vcpu_request(&l->cpu->vcpu, VCPU_REQ_INTR);
}

static void write_lvt_lint1(struct lapic *l, uint32_t value)
{
    lapic_set_reg(l, LAPIC_LVT_LINT1, lvt_value(l, value));
}

static void write_lvt_error(struct lapic *l, uint32_t value)
{
    lapic_set_reg(l, LAPIC_LVT_ERROR, lvt_value(l, value));
}

static void write_self_ipi(struct lapic *l, uint32_t value)
{
    lapic_send_ipi(l, value | 1u << 18, 0); /* as ICR with shorthand self (10.12.11) */
}

/* --- the table -------------------------------------------------------------------------------- */

enum {
    RX = 1,
    WX = 2,
    R2 = 4,
    W2 = 8,
    ZERO = 16
}; /* read, write in xAPIC and x2APIC mode;
      ZERO: x2APIC takes no other value */

struct lapic_register {
    uint8_t access;
    uint32_t writable;                 /* other bits: dropped (xAPIC) or #GP (x2APIC) */
    uint32_t (*read)(struct lapic *l); /* NULL: the word in the page */
    void (*write)(struct lapic *l, uint32_t value); /* NULL: the word in the page */
};

/* By offset / 16 (tables 10-1 and 10-6). table */
static const struct lapic_register registers[LAPIC_REGISTERS] = {
    [LAPIC_ID / 16] = {RX | R2, 0, NULL, NULL},
    [LAPIC_VERSION / 16] = {RX | R2, 0, NULL, NULL},
    [LAPIC_TPR / 16] = {RX | WX | R2 | W2, 0xFF, NULL, write_tpr},
    [LAPIC_APR / 16] = {RX, 0, read_apr, NULL},
    [LAPIC_PPR / 16] = {RX | R2, 0, NULL, NULL},
    [LAPIC_EOI / 16] = {WX | W2 | ZERO, 0xFFFFFFFF, NULL, write_eoi},
    [LAPIC_RRD / 16] = {RX, 0, NULL, NULL},
    [LAPIC_LDR / 16] = {RX | WX | R2, 0xFF000000, NULL, NULL},
    [LAPIC_DFR / 16] = {RX | WX, 0xF0000000, NULL, write_dfr},
    [LAPIC_SVR / 16] = {RX | WX | R2 | W2, SVR_WRITABLE, NULL, write_svr},
    [LAPIC_ISR / 16 ... LAPIC_ISR / 16 + 7] = {RX | R2, 0, NULL, NULL},
    [LAPIC_TMR / 16 ... LAPIC_TMR / 16 + 7] = {RX | R2, 0, NULL, NULL},
    [LAPIC_IRR / 16 ... LAPIC_IRR / 16 + 7] = {RX | R2, 0, NULL, NULL},
    [LAPIC_ESR / 16] = {RX | WX | R2 | W2 | ZERO, 0xFFFFFFFF, NULL, write_esr},
    [LAPIC_ICR / 16] = {RX | WX, 0xCCFFF, NULL, write_icr}, /* x2APIC: write_icr_64 */
    [LAPIC_ICR_HIGH / 16] = {RX | WX, 0xFF000000, NULL, NULL},
    [LAPIC_LVT_TIMER / 16] = {RX | WX | R2 | W2, 0x700FF, NULL, write_lvt_timer},
    [LAPIC_LVT_THERMAL / 16] = {RX | WX | R2 | W2, 0x107FF, NULL, write_lvt_thermal},
    [LAPIC_LVT_PERF / 16] = {RX | WX | R2 | W2, 0x107FF, NULL, write_lvt_perf},
    [LAPIC_LVT_LINT0 / 16] = {RX | WX | R2 | W2, 0x1A7FF, NULL, write_lvt_lint0},
    [LAPIC_LVT_LINT1 / 16] = {RX | WX | R2 | W2, 0x1A7FF, NULL, write_lvt_lint1},
    [LAPIC_LVT_ERROR / 16] = {RX | WX | R2 | W2, 0x100FF, NULL, write_lvt_error},
    [LAPIC_TIMER_INITIAL / 16] = {RX | WX | R2 | W2, 0xFFFFFFFF, NULL, lapic_timer_write_initial},
    [LAPIC_TIMER_CURRENT / 16] = {RX | R2, 0, lapic_timer_read_current, NULL},
    [LAPIC_TIMER_DIVIDE / 16] = {RX | WX | R2 | W2, 0xB, NULL, lapic_timer_write_divide},
    [LAPIC_SELF_IPI / 16] = {W2, 0xFF, NULL, write_self_ipi},
};

/* The timer's TSC-deadline mode is a feature of the level. */
uint32_t lapic_writable_bits(const struct lapic *l, uint32_t offset)
{
    uint32_t bits = registers[offset / 16].writable;
    if (offset == LAPIC_LVT_TIMER && !l->cpu->level->tsc_deadline)
        bits &= ~(2u << LAPIC_TIMER_MODE_SHIFT);
    return bits;
}

static uint32_t register_read(struct lapic *l, uint32_t offset)
{
    const struct lapic_register *r = &registers[offset / 16];
    return r->read ? r->read(l) : lapic_reg(l, offset);
}

static void register_write(struct lapic *l, uint32_t offset, uint32_t value)
{
    const struct lapic_register *r = &registers[offset / 16];
    if (r->write)
        r->write(l, value);
    else
        lapic_set_reg(l, offset, value);
}

/* --- xAPIC ------------------------------------------------------------------------------------ */

bool lapic_owns_page(const struct x86_cpu *cpu, uint64_t physical)
{
    uint64_t base = lapic_get_base(cpu->lapic);
    return (base & LAPIC_BASE_ENABLE) != 0 && (base & LAPIC_BASE_X2APIC) == 0 &&
           ((physical ^ base) & PAGE_MASK) == 0;
}

/* Is it a register's own word in the page's used part? Others read as zero and drop writes; those
 * that would be a register's but are reserved are an error that is recorded (10.5.3). */
static bool is_mmio_register(struct lapic *l, uint32_t offset)
{
    if (offset >= LAPIC_REGISTERS * 16 || offset % 16 != 0 || !lapic_is_enabled(l) ||
        lapic_is_x2apic(l))
        return false;
    if ((registers[offset / 16].access & (RX | WX)) == 0) {
        lapic_error(l, LAPIC_ERROR_REGISTER);
        return false;
    }
    return true;
}

uint32_t lapic_mmio_read(struct x86_cpu *cpu, uint32_t offset)
{
    struct lapic *l = cpu->lapic;
    if (!is_mmio_register(l, offset) || (registers[offset / 16].access & RX) == 0)
        return 0;
    return register_read(l, offset);
}

void lapic_mmio_write(struct x86_cpu *cpu, uint32_t offset, uint32_t value)
{
    struct lapic *l = cpu->lapic;
    if (is_mmio_register(l, offset) && (registers[offset / 16].access & WX) != 0)
        register_write(l, offset, value & lapic_writable_bits(l, offset));
}

/* --- x2APIC ----------------------------------------------------------------------------------- */

static int write_icr_64(struct lapic *l, uint64_t value)
{
    uint32_t low = (uint32_t)value & ~(1u << 12); /* delivery status: gone, and ignored */
    if (low & ~registers[LAPIC_ICR / 16].writable)
        return ERR_INVALID;
    lapic_set_reg(l, LAPIC_ICR, low);
    lapic_set_reg(l, LAPIC_ICR_HIGH, (uint32_t)(value >> 32));
    lapic_send_ipi(l, low, (uint32_t)(value >> 32));
    return OK;
}

/* False: not in x2APIC mode, or beyond the registers. index is in 0x800-0x8FF. */
static bool x2apic_offset(const struct lapic *l, uint32_t index, uint32_t *offset)
{
    *offset = (index - MSR_X2APIC_FIRST) * 16;
    return lapic_is_x2apic(l) && *offset < LAPIC_REGISTERS * 16;
}

static int x2apic_read(struct lapic *l, uint32_t index, uint64_t *value)
{
    uint32_t offset;
    if (!x2apic_offset(l, index, &offset))
        return ERR_INVALID;
    if (offset == LAPIC_ICR) {
        *value = (uint64_t)lapic_reg(l, LAPIC_ICR_HIGH) << 32 | lapic_reg(l, LAPIC_ICR);
        return OK;
    }
    if ((registers[offset / 16].access & R2) == 0)
        return ERR_INVALID;
    *value = register_read(l, offset);
    return OK;
}

/* Bits of an LVT entry that are read-only, which is not reserved: delivery status and, for LINT0 and
 * LINT1, remote IRR (figure 10-8). Linux writes both back when it powers off. */
static uint32_t read_only_bits(uint32_t offset)
{
    if (offset == LAPIC_LVT_LINT0 || offset == LAPIC_LVT_LINT1)
        return 1u << 12 | 1u << 14;
    return offset >= LAPIC_LVT_TIMER && offset <= LAPIC_LVT_ERROR ? 1u << 12 : 0;
}

static int x2apic_write(struct lapic *l, uint32_t index, uint64_t value)
{
    uint32_t offset;
    if (!x2apic_offset(l, index, &offset))
        return ERR_INVALID;
    if (offset == LAPIC_ICR)
        return write_icr_64(l, value);
    uint8_t access = registers[offset / 16].access;
    value &= ~(uint64_t)read_only_bits(offset);
    if ((access & W2) == 0 || (value & ~(uint64_t)lapic_writable_bits(l, offset)) != 0 ||
        ((access & ZERO) != 0 && value != 0))
        return ERR_INVALID;
    register_write(l, offset, (uint32_t)value);
    return OK;
}

/* --- MSRs --------------------------------------------------------------------------------------
 */

int lapic_msr_read(struct x86_cpu *cpu, uint32_t index, uint64_t *value)
{
    struct lapic *l = cpu->lapic;
    if (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST)
        return x2apic_read(l, index, value);
    if (index == MSR_APIC_BASE) {
        *value = lapic_get_base(l);
        return OK;
    }
    if (index == MSR_TSC_DEADLINE && cpu->level->tsc_deadline) {
        *value = lapic_timer_read_deadline(l);
        return OK;
    }
    return ERR_INVALID;
}

int lapic_msr_write(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
    struct lapic *l = cpu->lapic;
    if (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST)
        return x2apic_write(l, index, value);
    if (index == MSR_APIC_BASE)
        return lapic_write_base(l, value);
    if (index == MSR_TSC_DEADLINE && cpu->level->tsc_deadline) {
        lapic_timer_write_deadline(l, value);
        return OK;
    }
    return ERR_INVALID;
}
