/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Between the files of the MMU: a walk of the guest's page tables and what it found. Instruction
 * handlers use x86/mem.h.
 */
#ifndef LODGE_X86_MMU_H
#define LODGE_X86_MMU_H

#include "x86/mem.h"

/* Paging-structure addresses and page frames, without the low and high flag bits. */
#define MMU_ADDRESS_MASK 0x000FFFFFFFFFF000u

/* The linear address of the page that follows, for an access that goes on there. Outside 64-bit
 * mode it wraps at 4 GiB; but in long mode descriptor tables are 64-bit also for 32-bit code. */
static inline uint64_t mmu_next_page(const struct x86_cpu *cpu, uint64_t linear, int access)
{
    uint64_t next = (linear & PAGE_MASK) + PAGE_SIZE;
    if (cpu->mode == INSN_MODE_64 || next != GIB(4))
        return next;
    return cpu->long_mode && access & X86_SYSTEM ? next : 0;
}

/* One entry on the way. */
struct mmu_entry {
    void *host; /* NULL: not in RAM, so nothing can be set in it */
    uint64_t value;
};

struct mmu_walk {
    uint64_t linear;           /* in */
    uint64_t physical;         /* of the 4-KiB page that holds linear; out from here on */
    uint64_t error;            /* page-fault error bits P and R, if mmu_walk returns false */
    uint32_t depth;            /* entries used; the last one maps the page */
    bool user, write, execute; /* what all entries together permit */
    bool large;                /* by a page larger than 4 KiB */
    bool narrow;               /* entries have 32 bits */
    struct mmu_entry entry[4];
};

/* Walks without side effects (x86/mmu_walk.c). With paging off everything is permitted. */
bool mmu_walk(const struct x86_cpu *cpu, struct mmu_walk *w);

/* Sets the accessed bits, and the dirty bit for a write. False if another processor changed an
 * entry meanwhile: walk again. */
bool mmu_mark(struct x86_cpu *cpu, struct mmu_walk *w, bool write);

/*
 * Before this vCPU writes to the page at that host address, or has a way to: says so. True: the page
 * is code, so stores are done with the VM at rest.
 */
bool mmu_announce_writer(const struct x86_cpu *cpu, const void *host);

/* Host address of the physical page, or NULL; *writable says RAM, not ROM. */
uint8_t *mmu_host_page(const struct vm *vm, uint64_t physical, bool *writable);

/* Accesses to what is neither RAM nor ROM (x86/mmu_io.c): local APIC page or EXIT_MMIO. The range
 * lies in one page. */
void mmu_io_read(struct x86_cpu *cpu, uint64_t physical, uint8_t *buf, uint32_t size);
void mmu_io_write(struct x86_cpu *cpu, uint64_t physical, const uint8_t *buf, uint32_t size);

/* One page, as an access found it. */
struct mmu_page {
    uint8_t *host;     /* of its first byte; NULL: MMIO or nothing */
    uint64_t physical; /* valid only if host is NULL */
    bool writable;     /* RAM, not ROM */
    bool code;         /* translated code depends on it: stores are done at rest */
};

/* Looks the page up for an access, filling the TLB on the way. X86_OK or X86_FAULT (#PF). */
int mmu_find_page(struct x86_cpu *cpu, uint64_t linear, int access, struct mmu_page *page);

#endif
