/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Unit tests of the local APIC: registers in both modes, acceptance and priority, IPIs and
 * destinations, timer, errors, state. Four processors without an engine; the TSC runs at 2 GHz. */
#include <pthread.h>
#include <string.h>

#include "core/err.h"
#include "core/mem.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/unit.h"
#include "x86/lapic_private.h"
#include "x86/level.h"
#include "x86/msr.h"

enum { CPUS = 4, US = 1000, MS = 1000000 };

static struct vm vm;
static struct x86_cpu cpus[CPUS];
static struct apic_bus bus;
static struct x86_level level;
static unsigned int eois, acks;
static uint8_t last_eoi;
static int ack_vector;

/* In place of x86/msr.c's: 2 GHz from the VM clock's zero. */
uint64_t x86_tsc_to_clock(const struct x86_cpu *cpu, uint64_t tsc)
{
    (void)cpu;
    return tsc / 2 + tsc % 2;
}

static void record_eoi(void *io_apic, uint8_t vector)
{
    CHECK(io_apic == &eois);
    eois++;
    last_eoi = vector;
}

static int record_ack(void *pic)
{
    CHECK(pic == &acks);
    acks++;
    atomic_store(&bus.extint, false);
    return ack_vector;
}

static void setup(void)
{
    for (uint32_t i = 0; i < vm.vcpu_count; i++)
        lapic_destroy(&cpus[i]);
    vm_init(&vm, "test");
    memset(cpus, 0, sizeof(cpus));
    level = (struct x86_level){.physical_bits = 40, .x2apic = true, .tsc_deadline = true};
    bus = (struct apic_bus){.send = lapic_bus_send,
                            .eoi = record_eoi,
                            .io_apic = &eois,
                            .ack_extint = record_ack,
                            .pic = &acks};
    eois = acks = 0;
    ack_vector = 0x30;
    vm.apic_bus = &bus;
    vm.vcpu_count = CPUS;
    for (uint32_t i = 0; i < CPUS; i++) {
        vcpu_init(&cpus[i].vcpu, &vm, i);
        cpus[i].level = &level;
        vm.vcpu[i] = &cpus[i].vcpu;
        CHECK_EQ(lapic_create(&cpus[i]), OK);
    }
    vm_clock_start(&vm);
}

static void wr(unsigned int cpu, uint32_t offset, uint32_t value)
{
    lapic_mmio_write(&cpus[cpu], offset, value);
}

static uint32_t rd(unsigned int cpu, uint32_t offset)
{
    return lapic_mmio_read(&cpus[cpu], offset);
}

static int wrmsr(unsigned int cpu, uint32_t index, uint64_t value)
{
    return lapic_msr_write(&cpus[cpu], index, value);
}

static uint64_t rdmsr(unsigned int cpu, uint32_t index)
{
    uint64_t v = 0xDEAD;
    CHECK_EQ(lapic_msr_read(&cpus[cpu], index, &v), OK);
    return v;
}

static void enable_all(void)
{
    for (unsigned int i = 0; i < CPUS; i++)
        wr(i, LAPIC_SVR, 0x1FF);
}

static void to_x2apic(unsigned int cpu)
{
    CHECK_EQ(wrmsr(cpu, MSR_APIC_BASE, rdmsr(cpu, MSR_APIC_BASE) | LAPIC_BASE_X2APIC), OK);
}

static uint32_t requests(unsigned int cpu)
{
    return vcpu_take_requests(&cpus[cpu].vcpu, ~0u);
}

/* --- registers --- */

static void test_reset_values(void)
{
    setup();
    /* table */
    static const struct {
        uint32_t offset, value;
    } rows[] = {
        {LAPIC_VERSION, 0x50014},
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
        {LAPIC_SVR, 0x3FF},
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
        {LAPIC_VERSION, 0x50014},
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

static void post(unsigned int cpu, uint8_t vector, bool is_level)
{
    struct apic_message m = {.destination = cpu, .vector = vector, .level = is_level};
    CHECK_EQ(apic_send(&vm, &m), OK);
}

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

/* --- timer --- */

static unsigned int timer_interrupts(uint64_t ns, uint64_t slice)
{
    unsigned int n = 0;
    for (uint64_t t = 0; t < ns; t += slice) {
        fake_seam_advance(slice);
        if (lapic_take_interrupt(&cpus[0]) == 0x40) {
            n++;
            lapic_eoi(cpus[0].lapic);
        }
    }
    return n;
}

static void test_timer_one_shot(void)
{
    setup();
    enable_all();
    wr(0, LAPIC_LVT_TIMER, 0x40);
    wr(0, LAPIC_TIMER_DIVIDE, 0xB); /* by 1 */
    wr(0, LAPIC_TIMER_INITIAL, 1000);
    CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 1000);
    fake_seam_advance(400);
    CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 600);
    CHECK(!lapic_has_interrupt(&cpus[0]));
    CHECK_EQ(timer_interrupts(10 * US, 100), 1);
    CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 0);
    wr(0, LAPIC_TIMER_INITIAL, 1000);
    wr(0, LAPIC_TIMER_INITIAL, 0);
    CHECK_EQ(timer_interrupts(10 * US, 100), 0);
    wr(0, LAPIC_LVT_TIMER, 0x10040); /* masked: counts, tells nobody */
    wr(0, LAPIC_TIMER_INITIAL, 1000);
    CHECK_EQ(timer_interrupts(10 * US, 100), 0);
}

