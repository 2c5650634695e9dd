/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The platform tried from inside, when the command line says so: faults that must end in a panic of one kind, before
 * other CPUs run; and checks, on all CPUs, of what no unit test reaches: page tables, other CPUs' TLBs, timers,
 * interrupts between CPUs. The result is one line, "self-test: N checks, M failed"; each that fails says its place.
 */
#include "native/selftest.h"

#include <stdatomic.h>

#include "core/assert.h"
#include "core/mem.h"
#include "engine/hw.h"
#include "native/acpi.h"
#include "native/apic.h"
#include "native/boot_info.h"
#include "native/cpu.h"
#include "native/frames.h"
#include "native/layout.h"
#include "native/log.h"
#include "native/main.h"
#include "native/memory.h"
#include "native/power.h"
#include "native/stack.h"
#include "native/thread.h"

/* --- deliberate faults -------------------------------------------------------------------------- */

static noinline_cold uint32_t overflow_stack(uint32_t depth)
{
    volatile uint8_t room[256];

    room[0] = (uint8_t)depth;
    return depth == UINT32_MAX ? 0 : overflow_stack(depth + 1) + room[0];
}

static noinline_cold void write_to(uint64_t address)
{
    volatile uint8_t *volatile p = (volatile uint8_t *)address;

    *p = 0;
}

static void fault_panic(void)
{
    panic("as the command line asked");
}

static void fault_null(void)
{
    write_to(8);
}

static void fault_stack(void)
{
    log_line("%u", overflow_stack(0));
}

static void fault_constants(void)
{
    write_to((uint64_t)LODGE_VERSION);
}

static void fault_code(void)
{
    write_to((uint64_t)fault_code);
}

/* By the direct map's address, where RAM is writable. */
static void fault_code_direct(void)
{
    write_to((uint64_t)hw_virt(hw_phys((const void *)(uint64_t)fault_code)));
}

static void fault_run_data(void)
{
    static const uint8_t code[] = {0xC3};

    ((void (*)(void))(uint64_t)code)();
}

static void fault_run_direct(void)
{
    ((void (*)(void))hw_virt(hw_phys((const void *)(uint64_t)fault_null)))();
}

/* What the firmware's map does not have is not in the direct map. */
static void fault_device(void)
{
    write_to(LAYOUT_DIRECT + 0xFEE00020);
}

static void fault_divide(void)
{
    __asm__ volatile("xor %%edx, %%edx; xor %%ecx, %%ecx; div %%ecx" : : : "rax", "rcx", "rdx");
}

void selftest_faults(const struct boot_info *b)
{
    static const struct {
        const char *name;
        void (*fault)(void);
    } faults[] = {
        {"test-panic", fault_panic},           {"test-null", fault_null},         {"test-stack", fault_stack},
        {"test-constants", fault_constants}, {"test-code", fault_code}, {"test-code-direct", fault_code_direct},
        {"test-run-data", fault_run_data},     {"test-run-direct", fault_run_direct}, {"test-device", fault_device},
        {"test-divide", fault_divide},
    };

    for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
        if (boot_info_option(b, faults[i].name))
            faults[i].fault();
    }
}

void selftest_machine(const struct boot_info *b, struct acpi *a)
{
    if (boot_info_option(b, "test-lost-cpu") && a->cpus < ACPI_CPUS)
        a->apic_id[a->cpus++] = 200;
}

/* --- checks ------------------------------------------------------------------------------------- */

static uint32_t checks, failed;

static void check(bool ok, int line, const char *what)
{
    checks++;
    if (ok)
        return;
    failed++;
    log_line("self-test: %s:%d: %s", __FILE__, line, what);
}
#define CHECK(x) check((x), __LINE__, #x)

static uint64_t free_bytes(void)
{
    uint64_t total, bytes;

    frames_count(&total, &bytes);
    return bytes;
}

/* Filled, read back by the direct map, given back; again at the same address, zeroed. */
static void check_window(uint64_t size)
{
    uint64_t before, *w, *again;
    bool right = true, zero = true;

    CHECK(window_alloc(size, FRAME_GUEST, (void **)&w) == OK); /* page tables that stay */
    window_free(w, size);
    before = free_bytes();
    CHECK(window_alloc(size, FRAME_GUEST, (void **)&w) == OK);
    for (uint64_t i = 0; i < size / 8; i += 512)
        w[i] = i ^ 0x55AA;
    for (uint64_t i = 0; i < size / 8; i += 512) {
        right = right && *(uint64_t *)hw_virt(hw_phys(&w[i])) == (i ^ 0x55AA);
        right = right && frames_owner(hw_phys(&w[i])) == FRAME_GUEST;
    }
    CHECK(right);
    CHECK(before - free_bytes() >= size);
    CHECK(hw_phys_run(w, size) >= (size < FRAME_LARGE ? PAGE_SIZE : (uint64_t)FRAME_LARGE));
    window_free(w, size);
    CHECK(free_bytes() == before);
    CHECK(!paging_lookup((uint64_t)w, &before));
    CHECK(window_alloc(size, FRAME_GUEST, (void **)&again) == OK);
    CHECK(again == w);
    for (uint64_t i = 0; i < size / 8; i += 512)
        zero = zero && again[i] == 0;
    CHECK(zero);
    window_free(again, size);
}

