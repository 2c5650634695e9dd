/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * KVM's paravirtual leaves: the clock as a guest computes it, wall clock, steal time, hypercalls;
 * pages at addresses where nothing is (bad-inputs C8).
 */
#include <string.h>

#include "core/err.h"
#include "tests/lib/cpu_env.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/unit.h"
#include "x86/mem.h"
#include "x86/msr.h"

enum { CLOCK = CPU_ENV_DATA, STEAL = CPU_ENV_DATA + 0x1000, WALL = CPU_ENV_DATA + 0x2000 };

static struct cpu_env e;

/* What a guest's pvclock code does with the page (msr.rst). */
static uint64_t guest_clock(uint64_t page)
{
    uint64_t delta = x86_tsc(e.cpu) - cpu_env_get64(&e, page + 8);
    int8_t shift = (int8_t)e.ram[page + 28];
    delta = shift >= 0 ? delta << shift : delta >> -shift;
    uint64_t ns = (uint64_t)((unsigned __int128)delta * cpu_env_get32(&e, page + 24) >> 32);
    return ns + cpu_env_get64(&e, page + 16);
}

static void test_clock(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    vm_clock_start(&e.vm);
    static const uint32_t rates[] = {1000000, 2600000, 100001, 4100123, 10000000};
    for (size_t i = 0; i < ARRAY_SIZE(rates); i++) {
        unit_context("%u kHz", rates[i]);
        e.vm.tsc_khz = rates[i];
        CHECK_EQ(x86_msr_write(e.cpu, MSR_KVM_SYSTEM_TIME_NEW, CLOCK | 1), X86_OK);
        CHECK_EQ(cpu_env_get32(&e, CLOCK) & 1, 0); /* version */
        CHECK(cpu_env_get32(&e, CLOCK) != 0);
        CHECK_EQ(e.ram[CLOCK + 29], 1); /* TSC stable */
        for (int step = 0; step < 5; step++) {
            fake_seam_advance(1000000007);
            uint64_t now = vm_clock_ns(&e.vm), seen = guest_clock(CLOCK);
            uint64_t tick = 1000000 / rates[i] + 1;
            CHECK(seen <= now && now - seen <= tick + now / 100000000);
        }
    }
    unit_context(NULL);
    e.vm.tsc_khz = 1000000;

    /* moving the TSC does not move the clock */
    x86_kvm_refresh(e.cpu);
    uint64_t before = guest_clock(CLOCK);
    CHECK_EQ(x86_msr_write(e.cpu, MSR_TSC, 12), X86_OK);
    CHECK_EQ(guest_clock(CLOCK), before);
    cpu_env_destroy(&e);
}

/* KVM adds to what is in the guest's page. */
static void test_steal_is_fetched(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    atomic_store(&e.cpu->steal_ns, 5);
    x86_kvm_fetch_steal(e.cpu); /* the guest has no page */
    CHECK_EQ(atomic_load(&e.cpu->steal_ns), 5);
    CHECK_EQ(x86_msr_write(e.cpu, MSR_KVM_STEAL_TIME, STEAL | 1), X86_OK);
    store_u64(e.ram + STEAL, UINT64_C(123456789012));
    x86_kvm_fetch_steal(e.cpu);
    CHECK_EQ(atomic_load(&e.cpu->steal_ns), UINT64_C(123456789012));
    CHECK_EQ(x86_msr_write(e.cpu, MSR_KVM_STEAL_TIME, ~UINT64_C(0x3F) | 1), X86_OK);
    x86_kvm_fetch_steal(e.cpu); /* not in RAM */
    CHECK_EQ(atomic_load(&e.cpu->steal_ns), UINT64_C(123456789012));
    cpu_env_destroy(&e);
}

/* The numbers that KVM gives for the same rate (Linux 6.1). */
static void test_scale(void)
{
    /* table */
    static const struct {
        uint32_t khz, mul;
        int8_t shift;
    } rows[] = {{1000000, 0x80000000, 1}, {2596143, 0xC5373419, -1}};
    cpu_env_create(&e, CPU_ENV_LONG);
    vm_clock_start(&e.vm);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        e.vm.tsc_khz = rows[i].khz;
        CHECK_EQ(x86_msr_write(e.cpu, MSR_KVM_SYSTEM_TIME_NEW, CLOCK | 1), X86_OK);
        CHECK_EQ(cpu_env_get32(&e, CLOCK + 24), rows[i].mul);
        CHECK_EQ((int8_t)e.ram[CLOCK + 28], rows[i].shift);
    }
    cpu_env_destroy(&e);
}

