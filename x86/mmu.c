/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The software TLB, and accesses to guest memory that miss it.
 *
 * A table per access context (CPL 0-2 with SMAP in force, CPL 0-2 with SMAP suspended, CPL 3), so
 * that a hit needs no permission check: one compare of a tag which holds page and generation, one
 * addition. A fourth table stays empty for ever; x86_update_mode selects it when alignment has to
 * be checked, so that every access comes here and nothing is checked elsewhere.
 *
 * A miss walks the page tables once (x86/mmu_walk.c) and enters everything that the entry permits
 * in that context: read, write, execute. The write tag waits until the dirty bit is set. What is
 * never entered: MMIO, nothing, stores to ROM, pages with a data breakpoint. So the fast path needs
 * to know about none of these.
 *
 * A new generation flushes all tables at once. When the 12 bits run out the tables are wiped. Each
 * half of the address space has its own: kernels map the upper one globally, so MOV to CR3 leaves
 * it alone, unless a page was entered there that is not global. Global pages of the lower half and
 * other PCIDs are flushed more often than the architecture asks for, which is allowed. INVLPG drops
 * one page, unless the address may lie in a large page: their 4-KiB pieces cannot be found singly,
 * so there its half goes.
 *
 * Atomicity: what lies in one page of RAM is one host instruction for 1, 2, 4 and 8 bytes, aligned
 * or not. Across pages bytes move in two parts, after both pages have been checked.
 *
 * Order of checks for one access: page fault, then #AC, then the access, then data breakpoints
 * (traps, gathered for the end of the instruction).
 *
 * Threads: everything here belongs to the vCPU's own thread. Other vCPUs change page tables at the
 * same time; that is why marking uses compare-and-exchange. Memory slots change only at rest.
 */
#include "x86/mmu.h"

#include "x86/lapic.h"
#include "x86/level.h"

/* Lost races for accessed and dirty bits are tried again this often; a guest that keeps changing
 * the entry under another processor's walk just does not get its bits (and no TLB entry). */
enum { MARK_ATTEMPTS = 64 };

enum { RIGHT_READ = 1, RIGHT_WRITE = 2, RIGHT_EXEC = 4 };

/* --- what a context may do with a page (SDM 3A 4.6) --- */

static unsigned int rights_of(const struct x86_cpu *cpu, unsigned int context,
                              const struct mmu_walk *w)
{
    unsigned int rights = 0;
    if (cpu->paging == X86_PAGING_OFF)
        return RIGHT_READ | RIGHT_WRITE | RIGHT_EXEC;
    if (context == X86_TLB_USER) {
        if (!w->user)
            return 0;
        rights = RIGHT_READ | (w->write ? RIGHT_WRITE : 0);
        return rights | (w->execute ? RIGHT_EXEC : 0);
    }
    if (!(w->user && context == X86_TLB_KERNEL && cpu->cr4 & X86_CR4_SMAP)) {
        rights = RIGHT_READ;
        if (w->write || !(cpu->cr0 & X86_CR0_WP))
            rights |= RIGHT_WRITE;
    }
    if (w->execute && !(w->user && cpu->cr4 & X86_CR4_SMEP))
        rights |= RIGHT_EXEC;
    return rights;
}

static unsigned int right_needed(int access)
{
    if (access & X86_WRITE)
        return RIGHT_WRITE;
    return access & X86_EXEC ? RIGHT_EXEC : RIGHT_READ;
}

static unsigned int context_of(const struct x86_cpu *cpu, int access)
{
    return access & X86_SYSTEM ? X86_TLB_KERNEL : cpu->tlb_context;
}

static int raise_page_fault(struct x86_cpu *cpu, const struct mmu_walk *w, int access)
{
    uint64_t error = w->error;
    if (access & X86_WRITE)
        error |= X86_PF_W;
    if (cpu->cpl == 3 && !(access & X86_SYSTEM))
        error |= X86_PF_U;
    if (access & X86_EXEC) {
        bool nx = cpu->efer & X86_EFER_NXE && cpu->cr4 & X86_CR4_PAE;
        if (nx || cpu->cr4 & X86_CR4_SMEP)
            error |= X86_PF_I;
    }
    return x86_fault_page(cpu, w->linear, (uint32_t)error);
}

/*
 * Walks, checks and marks. X86_OK with *rights; *keep says that the result may be entered in the
 * TLB (marking was not given up).
 */
