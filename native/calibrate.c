/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The TSC's frequency, measured against a clock whose frequency is known: the ACPI PM timer (3.579545 MHz), else
 * the HPET (says its own), else the PIT (1.193182 MHz).
 *
 * What is measured is bounded, not guessed. Such a clock is read again and again; when its value changes, the edge
 * lies between the TSC before the read that still gave the old value and the TSC after the one that gave the new.
 * Two such edges give an interval in ticks, exact, and one in TSC, known up to half the widths of both brackets:
 * that is the error. A round goes on until the error is small (ROUND_PPM) or ROUND_FS have gone by. So it takes 20
 * ms where a read takes a microsecond, as on real machines, and less than one under an emulator that counts
 * instructions, where the cost of booting is counted too. Of a few edges in a row the sharpest is taken: a system
 * management interrupt or an emulator's thread that was not run makes a wide bracket.
 *
 * ROUNDS of these must agree within their errors and DRIFT_PPM, else the clock is not believed and the next one is
 * tried; the result is that of the whole span, from the first round's first edge to the last one's last. A clock is
 * not there if it does not move in DEAD_READS, and not believed if it goes back.
 *
 * Processors that know their frequency (CPUID 15H) are taken at their word if it agrees with what was measured, or
 * if there is nothing to measure by.
 *
 * No state, no locks.
 */
#include "native/calibrate.h"

#include "core/clock.h"
#include "native/io.h"

enum {
    ROUNDS = 3,
    ROUND_PPM = 100,
    DRIFT_PPM = 200,
    CPUID_PPM = 1000,
    EDGES = 4,
    DEAD_READS = 100000,
    READS_MAX = 5000000, /* of one clock, in all */
    KHZ_MIN = 500,
    KHZ_MAX = 20000000,
    PPM = 1000000,

    PM_TIMER_FS = 279365114, /* ACPI 4.8.2.1 */
    PIT_FS = 838095345,      /* 8254; the same crystal, a twelfth of 14.31818 MHz */
    HPET_FS_MAX = 100000000, /* IA-PC HPET 2.3.4: at least 10 MHz */
    HPET_FS_MIN = 100000,    /* faster than any */
    HPET_CONFIG = 0x10,
    HPET_ENABLE = 1 << 0,
    HPET_PERIOD = 0x04,
    HPET_COUNTER = 0xF0,

    PORT_PIT_CHANNEL_2 = 0x42,
    PORT_PIT_CONTROL = 0x43,
    PIT_CHANNEL_2_MODE_0 = 0xB0, /* both bytes, binary */
    PIT_LATCH_CHANNEL_2 = 0x80,
    PORT_B = 0x61,
    PORT_B_GATE_2 = 1 << 0,
    PORT_B_SPEAKER = 1 << 1,
};
#define ROUND_FS 20000000000000ull /* 20 ms */

/* A counter, going up. */
struct reference {
    const char *name;
    uint32_t (*read)(const struct reference *r);
    uint32_t mask, period_fs;
    uint16_t port;
    const volatile uint8_t *memory;
};

struct meter {
    const struct reference *reference;
    uint64_t ticks; /* since the first read */
    uint32_t value;
    uint32_t reads;
};

struct edge {
    uint64_t ticks;
    uint64_t low, high; /* the TSC was in between */
};

struct span {
    uint64_t tsc, fs;
    uint32_t khz, error_ppm;
};

/* The next change of the counter; false: dead, went back, or too many reads. */
static bool next_edge(struct meter *m, struct edge *e)
{
    const struct reference *r = m->reference;
    uint64_t before = io_tsc();

    m->value = m->reads == 0 ? r->read(r) : m->value;
    for (uint32_t n = 0; n < DEAD_READS && m->reads < READS_MAX; n++) {
        uint64_t start = io_tsc();
        uint32_t v = r->read(r), step = (v - m->value) & r->mask;
        m->reads++;
        if (step > r->mask / 2)
            return false;
        if (step != 0) {
            m->value = v;
            m->ticks += step;
            /* Of the first read after a pause it is not known when the value before it was still there. */
            *e = (struct edge){m->ticks, before, io_tsc()};
            if (n > 0)
                return true;
        }
        before = start;
    }
    return false;
}

static bool sharpest_edge(struct meter *m, struct edge *best)
{
    struct edge e;

    for (uint32_t i = 0; i < EDGES; i++) {
        if (!next_edge(m, &e))
            return false;
        if (i == 0 || e.high - e.low < best->high - best->low)
            *best = e;
    }
    return true;
}

/* From one edge to another. High brackets are rounded against us. */
static struct span span_of(const struct reference *r, const struct edge *a, const struct edge *b)
{
    struct span s = {.fs = (b->ticks - a->ticks) * r->period_fs};
    uint64_t width = (a->high - a->low) / 2 + (b->high - b->low) / 2 + 2, khz, ppm;

    s.tsc = b->low / 2 + b->high / 2 - (a->low / 2 + a->high / 2);
    khz = (scale_u64(s.tsc, 2000000000000ull, s.fs) + 1) / 2;
    ppm = scale_u64(width, PPM, s.tsc);
    s.khz = khz > UINT32_MAX ? UINT32_MAX : (uint32_t)khz;
    s.error_ppm = ppm > UINT32_MAX ? UINT32_MAX : (uint32_t)ppm;
    return s;
}

