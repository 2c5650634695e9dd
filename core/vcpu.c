/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Requests, parking, and a vCPU's side of rest.
 *
 * Parking. The vCPU says `parked`, looks at `requests` once more, and sleeps on that very word; a
 * requester sets bits, then looks at `parked`. Both are sequentially consistent, so one of the two
 * sees the other: no wake-up is lost, and a running vCPU costs the requester no system call.
 *
 * Rest. `resting` says that the vCPU touches no guest state. It leaves that state by clearing
 * `resting` and only then looking at vm->rest_wanted (sequentially consistent again, against
 * vm_rest_begin's store and load in the other order): if rest is wanted it goes back, having
 * touched nothing.
 */
#include "core/vcpu.h"

#include "core/assert.h"
#include "core/seam.h"
#include "core/vm.h"

void vcpu_init(struct vcpu *v, struct vm *vm, uint32_t id)
{
    v->vm = vm;
    v->id = id;
    atomic_init(&v->requests, 0);
    atomic_init(&v->sipi_vector, 0);
    atomic_init(&v->parked, 0);
    atomic_init(&v->inside, 0);
    atomic_init(&v->resting, 1);
}

void vcpu_request(struct vcpu *v, uint32_t bits)
{
    uint32_t before = atomic_fetch_or(&v->requests, bits);
    if ((before & bits) == bits)
        return; /* somebody else asked for the same, and has told it */
    if (atomic_load(&v->parked))
        seam_wake(&v->requests, true);
    else if (v->vm->kick_vcpu)
        v->vm->kick_vcpu(v);
}

/* From here on the vCPU counts as resting. */
static void begin_resting(struct vcpu *v)
{
    struct vm *vm = v->vm;
    atomic_store(&v->resting, 1);
    if (atomic_load(&vm->rest_wanted)) {
        atomic_fetch_add(&vm->rest_arrived, 1);
        seam_wake(&vm->rest_arrived, true);
    }
}

/* Returns when the vCPU does not count as resting any more and nobody wants it to. */
static void end_resting(struct vcpu *v)
{
    struct vm *vm = v->vm;
    for (;;) {
        atomic_store(&v->resting, 0);
        if (!atomic_load(&vm->rest_wanted))
            return;
        begin_resting(v);
        while (atomic_load(&vm->rest_wanted))
            seam_wait(&vm->rest_wanted, 1, UINT64_MAX);
    }
}

void vcpu_enter(struct vcpu *v)
{
    assert(atomic_load(&v->resting));
    end_resting(v);
}

void vcpu_leave(struct vcpu *v)
{
    begin_resting(v);
}

void vcpu_rest(struct vcpu *v)
{
    vcpu_take_requests(v, VCPU_REQ_REST);
    begin_resting(v);
    end_resting(v);
}

void vcpu_park(struct vcpu *v, uint32_t mask, uint64_t deadline_ns)
{
    uint64_t start = seam_time_ns();
    begin_resting(v);
    atomic_store(&v->parked, 1);
    for (;;) {
        uint32_t requests = atomic_load(&v->requests);
        if ((requests & mask) != 0 || seam_time_ns() >= deadline_ns)
            break;
        seam_wait(&v->requests, requests, deadline_ns);
    }
    atomic_store(&v->parked, 0);
    end_resting(v);
    v->halted_ns += seam_time_ns() - start;
}

int vcpu_handle_exit(struct vcpu *v, struct exit *e)
{
    if ((uint32_t)e->reason < EXIT_REASONS)
        v->exits[e->reason]++;
    v->last_exit = *e;
    return v->vm->handle_exit(v, e);
}