static void test_timer_divide(void)
{
    static const struct {
        uint32_t reg, divisor;
    } rows[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {10, 128}, {11, 1}};
    setup();
    enable_all();
    wr(0, LAPIC_LVT_TIMER, 0x40);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        unit_context("divisor %u", rows[i].divisor);
        wr(0, LAPIC_TIMER_DIVIDE, rows[i].reg);
        wr(0, LAPIC_TIMER_INITIAL, 10000);
        fake_seam_advance(3000u * rows[i].divisor);
        CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 7000);
        CHECK(!lapic_has_interrupt(&cpus[0]));
        fake_seam_advance(7000u * rows[i].divisor);
        CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0x40);
        lapic_eoi(cpus[0].lapic);
    }
    unit_context(NULL);
    wr(0, LAPIC_TIMER_DIVIDE, 0xB); /* change while it runs: the count goes on */
    wr(0, LAPIC_TIMER_INITIAL, 1000);
    fake_seam_advance(500);
    wr(0, LAPIC_TIMER_DIVIDE, 0x0);
    CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 500);
    fake_seam_advance(998);
    CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 1);
    fake_seam_advance(2);
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0x40);
}

static void test_timer_periodic(void)
{
    setup();
    enable_all();
    wr(0, LAPIC_TIMER_DIVIDE, 0xB);
    wr(0, LAPIC_LVT_TIMER, 0x20040);
    wr(0, LAPIC_TIMER_INITIAL, 1 * MS);
    CHECK_EQ(timer_interrupts(10 * MS, 100 * US), 10);
    fake_seam_advance(250 * US);
    CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 750 * US);
    wr(0, LAPIC_TIMER_INITIAL, 1); /* D4: at most one every 100 us */
    CHECK_EQ(timer_interrupts(10 * MS, 10 * US), 100);
    CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 1);
    wr(0, LAPIC_TIMER_INITIAL, 70 * US); /* merged to multiples: 140 us */
    CHECK_EQ(timer_interrupts(14 * MS, 10 * US), 100);
    wr(0, LAPIC_LVT_TIMER, 0x40); /* to one-shot, while it counts: the last one */
    CHECK_EQ(timer_interrupts(14 * MS, 10 * US), 1);
    wr(0, LAPIC_LVT_TIMER, 0x60040); /* reserved mode */
    wr(0, LAPIC_TIMER_INITIAL, 10);
    CHECK_EQ(rd(0, LAPIC_TIMER_INITIAL), 0);
    CHECK_EQ(timer_interrupts(MS, 100 * US), 0);
}

static void test_timer_deadline(void)
{
    setup();
    enable_all();
    CHECK_EQ(wrmsr(0, MSR_TSC_DEADLINE, 12345), OK); /* not in that mode: ignored */
    CHECK_EQ(rdmsr(0, MSR_TSC_DEADLINE), 0);
    wr(0, LAPIC_LVT_TIMER, 0x40040);
    wr(0, LAPIC_TIMER_INITIAL, 1000);
    CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 0);
    uint64_t tsc = vm_clock_ns(&vm) * 2;
    CHECK_EQ(wrmsr(0, MSR_TSC_DEADLINE, tsc + 2000), OK);
    CHECK_EQ(rdmsr(0, MSR_TSC_DEADLINE), tsc + 2000);
    fake_seam_advance(999);
    CHECK(!lapic_has_interrupt(&cpus[0]));
    fake_seam_advance(1);
    CHECK_EQ(rdmsr(0, MSR_TSC_DEADLINE), 0);
    CHECK_EQ(timer_interrupts(MS, 100 * US), 1);
    CHECK_EQ(wrmsr(0, MSR_TSC_DEADLINE, 1), OK); /* past: at once */
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0x40);
    lapic_eoi(cpus[0].lapic);
    CHECK_EQ(wrmsr(0, MSR_TSC_DEADLINE, ~0ull), OK);
    CHECK_EQ(wrmsr(0, MSR_TSC_DEADLINE, 0), OK);
    CHECK_EQ(timer_interrupts(MS, 100 * US), 0);
    CHECK_EQ(wrmsr(0, MSR_TSC_DEADLINE, vm_clock_ns(&vm) * 2 + 2000), OK);
    wr(0, LAPIC_LVT_TIMER, 0x40); /* a change of mode disarms */
    CHECK_EQ(timer_interrupts(MS, 100 * US), 0);
    CHECK_EQ(rdmsr(0, MSR_TSC_DEADLINE), 0);
}

