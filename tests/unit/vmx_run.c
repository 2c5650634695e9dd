/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* engine/vmx's run loop and exits, with a guest that is a C function (tests/fakes/vt.h): what it finds when it
 * is entered, and what becomes of the exits that it makes. */
#include <string.h>

#include "core/err.h"
#include "engine/hw.h"
#include "engine/vmx/vmx_private.h"
#include "tests/fakes/vt.h"
#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"
#include "x86/lapic.h"

static struct cpu_env env;
static struct exit e;
static unsigned int step;

/* --- frame ------------------------------------------------------------------------------------- */

static void begin(enum cpu_env_mode mode, int (*guest)(uint64_t gpr[16], uint32_t flags))
{
    vt_reset();
    cpu_env_create(&env, mode);
    lapic_set_virtual_wire(env.cpu);
    for (vt.cpu = VT_CPUS; vt.cpu-- > 0;)
        CHECK_EQ(hw_vmx.cpu_on(), OK);
    vt.cpu = 0;
    CHECK_EQ(engine_vmx.vm_create(&env.vm), OK);
    CHECK_EQ(engine_vmx.vcpu_create(env.cpu), OK);
    vt.guest = guest;
    step = 0;
}

static void end(void)
{
    engine_vmx.vcpu_destroy(env.cpu);
    engine_vmx.vm_destroy(&env.vm);
    for (vt.cpu = 0; vt.cpu < VT_CPUS; vt.cpu++)
        hw_vmx.cpu_off();
    vt.cpu = 0;
    cpu_env_destroy(&env);
    CHECK_EQ(vt.bad, 0);
}

static int run(void)
{
    return engine_vmx.vcpu_run(env.cpu, &e);
}

/* An exit for a physical interrupt; the next round leaves. */
static int leave(void)
{
    vcpu_request(&env.cpu->vcpu, VCPU_REQ_KICK);
    *vt_field(VMCS_EXIT_REASON) = VMX_REASON_INTERRUPT;
    return VMX_ENTER_OK;
}

static int exit_for(enum vmx_reason reason, uint32_t length)
{
    *vt_field(VMCS_EXIT_REASON) = reason;
    *vt_field(VMCS_EXIT_LENGTH) = length;
    return VMX_ENTER_OK;
}

static uint64_t entry_info(void)
{
    return *vt_field(VMCS_ENTRY_INTERRUPTION);
}

static bool has_window(uint64_t bit)
{
    return *vt_field(VMCS_PRIMARY_CONTROLS) & bit;
}

/* Runs until the guest has left by leave(). */
static void run_to_kick(void)
{
    CHECK_EQ(run(), OK);
    CHECK_EQ(e.reason, EXIT_KICK);
    (void)vcpu_take_requests(&env.cpu->vcpu, VCPU_REQ_KICK);
}

/* --- instructions ------------------------------------------------------------------------------ */

static int guest_cpuid(uint64_t gpr[16], uint32_t flags)
{
    if (step++)
        return CHECK(flags & VMX_ENTER_RESUME), leave();
    CHECK(!(flags & VMX_ENTER_RESUME));
    gpr[RAX] = 0xFFFFFFFF00000001;
    gpr[RCX] = 7;
    *vt_field(VMCS_GUEST_RIP) = 0x1000;
    *vt_field(VMCS_GUEST_INTERRUPTIBILITY) = VMX_BLOCK_STI | VMX_BLOCK_NMI;
    *vt_field(VMCS_GUEST_RFLAGS) = X86_FLAG_ONE | X86_FLAG_TF;
    return exit_for(VMX_REASON_CPUID, 2);
}

static void test_cpuid(void)
{
    begin(CPU_ENV_LONG, guest_cpuid);
    run_to_kick();
    CHECK_EQ(env.last_exit.reason, EXIT_CPUID);
    CHECK_EQ(env.last_exit.cpuid.eax, 1);
    CHECK_EQ(env.last_exit.cpuid.ecx, 7);
    CHECK_EQ(env.cpu->gpr[RAX], 1);
    CHECK_EQ(env.cpu->rip, 0x1002);
    CHECK_EQ(env.cpu->shadow, 0); /* it held for one instruction */
    CHECK(env.cpu->nmi_masked);
    CHECK_EQ(env.cpu->debug_pending, X86_DR6_BS);
    end();
}

