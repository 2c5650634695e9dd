/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Walking the guest's page tables (SDM 3A, chapter 4): 32-bit with PSE and PSE-36, PAE, 4-level.
 *
 * A walk has two halves. mmu_walk only reads: it goes down the tables, gathers what the entries
 * permit together and remembers where they stand. The caller decides whether the access is allowed;
 * then mmu_mark sets the accessed and dirty bits that are missing, by compare-and-exchange with the
 * values that the walk has seen. So debuggers walk without side effects, an access that faults
 * marks nothing, and a bit is never set in an entry that has changed since it was judged. If an
 * exchange is lost the whole walk is done again.
 *
 * Tables may lie anywhere the guest says: beyond RAM, in MMIO, in ROM, in each other. Entries that
 * are not in memory read as all ones, as on a bus where nobody answers, which is a reserved-bit
 * fault in 64-bit entries and a mapping of the last page in 32-bit ones. Entries in ROM are used
 * and not marked. A walk takes at most four steps, whatever the tables say.
 *
 * Not done: 5-level paging, protection keys, paging-structure caches (a walk always starts at CR3,
 * which is permitted).
 */
#include <stdatomic.h>

#include "x86/level.h"
#include "x86/mmu.h"

uint8_t *mmu_host_page(const struct vm *vm, uint64_t physical, bool *writable)
{
    const struct guest_mem *m = &vm->mem;
    uint64_t page = physical & PAGE_MASK;
    *writable = false;
    if (unlikely(guest_mem_missing(m)) && !guest_mem_bring(m, page, PAGE_SIZE))
        return NULL; /* the VM has been stopped for it */
    for (uint32_t i = 0; i < m->count; i++) {
        const struct guest_mem_slot *s = &m->slot[i];
        if (page - s->base < s->size) { /* below base it wraps to something huge */
            *writable = s->writable;
            return s->host + (page - s->base);
        }
    }
    return NULL;
}

/* Reads an entry of 4 or 8 bytes; naturally aligned by construction, so in one page. */
static struct mmu_entry entry_read(const struct vm *vm, uint64_t physical, bool narrow)
{
    bool writable;
    uint8_t *page = mmu_host_page(vm, physical, &writable);
    if (unlikely(!page))
        return (struct mmu_entry){NULL, narrow ? UINT32_MAX : UINT64_MAX};
    void *host = page + (physical & ~PAGE_MASK);
    uint64_t value;
    if (narrow)
        value = atomic_load_explicit((_Atomic uint32_t *)host, memory_order_relaxed);
    else
        value = atomic_load_explicit((_Atomic uint64_t *)host, memory_order_relaxed);
    return (struct mmu_entry){writable ? host : NULL, value};
}

/* Bits that are reserved in every 64-bit entry (SDM 3A, tables 4-8 to 4-20). */
static uint64_t reserved_bits(const struct x86_cpu *cpu)
{
    uint64_t bits = (BIT(52) - 1) & ~(BIT(cpu->level->physical_bits) - 1);
    if (cpu->paging == X86_PAGING_PAE)
        bits |= BIT(63) - BIT(52);
    if (!(cpu->efer & X86_EFER_NXE))
        bits |= X86_PTE_NX;
    return bits;
}

/* Does the entry at this level (0: page table) map a page, if it has PS set? */
static bool may_be_large(const struct x86_cpu *cpu, uint32_t level)
{
    if (level == 2)
        return cpu->level->gib_pages;
    return level == 1;
}

static bool walk_fault(struct mmu_walk *w, uint64_t error)
{
    w->error = error;
    return false;
}

/* From the table at `table`, whose entries are of that level, down to the page. */
static bool walk_64(const struct x86_cpu *cpu, struct mmu_walk *w, uint64_t table, uint32_t level)
{
    const struct vm *vm = cpu->vcpu.vm;
    uint64_t reserved = reserved_bits(cpu);
    uint64_t all = X86_PTE_U | X86_PTE_W, any = 0;
    for (;; level--) {
        uint32_t shift = PAGE_SHIFT + 9 * level;
        struct mmu_entry e = entry_read(vm, table + (w->linear >> shift & 511) * 8, false);
        w->entry[w->depth++] = e;
        if (!(e.value & X86_PTE_P))
            return walk_fault(w, 0);
        bool leaf = level == 0;
        uint64_t bad = reserved;
        if (level > 0 && e.value & X86_PTE_PS) {
            leaf = true;
            /* frame bits below the page's size, but for the PAT bit; PS where it may not be */
            bad |= may_be_large(cpu, level) ? BIT(shift) - BIT(PAGE_SHIFT + 1) : X86_PTE_PS;
        }
        if (e.value & bad)
            return walk_fault(w, X86_PF_P | X86_PF_R);
        all &= e.value;
        any |= e.value;
        table = e.value & MMU_ADDRESS_MASK;
        if (!leaf)
            continue;
        uint64_t offset = w->linear & (BIT(shift) - 1) & PAGE_MASK;
        w->physical = (table & ~(BIT(shift) - 1)) | offset;
        w->large = level > 0;
        w->user = all & X86_PTE_U;
        w->write = all & X86_PTE_W;
        w->execute = !(any & X86_PTE_NX);
        return true;
    }
}

