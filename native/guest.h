/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A VM's home: what vm->home points to. guest_timer.c: its timers. guest.c: its life. guest_build.c: what it is made of.
 * guest_restore.c: one that goes on where it was saved. guest_console.c: its serial port.
 */
#ifndef LODGE_NATIVE_GUEST_H
#define LODGE_NATIVE_GUEST_H

#include <stdatomic.h>

#include "core/err.h"
#include "core/lock.h"
#include "core/types.h"
#include "core/vm.h"
#include "machine/fleet.h"
#include "machine/pc.h"
#include "native/isolation.h"
#include "native/ring.h"
#include "native/spin.h"
#include "native/thread.h"
#include "share/meter.h"
#include "x86/level.h"

enum { GUEST_CONSOLE_PAGES = 16, GUEST_MESSAGE = PC_MESSAGE + 128 };

enum guest_state { GUEST_OFF, GUEST_STARTS, GUEST_RUNS, GUEST_PAUSED, GUEST_ENDS };

/* What the operator wants; taken by the guest's own thread. */
enum {
    GUEST_ORDER_START = 1 << 0,
    GUEST_ORDER_KILL = 1 << 1,
    GUEST_ORDER_RESET = 1 << 2,
    GUEST_ORDER_PAUSE = 1 << 3,
    GUEST_ORDER_RESUME = 1 << 4,
};

struct guest {
    struct vm *vm; /* &storage */

    /* guest_timer.c */
    _Atomic uint64_t timer_deadline; /* seam_time_ns at which vm_timers_run is due; UINT64_MAX: never */
    _Atomic uint32_t timer_word;     /* bumped when the deadline has become earlier, or timer_ends was set */
    _Atomic bool timer_ends;
    struct thread *timer_thread;

    /* Bumped by seam_vm_stopped, after vm->stop_reason was set, and by guest_order; who waits for the VM's end, or for
     * orders, waits on it. */
    _Atomic uint32_t stopped;

    /* Set once, by the fleet. */
    const struct fleet_vm *definition;
    uint32_t number;      /* in the fleet */
    struct thread *thread; /* its life (guest.c) */

    _Atomic uint32_t orders;
    _Atomic uint32_t state; /* enum guest_state: written by its thread */
    _Atomic uint32_t said;  /* bumped when state has changed: whoever waits for that */

    /* While it exists (exists is set, under `lock`), all else is its thread's. */
    struct lock lock; /* LOCK_RANK_HOME: that the VM stays while somebody looks at it */
    bool exists;
    struct vm storage;
    struct vm_config storage_config; /* the definition, or the saved VM's */
    struct x86_level level;
    void *ram;
    struct account account; /* who pays for its threads, its own one among them */
    uint64_t pin;           /* CPUs that its vCPUs may run on, as the fleet file counts them; under lock */
    struct meter_memory memory; /* under lock */
    struct thread *vcpu_thread[VM_MAX_VCPUS];
    struct guest_vcpu {
        struct guest *guest;
        uint32_t id;
    } vcpu[VM_MAX_VCPUS];
    struct isolation isolation; /* as proven when it started */
    uint64_t started_ns, resets;
    bool ends;                      /* this life is its last: the operator says so */
    bool restores;                  /* its first life goes on from a saved VM */
    char ended[VM_STOP_TEXT + 64];  /* how its last life ended, for `ps`; under lock */

    /* seam_log: lines that are still allowed in this period, so that no guest can fill the log */
    _Atomic uint32_t log_left;
    _Atomic uint64_t log_until;

    /* guest_console.c */
    struct spin console_lock;
    struct ring console;
    _Atomic uint32_t console_word; /* bumped when there is more; the operator's thread waits on another: console_tell */
};

/* The fields above, and vm->home. */
void guest_init(struct guest *g, struct vm *vm);

/* The VM's timer thread: runs vm_timers_run whenever it is due. ERR_NO_MEMORY. */
int must_check guest_timer_start(struct guest *g);
/* It ends; returns when it has. Not on that thread, and with no lock held that a timer takes. Nothing without one. */
void guest_timer_end(struct guest *g);

/* May it have one more line in the log now? (guest_console.c) */
bool guest_may_log(struct guest *g);

/* Waits until the VM has stopped (vm_is_stopped) or the deadline (seam_time_ns) has come. True: it has stopped. */
bool guest_wait_stopped(struct guest *g, uint64_t deadline_ns);

/* --- guest.c --- */

/* Its thread, and that no life has begun. ERR_NO_MEMORY. Once. */
int must_check guest_create(struct guest *g, const struct fleet_vm *definition, uint32_t number);
/* Asks its thread for what bits say. Any thread. */
void guest_order(struct guest *g, uint32_t orders);
static inline enum guest_state guest_state(const struct guest *g)
{
    return (enum guest_state)atomic_load(&g->state);
}
/* Waits until its state is `state`, or the deadline. */
bool guest_wait_state(struct guest *g, enum guest_state state, uint64_t deadline_ns);
/* Other CPUs for its vCPUs (bits, as the fleet file counts them; at least one that there is). */
void guest_pin(struct guest *g, uint64_t pin);
/* The power button. False: it does not run. */
bool guest_press_power(struct guest *g);

/* --- guest_build.c: all but guest_boot_files say what is wrong themselves, in the log --- */

/* From nothing to a machine whose vCPUs may run. */
int must_check guest_build(struct guest *g);
/* After a reset: boots again, in zeroed RAM. */
int must_check guest_boot_again(struct guest *g);
void guest_unbuild(struct guest *g);
/* A module's bytes by the path that the fleet gives it. NULL: there is none. */
const void *guest_module(const char *path, size_t *size);

/* --- guest_restore.c --- */

/* Reads and checks the metadata of the module of that path; *saved points into it. A message on errors. */
struct saved;
int must_check guest_restore_read(const char *path, struct saved *saved, char message[GUEST_MESSAGE]);
/* Pages and state into a VM that was made by that definition. */
int must_check guest_restore_memory(const struct guest *g, const struct saved *saved, char message[GUEST_MESSAGE]);
int must_check guest_restore_machine(struct guest *g, const struct saved *saved, char message[GUEST_MESSAGE]);

/* --- guest_console.c --- */

int must_check guest_console_init(struct guest *g);
extern const struct console_ops guest_console_ops;
/* What the guest has said from *position on, as ring_read. Any thread. */
size_t guest_console_read(struct guest *g, uint64_t *position, void *buf, size_t size, uint64_t *missed);
/* Position `back` bytes before the newest. */
uint64_t guest_console_back(struct guest *g, size_t back);
/* Bytes for its serial port: how many it took. */
size_t guest_console_input(struct guest *g, const uint8_t *bytes, size_t size);

#endif

