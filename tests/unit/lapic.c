/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Unit tests of the local APIC: registers in both modes, acceptance and priority, IPIs and
 * destinations, errors. Timer, state and threads are in lapic_timer.c and lapic_state.c. */
#include "tests/unit/lapic_env.h"

/* --- registers --- */

static void test_reset_values(void)
{
    setup();
    /* table */
    static const struct {
        uint32_t offset, value;
    } rows[] = {
        {LAPIC_VERSION, 0x1050014},
        {LAPIC_TPR, 0},
        {LAPIC_LDR, 0},
        {LAPIC_DFR, 0xFFFFFFFF},
        {LAPIC_SVR, 0xFF},
        {LAPIC_LVT_TIMER, 0x10000},
        {LAPIC_LVT_THERMAL, 0x10000},
        {LAPIC_LVT_PERF, 0x10000},
        {LAPIC_LVT_LINT0, 0x10000},
        {LAPIC_LVT_LINT1, 0x10000},
        {LAPIC_LVT_ERROR, 0x10000},
        {LAPIC_TIMER_INITIAL, 0},
        {LAPIC_TIMER_CURRENT, 0},
        {LAPIC_TIMER_DIVIDE, 0},
        {LAPIC_ICR, 0},
        {LAPIC_ICR_HIGH, 0},
        {LAPIC_PPR, 0},
        {LAPIC_APR, 0},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        unit_context("offset %#x", rows[i].offset);
        CHECK_EQ(rd(1, rows[i].offset), rows[i].value);
    }
    unit_context(NULL);
    CHECK_EQ(rd(3, LAPIC_ID), 3u << 24);
    CHECK_EQ(rdmsr(0, MSR_APIC_BASE), 0xFEE00900);
    CHECK_EQ(rdmsr(1, MSR_APIC_BASE), 0xFEE00800);
    CHECK(lapic_owns_page(&cpus[0], 0xFEE00123) && !lapic_owns_page(&cpus[0], 0xFEE01000));
}

/* What is left of all ones and of all zeros, when enabled. */
static void test_write_masks(void)
{
    /* table */
    static const struct {
        uint32_t offset, ones;
    } rows[] = {
        {LAPIC_TPR, 0xFF},
        {LAPIC_LDR, 0xFF000000},
        {LAPIC_SVR, 0x13FF},
        {LAPIC_LVT_TIMER, 0x700FF},
        {LAPIC_LVT_THERMAL, 0x107FF},
        {LAPIC_LVT_PERF, 0x107FF},
        {LAPIC_LVT_LINT0, 0x1A7FF},
        {LAPIC_LVT_LINT1, 0x1A7FF},
        {LAPIC_LVT_ERROR, 0x100FF},
        {LAPIC_ICR_HIGH, 0xFF000000},
        {LAPIC_TIMER_DIVIDE, 0xB},
        {LAPIC_DFR, 0xFFFFFFFF},
        {LAPIC_ID, 0},
        {LAPIC_VERSION, 0x1050014},
        {LAPIC_ISR, 0},
    };
    setup();
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        unit_context("offset %#x", rows[i].offset);
        wr(0, LAPIC_SVR, 0x1FF);
        wr(0, rows[i].offset, 0xFFFFFFFF);
        CHECK_EQ(rd(0, rows[i].offset), rows[i].ones);
    }
    unit_context(NULL);
    wr(0, LAPIC_DFR, 0);
    CHECK_EQ(rd(0, LAPIC_DFR), 0x0FFFFFFF);
    CHECK_EQ(rd(0, LAPIC_EOI), 0);
    CHECK_EQ(rd(0, LAPIC_TPR + 4), 0);
    level.tsc_deadline = false;
    wr(0, LAPIC_LVT_TIMER, 0xFFFFFFFF);
    CHECK_EQ(rd(0, LAPIC_LVT_TIMER), 0x300FF);
    uint64_t v;
    CHECK_EQ(lapic_msr_read(&cpus[0], MSR_TSC_DEADLINE, &v), (uint64_t)ERR_INVALID);
}

