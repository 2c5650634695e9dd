/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * One x86-64 processor: its whole architectural state in neutral form, and what the emulator
 * derives from it. Engines that run on hardware load from and store to the same structure, by
 * groups.
 *
 * Guest faults are return values (enum x86_status), never longjmp: a handler that meets one calls
 * x86_fault*(), which records it in cpu->fault, and returns X86_FAULT at once. A handler must not
 * have changed architectural state by then, except where the manual lets it (REP, PUSHA's stores).
 *
 * Owned by the vCPU's thread (core/vm.h), except atomics and the local APIC's posted bits.
 */
#ifndef LODGE_X86_CPU_H
#define LODGE_X86_CPU_H

#include "core/seam.h"
#include "core/types.h"
#include "core/vm.h"
#include "isa/insn.h"
#include "isa/x86.h"

struct x86_level; /* x86/level.h */
struct lapic;     /* x86/lapic.h */
struct native;    /* x86/native.h */

/* Result of a handler. */
enum x86_status {
    X86_OK = 0,    /* go on with the next instruction (cpu->rip already points at it) */
    X86_JUMP = 1,  /* rip, mode, translation or interruptibility changed: look up the next block */
    X86_FAULT = 2, /* cpu->fault is set; rip is put back to the instruction by the run loop */
    X86_EXIT = 3,  /* done, and the run loop must look at activity, requests, vm->stop_reason */
};

/* Attribute bits of a segment as in descriptor bytes 5 and 6 (SDM 3A 3.4.5): type 0-3, S 4,
 * DPL 5-6, P 7, AVL 12, L 13, D/B 14, G 15. */
enum {
    X86_ATTR_TYPE = 0x000F,
    X86_ATTR_S = 1 << 4,
    X86_ATTR_DPL_SHIFT = 5,
    X86_ATTR_P = 1 << 7,
    X86_ATTR_AVL = 1 << 12,
    X86_ATTR_L = 1 << 13,
    X86_ATTR_DB = 1 << 14,
    X86_ATTR_G = 1 << 15,
    X86_ATTR_UNUSABLE = 1 << 16, /* null selector loaded */
};

struct x86_segment {
    uint64_t base;
    uint32_t limit; /* in bytes, granularity applied */
    uint32_t attr;  /* X86_ATTR_* */
    uint16_t selector;
};

struct x86_table {
    uint64_t base;
    uint16_t limit;
};

enum x86_activity {
    X86_RUNNING,
    X86_HALTED,
    X86_WAIT_SIPI, /* after INIT, or an AP at power-on */
    X86_SHUTDOWN,
};

enum { X86_SHADOW_STI = 1, X86_SHADOW_MOV_SS = 2 };

/* An exception, on its way from where it was found to its delivery. */
struct x86_fault {
    uint8_t vector;
    bool has_error;
    uint32_t error;
    uint64_t payload; /* #PF: CR2; #DB: bits to set in DR6 */
};

/* An event that an engine had begun to deliver when it stopped: it has left its source and has not
 * reached the guest. Whoever runs the vCPU next delivers it first. */
enum x86_flight {
    X86_FLIGHT_NONE,
    X86_FLIGHT_FAULT,     /* an exception that was found: CR2 and DR6 are still to be set */
    X86_FLIGHT_EXCEPTION, /* an exception on its way: they are set */
    X86_FLIGHT_NMI,
    X86_FLIGHT_INTERRUPT, /* acknowledged: in service at the local APIC, or gone from the 8259 */
};

struct x86_in_flight {
    uint8_t kind; /* enum x86_flight */
    uint8_t vector;
    bool has_error, has_payload;
    uint32_t error;
    uint64_t payload; /* as in struct x86_fault */
};

/* How an event came about: decides gate checks, pushed RIP, EXT bit. */
enum x86_event_kind {
    X86_EVENT_EXTERNAL,  /* interrupt from the APIC or 8259 */
    X86_EVENT_NMI,
    X86_EVENT_EXCEPTION, /* hardware exception: fault or trap */
    X86_EVENT_INT_N,     /* INT n: DPL check, rip is after the instruction */
    X86_EVENT_INT3,      /* INT3, INTO: DPL check, software exception */
    X86_EVENT_INT1,      /* ICEBP: no DPL check */
};

/* MSRs with storage of their own; the list of all is x86/msr.c. */
struct x86_msrs {
    uint64_t star, lstar, cstar, sfmask;
    uint64_t kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat;
    uint64_t tsc_aux;
    uint64_t tsc_adjust;
    uint64_t misc_enable;
    uint64_t spec_ctrl;
    uint64_t mtrr_def_type;
    uint64_t mtrr_fixed[11];
    uint64_t mtrr_base[8], mtrr_mask[8];
    uint64_t mcg_status;
    uint64_t kvm_system_time, kvm_wall_clock, kvm_steal_time, kvm_poll_control;
};

/* XSAVE area, standard format, for XCR0 = 7 (SDM 1, 13.4): the guest's vector state at rest. */
struct x86_fpu {
    /* legacy region, FXSAVE64 layout */
    uint16_t fcw, fsw;
    uint8_t ftw; /* abridged tag word */
    uint8_t reserved0;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16];
    uint8_t xmm[16][16];
    uint8_t reserved1[96];
    /* XSAVE header: not state, here every component is always in use. An engine that hands the image
     * to XRSTOR says so in its copy. */
    uint64_t xstate_bv, xcomp_bv;
    uint8_t reserved2[48];
    /* AVX state */
    uint8_t ymm_high[16][16];
} __attribute__((aligned(64)));

