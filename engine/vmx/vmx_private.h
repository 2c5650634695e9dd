/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Between the files of the vmx engine; vmx.c has the design. */
#ifndef LODGE_ENGINE_VMX_VMX_PRIVATE_H
#define LODGE_ENGINE_VMX_VMX_PRIVATE_H

#include "core/mem.h"
#include "engine/hw.h"
#include "engine/nested.h"
#include "engine/vmx/insn.h"
#include "engine/vmx/vmcs.h"
#include "x86/cpu.h"

/* --- what this processor can do (caps.c) ------------------------------------------------------- */

/* One capability MSR: bits that must be set, bits that may be set (SDM 3D A.2). */
struct vmx_choice {
    uint32_t must, may;
};

struct vmx_caps {
    uint64_t basic, misc, ept_vpid;
    struct vmx_choice pin, primary, secondary, exit, entry;
    uint64_t cr0_fixed0, cr0_fixed1, cr4_fixed0, cr4_fixed1;
    bool rdtscp;     /* so there is IA32_TSC_AUX */
    bool spec_ctrl;  /* there is IA32_SPEC_CTRL */
};

enum vmx_controls { VMX_PIN, VMX_PRIMARY, VMX_SECONDARY_SET, VMX_EXIT, VMX_ENTRY, VMX_CONTROLS };

void vmx_caps_read(struct vmx_caps *c);
/* The value for one set of controls: what is forced, what is wanted and can be had, what the processor insists on.
 * ERR_UNSUPPORTED and *missing, the bits, if something forced is not to be had. Pure. */
int must_check vmx_adjust(const struct vmx_choice *c, uint32_t forced, uint32_t wanted, uint32_t *value,
                          uint32_t *missing);
/* The tables of forced controls: a line that names what is missing, or OK. */
int must_check vmx_caps_check(const struct vmx_caps *c, char *why, size_t why_size, char *notes, size_t notes_size);
uint32_t vmx_forced(enum vmx_controls set);

extern const struct engine engine_vmx;

/* --- state of CPUs, VMs, vCPUs ----------------------------------------------------------------- */

/* A CPU's: where hw_engine_slot points, from cpu_on on. */
struct vmx_cpu {
    uint8_t region[PAGE_SIZE]; /* VMXON's, first: page-aligned */
    struct vmx_caps caps;
    uint32_t next_vpid, generation; /* VPIDs 1 .. next_vpid - 1 are given out in this generation */
    const struct vm *last_vm;       /* whose guest ran here last: only compared */
    _Atomic uint64_t *guest_ticks;  /* hw_guest_ticks of this CPU */
    uint64_t xcr0; /* all that Lodge knows of what it has; 0: no XSAVE */
    bool on;
};

struct vmx_vm {
    struct nested nested;
    uint64_t ept_pointer;
    uint64_t tsc_base;             /* guest's TSC less host's, for tsc_offset 0 */
    _Atomic uint32_t memory_epoch; /* bumped when the nested tables lost rights */
    uint8_t *msr_bitmap;           /* one page */
};

enum { VMX_NOWHERE = UINT32_MAX };

struct vmx_vcpu {
    uint8_t *vmcs; /* a page */
    uint32_t cpu;  /* where the VMCS is current, or VMX_NOWHERE */
    bool launched;
    bool configured; /* its controls have been written */
    uint32_t have;   /* state groups whose newest values (too) are in struct x86_cpu */
    uint32_t changed; /* those that are newer there; part of `have` */
    _Atomic uint32_t inside; /* 0, or 1 + the CPU that may be in its guest: whom a kick goes to */

    uint32_t vpid, vpid_generation;
    uint32_t last_cpu; /* where the VMCS was current last */
    uint32_t memory_epoch; /* that was last flushed for */
    bool flush;            /* drop this VPID's translations before the next entry */

    bool fpu_live; /* the CPU's vector registers and XCR0 are this vCPU's */
    bool msr_live; /* so are the MSRs that it may write by itself */
    bool has_xsave;
    uint64_t fpu_mask;

    uint64_t host_rsp; /* as VMCS_HOST_RSP has it */
    uint32_t primary, entry; /* as the VMCS has these controls */
    uint32_t reason;         /* of the last exit */
    uint32_t exits_since;    /* the last preemption point */
    uint64_t entries, emulated, injected, exits[VMX_REASONS];
};

static inline struct vmx_vcpu *vmx_vcpu_of(const struct x86_cpu *cpu)
{
    return cpu->engine;
}

static inline struct vmx_vm *vmx_vm_of(const struct vm *vm)
{
    return vm->engine;
}

static inline struct vmx_cpu *vmx_this_cpu(void)
{
    return *hw_engine_slot();
}

/* --- vmcs.c ------------------------------------------------------------------------------------ */

/* Makes the vCPU's VMCS current on this CPU, with its host state, and has hw_on_switch take it away again.
 * Cheap if it is. Whatever may let another thread run may have taken it away. OK, or ERR_UNSUPPORTED: a VMX
 * instruction failed. */