static uint64_t io_qualification;

static int guest_io(uint64_t gpr[16], uint32_t flags)
{
    (void)flags;
    if (step++)
        return leave();
    gpr[RAX] = 0x1122334455667788;
    *vt_field(VMCS_EXIT_QUALIFICATION) = io_qualification;
    return exit_for(VMX_REASON_IO, 1);
}

static void test_port(void)
{
    io_qualification = UINT64_C(0x3F8) << VMX_IO_PORT_SHIFT | 1;
    begin(CPU_ENV_LONG, guest_io);
    run_to_kick();
    CHECK_EQ(env.last_exit.reason, EXIT_PORT);
    CHECK_EQ(env.last_exit.port.port, 0x3F8);
    CHECK_EQ(env.last_exit.port.size, 2);
    CHECK_EQ(env.last_exit.port.value, 0x7788);
    CHECK(env.last_exit.port.write);
    CHECK_EQ(env.cpu->gpr[RAX], 0x1122334455667788);
    end();

    io_qualification = UINT64_C(0x60) << VMX_IO_PORT_SHIFT | VMX_IO_IN;
    begin(CPU_ENV_LONG, guest_io);
    run_to_kick();
    CHECK(!env.last_exit.port.write);
    CHECK_EQ(env.cpu->gpr[RAX], 0x11223344556677FF); /* one byte, all ones */
    end();
}

/* RDMSR of what the level's table does not name. */
static int guest_bad_rdmsr(uint64_t gpr[16], uint32_t flags)
{
    (void)flags;
    if (step++) {
        CHECK_EQ(entry_info(), 0x80000B00 | X86_GP);
        CHECK_EQ(*vt_field(VMCS_ENTRY_ERROR_CODE), 0);
        CHECK_EQ(*vt_field(VMCS_GUEST_RIP), 0x1000); /* a fault */
        return leave();
    }
    gpr[RCX] = 0x12345;
    *vt_field(VMCS_GUEST_RIP) = 0x1000;
    return exit_for(VMX_REASON_RDMSR, 2);
}

static int refuse_msr(struct vcpu *v, struct exit *x)
{
    (void)v;
    x->msr.fault = true;
    return OK;
}

static void test_bad_msr(void)
{
    begin(CPU_ENV_LONG, guest_bad_rdmsr);
    env.vm.handle_exit = refuse_msr;
    run_to_kick();
    CHECK_EQ(step, 2);
    end();
}

/* VMX's own instructions, and what no level has. */
static enum vmx_reason undefined_reason;

static int guest_undefined(uint64_t gpr[16], uint32_t flags)
{
    (void)gpr;
    (void)flags;
    if (!step++)
        return exit_for(undefined_reason, 3);
    CHECK_EQ(entry_info(), 0x80000300 | X86_UD);
    return leave();
}

static void test_undefined(void)
{
    static const enum vmx_reason reasons[] = {
        VMX_REASON_VMXON,  VMX_REASON_VMXOFF,   VMX_REASON_VMLAUNCH, VMX_REASON_VMRESUME, VMX_REASON_VMPTRLD,
        VMX_REASON_VMREAD, VMX_REASON_VMWRITE,  VMX_REASON_VMCLEAR,  VMX_REASON_VMPTRST,  VMX_REASON_INVEPT,
        VMX_REASON_GETSEC, VMX_REASON_INVVPID, VMX_REASON_VMFUNC,   VMX_REASON_XSAVES,
    };

    for (size_t i = 0; i < ARRAY_SIZE(reasons); i++) {
        unit_context("reason %u", reasons[i]);
        undefined_reason = reasons[i];
        begin(CPU_ENV_LONG, guest_undefined);
        run_to_kick();
        CHECK_EQ(step, 2);
        end();
    }
    unit_context(NULL);
}

