/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The kvm engine's run loop: enter the guest, translate why it came out, have that seen to, go on.
 *
 * Kicks. Another thread sets bits in vcpu->requests and wants the vCPU to look at them soon. The
 * kick raises immediate_exit, which makes the next KVM_RUN return at once, and, if the vCPU may be
 * in KVM_RUN already, sends its thread a signal, which ends it. The vCPU clears immediate_exit and
 * only then looks at the requests; both sides are sequentially consistent: either it sees the bits,
 * or KVM_RUN sees immediate_exit. So none is lost, and no kick costs a signal unless it has to.
 *
 * Unfinished accesses. KVM ends an access that it left to us (port, MMIO, MSR) on the *next*
 * KVM_RUN: only then are registers and RIP as after the instruction. So the vCPU stands at an
 * instruction boundary only after one more entry, which immediate_exit keeps from going on: done
 * before it rests, leaves, or takes over new registers.
 *
 * The 8259's interrupts. KVM says whether the processor could take one now; if not, it is asked to
 * come out as soon as it can (interrupt window). The vector is fetched from the 8259 only when it
 * is taken for sure, between two instructions.
 *
 * RAM that is not there yet (struct guest_mem_late). The home has it mapped without access, so KVM
 * cannot give it to the guest: KVM_RUN fails with EFAULT, with nothing done, and is called again
 * when a piece more is there. KVM does not say where the guest was. What KVM's own emulator cannot
 * reach it takes for a device's: an access to device memory where there is RAM is one to RAM. And
 * kvm-clock whose page it could not reach it forgets: it is told again when there is more.
 *
 * What KVM reports and we do not expect ends the VM with a reason and registers, never a loop
 * (bad-inputs: emulation failures, entry failures).
 */
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/err.h"
#include "engine/kvm/kvm_private.h"
#include "isa/x86.h"
#include "x86/mem.h"

enum {
    /* KVM's emulator goes on with a REP instruction on device memory at each entry, an exit for
     * each piece, and gives up the processor after 1024 iterations. So this is never reached. */
    PIECES = 4096,
    ACCESS_SIZE = 8, /* of what is a number to a device */
};

/* --- kicks ----------------------------------------------------------------------------------- */

static void set_immediate_exit(struct kvm_vcpu *k, uint8_t value)
{
    __atomic_store_n(&k->run->immediate_exit, value, __ATOMIC_SEQ_CST);
}

void kvm_vcpu_kick(struct x86_cpu *cpu)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);

    set_immediate_exit(k, 1);
    if (atomic_load(&k->inside))
        (void)syscall(SYS_tgkill, kvm_vm_of(cpu->vcpu.vm)->pid, atomic_load(&k->thread),
                      KVM_KICK_SIGNAL);
}

/* The first time on a thread: kicks go there, and must get through. */
static void start_on_this_thread(struct kvm_vcpu *k)
{
    sigset_t set;

    if (k->started)
        return;
    sigemptyset(&set);
    sigaddset(&set, KVM_KICK_SIGNAL);
    (void)pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    atomic_store(&k->thread, (pid_t)syscall(SYS_gettid));
    k->started = true;
}

/* --- what exits mean -------------------------------------------------------------------------- */

/* Whether the run loop leaves, and what with. */
enum verdict {
    GO_ON,
    STOP,   /* a handler says that the VM has stopped */
    REPORT, /* *e is for our caller */
};

static enum verdict verdict_of(int err)
{
    return err == OK ? GO_ON : STOP;
}

/* The engine cannot go on. Registers are fetched for the report. */
static enum verdict fail(struct x86_cpu *cpu, struct exit *e, const char *reason, uint64_t detail)
{
    (void)kvm_vcpu_get_state(cpu, ENGINE_STATE_ALL);
    *e = (struct exit){.reason = EXIT_ENGINE_FAILURE, .failure = {reason, detail, EXIT_CAUSE_ENGINE}};
    return REPORT;
}