_Static_assert(offsetof(struct x86_fpu, st) == 32, "SDM 1, table 10-2");
_Static_assert(offsetof(struct x86_fpu, xmm) == 160, "SDM 1, table 10-2");
_Static_assert(offsetof(struct x86_fpu, xstate_bv) == 512, "SDM 1, 13.4.2");
_Static_assert(offsetof(struct x86_fpu, ymm_high) == 576, "SDM 1, 13.4.3");
_Static_assert(sizeof(struct x86_fpu) == 832, "XCR0 = 7");

/*
 * Software TLB: direct-mapped, one table per access context. A tag is the page's linear address
 * with the generation of its half of the address space in its low 12 bits; a flush of everything in
 * a half is a new generation. Entries exist
 * only for pages of RAM whose access needs nothing but a load or store: MMIO, ROM writes, pages with
 * a data breakpoint and clean pages (dirty bit to set) are not entered for that kind of access.
 */
enum { X86_TLB_BITS = 9, X86_TLB_SIZE = 1 << X86_TLB_BITS };

enum x86_tlb_context {
    X86_TLB_KERNEL,     /* CPL 0-2, SMAP in force (or off) */
    X86_TLB_KERNEL_AC,  /* CPL 0-2 with RFLAGS.AC set, SMAP suspended */
    X86_TLB_USER,       /* CPL 3 */
    X86_TLB_NONE,       /* never filled: alignment checks send every access to the slow path */
    X86_TLB_CONTEXTS,
};

enum x86_paging { X86_PAGING_OFF, X86_PAGING_32BIT, X86_PAGING_PAE, X86_PAGING_4LEVEL };

struct x86_tlb_entry {
    uint64_t read_tag, write_tag, exec_tag;
    uint64_t addend; /* host address = linear address + addend (wrapping) */
};

enum { X86_TLB_TAG_NONE = 0 }; /* generation 0 is never current */

/* Pages of translated code that one instruction may write besides its stores until their list is given
 * up: tables of a walk or two. */
enum { X86_LATE_PAGES = 16 };

struct x86_cpu {
    struct vcpu vcpu; /* first: container_of and casts between them are the same address */

