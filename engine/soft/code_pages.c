/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Pages of guest RAM that hold translated code: how a store to one is noticed, by whichever vCPU.
 *
 * Each page of RAM has a word (guest_mem_slot.page_state): one bit per vCPU, "may hold a write
 * translation of this page, or a host pointer that it is about to write through", and two that say
 * that the page is code, or about to be. A vCPU that wants to write sets its bit, then looks at
 * these two; one that wants to translate sets PENDING, then looks at the bits. Both are sequentially
 * consistent, so one sees the other:
 *
 *  - the writer sees the page to be code: it gets no translation, and its store goes the slow way:
 *    with all vCPUs at rest it is done, all blocks of the page are dropped, the page is data again;
 *  - the translator sees the writer: it brings all vCPUs to rest, so no instruction of theirs is
 *    under way, and takes the translations away.
 *
 * Only then CODE is set and the bytes are read. Who finds CODE set has nothing to do.
 */
#include "core/vm.h"
#include "engine/soft/soft.h"
#include "engine/soft/translator.h"
#include "x86/mem.h"

static void protect(struct x86_cpu *cpu, uint64_t host_page)
{
    struct translator *t = soft_translator(cpu);
    x86_tlb_protect(cpu, host_page);
    if (t)
        translator_protect(t, host_page);
}

enum code_mark code_mark_page(struct x86_cpu *cpu, const uint8_t *host)
{
    struct vm *vm = cpu->vcpu.vm;
    uint64_t page = (uint64_t)(uintptr_t)host & PAGE_MASK;
    _Atomic uint32_t *state = guest_mem_page_state(&vm->mem, host);
    if (!state) /* ROM: nobody writes it */
        return CODE_MARKED;
    if (atomic_load(state) & GUEST_PAGE_CODE)
        return CODE_MARKED;
    uint32_t before = atomic_fetch_or(state, GUEST_PAGE_PENDING);
    uint32_t own = GUEST_PAGE_WRITER(cpu->vcpu.id), others = before & GUEST_PAGE_WRITERS & ~own;
    if (before & own) {
        protect(cpu, page);
        atomic_fetch_and(state, ~own);
    }
    /* Another vCPU that is marking the same page may not be through. */
    if (!others && !(before & GUEST_PAGE_PENDING)) {
        atomic_fetch_or(state, GUEST_PAGE_CODE);
        return CODE_MARKED;
    }
    vm_rest_begin(vm, &cpu->vcpu);
    for (uint32_t n = 0; n < vm->vcpu_count; n++)
        if (atomic_load(state) & GUEST_PAGE_WRITER(n))
            protect(x86_cpu_of(vm->vcpu[n]), page);
    atomic_store(state, (atomic_load(state) & GUEST_PAGE_LATE) | GUEST_PAGE_PENDING | GUEST_PAGE_CODE);
    vm_rest_end(vm, &cpu->vcpu);
    return CODE_MARKED_AT_REST;
}

void code_written(struct vm *vm, const uint8_t *host, size_t size)
{
    (void)size; /* in one page */
    uint64_t page = (uint64_t)(uintptr_t)host & PAGE_MASK;
    _Atomic uint32_t *state = guest_mem_page_state(&vm->mem, host);
    for (uint32_t n = 0; n < vm->vcpu_count; n++) {
        struct translator *t = soft_translator(x86_cpu_of(vm->vcpu[n]));
        if (t)
            translator_invalidate(t, page);
    }
    if (state)
        atomic_fetch_and(state, ~(uint32_t)(GUEST_PAGE_CODE | GUEST_PAGE_PENDING));
}