/* One or, from REP INS and OUTS, several accesses, whose data lie behind struct kvm_run. */
static enum verdict on_port(struct x86_cpu *cpu, struct exit *e)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);
    struct kvm_run *run = k->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    int err = OK;

    if (run->io.size == 0 || run->io.size > ACCESS_SIZE)
        return fail(cpu, e, "KVM reports a port access of an unknown size", run->io.size);
    k->unfinished = true;
    for (uint32_t i = 0; i < run->io.count && err == OK; i++, data += run->io.size) {
        *e = (struct exit){.reason = EXIT_PORT,
                           .port = {.port = run->io.port,
                                    .size = run->io.size,
                                    .write = run->io.direction == KVM_EXIT_IO_OUT}};
        if (e->port.write)
            __builtin_memcpy(&e->port.value, data, run->io.size);
        err = vcpu_handle_exit(&cpu->vcpu, e);
        if (!e->port.write)
            __builtin_memcpy(data, &e->port.value, run->io.size);
    }
    return verdict_of(err);
}

/* RAM that was not there when KVM wanted it. A write to ROM is none, and goes to the bus. */
static bool is_in_ram(const struct x86_cpu *cpu, const struct kvm_run *run)
{
    const struct guest_mem_slot *s =
        guest_mem_find(&cpu->vcpu.vm->mem, gpa(run->mmio.phys_addr), run->mmio.len);

    return s && s->writable;
}

static enum verdict access_ram(const struct x86_cpu *cpu, struct kvm_run *run)
{
    const struct guest_mem *m = &cpu->vcpu.vm->mem;
    struct gpa a = gpa(run->mmio.phys_addr);
    int err = run->mmio.is_write ? guest_mem_write(m, a, run->mmio.data, run->mmio.len)
                                 : guest_mem_read(m, a, run->mmio.data, run->mmio.len);

    return verdict_of(err);
}

static enum verdict on_mmio(struct x86_cpu *cpu, struct exit *e)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);
    struct kvm_run *run = k->run;
    int err;

    if (run->mmio.len == 0 || run->mmio.len > ACCESS_SIZE)
        return fail(cpu, e, "KVM reports a memory access of an unknown size", run->mmio.len);
    k->unfinished = true;
    if (is_in_ram(cpu, run))
        return access_ram(cpu, run);
    *e = (struct exit){.reason = EXIT_MMIO,
                       .mmio = {.address = gpa(run->mmio.phys_addr),
                                .size = (uint8_t)run->mmio.len,
                                .write = run->mmio.is_write != 0}};
    if (e->mmio.write)
        __builtin_memcpy(&e->mmio.value, run->mmio.data, e->mmio.size);
    err = vcpu_handle_exit(&cpu->vcpu, e);
    if (!e->mmio.write)
        __builtin_memcpy(run->mmio.data, &e->mmio.value, sizeof(run->mmio.data));
    return verdict_of(err);
}

static enum verdict on_msr(struct x86_cpu *cpu, struct exit *e)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);
    struct kvm_run *run = k->run;
    int err;

    k->unfinished = true;
    *e = (struct exit){.reason = EXIT_MSR,
                       .msr = {.value = run->msr.data,
                               .index = run->msr.index,
                               .write = run->exit_reason == KVM_EXIT_X86_WRMSR}};
    err = vcpu_handle_exit(&cpu->vcpu, e);
    run->msr.data = e->msr.value;
    run->msr.error = e->msr.fault;
    return verdict_of(err);
}

/* KVM's local APIC offers to keep EOIs for itself where it has no I/O APIC beside it, and tells us
 * all the same; only its page says what the guest has asked for. */
static bool keeps_eoi(const struct kvm_vcpu *k)
{
    struct kvm_lapic_state state;

    return kvm_ioctl(k->fd, KVM_GET_LAPIC, &state) >= 0 &&
           lapic_page_suppresses_eoi((const uint8_t *)state.regs);
}

/* Our level-triggered vector was EOIed. No exit of the machine: soft's local APIC calls the same.
 */