/* The timer thread comes for a deadline that has been moved or taken away meanwhile. */
static void test_timer_stale_fire(void)
{
    setup();
    enable_all();
    struct vm_timer *t = &cpus[0].lapic->timer;
    wr(0, LAPIC_LVT_TIMER, 0x20040);
    wr(0, LAPIC_TIMER_INITIAL, 1000000);
    t->fire(t->owner);
    CHECK(!lapic_has_interrupt(&cpus[0]));
    wr(0, LAPIC_TIMER_INITIAL, 0);
    t->fire(t->owner);
    CHECK(!lapic_has_interrupt(&cpus[0]));
    wr(0, LAPIC_LVT_TIMER, 0x40040);
    CHECK_EQ(wrmsr(0, MSR_TSC_DEADLINE, vm_clock_ns(&vm) * 2 + 2000), OK);
    t->fire(t->owner);
    CHECK(!lapic_has_interrupt(&cpus[0]));
    fake_seam_advance(1000);
    CHECK_EQ(lapic_take_interrupt(&cpus[0]), 0x40);
}

/* --- every access, and state --- */

static uint64_t rng = 88172645463325252u;

static uint64_t next_random(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng;
}

static void poke(unsigned int cpu)
{
    uint64_t r = next_random(), v;
    switch (r & 7) {
    case 0:
        (void)lapic_msr_read(&cpus[cpu], 0x7F0 + (uint32_t)(r >> 8 & 0x13F), &v);
        break;
    case 1:
        (void)lapic_msr_write(&cpus[cpu], 0x7F0 + (uint32_t)(r >> 8 & 0x13F), next_random() >> 8);
        break;
    case 2:
        if ((r >> 8 & 31) == 0)
            (void)wrmsr(cpu, MSR_APIC_BASE, 0xFEE00000 | (r >> 16 & 0xF00));
        (void)wrmsr(cpu, MSR_TSC_DEADLINE, vm_clock_ns(&vm) * 2 + (r >> 32 & 0xFFFFF));
        break;
    case 3:
        (void)lapic_take_interrupt(&cpus[cpu]);
        break;
    case 4:
        rd(cpu, (uint32_t)(r >> 8 & 0xFFF));
        break;
    case 5:
        wr(cpu, (uint32_t)(r >> 8 & 0x3F) * 16, (uint32_t)next_random());
        fake_seam_advance(r >> 40 & 0xFFFFF);
        break;
    default:
        wr(cpu, (uint32_t)(r >> 8 & 0xFFF), (uint32_t)next_random() & 0x1FFFF);
        break;
    }
}

static size_t save(unsigned int cpu, uint8_t *buf, size_t size)
{
    struct state_writer w = {buf, size, 0};
    lapic_state_ops.save(&cpus[cpu], &w);
    CHECK(w.used <= size);
    return w.used;
}

static int check(unsigned int cpu, const uint8_t *buf, size_t size)
{
    struct state_reader r = {.buf = buf, .size = size, .version = 1};
    return lapic_state_ops.check(&cpus[cpu], &r);
}

static void load(unsigned int cpu, const uint8_t *buf, size_t size)
{
    struct state_reader r = {.buf = buf, .size = size, .version = 1};
    CHECK_EQ(lapic_state_ops.load(&cpus[cpu], &r), OK);
}

