/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What the kvm engine's files share. vm.c has the VM (memory, interrupts, filters), run.c the run
 * loop, state.c and state_*.c the movement of registers, level.c what a host can give, probe.c the
 * guest that finds out whether a KVM is worth anything.
 */
#ifndef LODGE_ENGINE_KVM_PRIVATE_H
#define LODGE_ENGINE_KVM_PRIVATE_H

#include <linux/kvm.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/types.h>

#include "core/lock.h"
#include "engine/engine.h"
#include "x86/lapic.h"

enum {
    KVM_LEVEL_ROUTES = 48, /* twice as many as the I/O APIC has inputs */
    KVM_EVENT_ROUTES = 104,
    KVM_ROUTES = KVM_LEVEL_ROUTES + KVM_EVENT_ROUTES,
};

/* An interrupt message as KVM takes it; its place in the table is its number ("GSI"). */
struct kvm_route {
    uint64_t address;
    uint32_t data;
    bool used;
    uint64_t sent; /* up to KVM_LEVEL_ROUTES: when it was last, counted in such messages */
    int event; /* from KVM_LEVEL_ROUTES on: the descriptor that sends it */
};

struct kvm_vm {
    int fd;
    uint32_t slots; /* memory slots that KVM knows of */
    size_t run_size;
    pid_t pid;
    bool tracks_dirty;
    bool has_tsc_offset; /* KVM_VCPU_TSC_OFFSET: Linux 5.16 */
    bool has_sregs2;     /* Linux 5.14 */
    uint32_t host_tsc_khz;
    bool clock_set;    /* the VM clock was started with this VM */
    uint64_t tsc_base; /* KVM's TSC offset of a vCPU whose tsc_offset is 0 */
    int first_vcpu; /* vCPU 0, made early to ask for the TSC's rate; -1: handed out */

    /* First level-triggered messages, of whose EOI KVM is to tell us, then those that eventfds send;
     * under route_lock. */
    struct lock route_lock;
    uint64_t level_sent; /* messages */
    struct kvm_route route[KVM_ROUTES];
};

struct kvm_vcpu {
    int fd;
    struct kvm_run *run;  /* shared with the kernel */
    _Atomic pid_t thread; /* who runs it, for kicks; 0: nobody yet */
    _Atomic bool inside;  /* in KVM_RUN or on the way there: a kick needs a signal */
    bool configured;      /* CPUID was given */
    bool unfinished;      /* an access that was handled is completed by the next KVM_RUN */
    bool started;         /* the thread's signal mask is right */
    uint32_t changed;     /* groups of which struct x86_cpu has the newer state */
    uint64_t tsc_skew;    /* tsc_offset less TSC_ADJUST, as KVM has it */
    uint32_t missing;     /* pieces of RAM, when kvm-clock's page was last looked for */
    uint64_t entries, signals;
};

static inline struct kvm_vm *kvm_vm_of(const struct vm *vm)
{
    return vm->engine;
}

static inline struct kvm_vcpu *kvm_vcpu_of(const struct x86_cpu *cpu)
{
    return cpu->engine;
}

/* A request for ioctl(), which C libraries take as an int (musl) or an unsigned long. */
#define KVM_REQUEST(request) \
    ((__typeof__(_Generic(&ioctl, int (*)(int, int, ...): 0, default: 0ul)))(request))

/* ioctl that is repeated when a signal comes in between. The result, or -errno. */
int kvm_ioctl(int fd, unsigned long request, void *argument);
int kvm_ioctl_value(int fd, unsigned long request, unsigned long value);
/* --- trouble.c --- */
/* An errno as one of core/err.h. */
int kvm_err(int negative_errno);
/* The same, and a sentence: what KVM did not do ("make a VM"), or what the errno means anyway. */
int kvm_trouble(char *why, size_t size, const char *what, int negative_errno);
/* /dev/kvm, or -errno and why. */
int kvm_open(char *why, size_t size);