static void test_off(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    memset(e.ram + CLOCK, 0xEE, 64);
    CHECK_EQ(x86_msr_write(e.cpu, MSR_KVM_SYSTEM_TIME_NEW, CLOCK), X86_OK); /* not enabled */
    x86_kvm_refresh(e.cpu);
    CHECK_EQ(cpu_env_get64(&e, CLOCK), 0xEEEEEEEEEEEEEEEE);
    cpu_env_destroy(&e);
}

static void test_wall_clock(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    e.vm.clock.wall_base = UINT64_C(1700000000123456789);
    CHECK_EQ(x86_msr_write(e.cpu, MSR_KVM_WALL_CLOCK_NEW, WALL), X86_OK);
    CHECK_EQ(cpu_env_get32(&e, WALL) & 1, 0);
    CHECK_EQ(cpu_env_get32(&e, WALL + 4), 1700000000);
    CHECK_EQ(cpu_env_get32(&e, WALL + 8), 123456789);
    CHECK_EQ(cpu_env_get32(&e, WALL + 12), 0);
    cpu_env_destroy(&e);
}

static void test_steal_time(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    atomic_store(&e.cpu->steal_ns, 1000);
    CHECK_EQ(x86_msr_write(e.cpu, MSR_KVM_STEAL_TIME, STEAL | 3), X86_FAULT); /* reserved bit */
    e.ram[STEAL + 16] = 1;
    CHECK_EQ(x86_msr_write(e.cpu, MSR_KVM_STEAL_TIME, STEAL | 1), X86_OK);
    CHECK_EQ(cpu_env_get64(&e, STEAL), 1000);
    CHECK_EQ(e.ram[STEAL + 16], 0); /* not preempted: it runs */
    atomic_store(&e.cpu->steal_ns, 5000);
    uint32_t version = cpu_env_get32(&e, STEAL + 8);
    x86_kvm_refresh(e.cpu);
    CHECK_EQ(cpu_env_get64(&e, STEAL), 5000);
    CHECK_EQ(cpu_env_get32(&e, STEAL + 8), version + 2);
    cpu_env_destroy(&e);
}

/* The guest sees what the home's thread waited, asked for at most every 2 ms; a vCPU that goes on
 * on another thread loses nothing and gains nothing. */
static void test_steal_time_grows(void)
{
    const uint64_t ms = 1000000;
    cpu_env_create(&e, CPU_ENV_LONG);
    fake_seam_set_steal(700);
    x86_kvm_refresh(e.cpu); /* nobody wants to know */
    CHECK_EQ(atomic_load(&e.cpu->steal_ns), 0);
    CHECK_EQ(x86_msr_write(e.cpu, MSR_KVM_STEAL_TIME, STEAL | 1), X86_OK);
    x86_kvm_refresh(e.cpu);
    CHECK_EQ(cpu_env_get64(&e, STEAL), 700);
    uint32_t version = cpu_env_get32(&e, STEAL + 8);
    fake_seam_set_steal(1700);
    x86_kvm_tick(e.cpu); /* too soon: not even the page is touched */
    CHECK_EQ(cpu_env_get64(&e, STEAL), 700);
    CHECK_EQ(cpu_env_get32(&e, STEAL + 8), version);
    fake_seam_advance(2 * ms);
    x86_kvm_tick(e.cpu);
    CHECK_EQ(cpu_env_get64(&e, STEAL), 1700);
    fake_seam_advance(2 * ms);
    fake_seam_set_steal(50); /* another thread */
    x86_kvm_tick(e.cpu);
    CHECK_EQ(cpu_env_get64(&e, STEAL), 1700);
    fake_seam_advance(2 * ms);
    fake_seam_set_steal(80);
    x86_kvm_refresh(e.cpu);
    CHECK_EQ(cpu_env_get64(&e, STEAL), 1730);
    fake_seam_set_steal(0);
    cpu_env_destroy(&e);
}

/* At the end of RAM, beyond it, in MMIO, in ROM, at addresses that wrap: never written, no crash.
 */
