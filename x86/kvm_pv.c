/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * KVM's paravirtual interface as guests know it (Linux Documentation/virt/kvm/x86/msr.rst,
 * cpuid.rst, hypercalls.rst): clock pages, steal time, hypercalls.
 *
 * The clock. The guest computes time = system_time + scale(TSC - tsc_timestamp). All vCPUs use the
 * same base for ever: system_time 0 at the TSC that stands for VM clock 0, which is tsc_offset. So
 * time is one and the same function of the VM clock on every vCPU, never steps, and the stable bit
 * is true without anything having to be kept in step. The page changes only when a guest moves its
 * TSC or a restored VM has another rate. The scale has 32 bits and x86_tsc's ratio no more
 * at low rates, which is a drift of at most one part in 2^28 against the VM clock, the same on all
 * vCPUs.
 *
 * Pages are written with the version protocol: odd while the fields change. The guest gives their
 * addresses; they are looked up with a range check on every use and never kept as host addresses
 * (bad-inputs C8). What does not lie in RAM is just not written.
 *
 * Steal time is the home's seam_steal_ns, which may be a system call, so it is asked for at most
 * every STEAL_INTERVAL_NS: after a halt, and when an interrupt is taken, since a guest's tick is
 * what looks at it. A guest that spins with interrupts off sees it late, all at once.
 *
 * Not offered: asynchronous page faults, PV EOI, PV TLB flush, PV IPIs, poll control.
 */
#include <stdatomic.h>

#include "x86/mem.h"
#include "x86/msr.h"

enum { /* numbers and errors of the hypercall ABI */
       KVM_HC_VAPIC_POLL_IRQ = 1,
       KVM_HC_KICK_CPU = 5,
       KVM_EPERM = 1,
       KVM_ENOSYS = 1000,
};

enum { /* struct pvclock_vcpu_time_info */
       CLOCK_VERSION = 0,
       CLOCK_TSC_TIMESTAMP = 8,
       CLOCK_SYSTEM_TIME = 16,
       CLOCK_MUL = 24,
       CLOCK_SHIFT = 28,
       CLOCK_FLAGS = 29,
       CLOCK_SIZE = 32,
       CLOCK_FLAG_TSC_STABLE = 1,
};

enum { /* struct pvclock_wall_clock */
       WALL_VERSION = 0,
       WALL_SECONDS = 4,
       WALL_NANOSECONDS = 8,
       WALL_SIZE = 12,
};

enum { /* struct kvm_steal_time */
       STEAL_TIME = 0,
       STEAL_VERSION = 8,
       STEAL_FLAGS = 12,
       STEAL_PREEMPTED = 16,
       STEAL_SIZE = 64,
};

enum { STEAL_INTERVAL_NS = 2000000 }; /* twice in a tick at 250 Hz */

enum { PAGE_ENABLED = 1, STEAL_RESERVED = 0x3E };

/* Host address of the guest's structure, or NULL if it is not in RAM. */
static uint8_t *find_page(const struct x86_cpu *cpu, uint64_t address, uint64_t size)
{
    const struct guest_mem *m = &cpu->vcpu.vm->mem;
    const struct guest_mem_slot *s = guest_mem_find(m, gpa(address), size);
    return s && s->writable ? s->host + (address - s->base) : NULL;
}

static void put32(uint8_t *p, uint32_t v)
{
    *(volatile x86_u32 *)(void *)p = v;
}

static void put64(uint8_t *p, uint64_t v)
{
    *(volatile x86_u64 *)(void *)p = v;
}

/* The same, to be written. It may go on in the next page. */
static uint8_t *find_to_write(struct x86_cpu *cpu, uint64_t address, uint64_t size)
{
    uint8_t *page = find_page(cpu, address, size);
    if (page) {
        x86_write_late(cpu, page);
        x86_write_late(cpu, page + size - 1);
    }
    return page;
}

/* Readers on other vCPUs see an odd version, or all of the fields. */
static void begin_update(uint8_t *version)
{
    put32(version, *(const volatile x86_u32 *)(void *)version | 1);
    atomic_thread_fence(memory_order_seq_cst);
}

static void end_update(uint8_t *version)
{
    atomic_thread_fence(memory_order_seq_cst);
    put32(version, *(const volatile x86_u32 *)(void *)version + 1);
}

/* ns = (ticks << shift) * mul / 2^32, with mul from 2^31 on: the same numbers as KVM's. Rates are
 * whole kHz, so that halving them three times (10 GHz at most) loses nothing. */
static void clock_scale(const struct vm *vm, uint32_t *mul, int8_t *shift)
{
    const uint64_t giga = 1000000000;
    uint64_t hz = (uint64_t)x86_tsc_khz(vm) * 1000;
    *shift = 0;
    for (; hz <= giga; hz <<= 1)
        ++*shift;
    for (; hz > 2 * giga; hz >>= 1)
        --*shift;
    *mul = (uint32_t)scale_u64(giga, UINT64_C(1) << 32, hz);
}

