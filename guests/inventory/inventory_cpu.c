/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * An inventory of the processors, for comparison between engines (tests/kvm/inventory.py): what
 * each vCPU says of itself by CPUID, by its MSRs and by its local APIC.
 *
 * A line "key: words" for each thing, no key twice; words are hexadecimal. What is not printed is
 * not there: an MSR without a line faults when it is read and when 0 is written; a register of the
 * local APIC without a line reads 0; a leaf of CPUID with one line answers all subleaves alike. An
 * MSR's value is followed by "rw" where writing the same value again is taken, "ro" where it
 * faults; "wo" alone: reading faults, writing 0 does not. "clock": it changes by itself.
 *
 * The vCPUs print one after the other; who waits for its turn halts.
 */
#include "guests/lib/guest.h"

enum { VECTOR_TURN = 0x40, X2APIC_ON = 1 << 10, ICR_ASSERT = 1 << 14 };

static unsigned int processors;
static _Atomic unsigned int turn;

/* --- CPUID --------------------------------------------------------------------------------------
 */

static bool same(struct cpuid a, struct cpuid b)
{
    return a.a == b.a && a.b == b.b && a.c == b.c && a.d == b.d;
}

static void print_leaf(unsigned int n, const char *when, uint32_t leaf, uint32_t subleaf)
{
    struct cpuid r = cpuid(leaf, subleaf);

    guest_print("cpu%u %s %x.%u: %x %x %x %x\n", n, when, leaf, subleaf, r.a, r.b, r.c, r.d);
}

/* If they are not all the same: those that any leaf has. */
static void print_subleaves(unsigned int n, uint32_t leaf)
{
    const uint32_t subleaves = leaf == 0xD ? 64 : 8;
    bool all_same = true;

    for (uint32_t s = 1; s < subleaves; s++)
        all_same = all_same && same(cpuid(leaf, s), cpuid(leaf, 0));
    for (uint32_t s = 0; s < (all_same ? 1 : subleaves); s++)
        print_leaf(n, "cpuid", leaf, s);
}

/* Each class up to its highest leaf and beyond. */
static void print_cpuid(unsigned int n)
{
    static const uint32_t classes[] = {0, 0x40000000, 0x80000000};
    static const uint32_t others[] = {0x20000000, 0x40000100, 0x4FFFFFFF,
                                      0x8FFFFFFF, 0xC0000000, 0xFFFFFFFF};

    for (unsigned int i = 0; i < sizeof(classes) / sizeof(classes[0]); i++) {
        uint32_t last = cpuid(classes[i], 0).a;

        for (uint32_t leaf = classes[i]; leaf <= last + 2; leaf++)
            print_subleaves(n, leaf);
    }
    for (unsigned int i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        print_leaf(n, "cpuid", others[i], 0);
}

/* What follows CR4 and XCR0: with all state that there is. */
static void print_cpuid_of_xsave(unsigned int n)
{
    struct cpuid d = cpuid(0xD, 0);

    if (!(cpuid(1, 0).c >> 26 & 1))
        return;
    write_cr4(read_cr4() | X86_CR4_OSXSAVE);
    __asm__ volatile("xsetbv" : : "a"(d.a), "d"(d.d), "c"(0));
    print_leaf(n, "cpuid-xsave", 1, 0);
    print_leaf(n, "cpuid-xsave", 0xD, 0);
    print_leaf(n, "cpuid-xsave", 0xD, 1);
    __asm__ volatile("xsetbv" : : "a"(1), "d"(0), "c"(0));
    write_cr4(read_cr4() & ~(reg_t)X86_CR4_OSXSAVE);
}

/* --- MSRs ---------------------------------------------------------------------------------------
 */

static struct {
    uint32_t index;
    uint64_t value;
} msr;

static void read_msr(void *unused)
{
    (void)unused;
    msr.value = rdmsr(msr.index);
}

static void write_msr(void *unused)
{
    (void)unused;
    wrmsr(msr.index, msr.value);
}

/* Writing these does something even if the value is the same, or 0. */
static bool writing_acts(uint32_t index)
{
    return index == MSR_TSC || index == MSR_X2APIC_FIRST + (APIC_ICR >> 4) ||
           index == MSR_X2APIC_FIRST + 0x3F; /* SELF IPI */
}

static void print_msr(unsigned int n, uint32_t index)
{
    bool readable, writable;

    msr.index = index;
    msr.value = 0;
    readable = guest_try(read_msr, NULL) == NO_FAULT;
    if (writing_acts(index)) {
        if (readable && index == MSR_TSC)
            guest_print("cpu%u msr %x: clock\n", n, index);
        else if (readable)
            guest_print("cpu%u msr %x: %lx\n", n, index, msr.value);
        return;
    }
    writable = guest_try(write_msr, NULL) == NO_FAULT;
    if (readable)
        guest_print("cpu%u msr %x: %lx %s\n", n, index, msr.value, writable ? "rw" : "ro");
    else if (writable)
        guest_print("cpu%u msr %x: wo\n", n, index);
}

static void print_msrs(unsigned int n)
{
    /* where Intel's and AMD's processors and hypervisors have any that systems touch */
    static const uint32_t ranges[][2] = {
        {0, 0xFFF},
        {0x40000000, 0x4000011F},
        {0x4B564D00, 0x4B564DFF},
        {0xC0000000, 0xC00003FF},
        {0xC0010000, 0xC00101FF},
        {0xC0011000, 0xC001103F},
    };

    for (unsigned int i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        for (uint32_t index = ranges[i][0]; index <= ranges[i][1]; index++)
            print_msr(n, index);
    }
}

/* --- local APIC ---------------------------------------------------------------------------------
 */

static void print_apic(unsigned int n)
{
    for (uint32_t offset = 0; offset < 0x1000; offset += 16) {
        uint32_t value = apic_read(offset);

        if (value)
            guest_print("cpu%u apic %x: %x\n", n, offset, value);
    }
}

/* The last thing: from x2APIC mode there is no short way back. */
static void print_x2apic(unsigned int n)
{
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | X2APIC_ON);
    guest_print("cpu%u x2apic base: %lx\n", n, rdmsr(MSR_APIC_BASE));
    for (uint32_t index = MSR_X2APIC_FIRST; index <= MSR_X2APIC_LAST; index++)
        print_msr(n, index);
}