static bool walk_pae(const struct x86_cpu *cpu, struct mmu_walk *w)
{
    uint64_t pdpte = cpu->pdpte[w->linear >> 30 & 3];
    if (!(pdpte & X86_PTE_P))
        return walk_fault(w, 0);
    return walk_64(cpu, w, pdpte & MMU_ADDRESS_MASK, 1);
}

/* A 4-MiB page: bits 20:13 of the entry are bits 39:32 of the address (SDM 3A, table 4-4). */
static bool walk_4mib(const struct x86_cpu *cpu, struct mmu_walk *w, uint64_t pde)
{
    uint64_t high = (pde >> 13 & 0xFF) << 32;
    if (pde & BIT(21) || high >> cpu->level->physical_bits)
        return walk_fault(w, X86_PF_P | X86_PF_R);
    w->physical = high | (pde & 0xFFC00000) | (w->linear & 0x003FF000);
    w->large = true;
    return true;
}

static bool walk_32(const struct x86_cpu *cpu, struct mmu_walk *w)
{
    const struct vm *vm = cpu->vcpu.vm;
    uint64_t table = cpu->cr3 & 0xFFFFF000;
    w->narrow = true;
    w->execute = true;
    struct mmu_entry pde = entry_read(vm, table + (w->linear >> 22 & 1023) * 4, true);
    w->entry[w->depth++] = pde;
    if (!(pde.value & X86_PTE_P))
        return walk_fault(w, 0);
    w->user = pde.value & X86_PTE_U;
    w->write = pde.value & X86_PTE_W;
    if (pde.value & X86_PTE_PS && cpu->cr4 & X86_CR4_PSE)
        return walk_4mib(cpu, w, pde.value);

    table = pde.value & 0xFFFFF000;
    struct mmu_entry pte = entry_read(vm, table + (w->linear >> PAGE_SHIFT & 1023) * 4, true);
    w->entry[w->depth++] = pte;
    if (!(pte.value & X86_PTE_P))
        return walk_fault(w, 0);
    w->user &= (pte.value & X86_PTE_U) != 0;
    w->write &= (pte.value & X86_PTE_W) != 0;
    w->physical = pte.value & 0xFFFFF000;
    return true;
}

bool mmu_walk(const struct x86_cpu *cpu, struct mmu_walk *w)
{
    w->depth = 0;
    w->large = false;
    w->narrow = false;
    switch ((enum x86_paging)cpu->paging) {
    case X86_PAGING_4LEVEL:
        return walk_64(cpu, w, cpu->cr3 & MMU_ADDRESS_MASK, 3);
    case X86_PAGING_PAE:
        return walk_pae(cpu, w);
    case X86_PAGING_32BIT:
        return walk_32(cpu, w);
    case X86_PAGING_OFF:
    default:
        w->physical = w->linear & PAGE_MASK;
        w->user = w->write = w->execute = true;
        return true;
    }
}

static bool entry_set(struct x86_cpu *cpu, struct mmu_entry *e, uint64_t bits, bool narrow)
{
    if ((e->value & bits) == bits || !e->host)
        return true;
    x86_write_late(cpu, e->host);
    uint64_t wanted = e->value | bits;
    bool done;
    if (narrow) {
        uint32_t expected = (uint32_t)e->value;
        done = atomic_compare_exchange_strong((_Atomic uint32_t *)e->host, &expected,
                                              (uint32_t)wanted);
    } else {
        uint64_t expected = e->value;
        done = atomic_compare_exchange_strong((_Atomic uint64_t *)e->host, &expected, wanted);
    }
    e->value = wanted;
    return done;
}

bool mmu_mark(struct x86_cpu *cpu, struct mmu_walk *w, bool write)
{
    for (uint32_t i = 0; i < w->depth; i++) {
        uint64_t bits = X86_PTE_A;
        if (write && i == w->depth - 1)
            bits |= X86_PTE_D;
        if (unlikely(!entry_set(cpu, &w->entry[i], bits, w->narrow)))
            return false;
    }
    return true;
}
