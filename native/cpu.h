/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A CPU of this machine: what it has of its own (cpu.c). GS points there, at offset 0 is its own address. Interrupts
 * are off wherever these are called, unless it says otherwise.
 */
#ifndef LODGE_NATIVE_CPU_H
#define LODGE_NATIVE_CPU_H

#include <stdatomic.h>
#include <stdnoreturn.h>

#include "core/types.h"
#include "engine/hw.h"
#include "native/spin.h"
#include "native/this_cpu.h"

struct thread;

enum { CPU_STACK = 32 << 10, CPU_TRAP_STACK = 8 << 10 };

struct cpu {
    struct cpu *self; /* offset 0: read by %gs:0 */
    uint32_t index;   /* 0: the boot processor */
    uint32_t apic_id;
    bool online;
    bool stopped; /* for good (smp.c) */
    bool parked;  /* runs no threads: another thread of its core does */

    /* thread.c, scheduler.c */
    struct thread *current, *idle;
    _Atomic bool resched; /* somebody else should run: seen at the next preemption point */
    uint64_t timer_armed; /* seam_time_ns, UINT64_MAX: off */
    uint64_t now;         /* as of the last decision of the scheduler */
    uint64_t slice_end;   /* when `current` has had its slice; UINT64_MAX: the idle thread */
    _Atomic uint64_t guest_ticks; /* hw_guest_ticks */
    uint64_t guest_counted;       /* what of these is on accounts; under the run queue's lock, as the next */
    uint64_t online_ns;           /* when it began to schedule */
    struct spin deadline_lock;
    struct thread *deadlines; /* that began to wait here with a deadline, the first one first (wait.c) */
    _Atomic uint64_t first_deadline; /* the first one's; UINT64_MAX: there is none */

    /* cpu.c */
    uint64_t gdt[16] __attribute__((aligned(16)));
    uint8_t tss[104] __attribute__((aligned(16)));
    uint64_t interrupts, switches; /* counted: interrupts taken, threads switched to but the idle one */
};

/* All that were found in the MADT and started; [0 .. cpu_count). */
extern struct cpu *cpu_table[HW_CPUS];
extern uint32_t cpu_count;
/* How many of them run threads. Set before they begin. */
extern uint32_t cpu_working;

/* Vectors of our own. */
enum {
    VECTOR_SERIAL = 0x40,   /* COM1 */
    VECTOR_ACPI = 0x41,     /* SCI: power button */
    VECTOR_TIMER = 0xF0,    /* the local APIC's: threads' deadlines, the end of a slice */
    VECTOR_KICK = 0xF1,     /* hw_kick_cpu */
    VECTOR_SPURIOUS = 0xFF,
};

/* Lets pending interrupts in, for a moment. */
void cpu_take_interrupts(void);
/* Interrupts on and halt, in one; returns with interrupts off after one was taken. */
void cpu_halt(void);
/* The local APIC's timer of this CPU fires at that seam_time_ns, once; at once if that is past; UINT64_MAX: not.
 * now: what it is, or was a moment ago. (apic.c; its handler calls scheduler_timer_fired) */
void cpu_arm_timer(uint64_t deadline_ns, uint64_t now);
/* Interrupt vector to another CPU, or this one; fixed. (apic.c) */
void cpu_send_ipi(uint32_t cpu, uint8_t vector);
/* Stops all other CPUs for good, out of SVM or VMX operation, and waits for it a bounded time; how many have stopped. At
 * once: by NMI, wherever they are, whatever they hold; else where they take interrupts, and by NMI only who does not.
 * (smp.c) */
uint32_t cpu_stop_others(bool at_once);
/* Somebody has asked for that: interrupts that reach a CPU lead to cpu_stop_here. */
bool cpu_is_stopping(void);
/* This CPU stops for good, and is counted. */
noreturn void cpu_stop_here(void);

#endif
