/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Time by the TSC: it was measured at boot (calibrate.c) and is multiplied by nanoseconds per tick, a fraction
 * of 32.32 bits. The product has 128 bits, of which bits 32 to 95 are the result: nothing overflows before 2^64 ns
 * are over, and the fraction's own error is below 10^-9 at the highest frequency that is accepted. The other
 * direction is the exact inverse of this, a division, not a second fraction: deadlines of the far future would
 * drift from the clock that they are meant for.
 *
 * The TSC counts at one rate in all states of power if CPUID says that it is invariant, which is said at boot if
 * not (SDM vol. 3, 17.17.1; APM vol. 3, Fn8000_0007). Since reset at the same moment, the CPUs' agree, unless
 * firmware has set them; that is checked pair by pair as CPUs start, by stamps sent to and fro: a stamp must not be
 * in the future of who receives it. An offset smaller than what a cache line takes to go over cannot be seen, and
 * so cannot be seen by a guest either.
 *
 * State: one struct, written at boot before other CPUs run, but for `distrust` and `newest`, which are atomic. No
 * locks.
 */
#include "native/clock.h"

#include "core/clock.h"
#include "core/fmt.h"
#include "native/calibrate.h"
#include "native/cmos.h"
#include "native/frames.h"
#include "native/io.h"

enum {
    HPET_SIZE = 1024,
    PAIR_TURNS = 400,
    PAIR_TURNS_LEAST = 16,
    PAIR_END = 1000,
    NS_PER_MS = 1000000,
    INVARIANT_TSC = 1 << 8
};

static struct {
    uint64_t base;        /* the TSC at 0 ns */
    uint64_t ns_per_tick; /* 32.32; 0: not measured yet */
    uint64_t wall;        /* at 0 ns */
    uint32_t khz;
    _Atomic bool distrust;
    _Atomic uint64_t newest;
} clock;

static uint64_t ns_of(uint64_t ticks)
{
    return (uint64_t)((unsigned __int128)ticks * clock.ns_per_tick >> 32);
}

static uint64_t not_back(uint64_t ns)
{
    uint64_t newest = atomic_load_explicit(&clock.newest, memory_order_relaxed);

    while (newest < ns)
        if (atomic_compare_exchange_weak_explicit(&clock.newest, &newest, ns, memory_order_relaxed,
                                                  memory_order_relaxed))
            return ns;
    return newest;
}

uint64_t clock_ns(void)
{
    uint64_t now = io_tsc();

    /* A TSC that is behind the boot CPU's at the beginning: not before time began. */
    uint64_t ns = now > clock.base ? ns_of(now - clock.base) : 0;
    if (unlikely(atomic_load_explicit(&clock.distrust, memory_order_relaxed)))
        return not_back(ns);
    return ns;
}

/* The least t with t * ns_per_tick >> 32 >= ns is ns * 2^32 / ns_per_tick, rounded up. */
uint64_t clock_tsc_at(uint64_t ns)
{
    uint64_t ticks = scale_u64(ns, 1ull << 32, clock.ns_per_tick);

    if (ticks >= UINT64_MAX - clock.base - 1)
        return UINT64_MAX;
    return clock.base + ticks + (ns_of(ticks) < ns);
}

uint32_t clock_tsc_khz(void)
{
    return clock.khz;
}

uint64_t clock_wall_ns(void)
{
    return clock.wall + clock_ns();
}

void clock_distrust(void)
{
    atomic_store_explicit(&clock.distrust, true, memory_order_relaxed);
}

/* --- boot -------------------------------------------------------------------------------------- */

static void read_wall_clock(uint8_t century)
{
    struct cmos_time t;

    if (cmos_read(century, &t) != OK || cmos_to_ns(&t, &clock.wall) != OK)
        clock.wall = 0;
}

static bool is_invariant(void)
{
    return io_cpuid(0x80000000, 0).a >= 0x80000007 && (io_cpuid(0x80000007, 0).d & INVARIANT_TSC);
}

