/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The local APIC (SDM 3A, chapter 10): interrupts between CPUs and the timer.
 *
 * x2APIC is used if the firmware has left it on, if some CPU's number needs it, or if the command line asks; else
 * xAPIC, in memory. Interrupts are sent with physical destinations, fixed. The timer is in TSC-deadline mode where
 * there is one; else it counts down once: a deadline that is too far for 32 bits is reached in several steps, which
 * nobody hears of.
 *
 * All functions act on the CPU that calls, interrupts off; the variables are written at start-up only.
 */
#include "native/apic.h"

#include "core/seam.h"
#include "engine/hw.h"
#include "isa/x86.h"
#include "native/acpi.h"
#include "native/cpu.h"
#include "native/features.h"
#include "native/frames.h"
#include "native/insn.h"
#include "native/memory.h"
#include "native/thread.h"
#include "native/trap.h"

enum { /* offsets in the page; x2APIC's MSRs are 0x800 + offset / 16 */
    APIC_ID = 0x20,
    APIC_VERSION = 0x30,
    APIC_TPR = 0x80,
    APIC_EOI = 0xB0,
    APIC_SVR = 0xF0,
    APIC_ESR = 0x280,
    APIC_LVT_CMCI = 0x2F0,
    APIC_ICR = 0x300,
    APIC_ICR_HIGH = 0x310,
    APIC_LVT_TIMER = 0x320,
    APIC_LVT_THERMAL = 0x330,
    APIC_LVT_PERFORMANCE = 0x340,
    APIC_LVT_LINT0 = 0x350,
    APIC_LVT_LINT1 = 0x360,
    APIC_LVT_ERROR = 0x370,
    APIC_TIMER_INITIAL = 0x380,
    APIC_TIMER_CURRENT = 0x390,
    APIC_TIMER_DIVIDE = 0x3E0,
};

enum {
    LVT_MASKED = 1 << 16,
    LVT_NMI = 4 << 8,
    LVT_DEADLINE = 2 << 17,
    SVR_ON = 1 << 8,
    ICR_FIXED = 1 << 14, /* level: assert */
    ICR_NMI = 1 << 14 | 4 << 8,
    ICR_INIT = 1 << 14 | 5 << 8,
    ICR_STARTUP = 1 << 14 | 6 << 8,
    ICR_SELF = 1 << 18,
    ICR_BUSY = 1 << 12,
    BUSY_POLLS = 1000000,
    DIVIDE_BY_16 = 3,
    CALIBRATE_US = 1000, /* the registers are read in a microsecond: 0.1 %, and who is woken too soon looks again */
};

static struct {
    bool x2apic;
    volatile uint32_t *page;
    uint32_t timer_khz; /* after division */
} apic;

static uint32_t read_register(uint32_t r)
{
    return apic.x2apic ? (uint32_t)rdmsr(MSR_X2APIC_FIRST + r / 16) : apic.page[r / 4];
}

static void write_register(uint32_t r, uint32_t value)
{
    if (apic.x2apic)
        wrmsr(MSR_X2APIC_FIRST + r / 16, value);
    else
        apic.page[r / 4] = value;
}

/* --- start-up ----------------------------------------------------------------------------------- */

static bool numbers_need_x2apic(const struct acpi *a)
{
    for (uint32_t i = 0; i < a->cpus; i++) {
        if (a->apic_id[i] > 254)
            return true;
    }
    return false;
}

static void tick(void);
static void kicked(void);

int apic_init(const struct acpi *a, bool want_x2apic)
{
    uint64_t base = rdmsr(MSR_APIC_BASE);

    apic.x2apic = (base & X86_APIC_BASE_X2APIC) || (features.x2apic && (want_x2apic || numbers_need_x2apic(a)));
    if (!apic.x2apic) {
        apic.page = map_device(a->lapic, PAGE_SIZE, false);
        if (!apic.page)
            return ERR_NO_MEMORY;
    }
    trap_set_handler(VECTOR_TIMER, tick);
    trap_set_handler(VECTOR_KICK, kicked);
    apic_cpu_init();
    return OK;
}

void apic_cpu_init(void)
{
    static const uint16_t mask[] = {APIC_LVT_TIMER, APIC_LVT_LINT0, APIC_LVT_ERROR};
    /* What firmware has left in these would come as an interrupt or NMI of its own. The version says how many there are (10.4.8). */
    static const uint16_t later[] = {APIC_LVT_PERFORMANCE, APIC_LVT_THERMAL, APIC_LVT_CMCI};
    uint64_t base = rdmsr(MSR_APIC_BASE);

    if (!(base & X86_APIC_BASE_ENABLE))
        wrmsr(MSR_APIC_BASE, base |= X86_APIC_BASE_ENABLE); /* not to x2APIC in one step (10.12.5) */
    if (apic.x2apic && !(base & X86_APIC_BASE_X2APIC))
        wrmsr(MSR_APIC_BASE, base | X86_APIC_BASE_X2APIC);
    for (size_t i = 0; i < ARRAY_SIZE(mask); i++)
        write_register(mask[i], LVT_MASKED);
    for (uint32_t i = 0, last = read_register(APIC_VERSION) >> 16 & 0xFF; i < ARRAY_SIZE(later); i++)
        if (last >= 4 + i)
            write_register(later[i], LVT_MASKED);
    write_register(APIC_LVT_LINT1, LVT_NMI);
    write_register(APIC_TPR, 0);
    write_register(APIC_SVR, SVR_ON | VECTOR_SPURIOUS);
    write_register(APIC_ESR, 0);
    write_register(APIC_TIMER_INITIAL, 0);
    write_register(APIC_TIMER_DIVIDE, DIVIDE_BY_16);
    write_register(APIC_LVT_TIMER, VECTOR_TIMER | (features.tsc_deadline ? LVT_DEADLINE : 0));
    __asm__ volatile("mfence" : : : "memory"); /* before the first deadline (10.5.4.1) */
}