static void test_software_disable_masks_lvt(void)
{
    setup();
    wr(0, LAPIC_LVT_LINT0, 0x700);
    CHECK_EQ(rd(0, LAPIC_LVT_LINT0), 0x10700);
    wr(0, LAPIC_SVR, 0x1FF);
    wr(0, LAPIC_LVT_LINT0, 0x700);
    wr(0, LAPIC_LVT_TIMER, 0x20040);
    CHECK_EQ(rd(0, LAPIC_LVT_LINT0), 0x700);
    wr(0, LAPIC_SVR, 0xFF);
    CHECK_EQ(rd(0, LAPIC_LVT_LINT0), 0x10700);
    CHECK_EQ(rd(0, LAPIC_LVT_TIMER), 0x30040);
}

/* Each x2APIC MSR: may it be read, may it be written with 0, and what does ~0 do? */
static void test_x2apic_access(void)
{
    setup();
    to_x2apic(1);
    static const uint8_t readable[] = {0x02, 0x03, 0x08, 0x0A, 0x0D, 0x0F, 0x28, 0x30, 0x32,
                                       0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3E};
    static const uint8_t writable[] = {0x08, 0x0B, 0x0F, 0x28, 0x30, 0x32, 0x33,
                                       0x34, 0x35, 0x36, 0x37, 0x38, 0x3E, 0x3F};
    for (uint32_t i = 0; i <= 0xFF; i++) {
        unit_context("MSR %#x", 0x800 + i);
        bool vectors = i >= 0x10 && i < 0x28;
        uint64_t v;
        CHECK_EQ(lapic_msr_read(&cpus[1], 0x800 + i, &v) == OK,
                 vectors || memchr(readable, (int)i, sizeof(readable)) != NULL);
        CHECK_EQ(lapic_msr_write(&cpus[1], 0x800 + i, 0) == OK,
                 memchr(writable, (int)i, sizeof(writable)) != NULL);
        CHECK_EQ(lapic_msr_write(&cpus[1], 0x800 + i, ~0ull), (uint64_t)ERR_INVALID);
        CHECK_EQ(lapic_msr_read(&cpus[0], 0x800 + i, &v), (uint64_t)ERR_INVALID);
    }
    unit_context(NULL);
    CHECK_EQ(rdmsr(1, 0x802), 1);
    CHECK_EQ(rdmsr(1, 0x80D), 2);
    CHECK_EQ(wrmsr(1, 0x835, 0x15700), OK); /* read-only bits are not reserved ones */
    CHECK_EQ(rdmsr(1, 0x835), 0x10700);
    CHECK_EQ(wrmsr(1, 0x832, 0x15000), (uint64_t)ERR_INVALID);
    CHECK_EQ(wrmsr(1, 0x830, 0x0000000300004030), OK); /* fixed, vector 0x30, to 3 */
    CHECK_EQ(rdmsr(1, 0x830), 0x0000000300004030);
    CHECK_EQ(wrmsr(1, 0x80F, 0x1FF), OK);
    CHECK_EQ(wrmsr(1, 0x835, 0x5700), OK); /* read-only bits are not reserved: dropped */
    CHECK_EQ(rdmsr(1, 0x835), 0x700);
    CHECK_EQ(wrmsr(1, 0x832, 0x5040), (uint64_t)ERR_INVALID); /* the timer has no remote IRR */
    CHECK(!lapic_owns_page(&cpus[1], 0xFEE00000));
    CHECK_EQ(rd(1, LAPIC_VERSION), 0);
}