    /* General registers and what nearly every instruction touches */
    uint64_t gpr[16];
    uint64_t rip;
    uint64_t rflags; /* bit 1 always set */
    struct x86_tlb_entry *tlb; /* the current context's table */
    uint64_t tlb_generation[2]; /* 1..4095, for the lower and the upper half of the address space */
    uint64_t tlb_flushes[2];    /* of each half, ever: for those who keep translations beside */
    uint64_t code_page;        /* host address of the page that the running block is in, or ~0 */
    bool code_written;         /* a store went to code_page: end the block after this instruction */

    /* Derived from CR0, CR4, EFER, CS, RFLAGS by x86_update_mode() */
    uint8_t cpl;
    uint8_t mode;       /* enum insn_mode of CS */
    bool long_mode;     /* EFER.LMA: 64-bit or compatibility */
    bool protected_mode; /* CR0.PE and not virtual-8086 */
    bool v86;
    bool smap_active, flat_data; /* flat_data: DS ES SS base 0, limit 4G: no segment checks needed */
    uint8_t stack_size; /* 2, 4, 8: width of the stack pointer */
    uint8_t tlb_context; /* enum x86_tlb_context of explicit accesses, never X86_TLB_NONE */
    uint8_t paging;      /* enum x86_paging */
    uint64_t paging_key; /* the bits that translation depends on; a change flushes the TLB */

    /* Interruptibility */
    uint8_t shadow;   /* X86_SHADOW_*; holds for one instruction */
    uint8_t activity; /* enum x86_activity */
    bool nmi_masked;
    bool nmi_pending;
    bool pv_kick; /* the next HLT ends at once */
    struct x86_in_flight event;
    bool repeats; /* set by a string instruction that put RIP back to itself; cleared by who asks */

    /* A fault on its way; valid between X86_FAULT and x86_raise */
    struct x86_fault fault;
    /* Debug traps gathered by the current instruction (DR6 bits): data breakpoints, TF, BT */
    uint64_t debug_pending;
    /* Set by an instruction that began with TF set and takes no single-step trap all the same (INT n,
     * SYSCALL with TF masked); cleared by x86_debug_after */
    bool no_step;

    /* Segments and tables */
    struct x86_segment seg[SEG_COUNT];
    struct x86_segment ldtr, tr;
    struct x86_table gdtr, idtr;

    /* Control and debug registers; CR8 is the local APIC's TPR */
    uint64_t cr0, cr2, cr3, cr4, xcr0, efer;
    uint64_t pdpte[4]; /* PAE paging's four registers, loaded with CR3 (SDM 3A 4.4.1) */
    uint64_t dr[4], dr6, dr7;
    struct x86_msrs msr;

    struct x86_fpu fpu;
    struct native *native; /* cache of native fragments (x86/native.c), own thread only */

    const struct x86_level *level;
    struct lapic *lapic; /* owned */
    uint64_t tsc_offset; /* guest TSC = VM clock scaled + tsc_offset */

    struct x86_tlb_entry tlb_table[X86_TLB_CONTEXTS][X86_TLB_SIZE];
    /* Told of each single page that is dropped from the TLB (flushes are seen by the
     * generations): for who has translations derived from it. NULL: nobody. */
    void (*tlb_page_dropped)(struct x86_cpu *cpu, uint64_t linear);
    /* Pages of code that were written other than by a store: x86/mmu_code.c */
    bool late_code;
    uint32_t late_pages; /* how many there are, or X86_LATE_PAGES + 1: more */
    uint64_t late_page[X86_LATE_PAGES]; /* host addresses */
    uint64_t late_first, late_last;     /* all lie between */
    bool tlb_local_upper; /* pages of the upper half that are not global were entered since its flush */
    /* Hull of the large pages entered since the last flush, lower and upper half of the address
     * space: INVLPG inside it flushes everything. Empty while first > last. */
    struct {
        uint64_t first, last;
    } tlb_large[2];

