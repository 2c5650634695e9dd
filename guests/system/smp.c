/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Several processors: start by INIT and SIPI, IPIs of all kinds, TLB shoot-down, locked operations
 * on aligned and misaligned operands, memory order, CMPXCHG16B, cross-modifying code. */
#include "guests/lib/guest.h"

#define AREA   UINT64_C(0x4000000000)
#define ptr(a) ((void *)(uintptr_t)(a))

enum { MAX = 16, ROUNDS = 20000, MESSAGES = 2000, PATIENCE = 500000000 };

/* The others run one job after the other, as the boot processor says. */
static void (*volatile job)(unsigned int n);
static volatile unsigned int generation;
static _Atomic unsigned int done, here;
static unsigned int cpus;
static volatile uint32_t apic_ids[MAX];
static _Atomic unsigned int received[MAX];

static void others(unsigned int n)
{
    unsigned int seen = 0;
    if (n < MAX)
        apic_ids[n] = apic_read(APIC_ID) >> 24;
    here++;
    for (;;) {
        while (generation == seen)
            pause();
        seen = generation;
        job(n);
        done++;
    }
}

static bool wait_for(_Atomic unsigned int *counter, unsigned int value)
{
    for (long n = 0; n < PATIENCE; n++) {
        if (*counter >= value)
            return true;
        pause();
    }
    return false;
}

static void begin(void (*fn)(unsigned int n))
{
    done = 0;
    job = fn;
    generation++;
}

static void run_on_all(void (*fn)(unsigned int n))
{
    begin(fn);
    fn(0);
    CHECK(wait_for(&done, cpus - 1));
}

static void test_start(void)
{
    CHECK(wait_for(&here, cpus - 1));
    for (unsigned int n = 1; n < cpus; n++) {
        for (unsigned int m = 0; m < n; m++)
            CHECK(apic_ids[n] != apic_ids[m]);
    }
}

/* --- locked operations --- */

static volatile uint64_t counters[32] __attribute__((aligned(64)));

static void count(unsigned int n)
{
    volatile uint64_t *plain = &counters[0];
    /* across two cache lines, and (allocated below) across two pages */
    volatile uint64_t *split = (volatile uint64_t *)((uintptr_t)counters + 60);
    (void)n;
    for (int k = 0; k < ROUNDS; k++)
        __asm__ volatile("lock incq %0" : "+m"(*plain));
    for (int k = 0; k < ROUNDS / 100; k++)
        __asm__ volatile("lock incq %0" : "+m"(*split));
}

static void test_locked(void)
{
    for (unsigned int n = 0; n < 32; n++)
        counters[n] = 0;
    run_on_all(count);
    CHECK_EQ(counters[0], (uint64_t)cpus * ROUNDS);
    CHECK_EQ(*(volatile uint64_t *)((uintptr_t)counters + 60), (uint64_t)cpus * (ROUNDS / 100));
}

static void count_across_pages(unsigned int n)
{
    (void)n;
    for (int k = 0; k < ROUNDS / 100; k++)
        __asm__ volatile("lock addl $3, (%0)" : : "r"(AREA + 0x1000 - 2) : "memory", "cc");
}

static void test_locked_across_pages(void)
{
    guest_map(AREA, (uintptr_t)guest_page(), X86_PTE_P | X86_PTE_W, 0);
    guest_map(AREA + 0x1000, (uintptr_t)guest_page(), X86_PTE_P | X86_PTE_W, 0);
    run_on_all(count_across_pages);
    CHECK_EQ(*(volatile uint32_t *)ptr(AREA + 0x1000 - 2), 3 * cpus * (ROUNDS / 100));
}

/* 128 bits whose halves must always agree. */
static volatile uint64_t wide[2] __attribute__((aligned(16)));
static _Atomic unsigned int torn;