int clock_init(const struct acpi *a, char *message, size_t message_size)
{
    volatile void *pm_timer = NULL, *hpet = NULL;
    struct tsc_rate r;

    if (a->pm_timer.address != 0 && a->pm_timer.space == 0)
        pm_timer = map_device(a->pm_timer.address, 4, false);
    if (a->hpet != 0)
        hpet = map_device(a->hpet, HPET_SIZE, false);
    if (calibrate_tsc(a, pm_timer, hpet, &r) != OK) {
        (void)fmt(message, message_size,
                  "the TSC's frequency cannot be measured: PM timer, HPET and PIT give none");
        return ERR_UNSUPPORTED;
    }
    clock.khz = r.khz;
    clock.ns_per_tick = ((uint64_t)NS_PER_MS << 32) / r.khz;
    clock.newest = 0;
    clock.distrust = false;
    read_wall_clock(a->century);
    clock.base = io_tsc();
    size_t n = fmt(message, message_size, "TSC %u.%03u MHz by %s", r.khz / 1000, r.khz % 1000, r.source);
    if (r.error_ppm != UINT32_MAX && n < message_size)
        n += fmt(message + n, message_size - n, " (within %u ppm)", r.error_ppm);
    if (n < message_size)
        (void)fmt(message + n, message_size - n, "%s%s", is_invariant() ? "" : ", not said to be invariant",
                  clock.wall != 0 ? "" : "; the real-time clock has no date");
    return OK;
}

/* --- two CPUs ---------------------------------------------------------------------------------- */

/* PAIR_END always is what was waited for. */
static bool await(_Atomic uint32_t *word, uint32_t value)
{
    uint64_t begin = io_tsc();

    for (;;) {
        uint32_t v = atomic_load_explicit(word, memory_order_acquire);
        if (v == value || v == PAIR_END)
            return true;
        if (io_tsc() - begin > (uint64_t)clock.khz * 1000)
            return false;
        io_pause();
    }
}

static void send_stamp(struct clock_pair *p, uint32_t turn)
{
    atomic_store_explicit(&p->stamp, io_tsc(), memory_order_relaxed);
    atomic_store_explicit(&p->turn, turn, memory_order_release);
}

static void receive_stamp(struct clock_pair *p, int64_t *least)
{
    uint64_t now = io_tsc();
    int64_t age = (int64_t)(now - atomic_load_explicit(&p->stamp, memory_order_relaxed));

    if (age < *least)
        *least = age;
}

/*
 * Stamps go to and fro: odd turns are side 0's, even ones the answers. A millisecond is enough, if not too few got
 * through in it: an emulator on a busy host lets each CPU run in its turn, and a stamp takes as long as a turn.
 */
static bool exchange(struct clock_pair *p, uint32_t side, int64_t *least)
{
    uint64_t begin = io_tsc();

    for (uint32_t turn = 1; turn <= PAIR_TURNS; turn++) {
        if (turn % 2 != side) {
            bool enough = side == 0 && turn > PAIR_TURNS_LEAST && io_tsc() - begin > clock.khz;
            send_stamp(p, enough ? PAIR_END : turn);
            if (enough)
                return true;
        } else {
            if (!await(&p->turn, turn))
                return false;
            if (atomic_load_explicit(&p->turn, memory_order_relaxed) == PAIR_END)
                return true;
            receive_stamp(p, least);
        }
    }
    return true;
}

int clock_check_pair(struct clock_pair *p, uint32_t side)
{
    int64_t least = INT64_MAX, other;

    if (!exchange(p, side, &least))
        return ERR_BUSY;
    atomic_store_explicit(&p->least[side], least, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->done, 1, memory_order_release);
    if (!await(&p->done, 2))
        return ERR_BUSY;
    other = atomic_load_explicit(&p->least[1 - side], memory_order_relaxed);
    least = least < other ? least : other;
    if (side == 0)
        p->ahead = least < 0 ? -least : 0;
    return least < 0 ? ERR_UNSUPPORTED : OK;
}
