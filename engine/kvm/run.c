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
 * is taken for sure.
 *
 * What KVM reports and we do not expect ends the VM with a reason and registers, never a loop
 * (bad-inputs: emulation failures, entry failures).
 */
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/err.h"
#include "engine/kvm/kvm_private.h"

enum { FRAGMENTS = 32 }; /* of one access, at most: REP OUTS of a page in pieces, split MMIO */

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
                      kvm_kick_signal());
}

/* The first time on a thread: kicks go there, and must get through. */
static void start_on_this_thread(struct kvm_vcpu *k)
{
    sigset_t set;

    if (k->started)
        return;
    sigemptyset(&set);
    sigaddset(&set, kvm_kick_signal());
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

/* One or, from REP INS and OUTS, several accesses, whose data lie behind struct kvm_run. */
static enum verdict on_port(struct x86_cpu *cpu, struct exit *e)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);
    struct kvm_run *run = k->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    int err = OK;

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

static enum verdict on_mmio(struct x86_cpu *cpu, struct exit *e)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);
    struct kvm_run *run = k->run;
    int err;

    k->unfinished = true;
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

/* Our level-triggered vector was EOIed. No exit of the machine: soft's local APIC calls the same.
 */
static enum verdict on_eoi(struct x86_cpu *cpu, struct exit *e)
{
    const struct apic_bus *bus = cpu->vcpu.vm->apic_bus;

    (void)e;
    bus->eoi(bus->io_apic, kvm_vcpu_of(cpu)->run->eoi.vector);
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

static enum verdict fail(struct x86_cpu *cpu, struct exit *e, const char *reason, uint64_t detail)
{
    (void)kvm_vcpu_get_state(cpu, ENGINE_STATE_ALL);
    *e = (struct exit){.reason = EXIT_ENGINE_FAILURE, .failure = {reason, detail}};
    return REPORT;
}

static enum verdict on_fail_entry(struct x86_cpu *cpu, struct exit *e)
{
    return fail(cpu, e, "the processor refused to enter the guest",
                kvm_vcpu_of(cpu)->run->fail_entry.hardware_entry_failure_reason);
}

static enum verdict on_internal_error(struct x86_cpu *cpu, struct exit *e)
{
    const struct kvm_run *run = kvm_vcpu_of(cpu)->run;

    switch (run->internal.suberror) {
    case KVM_INTERNAL_ERROR_EMULATION:
        return fail(cpu, e, "KVM cannot emulate an instruction of the guest",
                    run->internal.ndata > 1 ? run->internal.data[1] : 0);
    case KVM_INTERNAL_ERROR_SIMUL_EX:
        return fail(cpu, e, "KVM met exceptions that it cannot deliver", 0);
    case KVM_INTERNAL_ERROR_DELIVERY_EV:
        return fail(cpu, e, "KVM cannot deliver an event", run->internal.data[0]);
    default:
        return fail(cpu, e, "KVM met an internal error", run->internal.suberror);
    }
}

static enum verdict on_exit(struct x86_cpu *cpu, struct exit *e)
{
    /* table */
    static enum verdict (*const handler[])(struct x86_cpu * cpu, struct exit * e) = {
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

static enum verdict enter_and_handle(struct x86_cpu *cpu, struct exit *e)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);
    int result = enter(k);

    if (result == -EINTR || result == -EAGAIN) {
        k->signals++;
        return GO_ON;
    }
    if (result == -EFAULT)
        return fail(cpu, e, "the host could not provide a page of the guest's memory", 0);
    if (result < 0)
        return fail(cpu, e, "KVM_RUN failed", (uint64_t)-result);
    return on_exit(cpu, e);
}

/* Has KVM end the access that it left to us, so that the vCPU stands between two instructions. */
static enum verdict finish_access(struct x86_cpu *cpu, struct exit *e)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);
    enum verdict verdict = GO_ON;

    for (int i = 0; k->unfinished && i < FRAGMENTS && verdict != REPORT; i++) {
        set_immediate_exit(k, 1);
        verdict = enter_and_handle(cpu, e);
    }
    return verdict;
}

/* The 8259 is wired to the boot processor only. */
static void offer_extint(struct x86_cpu *cpu)
{
    struct apic_bus *bus = cpu->vcpu.vm->apic_bus;
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);

    if (cpu->vcpu.id != 0)
        return;
    if (atomic_load(&bus->extint) && k->run->ready_for_interrupt_injection) {
        int vector = bus->ack_extint(bus->pic);
        struct kvm_interrupt interrupt = {.irq = (uint32_t)vector};

        if (vector >= 0)
            (void)kvm_ioctl(k->fd, KVM_INTERRUPT, &interrupt);
        k->run->ready_for_interrupt_injection = 0; /* until KVM says so again */
    }
    k->run->request_interrupt_window = atomic_load(&bus->extint);
}

/* Requests that can be seen to without leaving. INIT, SIPI and kicks of halted vCPUs are between
 * KVM's own local APICs; here they come only with a saved state, and are put into it. */
static void attend(struct x86_cpu *cpu, uint32_t requests)
{
    struct vcpu *v = &cpu->vcpu;

    if (requests & VCPU_REQ_REST)
        vcpu_rest(v);
    if (vcpu_take_requests(v, VCPU_REQ_NMI) & VCPU_REQ_NMI)
        (void)kvm_ioctl_value(kvm_vcpu_of(cpu)->fd, KVM_NMI, 0);
    (void)vcpu_take_requests(v, VCPU_REQ_INTR); /* offer_extint looks at the line itself */
    if (requests & (VCPU_REQ_INIT | VCPU_REQ_SIPI | VCPU_REQ_PV_KICK))
        kvm_take_saved_requests(cpu);
}

int kvm_vcpu_run(struct x86_cpu *cpu, struct exit *e)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);
    enum verdict verdict = GO_ON;

    *e = (struct exit){.reason = EXIT_NONE};
    start_on_this_thread(k);
    while (verdict == GO_ON) {
        uint32_t requests;

        set_immediate_exit(k, 0);
        requests = vcpu_requests(&cpu->vcpu);
        if (requests && k->unfinished) {
            verdict = finish_access(cpu, e);
            continue;
        }
        if (requests & (VCPU_REQ_STOP | VCPU_REQ_KICK)) {
            e->reason = EXIT_KICK;
            return OK;
        }
        if (requests) {
            attend(cpu, requests);
            continue;
        }
        if (k->changed && !k->unfinished && kvm_flush_state(cpu) != OK) {
            verdict = fail(cpu, e, "KVM does not take the vCPU's state", k->changed);
            break;
        }
        offer_extint(cpu);
        verdict = enter_and_handle(cpu, e);
    }
    if (verdict == STOP) {
        struct exit ignored;

        (void)finish_access(cpu, &ignored);
        return ERR_STOPPED;
    }
    return OK;
}
