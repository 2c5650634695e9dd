/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What an exit means: one small handler for each reason, the same under every engine. Handlers run
 * on the vCPU's thread, between instructions or, called by an engine from inside one, in the middle
 * of it; they take no lock themselves (the buses do).
 *
 * The local APIC's page is not here: it belongs to the processor, and engines reach it through
 * x86/mmu_io.c.
 *
 * A handler that ends the VM says so by vm_stop, whose text is what the operator reads; registers
 * stay as they are for the home to show.
 */
#include "core/assert.h"
#include "machine/board.h"
#include "x86/level.h"
#include "x86/msr.h"

/* A device that was written to may have stopped the VM: then the vCPU must leave. */
static int leave_if_stopped(const struct vcpu *v)
{
    return unlikely(vm_is_stopped(v->vm)) ? ERR_STOPPED : OK;
}

static int handle_port(struct vcpu *v, struct exit *e)
{
    if (!e->port.write) {
        (void)bus_read(&v->vm->port_bus, e->port.port, e->port.size, &e->port.value);
        return leave_if_stopped(v);
    }
    (void)bus_write(&v->vm->port_bus, e->port.port, e->port.size, e->port.value);
    pci_host_sync(&pc_of(v->vm)->pci, v);
    return leave_if_stopped(v);
}

static int handle_mmio(struct vcpu *v, struct exit *e)
{
    if (!e->mmio.write) {
        (void)bus_read(&v->vm->mmio_bus, e->mmio.address.v, e->mmio.size, &e->mmio.value);
        return leave_if_stopped(v);
    }
    (void)bus_write(&v->vm->mmio_bus, e->mmio.address.v, e->mmio.size, e->mmio.value);
    pci_host_sync(&pc_of(v->vm)->pci, v);
    return leave_if_stopped(v);
}

static int handle_msr(struct vcpu *v, struct exit *e)
{
    struct x86_cpu *cpu = x86_cpu_of(v);
    int status = e->msr.write ? x86_msr_write(cpu, e->msr.index, e->msr.value)
                              : x86_msr_read(cpu, e->msr.index, &e->msr.value);
    e->msr.fault = status == X86_FAULT;
    return leave_if_stopped(v);
}

static int handle_cpuid(struct vcpu *v, struct exit *e)
{
    uint32_t out[4];
    x86_cpuid(x86_cpu_of(v), e->cpuid.eax, e->cpuid.ecx, out);
    e->cpuid.eax = out[0];
    e->cpuid.ebx = out[1];
    e->cpuid.ecx = out[2];
    e->cpuid.edx = out[3];
    return OK;
}

static int handle_hypercall(struct vcpu *v, struct exit *e)
{
    e->hypercall.result = x86_kvm_hypercall(x86_cpu_of(v), e->hypercall.number, e->hypercall.arg);
    return leave_if_stopped(v);
}

/* Halts and windows are the run loop's matter. */
static int handle_nothing(struct vcpu *v, struct exit *e)
{
    (void)e;
    return leave_if_stopped(v);
}

/* VCPU_REQ_STOP is set after the stop reason, so one without a reason is an old one. */
static int handle_kick(struct vcpu *v, struct exit *e)
{
    (void)e;
    if (vcpu_requests(v) & VCPU_REQ_REST)
        vcpu_rest(v);
    (void)vcpu_take_requests(v, VCPU_REQ_KICK | VCPU_REQ_STOP);
    return leave_if_stopped(v);
}

static const char *mode_name(const struct x86_cpu *cpu)
{
    if (cpu->v86)
        return "virtual-8086";
    if (!cpu->protected_mode)
        return "real";
    if (!cpu->long_mode)
        return cpu->mode == INSN_MODE_16 ? "16-bit protected" : "32-bit protected";
    return cpu->mode == INSN_MODE_64 ? "64-bit" : "compatibility";
}

static int handle_shutdown(struct vcpu *v, struct exit *e)
{
    const struct x86_cpu *cpu = x86_cpu_of(v);
    (void)e;
    vm_stop(v->vm, VM_STOP_TRIPLE_FAULT, v->id, "vCPU %u at %04x:%llx, %s mode, CPL %u, CR2 %llx",
            v->id, cpu->seg[SEG_CS].selector, (unsigned long long)cpu->rip, mode_name(cpu),
            cpu->cpl, (unsigned long long)cpu->cr2);
    return ERR_STOPPED;
}

static int handle_engine_failure(struct vcpu *v, struct exit *e)
{
    const struct x86_cpu *cpu = x86_cpu_of(v);
    static const enum vm_stop_reason stop[] = {
        [EXIT_CAUSE_ENGINE] = VM_STOP_ENGINE,
        [EXIT_CAUSE_GUEST] = VM_STOP_GUEST_ERROR,
        [EXIT_CAUSE_HOST_MEMORY] = VM_STOP_NO_MEMORY,
    };

    vm_stop(v->vm, stop[e->failure.cause], v->id,
            "%s (%llx), vCPU %u at %04x:%llx, %s mode", e->failure.reason, (unsigned long long)e->failure.detail, v->id,
            cpu->seg[SEG_CS].selector, (unsigned long long)cpu->rip, mode_name(cpu));
    return ERR_STOPPED;
}

static int handle_none(struct vcpu *v, struct exit *e)
{
    (void)NEVER(true);
    vm_stop(v->vm, VM_STOP_ENGINE, v->id, "the engine gave no known reason for an exit (%u)",
            (unsigned int)e->reason);
    return ERR_STOPPED;
}

int pc_handle_exit(struct vcpu *v, struct exit *e)
{
    static int (*const handler[EXIT_REASONS])(struct vcpu * v, struct exit * e) = {
        /* table */
        [EXIT_NONE] = handle_none,
        [EXIT_PORT] = handle_port,
        [EXIT_MMIO] = handle_mmio,
        [EXIT_MSR] = handle_msr,
        [EXIT_CPUID] = handle_cpuid,
        [EXIT_HALT] = handle_nothing,
        [EXIT_HYPERCALL] = handle_hypercall,
        [EXIT_WINDOW] = handle_nothing,
        [EXIT_SHUTDOWN] = handle_shutdown,
        [EXIT_KICK] = handle_kick,
        [EXIT_ENGINE_FAILURE] = handle_engine_failure,
    };
    uint32_t reason = (uint32_t)e->reason;
    return handler[reason < EXIT_REASONS ? reason : EXIT_NONE](v, e);
}
