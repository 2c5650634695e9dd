/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What the svm engine's files share. svm.c has the tables, a VM's and a vCPU's life; host.c the processor's switch
 * and what each one keeps; level.c what a host can give; vmcb.c intercepts and permission maps; run.c the run loop
 * and interrupts; exit.c what exits mean; emulate.c single instructions; state.c registers; fpu.c vectors; clock.c
 * the TSC.
 */
#ifndef LODGE_ENGINE_SVM_PRIVATE_H
#define LODGE_ENGINE_SVM_PRIVATE_H

#include <stdatomic.h>

#include "engine/engine.h"
#include "engine/hw.h"
#include "engine/nested.h"
#include "engine/svm/vmcb.h"

/*
 * What a processor keeps for this engine: lies behind the page whose address it has in VM_HSAVE_PA, which is how
 * it is found. Its own CPU only, interrupts off.
 */
struct svm_cpu {
    _Atomic uint64_t *guest_ticks; /* hw_guest_ticks of this CPU */
    uint64_t host_vmcb; /* physical address: FS, GS, TR, LDTR and MSRs that VMLOAD brings back */
    const struct svm_vcpu *last;
    const struct vm *last_vm; /* whose guest ran here last: only compared */
    uint64_t asid_generation; /* from 1 on; a vCPU's ASID is good in this one only */
    uint32_t asid_next, asid_count;
    uint64_t xcr0; /* while no guest's vector registers are there */
    uint64_t tsc_aux, tsc_ratio; /* what is in these MSRs */
    uint32_t enter_flags; /* SVM_ENTER_* */
    uint64_t spec_ctrl;   /* the host's, under which guests run, too */
    bool has_ibpb, flushes_by_asid;
    bool flush_all; /* a generation has begun, and no entry has flushed yet */
};

struct svm_vm {
    struct nested nested;
    uint32_t features; /* SVM_*, CPUID 8000000AH EDX */
    bool spec_ctrl;    /* the processor has the MSR */
    bool fxsave_leak;  /* XRSTOR leaves FOP, FIP, FDP as they are unless an exception is pending */
    uint64_t tsc_ratio; /* guest ticks per host tick, 8.32 */
    uint64_t tsc_base;  /* guest TSC less scaled host TSC where tsc_offset is 0 */
};

/* Where the code at a linear address is, and the entries of the guest's page tables that say so. */
enum { SVM_CODE_PAGES = 16, SVM_WALK = 4 };

struct svm_code {
    uint64_t page, cr3; /* key; page 1: nothing here */
    const uint8_t *host;
    const uint64_t *entry[SVM_WALK]; /* shallower walks have the last one several times */
    uint64_t value[SVM_WALK];
};

enum { SVM_CPUID_ANSWERS = 16 };

struct svm_cpuid {
    uint32_t leaf, subleaf, out[4];
    bool valid;
    uint8_t reserved[7]; /* 32 bytes: an index is a shift */
};

struct svm_vcpu {
    struct vmcb *vmcb;
    uint64_t vmcb_physical;
    struct svm_cpu *on; /* of the CPU where it ran last */
    uint32_t on_index;  /* hw_cpu() there; HW_CPUS: nowhere yet */
    uint64_t asid_generation;

    uint32_t changed; /* groups of which struct x86_cpu has the newer state */
    uint32_t fetched; /* groups that struct x86_cpu has, too, since the last exit */
    uint32_t todo;    /* before the next entry: */
#define SVM_ATTEND 1  /* something is to be seen to */
#define SVM_LOAD   2  /* the guest's vector registers are not in this CPU, or it may be another one */
#define SVM_SWITCH 8  /* MSRs that it has of its own in this CPU */
#define SVM_FLUSH  4  /* the guest's translations have to go */
    bool window;      /* an exit was asked for as soon as an interrupt can be taken */
    bool has_next_rip;
    bool debug_here;  /* DR0 to DR3 are in this CPU, and the guest may access them */
    uint64_t hidden;  /* CR0.CD and NW, which the guest has set and the processor has not */
    _Atomic uint32_t inside; /* CPU on which it is in guest code, or about to; HW_CPUS: not */

    uint64_t exits, emulated, injected;
    struct svm_code code[SVM_CODE_PAGES];
    struct svm_cpuid cpuid[SVM_CPUID_ANSWERS];
};

static inline struct svm_vm *svm_vm_of(const struct vm *vm)
{
    return vm->engine;
}

static inline struct svm_vcpu *svm_vcpu_of(const struct x86_cpu *cpu)
{
    return cpu->engine;
}

/* Whether the run loop goes on. */
enum svm_verdict {
    SVM_GO_ON,
    SVM_STOP,   /* a handler says that the VM has stopped */
    SVM_REPORT, /* *e is for the caller */
};

static inline uint64_t svm_read_msr(uint32_t index)
{
    uint32_t low, high;

    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return (uint64_t)high << 32 | low;
}

static inline void svm_write_msr(uint32_t index, uint64_t value)
{
    __asm__ volatile("wrmsr" : : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline void svm_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    __asm__ volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "a"(leaf), "c"(subleaf));
}