/* #UD at VMMCALL is a hypercall, elsewhere it is the guest's. */
static int guest_ud(uint64_t gpr[16], uint32_t flags)
{
    (void)flags;
    if (step++)
        return leave();
    gpr[RAX] = 5;
    gpr[RBX] = 0xB;
    *vt_field(VMCS_GUEST_RIP) = CPU_ENV_CODE;
    *vt_field(VMCS_EXIT_INTERRUPTION) = 0x80000300 | X86_UD;
    *vt_field(VMCS_EXIT_LENGTH) = 77; /* undefined here */
    return exit_for(VMX_REASON_EXCEPTION, 77);
}

static void test_vmmcall(void)
{
    begin(CPU_ENV_LONG, guest_ud);
    cpu_env_code(&env, "\x0F\x01\xD9", 3);
    run_to_kick();
    CHECK_EQ(env.last_exit.reason, EXIT_HYPERCALL);
    CHECK_EQ(env.last_exit.hypercall.number, 5);
    CHECK_EQ(env.last_exit.hypercall.arg[0], 0xB);
    CHECK_EQ(env.cpu->rip, CPU_ENV_CODE + 3);
    end();
    begin(CPU_ENV_LONG, guest_ud);
    cpu_env_code(&env, "\x0F\x0B\x90", 3);
    run_to_kick();
    CHECK_EQ(env.exits, 0);
    CHECK_EQ(env.cpu->rip, CPU_ENV_CODE);
    end();
}

/* --- memory that is not RAM -------------------------------------------------------------------- */

enum { DEVICE = CPU_ENV_RAM - 0x1000 };

/* At the entry after it: how often this CPU's vector registers were lent, and what is in them. */
static uint32_t fninits_before, lent;
static struct x86_fpu seen;

/* mov eax, [0x2000...]: by the emulator, on the guest's own tables, which lead past the end of RAM. */
static int guest_mmio(uint64_t gpr[16], uint32_t flags)
{
    (void)flags;
    if (step++) {
        lent = vt.fninits - fninits_before;
        seen = vt.fpu;
        return leave();
    }
    fninits_before = vt.fninits;
    gpr[RBX] = DEVICE;
    *vt_field(VMCS_GUEST_RIP) = CPU_ENV_CODE;
    *vt_field(VMCS_EXIT_QUALIFICATION) = VMX_EPT_NMI_UNBLOCKING;
    return exit_for(VMX_REASON_EPT_VIOLATION, 0);
}

static void test_mmio(void)
{
    begin(CPU_ENV_LONG, guest_mmio);
    cpu_env_code(&env, "\x8B\x03", 2); /* mov eax, [rbx] */
    *cpu_env_pte(&env, DEVICE) = 0xFEB00000 | X86_PTE_P | X86_PTE_W;
    run_to_kick();
    CHECK_EQ(env.last_exit.reason, EXIT_MMIO);
    CHECK_EQ(env.last_exit.mmio.address.v, 0xFEB00000);
    CHECK_EQ(env.last_exit.mmio.size, 4);
    CHECK_EQ(env.cpu->gpr[RAX], UINT32_MAX);
    CHECK_EQ(env.cpu->rip, CPU_ENV_CODE + 2);
    CHECK(env.cpu->nmi_masked); /* IRET had not been executed */
    CHECK_EQ(vmx_vcpu_of(env.cpu)->emulated, 1);
    CHECK_EQ(lent, 0);
    end();
}

static void test_vector_mmio(void)
{
    begin(CPU_ENV_LONG, guest_mmio);
    cpu_env_code(&env, "\x0F\x28\x03", 3); /* movaps xmm0, [rbx] */
    *cpu_env_pte(&env, DEVICE) = 0xFEB00000 | X86_PTE_P | X86_PTE_W;
    env.cpu->cr4 |= X86_CR4_OSFXSR;
    env.cpu->cr0 &= ~(X86_CR0_TS | X86_CR0_EM);
    env.cpu->fpu.xmm[5][2] = 0x55;
    run_to_kick();
    CHECK_EQ(env.cpu->rip, CPU_ENV_CODE + 3);
    CHECK_EQ(env.cpu->fpu.xmm[0][0], 0xFF);
    CHECK_EQ(env.cpu->fpu.xmm[5][2], 0x55);
    CHECK_EQ(lent, 1);
    CHECK_EQ(seen.xmm[5][2], 0x55); /* it has them back */
    CHECK_EQ(seen.xmm[0][0], 0xFF);
    CHECK_EQ(vt.fpu.xmm[5][2], 0xEE); /* when its thread has gone, C finds the CPU as it expects it */
    end();
}