static int walk_for_access(struct x86_cpu *cpu, struct mmu_walk *w, int access,
                           unsigned int *rights, bool *keep)
{
    unsigned int context = context_of(cpu, access);
    for (int attempt = 0; attempt < MARK_ATTEMPTS; attempt++) {
        if (!mmu_walk(cpu, w))
            return raise_page_fault(cpu, w, access);
        *rights = rights_of(cpu, context, w);
        if (!(*rights & right_needed(access))) {
            w->error = X86_PF_P;
            return raise_page_fault(cpu, w, access);
        }
        *keep = mmu_mark(cpu, w, access & X86_WRITE);
        if (likely(*keep))
            return X86_OK;
    }
    return X86_OK;
}

/* --- the TLB --- */

static void flush_half(struct x86_cpu *cpu, unsigned int half)
{
    cpu->tlb_flushes[half]++;
    if (++cpu->tlb_generation[half] > ~PAGE_MASK) {
        memset(cpu->tlb_table, 0, sizeof(cpu->tlb_table));
        cpu->tlb_generation[half] = 1;
    }
    cpu->tlb_large[half].first = UINT64_MAX;
    cpu->tlb_large[half].last = 0;
    if (half == 1)
        cpu->tlb_local_upper = false;
}

void x86_tlb_flush(struct x86_cpu *cpu)
{
    flush_half(cpu, 0);
    flush_half(cpu, 1);
}

void x86_tlb_flush_local(struct x86_cpu *cpu)
{
    flush_half(cpu, 0);
    if (cpu->tlb_local_upper)
        flush_half(cpu, 1);
}

void x86_tlb_flush_page(struct x86_cpu *cpu, uint64_t linear)
{
    unsigned int half = (unsigned int)(linear >> 63);
    if (linear >= cpu->tlb_large[half].first && linear <= cpu->tlb_large[half].last) {
        flush_half(cpu, half);
        return;
    }
    if (cpu->tlb_page_dropped)
        cpu->tlb_page_dropped(cpu, linear);
    uint64_t tag = x86_tlb_tag(cpu, linear);
    for (unsigned int c = 0; c < X86_TLB_CONTEXTS; c++) {
        struct x86_tlb_entry *e = &cpu->tlb_table[c][(linear >> PAGE_SHIFT) & (X86_TLB_SIZE - 1)];
        if (e->read_tag == tag)
            e->read_tag = X86_TLB_TAG_NONE;
        if (e->write_tag == tag)
            e->write_tag = X86_TLB_TAG_NONE;
        if (e->exec_tag == tag)
            e->exec_tag = X86_TLB_TAG_NONE;
    }
}

void x86_tlb_protect(struct x86_cpu *cpu, uint64_t host_page)
{
    for (unsigned int c = 0; c < X86_TLB_NONE; c++) {
        for (unsigned int n = 0; n < X86_TLB_SIZE; n++) {
            struct x86_tlb_entry *e = &cpu->tlb_table[c][n];
            if (e->write_tag != X86_TLB_TAG_NONE &&
                (e->write_tag & PAGE_MASK) + e->addend == host_page)
                e->write_tag = X86_TLB_TAG_NONE;
        }
    }
}

/* INVLPG must find all pieces of a large page: remember where such pages are. At most 1 GiB around
 * the address, whatever the page's size really is. */
static void note_large(struct x86_cpu *cpu, uint64_t linear)
{
    unsigned int half = (unsigned int)(linear >> 63);
    uint64_t first = linear & ~(GIB(1) - 1);
    uint64_t last = linear | (GIB(1) - 1);
    if (first < cpu->tlb_large[half].first)
        cpu->tlb_large[half].first = first;
    if (last > cpu->tlb_large[half].last)
        cpu->tlb_large[half].last = last;
}

/* Rights that data breakpoints take away from the fast path (SDM 3B 17.2.4). */
static unsigned int watched_rights(const struct x86_cpu *cpu, uint64_t linear)
{
    unsigned int watched = 0;
    for (unsigned int n = 0; n < 4; n++) {
        unsigned int kind = cpu->dr7 >> (16 + 4 * n) & 3;
        bool enabled = cpu->dr7 >> (2 * n) & 3;
        if (!enabled || !(kind & 1) || (cpu->dr[n] & PAGE_MASK) != (linear & PAGE_MASK))
            continue;
        watched |= kind == 3 ? RIGHT_READ | RIGHT_WRITE : RIGHT_WRITE;
    }
    return watched;
}

