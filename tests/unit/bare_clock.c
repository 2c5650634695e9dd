/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The bare machine's time: native/calibrate.c, clock.c. The machine is a time in picoseconds that goes on with
 * every access, and clocks made of it: TSC, PM timer, HPET, PIT, as true or as false as a test wants them.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "native/calibrate.h"
#include "native/clock.h"
#include "native/frames.h"
#include "tests/fakes/native/io.h"
#include "tests/lib/unit.h"

#define PS_PER_S 1000000000000ull

static struct {
    uint64_t ps;
    uint64_t tsc_hz, access_ps, tsc_ps; /* what an access and a read of the TSC take */
    unsigned int stall_every;           /* accesses; each such one takes 3 ms: a management interrupt */
    unsigned int accesses, pit_latched, pit_bytes;
    bool has_pm, has_hpet, has_pit, hpet_on;
    uint64_t pm_hz, pm_slow_from; /* from that time on at half the speed */
    bool pm_back;
    uint32_t hpet_fs;
    struct io_cpuid crystal;
    bool invariant;
} m;

static uint8_t hpet[1024];

static uint64_t scaled(uint64_t ps, uint64_t hz)
{
    return (uint64_t)((unsigned __int128)ps * hz / PS_PER_S);
}

static void access_takes(void)
{
    m.ps += m.access_ps;
    if (m.stall_every != 0 && ++m.accesses % m.stall_every == 0)
        m.ps += 3 * PS_PER_S / 1000;
}

static uint32_t pm_timer(void)
{
    uint64_t ps = m.ps;
    if (m.pm_slow_from != 0 && ps > m.pm_slow_from)
        ps = m.pm_slow_from + (ps - m.pm_slow_from) / 2;
    uint32_t v = (uint32_t)scaled(ps, m.pm_hz);
    return m.pm_back ? (0xFFFFFF - v) & 0xFFFFFF : v & 0xFFFFFF;
}

static uint32_t in(uint16_t port, unsigned int size)
{
    access_takes();
    if (port == 0x608 && size == 4 && m.has_pm)
        return pm_timer();
    if (port == 0x42 && m.has_pit) {
        uint32_t byte = m.pit_latched >> (8 * (m.pit_bytes++ % 2)) & 0xFF;
        return byte;
    }
    return UINT32_MAX;
}

static void out(uint16_t port, unsigned int size, uint32_t v)
{
    CHECK_EQ(size, 1);
    access_takes();
    if (port == 0x43 && v == 0x80)
        m.pit_latched = (uint32_t)(0xFFFF - scaled(m.ps, 1193182) % 0x10000);
}

static uint32_t read_memory(const volatile void *p, unsigned int size)
{
    CHECK_EQ(size, 4);
    access_takes();
    switch ((const volatile uint8_t *)p - hpet) {
    case 4:
        return m.hpet_fs;
    case 0xF0:
        return m.hpet_on ? (uint32_t)((unsigned __int128)m.ps * 1000 / (m.hpet_fs ? m.hpet_fs : 1)) : 0;
    default:
        return 0;
    }
}

static void write_memory(volatile void *p, unsigned int size, uint32_t v)
{
    CHECK_EQ(size, 4);
    CHECK_EQ((volatile uint8_t *)p - hpet, 0x10);
    m.hpet_on = v & 1;
}

static uint64_t tsc(void)
{
    m.ps += m.tsc_ps;
    return scaled(m.ps, m.tsc_hz);
}

static struct io_cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
    (void)subleaf;
    if (leaf == 0x15)
        return m.crystal;
    if (leaf == 0x80000007)
        return (struct io_cpuid){0, 0, 0, m.invariant ? 1 << 8 : 0};
    return (struct io_cpuid){leaf == 0 ? 0x16 : 0x80000008, 0, 0, 0};
}

void *map_device(uint64_t physical, size_t size, bool write_combining)
{
    CHECK(physical == 0xFED00000 && size == sizeof(hpet) && !write_combining);
    return hpet;
}

static void machine(uint64_t tsc_hz, uint64_t access_ns, uint64_t tsc_ns)
{
    memset(&m, 0, sizeof(m));
    m.ps = 123456789012345;
    m.tsc_hz = tsc_hz;
    m.access_ps = access_ns * 1000;
    m.tsc_ps = tsc_ns * 1000;
    m.has_pm = m.has_hpet = m.has_pit = true;
    m.pm_hz = 3579545;
    m.hpet_fs = 69841279;
    fake_io = (struct fake_io){
        .in = in, .out = out, .read = read_memory, .write = write_memory, .tsc = tsc, .cpuid = cpuid};
}

static struct acpi tables(void)
{
    return (struct acpi){.pm_timer = {1, 32, 0x608}, .hpet = 0xFED00000};
}

static int calibrate(struct tsc_rate *r)
{
    struct acpi a = tables();
    return calibrate_tsc(&a, NULL, hpet, r);
}