static enum verdict on_eoi(struct x86_cpu *cpu, struct exit *e)
{
    const struct apic_bus *bus = cpu->vcpu.vm->apic_bus;
    const struct kvm_vcpu *k = kvm_vcpu_of(cpu);

    (void)e;
    if (!keeps_eoi(k))
        bus->eoi(bus->io_apic, k->run->eoi.vector);
    return GO_ON;
}

/* Interrupt windows are seen to before the next entry; interrupted system calls are kicks. */
static enum verdict on_nothing(struct x86_cpu *cpu, struct exit *e)
{
    (void)cpu;
    (void)e;
    return GO_ON;
}

static enum verdict on_shutdown(struct x86_cpu *cpu, struct exit *e)
{
    (void)kvm_vcpu_get_state(cpu, ENGINE_STATE_ALL);
    cpu->activity = X86_SHUTDOWN;
    e->reason = EXIT_SHUTDOWN;
    return REPORT;
}

static enum verdict on_fail_entry(struct x86_cpu *cpu, struct exit *e)
{
    return fail(cpu, e, "the processor refused to enter the guest",
                kvm_vcpu_of(cpu)->run->fail_entry.hardware_entry_failure_reason);
}

/* After fail(): whether the instruction lies where there is no RAM. */
static bool runs_outside_of_ram(const struct x86_cpu *cpu)
{
    uint64_t linear = cpu->rip + (cpu->mode == INSN_MODE_64 ? 0 : cpu->seg[SEG_CS].base);
    struct gpa a;

    if (cpu->mode != INSN_MODE_64)
        linear &= UINT32_MAX;
    return x86_translate_peek(cpu, linear, &a) && !guest_mem_find(&cpu->vcpu.vm->mem, a, 1);
}

/* KVM emulates what touches no RAM. A guest that runs code there has lost its way, or has sent an
 * INIT to the boot processor, whose firmware is not there. An SMI leads to a memory of its own,
 * which has nothing in it. */
static enum verdict on_emulation_failure(struct x86_cpu *cpu, struct exit *e, uint64_t bytes)
{
    bool smm = kvm_vcpu_of(cpu)->run->flags & KVM_RUN_X86_SMM;
    enum verdict v = fail(cpu, e, "KVM cannot emulate an instruction of the guest", bytes);

    if (smm)
        e->failure.reason = "a processor was sent an SMI, and there is no firmware to take it";
    else if (runs_outside_of_ram(cpu))
        e->failure.reason = "the guest executes what is not RAM";
    else
        return v;
    e->failure.cause = EXIT_CAUSE_GUEST;
    return v;
}

static enum verdict on_internal_error(struct x86_cpu *cpu, struct exit *e)
{
    const struct kvm_run *run = kvm_vcpu_of(cpu)->run;
    const __u64 *data = run->internal.data;
    uint32_t count = run->internal.ndata;

    switch (run->internal.suberror) {
    case KVM_INTERNAL_ERROR_EMULATION: /* the instruction's bytes, from Linux 5.15 on */
        return on_emulation_failure(cpu, e, count > 1 ? data[1] : 0);
    case KVM_INTERNAL_ERROR_SIMUL_EX:
        return fail(cpu, e, "KVM met exceptions that it cannot deliver", count > 0 ? data[0] : 0);
    case KVM_INTERNAL_ERROR_DELIVERY_EV:
        return fail(cpu, e, "KVM cannot deliver an event", count > 0 ? data[0] : 0);
    case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON:
        return fail(cpu, e, "the processor left the guest for a reason that KVM does not know",
                    count > 0 ? data[0] : 0);
    default:
        return fail(cpu, e, "KVM met an internal error", run->internal.suberror);
    }
}

static enum verdict on_unknown(struct x86_cpu *cpu, struct exit *e)
{
    return fail(cpu, e, "the processor left the guest for a reason that KVM does not know",
                kvm_vcpu_of(cpu)->run->hw.hardware_exit_reason);
}

/* Only if the processor lost the guest's state when it forced the exit; else KVM goes on. */
static enum verdict on_notify(struct x86_cpu *cpu, struct exit *e)
{
    return fail(cpu, e, "the guest kept the processor from taking interrupts",
                kvm_vcpu_of(cpu)->run->notify.flags);
}