static bool is_global(const struct x86_cpu *cpu, const struct mmu_walk *w)
{
    return w->depth > 0 && w->entry[w->depth - 1].value & X86_PTE_G && cpu->cr4 & X86_CR4_PGE;
}

static bool is_dirty(const struct mmu_walk *w)
{
    return w->depth == 0 || w->entry[w->depth - 1].value & X86_PTE_D;
}

static void enter(struct x86_cpu *cpu, const struct mmu_walk *w, unsigned int context,
                  unsigned int rights, const struct mmu_page *page)
{
    uint64_t linear = w->linear & PAGE_MASK;
    uint64_t tag = x86_tlb_tag(cpu, linear);
    struct x86_tlb_entry *e = &cpu->tlb_table[context][(linear >> PAGE_SHIFT) & (X86_TLB_SIZE - 1)];
    if (!is_dirty(w) || !page->writable || page->code)
        rights &= ~(unsigned int)RIGHT_WRITE;
    if (unlikely(cpu->dr7 & 0xFF))
        rights &= ~watched_rights(cpu, linear);
    e->addend = (uint64_t)(uintptr_t)page->host - linear;
    e->read_tag = rights & RIGHT_READ ? tag : X86_TLB_TAG_NONE;
    e->write_tag = rights & RIGHT_WRITE ? tag : X86_TLB_TAG_NONE;
    e->exec_tag = rights & RIGHT_EXEC ? tag : X86_TLB_TAG_NONE;
    if (w->large)
        note_large(cpu, linear);
    if (linear >> 63 && !is_global(cpu, w))
        cpu->tlb_local_upper = true;
}

static int find_page_slow(struct x86_cpu *cpu, uint64_t linear, int access, struct mmu_page *page)
{
    struct mmu_walk w = {.linear = linear};
    unsigned int rights = 0;
    bool keep = false;
    cpu->tlb_misses++;
    int status = walk_for_access(cpu, &w, access, &rights, &keep);
    if (status != X86_OK)
        return status;
    page->physical = w.physical;
    page->writable = page->code = false;
    page->host = NULL;
    if (likely(!lapic_owns_page(cpu, w.physical)))
        page->host = mmu_host_page(cpu->vcpu.vm, w.physical, &page->writable);
    if (page->writable && rights & RIGHT_WRITE && (access & X86_WRITE || is_dirty(&w)))
        page->code = mmu_announce_writer(cpu, page->host);
    if (page->host && likely(keep))
        enter(cpu, &w, context_of(cpu, access), rights, page);
    return X86_OK;
}

int mmu_find_page(struct x86_cpu *cpu, uint64_t linear, int access, struct mmu_page *page)
{
    const struct x86_tlb_entry *e =
        &cpu->tlb_table[context_of(cpu, access)][(linear >> PAGE_SHIFT) & (X86_TLB_SIZE - 1)];
    uint64_t tag;
    if (access & X86_WRITE)
        tag = e->write_tag;
    else
        tag = access & X86_EXEC ? e->exec_tag : e->read_tag;
    if (tag == x86_tlb_tag(cpu, linear)) {
        page->host = (uint8_t *)(uintptr_t)((linear & PAGE_MASK) + e->addend);
        page->physical = 0;
        page->writable = access & X86_WRITE; /* a write tag is never one of ROM, or of code */
        page->code = false;
        return X86_OK;
    }
    return find_page_slow(cpu, linear, access, page);
}

/* --- an access of one or two pages --- */

struct mmu_part {
    struct mmu_page page;
    uint64_t linear;
    uint32_t size;
};

struct mmu_span {
    struct mmu_part part[2];
    uint32_t count;
};

/*
 * What each size has to be aligned to under #AC (SDM 3A, table 6-7). Vectors of 16 and 32 bytes are
 * not checked (SDM 1, 14.9; 3A 6.15 leaves MOVUPS and its kin to the implementation, and AMD's
 * processors check them all). Structures are checked by who knows what they consist of
 * (x86_check_alignment).
 */
static uint32_t alignment_of(uint32_t size)
{
    static const uint8_t alignment[] = {[2] = 2, [4] = 4, [8] = 8, [10] = 8};
    return size < sizeof(alignment) && alignment[size] ? alignment[size] : 1;
}

