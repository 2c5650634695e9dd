/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A VM: memory, buses, clock, vCPUs, and how it is brought to rest and to its end. Everything that
 * a guest can touch hangs off here; there is no file-scope state, and many VMs may live in one
 * address space.
 *
 * Threads (the contract, true in both homes; docs/threads.md has the whole):
 *  - Each vCPU has a thread (native: is scheduled on a CPU). It alone touches its registers, TLB
 *    and code cache, except while the VM is at rest.
 *  - One timer thread per VM runs vm_timers_run and the back ends' events.
 *  - A vCPU thread calls devices through the bus, which takes the region's lock. Any thread may
 *    raise an interrupt: the path ends in an atomic bit of the target's local APIC and a
 *    vcpu_request.
 *  - Lock order: enum lock_rank. vm_rest_begin is called with no lock held.
 *
 * Rest: vm_rest_begin returns when no other vCPU stands inside an instruction; none will start one
 * before vm_rest_end. It is the one quiescence primitive: saving, changing the memory map, locked
 * operations that cross a cache line, eviction of code all use it. A vCPU that calls it counts as
 * resting for other vCPUs while it waits its turn, so whatever it translated before is to be
 * translated again; not for others, who find all vCPUs between two instructions.
 */
#ifndef LODGE_CORE_VM_H
#define LODGE_CORE_VM_H

#include "core/bus.h"
#include "core/clock.h"
#include "core/guest_mem.h"
#include "core/lock.h"
#include "core/seam.h"
#include "core/state.h"
#include "core/vcpu.h"

enum { VM_MAX_VCPUS = 16, VM_NAME_SIZE = 64, VM_STOP_TEXT = 160, VM_ENGINE_WHY = 256 };

enum vm_stop_reason {
    VM_RUNNING = 0,
    VM_STOP_POWEROFF,     /* the guest powered off */
    VM_STOP_RESET,        /* the guest, or the user, asked for a reset */
    VM_STOP_EXIT_PORT,    /* a test guest wrote the exit port; stop_status says what */
    VM_STOP_TRIPLE_FAULT, /* shutdown of a processor: the guest died */
    VM_STOP_GUEST_ERROR,  /* the guest did what this machine cannot go on from */
    VM_STOP_ENGINE,       /* the engine failed */
    VM_STOP_NO_MEMORY,    /* the host has no memory left for the guest's RAM */
    VM_STOP_MEMORY_LOST,  /* what is in the guest's RAM cannot be had any more, or is wrong */
    VM_STOP_USER,         /* the operator ended it */
};

struct apic_bus;

struct vm {
    char name[VM_NAME_SIZE];
    struct guest_mem mem;
    struct bus port_bus;
    struct bus mmio_bus;
    struct vm_clock clock;
    struct lock board_lock; /* LOCK_RANK_BOARD */
    struct state_registry state;

    uint32_t vcpu_count;
    struct vcpu *vcpu[VM_MAX_VCPUS];
    bool interpret;   /* engine soft: no translator; set before the VM is made */
    bool statistics;  /* count also what costs time to count; likewise */
    /* Names generated code, for profilers (NULL: nobody asks); a vCPU's thread. Likewise. */
    void (*note_code)(struct vm *vm, const void *code, size_t size, const char *name);
    uint32_t tsc_khz; /* of the guest's TSC, set before the vCPUs are made; 0: 1 GHz */

    /* What an exit means: machine/exits.c. Returns OK, or ERR_STOPPED when the vCPU must leave. */
    int (*handle_exit)(struct vcpu *v, struct exit *e);

    /* Gets a vCPU out of guest code after requests were set; NULL where the engine polls. */
    void (*kick_vcpu)(struct vcpu *v);

    /* Bytes of a page of state GUEST_PAGE_CODE were written, all in that page; the VM is at rest.
     * NULL: no engine asks. */
    void (*code_written)(struct vm *vm, const uint8_t *host, size_t size);

    struct apic_bus *apic_bus; /* x86/lapic.h */
    void *machine;             /* struct pc (machine/) */
    void *engine;              /* the engine's own per-VM data */
    char engine_why[VM_ENGINE_WHY]; /* why it could not make the VM or a vCPU; "": the error says it */
    void *home;                /* the home's own data */

    struct lock rest_lock;           /* LOCK_RANK_REST: who holds it has the VM at rest */
    struct vcpu *_Atomic rest_owner; /* the vCPU that holds it, and how often it asked */
    uint32_t rest_depth;
    _Atomic uint32_t rest_wanted;  /* 1 while somebody wants or has rest; vCPUs wait on it */
    _Atomic uint32_t rest_outside; /* 1 while somebody who is no vCPU wants or has it */
    _Atomic uint32_t rest_arrived; /* bumped by each vCPU that comes to rest */

    _Atomic uint32_t stop_claimed; /* 1: somebody is writing the three below */
    _Atomic uint32_t stop_reason;  /* enum vm_stop_reason, set once */
    uint32_t stop_status;          /* valid after stop_reason is seen: exit port value, vCPU id */
    char stop_text[VM_STOP_TEXT];
};

/* Everything empty, clock at rest. The caller owns the memory. */
void vm_init(struct vm *vm, const char *name);

/* First caller wins: records why, asks all vCPUs to leave and tells the home. Any thread. */
void vm_stop(struct vm *vm, enum vm_stop_reason reason, uint32_t status, const char *format, ...)
    printf_like(4, 5);
/* Back to VM_RUNNING, before a reset machine starts again. No vCPU is running. */
void vm_clear_stop(struct vm *vm);

static inline bool vm_is_stopped(const struct vm *vm)
{
    return atomic_load_explicit(&vm->stop_reason, memory_order_acquire) != VM_RUNNING;
}

/* self: the calling vCPU's own struct, or NULL when another thread calls. A vCPU that has the VM at
 * rest already may ask again (a locked access to a device register that moves a BAR); others may
 * not nest. */
void vm_rest_begin(struct vm *vm, struct vcpu *self);
void vm_rest_end(struct vm *vm, struct vcpu *self);

/* Counts the exit and calls vm->handle_exit. */
int vcpu_handle_exit(struct vcpu *v, struct exit *e);

/* A formatted line to seam_log. */
void vm_log(const struct vm *vm, enum seam_log_level level, const char *format, ...)
    printf_like(3, 4);

#endif