/* The stack on which an interrupt is delivered is a device's: the event goes on, not the instruction. */
static int guest_cut_short(uint64_t gpr[16], uint32_t flags)
{
    (void)gpr;
    (void)flags;
    if (step++)
        return leave();
    *vt_field(VMCS_GUEST_RIP) = CPU_ENV_CODE;
    *vt_field(VMCS_VECTORING) = 0x80000051;
    return exit_for(VMX_REASON_EPT_VIOLATION, 0);
}

static void test_event_cut_short(void)
{
    begin(CPU_ENV_LONG, guest_cut_short);
    cpu_env_code(&env, "\xF4", 1);
    cpu_env_all_gates(&env);
    run_to_kick();
    CHECK_EQ(env.cpu->rip, CPU_ENV_HANDLERS + 0x51 * 16);
    CHECK_EQ(env.cpu->event.kind, X86_FLIGHT_NONE);
    end();
}

/* And if nothing has to be emulated, it is delivered again. */
static int guest_vectoring(uint64_t gpr[16], uint32_t flags)
{
    (void)gpr;
    (void)flags;
    if (!step++) {
        *vt_field(VMCS_VECTORING) = 0x80000202; /* an NMI: masked meanwhile */
        *vt_field(VMCS_GUEST_INTERRUPTIBILITY) = VMX_BLOCK_NMI;
        return exit_for(VMX_REASON_INTERRUPT, 0);
    }
    CHECK_EQ(entry_info(), 0x80000202);
    CHECK_EQ(*vt_field(VMCS_GUEST_INTERRUPTIBILITY), 0);
    return leave();
}

static void test_event_again(void)
{
    begin(CPU_ENV_LONG, guest_vectoring);
    run_to_kick();
    CHECK_EQ(step, 2);
    end();
}

/* --- interrupts -------------------------------------------------------------------------------- */

static void post(uint8_t vector)
{
    const struct apic_message m = {.vector = vector};

    CHECK_EQ(lapic_bus_send(&env.vm, &m), OK);
}

static int guest_closed(uint64_t gpr[16], uint32_t flags)
{
    (void)gpr;
    (void)flags;
    switch (step++) {
    case 0: /* IF is clear */
        CHECK(!(entry_info() & VMX_INT_VALID));
        CHECK(has_window(VMX_INTERRUPT_WINDOW));
        *vt_field(VMCS_GUEST_RFLAGS) |= X86_FLAG_IF;
        *vt_field(VMCS_GUEST_INTERRUPTIBILITY) = VMX_BLOCK_STI;
        return exit_for(VMX_REASON_INTERRUPT, 0);
    case 1: /* the shadow of STI */
        CHECK(!(entry_info() & VMX_INT_VALID));
        CHECK(has_window(VMX_INTERRUPT_WINDOW));
        *vt_field(VMCS_GUEST_INTERRUPTIBILITY) = 0;
        return exit_for(VMX_REASON_INTERRUPT_WINDOW, 0);
    default:
        CHECK_EQ(entry_info(), 0x80000061); /* the higher one, which keeps the other out */
        CHECK(!has_window(VMX_INTERRUPT_WINDOW));
        return leave();
    }
}

static void test_interrupt_window(void)
{
    begin(CPU_ENV_LONG, guest_closed);
    env.cpu->rflags &= ~X86_FLAG_IF;
    post(0x51);
    post(0x61);
    run_to_kick();
    CHECK_EQ(step, 3);
    end();
}

static int guest_nmi(uint64_t gpr[16], uint32_t flags)
{
    (void)gpr;
    (void)flags;
    switch (step++) {
    case 0:
        CHECK_EQ(entry_info(), 0x80000202);
        *vt_field(VMCS_GUEST_INTERRUPTIBILITY) = VMX_BLOCK_NMI; /* the processor's doing */
        vcpu_request(&env.cpu->vcpu, VCPU_REQ_NMI);
        return exit_for(VMX_REASON_INTERRUPT, 0);
    case 1:
        CHECK(!(entry_info() & VMX_INT_VALID));
        CHECK(has_window(VMX_NMI_WINDOW));
        *vt_field(VMCS_GUEST_INTERRUPTIBILITY) = 0; /* IRET */
        return exit_for(VMX_REASON_NMI_WINDOW, 0);
    default:
        CHECK_EQ(entry_info(), 0x80000202);
        CHECK(!has_window(VMX_NMI_WINDOW));
        return leave();
    }
}