static enum verdict on_exit(struct x86_cpu *cpu, struct exit *e)
{
    /* table */
    static enum verdict (*const handler[])(struct x86_cpu * cpu, struct exit * e) = {
        [KVM_EXIT_UNKNOWN] = on_unknown,
        [KVM_EXIT_IO] = on_port,
        [KVM_EXIT_MMIO] = on_mmio,
        [KVM_EXIT_X86_RDMSR] = on_msr,
        [KVM_EXIT_X86_WRMSR] = on_msr,
        [KVM_EXIT_IOAPIC_EOI] = on_eoi,
        [KVM_EXIT_IRQ_WINDOW_OPEN] = on_nothing,
        [KVM_EXIT_INTR] = on_nothing,
        [KVM_EXIT_SHUTDOWN] = on_shutdown,
        [KVM_EXIT_FAIL_ENTRY] = on_fail_entry,
        [KVM_EXIT_INTERNAL_ERROR] = on_internal_error,
        [KVM_EXIT_NOTIFY] = on_notify,
    };
    uint32_t reason = kvm_vcpu_of(cpu)->run->exit_reason;

    if (reason >= ARRAY_SIZE(handler) || !handler[reason])
        return fail(cpu, e, "KVM gave no known reason for an exit", reason);
    return handler[reason](cpu, e);
}

/* --- entering ----------------------------------------------------------------------------------
 */

/* 0, or -errno: -EINTR after a kick. */
static int enter(struct kvm_vcpu *k)
{
    int result;

    k->entries++;
    atomic_store(&k->inside, true);
    result = ioctl(k->fd, KVM_RUN, 0);
    if (result < 0)
        result = -errno;
    atomic_store(&k->inside, false);
    k->unfinished = false;
    return result;
}

static enum verdict entry_failed(struct x86_cpu *cpu, struct exit *e, int error)
{
    enum verdict v;

    switch (error) {
    case EFAULT: /* a page of RAM: all of it is there, so the host has none left to put it in */
    case ENOMEM:
        v = fail(cpu, e, "a page of guest RAM, or what KVM needs for it, could not be had",
                 (uint64_t)error);
        e->failure.cause = EXIT_CAUSE_HOST_MEMORY;
        return v;
    case EIO:
        return fail(cpu, e, "KVM has given the VM up (see the host's kernel log)", EIO);
    default:
        return fail(cpu, e, "KVM_RUN failed, error number", (uint64_t)error);
    }
}

/* Has KVM look for kvm-clock's page again if more RAM is there than when it last did. */
static void tell_clock_again(const struct x86_cpu *cpu, uint32_t missing)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);
    uint64_t value;

    if (k->missing & ~missing && kvm_get_msr(cpu, MSR_KVM_SYSTEM_TIME_NEW, &value) == OK &&
        value & 1)
        (void)kvm_set_msr(cpu, MSR_KVM_SYSTEM_TIME_NEW, value); /* KVM took it before */
    k->missing = missing;
}

static enum verdict enter_and_handle(struct x86_cpu *cpu, struct exit *e)
{
    const struct guest_mem *m = &cpu->vcpu.vm->mem;
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);
    uint32_t was_missing = guest_mem_missing(m);
    int result;

    if (unlikely(k->missing != was_missing))
        tell_clock_again(cpu, was_missing);
    result = enter(k);
    if (result == -EINTR || result == -EAGAIN) {
        k->signals++;
        return GO_ON;
    }
    if (result == -EFAULT && was_missing) /* another thread may have brought it since */
        return guest_mem_bring_next(m) ? GO_ON : STOP;
    return result < 0 ? entry_failed(cpu, e, -result) : on_exit(cpu, e);
}

/* Has KVM end the access that it left to us, with all its pieces, so that the vCPU stands between
 * two instructions. Not half: what is left would be done at the next entry, which may be one into
 * another state, that of a reset machine. */
