/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What a home gives to engines that run on hardware (svm, vmx), beside the seam (core/seam.h). Native only: nothing
 * else is linked with them.
 *
 * The hypervisor runs with interrupts off, on stacks of threads; a thread is moved to another CPU, or another runs on this one, only inside
 * seam_wait, seam_yield and hw_preempt_point. Between two of them hw_cpu() does not change.
 */
#ifndef LODGE_ENGINE_HW_H
#define LODGE_ENGINE_HW_H

#include <stdatomic.h>

#include "core/err.h"
#include "core/types.h"
#include "engine/engine.h"

enum { HW_CPUS = 64 };

struct guest_mem;
struct nested;
struct speculation;

/* Physical address of memory that the home handed out (seam_pages_alloc, guest RAM) or of the image. Pages that follow
 * each other need not do so physically, but for those of one seam_pages_alloc. */
uint64_t hw_phys(const void *p);
/* How many bytes from p on follow each other physically: at least to the end of its page, at most `size`. */
uint64_t hw_phys_run(const void *p, uint64_t size);
/* The other way round, for what hw_phys was asked of by who allocated it. */
void *hw_virt(uint64_t physical);

/* This CPU; 0 .. hw_cpu_count() - 1. */
uint32_t hw_cpu(void);
uint32_t hw_cpu_count(void);
/* A word of this CPU's for the engine that is on there: its data of that CPU. NULL at first. */
void **hw_engine_slot(void);

/* Where the engine adds what this CPU's TSC says that it has spent in guest code, from before an entry to after the exit; the home
 * makes of it what each VM's time went into. Only this CPU writes it. */
_Atomic uint64_t *hw_guest_ticks(void);
/* began: the TSC before the entry; the exit has just been. */
static always_inline void hw_count_guest(_Atomic uint64_t *ticks, uint64_t began)
{
    uint64_t before = atomic_load_explicit(ticks, memory_order_relaxed);

    atomic_store_explicit(ticks, before + __builtin_ia32_rdtsc() - began, memory_order_relaxed);
}

/* Makes that CPU leave guest code, or not enter it: an interrupt that does nothing else. From any CPU; itself, too: the
 * next entry is left at once. */
void hw_kick_cpu(uint32_t cpu);

/* Takes the physical interrupts that are pending, and lets another thread run if it is its turn. Called with interrupts off, no
 * lock held; returns so, maybe on another CPU. */
void hw_preempt_point(void);

/*
 * This thread has left something of its own in the processor (vector registers, a current VMCS): `leave` is called, with interrupts off, before
 * another thread runs there or this one runs elsewhere, once; then it is forgotten. NULL takes it back. The home's lock of threads may be held:
 * `leave` takes none and is brief.
 */
void hw_on_switch(void (*leave)(void *owner), void *owner);

/*
 * Around each change of a VM's nested tables (engine/nested.c): between the two nobody else walks or changes any. After
 * it *n maps *m, or nothing (n->root is NULL); it stays where it is until then. The home's checker of isolation lives on
 * that.
 */
void hw_nested_begin(void);
void hw_nested_end(const struct nested *n, const struct guest_mem *m);

/* What is done about speculation on this machine: does not change once engines are on. */
const struct speculation *hw_speculation(void);

/* Of the host's TSC, the same on all CPUs. */
uint32_t hw_tsc_khz(void);
/* What the host's TSC was, or will be, at that seam_time_ns. */
uint64_t hw_tsc_at(uint64_t time_ns);

/* An engine, and each CPU's switch for it. Called on that CPU, interrupts off. */
struct hw_engine {
    const struct engine *engine;
    /* Does this CPU have what the engine needs, and has the firmware left it on? OK, or ERR_UNSUPPORTED and one line in why[];
     * *notes may be one line on what is missing but can be done without, or empty. */
    int (*cpu_probe)(char *why, size_t why_size, char *notes, size_t notes_size);
    int (*cpu_on)(void);
    void (*cpu_off)(void); /* before reset, power-off, panic: INIT must work */
};

extern const struct hw_engine hw_svm, hw_vmx;

#endif