static void test_nmi_window(void)
{
    begin(CPU_ENV_LONG, guest_nmi);
    vcpu_request(&env.cpu->vcpu, VCPU_REQ_NMI);
    run_to_kick();
    CHECK_EQ(step, 3);
    end();
}

static int guest_halts(uint64_t gpr[16], uint32_t flags)
{
    (void)gpr;
    (void)flags;
    if (!step++)
        return exit_for(VMX_REASON_HLT, 1);
    CHECK_EQ(entry_info(), 0x80000051);
    return leave();
}

static void test_halt(void)
{
    begin(CPU_ENV_LONG, guest_halts);
    env.cpu->rflags |= X86_FLAG_IF;
    CHECK_EQ(run(), OK);
    CHECK_EQ(e.reason, EXIT_HALT);
    CHECK_EQ(env.cpu->activity, X86_HALTED);
    CHECK_EQ(env.cpu->rip, CPU_ENV_CODE + 1);
    CHECK_EQ(run(), OK); /* nothing has happened */
    CHECK_EQ(e.reason, EXIT_HALT);
    CHECK_EQ(step, 1);
    post(0x51);
    run_to_kick();
    CHECK_EQ(env.cpu->activity, X86_RUNNING);
    CHECK_EQ(step, 2);
    end();
}

/* With IF clear, no interrupt ends a halt; an NMI does. */
static void test_halt_closed(void)
{
    begin(CPU_ENV_LONG, guest_halts);
    env.cpu->rflags &= ~X86_FLAG_IF;
    post(0x51);
    CHECK_EQ(run(), OK);
    CHECK_EQ(e.reason, EXIT_HALT);
    CHECK_EQ(vcpu_requests(&env.cpu->vcpu) & VCPU_REQ_INTR, 0); /* or it would not sleep */
    vcpu_request(&env.cpu->vcpu, VCPU_REQ_NMI);
    vt.guest = guest_nmi;
    step = 2;
    run_to_kick();
    end();
}

/* --- what is the host's
 * ---------------------------------------------------------------------------------------------- */

static uint32_t host_vector;

static int guest_exception(uint64_t gpr[16], uint32_t flags)
{
    (void)gpr;
    (void)flags;
    if (step++)
        return leave();
    *vt_field(VMCS_EXIT_INTERRUPTION) = 0x80000300 | host_vector;
    return exit_for(VMX_REASON_EXCEPTION, 0);
}

static void test_host_exceptions(void)
{
    host_vector = X86_NMI;
    begin(CPU_ENV_LONG, guest_exception);
    run_to_kick();
    CHECK_EQ(vt.nmis, 1);
    end();
    host_vector = X86_MC;
    begin(CPU_ENV_LONG, guest_exception);
    run_to_kick();
    CHECK_EQ(vt.machine_checks, 1);
    end();
    host_vector = X86_PF; /* never asked for */
    begin(CPU_ENV_LONG, guest_exception);
    CHECK_EQ(run(), OK);
    CHECK_EQ(e.reason, EXIT_ENGINE_FAILURE);
    end();
}

static int guest_debug(uint64_t gpr[16], uint32_t flags)
{
    (void)gpr;
    (void)flags;
    if (step++) {
        CHECK_EQ(entry_info(), 0x80000300 | X86_DB);
        CHECK_EQ(env.cpu->dr6, X86_DR6_FIXED | X86_DR6_BS | 2);
        CHECK(!(*vt_field(VMCS_GUEST_DR7) & X86_DR7_GD));
        return leave();
    }
    CHECK_EQ(vt.dr[1], 0x5678);
    *vt_field(VMCS_EXIT_INTERRUPTION) = 0x80000300 | X86_DB;
    *vt_field(VMCS_EXIT_QUALIFICATION) = X86_DR6_BS | 2;
    return exit_for(VMX_REASON_EXCEPTION, 0);
}

