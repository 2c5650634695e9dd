/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A VM's life: beginning, rest, end. core/vm.h states the threading contract.
 *
 * Rest, the asking side. rest_lock makes sure that one party at a time has the VM at rest. The
 * asker raises rest_wanted, requests VCPU_REQ_REST of every other vCPU, and waits until each says
 * `resting` (core/vcpu.c has the other side and the argument about memory order). A vCPU that asks
 * says `resting` itself before it waits for rest_lock, so two that ask at the same time do not wait
 * for each other; it stops saying so only with the lock held, when nobody else can have rest. A
 * vCPU that has rest may ask for it again: a locked instruction on a device register holds it while
 * the device's handler runs, which may need it as well. rest_owner equals a vCPU only if that vCPU
 * stored it, so it can ask without the lock.
 *
 * Such a vCPU waits in the middle of an instruction. For another vCPU that is good enough; who asks
 * from outside wants to save, and must find every vCPU between two. So it lets go of the lock until
 * nobody is `inside` any more. Meanwhile rest stays wanted (rest_outside): a vCPU that has done its
 * instruction stays at the boundary behind it, and each is inside of one at most, so this ends.
 *
 * End. The first vm_stop claims the fields, fills them and publishes stop_reason last.
 */
#include "core/vm.h"

#include "core/assert.h"
#include "core/fmt.h"
#include "core/mem.h"
#include "core/seam.h"

void vm_init(struct vm *vm, const char *name)
{
    memset(vm, 0, sizeof(*vm));
    str_copy(vm->name, sizeof(vm->name), name);
    vm_clock_init(&vm->clock);
    lock_init(&vm->board_lock, LOCK_RANK_BOARD);
    lock_init(&vm->rest_lock, LOCK_RANK_REST);
    vm->tsc_khz = 1000000;
}

static void wait_until_resting(struct vm *vm, const struct vcpu *v)
{
    for (;;) {
        uint32_t arrived = atomic_load(&vm->rest_arrived);
        if (atomic_load(&v->resting))
            return;
        seam_wait(&vm->rest_arrived, arrived, UINT64_MAX);
    }
}

static void take_rest(struct vm *vm, struct vcpu *self)
{
    lock_take(&vm->rest_lock);
    if (self)
        atomic_store(&self->resting, 0);
    else
        atomic_store(&vm->rest_outside, 1);
    atomic_store_explicit(&vm->rest_owner, self, memory_order_relaxed);
    vm->rest_depth = 1;
    atomic_store(&vm->rest_wanted, 1);
    for (uint32_t i = 0; i < vm->vcpu_count; i++)
        if (vm->vcpu[i] != self)
            vcpu_request(vm->vcpu[i], VCPU_REQ_REST);
    for (uint32_t i = 0; i < vm->vcpu_count; i++)
        if (vm->vcpu[i] != self)
            wait_until_resting(vm, vm->vcpu[i]);
}

static bool is_one_inside(const struct vm *vm)
{
    for (uint32_t i = 0; i < vm->vcpu_count; i++)
        if (atomic_load(&vm->vcpu[i]->inside))
            return true;
    return false;
}

void vm_rest_begin(struct vm *vm, struct vcpu *self)
{
    if (self && atomic_load_explicit(&vm->rest_owner, memory_order_relaxed) == self) {
        vm->rest_depth++;
        return;
    }
    if (self) {
        atomic_store(&self->inside, 1);
        vcpu_leave(self);
    }
    take_rest(vm, self);
    if (self)
        atomic_store(&self->inside, 0);
    while (!self && is_one_inside(vm)) {
        atomic_store_explicit(&vm->rest_owner, NULL, memory_order_relaxed);
        lock_release(&vm->rest_lock);
        seam_yield();
        take_rest(vm, NULL);
    }
}

void vm_rest_end(struct vm *vm, struct vcpu *self)
{
    if (--vm->rest_depth > 0)
        return;
    atomic_store_explicit(&vm->rest_owner, NULL, memory_order_relaxed);
    if (!self)
        atomic_store(&vm->rest_outside, 0);
    if (!atomic_load(&vm->rest_outside)) {
        atomic_store(&vm->rest_wanted, 0);
        seam_wake(&vm->rest_wanted, true);
    }
    lock_release(&vm->rest_lock);
}

void vm_stop(struct vm *vm, enum vm_stop_reason reason, uint32_t status, const char *format, ...)
{
    if (atomic_exchange(&vm->stop_claimed, 1))
        return;
    va_list ap;
    va_start(ap, format);
    fmt_v(vm->stop_text, sizeof(vm->stop_text), format, ap);
    va_end(ap);
    vm->stop_status = status;
    atomic_store_explicit(&vm->stop_reason, (uint32_t)reason, memory_order_release);
    for (uint32_t i = 0; i < vm->vcpu_count; i++)
        vcpu_request(vm->vcpu[i], VCPU_REQ_STOP);
    seam_vm_stopped(vm);
}

void vm_clear_stop(struct vm *vm)
{
    for (uint32_t i = 0; i < vm->vcpu_count; i++)
        (void)vcpu_take_requests(vm->vcpu[i], VCPU_REQ_STOP);
    vm->stop_text[0] = '\0';
    vm->stop_status = 0;
    atomic_store(&vm->stop_reason, VM_RUNNING);
    atomic_store(&vm->stop_claimed, 0);
}

void vm_log(const struct vm *vm, enum seam_log_level level, const char *format, ...)
{
    char line[256];
    va_list ap;
    va_start(ap, format);
    size_t n = fmt_v(line, sizeof(line), format, ap);
    va_end(ap);
    seam_log(vm, level, line, n < sizeof(line) ? n : sizeof(line) - 1);
}