/* --- all of it ----------------------------------------------------------------------------------
 */

static void print_registers(unsigned int n)
{
    guest_print("cpu%u cr0: %lx\n", n, read_cr0());
    guest_print("cpu%u cr4: %lx\n", n, read_cr4());
    guest_print("cpu%u dr6: %lx\n", n, read_dr6());
    guest_print("cpu%u dr7: %lx\n", n, read_dr7());
}

static void print_processor(unsigned int n)
{
    print_registers(n);
    print_cpuid(n);
    print_cpuid_of_xsave(n);
    print_apic(n);
    print_msrs(n);
    print_x2apic(n);
}

/* Interrupts only end halts. The local APIC may be in either mode. */
static void on_turn(struct guest_frame *f)
{
    (void)f;
    if (rdmsr(MSR_APIC_BASE) & X2APIC_ON)
        wrmsr(MSR_X2APIC_FIRST + (APIC_EOI >> 4), 0);
    else
        apic_write(APIC_EOI, 0);
}

static void wait_for_turn(unsigned int n)
{
    while (turn != n)
        __asm__ volatile("sti; hlt; cli" : : : "memory");
}

/* All levels have x2APIC, and that is the mode that we are in now. */
static void wake(unsigned int n)
{
    wrmsr(MSR_X2APIC_FIRST + (APIC_ICR >> 4), (uint64_t)n << 32 | ICR_ASSERT | VECTOR_TURN);
}

/* In the order of APIC ids, whatever the order was in which they started. */
static void print_in_turn(unsigned int started)
{
    unsigned int n = cpuid(1, 0).b >> 24;

    (void)started;
    wait_for_turn(n);
    print_processor(n);
    turn = n + 1;
    wake((n + 1) % processors);
}

int main(void)
{
    guest_buffer_output();
    guest_set_handler(VECTOR_TURN, on_turn);
    processors = smp_count();
    guest_print("processors: %u\n", processors);
    turn = processors;
    apic_enable();
    if (processors > 1)
        smp_start(print_in_turn);
    turn = 0;
    print_in_turn(0);
    wait_for_turn(processors);
    guest_print("end: 1\n");
    return 0;
}