/* Figure 10-27: from each mode to each value. */
static void test_mode_transitions(void)
{
    enum { OFF = 0, X = 0x800, X2 = 0xC00, BAD = 0x400 };
    /* table */
    static const struct {
        uint32_t from, to;
        bool ok;
    } rows[] = {
        {OFF, OFF, true}, {OFF, X, true}, {OFF, X2, false}, {OFF, BAD, false},
        {X, OFF, true},   {X, X, true},   {X, X2, true},    {X, BAD, false},
        {X2, OFF, true},  {X2, X, false}, {X2, X2, true},   {X2, BAD, false},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        unit_context("row %zu", i);
        setup();
        uint64_t base = 0xFEE00000;
        if (rows[i].from != X)
            CHECK_EQ(wrmsr(1, MSR_APIC_BASE, base | rows[i].from), OK);
        CHECK_EQ(wrmsr(1, MSR_APIC_BASE, base | rows[i].to) == OK, rows[i].ok);
        CHECK_EQ(rdmsr(1, MSR_APIC_BASE), base | (rows[i].ok ? rows[i].to : rows[i].from));
    }
    unit_context(NULL);
    setup();
    CHECK_EQ(wrmsr(0, MSR_APIC_BASE, 0xFEE00801), (uint64_t)ERR_INVALID);
    CHECK_EQ(wrmsr(0, MSR_APIC_BASE, 1ull << 40 | 0x800), (uint64_t)ERR_INVALID);
    CHECK_EQ(wrmsr(0, MSR_APIC_BASE, 0xFEE00800), OK); /* BSP flag stays */
    CHECK_EQ(rdmsr(0, MSR_APIC_BASE), 0xFEE00900);
    CHECK_EQ(wrmsr(0, MSR_APIC_BASE, 0xFED00800), OK); /* moves */
    CHECK(lapic_owns_page(&cpus[0], 0xFED00000) && !lapic_owns_page(&cpus[0], 0xFEE00000));
    level.x2apic = false;
    CHECK_EQ(wrmsr(0, MSR_APIC_BASE, 0xFEE00C00), (uint64_t)ERR_INVALID);
}

static void test_init_keeps_mode(void)
{
    setup();
    to_x2apic(2);
    CHECK_EQ(wrmsr(2, 0x808, 0x40), OK);
    lapic_reset(&cpus[2], true);
    CHECK_EQ(rdmsr(2, 0x808), 0);
    CHECK_EQ(rdmsr(2, 0x80D), 4);
    CHECK_EQ(rdmsr(2, 0x802), 2);
    lapic_reset(&cpus[2], false);
    CHECK_EQ(rdmsr(2, MSR_APIC_BASE), 0xFEE00800);
}

/* --- acceptance and priority --- */

static void test_priority(void)
{
    setup();
    enable_all();
    CHECK(!lapic_has_interrupt(&cpus[0]));
    post(0, 0x41, false);
    CHECK_EQ(requests(0), VCPU_REQ_INTR);
    post(0, 0x52, false);
    post(0, 0x43, false);
    CHECK_EQ(rd(0, LAPIC_IRR + 0x20), 1u << 1 | 1u << 3 | 1u << 18);
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0x52);
    CHECK_EQ(rd(0, LAPIC_PPR), 0x50);
    CHECK_EQ(rd(0, LAPIC_ISR + 0x20), 1u << 18);
    CHECK(!lapic_has_interrupt(&cpus[0]));
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), (uint64_t)-1);
    post(0, 0xFF, false); /* nests */
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0xFF);
    requests(0);
    wr(0, LAPIC_EOI, 0);
    CHECK_EQ(rd(0, LAPIC_PPR), 0x50);
    CHECK_EQ(requests(0), 0);
    wr(0, LAPIC_EOI, 0);
    CHECK_EQ(requests(0), VCPU_REQ_INTR);
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0x43);
    wr(0, LAPIC_EOI, 0);
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0x41);
    wr(0, LAPIC_EOI, 0);
    wr(0, LAPIC_EOI, 0); /* nothing in service: nothing */
    CHECK(!lapic_has_interrupt(&cpus[0]));
    CHECK_EQ(eois, 0);
}