static void test_debug(void)
{
    begin(CPU_ENV_LONG, guest_debug);
    env.cpu->dr7 |= 1 << 2 | X86_DR7_GD;
    env.cpu->dr[1] = 0x5678;
    env.cpu->dr6 = X86_DR6_FIXED | 1;
    run_to_kick();
    CHECK_EQ(step, 2);
    end();
}

/* A guest that makes an exit of everything gives way, and one that makes none does not stay. */
static int guest_exits(uint64_t gpr[16], uint32_t flags)
{
    (void)gpr;
    (void)flags;
    CHECK(*vt_field(VMCS_PIN_CONTROLS) & VMX_PIN_PREEMPTION_TIMER);
    CHECK_EQ(*vt_field(VMCS_GUEST_PREEMPTION_TIMER), 5000000 >> 5); /* 5 ms at 1 GHz, by bit 5 of the TSC */
    if (++step <= 100)
        return exit_for(VMX_REASON_CPUID, 2);
    return leave();
}

static void test_gives_way(void)
{
    begin(CPU_ENV_LONG, guest_exits);
    vt_set_msr(MSR_VMX_MISC, 5);
    hw_vmx.cpu_off();
    CHECK_EQ(hw_vmx.cpu_on(), OK);
    run_to_kick();
    CHECK_EQ(vt.preemptions, 100 / 32 + 1);
    end();
}

/* --- ends -------------------------------------------------------------------------------------- */

static enum vmx_reason last_reason;

static int guest_dies(uint64_t gpr[16], uint32_t flags)
{
    (void)gpr;
    (void)flags;
    *vt_field(VMCS_GUEST_RIP) = 0x4321;
    *vt_field(VMCS_EXIT_REASON) = last_reason;
    return VMX_ENTER_OK;
}

static int guest_refused(uint64_t gpr[16], uint32_t flags)
{
    (void)gpr;
    (void)flags;
    *vt_field(VMCS_EXIT_REASON) = VMX_REASON_BAD_STATE | VMX_REASON_ENTRY_FAILED;
    return VMX_ENTER_OK;
}

static int guest_fails(uint64_t gpr[16], uint32_t flags)
{
    (void)gpr;
    (void)flags;
    *vt_field(VMCS_INSTRUCTION_ERROR) = 7;
    return VMX_ENTER_FAILED;
}

static void test_ends(void)
{
    last_reason = VMX_REASON_TRIPLE_FAULT;
    begin(CPU_ENV_LONG, guest_dies);
    CHECK_EQ(run(), OK);
    CHECK_EQ(e.reason, EXIT_SHUTDOWN);
    CHECK_EQ(env.cpu->rip, 0x4321);
    end();
    last_reason = (enum vmx_reason)59999;
    begin(CPU_ENV_LONG, guest_dies);
    CHECK_EQ(run(), OK);
    CHECK_EQ(e.reason, EXIT_ENGINE_FAILURE);
    CHECK_EQ(e.failure.detail, 59999);
    end();
    begin(CPU_ENV_LONG, guest_refused);
    CHECK_EQ(run(), OK);
    CHECK_EQ(e.reason, EXIT_ENGINE_FAILURE);
    CHECK_STR(e.failure.reason, "the processor refused to enter the guest");
    CHECK_EQ(vt.entries, 1);
    end();
    begin(CPU_ENV_LONG, guest_fails);
    CHECK_EQ(run(), OK);
    CHECK_EQ(e.reason, EXIT_ENGINE_FAILURE);
    CHECK_EQ(e.failure.detail, 7);
    end();
    begin(CPU_ENV_LONG, guest_dies);
    vt.on[0] = false; /* as if another had switched it off */
    vmx_this_cpu()->on = false;
    CHECK_EQ(run(), OK);
    CHECK_EQ(e.reason, EXIT_ENGINE_FAILURE);
    CHECK_EQ(vt.entries, 0);
    end();
}

/* --- CPUs
 * ----------------------------------------------------------------------------------------------------------------- */

static void to_cpu_2(void)
{
    vt_move_to(2);
}