static void check_stacks(void)
{
    uint8_t *a = stack_alloc(THREAD_STACK), *b = stack_alloc(THREAD_STACK);
    uint64_t physical;

    CHECK(a && b && a != b);
    CHECK(paging_lookup((uint64_t)a, &physical) && paging_lookup((uint64_t)a + THREAD_STACK - 1, &physical));
    CHECK(!paging_lookup((uint64_t)a - 1, &physical) && !paging_lookup((uint64_t)b - 1, &physical));
    memset(a, 0xAA, THREAD_STACK);
    stack_free(a, THREAD_STACK);
    CHECK(stack_alloc(THREAD_STACK) == a && a[0] == 0 && a[THREAD_STACK - 1] == 0);
    stack_free(a, THREAD_STACK);
    stack_free(b, THREAD_STACK);
}

static void check_devices(void)
{
    uint8_t *a = map_device(0xFEC00000, 0x20, false), *b = map_device(0xFEC00010, 4, false);

    CHECK(a && b == a + 0x10);
    CHECK(map_device(UINT64_MAX - 3, 8, false) == NULL);
    CHECK(map_device(0xFEC00000, 0, false) == NULL);
}

static void check_sleep(uint64_t ns)
{
    _Atomic uint32_t word = 0;
    uint64_t from = seam_time_ns();

    while (seam_time_ns() < from + ns)
        seam_wait(&word, 0, from + ns);
    CHECK(seam_time_ns() - from < ns + 200000000); /* an emulator may be slow */
}

struct companion {
    _Atomic uint32_t round; /* odd: its turn */
    _Atomic uint32_t cpus;  /* where it has been, a bit for each */
};

static void accompany(void *arg)
{
    struct companion *c = arg;

    for (uint32_t i = 1; i < 200; i += 2) {
        while (atomic_load(&c->round) != i)
            seam_wait(&c->round, i - 1, UINT64_MAX);
        atomic_fetch_or(&c->cpus, 1u << hw_cpu());
        atomic_store(&c->round, i + 1);
        seam_wake(&c->round, true);
    }
}

/* Two threads take turns a hundred times, while this one's window comes and goes: wake-ups and TLB flushes cross. */
static void check_two(void)
{
    struct companion c = {0};
    struct thread *t;
    void *w;

    CHECK(thread_create(&t, "companion", accompany, &c) == OK);
    for (uint32_t i = 0; i < 200; i += 2) {
        atomic_store(&c.round, i + 1);
        seam_wake(&c.round, true);
        if (i % 20 == 0) {
            CHECK(window_alloc(PAGE_SIZE, FRAME_GUEST, &w) == OK);
            window_free(w, PAGE_SIZE);
        }
        while (atomic_load(&c.round) != i + 2)
            seam_wait(&c.round, i + 1, UINT64_MAX);
    }
    thread_join(t);
    CHECK(atomic_load(&c.cpus) != 0);
}

/* Every CPU has been interrupted since. */
static void check_kicks(void)
{
    for (uint32_t i = 0; i < hw_cpu_count(); i++) {
        uint64_t before = __atomic_load_n(&cpu_table[i]->interrupts, __ATOMIC_RELAXED);

        for (uint32_t k = 0; k < 1000 && __atomic_load_n(&cpu_table[i]->interrupts, __ATOMIC_RELAXED) == before; k++) {
            hw_kick_cpu(i);
            cpu_take_interrupts();
            apic_delay_us(1000);
        }
        CHECK(__atomic_load_n(&cpu_table[i]->interrupts, __ATOMIC_RELAXED) != before);
    }
}

/* Every CPU has come to its scheduler, without anybody's kick but smp_go's. */
static void check_scheduling(void)
{
    for (uint32_t i = 0; i < hw_cpu_count(); i++) {
        for (uint32_t k = 0; k < 1000 && !__atomic_load_n(&cpu_table[i]->idle, __ATOMIC_RELAXED); k++)
            apic_delay_us(1000);
        CHECK(__atomic_load_n(&cpu_table[i]->idle, __ATOMIC_RELAXED));
    }
}

static void run(void *arg)
{
    (void)arg;
    check_scheduling();
    check_window(PAGE_SIZE);
    check_window(5 * (uint64_t)FRAME_LARGE + 3 * PAGE_SIZE);
    check_stacks();
    check_devices();
    check_kicks();
    check_sleep(1000000);
    check_sleep(300000000);
    check_two();
    __asm__ volatile("int $0x77"); /* nobody's: said once, and no more */
    CHECK(true);
    log_line("self-test: %u checks, %u failed", checks, failed);
    power_off();
    log_line("self-test: the machine is still on");
}

bool selftest_start(const struct boot_info *b)
{
    struct thread *t;

    if (boot_info_option(b, "test-idle"))
        return true;
    if (!boot_info_option(b, "self-test"))
        return false;
    if (thread_create(&t, "self-test", run, NULL) != OK)
        panic("no memory for the self-test");
    return true;
}