static void test_tpr_and_cr8(void)
{
    setup();
    enable_all();
    lapic_set_cr8(&cpus[0], 5);
    CHECK_EQ(rd(0, LAPIC_TPR), 0x50);
    wr(0, LAPIC_TPR, 0x4F);
    CHECK_EQ(lapic_get_cr8(&cpus[0]), 4);
    CHECK_EQ(rd(0, LAPIC_PPR), 0x4F);
    post(0, 0x4A, false);
    requests(0);
    CHECK(!lapic_has_interrupt(&cpus[0]));
    CHECK_EQ(rd(0, LAPIC_APR), 0x4F);
    lapic_set_cr8(&cpus[0], 3);
    CHECK_EQ(requests(0), VCPU_REQ_INTR);
    CHECK_EQ(rd(0, LAPIC_APR), 0x40);
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0x4A);
}

static void test_level_and_eoi(void)
{
    setup();
    enable_all();
    post(0, 0x61, true);
    CHECK_EQ(rd(0, LAPIC_TMR + 0x30), 2);
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0x61);
    wr(0, LAPIC_EOI, 0);
    CHECK_EQ(eois, 1);
    CHECK_EQ(last_eoi, 0x61);
    post(0, 0x61, false);
    CHECK_EQ(rd(0, LAPIC_TMR + 0x30), 0);
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0x61);
    wr(0, LAPIC_EOI, 0);
    CHECK_EQ(eois, 1);
    /* not told while the guest has asked for that */
    wr(0, LAPIC_SVR, 0x11FF);
    post(0, 0x61, true);
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0x61);
    wr(0, LAPIC_EOI, 0);
    CHECK_EQ(rd(0, LAPIC_ISR + 0x30), 0);
    CHECK_EQ(eois, 1);
    wr(0, LAPIC_SVR, 0x1FF);
    post(0, 0x61, true);
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0x61);
    wr(0, LAPIC_EOI, 0);
    CHECK_EQ(eois, 2);
}

static void test_extint(void)
{
    setup();
    apic_set_extint(&vm, true);
    CHECK_EQ(requests(0), VCPU_REQ_INTR);
    CHECK(!lapic_has_interrupt(&cpus[0])); /* LINT0 masked */
    lapic_set_virtual_wire(&cpus[0]);
    CHECK(lapic_has_interrupt(&cpus[0]));
    CHECK(!lapic_has_interrupt(&cpus[1]));
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0x30);
    CHECK_EQ(acks, 1);
    CHECK(!lapic_has_interrupt(&cpus[0]));
    CHECK_EQ(rd(0, LAPIC_PPR), 0); /* never in service */

    ack_vector = -1; /* gone meanwhile: the APIC's own come through */
    apic_set_extint(&vm, true);
    post(0, 0x77, false);
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0x77);

    ack_vector = 0x31; /* LINT0 is INTR when the APIC is off */
    CHECK_EQ(wrmsr(0, MSR_APIC_BASE, 0xFEE00000), OK);
    apic_set_extint(&vm, true);
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0x31);
    struct apic_message m = {.destination = 2, .delivery = APIC_EXTINT};
    CHECK_EQ(apic_send(&vm, &m), OK);
    CHECK(lapic_has_interrupt(&cpus[2]));
    CHECK_EQ(lapic_take_interrupt(&cpus[2]), 0x31);
    CHECK(!lapic_has_interrupt(&cpus[2]));
}

static void test_lint1(void)
{
    setup();
    apic_pulse_lint1(&vm);
    for (unsigned int i = 0; i < CPUS; i++)
        CHECK_EQ(requests(i), 0);
    enable_all();
    wr(0, LAPIC_LVT_LINT1, 0x400);
    wr(1, LAPIC_LVT_LINT1, 0x045);
    wr(2, LAPIC_LVT_LINT1, 0x10400);
    apic_pulse_lint1(&vm);
    CHECK_EQ(requests(0), VCPU_REQ_NMI);
    CHECK_EQ(requests(1), VCPU_REQ_INTR);
    CHECK_EQ(lapic_take_interrupt(&cpus[1]), 0x45);
    CHECK_EQ(requests(2), 0);
}

