/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What each exit means (SDM 3D, appendix C): a table of small handlers that translate into neutral exits
 * (core/exit.h) or leave the instruction to the emulator. Privilege and I/O permission are checked by the
 * processor before it exits (28.1.1), but for the instructions of VT-x itself and VMCALL.
 *
 * A handler may find another thread's leavings: whatever waits (a bus's lock, hw_preempt_point) may have taken
 * the VMCS off this CPU. So fields are read first; vmx_skip and vmx_fetch load it again.
 *
 * Instructions that complete here are completed before their effect is asked for where nothing can fault
 * afterwards: an access that stops the VM has been done, and a saved VM goes on behind it.
 *
 * What is not expected ends that VM, with a reason and registers, never in a loop (bad-inputs C5).
 */
#include "core/err.h"
#include "engine/speculation.h"
#include "engine/vmx/vmx_private.h"
#include "x86/lapic.h"
#include "x86/mem.h"
#include "x86/msr.h"

static enum vmx_verdict verdict_of(int err)
{
    return err == OK ? VMX_GO_ON : VMX_STOP;
}

enum vmx_verdict vmx_fail(struct x86_cpu *cpu, struct exit *e, const char *reason, uint64_t detail)
{
    vmx_fetch(cpu, ENGINE_STATE_ALL);
    *e = (struct exit){.reason = EXIT_ENGINE_FAILURE, .failure = {reason, detail, EXIT_CAUSE_ENGINE}};
    return VMX_REPORT;
}

/* The instruction that exited has completed: RIP behind it, its shadow ended, a single step due if TF is set
 * (25.4.2). Nobody has changed general registers in struct x86_cpu yet but those that are stored at each exit. */
static void skip_bytes(struct x86_cpu *cpu, uint64_t length)
{
    struct vmx_vcpu *v = vmx_vcpu_of(cpu);
    uint64_t rip = vmx_read(VMCS_GUEST_RIP), next = rip + length, blocked;

    if ((rip ^ next) >> 32 && !(vmx_read(VMCS_GUEST_CS_ATTR) & X86_ATTR_L))
        next = (uint32_t)next;
    vmx_write(VMCS_GUEST_RIP, next);
    blocked = vmx_read(VMCS_GUEST_INTERRUPTIBILITY);
    if (blocked & (VMX_BLOCK_STI | VMX_BLOCK_MOV_SS))
        vmx_write(VMCS_GUEST_INTERRUPTIBILITY, blocked & ~(uint64_t)(VMX_BLOCK_STI | VMX_BLOCK_MOV_SS));
    if (vmx_read(VMCS_GUEST_RFLAGS) & X86_FLAG_TF)
        vmx_write(VMCS_GUEST_PENDING_DEBUG, vmx_read(VMCS_GUEST_PENDING_DEBUG) | X86_DR6_BS);
    v->have &= ~(uint32_t)(ENGINE_STATE_GPR | ENGINE_STATE_EVENTS);
}

static void skip(struct x86_cpu *cpu)
{
    if (vmx_load(cpu) == OK)
        skip_bytes(cpu, vmx_read(VMCS_EXIT_LENGTH));
}

/* --- instructions that have a way of their own ------------------------------------------------- */

static enum vmx_verdict on_cpuid(struct x86_cpu *cpu, struct exit *e)
{
    int err;

    skip(cpu);
    *e = (struct exit){.reason = EXIT_CPUID,
                       .cpuid = {.eax = (uint32_t)cpu->gpr[RAX], .ecx = (uint32_t)cpu->gpr[RCX]}};
    err = vcpu_handle_exit(&cpu->vcpu, e);
    cpu->gpr[RAX] = e->cpuid.eax;
    cpu->gpr[RBX] = e->cpuid.ebx;
    cpu->gpr[RCX] = e->cpuid.ecx;
    cpu->gpr[RDX] = e->cpuid.edx;
    return verdict_of(err);
}

