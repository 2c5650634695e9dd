/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The good neighbour: works without end in equal units, knows what each must come to, says how long it took by its TSC,
 * and answers what is typed. What others do to it shows in its results or in its time.
 *
 *   unit 17: 85000000 ticks, 0 wrong        at 85,000,000 ticks of its TSC
 *   heard "x" in unit 17
 *
 * A unit goes through memory and registers of all kinds, which hold values of its own ("seed=N") from one unit to the
 * next: vector and x87 registers, addresses in debug registers and MSRs. "units=N" ends it after so many.
 */
#include "guests/lib/guest.h"

enum {
    WORDS = 8192,
    ROUNDS = 48,
    LSR = 5,
    LSR_READY = 1,
};

/* What a unit comes to. */
#define EXPECTED UINT64_C(0xD476EE0679B189DB)

static uint64_t words[WORDS];
static uint64_t seed;

/* --- memory and general registers --- */

static uint64_t mix(uint64_t v)
{
    v ^= v << 13;
    v ^= v >> 7;
    return v ^ v << 17;
}

static uint64_t compute(void)
{
    uint64_t sum = 0, v = 0x9E3779B97F4A7C15;

    for (unsigned int n = 0; n < WORDS; n++)
        words[n] = v = mix(v);
    for (unsigned int round = 0; round < ROUNDS; round++) {
        for (unsigned int n = 0; n < WORDS; n++) {
            uint64_t other = words[words[n] % WORDS];

            words[n] = mix(words[n] + other);
            sum += words[n] ^ round;
        }
    }
    return sum;
}

/* --- registers of all kinds --- */

static const uint32_t msrs[] = {MSR_STAR, MSR_LSTAR, MSR_FS_BASE, MSR_GS_BASE,
                                MSR_KERNEL_GS_BASE};

enum { MSRS = sizeof(msrs) / sizeof(msrs[0]), VECTORS = 16 };

static uint64_t own(unsigned int n)
{
    return mix((seed + 1) * 0x10001 + n) & 0x7FFFFFFFFFFF;
}

static uint64_t vector[VECTORS][2] __attribute__((aligned(16)));

#define EACH_VECTOR(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define LOAD(n)  "movdqa 16*" #n "(%0), %%xmm" #n ";"
#define STORE(n) "movdqa %%xmm" #n ", 16*" #n "(%0);"

static void fill_registers(void)
{
    uint64_t integer = own(90);

    for (unsigned int n = 0; n < MSRS; n++)
        wrmsr(msrs[n], own(n));
    for (unsigned int n = 0; n < VECTORS; n++) {
        vector[n][0] = own(2 * n + 10);
        vector[n][1] = own(2 * n + 11);
    }
    write_cr4(read_cr4() | X86_CR4_OSFXSR);
    __asm__ volatile(EACH_VECTOR(LOAD) : : "r"(vector) : "memory");
    __asm__ volatile("fninit; fildll %0" : : "m"(integer));
    write_dr0(own(80));
    write_dr1(own(81));
}

/* How many are not what they were. */
static unsigned int spoilt_registers(void)
{
    unsigned int spoilt = 0;
    uint64_t integer;

    for (unsigned int n = 0; n < MSRS; n++)
        spoilt += rdmsr(msrs[n]) != own(n);
    __asm__ volatile(EACH_VECTOR(STORE) : : "r"(vector) : "memory");
    for (unsigned int n = 0; n < VECTORS; n++)
        spoilt += vector[n][0] != own(2 * n + 10) || vector[n][1] != own(2 * n + 11);
    __asm__ volatile("fld %%st; fistpll %0" : "=m"(integer));
    return spoilt + (integer != own(90)) + (read_dr0() != own(80)) + (read_dr1() != own(81));
}

/* --- the machine as it is --- */

static bool cpuid_is_same(void)
{
    static uint32_t first;
    struct cpuid c = cpuid(1, 0);

    if (!first)
        first = c.a;
    return c.a == first;
}

static void answer(unsigned long unit)
{
    while (inb(LODGE_PORT_SERIAL + LSR) & LSR_READY) {
        char c = (char)inb(LODGE_PORT_SERIAL);

        guest_print("heard \"%c\" in unit %lu\n", c, unit);
    }
}

int main(void)
{
    uint64_t units = guest_argument("units="), begin = rdtsc();
    unsigned long wrong = 0;

    seed = guest_argument("seed=");
    guest_buffer_output();
    fill_registers();
    for (unsigned long unit = 1; !units || unit <= units; unit++) {
        wrong += compute() != EXPECTED;
        wrong += spoilt_registers();
        wrong += !cpuid_is_same();
        guest_print("unit %lu: %lu ticks, %lu wrong\n", unit, rdtsc() - begin, wrong);
        answer(unit);
    }
    guest_print("%s steady\n", wrong ? "FAIL" : "PASS");
    return wrong != 0;
}