static void update_clock(struct x86_cpu *cpu)
{
    uint64_t msr = cpu->msr.kvm_system_time;
    if (!(msr & PAGE_ENABLED))
        return;
    uint8_t *page = find_to_write(cpu, msr & ~(uint64_t)PAGE_ENABLED, CLOCK_SIZE);
    if (!page)
        return;
    uint32_t mul;
    int8_t shift;
    clock_scale(cpu->vcpu.vm, &mul, &shift);
    begin_update(page + CLOCK_VERSION);
    put64(page + CLOCK_TSC_TIMESTAMP, cpu->tsc_offset);
    put64(page + CLOCK_SYSTEM_TIME, 0);
    put32(page + CLOCK_MUL, mul);
    put32(page + CLOCK_SHIFT, (uint8_t)shift | CLOCK_FLAG_TSC_STABLE << 8); /* flags, padding */
    end_update(page + CLOCK_VERSION);
}

/* The wall-clock time at which the clock above was 0. Asked for once, by one vCPU. */
static void write_wall_clock(struct x86_cpu *cpu, uint64_t address)
{
    uint8_t *page = find_to_write(cpu, address, WALL_SIZE);
    if (!page)
        return;
    uint64_t ns = cpu->vcpu.vm->clock.wall_base;
    begin_update(page + WALL_VERSION);
    put32(page + WALL_SECONDS, (uint32_t)(ns / 1000000000));
    put32(page + WALL_NANOSECONDS, (uint32_t)(ns % 1000000000));
    end_update(page + WALL_VERSION);
}

/* Adds what has come since the last time. False: it was not long enough ago. */
static bool account_steal(struct x86_cpu *cpu)
{
    uint64_t now = seam_time_ns();
    if (now < cpu->steal_due_ns)
        return false;
    cpu->steal_due_ns = now + STEAL_INTERVAL_NS;
    uint64_t seen = seam_steal_ns();
    if (seen > cpu->steal_seen_ns) /* else the vCPU has got another thread */
        atomic_fetch_add_explicit(&cpu->steal_ns, seen - cpu->steal_seen_ns, memory_order_relaxed);
    cpu->steal_seen_ns = seen;
    return true;
}

static void update_steal_time(struct x86_cpu *cpu)
{
    uint64_t msr = cpu->msr.kvm_steal_time;
    if (!(msr & PAGE_ENABLED))
        return;
    uint8_t *page = find_to_write(cpu, msr & ~(uint64_t)PAGE_ENABLED, STEAL_SIZE);
    if (!page)
        return;
    begin_update(page + STEAL_VERSION);
    put64(page + STEAL_TIME, atomic_load_explicit(&cpu->steal_ns, memory_order_relaxed));
    put32(page + STEAL_FLAGS, 0);
    page[STEAL_PREEMPTED] = 0;
    end_update(page + STEAL_VERSION);
}

void x86_kvm_fetch_steal(struct x86_cpu *cpu)
{
    uint64_t msr = cpu->msr.kvm_steal_time, ns;
    if (!(msr & PAGE_ENABLED))
        return;
    const uint8_t *page = find_page(cpu, msr & ~(uint64_t)PAGE_ENABLED, STEAL_SIZE);
    if (!page)
        return;
    memcpy(&ns, page + STEAL_TIME, sizeof(ns));
    atomic_store(&cpu->steal_ns, ns);
}

void x86_kvm_refresh(struct x86_cpu *cpu)
{
    update_clock(cpu);
    if (cpu->msr.kvm_steal_time & PAGE_ENABLED)
        (void)account_steal(cpu);
    update_steal_time(cpu);
}

void x86_kvm_tick(struct x86_cpu *cpu)
{
    if (cpu->msr.kvm_steal_time & PAGE_ENABLED && account_steal(cpu))
        update_steal_time(cpu);
}

int x86_kvm_msr_write(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
    switch (index) {
    case MSR_KVM_SYSTEM_TIME_NEW:
        cpu->msr.kvm_system_time = value;
        update_clock(cpu);
        return X86_OK;
    case MSR_KVM_WALL_CLOCK_NEW:
        cpu->msr.kvm_wall_clock = value;
        write_wall_clock(cpu, value);
        return X86_OK;
    case MSR_KVM_STEAL_TIME:
        if (value & STEAL_RESERVED)
            return x86_fault(cpu, X86_GP, 0);
        cpu->msr.kvm_steal_time = value;
        update_steal_time(cpu);
        return X86_OK;
    default:
        return x86_fault(cpu, X86_GP, 0);
    }
}

/* --- hypercalls --- */

/* arg[1]: APIC id, which is the vCPU's. One that does not exist is not an error, as in KVM. */
static uint64_t kick_cpu(struct x86_cpu *cpu, const uint64_t arg[4])
{
    const struct vm *vm = cpu->vcpu.vm;
    if (arg[1] < vm->vcpu_count && arg[1] < VM_MAX_VCPUS && vm->vcpu[arg[1]])
        vcpu_request(vm->vcpu[arg[1]], VCPU_REQ_PV_KICK);
    return 0;
}

uint64_t x86_kvm_hypercall(struct x86_cpu *cpu, uint64_t number, const uint64_t arg[4])
{
    if (cpu->cpl != 0)
        return (uint64_t)-KVM_EPERM;
    switch (number) {
    case KVM_HC_VAPIC_POLL_IRQ:
        return 0;
    case KVM_HC_KICK_CPU:
        return kick_cpu(cpu, arg);
    default:
        return (uint64_t)-KVM_ENOSYS;
    }
}