static bool round_of(struct meter *m, struct edge *a, struct edge *b, struct span *s)
{
    if (!sharpest_edge(m, a))
        return false;
    do {
        if (!sharpest_edge(m, b))
            return false;
        *s = span_of(m->reference, a, b);
    } while (s->error_ppm > ROUND_PPM && s->fs < ROUND_FS);
    return s->khz >= KHZ_MIN && s->khz <= KHZ_MAX;
}

/* |a - b| <= ppm millionths of b */
static bool agree(uint32_t a, uint32_t b, uint64_t ppm)
{
    uint64_t difference = a > b ? a - b : b - a;

    return difference * PPM <= ppm * b;
}

static bool measure(const struct reference *r, struct tsc_rate *rate)
{
    struct meter m = {.reference = r};
    struct edge first, a, b;
    struct span s[ROUNDS], whole;

    for (uint32_t i = 0; i < ROUNDS; i++) {
        if (!round_of(&m, i == 0 ? &first : &a, &b, &s[i]))
            return false;
        if (!agree(s[i].khz, s[0].khz, (uint64_t)s[i].error_ppm + s[0].error_ppm + DRIFT_PPM))
            return false;
    }
    whole = span_of(r, &first, &b);
    *rate = (struct tsc_rate){whole.khz, whole.error_ppm, r->name};
    return true;
}

/* --- clocks ------------------------------------------------------------------------------------ */

static uint32_t read_port(const struct reference *r)
{
    return io_in32(r->port);
}

static uint32_t read_memory(const struct reference *r)
{
    return io_read32(r->memory);
}

static uint32_t read_pit(const struct reference *r)
{
    uint32_t low;

    (void)r;
    io_out8(PORT_PIT_CONTROL, PIT_LATCH_CHANNEL_2);
    low = io_in8(PORT_PIT_CHANNEL_2);
    return 0xFFFF - (low | (uint32_t)io_in8(PORT_PIT_CHANNEL_2) << 8); /* it counts down */
}

static bool by_pm_timer(const struct acpi *a, const volatile void *memory, struct tsc_rate *rate)
{
    struct reference r = {"ACPI PM timer",
                          read_port,
                          a->pm_timer_32 ? UINT32_MAX : 0xFFFFFF,
                          PM_TIMER_FS,
                          (uint16_t)a->pm_timer.address,
                          memory};

    if (a->pm_timer.address == 0 || (a->pm_timer.space == 0 && !memory))
        return false;
    if (a->pm_timer.space == 0)
        r.read = read_memory;
    return measure(&r, rate);
}

/* IA-PC HPET 2.3: its low half is enough; 4.3 s at the fastest */
static bool by_hpet(volatile uint8_t *memory, struct tsc_rate *rate)
{
    struct reference r = {"HPET", read_memory, UINT32_MAX, 0, 0, memory + HPET_COUNTER};

    if (!memory)
        return false;
    r.period_fs = io_read32(memory + HPET_PERIOD);
    if (r.period_fs < HPET_FS_MIN || r.period_fs > HPET_FS_MAX)
        return false;
    uint32_t config = io_read32(memory + HPET_CONFIG);
    if (!(config & HPET_ENABLE))
        io_write32(memory + HPET_CONFIG, config | HPET_ENABLE);
    return measure(&r, rate);
}

/* Channel 2, which has a gate and makes no interrupt; in mode 0 it goes on through zero. */
static bool by_pit(struct tsc_rate *rate)
{
    static const struct reference r = {"PIT", read_pit, 0xFFFF, PIT_FS, 0, NULL};
    uint8_t b = io_in8(PORT_B);
    bool ok;

    io_out8(PORT_B, (uint8_t)((b & ~PORT_B_SPEAKER) | PORT_B_GATE_2));
    io_out8(PORT_PIT_CONTROL, PIT_CHANNEL_2_MODE_0);
    io_out8(PORT_PIT_CHANNEL_2, 0xFF);
    io_out8(PORT_PIT_CHANNEL_2, 0xFF);
    ok = measure(&r, rate);
    io_out8(PORT_B, b);
    return ok;
}

/* SDM vol. 2, CPUID 15H: crystal (ECX, Hz) times EBX / EAX. 0: it does not say. */
static uint32_t khz_by_cpuid(void)
{
    struct io_cpuid c = io_cpuid(0, 0);

    if (c.a < 0x15)
        return 0;
    c = io_cpuid(0x15, 0);
    if (c.a == 0 || c.b == 0 || c.c == 0)
        return 0;
    uint64_t khz = (uint64_t)c.c * c.b / c.a / 1000;
    return khz >= KHZ_MIN && khz <= KHZ_MAX ? (uint32_t)khz : 0;
}

int calibrate_tsc(const struct acpi *a, const volatile void *pm_timer, volatile void *hpet, struct tsc_rate *r)
{
    uint32_t said = khz_by_cpuid();

    if (by_pm_timer(a, pm_timer, r) || by_hpet(hpet, r) || by_pit(r)) {
        if (said != 0 && agree(said, r->khz, (uint64_t)r->error_ppm + CPUID_PPM)) {
            r->khz = said;
            r->source = "CPUID";
        }
        return OK;
    }
    *r = (struct tsc_rate){said, UINT32_MAX, "CPUID alone"};
    return said != 0 ? OK : ERR_UNSUPPORTED;
}