    /* PAUSE again and again with little between is a spin loop (x86/op_system.c) */
    uint64_t pause_instructions; /* `instructions` at the last PAUSE */
    uint32_t pause_count;

    /* Time runnable but not running, in ns, which the guest sees as KVM's steal time. It outlives
     * the thread (save, restore), so it is a sum of what seam_steal_ns grew by. x86/kvm_pv.c */
    _Atomic uint64_t steal_ns;
    uint64_t steal_seen_ns; /* own thread: seam_steal_ns when it was last added */
    uint64_t steal_due_ns;  /* own thread: seam_time_ns from which it is looked at again */

    /* Statistics, own thread only */
    uint64_t instructions, tlb_misses;
    void *engine; /* the engine's per-vCPU data (block cache) */
};

static inline struct x86_cpu *x86_cpu_of(struct vcpu *v)
{
    return (struct x86_cpu *)(void *)v;
}

/* Records a fault and returns X86_FAULT: "return x86_fault(cpu, X86_GP, 0);". The error code is
 * kept for those vectors that have one, else ignored. */
int x86_fault(struct x86_cpu *cpu, uint8_t vector, uint32_t error);
int x86_fault_page(struct x86_cpu *cpu, uint64_t address, uint32_t error);
int x86_fault_debug(struct x86_cpu *cpu, uint64_t dr6_bits);

/* --- x86/cpu.c --------------------------------------------------------------------------------- */

/* Allocates with seam pages (zeroed), makes registers as after power-on (SDM 3A table 9-1), local
 * APIC included. Vm, id and level are kept, not owned. ERR_NO_MEMORY. */
int must_check x86_cpu_create(struct x86_cpu **out, struct vm *vm, uint32_t id,
                              const struct x86_level *level);
void x86_cpu_destroy(struct x86_cpu *cpu);
void x86_cpu_reset(struct x86_cpu *cpu); /* power-on: RUNNING if id 0, else WAIT_SIPI */
void x86_cpu_init(struct x86_cpu *cpu);  /* INIT: keeps what INIT keeps, then WAIT_SIPI or (BSP) runs */
void x86_cpu_sipi(struct x86_cpu *cpu, uint8_t vector); /* ignored unless WAIT_SIPI */

/* To be called whenever CR0, CR4, EFER, CS, SS, DS, ES or RFLAGS.VM/AC were changed. Flushes the
 * TLB when the change calls for it. CPL is the DPL of CS, or its RPL where CS is conforming. */
void x86_update_mode(struct x86_cpu *cpu);

/* What MOV to CR0, CR3, CR4 does, with all its checks: X86_OK, or X86_FAULT (#GP(0)) with nothing
 * changed. CPL has been checked. They call x86_update_mode (x86/op_system_cr.c). */
int must_check x86_write_cr0(struct x86_cpu *cpu, uint64_t value);
int must_check x86_write_cr3(struct x86_cpu *cpu, uint64_t value);
int must_check x86_write_cr4(struct x86_cpu *cpu, uint64_t value);

/* State section "cpu", instance = vCPU id (x86/cpu_state.c). The local APIC has its own. */
extern const struct state_ops x86_cpu_state_ops;

/* Registers as text lines for messages; always terminates, returns the length in buf;
 * about 1.8 KiB. */
size_t x86_cpu_dump(const struct x86_cpu *cpu, char *buf, size_t size);

/* --- x86/dispatch.c ---------------------------------------------------------------------------- */

/* Executes one decoded instruction. On entry cpu->rip is the address of the *next* instruction
 * (RIP-relative operands and return addresses use it as it is). */
typedef int x86_op_fn(struct x86_cpu *cpu, const struct insn *i);

/* The handler for a decoded instruction: chosen by operation, size, form, so that it has little to
 * decide. Never NULL; #UD for what the level lacks. Depends on nothing but *i and the level. */
