/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The engine contract: what executes guest instructions. An engine runs one vCPU until something
 * needs the rest of the system and reports a neutral exit (core/exit.h). Registers are in struct
 * x86_cpu; an engine that keeps them elsewhere moves them in groups named by a mask.
 *
 * Threads: vcpu_* operations are called on the vCPU's own thread, or by who has the VM at rest;
 * vcpu_kick any thread may call at any time, and it is never lost. vm_* operations are called with
 * the VM at rest.
 */
#ifndef LODGE_ENGINE_ENGINE_H
#define LODGE_ENGINE_ENGINE_H

#include "core/err.h"
#include "core/exit.h"
#include "x86/cpu.h"
#include "x86/level.h"

/* Groups of vCPU state. */
enum {
    ENGINE_STATE_GPR = 1 << 0,      /* general registers, RIP, RFLAGS */
    ENGINE_STATE_SEGMENTS = 1 << 1, /* with tables */
    ENGINE_STATE_CONTROL = 1 << 2,  /* CR, EFER, XCR0 */
    ENGINE_STATE_DEBUG = 1 << 3,
    ENGINE_STATE_FPU = 1 << 4,
    ENGINE_STATE_MSR = 1 << 5,
    ENGINE_STATE_APIC = 1 << 6,
    ENGINE_STATE_EVENTS = 1 << 7, /* pending, injected, masked; activity; shadows */
    ENGINE_STATE_CLOCK = 1 << 8,  /* TSC, TSC_ADJUST, kvm-clock */
    ENGINE_STATE_ALL = (1 << 9) - 1,
};

struct apic_message;

/* For homes whose kernel can signal by file descriptors (Linux's eventfd; not owned). OK, or
 * ERR_NO_MEMORY, ERR_UNSUPPORTED, and ERR_NOT_FOUND where off finds nothing. Any thread. */
struct engine_event_ops {
    /* Each write to `event` sends the edge-triggered message. One message for each descriptor; set
     * again to change it. */
    int (*interrupt)(struct vm *vm, int event, const struct apic_message *m);
    int (*interrupt_off)(struct vm *vm, int event);
    /* Each write of `size` bytes (0: any) to the address, a port or guest-physical, writes to
     * `event` and is not an exit. */
    int (*notify)(struct vm *vm, int event, bool port, uint64_t address, uint32_t size, bool on);
};

struct engine {
    const char *name;        /* "soft" */
    const char *description; /* one line for lodge doctor */

    /* The local APICs are the engine's: x86/lapic.c only holds their state while the VM is at rest,
     * and interrupt messages go to send_message (apic_bus.send; any thread, any lock held). */
    bool keeps_apic;
    int (*send_message)(struct vm *vm, const struct apic_message *m);

    /* Brings RAM that is missing (struct guest_mem_late) when its guest is stopped there. */
    bool brings_late_memory;

    /* Can this host run that level? OK, or an error with a one-line reason in why[]. With `closely`,
     * also whether it does so as it should, which may take a while: for who has not asked for this
     * engine. */
    int (*probe)(const struct x86_level *level, bool closely, char *why, size_t size);

    /* Takes from a level's mitigation profile what would not be true under this engine on this
     * host; called for a VM that is made, before vm_create (NULL: all of it is true). */
    void (*adapt_profile)(struct x86_level *level);

    int (*vm_create)(struct vm *vm);
    /* Rate of the guest's TSC if the definition names none; after vm_create (NULL: 1 GHz). */
    uint32_t (*tsc_khz)(const struct vm *vm);
    void (*vm_destroy)(struct vm *vm);
    /* The memory slots changed (NULL: the engine looks at vm->mem by itself). */
    int (*vm_memory_changed)(struct vm *vm);

    /* For engines with clocks that go by themselves (NULL: all of the guest's time comes from the VM
     * clock, core/clock.h). vm_clock_started: the VM clock was just started; the engine sets TSCs
     * and kvm-clock to it, all of them together, and takes all vCPUs' states that it was given. OK, or an error: no
     * vCPU may run then. vm_clock_lead: the VM clock is about to be stopped; by how many ns the
     * guest may have seen a later time than the VM clock's. Both with all vCPUs at rest. */
    int (*vm_clock_started)(struct vm *vm);
    uint64_t (*vm_clock_lead)(struct vm *vm);

    /* Which pages of RAM the guest has written (NULL: the engine cannot tell yet). on or off for
     * all slots; fetch fills bitmap (ceil(pages / 64) words) with one bit per page of a slot and
     * starts anew. Pages that devices write are theirs to note. */
    int (*vm_dirty_track)(struct vm *vm, bool on);
    int (*vm_dirty_fetch)(struct vm *vm, uint32_t slot, uint64_t *bitmap);
    /* Events between kernel and devices without a vCPU or its thread (NULL: there are none). */
    const struct engine_event_ops *events;

    int (*vcpu_create)(struct x86_cpu *cpu);
    void (*vcpu_destroy)(struct x86_cpu *cpu);
    /* Runs until an exit that the engine could not have handled by vcpu_handle_exit. OK and *e, or
     * ERR_STOPPED. EXIT_KICK when any vcpu->requests bit needs the home. */
    int (*vcpu_run)(struct x86_cpu *cpu, struct exit *e);
    /* Another thread has set vcpu->requests: get the vCPU out of guest code (NULL: it polls). */
    void (*vcpu_kick)(struct x86_cpu *cpu);
    /* Moves state groups between the engine and struct x86_cpu (NULL: it always lives there). */
    int (*vcpu_get_state)(struct x86_cpu *cpu, uint32_t groups);
    int (*vcpu_set_state)(struct x86_cpu *cpu, uint32_t groups);
    /* Registers were changed from outside (reset, load): drop what was derived from them. */
    void (*vcpu_state_changed)(struct x86_cpu *cpu);
    /* Counters as text lines for --stats (NULL: none). Returns length. */
    size_t (*vcpu_stats)(const struct x86_cpu *cpu, char *buf, size_t size);
};

static inline int engine_vm_memory_changed(const struct engine *g, struct vm *vm)
{
    return g->vm_memory_changed ? g->vm_memory_changed(vm) : OK;
}

static inline int engine_vm_clock_started(const struct engine *g, struct vm *vm)
{
    return g->vm_clock_started ? g->vm_clock_started(vm) : OK;
}

static inline uint64_t engine_vm_clock_lead(const struct engine *g, struct vm *vm)
{
    return g->vm_clock_lead ? g->vm_clock_lead(vm) : 0;
}

static inline void engine_vcpu_kick(const struct engine *g, struct x86_cpu *cpu)
{
    if (g->vcpu_kick)
        g->vcpu_kick(cpu);
}

static inline int engine_vcpu_get_state(const struct engine *g, struct x86_cpu *cpu,
                                        uint32_t groups)
{
    return g->vcpu_get_state ? g->vcpu_get_state(cpu, groups) : OK;
}

static inline int engine_vcpu_set_state(const struct engine *g, struct x86_cpu *cpu,
                                        uint32_t groups)
{
    return g->vcpu_set_state ? g->vcpu_set_state(cpu, groups) : OK;
}

extern const struct engine engine_soft;
extern const struct engine engine_kvm; /* hosted only */

#endif