static enum verdict finish_access(struct x86_cpu *cpu, struct exit *e)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);
    enum verdict verdict = GO_ON;

    for (int i = 0; k->unfinished && i < PIECES && verdict != REPORT; i++) {
        set_immediate_exit(k, 1);
        verdict = enter_and_handle(cpu, e);
    }
    if (k->unfinished && verdict != REPORT)
        verdict = fail(cpu, e, "KVM does not come to the end of an access", PIECES);
    return verdict;
}

/* The 8259 is wired to the boot processor only. */
static bool can_take_extint(const struct x86_cpu *cpu)
{
    return cpu->vcpu.id == 0 && atomic_load(&cpu->vcpu.vm->apic_bus->extint) &&
           kvm_vcpu_of(cpu)->run->ready_for_interrupt_injection;
}

static void offer_extint(struct x86_cpu *cpu)
{
    struct kvm_run *run = kvm_vcpu_of(cpu)->run;

    if (cpu->vcpu.id != 0)
        return;
    if (can_take_extint(cpu)) {
        kvm_give_extint(cpu);
        run->ready_for_interrupt_injection = 0; /* until KVM says so again */
    }
    run->request_interrupt_window = atomic_load(&cpu->vcpu.vm->apic_bus->extint);
}

/* Requests that can be seen to without leaving. INIT, SIPI and kicks of halted vCPUs are between
 * KVM's own local APICs; here they come only with a saved state, and are put into it. OK or an
 * error. */
static int attend(struct x86_cpu *cpu, uint32_t requests)
{
    struct vcpu *v = &cpu->vcpu;

    if (requests & VCPU_REQ_REST)
        vcpu_rest(v);
    if (vcpu_take_requests(v, VCPU_REQ_NMI) & VCPU_REQ_NMI)
        (void)kvm_ioctl_value(kvm_vcpu_of(cpu)->fd, KVM_NMI, 0);
    (void)vcpu_take_requests(v, VCPU_REQ_INTR); /* offer_extint looks at the line itself */
    if (requests & (VCPU_REQ_INIT | VCPU_REQ_SIPI | VCPU_REQ_PV_KICK))
        return kvm_take_saved_requests(cpu);
    return OK;
}

/* State that we have the newer of goes to KVM. */
static enum verdict hand_over(struct x86_cpu *cpu, struct exit *e)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);

    if (!k->changed)
        return GO_ON;
    k->run->ready_for_interrupt_injection = 0; /* said of another state */
    return kvm_flush_state(cpu) == OK
               ? GO_ON
               : fail(cpu, e, "KVM does not take the vCPU's state", k->changed);
}

/* One round: what is to be done before the guest is entered, or the entry. */
static enum verdict go_round(struct x86_cpu *cpu, struct exit *e)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);
    uint32_t requests;
    enum verdict verdict;

    set_immediate_exit(k, 0);
    requests = atomic_load(&cpu->vcpu.requests);
    if (k->unfinished && (requests || k->changed || can_take_extint(cpu)))
        return finish_access(cpu, e);
    if (requests & (VCPU_REQ_STOP | VCPU_REQ_KICK)) {
        e->reason = EXIT_KICK;
        return REPORT;
    }
    if (requests)
        return attend(cpu, requests) == OK
                   ? GO_ON
                   : fail(cpu, e, "KVM does not give the vCPU's state", requests);
    verdict = hand_over(cpu, e);
    if (verdict != GO_ON)
        return verdict;
    offer_extint(cpu);
    return enter_and_handle(cpu, e);
}

int kvm_vcpu_run(struct x86_cpu *cpu, struct exit *e)
{
    enum verdict verdict = GO_ON;

    *e = (struct exit){.reason = EXIT_NONE};
    start_on_this_thread(kvm_vcpu_of(cpu));
    while (verdict == GO_ON)
        verdict = go_round(cpu, e);
    if (verdict == STOP) {
        struct exit ignored;

        (void)finish_access(cpu, &ignored);
        return ERR_STOPPED;
    }
    return OK;
}