static void exchange_wide(unsigned int n)
{
    for (int k = 0; k < ROUNDS / 10; k++) {
        uint64_t low = wide[0], high = wide[1];
        bool ok;
        do {
            __asm__ volatile("lock cmpxchg16b %0; setz %1"
                             : "+m"(wide), "=q"(ok), "+a"(low), "+d"(high)
                             : "b"(low + 1), "c"(high + 1)
                             : "memory", "cc");
            if (!ok && low != high)
                torn++;
        } while (!ok);
    }
    (void)n;
}

static void test_cmpxchg16b(void)
{
    if (!(cpuid(1, 0).c >> 13 & 1)) {
        guest_skip("not offered");
        return;
    }
    run_on_all(exchange_wide);
    CHECK_EQ(torn, 0);
    CHECK_EQ(wide[0], (uint64_t)cpus * (ROUNDS / 10));
    CHECK_EQ(wide[1], wide[0]);
}

/* XCHG as a spin lock, with plain stores inside and for its release: needs stores in order. */
static volatile uint32_t spin;
static volatile uint64_t guarded[2];

static void with_lock(unsigned int n)
{
    (void)n;
    for (int k = 0; k < ROUNDS / 10; k++) {
        uint32_t v = 1;
        for (;;) {
            __asm__ volatile("xchg %0, %1" : "+r"(v), "+m"(spin) : : "memory");
            if (!v)
                break;
            pause();
            v = 1;
        }
        guarded[0]++;
        guarded[1]++;
        __asm__ volatile("movl $0, %0" : "=m"(spin) : : "memory");
    }
}

static void test_spin_lock(void)
{
    run_on_all(with_lock);
    CHECK_EQ(guarded[0], (uint64_t)cpus * (ROUNDS / 10));
    CHECK_EQ(guarded[1], guarded[0]);
}

/* Message passing: a flag that is seen means that the data before it is seen. */
static volatile uint64_t message, flag;
static _Atomic unsigned int stale;

static void receive(unsigned int n)
{
    if (n != 1)
        return;
    for (uint64_t k = 1; k <= MESSAGES; k++) {
        while (flag < k)
            pause();
        if (message < k)
            stale++;
        flag = 0;
    }
}

static void test_order(void)
{
    if (cpus < 2) {
        guest_skip("one processor");
        return;
    }
    flag = 0;
    begin(receive);
    for (uint64_t k = 1; k <= MESSAGES; k++) {
        message = k;
        flag = k;
        while (flag)
            pause();
    }
    CHECK(wait_for(&done, cpus - 1));
    CHECK_EQ(stale, 0);
}

/* --- IPIs --- */

static void on_ipi(struct guest_frame *f)
{
    uint32_t id = apic_read(APIC_ID) >> 24;
    (void)f;
    for (unsigned int n = 0; n < cpus; n++) {
        if (apic_ids[n] == id)
            received[n]++;
    }
    apic_write(APIC_EOI, 0);
}

static volatile bool listen;

static void open_up(unsigned int n)
{
    (void)n;
    __asm__ volatile("sti");
    while (listen)
        pause();
    __asm__ volatile("cli");
}

static void sleep_and_listen(unsigned int n)
{
    (void)n;
    while (listen)
        guest_wait();
}

static void exchange_ipis(void (*listener)(unsigned int))
{
    for (unsigned int n = 0; n < MAX; n++)
        received[n] = 0;
    listen = true;
    begin(listener);
    __asm__ volatile("sti");
    for (unsigned int n = 1; n < cpus; n++) {
        apic_send(apic_ids[n], 0x4050); /* fixed, physical */
        CHECK(wait_for(&received[n], 1));
    }
    apic_send(0, 0x84050); /* all, including self */
    for (unsigned int n = 0; n < cpus; n++)
        CHECK(wait_for(&received[n], n ? 2 : 1));
    apic_send(0, 0xC4050); /* all but self */
    for (unsigned int n = 1; n < cpus; n++)
        CHECK(wait_for(&received[n], 3));
    CHECK_EQ(received[0], 1);
    listen = false;
    apic_send(0, 0xC4050);
    CHECK(wait_for(&done, cpus - 1));
    __asm__ volatile("cli");
}

static void test_ipi(void)
{
    exchange_ipis(open_up);
}

