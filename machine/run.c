/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The life of a vCPU on its thread: run the engine, see to the exit, sleep when there is nothing to
 * run.
 *
 * Sleeping. What ends it depends on why the vCPU sleeps: a halted one wakes for anything that may
 * be an event, one that waits for SIPI only for INIT and SIPI, since an interrupt that stays
 * pending for it would else keep it spinning. Requests for rest do not wake it: a parked vCPU
 * counts as resting. There is no deadline, because all timers fire on the VM's timer thread and
 * post an interrupt.
 */
#include "machine/board.h"

enum {
    WAKE_ALWAYS = VCPU_REQ_KICK | VCPU_REQ_STOP | VCPU_REQ_INIT | VCPU_REQ_SIPI,
    WAKE_HALTED = WAKE_ALWAYS | VCPU_REQ_INTR | VCPU_REQ_NMI | VCPU_REQ_PV_KICK,
};

static void sleep_until_event(struct x86_cpu *cpu)
{
    if (cpu->activity == X86_HALTED)
        vcpu_park(&cpu->vcpu, WAKE_HALTED, UINT64_MAX);
    else if (cpu->activity == X86_WAIT_SIPI)
        vcpu_park(&cpu->vcpu, WAKE_ALWAYS, UINT64_MAX);
}

/* One stay in guest code and what it ended for. False: leave for good. */
static bool run_once(const struct engine *engine, struct x86_cpu *cpu)
{
    struct vcpu *v = &cpu->vcpu;
    struct exit e = {.reason = EXIT_NONE};
    int err = engine->vcpu_run(cpu, &e);
    if (err == ERR_STOPPED)
        return false;
    if (err != OK) {
        vm_stop(v->vm, VM_STOP_ENGINE, v->id, "engine %s on vCPU %u: %s", engine->name, v->id,
                err_name(err));
        return false;
    }
    /* For a post-mortem, what the guest did last says more than that it died. */
    struct exit before = v->last_exit;
    err = vcpu_handle_exit(v, &e);
    if (e.reason == EXIT_SHUTDOWN)
        v->last_exit = before;
    if (err != OK)
        return false;
    if (e.reason == EXIT_HALT)
        sleep_until_event(cpu);
    return true;
}

void pc_run_vcpu(struct vm *vm, uint32_t id)
{
    const struct engine *engine = pc_of(vm)->engine;
    struct x86_cpu *cpu = pc_cpu(vm, id);
    vcpu_enter(&cpu->vcpu);
    while (!vm_is_stopped(vm)) {
        if (!run_once(engine, cpu))
            break;
    }
    vcpu_leave(&cpu->vcpu);
}