x86_op_fn *x86_select(const struct x86_cpu *cpu, const struct insn *i);

/* Each group's own part of x86_select (i->op is of that group). */
x86_op_fn *x86_select_alu(const struct insn *i);
x86_op_fn *x86_select_shift(const struct insn *i);
x86_op_fn *x86_select_bit(const struct insn *i);
x86_op_fn *x86_select_mul(const struct insn *i);
x86_op_fn *x86_select_mov(const struct insn *i);
x86_op_fn *x86_select_stack(const struct insn *i);
x86_op_fn *x86_select_branch(const struct insn *i);
x86_op_fn *x86_select_string(const struct insn *i);
x86_op_fn *x86_select_atomic(const struct insn *i);
x86_op_fn *x86_select_io(const struct insn *i);
x86_op_fn *x86_select_seg(const struct insn *i);
x86_op_fn *x86_select_control(const struct insn *i);
x86_op_fn *x86_select_system(const struct insn *i);
x86_op_fn *x86_select_fpstate(const struct insn *i);
x86_op_fn *x86_select_x87(const struct insn *i);
x86_op_fn *x86_select_simd(const struct insn *i);

/* Fetches, decodes and executes exactly one instruction at cs:rip, uncached (reference path, MMIO
 * emulation, single step, page-crossing instructions). Returns as a handler does, rip put back on
 * X86_FAULT. Does not deliver faults or interrupts. */
int x86_step(struct x86_cpu *cpu);
/* Its two halves, for who has to know what it is in between: the instruction at rip (X86_OK, or X86_FAULT if it cannot be
 * fetched or is too long), and the rest. */
int x86_step_fetch(struct x86_cpu *cpu, struct insn *i);
int x86_step_execute(struct x86_cpu *cpu, const struct insn *i);

/* --- x86/debug.c: single step and hardware breakpoints ----------------------------------------- */

/* Before an instruction: X86_OK, or X86_FAULT (#DB) if an instruction breakpoint (DR7) matches rip
 * and RFLAGS.RF is clear. */
int x86_debug_before(struct x86_cpu *cpu);
/* After an instruction that completed: turns TF (as it was before the instruction) and gathered
 * data breakpoints into #DB (trap). X86_OK or X86_FAULT. */
int x86_debug_after(struct x86_cpu *cpu, bool tf_before);
/* Is any breakpoint enabled, or TF set: does the run loop have to step one by one? */
bool x86_debug_armed(const struct x86_cpu *cpu);
/* IN, OUT, INS, OUTS were done: gathers I/O breakpoints (CR4.DE, DR7). */
void x86_debug_io(struct x86_cpu *cpu, uint16_t port, uint32_t size);
/* An access was done: gathers data breakpoints. For x86/mmu.c, when DR7 enables any. */
void x86_debug_data(struct x86_cpu *cpu, uint64_t linear, uint32_t size, bool write);

/* --- x86/interrupt.c --------------------------------------------------------------------------- */

/* Delivers cpu->fault at the current rip, with double-fault and triple-fault rules (SDM 3A 6.15).
 * Returns X86_JUMP, or X86_EXIT with activity SHUTDOWN. */
int x86_raise(struct x86_cpu *cpu);

/* Delivers one event through IVT or IDT. error is used for X86_EVENT_EXCEPTION with has_error.
 * Returns X86_JUMP, or X86_FAULT with the fault that arose while delivering (nothing changed). */
int x86_deliver(struct x86_cpu *cpu, enum x86_event_kind kind, uint8_t vector, bool has_error,
                uint32_t error);

/* At an instruction boundary: takes INIT, SIPI, NMI and external interrupts that are pending and
 * allowed, at most one delivery per call. X86_OK: nothing to do; X86_JUMP: delivered;
 * X86_EXIT: look at activity. Ends a halt when something arrives. */
int x86_take_events(struct x86_cpu *cpu);

#endif