/* --- messages --- */

/* Who gets a fixed message: a set of processors. */
static uint32_t receivers(uint32_t destination, bool logical, uint8_t delivery, uint8_t vector)
{
    struct apic_message m = {destination, logical, delivery, vector, false, false};
    int err = apic_send(&vm, &m);
    uint32_t set = 0;
    for (unsigned int i = 0; i < CPUS; i++) {
        requests(i);
        if (lapic_take_interrupt(&cpus[i]) == vector) {
            set |= 1u << i;
            lapic_eoi(cpus[i].lapic);
        }
    }
    CHECK_EQ(err == OK, set != 0);
    return set;
}

static void test_destinations(void)
{
    setup();
    enable_all();
    for (unsigned int i = 0; i < CPUS; i++)
        CHECK_EQ(receivers(i, false, APIC_FIXED, 0x50), 1u << i);
    CHECK_EQ(receivers(CPUS, false, APIC_FIXED, 0x50), 0);
    CHECK_EQ(receivers(0xFF, false, APIC_FIXED, 0x50), 0xF);
    CHECK_EQ(receivers(0xFFFFFFFF, false, APIC_FIXED, 0x50), 0xF);
    CHECK_EQ(receivers(1, true, APIC_FIXED, 0x50), 0); /* LDR is 0 */
    for (unsigned int i = 0; i < CPUS; i++)
        wr(i, LAPIC_LDR, 1u << (24 + i));
    CHECK_EQ(receivers(0x5, true, APIC_FIXED, 0x50), 0x5);
    CHECK_EQ(receivers(0xFF, true, APIC_FIXED, 0x50), 0xF);
    CHECK_EQ(receivers(0x105, true, APIC_FIXED, 0x50), 0);
    for (unsigned int i = 0; i < CPUS; i++) { /* clusters of two */
        wr(i, LAPIC_DFR, 0);
        wr(i, LAPIC_LDR, ((i / 2) << 4 | 1u << (i % 2)) << 24);
    }
    CHECK_EQ(receivers(0x03, true, APIC_FIXED, 0x50), 0x3);
    CHECK_EQ(receivers(0x12, true, APIC_FIXED, 0x50), 0x8);
    CHECK_EQ(receivers(0x23, true, APIC_FIXED, 0x50), 0);
    CHECK_EQ(receivers(0xFF, true, APIC_FIXED, 0x50), 0xF);
    to_x2apic(1);
    to_x2apic(3);
    CHECK_EQ(receivers(0x0000000A, true, APIC_FIXED, 0x50), 0xA);
    CHECK_EQ(receivers(0x00010002, true, APIC_FIXED, 0x50), 0);
    wr(2, LAPIC_SVR, 0xFF); /* takes no fixed ones any more, lowest goes elsewhere */
    struct apic_message m = {.destination = 2, .vector = 0x50};
    (void)apic_send(&vm, &m);
    CHECK(!lapic_has_interrupt(&cpus[2]));
}

static void test_lowest_priority(void)
{
    setup();
    enable_all();
    wr(1, LAPIC_SVR, 0xFF);
    static const uint32_t expected[] = {1, 4, 8}; /* 0, 2, 3 take interrupts */
    for (unsigned int v = 0x30; v < 0x100; v++)
        CHECK_EQ(receivers(0xFF, false, APIC_LOWEST, (uint8_t)v), expected[v % 3]);
    for (unsigned int i = 0; i < CPUS; i++)
        wr(i, LAPIC_SVR, 0xFF);
    CHECK_EQ(receivers(0xFF, false, APIC_LOWEST, 0x40), 0);
}