static void check_rate(const struct tsc_rate *r, const char *source)
{
    uint64_t khz = m.tsc_hz / 1000, off = r->khz > khz ? r->khz - khz : khz - r->khz;
    CHECK_STR(r->source, source);
    CHECK(r->error_ppm <= 150);
    /* half a kHz is rounding */
    if (off > 1 + (r->error_ppm + 5ull) * khz / 1000000 || off > 1 + 150 * khz / 1000000) {
        unit_context("%u kHz of %u, said to be within %u ppm", r->khz, (unsigned int)khz, r->error_ppm);
        CHECK(false);
    }
}

/* Fast and slow processors, fast and slow clocks; an emulator that counts instructions. */
static void test_rates(void)
{
    static const struct {
        uint64_t hz, access_ns, tsc_ns;
        unsigned int most_us;
    } rows[] = {
        {2100000000, 1000, 10, 100000}, {3999999999, 700, 6, 100000}, {1000000000, 6, 2, 2000},
        {25000000, 300, 100, 100000},   {800123456, 50, 20, 20000},   {5700000000, 1300, 5, 100000},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        for (unsigned int clock = 0; clock < 3; clock++) {
            static const char *const names[] = {"ACPI PM timer", "HPET", "PIT"};
            struct tsc_rate r;
            machine(rows[i].hz, rows[i].access_ns, rows[i].tsc_ns);
            m.has_pm = clock == 0;
            m.hpet_fs = clock == 1 ? m.hpet_fs : 0;
            uint64_t begin = m.ps;
            unit_context("row %zu, %s", i, names[clock]);
            CHECK_EQ(calibrate(&r), OK);
            check_rate(&r, names[clock]);
            if (clock == 0)
                CHECK((m.ps - begin) / 1000000 < rows[i].most_us);
        }
}

static void test_disturbed(void)
{
    for (unsigned int every = 501; every < 50000; every = every * 3 + 1) {
        struct tsc_rate r;
        machine(2400000000, 1000, 10);
        m.stall_every = every;
        unit_context("every %u", every);
        CHECK_EQ(calibrate(&r), OK);
        check_rate(&r, "ACPI PM timer");
    }
}

static void test_false_clocks(void)
{
    struct tsc_rate r;
    machine(2400000000, 1000, 10);
    m.pm_back = true;
    CHECK_EQ(calibrate(&r), OK);
    check_rate(&r, "HPET");
    machine(2400000000, 1000, 10);
    m.pm_slow_from = m.ps + 25 * PS_PER_S / 1000; /* in the second round */
    CHECK_EQ(calibrate(&r), OK);
    check_rate(&r, "HPET");
    machine(2400000000, 1000, 10);
    m.has_pm = false;
    m.hpet_fs = 200000000; /* slower than allowed */
    CHECK_EQ(calibrate(&r), OK);
    check_rate(&r, "PIT");
    machine(100000, 1000, 10); /* a TSC that hardly moves */
    CHECK_EQ(calibrate(&r), (uint64_t)ERR_UNSUPPORTED);
    machine(2400000000, 1000, 10);
    m.has_pm = m.has_pit = false;
    m.hpet_fs = 0;
    CHECK_EQ(calibrate(&r), (uint64_t)ERR_UNSUPPORTED);
    m.crystal = (struct io_cpuid){2, 200, 24000000, 0};
    CHECK_EQ(calibrate(&r), OK);
    CHECK_EQ(r.khz, 2400000);
    CHECK_EQ(r.error_ppm, UINT32_MAX);
}

static void test_crystal(void)
{
    struct tsc_rate r;
    machine(2400240000, 1000, 10); /* 100 ppm off what it says */
    m.crystal = (struct io_cpuid){2, 200, 24000000, 0};
    CHECK_EQ(calibrate(&r), OK);
    CHECK_STR(r.source, "CPUID");
    CHECK_EQ(r.khz, 2400000);
    machine(50000000, 1000, 10); /* an emulator's */
    m.crystal = (struct io_cpuid){2, 200, 24000000, 0};
    CHECK_EQ(calibrate(&r), OK);
    check_rate(&r, "ACPI PM timer");
}

static void start_clock(uint64_t hz)
{
    char message[120];
    struct acpi a = tables();
    machine(hz, 1000, 10);
    CHECK_EQ(clock_init(&a, message, sizeof(message)), OK);
    CHECK(strncmp(message, "TSC ", 4) == 0);
    CHECK(strstr(message, "MHz by ACPI PM timer (within "));
    CHECK(strstr(message, ", not said to be invariant; the real-time clock has no date"));
}

static uint64_t fixed_tsc;

static uint64_t read_fixed_tsc(void)
{
    return fixed_tsc;
}

static void test_time(void)
{
    static const uint64_t hz[] = {1000000000, 25000000, 2100000000, 5700000000, 999983};
    for (size_t i = 0; i < ARRAY_SIZE(hz); i++) {
        start_clock(hz[i]);
        unit_context("%u kHz", clock_tsc_khz());
        uint64_t base = clock_tsc_at(0), khz = clock_tsc_khz();
        fake_io.tsc = read_fixed_tsc;
        fixed_tsc = base;
        CHECK_EQ(clock_ns(), 0);
        fixed_tsc = base - 100; /* another CPU's, a little behind */
        CHECK_EQ(clock_ns(), 0);
        for (unsigned int years = 1; years < 584 && years * 31556952ull < UINT64_MAX / 1000 / khz; years += 97) {
            uint64_t seconds = years * 31556952ull;
            fixed_tsc = base + seconds * 1000 * khz;
            uint64_t ns = clock_ns(), right = seconds * 1000000000;
            CHECK(ns <= right && right - ns <= right / 500000000 + 1);
        }
    }
}

/* The inverse is exact, everywhere. */
static void test_tsc_at(void)
{
    start_clock(2100000000);
    fake_io.tsc = read_fixed_tsc;
    CHECK_EQ(clock_tsc_at(UINT64_MAX), UINT64_MAX);
    uint64_t ns = 1;
    for (unsigned int i = 0; i < 3000; i++) {
        fixed_tsc = clock_tsc_at(ns);
        CHECK(clock_ns() >= ns);
        fixed_tsc--;
        CHECK(clock_ns() < ns);
        ns = i < 500 ? ns + 1 : ns + ns / 80 + (ns ^ 0x5A5A) % 1000;
    }
    CHECK(ns > 1000000000ull * 3600 * 24 * 365);
    start_clock(25000000);
    CHECK_EQ(clock_tsc_at(UINT64_MAX - 1) >= clock_tsc_at(1ull << 62), true);
}

static void test_distrust(void)
{
    start_clock(1000000000);
    fake_io.tsc = read_fixed_tsc;
    fixed_tsc = clock_tsc_at(5000);
    clock_distrust();
    CHECK_EQ(clock_ns(), 5000);
    fixed_tsc -= 1000;
    CHECK_EQ(clock_ns(), 5000);
    fixed_tsc += 1001;
    CHECK(clock_ns() > 5000);
}

/* --- two CPUs: two threads with a TSC each ------------------------------------------------------ */

static struct clock_pair pair;
static __thread int64_t tsc_offset;
static int64_t second_offset;
static int second_result;
static unsigned int tsc_sleeps_us;

static uint64_t host_tsc(void)
{
    if (tsc_sleeps_us > 0)
        usleep(tsc_sleeps_us);
    __builtin_ia32_lfence();
    return (uint64_t)((int64_t)__builtin_ia32_rdtsc() + tsc_offset);
}

static void *second_cpu(void *arg)
{
    (void)arg;
    tsc_offset = second_offset;
    second_result = clock_check_pair(&pair, 1);
    return NULL;
}

static int check_pair(int64_t offset)
{
    pthread_t thread;
    start_clock(2100000000);
    memset(&pair, 0, sizeof(pair));
    fake_io.tsc = host_tsc;
    second_offset = offset;
    CHECK_EQ(pthread_create(&thread, NULL, second_cpu, NULL), 0);
    int result = clock_check_pair(&pair, 0);
    pthread_join(thread, NULL);
    CHECK_EQ(result, (uint64_t)second_result);
    return result;
}

static void test_pair(void)
{
    CHECK_EQ(check_pair(0), OK);
    CHECK_EQ(pair.ahead, 0);
    CHECK_EQ(check_pair(1000000000000), (uint64_t)ERR_UNSUPPORTED);
    CHECK(pair.ahead > 900000000000 && pair.ahead < 1000000000000);
    CHECK_EQ(check_pair(-1000000000000), (uint64_t)ERR_UNSUPPORTED);
    CHECK(pair.ahead > 900000000000 && pair.ahead < 1000000000000);
}

/* Each turn takes as long as where CPUs run one after the other: few are enough. */
static void test_pair_slow(void)
{
    tsc_sleeps_us = 300;
    CHECK_EQ(check_pair(0), OK);
    CHECK(pair.turn == 1000 && pair.done == 2);
    CHECK_EQ(check_pair(1000000000000), (uint64_t)ERR_UNSUPPORTED);
    tsc_sleeps_us = 0;
}

static void test_pair_alone(void)
{
    start_clock(25000000);
    memset(&pair, 0, sizeof(pair));
    CHECK_EQ(clock_check_pair(&pair, 0), (uint64_t)ERR_BUSY);
    memset(&pair, 0, sizeof(pair));
    CHECK_EQ(clock_check_pair(&pair, 1), (uint64_t)ERR_BUSY);
}

int main(void)
{
    UNIT_RUN(test_rates);
    UNIT_RUN(test_disturbed);
    UNIT_RUN(test_false_clocks);
    UNIT_RUN(test_crystal);
    UNIT_RUN(test_time);
    UNIT_RUN(test_tsc_at);
    UNIT_RUN(test_distrust);
    UNIT_RUN(test_pair);
    UNIT_RUN(test_pair_slow);
    UNIT_RUN(test_pair_alone);
    return unit_done();
}