static void test_ipi_wakes(void)
{
    exchange_ipis(sleep_and_listen);
}

/* --- TLB shoot-down --- */

static volatile uint64_t looked[MAX];
static _Atomic unsigned int flushed;

static void on_shoot_down(struct guest_frame *f)
{
    (void)f;
    invlpg(ptr(AREA + 0x5000));
    flushed++;
    apic_write(APIC_EOI, 0);
}

static void look(unsigned int n)
{
    __asm__ volatile("sti");
    while (listen) {
        looked[n] = *(volatile uint64_t *)ptr(AREA + 0x5000);
        pause();
    }
    __asm__ volatile("cli");
}

static void test_shoot_down(void)
{
    uint64_t page[2] = {(uintptr_t)guest_page(), (uintptr_t)guest_page()};
    *(uint64_t *)ptr(page[0]) = 1000;
    *(uint64_t *)ptr(page[1]) = 1001;
    guest_map(AREA + 0x5000, page[0], X86_PTE_P | X86_PTE_W, 0);
    listen = true;
    begin(look);
    for (unsigned int round = 1; round <= 20; round++) {
        flushed = 0;
        guest_map(AREA + 0x5000, page[round & 1], X86_PTE_P | X86_PTE_W, 0);
        apic_send(0, 0xC4051);
        CHECK(wait_for(&flushed, cpus - 1));
        for (unsigned int n = 1; n < cpus; n++) {
            looked[n] = 0;
            for (long k = 0; !looked[n] && k < PATIENCE; k++)
                pause();
            /* the look that was under way may be of before; the next may not */
            looked[n] = 0;
            for (long k = 0; !looked[n] && k < PATIENCE; k++)
                pause();
            CHECK_EQ(looked[n], 1000 + (round & 1));
        }
    }
    listen = false;
    CHECK(wait_for(&done, cpus - 1));
}

/* --- cross-modifying code --- */

static uint8_t *code;
static _Atomic unsigned int wrong;
static volatile uint32_t version;

/* By the book (SDM 3A, 8.1.3): after it has seen that the code is ready, a processor serialises
 * itself, and then must run the new code. */
static void run_code(unsigned int n)
{
    (void)n;
    while (listen) {
        uint32_t before = version, got;
        (void)cpuid(0, 0);
        __asm__ volatile("call *%1" : "=a"(got) : "r"(code) : "memory");
        if (got < before)
            wrong++;
        pause();
    }
}

static void test_cross_modifying(void)
{
    code = (uint8_t *)guest_page() + 3; /* so that the immediate is aligned */
    code[0] = 0xB8;                     /* mov eax, imm32 */
    code[5] = 0xC3;
    *(volatile uint32_t *)(code + 1) = 0;
    version = 0;
    listen = true;
    begin(run_code);
    for (uint32_t k = 1; k <= 500; k++) {
        *(volatile uint32_t *)(code + 1) = k;
        version = k;
        for (int p = 0; p < 20; p++)
            pause();
    }
    listen = false;
    CHECK(wait_for(&done, cpus - 1));
    CHECK_EQ(wrong, 0);
}

int main(void)
{
    cpus = smp_count();
    if (cpus > MAX)
        guest_die("too many processors");
    apic_ids[0] = apic_read(APIC_ID) >> 24;
    guest_check_interrupts();
    guest_set_handler(0x50, on_ipi);
    guest_set_handler(0x51, on_shoot_down);
    apic_enable();
    if (cpus > 1)
        smp_start(others);
    guest_print("%u processors\n", cpus);
    GUEST_RUN(test_start);
    GUEST_RUN(test_locked);
    GUEST_RUN(test_locked_across_pages);
    GUEST_RUN(test_cmpxchg16b);
    GUEST_RUN(test_spin_lock);
    GUEST_RUN(test_order);
    GUEST_RUN(test_ipi);
    GUEST_RUN(test_ipi_wakes);
    GUEST_RUN(test_shoot_down);
    GUEST_RUN(test_cross_modifying);
    return guest_done();
}
