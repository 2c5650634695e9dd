/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The engine contract: what executes guest instructions. An engine runs one vCPU until something
 * needs the rest of the system and reports a neutral exit (core/exit.h). Registers are in struct
 * x86_cpu; an engine that keeps them elsewhere moves them in groups named by a mask.
 *
 * Threads: vcpu_* operations are called on the vCPU's own thread, except vcpu_kick, which any thread
 * may call at any time and which is never lost. vm_* operations are called with the VM at rest.
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

struct engine {
    const char *name;        /* "soft" */
    const char *description; /* one line for lodge doctor */

    /* Can this host run that level? OK, or an error with a one-line reason in why[]. */
    int (*probe)(const struct x86_level *level, char *why, size_t size);

    int (*vm_create)(struct vm *vm);
    void (*vm_destroy)(struct vm *vm);
    /* The memory slots changed (NULL: the engine looks at vm->mem by itself). */
    int (*vm_memory_changed)(struct vm *vm);

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

static inline void engine_vcpu_kick(const struct engine *g, struct x86_cpu *cpu)
{
    if (g->vcpu_kick)
        g->vcpu_kick(cpu);
}

static inline int engine_vcpu_get_state(const struct engine *g, struct x86_cpu *cpu, uint32_t groups)
{
    return g->vcpu_get_state ? g->vcpu_get_state(cpu, groups) : OK;
}

static inline int engine_vcpu_set_state(const struct engine *g, struct x86_cpu *cpu, uint32_t groups)
{
    return g->vcpu_set_state ? g->vcpu_set_state(cpu, groups) : OK;
}

extern const struct engine engine_soft;

#endif