int x86_check_alignment(struct x86_cpu *cpu, uint64_t linear, uint32_t align)
{
    bool in_force = cpu->tlb == cpu->tlb_table[X86_TLB_NONE];
    if (unlikely(in_force) && linear & (align - 1))
        return x86_fault(cpu, X86_AC, 0);
    return X86_OK;
}

/* Checks [linear, linear + size) in all ways before anything is touched. */
static int find_span(struct x86_cpu *cpu, uint64_t linear, uint32_t size, int access,
                     struct mmu_span *span)
{
    uint32_t room = (uint32_t)(PAGE_SIZE - (linear & ~PAGE_MASK));
    struct mmu_part *first = &span->part[0], *second = &span->part[1];
    span->count = 1;
    first->linear = linear;
    first->size = size;
    int status = mmu_find_page(cpu, linear, access, &first->page);
    if (status != X86_OK)
        return status;
    if (unlikely(size > room)) {
        span->count = 2;
        first->size = room;
        second->linear = mmu_next_page(cpu, linear, access);
        second->size = size - room;
        status = mmu_find_page(cpu, second->linear, access, &second->page);
        if (status != X86_OK)
            return status;
    }
    if (access & (X86_SYSTEM | X86_UNALIGNED))
        return X86_OK;
    return x86_check_alignment(cpu, linear, alignment_of(size));
}

static uint8_t *part_host(const struct mmu_part *p)
{
    return p->page.host + (p->linear & ~PAGE_MASK);
}

static uint64_t part_physical(const struct mmu_part *p)
{
    return p->page.physical + (p->linear & ~PAGE_MASK);
}

/* Copies with single host loads and stores where the size has one. */
static void copy_in(void *to, const uint8_t *host, uint32_t size)
{
    uint8_t *out = to;
    for (; size >= 8; size -= 8, host += 8, out += 8)
        store_u64(out, *(const volatile x86_u64 *)(const void *)host);
    if (size & 4) {
        store_u32(out, *(const volatile x86_u32 *)(const void *)host);
        host += 4;
        out += 4;
    }
    if (size & 2) {
        store_u16(out, *(const volatile x86_u16 *)(const void *)host);
        host += 2;
        out += 2;
    }
    if (size & 1)
        *out = *(const volatile uint8_t *)host;
}

static void copy_out(uint8_t *host, const void *from, uint32_t size)
{
    const uint8_t *in = from;
    for (; size >= 8; size -= 8, host += 8, in += 8)
        *(volatile x86_u64 *)(void *)host = load_u64(in);
    if (size & 4) {
        *(volatile x86_u32 *)(void *)host = load_u32(in);
        host += 4;
        in += 4;
    }
    if (size & 2) {
        *(volatile x86_u16 *)(void *)host = load_u16(in);
        host += 2;
        in += 2;
    }
    if (size & 1)
        *(volatile uint8_t *)host = *in;
}

int x86_read_slow(struct x86_cpu *cpu, uint64_t linear, void *buf, uint32_t size, int access)
{
    struct mmu_span span;
    int status = find_span(cpu, linear, size, access, &span);
    if (status != X86_OK)
        return status;
    uint8_t *out = buf;
    for (uint32_t i = 0; i < span.count; i++) {
        const struct mmu_part *p = &span.part[i];
        if (likely(p->page.host != NULL))
            copy_in(out, part_host(p), p->size);
        else
            mmu_io_read(cpu, part_physical(p), out, p->size);
        out += p->size;
    }
    if (unlikely(cpu->dr7 & 0xFF) && !(access & X86_SYSTEM))
        x86_debug_data(cpu, linear, size, false);
    return X86_OK;
}

static bool is_code(const struct mmu_span *span)
{
    return span->part[0].page.code || (span->count == 2 && span->part[1].page.code);
}

static void write_span(struct x86_cpu *cpu, const struct mmu_span *span, const void *buf)
{
    const uint8_t *in = buf;
    for (uint32_t i = 0; i < span->count; i++) {
        const struct mmu_part *p = &span->part[i];
        if (!p->page.host) {
            mmu_io_write(cpu, part_physical(p), in, p->size);
        } else if (p->page.writable) {
            copy_out(part_host(p), in, p->size);
            x86_note_store(cpu, part_host(p));
        } /* else ROM: dropped */
        in += p->size;
    }
}