/* What was in the VMCB is not what the processor may have kept of it. */
static inline void svm_dirty(struct svm_vcpu *s, uint32_t clean_bits)
{
    s->vmcb->control.clean &= ~clean_bits;
}

/* --- host.c --- */
int svm_cpu_probe(char *why, size_t why_size, char *notes, size_t notes_size);
int svm_cpu_on(void);
void svm_cpu_off(void);
struct svm_cpu *svm_this_cpu(void);
/* The vCPU runs on this CPU next, and another did before, or it ran elsewhere. */
void svm_switch_in(struct x86_cpu *cpu);
/* Sees to it that none of the guest's translations is used any more. Before an entry, on the CPU of svm_switch_in. */
void svm_flush_translations(struct svm_vcpu *s);

/* --- level.c --- */
int svm_probe(const struct x86_level *level, bool closely, char *why, size_t size);
void svm_adapt_profile(struct x86_level *level);

/* --- vmcb.c --- */
/* All that does not depend on the guest's state. */
void svm_vmcb_init(const struct x86_cpu *cpu);
void svm_intercept(struct svm_vcpu *s, unsigned int word, uint32_t bits, bool on);

/* --- enter.S --- */
enum { SVM_ENTER_VERW = 1, SVM_ENTER_STUFF_RSB = 2 };
/* Runs the guest until an exit: gpr in its order, all but RAX and RSP; physical addresses of both VMCBs. */
void svm_enter(uint64_t gpr[16], uint64_t vmcb, uint64_t host_vmcb, uint32_t flags);

/* --- run.c --- */
int svm_vcpu_run(struct x86_cpu *cpu, struct exit *e);
void svm_vcpu_kick(struct x86_cpu *cpu);
/* The engine cannot go on; fills *e. */
enum svm_verdict svm_fail(struct x86_cpu *cpu, struct exit *e, const char *reason, uint64_t detail);
/* An exception is delivered at the next entry; RIP is at its instruction. */
void svm_inject(struct x86_cpu *cpu, uint8_t vector, bool has_error, uint32_t error);

/* Asks for an exit as soon as the guest can take an interrupt, or takes that back. */
void svm_open_window(struct svm_vcpu *s, bool open);

/* --- exit.c --- */
enum svm_verdict svm_handle_exit(struct x86_cpu *cpu, struct exit *e);

/* --- emulate.c --- */
/* Executes one instruction of the guest, whatever it is, with all that surrounds it. */
enum svm_verdict svm_emulate(struct x86_cpu *cpu);
/* Delivers the event in flight without the processor. */
void svm_land(struct x86_cpu *cpu);
/* Length of the instruction that exited, whose plain encoding is the low `length` bytes of `bytes`, if it is
 * surely that one and nothing stands against skipping it; else 0: emulate. */
uint32_t svm_length(struct x86_cpu *cpu, uint32_t bytes, uint32_t length);
/* RIP goes on behind the instruction, which has been executed. */
static inline void svm_skip_to(struct svm_vcpu *s, uint64_t rip)
{
    s->vmcb->save.rip = rip;
    s->vmcb->save.rflags &= ~X86_FLAG_RF;
    s->vmcb->control.shadow = 0;
    s->fetched &= ~(uint32_t)(ENGINE_STATE_GPR | ENGINE_STATE_EVENTS);
}

/* --- state.c --- */
int svm_vcpu_get_state(struct x86_cpu *cpu, uint32_t groups);
int svm_vcpu_set_state(struct x86_cpu *cpu, uint32_t groups);
void svm_vcpu_state_changed(struct x86_cpu *cpu);
/* Where guest code lies may have changed: forgets lengths' walks. */
void svm_forget_code(struct svm_vcpu *s);
/* The same as svm_vcpu_get_state, for those who are about to change it: nothing is left out. */
void svm_fetch(struct x86_cpu *cpu, uint32_t groups);
void svm_changed(struct x86_cpu *cpu, uint32_t groups);
/* Hands over what has changed. Own thread. */
void svm_hand_over(struct x86_cpu *cpu);
uint64_t svm_event_from(const struct x86_in_flight *in);
struct x86_in_flight svm_event_to(uint64_t event);

/* --- fpu.c --- */
/* The guest's vector registers are in the processor when this returns; until the thread is switched out. */
void svm_fpu_load(struct x86_cpu *cpu);
/* They are in struct x86_cpu, and those of the processor as compiled code expects them. */
void svm_fpu_store(struct x86_cpu *cpu);
/* DR0 to DR3 likewise; svm_debug_fetch copies them, and they stay. */
void svm_debug_load(struct x86_cpu *cpu);
void svm_debug_fetch(struct x86_cpu *cpu);
void svm_debug_store(struct x86_cpu *cpu);
/* All of it is in struct x86_cpu: others may run here, and look. */
void svm_leave(struct x86_cpu *cpu);
/* How they are while they are nobody's: on this CPU, which has just been switched on. */
void svm_fpu_host(const struct svm_cpu *c);

/* --- clock.c --- */
int svm_clock_create(struct vm *vm);
int svm_clock_started(struct vm *vm);
uint64_t svm_clock_lead(struct vm *vm);
uint32_t svm_tsc_khz(const struct vm *vm);

#endif
