/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Which pages the guest has written, by KVM's dirty log: a bitmap per slot that is fetched and
 * cleared in one call. The newer dirty ring costs less where few of very many pages are written,
 * and needs a reader for each vCPU that never falls behind; for saving a VM and copying it the
 * bitmap is read a few times in all.
 *
 * The VM is at rest when tracking is switched; fetching may go on while it runs, and then gives
 * pages that are being written again and again. RAM that is missing comes first: KVM does not see
 * it being written.
 */
#include "core/err.h"
#include "engine/kvm/kvm_private.h"

int kvm_dirty_track(struct vm *vm, bool on)
{
    struct kvm_vm *kvm = kvm_vm_of(vm);
    bool before = kvm->tracks_dirty;

    while (guest_mem_missing(&vm->mem)) {
        if (!guest_mem_bring_next(&vm->mem))
            return ERR_IO;
    }
    kvm->tracks_dirty = on;
    for (uint32_t slot = 0; slot < kvm->slots; slot++) { /* flags of a slot may change in place */
        int result = kvm_set_slot(kvm, slot, &vm->mem.slot[slot]);

        if (result < 0) {
            kvm->tracks_dirty = before;
            while (slot-- > 0)
                (void)kvm_set_slot(kvm, slot, &vm->mem.slot[slot]);
            return kvm_err(result);
        }
    }
    return OK;
}

int kvm_dirty_fetch(struct vm *vm, uint32_t slot, uint64_t *bitmap)
{
    const struct kvm_vm *kvm = kvm_vm_of(vm);
    struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = bitmap};
    int result;

    if (!kvm->tracks_dirty || slot >= kvm->slots)
        return ERR_INVALID;
    result = kvm_ioctl(kvm->fd, KVM_GET_DIRTY_LOG, &log);
    return result < 0 ? kvm_err(result) : OK;
}