static void test_bad_pages(void)
{
    static const uint64_t bad[] = {
        CPU_ENV_RAM - 30, CPU_ENV_RAM - 1, CPU_ENV_RAM, 0xFEE00000,
        0x10000000,       UINT64_MAX - 62, UINT64_MAX,  UINT64_MAX & ~(uint64_t)63,
    };
    cpu_env_create(&e, CPU_ENV_LONG);
    uint8_t *rom = seam_pages_alloc(1);
    CHECK_EQ(guest_mem_add(&e.vm.mem, gpa(0x10000000), PAGE_SIZE, rom, false), OK);
    memset(e.ram + CPU_ENV_RAM - 64, 0xCC, 64);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        (void)x86_msr_write(e.cpu, MSR_KVM_SYSTEM_TIME_NEW, bad[i] | 1);
        (void)x86_msr_write(e.cpu, MSR_KVM_WALL_CLOCK_NEW, bad[i] + 20);
        (void)x86_msr_write(e.cpu, MSR_KVM_STEAL_TIME, ((bad[i] + 63) & ~(uint64_t)63) | 1);
        x86_kvm_refresh(e.cpu);
    }
    CHECK_EQ(e.ram[CPU_ENV_RAM - 1], 0xCC);
    CHECK_EQ(load_u64(rom), 0);
    CHECK_EQ(x86_msr_write(e.cpu, MSR_KVM_SYSTEM_TIME_NEW, (CPU_ENV_RAM - 32) | 1), X86_OK);
    CHECK(e.ram[CPU_ENV_RAM - 32] != 0xCC); /* the last place that fits */
    x86_cpu_destroy(e.cpu);
    seam_pages_free(rom, 1);
    seam_pages_free(e.ram, CPU_ENV_RAM >> PAGE_SHIFT);
}

static uint64_t hypercall(uint64_t number, uint64_t a0, uint64_t a1)
{
    static const uint8_t vmcall[] = {0x0F, 0x01, 0xC1}, vmmcall[] = {0x0F, 0x01, 0xD9};
    static bool other;
    other = !other;
    cpu_env_code(&e, other ? vmcall : vmmcall, 3);
    e.cpu->gpr[RAX] = number;
    e.cpu->gpr[RBX] = a0;
    e.cpu->gpr[RCX] = a1;
    CHECK(x86_step(e.cpu) != X86_FAULT);
    return e.cpu->gpr[RAX];
}

static void test_hypercalls(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    CHECK_EQ(hypercall(1, 0, 0), 0);
    CHECK_EQ(hypercall(2, 0, 0), (uint64_t)-1000);
    CHECK_EQ(hypercall(UINT64_MAX, 0, 0), (uint64_t)-1000);
    CHECK_EQ(hypercall(5, 0, 0), 0);
    CHECK(vcpu_requests(&e.cpu->vcpu) & VCPU_REQ_PV_KICK);
    CHECK_EQ(hypercall(5, 0, 1), 0); /* not there */
    CHECK_EQ(hypercall(5, 0, UINT64_MAX), 0);
    cpu_env_set_compat(&e);
    CHECK_EQ(hypercall(2, 0, 0), (uint32_t)-1000); /* 32 bits wide */
    cpu_env_set_cpl(&e, 3);
    CHECK_EQ(hypercall(5, 0, 0), (uint64_t)-1);
    CHECK_EQ(e.exits, 0);
    cpu_env_destroy(&e);
}

/* A kick that came before the halt it was for ends it at once; only that one. */
static void test_kick_and_halt(void)
{
    static const uint8_t hlt[] = {0xF4, 0xF4};
    cpu_env_create(&e, CPU_ENV_LONG);
    CHECK_EQ(hypercall(5, 0, 0), 0);
    cpu_env_code(&e, hlt, sizeof(hlt));
    CHECK_EQ(x86_step(e.cpu), X86_JUMP);
    CHECK_EQ(e.cpu->activity, X86_RUNNING);
    CHECK_EQ(x86_step(e.cpu), X86_EXIT);
    CHECK_EQ(e.cpu->activity, X86_HALTED);
    cpu_env_destroy(&e);
}

int main(void)
{
    UNIT_RUN(test_clock);
    UNIT_RUN(test_scale);
    UNIT_RUN(test_steal_is_fetched);
    UNIT_RUN(test_off);
    UNIT_RUN(test_wall_clock);
    UNIT_RUN(test_steal_time);
    UNIT_RUN(test_steal_time_grows);
    UNIT_RUN(test_bad_pages);
    UNIT_RUN(test_hypercalls);
    UNIT_RUN(test_kick_and_halt);
    return unit_done();
}