int must_check vmx_load(struct x86_cpu *cpu);
/* Takes everything of the vCPU off this CPU. */
void vmx_unload(struct x86_cpu *cpu);
void vmx_make_msr_bitmap(uint8_t bitmap[PAGE_SIZE]);
void vmx_open_msr(uint8_t bitmap[PAGE_SIZE], uint32_t index, bool write);
/* Drops what the next entry must not find: after changes of paging by us, and of the memory map. */
void vmx_flush_translations(struct x86_cpu *cpu);
/* Window controls of the next entry. */
void vmx_set_windows(struct x86_cpu *cpu, bool interrupt, bool nmi);

/* --- state.c, fpu.c ---------------------------------------------------------------------------- */

/* The groups' newest values are in struct x86_cpu afterwards. Own thread. */
void vmx_fetch(struct x86_cpu *cpu, uint32_t groups);
/* They were changed there. */
void vmx_changed(struct x86_cpu *cpu, uint32_t groups);
/* Hands over what was changed: the VMCS is current. */
void vmx_flush(struct x86_cpu *cpu);
/* After an exit: what the guest may have changed is only in the processor. */
void vmx_forget(struct x86_cpu *cpu);
int vmx_vcpu_get_state(struct x86_cpu *cpu, uint32_t groups);
int vmx_vcpu_set_state(struct x86_cpu *cpu, uint32_t groups);
uint32_t vmx_segment_attr(const struct x86_cpu *cpu, unsigned int s, const struct x86_segment *g);

void vmx_fpu_fetch(struct x86_cpu *cpu);
void vmx_fpu_load(struct x86_cpu *cpu);
/* XCR0 is another, the registers are not. */
void vmx_xcr0_changed(struct x86_cpu *cpu);
/* The CPU's registers as C finds them (System V ABI), while no guest's are there: they are in struct x86_cpu. */
void vmx_fpu_host(const struct vmx_cpu *c);
uint64_t vmx_xcr0_known(void);
void vmx_msr_fetch(struct x86_cpu *cpu);
void vmx_msr_load(const struct x86_cpu *cpu);

/* --- interrupt.c ------------------------------------------------------------------------------- */

/* Chooses the event of the next entry, if there is none yet, into cpu->event, and asks for windows. May wait. */
void vmx_choose_event(struct x86_cpu *cpu);
/* Is there an event that could be delivered now, so that a halt ends? */
bool vmx_event_waits(struct x86_cpu *cpu);
/* Puts it into the VMCS; last thing before the entry. */
void vmx_inject(struct x86_cpu *cpu);
/* What was being delivered when the guest was left, back into cpu->event. */
void vmx_recover_event(struct x86_cpu *cpu);
/* The entry's interruption information for an event. Pure. */
uint32_t vmx_event_info(const struct x86_in_flight *in, bool protected_mode);
struct x86_in_flight vmx_event_from(uint32_t info, uint32_t error);
/* An exception of the instruction that the guest was left at. */
void vmx_raise(struct x86_cpu *cpu, uint8_t vector, uint32_t error);

/* --- emulate.c: one instruction, or the event in flight, by the emulator ----------------------- */

void vmx_emulate(struct x86_cpu *cpu);

/* --- exits.c ----------------------------------------------------------------------------------- */

enum vmx_verdict {
    VMX_GO_ON,
    VMX_STOP,   /* a handler says that the VM has stopped */
    VMX_REPORT, /* *e is for our caller */
};

enum vmx_verdict vmx_handle_exit(struct x86_cpu *cpu, struct exit *e);
enum vmx_verdict vmx_fail(struct x86_cpu *cpu, struct exit *e, const char *reason, uint64_t detail);

/* --- run.c, clock.c, level.c, vmx.c ------------------------------------------------------------ */

int vmx_vcpu_run(struct x86_cpu *cpu, struct exit *e);
void vmx_vcpu_kick(struct x86_cpu *cpu);
int vmx_vm_clock_started(struct vm *vm);
uint64_t vmx_vm_clock_lead(struct vm *vm);
uint64_t vmx_tsc_offset(const struct x86_cpu *cpu);
/* Barriers when something else has run here since the guest did: another VM's, or only the hypervisor's own threads. */
void vmx_switch_barriers(bool other_vm);

/* enter.S. Flags: */
enum { VMX_ENTER_RESUME = 1, VMX_ENTER_VERW = 2, VMX_ENTER_STUFF_RSB = 4 };
enum { VMX_ENTER_OK, VMX_ENTER_INVALID, VMX_ENTER_FAILED };
/* Loads general registers but RSP from gpr[], enters, stores them when the guest is left. */
int vmx_enter(uint64_t gpr[16], uint32_t flags, uint64_t *host_rsp);
extern const char vmx_exit_point[];

#endif