/* --- vm.c --- */
int kvm_vm_create(struct vm *vm);
void kvm_vm_destroy(struct vm *vm);
int kvm_vm_memory_changed(struct vm *vm);
/* Tells KVM of a slot; m NULL: that it is gone. */
int kvm_set_slot(const struct kvm_vm *kvm, uint32_t slot, const struct guest_mem_slot *m);
/* The signal that ends KVM_RUN. Not one of the real-time signals, which the kernel queues, and drops
 * when the user has too many queued ('ulimit -i'): a kick must not be lost. */
#define KVM_KICK_SIGNAL SIGURG

/* --- interrupt.c --- */
/* apic_bus.send: any thread. */
int kvm_send_message(struct vm *vm, const struct apic_message *m);
/* The 8259's interrupt is taken at the next entry. Own thread, between two instructions. */
void kvm_give_extint(const struct x86_cpu *cpu);
extern const struct engine_event_ops kvm_event_ops;

/* --- dirty.c --- */
int kvm_dirty_track(struct vm *vm, bool on);
int kvm_dirty_fetch(struct vm *vm, uint32_t slot, uint64_t *bitmap);

/* --- clock.c --- */
/* engine.vm_clock_started, vm_clock_lead */
int kvm_clock_started(struct vm *vm);
uint64_t kvm_clock_lead(struct vm *vm);
/* Gives the vCPU the TSC that its tsc_offset calls for. */
int kvm_set_tsc(const struct x86_cpu *cpu);

/* --- msr_filter.c --- */
int kvm_set_msr_filter(const struct vm *vm, bool spec_ctrl);

/* --- level.c --- */
/* OK, or ERR_UNSUPPORTED and a reason that names the missing bit. */
int kvm_check_level(int kvm_fd, const struct x86_level *level, char *why, size_t size);
/* Takes from a level's mitigation profile what is not true on this host. */
void kvm_adapt_profile(int kvm_fd, struct x86_level *level);
/* Gives the vCPU the CPUID of its level. */
int kvm_set_cpuid(const struct x86_cpu *cpu);

/* --- run.c --- */
int kvm_vcpu_run(struct x86_cpu *cpu, struct exit *e);
void kvm_vcpu_kick(struct x86_cpu *cpu);

/* --- state.c --- */
int kvm_vcpu_get_state(struct x86_cpu *cpu, uint32_t groups);
int kvm_vcpu_set_state(struct x86_cpu *cpu, uint32_t groups);
/* Puts INIT, SIPI and PV_KICK, with which a state was saved, into the vCPU's state. OK or an error. */
int kvm_take_saved_requests(struct x86_cpu *cpu);
/* Hands over what kvm_vcpu_set_state has noted. Own thread, or the VM at rest. OK or an error. */
int kvm_flush_state(struct x86_cpu *cpu);
/* The same for all vCPUs, before the first of them runs: an interrupt that it sends to one whose
 * state is handed over later would be overwritten. */
int kvm_flush_all(const struct vm *vm);

/* --- state_event.c --- */
/* Before all other state: KVM takes INIT and SIPI here. */
int kvm_get_run_state(struct x86_cpu *cpu);
int kvm_get_events(struct x86_cpu *cpu);
int kvm_set_events(const struct x86_cpu *cpu);
/* Drops what KVM has in store of an earlier life: INIT, SIPI, SMI. At rest; all state is set next. */
int kvm_forget_events(const struct x86_cpu *cpu);

/* --- state_msr.c, state_clock.c --- */
/* Of a vCPU, or (features) of /dev/kvm. */
int kvm_read_msr(int fd, uint32_t index, uint64_t *value);
int kvm_get_msr(const struct x86_cpu *cpu, uint32_t index, uint64_t *value);
int kvm_set_msr(const struct x86_cpu *cpu, uint32_t index, uint64_t value);
int kvm_get_msrs(struct x86_cpu *cpu);
int kvm_set_msrs(const struct x86_cpu *cpu);
int kvm_get_apic(struct x86_cpu *cpu, uint64_t apic_base);
int kvm_set_apic(const struct x86_cpu *cpu);
int kvm_get_clock(struct x86_cpu *cpu);
int kvm_set_clock(const struct x86_cpu *cpu);

/* --- probe.c --- */
int kvm_probe(const struct x86_level *level, bool closely, char *why, size_t size);

#endif