uint32_t apic_id(void)
{
    return apic.x2apic ? read_register(APIC_ID) : read_register(APIC_ID) >> 24;
}

bool apic_is_x2apic(void)
{
    return apic.x2apic;
}

bool apic_has_deadline(void)
{
    return features.tsc_deadline;
}

uint32_t apic_timer_khz(void)
{
    return apic.timer_khz;
}

void apic_delay_us(uint32_t us)
{
    uint64_t until = rdtsc() + (uint64_t)us * hw_tsc_khz() / 1000;

    while ((int64_t)(rdtsc() - until) < 0)
        __builtin_ia32_pause();
}

void apic_calibrate(void)
{
    uint64_t from, ticks, elapsed;

    if (features.tsc_deadline)
        return;
    write_register(APIC_LVT_TIMER, LVT_MASKED | VECTOR_TIMER);
    write_register(APIC_TIMER_INITIAL, UINT32_MAX);
    from = rdtsc();
    apic_delay_us(CALIBRATE_US);
    ticks = UINT32_MAX - read_register(APIC_TIMER_CURRENT);
    elapsed = rdtsc() - from;
    write_register(APIC_TIMER_INITIAL, 0);
    write_register(APIC_LVT_TIMER, VECTOR_TIMER);
    apic.timer_khz = (uint32_t)(ticks * hw_tsc_khz() / elapsed);
}

/* --- the timer ---------------------------------------------------------------------------------- */

/* Counts of the timer until then, at least 1; what is too far: as far as it goes. */
static uint32_t counts_until(uint64_t deadline_ns, uint64_t now)
{
    uint64_t ns = deadline_ns > now ? deadline_ns - now : 0, counts;

    if (ns > UINT64_MAX / UINT32_MAX)
        ns = UINT64_MAX / UINT32_MAX;
    counts = ns * apic.timer_khz / 1000000 + 1;
    return counts < UINT32_MAX ? (uint32_t)counts : UINT32_MAX;
}

void cpu_arm_timer(uint64_t deadline_ns, uint64_t now)
{
    uint64_t at;

    this_cpu()->timer_armed = deadline_ns;
    if (features.tsc_deadline) {
        at = deadline_ns == UINT64_MAX ? 0 : hw_tsc_at(deadline_ns);
        wrmsr(MSR_TSC_DEADLINE, deadline_ns != UINT64_MAX && at == 0 ? 1 : at);
    } else {
        write_register(APIC_TIMER_INITIAL, deadline_ns == UINT64_MAX ? 0 : counts_until(deadline_ns, now));
    }
}

static void tick(void)
{
    if (this_cpu()->timer_armed != UINT64_MAX) /* else disarmed as it fired */
        scheduler_timer_fired();
}

/* --- to other CPUs ------------------------------------------------------------------------------ */

/* One message is in delivery at a time in xAPIC mode; the wait is bounded, since a panic sends, too. */
static void send(uint32_t to, uint32_t command)
{
    if (apic.x2apic) {
        __asm__ volatile("mfence; lfence" : : : "memory"); /* what it is about is visible before (10.12.3) */
        wrmsr(MSR_X2APIC_FIRST + APIC_ICR / 16, (uint64_t)to << 32 | command);
        return;
    }
    for (uint32_t i = 0; i < BUSY_POLLS && (read_register(APIC_ICR) & ICR_BUSY); i++)
        __builtin_ia32_pause();
    write_register(APIC_ICR_HIGH, to << 24);
    write_register(APIC_ICR, command);
}

void cpu_send_ipi(uint32_t cpu, uint8_t vector)
{
    send(cpu_table[cpu]->apic_id, ICR_FIXED | vector);
}

void apic_send_init(uint32_t to)
{
    send(to, ICR_INIT);
}

void apic_send_startup(uint32_t to, uint64_t page)
{
    send(to, ICR_STARTUP | (uint32_t)(page >> PAGE_SHIFT));
}

void apic_send_nmi(uint32_t to)
{
    send(to, ICR_NMI);
}

/* By the shorthand, which leaves the destination's half alone. */
void apic_kick_self(void)
{
    if (!apic.x2apic && !apic.page)
        return;
    write_register(APIC_ICR, ICR_SELF | ICR_FIXED | VECTOR_KICK);
}

void apic_end_interrupt(void)
{
    write_register(APIC_EOI, 0);
}

/* To be out of guest code, or out of HLT, was the point; and to forget what is not mapped any more. */
static void kicked(void)
{
    paging_catch_up();
    if (cpu_is_stopping())
        cpu_stop_here();
}
