/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Users of the processor, each of a manner, for those who watch how it is shared (tests/native/shares.py). On the command
 * line, in microseconds of the guest's TSC:
 *
 *   (nothing)             computes without end, on all vCPUs
 *   rest=1                halts for good, with no timer
 *   on=N off=M            computes for N, sleeps for M, by the wall clock, without end
 *   wake=N work=M count=K sleeps N, computes M rounds of a loop; K times. Then it says how long it took from when it
 *                         was to wake till it ran, in nanoseconds, and halts:
 *
 *                           shares: wake of 2000: p50 1234 p99 2345 max 3456 ns
 *   lock=N [work=M]       each vCPU computes M rounds of a loop, then takes one ticket lock, which it holds for N rounds; says how often
 *                         it was taken in each tenth of a second:
 *
 *                           shares: lock 12345
 */
#include "guests/lib/guest.h"

enum { TIMER = 0x50, DEADLINE = 2 << 17, MSR_DEADLINE = 0x6E0, COUNT_MAX = 20000, BETWEEN_PAUSES = 4096, TSC_LEAF = 0x40000010 };

static uint64_t khz;
static volatile bool due;
static uint64_t late[COUNT_MAX];

static uint64_t ticks_of(uint64_t us)
{
    return us * khz / 1000;
}

static void on_timer(struct guest_frame *f)
{
    (void)f;
    due = true;
    apic_write(APIC_EOI, 0);
}

/* A PAUSE now and then is where QEMU, when it counts instructions, lets its next processor run; without, one of two that compute stands
 * still for tens of milliseconds (docs/rig.md). They are too far apart for a processor's own pause filter. */
static void rounds(uint64_t n)
{
    for (uint64_t i = 1; i <= n; i++) {
        __asm__ volatile("" : : : "memory");
        if (i % BETWEEN_PAUSES == 0)
            pause();
    }
}

/* --- one vCPU ------------------------------------------------------------------------------------ */

static void set_up_timer(void)
{
    guest_set_handler(TIMER, on_timer);
    apic_enable();
    apic_write(APIC_LVT_TIMER, DEADLINE | TIMER);
}

/* How late it was, in ticks. */
static uint64_t sleep_until(uint64_t at)
{
    due = false;
    wrmsr(MSR_DEADLINE, at);
    while (!due)
        guest_wait();
    return rdtsc() - at;
}

static void sort(uint64_t *v, uint64_t n)
{
    for (uint64_t gap = n / 2; gap; gap /= 2) {
        for (uint64_t i = gap; i < n; i++) {
            uint64_t x = v[i], k = i;

            for (; k >= gap && v[k - gap] > x; k -= gap)
                v[k] = v[k - gap];
            v[k] = x;
        }
    }
}

static uint64_t ns_of(uint64_t ticks)
{
    return ticks * 1000000 / khz;
}

static void wake_and_work(uint64_t us, uint64_t work, uint64_t count)
{
    if (count > COUNT_MAX)
        count = COUNT_MAX;
    for (uint64_t i = 0; i < count; i++) {
        late[i] = sleep_until(rdtsc() + ticks_of(us));
        rounds(work);
    }
    sort(late, count);
    guest_print("shares: wake of %lu: p50 %lu p99 %lu max %lu ns\n", count, ns_of(late[count / 2]),
                ns_of(late[count * 99 / 100]), ns_of(late[count - 1]));
}

static _Noreturn void come_and_go(uint64_t on, uint64_t off)
{
    for (;;) {
        uint64_t until = rdtsc() + ticks_of(on);

        while (rdtsc() < until)
            rounds(100);
        (void)sleep_until(rdtsc() + ticks_of(off));
    }
}

static _Noreturn void rest(void)
{
    for (;;)
        __asm__ volatile("cli; hlt");
}

/* --- all ----------------------------------------------------------------------------------------- */

static void spin(unsigned int n)
{
    (void)n;
    for (;;)
        rounds(BETWEEN_PAUSES);
}

static volatile uint32_t next_ticket, served;
static volatile uint64_t taken;
static uint64_t held, outside;

static void take_turns(unsigned int n)
{
    uint64_t tenth = ticks_of(100000), until = rdtsc() + tenth, last = 0;

    for (;;) {
        uint32_t mine;

        rounds(outside);
        mine = __atomic_fetch_add(&next_ticket, 1, __ATOMIC_SEQ_CST);
        while (served != mine)
            pause();
        rounds(held);
        taken++;
        served = mine + 1;
        if (n == 0 && rdtsc() >= until) {
            guest_print("shares: lock %lu\n", taken - last);
            last = taken;
            until = rdtsc() + tenth;
        }
    }
}

static _Noreturn void on_all(void (*fn)(unsigned int n))
{
    apic_enable();
    if (smp_count() > 1)
        smp_start(fn);
    fn(0);
    guest_die("it came back");
}

int main(void)
{
    uint64_t wake = guest_argument("wake="), on = guest_argument("on=");

    khz = cpuid(TSC_LEAF, 0).a;
    held = guest_argument("lock=");
    outside = guest_argument("work=");
    guest_buffer_output();
    guest_print("shares: begins\n");
    if (held)
        on_all(take_turns);
    if (!wake && !on && !guest_argument("rest="))
        on_all(spin);
    set_up_timer();
    if (wake)
        wake_and_work(wake, guest_argument("work="), guest_argument("count="));
    else if (on)
        come_and_go(on, guest_argument("off="));
    rest();
}