/* Whatever a guest does, the state that results can be saved, passes check, and comes back. */
static void test_random_access_and_state(void)
{
    uint8_t a[512], b[512], fresh[512];
    setup();
    size_t size = save(1, fresh, sizeof(fresh));
    for (unsigned int i = 0; i < 60000; i++) {
        poke(i & 3);
        if (i % 16 != 0)
            continue;
        save(1, a, sizeof(a));
        CHECK_EQ(check(1, a, size), OK);
        bool has = lapic_has_interrupt(&cpus[1]);
        uint32_t count = rd(1, LAPIC_TIMER_CURRENT), ppr = lapic_reg(cpus[1].lapic, LAPIC_PPR);
        load(1, fresh, size);
        load(1, a, size);
        CHECK(save(1, b, sizeof(b)) == size && memcmp(a, b, size) == 0);
        CHECK_EQ(lapic_has_interrupt(&cpus[1]), has);
        CHECK_EQ(rd(1, LAPIC_TIMER_CURRENT), count);
        CHECK_EQ(lapic_reg(cpus[1].lapic, LAPIC_PPR), ppr);
    }
}

/* Offsets in the saved section. */
enum {
    AT_BASE = 0,
    AT_ISR = 8,
    AT_IRR = AT_ISR + 64,
    AT_TPR = AT_ISR + 96,
    AT_LDR = AT_TPR + 4,
    AT_DFR = AT_TPR + 8,
    AT_SVR = AT_TPR + 12,
    AT_ESR = AT_TPR + 16,
    AT_ICR = AT_TPR + 20,
    AT_LVT_TIMER = AT_TPR + 28,
    AT_LVT_LINT0 = AT_TPR + 40,
    AT_INITIAL = AT_TPR + 52,
    AT_DIVIDE = AT_TPR + 56,
    AT_ESR_PENDING = AT_TPR + 60,
    AT_EXTINT = AT_TPR + 64,
    AT_DEADLINE = AT_EXTINT + 9,
    AT_TSC_DEADLINE = AT_EXTINT + 17,
    STATE_SIZE = AT_EXTINT + 25,
};

static void test_check_refuses(void)
{
    /* table: of a state with the APIC software-disabled, vCPU 1 */
    static const struct {
        uint32_t at, value;
    } rows[] = {
        {AT_BASE, 0xFEE00900}, /* boot processor's flag */
        {AT_BASE, 0xFEE00400}, /* x2APIC without enable */
        {AT_BASE, 0xFEE00801}, /* reserved bit */
        {AT_BASE, 0xFEE00C00}, /* x2APIC: LDR does not fit */
        {AT_ISR, 0x00000001},  /* illegal vectors */
        {AT_ISR, 0x00008000},     {AT_IRR, 0x00000100},    {AT_TPR, 0x100},
        {AT_LDR, 0x01000001},     {AT_DFR, 0xF0000000},    {AT_SVR, 0x10FF},
        {AT_ESR, 0x01},           {AT_ESR_PENDING, 0x100}, {AT_ICR, 0x1000},
        {AT_ICR + 4, 0x01000001}, {AT_LVT_TIMER, 0x00040}, /* not masked */
        {AT_LVT_TIMER, 0x90040},                           /* reserved bit */
        {AT_LVT_LINT0, 0x00700},  {AT_LVT_LINT0, 0x11700}, {AT_DIVIDE, 0x4},
        {AT_DEADLINE, 1000},     /* armed with a count of 0 */
        {AT_TSC_DEADLINE, 1000}, /* not in that mode */
    };
    uint8_t good[STATE_SIZE], bad[STATE_SIZE];
    setup();
    CHECK_EQ(save(1, good, sizeof(good)), STATE_SIZE);
    CHECK_EQ(check(1, good, STATE_SIZE), OK);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        unit_context("row %zu", i);
        memcpy(bad, good, sizeof(bad));
        store_u32(bad + rows[i].at, rows[i].value);
        CHECK_EQ(check(1, bad, STATE_SIZE), (uint64_t)ERR_CORRUPT);
    }
    unit_context(NULL);
    for (size_t n = 0; n < STATE_SIZE; n++)
        CHECK_EQ(check(1, good, n), (uint64_t)ERR_TRUNCATED);
    bad[AT_EXTINT] = 2;
    CHECK(check(1, bad, STATE_SIZE) != OK);
}