static enum vmx_verdict on_hlt(struct x86_cpu *cpu, struct exit *e)
{
    (void)e;
    skip(cpu);
    if (vcpu_take_requests(&cpu->vcpu, VCPU_REQ_PV_KICK) || cpu->pv_kick)
        cpu->pv_kick = false; /* the kick came before the halt that it was to end */
    else
        cpu->activity = X86_HALTED;
    return VMX_GO_ON;
}

static enum vmx_verdict on_rdmsr(struct x86_cpu *cpu, struct exit *e)
{
    int err;

    *e = (struct exit){.reason = EXIT_MSR, .msr = {.index = (uint32_t)cpu->gpr[RCX]}};
    err = vcpu_handle_exit(&cpu->vcpu, e);
    if (e->msr.fault) {
        vmx_raise(cpu, X86_GP, 0);
        return verdict_of(err);
    }
    cpu->gpr[RAX] = (uint32_t)e->msr.value;
    cpu->gpr[RDX] = e->msr.value >> 32;
    skip(cpu);
    return verdict_of(err);
}

/* Groups that an MSR belongs to which is not only in struct x86_cpu. Writing it needs the group there, and
 * changes it. */
static uint32_t groups_of_msr(uint32_t index)
{
    switch (index) {
    case MSR_EFER:
        return ENGINE_STATE_CONTROL | ENGINE_STATE_SEGMENTS | ENGINE_STATE_GPR;
    case MSR_PAT:
        return ENGINE_STATE_MSR;
    case MSR_TSC:
    case MSR_TSC_ADJUST:
        return ENGINE_STATE_CLOCK;
    default:
        return 0;
    }
}

static enum vmx_verdict on_wrmsr(struct x86_cpu *cpu, struct exit *e)
{
    uint32_t index = (uint32_t)cpu->gpr[RCX], groups = groups_of_msr(index);
    int err;

    *e = (struct exit){.reason = EXIT_MSR,
                       .msr = {.index = index,
                               .value = cpu->gpr[RDX] << 32 | (uint32_t)cpu->gpr[RAX],
                               .write = true}};
    vmx_fetch(cpu, groups);
    err = vcpu_handle_exit(&cpu->vcpu, e);
    if (e->msr.fault) {
        vmx_raise(cpu, X86_GP, 0);
        return verdict_of(err);
    }
    if (index == MSR_PRED_CMD && e->msr.value & X86_PRED_CMD_IBPB && hw_speculation()->ibpb)
        vmx_wrmsr(MSR_PRED_CMD, X86_PRED_CMD_IBPB); /* x86/msr.c has let it through: the level has it */
    skip(cpu);
    vmx_changed(cpu, groups & ~(uint32_t)ENGINE_STATE_GPR);
    return verdict_of(err);
}

/* --- ports ------------------------------------------------------------------------------------- */

static enum vmx_verdict emulate(struct x86_cpu *cpu, struct exit *e)
{
    (void)e;
    vmx_emulate(cpu);
    return vm_is_stopped(cpu->vcpu.vm) ? VMX_STOP : VMX_GO_ON;
}

/* String instructions and I/O breakpoints are the emulator's. */
static enum vmx_verdict on_io(struct x86_cpu *cpu, struct exit *e)
{
    uint64_t q = vmx_read(VMCS_EXIT_QUALIFICATION);
    uint8_t size = (uint8_t)((q & VMX_IO_SIZE) + 1);
    int err;

    if (q & VMX_IO_STRING || cpu->dr7 & 0xFF)
        return emulate(cpu, e);
    skip(cpu);
    *e = (struct exit){
        .reason = EXIT_PORT,
        .port = {.port = (uint16_t)(q >> VMX_IO_PORT_SHIFT), .size = size, .write = !(q & VMX_IO_IN)}};
    if (e->port.write)
        e->port.value = x86_get_gpr(cpu, RAX, size);
    err = vcpu_handle_exit(&cpu->vcpu, e);
    if (!e->port.write)
        x86_set_gpr(cpu, RAX, size, e->port.value & x86_size_mask(size));
    return verdict_of(err);
}