/* --- barriers ---------------------------------------------------------------------------------- */

static uint32_t flags_seen, flushes;

static int guest_barriers(uint64_t gpr[16], uint32_t flags)
{
    (void)gpr;
    flags_seen = flags & ~(uint32_t)VMX_ENTER_RESUME;
    flushes += vt_msr(MSR_FLUSH_CMD) == 1;
    vt_set_msr(MSR_FLUSH_CMD, 0);
    return leave();
}

/* By the plan: VERW and the stack of return addresses at each entry; the L1 cache when the VMCS comes back to a CPU,
 * IBPB only behind another VM. */
static void test_barriers(void)
{
    begin(CPU_ENV_LONG, guest_barriers);
    CHECK_EQ(run(), OK);
    CHECK(flags_seen == 0 && vt.ibpbs == 0 && flushes == 0);
    vt_move_to(1);
    vt.speculation = (struct speculation){.verw = true, .stuff_rsb = true, .ibpb = true, .flush_l1d = true};
    (void)vcpu_take_requests(&env.cpu->vcpu, VCPU_REQ_KICK);
    CHECK_EQ(run(), OK);
    CHECK_EQ(flags_seen, VMX_ENTER_VERW | VMX_ENTER_STUFF_RSB);
    CHECK(vt.ibpbs == 1 && flushes == 1);
    (void)vcpu_take_requests(&env.cpu->vcpu, VCPU_REQ_KICK);
    CHECK_EQ(run(), OK); /* nothing else has run here */
    CHECK(vt.ibpbs == 1 && flushes == 1);
    vt_move_to(1); /* a thread of the hypervisor's */
    (void)vcpu_take_requests(&env.cpu->vcpu, VCPU_REQ_KICK);
    CHECK_EQ(run(), OK);
    CHECK(vt.ibpbs == 1 && flushes == 2);
    end();
}

static int guest_moves(uint64_t gpr[16], uint32_t flags)
{
    struct vmx_vcpu *v = vmx_vcpu_of(env.cpu);

    (void)gpr;
    if (!step++) {
        CHECK_EQ(vt.cpu, 0);
        CHECK_EQ(*vt_field(VMCS_VPID), 1);
        *vt_field(VMCS_GUEST_RIP) = 0x7777;
        vt.fpu.xmm[1][1] = 0x11; /* the guest's own doing */
        vt_set_msr(MSR_LSTAR, 0x1234);
        vt.preempt = to_cpu_2;
        return exit_for(VMX_REASON_INTERRUPT, 0);
    }
    CHECK_EQ(vt.cpu, 2);
    CHECK(!(flags & VMX_ENTER_RESUME)); /* VMCLEAR was between */
    CHECK_EQ(vt.vmcs[0].current_on, 2);
    CHECK_EQ(v->cpu, 2);
    CHECK_EQ(*vt_field(VMCS_GUEST_RIP), 0x7777);
    CHECK_EQ(*vt_field(VMCS_HOST_GDTR_BASE), 0x102);
    CHECK_EQ(vt.fpu.xmm[1][1], 0x11);
    CHECK_EQ(vt_msr(MSR_LSTAR), 0x1234);
    vt.preempt = NULL;
    return leave();
}

static void test_move(void)
{
    begin(CPU_ENV_LONG, guest_moves);
    run_to_kick();
    CHECK_EQ(step, 2);
    CHECK_EQ(vt.invepts, 2); /* on each CPU, once */
    CHECK_EQ(env.cpu->fpu.xmm[1][1], 0x11);
    CHECK_EQ(env.cpu->msr.lstar, 0x1234);
    CHECK_EQ(env.cpu->rip, 0x7777);
    end();
}

static int guest_kicked(uint64_t gpr[16], uint32_t flags)
{
    (void)gpr;
    (void)flags;
    step++;
    engine_vmx.vcpu_kick(env.cpu);
    CHECK_EQ(vt.kicked[0], step);
    return leave();
}

static int guest_never(uint64_t gpr[16], uint32_t flags)
{
    (void)gpr;
    (void)flags;
    CHECK(false);
    return leave();
}