static void test_icr_modes(void)
{
    setup();
    enable_all();
    wr(0, LAPIC_ICR_HIGH, 1u << 24);
    wr(0, LAPIC_ICR, 0x0400);
    CHECK_EQ(requests(1), VCPU_REQ_NMI);
    wr(0, LAPIC_ICR, 0xC500); /* INIT, level assert */
    CHECK_EQ(requests(1), VCPU_REQ_INIT);
    wr(0, LAPIC_ICR, 0x8500); /* de-assert */
    CHECK_EQ(requests(1), 0);
    wr(0, LAPIC_ICR, 0x0500); /* edge */
    CHECK_EQ(requests(1), VCPU_REQ_INIT);
    wr(0, LAPIC_ICR, 0x0699);
    CHECK_EQ(requests(1), VCPU_REQ_SIPI);
    CHECK_EQ(cpus[1].vcpu.sipi_vector, 0x99);
    wr(0, LAPIC_ICR, 0x0200); /* SMI, and remote read: nothing */
    wr(0, LAPIC_ICR, 0x0340);
    CHECK_EQ(requests(1), 0);
    wr(0, LAPIC_ICR, 0x8045); /* level: sent as an edge */
    CHECK_EQ(lapic_take_interrupt(&cpus[1]), 0x45);
    CHECK_EQ(rd(1, LAPIC_TMR + 0x20), 0);
    CHECK_EQ(rd(0, LAPIC_ICR), 0x8045);
}

static uint32_t with_interrupt(void)
{
    uint32_t set = 0;
    for (unsigned int i = 0; i < CPUS; i++)
        if (lapic_take_interrupt(&cpus[i]) >= 0) {
            set |= 1u << i;
            lapic_eoi(cpus[i].lapic);
        }
    return set;
}

static void test_shorthands(void)
{
    setup();
    enable_all();
    wr(1, LAPIC_ICR, 0x40050);
    CHECK_EQ(with_interrupt(), 0x2);
    wr(1, LAPIC_ICR, 0x80050);
    CHECK_EQ(with_interrupt(), 0xF);
    wr(1, LAPIC_ICR, 0xC0050);
    CHECK_EQ(with_interrupt(), 0xD);
    wr(1, LAPIC_ICR, 0xC0151); /* lowest: one of the others; 0x51 % 3 = 0 */
    CHECK_EQ(with_interrupt(), 0x1);
    for (unsigned int i = 0; i < CPUS; i++)
        requests(i);
    wr(1, LAPIC_ICR, 0x84500 | 0x8000); /* INIT to all: not to itself */
    CHECK_EQ(requests(0), VCPU_REQ_INIT);
    CHECK_EQ(requests(1), 0);
    wr(1, LAPIC_ICR, 0x44600); /* SIPI to itself: no */
    CHECK_EQ(requests(1), 0);
    to_x2apic(2);
    CHECK_EQ(wrmsr(2, 0x83F, 0x66), OK);
    CHECK_EQ(lapic_take_interrupt(&cpus[2]), 0x66);
    CHECK_EQ(wrmsr(2, 0x80B, 0), OK);
    CHECK_EQ(wrmsr(2, 0x830, 0xFFFFFFFF00000067), OK); /* broadcast, no shorthand */
    CHECK_EQ(with_interrupt(), 0xF);
}

static void test_msi(void)
{
    setup();
    enable_all();
    CHECK_EQ(msi_send(&vm, 0xFEE02000, 0x0041), OK); /* physical 2, fixed, edge */
    CHECK_EQ(lapic_take_interrupt(&cpus[2]), 0x41);
    wr(3, LAPIC_LDR, 0x80000000);
    CHECK_EQ(msi_send(&vm, 0xFEE8000C, 0xC142), OK); /* logical 0x80, lowest, level */
    CHECK_EQ(lapic_take_interrupt(&cpus[3]), 0x42);
    CHECK_EQ(rd(3, LAPIC_TMR + 0x20), 4);
    CHECK_EQ(msi_send(&vm, 0xFEE07000, 0x41), (uint64_t)ERR_NOT_FOUND);
    CHECK_EQ(msi_send(&vm, 0xFED00000, 0x41), (uint64_t)ERR_RANGE);
    CHECK_EQ(msi_send(&vm, 0x1FEE00000, 0x41), (uint64_t)ERR_RANGE);
}