/* --- memory ------------------------------------------------------------------------------------ */

/* Nested tables map all RAM, and ROM to be read: so this is a device's memory, a write to ROM, or nothing. If
 * IRET had ended the masking of NMIs, and has not been executed, they are masked still (28.2.3). */
static enum vmx_verdict on_ept_violation(struct x86_cpu *cpu, struct exit *e)
{
    if (vmx_read(VMCS_EXIT_QUALIFICATION) & VMX_EPT_NMI_UNBLOCKING && !(vmx_read(VMCS_VECTORING) & VMX_INT_VALID))
        vmx_write(VMCS_GUEST_INTERRUPTIBILITY, vmx_read(VMCS_GUEST_INTERRUPTIBILITY) | VMX_BLOCK_NMI);
    return emulate(cpu, e);
}

static enum vmx_verdict on_ept_misconfig(struct x86_cpu *cpu, struct exit *e)
{
    return vmx_fail(cpu, e, "an entry of the nested tables is not valid", vmx_read(VMCS_GUEST_PHYSICAL_ADDRESS));
}

/* --- hypercalls -------------------------------------------------------------------------------- */

static enum vmx_verdict hypercall(struct x86_cpu *cpu, struct exit *e, uint64_t length)
{
    uint64_t attr = vmx_read(VMCS_GUEST_CS_ATTR), mask;
    bool wide = attr & X86_ATTR_L;
    int err;

    cpu->cpl = vmx_read(VMCS_GUEST_SS_ATTR) >> X86_ATTR_DPL_SHIFT & 3;
    mask = x86_size_mask(wide ? 8 : 4);
    skip_bytes(cpu, length);
    *e = (struct exit){.reason = EXIT_HYPERCALL,
                       .hypercall = {.number = cpu->gpr[RAX] & mask,
                                     .arg = {cpu->gpr[RBX] & mask, cpu->gpr[RCX] & mask, cpu->gpr[RDX] & mask,
                                             cpu->gpr[RSI] & mask}}};
    err = vcpu_handle_exit(&cpu->vcpu, e);
    x86_set_gpr(cpu, RAX, wide ? 8 : 4, e->hypercall.result);
    return verdict_of(err);
}

static enum vmx_verdict on_vmcall(struct x86_cpu *cpu, struct exit *e)
{
    return hypercall(cpu, e, vmx_read(VMCS_EXIT_LENGTH));
}

/* Does the guest stand at VMMCALL, AMD's hypercall, which is undefined here? */
enum { VMMCALL_SIZE = 3 };

static bool is_vmmcall(struct x86_cpu *cpu)
{
    static const uint8_t vmmcall[VMMCALL_SIZE] = {0x0F, 0x01, 0xD9};
    uint8_t bytes[INSN_MAX_LENGTH];
    uint32_t got;

    vmx_fetch(cpu, ENGINE_STATE_GPR | ENGINE_STATE_SEGMENTS | ENGINE_STATE_CONTROL);
    x86_tlb_flush(cpu);
    return x86_fetch_bytes(cpu, bytes, &got) == X86_OK && got >= sizeof(vmmcall) &&
           memcmp(bytes, vmmcall, sizeof(vmmcall)) == 0;
}

static enum vmx_verdict on_undefined(struct x86_cpu *cpu, struct exit *e)
{
    if (is_vmmcall(cpu) && vmx_load(cpu) == OK)
        return hypercall(cpu, e, VMMCALL_SIZE);
    vmx_raise(cpu, X86_UD, 0);
    return VMX_GO_ON;
}

/* --- exceptions -------------------------------------------------------------------------------- */

/* Qualification: the bits of DR6 (table 28-1). INT1 is a trap: it has completed. */
static enum vmx_verdict on_debug(struct x86_cpu *cpu, uint32_t info)
{
    uint64_t bits = vmx_read(VMCS_EXIT_QUALIFICATION) & (0xF | X86_DR6_BD | X86_DR6_BS);

