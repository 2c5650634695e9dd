/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Writing pages that translated code may depend on (engine/soft/code_pages.c has the protocol).
 *
 * An instruction's stores to such a page are done at once, with all vCPUs at rest (x86/mmu.c). What
 * the processor writes by itself cannot be: it comes in the middle of an instruction, or of one of
 * its accesses, where host pointers are held that rest would make void. So it is done like any
 * store, and the code goes at the end of the instruction: the page is marked LATE, the vCPU remembers
 * between which addresses such pages lie. Until then other vCPUs may run the old code, as they may
 * while a store of this one is on its way.
 */
#include "x86/mmu.h"

bool mmu_announce_writer(const struct x86_cpu *cpu, const void *host)
{
    _Atomic uint32_t *state = guest_mem_page_state(&cpu->vcpu.vm->mem, host);
    uint32_t own = GUEST_PAGE_WRITER(cpu->vcpu.id);
    if (!state)
        return false;
    if (!(atomic_load(state) & own))
        (void)atomic_fetch_or(state, own);
    return atomic_load(state) & (GUEST_PAGE_PENDING | GUEST_PAGE_CODE);
}

void x86_write_late(struct x86_cpu *cpu, const void *host)
{
    uint64_t page = (uint64_t)(uintptr_t)host & PAGE_MASK;
    x86_note_store(cpu, host);
    if (likely(!mmu_announce_writer(cpu, host)))
        return;
    (void)atomic_fetch_or(guest_mem_page_state(&cpu->vcpu.vm->mem, host), GUEST_PAGE_LATE);
    if (!cpu->late_code || page < cpu->late_first)
        cpu->late_first = page;
    if (!cpu->late_code || page > cpu->late_last)
        cpu->late_last = page;
    cpu->late_code = true;
}

static void drop_in_slot(struct x86_cpu *cpu, const struct guest_mem_slot *s)
{
    struct vm *vm = cpu->vcpu.vm;
    uint64_t first = (uint64_t)(uintptr_t)s->host, end = first + s->size;
    if (!s->page_state || cpu->late_last < first || cpu->late_first >= end)
        return;
    uint64_t from = cpu->late_first > first ? cpu->late_first : first;
    uint64_t to = cpu->late_last < end ? cpu->late_last : end - PAGE_SIZE;
    for (uint64_t page = from; page <= to; page += PAGE_SIZE) {
        _Atomic uint32_t *state = &s->page_state[(page - first) >> PAGE_SHIFT];
        if (!(atomic_load(state) & GUEST_PAGE_LATE))
            continue;
        atomic_fetch_and(state, ~GUEST_PAGE_LATE);
        if (vm->code_written)
            vm->code_written(vm, s->host + (page - first), PAGE_SIZE);
    }
}

void x86_drop_late_code(struct x86_cpu *cpu)
{
    const struct guest_mem *m = &cpu->vcpu.vm->mem;
    x86_lock_begin(cpu);
    for (uint32_t n = 0; n < m->count; n++)
        drop_in_slot(cpu, &m->slot[n]);
    cpu->late_code = false;
    x86_lock_end(cpu);
}
