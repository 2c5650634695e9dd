/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Writing pages that translated code may depend on (engine/soft/code_pages.c has the protocol).
 *
 * An instruction's stores to such a page are done at once, with all vCPUs at rest (x86/mmu.c). What
 * the processor writes by itself cannot be: it comes in the middle of an instruction, or of one of
 * its accesses, where host pointers are held that rest would make void. So it is done like any
 * store, and the code goes at the end of the instruction: the page is marked LATE, the vCPU remembers
 * such pages, or, if they are too many, between which addresses they lie. Until then other vCPUs may
 * run the old code, as they may while a store of this one is on its way.
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

static void remember(struct x86_cpu *cpu, uint64_t page)
{
    if (!cpu->late_code) {
        cpu->late_code = true;
        cpu->late_pages = 0;
        cpu->late_first = cpu->late_last = page;
    }
    if (page < cpu->late_first)
        cpu->late_first = page;
    if (page > cpu->late_last)
        cpu->late_last = page;
    for (uint32_t n = 0; n < cpu->late_pages && n < X86_LATE_PAGES; n++)
        if (cpu->late_page[n] == page)
            return;
    if (cpu->late_pages < X86_LATE_PAGES)
        cpu->late_page[cpu->late_pages] = page;
    if (cpu->late_pages <= X86_LATE_PAGES)
        cpu->late_pages++;
}

void x86_write_late(struct x86_cpu *cpu, const void *host)
{
    x86_note_store(cpu, host);
    if (likely(!mmu_announce_writer(cpu, host)))
        return;
    (void)atomic_fetch_or(guest_mem_page_state(&cpu->vcpu.vm->mem, host), GUEST_PAGE_LATE);
    remember(cpu, (uint64_t)(uintptr_t)host & PAGE_MASK);
}

/* Another vCPU may have done it since. */
static void drop_page(struct vm *vm, uint8_t *page, _Atomic uint32_t *state)
{
    if (!(atomic_load(state) & GUEST_PAGE_LATE))
        return;
    atomic_fetch_and(state, ~GUEST_PAGE_LATE);
    if (vm->code_written)
        vm->code_written(vm, page, PAGE_SIZE);
}

static void drop_in_slot(struct x86_cpu *cpu, const struct guest_mem_slot *s)
{
    uint64_t first = (uint64_t)(uintptr_t)s->host, end = first + s->size;
    if (!s->page_state || cpu->late_last < first || cpu->late_first >= end)
        return;
    uint64_t from = cpu->late_first > first ? cpu->late_first : first;
    uint64_t to = cpu->late_last < end ? cpu->late_last : end - PAGE_SIZE;
    for (uint64_t page = from; page <= to; page += PAGE_SIZE)
        drop_page(cpu->vcpu.vm, s->host + (page - first), &s->page_state[(page - first) >> PAGE_SHIFT]);
}

void x86_drop_late_code(struct x86_cpu *cpu)
{
    const struct guest_mem *m = &cpu->vcpu.vm->mem;
    x86_lock_begin(cpu);
    if (cpu->late_pages <= X86_LATE_PAGES)
        for (uint32_t n = 0; n < cpu->late_pages; n++) {
            uint8_t *page = (uint8_t *)(uintptr_t)cpu->late_page[n];
            drop_page(cpu->vcpu.vm, page, guest_mem_page_state(m, page));
        }
    else
        for (uint32_t n = 0; n < m->count; n++)
            drop_in_slot(cpu, &m->slot[n]);
    cpu->late_code = false;
    x86_lock_end(cpu);
}