    if ((info & VMX_INT_TYPE) >> VMX_INT_TYPE_SHIFT == VMX_INT_PRIVILEGED)
        skip(cpu);
    vmx_raise(cpu, X86_DB, 0);
    cpu->event.has_payload = true;
    cpu->event.payload = bits;
    return VMX_GO_ON;
}

/* NMIs and machine checks are the host's: its handlers are called as the processor would have. NMIs stay masked
 * after the exit until that handler's IRET. */
static enum vmx_verdict on_exception(struct x86_cpu *cpu, struct exit *e)
{
    uint32_t info = (uint32_t)vmx_read(VMCS_EXIT_INTERRUPTION);
    bool vectoring = vmx_read(VMCS_VECTORING) & VMX_INT_VALID;

    if (info & VMX_INT_NMI_UNBLOCKING && !vectoring && (info & VMX_INT_VECTOR) != X86_DF)
        vmx_write(VMCS_GUEST_INTERRUPTIBILITY, vmx_read(VMCS_GUEST_INTERRUPTIBILITY) | VMX_BLOCK_NMI);
    switch (info & VMX_INT_VECTOR) {
    case X86_NMI:
        vmx_host_nmi();
        return VMX_GO_ON;
    case X86_MC:
        vmx_host_machine_check();
        return VMX_GO_ON;
    case X86_DB:
        return on_debug(cpu, info);
    case X86_UD:
        return on_undefined(cpu, e);
    case X86_AC:
        vmx_raise(cpu, X86_AC, (uint32_t)vmx_read(VMCS_EXIT_ERROR_CODE));
        return VMX_GO_ON;
    default:
        return vmx_fail(cpu, e, "an exception that was not asked for left the guest", info);
    }
}

static enum vmx_verdict on_triple_fault(struct x86_cpu *cpu, struct exit *e)
{
    vmx_fetch(cpu, ENGINE_STATE_ALL);
    cpu->activity = X86_SHUTDOWN;
    e->reason = EXIT_SHUTDOWN;
    return VMX_REPORT;
}

/* --- the rest
 * ---------------------------------------------------------------------------------------------------------- */

static enum vmx_verdict on_interrupt(struct x86_cpu *cpu, struct exit *e)
{
    (void)e;
    vmx_vcpu_of(cpu)->exits_since = 0;
    hw_preempt_point();
    return VMX_GO_ON;
}

/* A guest that makes an exit of every instruction, or of every delivery of an event, may come out before the
 * processor has looked for an interrupt: it gives way all the same. */
static enum vmx_verdict give_way(struct x86_cpu *cpu, enum vmx_verdict verdict)
{
    enum { EXITS = 32 };
    struct vmx_vcpu *v = vmx_vcpu_of(cpu);

    if (verdict == VMX_GO_ON && ++v->exits_since >= EXITS) {
        v->exits_since = 0;
        hw_preempt_point();
    }
    return verdict;
}

/* Windows are seen to before the next entry. INIT and SIPI of this CPU are nobody's while we run it. */
static enum vmx_verdict on_nothing(struct x86_cpu *cpu, struct exit *e)
{
    (void)cpu;
    (void)e;
    return VMX_GO_ON;
}

/* CR8 is the local APIC's TPR; all else is judged by x86/op_system_cr.c. */
static enum vmx_verdict on_cr(struct x86_cpu *cpu, struct exit *e)
{
    enum { NUMBER = 0xF, TPR = 8 };

    if (vmx_vcpu_of(cpu)->reason != VMX_REASON_CR || (vmx_read(VMCS_EXIT_QUALIFICATION) & NUMBER) != TPR)
        vmx_vcpu_of(cpu)->flush = true;
    return emulate(cpu, e);
}

static enum vmx_verdict on_undefined_here(struct x86_cpu *cpu, struct exit *e)
{
    (void)e;
    vmx_raise(cpu, X86_UD, 0);
    return VMX_GO_ON;
}