/* --- errors --- */

static void test_errors(void)
{
    setup();
    enable_all();
    wr(0, LAPIC_LVT_ERROR, 0xFE);
    wr(0, LAPIC_ICR, 0x0005); /* send illegal vector */
    CHECK_EQ(rd(0, LAPIC_ESR), 0);
    wr(0, LAPIC_ESR, 0);
    CHECK_EQ(rd(0, LAPIC_ESR), 0x20);
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0xFE);
    lapic_eoi(cpus[0].lapic);
    post(0, 0x0F, false); /* receive illegal vector */
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0xFE);
    lapic_eoi(cpus[0].lapic);
    rd(0, 0x040); /* reserved register: no second interrupt before ESR is written */
    CHECK(!lapic_has_interrupt(&cpus[0]));
    wr(0, LAPIC_ESR, 0);
    CHECK_EQ(rd(0, LAPIC_ESR), 0xC0);
    wr(0, LAPIC_ESR, 0);
    CHECK_EQ(rd(0, LAPIC_ESR), 0);
}

/* XSA-462: an illegal vector in the error LVT must not recurse. */
static void test_error_in_error(void)
{
    setup();
    enable_all();
    for (uint32_t v = 0; v < 16; v++) {
        wr(0, LAPIC_LVT_ERROR, v);
        post(0, 3, false);
        CHECK(!lapic_has_interrupt(&cpus[0]));
        wr(0, LAPIC_ESR, 0);
        CHECK_EQ(rd(0, LAPIC_ESR), 0x40);
    }
    wr(0, LAPIC_LVT_TIMER, 0x0);
    wr(0, LAPIC_TIMER_INITIAL, 10);
    fake_seam_advance(MS);
    wr(0, LAPIC_ESR, 0);
    CHECK_EQ(rd(0, LAPIC_ESR), 0x40);
}

static void test_create_without_memory(void)
{
    setup();
    struct x86_cpu *extra = &cpus[3];
    lapic_destroy(extra);
    fake_seam_fail_allocation(1);
    CHECK_EQ(lapic_create(extra), (uint64_t)ERR_NO_MEMORY);
    lapic_destroy(extra);
    CHECK_EQ(lapic_create(extra), OK);
    for (unsigned int i = 0; i < CPUS; i++)
        lapic_destroy(&cpus[i]);
    vm.vcpu_count = 0;
    CHECK_EQ(fake_seam_allocations(), 0);
}

int main(void)
{
    UNIT_RUN(test_reset_values);
    UNIT_RUN(test_write_masks);
    UNIT_RUN(test_software_disable_masks_lvt);
    UNIT_RUN(test_x2apic_access);
    UNIT_RUN(test_mode_transitions);
    UNIT_RUN(test_init_keeps_mode);
    UNIT_RUN(test_priority);
    UNIT_RUN(test_tpr_and_cr8);
    UNIT_RUN(test_level_and_eoi);
    UNIT_RUN(test_extint);
    UNIT_RUN(test_lint1);
    UNIT_RUN(test_destinations);
    UNIT_RUN(test_lowest_priority);
    UNIT_RUN(test_icr_modes);
    UNIT_RUN(test_shorthands);
    UNIT_RUN(test_msi);
    UNIT_RUN(test_errors);
    UNIT_RUN(test_error_in_error);
    UNIT_RUN(test_create_without_memory);
    return unit_done();
}