/* Damaged states that check lets through can be lived with. */
static void test_damaged_state(void)
{
    uint8_t good[STATE_SIZE], bad[STATE_SIZE];
    unsigned int passed = 0;
    setup();
    enable_all();
    wr(1, LAPIC_LVT_TIMER, 0x20040);
    wr(1, LAPIC_TIMER_INITIAL, 100000);
    post(1, 0x55, true);
    save(1, good, sizeof(good));
    for (unsigned int i = 0; i < STATE_SIZE * 8 * 4; i++) {
        memcpy(bad, good, sizeof(bad));
        for (unsigned int flips = i % 4; flips <= 4; flips++) {
            uint64_t bit = flips == i % 4 ? i / 4 : next_random() % (STATE_SIZE * 8);
            bad[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        }
        if (check(1, bad, STATE_SIZE) != OK)
            continue;
        passed++;
        load(1, bad, STATE_SIZE);
        for (unsigned int j = 0; j < 16; j++)
            poke(1);
    }
    CHECK(passed > 0);
}

/* --- other threads post while the own thread takes --- */

enum { POSTS = 20000 };

static void *poster(void *arg)
{
    unsigned int which = *(unsigned int *)arg;
    for (unsigned int i = 0; i < POSTS; i++) {
        struct apic_message m = {.destination = 0,
                                 .vector = (uint8_t)(0x20 + which * 64 + i % 64),
                                 .level = (i & 1) != 0};
        if (apic_send(&vm, &m) != OK)
            return NULL;
        while (lapic_reg(cpus[0].lapic, LAPIC_IRR + m.vector / 32u * 16) & 1u << m.vector % 32)
            ; /* so that each post must be taken */
    }
    return NULL;
}

static void test_posts_are_not_lost(void)
{
    static unsigned int which[2] = {0, 1};
    pthread_t thread[2];
    unsigned int taken = 0;
    setup();
    enable_all();
    for (unsigned int i = 0; i < 2; i++)
        pthread_create(&thread[i], NULL, poster, &which[i]);
    while (taken < 2 * POSTS) {
        if (vcpu_requests(&cpus[0].vcpu) == 0)
            continue; /* a post that needs no request must not be needed either */
        vcpu_take_requests(&cpus[0].vcpu, VCPU_REQ_INTR);
        while (lapic_take_interrupt(&cpus[0]) >= 0) {
            taken++;
            wr(0, LAPIC_EOI, 0);
        }
    }
    for (unsigned int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    CHECK_EQ(taken, 2 * POSTS);
    CHECK_EQ(eois, POSTS);
}

static _Atomic bool timer_thread_ends;

static void *run_timers(void *arg)
{
    while (!atomic_load(&timer_thread_ends))
        vm_timers_run(&vm);
    return arg;
}

/* The timer thread reruns a periodic timer while its owner reprograms it: what the owner wrote last
 * holds, and a timer that was switched off stays off. */
static void test_timer_reprogrammed_while_firing(void)
{
    pthread_t thread;
    unsigned int taken = 0;
    fake_seam_real_time(true);
    setup();
    enable_all();
    wr(0, LAPIC_TIMER_DIVIDE, 0xB);
    atomic_store(&timer_thread_ends, false);
    pthread_create(&thread, NULL, run_timers, NULL);
    for (unsigned int i = 0; i < 300; i++) {
        wr(0, LAPIC_LVT_TIMER, i % 3 == 0 ? 0x40 : 0x20040);
        wr(0, LAPIC_TIMER_INITIAL, 100 * US + i * 16);
        uint64_t until = seam_time_ns() + (i % 5) * 60 * US;
        while (seam_time_ns() < until)
            rd(0, LAPIC_TIMER_CURRENT);
        wr(0, i & 1 ? LAPIC_TIMER_INITIAL : LAPIC_TIMER_DIVIDE, i & 1 ? 0 : i & 0xB);
        wr(0, LAPIC_TIMER_INITIAL, 0);
        CHECK_EQ(rd(0, LAPIC_TIMER_CURRENT), 0);
        if (lapic_take_interrupt(&cpus[0]) == 0x40)
            taken++;
        wr(0, LAPIC_EOI, 0);
    }
    uint64_t until = seam_time_ns() + 2 * MS;
    while (seam_time_ns() < until)
        (void)lapic_take_interrupt(&cpus[0]); /* what was on its way when it was switched off */
    wr(0, LAPIC_EOI, 0);
    for (until += 2 * MS; seam_time_ns() < until;)
        CHECK(!lapic_has_interrupt(&cpus[0]));
    atomic_store(&timer_thread_ends, true);
    pthread_join(thread, NULL);
    fake_seam_real_time(false);
    CHECK(taken > 0);
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
    UNIT_RUN(test_timer_one_shot);
    UNIT_RUN(test_timer_divide);
    UNIT_RUN(test_timer_periodic);
    UNIT_RUN(test_timer_deadline);
    UNIT_RUN(test_timer_stale_fire);
    UNIT_RUN(test_random_access_and_state);
    UNIT_RUN(test_check_refuses);
    UNIT_RUN(test_damaged_state);
    UNIT_RUN(test_posts_are_not_lost);
    UNIT_RUN(test_timer_reprogrammed_while_firing);
    UNIT_RUN(test_create_without_memory);
    return unit_done();
}