/* Two vCPUs that wait for each other are not to burn a slice each. */
static enum vmx_verdict on_pause(struct x86_cpu *cpu, struct exit *e)
{
    (void)e;
    skip(cpu);
    seam_yield();
    return VMX_GO_ON;
}

enum vmx_verdict vmx_handle_exit(struct x86_cpu *cpu, struct exit *e)
{
    /* table */
    static enum vmx_verdict (*const handler[VMX_REASONS])(struct x86_cpu * cpu, struct exit * e) = {
        [VMX_REASON_EXCEPTION] = on_exception,
        [VMX_REASON_INTERRUPT] = on_interrupt,
        [VMX_REASON_TRIPLE_FAULT] = on_triple_fault,
        [VMX_REASON_INIT] = on_nothing,
        [VMX_REASON_SIPI] = on_nothing,
        [VMX_REASON_INTERRUPT_WINDOW] = on_nothing,
        [VMX_REASON_NMI_WINDOW] = on_nothing,
        [VMX_REASON_TASK_SWITCH] = emulate,
        [VMX_REASON_CPUID] = on_cpuid,
        [VMX_REASON_GETSEC] = on_undefined_here,
        [VMX_REASON_HLT] = on_hlt,
        [VMX_REASON_INVD] = emulate,
        [VMX_REASON_INVLPG] = on_cr,
        [VMX_REASON_RDPMC] = emulate,
        [VMX_REASON_RDTSC] = emulate,
        [VMX_REASON_VMCALL] = on_vmcall,
        [VMX_REASON_VMCLEAR] = on_undefined_here,
        [VMX_REASON_VMLAUNCH] = on_undefined_here,
        [VMX_REASON_VMPTRLD] = on_undefined_here,
        [VMX_REASON_VMPTRST] = on_undefined_here,
        [VMX_REASON_VMREAD] = on_undefined_here,
        [VMX_REASON_VMRESUME] = on_undefined_here,
        [VMX_REASON_VMWRITE] = on_undefined_here,
        [VMX_REASON_VMXOFF] = on_undefined_here,
        [VMX_REASON_VMXON] = on_undefined_here,
        [VMX_REASON_CR] = on_cr,
        [VMX_REASON_DR] = emulate,
        [VMX_REASON_IO] = on_io,
        [VMX_REASON_RDMSR] = on_rdmsr,
        [VMX_REASON_WRMSR] = on_wrmsr,
        [VMX_REASON_MWAIT] = emulate,
        [VMX_REASON_MONITOR] = emulate,
        [VMX_REASON_PAUSE] = on_pause,
        [VMX_REASON_EPT_VIOLATION] = on_ept_violation,
        [VMX_REASON_EPT_MISCONFIG] = on_ept_misconfig,
        [VMX_REASON_INVEPT] = on_undefined_here,
        [VMX_REASON_RDTSCP] = emulate,
        [VMX_REASON_PREEMPTION_TIMER] = on_interrupt,
        [VMX_REASON_INVVPID] = on_undefined_here,
        [VMX_REASON_WBINVD] = emulate,
        [VMX_REASON_XSETBV] = emulate,
        [VMX_REASON_INVPCID] = on_cr,
        [VMX_REASON_VMFUNC] = on_undefined_here,
        [VMX_REASON_XSAVES] = on_undefined_here,
        [VMX_REASON_XRSTORS] = on_undefined_here,
    };
    struct vmx_vcpu *v = vmx_vcpu_of(cpu);
    uint32_t reason = v->reason & 0xFFFF;

    if (v->reason & VMX_REASON_ENTRY_FAILED)
        return vmx_fail(cpu, e, "the processor refused to enter the guest",
                        v->reason | vmx_read(VMCS_EXIT_QUALIFICATION) << 32);
    if (reason >= VMX_REASONS || !handler[reason])
        return vmx_fail(cpu, e, "the processor gave no known reason for an exit", v->reason);
    v->exits[reason]++;
    return give_way(cpu, handler[reason](cpu, e));
}