/* With all vCPUs at rest: the store and what follows from it are one for everybody. */
static int write_code(struct x86_cpu *cpu, uint64_t linear, const void *buf, uint32_t size,
                      int access)
{
    struct vm *vm = cpu->vcpu.vm;
    struct mmu_span span;
    x86_lock_begin(cpu);
    int status = find_span(cpu, linear, size, access | X86_WRITE, &span);
    if (status == X86_OK) {
        write_span(cpu, &span, buf);
        for (uint32_t i = 0; i < span.count; i++)
            if (span.part[i].page.code && vm->code_written)
                vm->code_written(vm, part_host(&span.part[i]), span.part[i].size);
    }
    x86_lock_end(cpu);
    if (status == X86_OK && cpu->dr7 & 0xFF && !(access & X86_SYSTEM))
        x86_debug_data(cpu, linear, size, true);
    return status;
}

int x86_write_slow(struct x86_cpu *cpu, uint64_t linear, const void *buf, uint32_t size, int access)
{
    struct mmu_span span;
    int status = find_span(cpu, linear, size, access | X86_WRITE, &span);
    if (status != X86_OK)
        return status;
    if (unlikely(is_code(&span)))
        return write_code(cpu, linear, buf, size, access);
    write_span(cpu, &span, buf);
    if (unlikely(cpu->dr7 & 0xFF) && !(access & X86_SYSTEM))
        x86_debug_data(cpu, linear, size, true);
    return X86_OK;
}

/* --- host pointers --- */

static bool is_watched(const struct x86_cpu *cpu, uint64_t linear, int access)
{
    unsigned int needed = access & X86_WRITE ? RIGHT_WRITE : RIGHT_READ;
    return cpu->dr7 & 0xFF && watched_rights(cpu, linear) & needed;
}

int x86_mem_host_slow(struct x86_cpu *cpu, uint64_t linear, uint32_t size, int access, void **host)
{
    struct mmu_span span;
    *host = NULL;
    int status = find_span(cpu, linear, size, access, &span);
    if (status != X86_OK)
        return status;
    const struct mmu_part *p = &span.part[0];
    bool reachable = span.count == 1 && p->page.host && !is_watched(cpu, linear, access);
    if (access & X86_WRITE && (!p->page.writable || p->page.code))
        reachable = false;
    if (reachable) {
        *host = part_host(p);
        if (access & X86_WRITE)
            x86_note_store(cpu, *host);
    }
    return X86_OK;
}

int x86_rmw_begin(struct x86_cpu *cpu, uint64_t linear, uint32_t size, bool locked, void **host)
{
    const struct x86_tlb_entry *e = x86_tlb_slot(cpu, linear);
    bool split = locked && (linear & 63) + size > 64;
    if (likely(e->write_tag == x86_tlb_tag(cpu, linear) && !split &&
               (linear & ~PAGE_MASK) + size <= PAGE_SIZE)) {
        *host = (void *)(uintptr_t)(linear + e->addend);
        return X86_OK;
    }
    int status = x86_mem_host_slow(cpu, linear, size, X86_WRITE, host);
    if (split)
        *host = NULL;
    return status;
}

void x86_lock_begin(struct x86_cpu *cpu)
{
    vm_rest_begin(cpu->vcpu.vm, &cpu->vcpu);
    /* While this one waited for its turn another may have changed the memory map. */
    x86_tlb_flush(cpu);
}

void x86_lock_end(struct x86_cpu *cpu)
{
    vm_rest_end(cpu->vcpu.vm, &cpu->vcpu);
}

/* --- translation alone --- */

int x86_translate(struct x86_cpu *cpu, uint64_t linear, int access, struct gpa *physical)
{
    struct mmu_walk w = {.linear = linear};
    unsigned int rights;
    bool keep;
    int status = walk_for_access(cpu, &w, access, &rights, &keep);
    if (status == X86_OK)
        *physical = gpa(w.physical + (linear & ~PAGE_MASK));
    return status;
}

bool x86_translate_peek(const struct x86_cpu *cpu, uint64_t linear, struct gpa *physical)
{
    struct mmu_walk w = {.linear = linear};
    if (!mmu_walk(cpu, &w))
        return false;
    *physical = gpa(w.physical + (linear & ~PAGE_MASK));
    return true;
}