static void test_kick(void)
{
    begin(CPU_ENV_LONG, guest_kicked);
    engine_vmx.vcpu_kick(env.cpu); /* nobody is in guest code */
    CHECK_EQ(vt.kicked[0], 0);
    run_to_kick();
    engine_vmx.vcpu_kick(env.cpu);
    CHECK_EQ(vt.kicked[0], 1);
    vt.guest = guest_never; /* what was asked before is seen before the entry */
    vcpu_request(&env.cpu->vcpu, VCPU_REQ_KICK);
    run_to_kick();
    end();
}

/* A change of paging by us drops the VPID's translations; a changed memory map, what hangs on the EPT pointer. */
static int guest_counts(uint64_t gpr[16], uint32_t flags)
{
    (void)gpr;
    (void)flags;
    step++;
    return leave();
}

static void test_translations(void)
{
    uint32_t invvpids, invepts;

    begin(CPU_ENV_LONG, guest_counts);
    run_to_kick();
    invvpids = vt.invvpids;
    invepts = vt.invepts;
    run_to_kick();
    CHECK_EQ(vt.invvpids, invvpids);
    CHECK_EQ(vt.invepts, invepts);
    vmx_fetch(env.cpu, ENGINE_STATE_CONTROL);
    env.cpu->cr3 = CPU_ENV_PML4 + 0x18;
    vmx_changed(env.cpu, ENGINE_STATE_CONTROL);
    run_to_kick();
    CHECK_EQ(vt.invvpids, invvpids + 1);
    CHECK_EQ(engine_vmx.vm_memory_changed(&env.vm), OK);
    run_to_kick();
    CHECK_EQ(vt.invepts, invepts + 1);
    end();
}

/* The guest's TSC is the formula's, whatever the host's was when the VM clock started. */
static void test_clock(void)
{
    begin(CPU_ENV_LONG, guest_counts);
    vt.tsc_at_zero = 999999;
    env.cpu->tsc_offset = 5;
    vm_clock_start(&env.vm);
    CHECK_EQ(engine_vmx.vm_clock_started(&env.vm), OK);
    run_to_kick();
    CHECK_EQ(*vt_field(VMCS_TSC_OFFSET) + hw_tsc_at(atomic_load(&env.vm.clock.offset)), 5);
    CHECK(engine_vmx.vm_clock_lead(&env.vm) <= 1);
    vt.tsc_at_zero += 4000; /* the host's TSC ran ahead of its clock: the guest has seen a later time */
    CHECK_EQ((engine_vmx.vm_clock_lead(&env.vm) + 5) / 10, 400);
    vm_clock_stop(&env.vm);
    end();
    begin(CPU_ENV_LONG, guest_counts);
    engine_vmx.vcpu_destroy(env.cpu);
    env.vm.tsc_khz = 999000; /* 1000 ppm off */
    CHECK_EQ(engine_vmx.vcpu_create(env.cpu), ERR_UNSUPPORTED);
    CHECK(strstr(env.vm.engine_why, "1000000 kHz and is not scaled to the 999000 kHz"));
    env.vm.tsc_khz = 999900; /* 100 ppm */
    CHECK_EQ(engine_vmx.vcpu_create(env.cpu), OK);
    end();
}

int main(void)
{
    UNIT_RUN(test_cpuid);
    UNIT_RUN(test_port);
    UNIT_RUN(test_bad_msr);
    UNIT_RUN(test_undefined);
    UNIT_RUN(test_vmmcall);
    UNIT_RUN(test_mmio);
    UNIT_RUN(test_vector_mmio);
    UNIT_RUN(test_event_cut_short);
    UNIT_RUN(test_event_again);
    UNIT_RUN(test_interrupt_window);
    UNIT_RUN(test_nmi_window);
    UNIT_RUN(test_halt);
    UNIT_RUN(test_halt_closed);
    UNIT_RUN(test_host_exceptions);
    UNIT_RUN(test_debug);
    UNIT_RUN(test_gives_way);
    UNIT_RUN(test_ends);
    UNIT_RUN(test_move);
    UNIT_RUN(test_kick);
    UNIT_RUN(test_translations);
    UNIT_RUN(test_clock);
    UNIT_RUN(test_barriers);
    return unit_done();
}
