/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Our own page tables (SDM 3A, 4.5), one set for all CPUs, all of it above the middle; docs/native.md has the map.
 * Nothing is both writable and executable, by no address: where the direct map passes the image's code and constants
 * it is read-only.
 *
 * The direct map holds what the firmware's map calls RAM or ACPI's and nothing else, so that no device is reached
 * with the wrong memory type. Pages are as large as fits.
 *
 * Taking away: an entry that loses its P bit keeps its address, so that paging_collect finds what hung there after
 * all CPUs have forgotten it. Others are asked to by a number that rises (`wanted`) and a kick; each notes the number
 * that it has flushed for. Who waits for them answers meanwhile, so that two who wait for each other both get on.
 *
 * Locking: one spin lock around the tables, above that of frames.c. Lookups are without it: entries are whole words,
 * and tables are freed only after every CPU was flushed.
 */
#include <stdatomic.h>

#include "core/assert.h"
#include "core/mem.h"
#include "engine/hw.h"
#include "isa/x86.h"
#include "native/cpu.h"
#include "native/features.h"
#include "native/frames.h"
#include "native/insn.h"
#include "native/layout.h"
#include "native/memory.h"
#include "native/spin.h"

#define ADDRESS_MASK 0x000FFFFFFFFFF000ull

/* Memory types by PWT and PCD: write-back, write-combining, uncached-, uncached; the upper half the same (SDM 3A,
 * 11.12.4). */
#define PAT_OURS 0x0007010600070106ull

enum { ENTRIES = 512, TOP = 3, COVERS_4K = 12 };

static struct {
    struct spin lock;
    uint64_t *root;
    uint64_t image_at;
} tables;

static _Atomic uint64_t wanted, flushed[HW_CPUS];

extern uint8_t image_start[], image_text_end[], image_constants_end[], image_end[];

/* --- addresses ---------------------------------------------------------------------------------- */

void *hw_virt(uint64_t physical)
{
    return (void *)(physical + LAYOUT_DIRECT);
}

/* How many bits of address an entry of a table of that level covers: 0 is the lowest. */
static uint32_t covers(uint32_t level)
{
    return COVERS_4K + 9 * level;
}

static uint64_t *entry_at(uint64_t *table, uint32_t level, uint64_t virtual)
{
    return &table[virtual >> covers(level) & (ENTRIES - 1)];
}

static uint64_t *table_of(uint64_t entry)
{
    return hw_virt(entry & ADDRESS_MASK);
}

static bool is_leaf(uint64_t entry, uint32_t level)
{
    return level == 0 || (entry & X86_PTE_PS);
}

/* Where `virtual` leads; the size of the page, 0: nowhere. */
static uint64_t lookup(uint64_t virtual, uint64_t *physical)
{
    uint64_t *table = tables.root, e;

    if (!table || (virtual >> 47 != 0 && virtual >> 47 != 0x1FFFF))
        return 0;
    for (uint32_t level = TOP;; level--) {
        uint64_t span = BIT(covers(level));

        e = *(volatile uint64_t *)entry_at(table, level, virtual);
        if (!(e & X86_PTE_P))
            return 0;
        if (is_leaf(e, level)) {
            *physical = (e & ADDRESS_MASK & ~(span - 1)) + (virtual & (span - 1));
            return span;
        }
        table = table_of(e);
    }
}

bool paging_lookup(uint64_t virtual, uint64_t *physical)
{
    return lookup(virtual, physical) != 0;
}

uint64_t hw_phys(const void *p)
{
    uint64_t v = (uint64_t)p, physical = 0;

    if (v >= LAYOUT_IMAGE)
        return v - LAYOUT_IMAGE + tables.image_at;
    if (v >= LAYOUT_DIRECT && v < LAYOUT_WINDOWS)
        return v - LAYOUT_DIRECT;
    if (!paging_lookup(v, &physical))
        panic("the physical address of what is not mapped");
    return physical;
}

/* Where `virtual` leads and how many bytes from there on the same entry covers. */
static uint64_t run_of(uint64_t virtual, uint64_t *physical)
{
    uint64_t span;

    if (virtual >= LAYOUT_IMAGE) {
        *physical = hw_phys((void *)virtual);
        return UINT64_MAX - virtual;
    }
    if (virtual < LAYOUT_WINDOWS && virtual >= LAYOUT_DIRECT) {
        *physical = virtual - LAYOUT_DIRECT;
        return LAYOUT_WINDOWS - virtual;
    }
    span = lookup(virtual, physical);
    if (!span)
        panic("the physical address of what is not mapped");
    return span - (virtual & (span - 1));
}

uint64_t hw_phys_run(const void *p, uint64_t size)
{
    uint64_t first, next, run = run_of((uint64_t)p, &first);

    while (run < size) {
        uint64_t more = run_of((uint64_t)p + run, &next);

        if (next != first + run)
            break;
        run += more;
    }
    return run < size ? run : size;
}

/* --- mapping ------------------------------------------------------------------------------------ */

static uint64_t leaf_bits(uint32_t flags)
{
    uint64_t bits = X86_PTE_P | X86_PTE_A | X86_PTE_D | X86_PTE_G;

    if (flags & PAGING_WRITE)
        bits |= X86_PTE_W;
    if (!(flags & PAGING_EXECUTE))
        bits |= X86_PTE_NX;
    if (flags & PAGING_UNCACHED)
        bits |= X86_PTE_PWT | X86_PTE_PCD;
    if (flags & PAGING_COMBINING)
        bits |= X86_PTE_PWT;
    return bits;
}

/* The entry of that level for `virtual`, with the tables above it made; lower: how far down *level had to go since a
 * table was there already. NULL: no memory. */
static uint64_t *walk_make(uint64_t virtual, uint32_t *level)
{
    uint64_t *table = tables.root, *e;
    uint32_t at = TOP;

    for (;; at--) {
        e = entry_at(table, at, virtual);
        if (at == *level && !(*e & X86_PTE_P))
            return e;
        if (at == 0 || ((*e & X86_PTE_P) && (*e & X86_PTE_PS)))
            panic("mapped twice");
        if (at == *level)
            *level = at - 1;
        if (!(*e & X86_PTE_P)) {
            void *made = frames_alloc(1, FRAME_OWN);

            if (!made)
                return NULL;
            *e = hw_phys(made) | X86_PTE_P | X86_PTE_W;
        }
        table = table_of(*e);
    }
}

/* The largest page that may stand there. */
static uint32_t best_level(uint64_t virtual, uint64_t physical, uint64_t size)
{
    for (uint32_t level = features.pages_1g ? 2 : 1; level > 0; level--) {
        if (((virtual | physical) & (BIT(covers(level)) - 1)) == 0 && size >= BIT(covers(level)))
            return level;
    }
    return 0;
}

static int map_locked(uint64_t virtual, uint64_t physical, uint64_t size, uint32_t flags)
{
    while (size > 0) {
        uint32_t level = best_level(virtual, physical, size);
        uint64_t *e = walk_make(virtual, &level), step = BIT(covers(level));

        if (!e)
            return ERR_NO_MEMORY;
        *e = physical | leaf_bits(flags) | (level > 0 ? X86_PTE_PS : 0);
        virtual += step;
        physical += step;
        size -= step;
    }
    return OK;
}

int paging_map(uint64_t virtual, uint64_t physical, uint64_t size, uint32_t flags)
{
    int err;

    if ((virtual | physical | size) & ~PAGE_MASK || (flags & PAGING_WRITE && flags & PAGING_EXECUTE))
        return ERR_INVALID;
    spin_lock(&tables.lock);
    err = map_locked(virtual, physical, size, flags);
    spin_unlock(&tables.lock);
    return err;
}

/* --- taking away -------------------------------------------------------------------------------- */

static void unmap_level(uint64_t *table, uint32_t level, uint64_t virtual, uint64_t last)
{
    uint64_t span = BIT(covers(level));

    for (;;) {
        uint64_t *e = entry_at(table, level, virtual), end = virtual | (span - 1);

        if (*e & X86_PTE_P) {
            if (is_leaf(*e, level) || ((virtual & (span - 1)) == 0 && end <= last))
                *e &= ~X86_PTE_P;
            else
                unmap_level(table_of(*e), level - 1, virtual, end < last ? end : last);
        }
        if (end >= last)
            return;
        virtual = end + 1;
    }
}

/* Everything below an entry without P that is a table, or a leaf. */
static void collect_all(uint64_t entry, uint32_t level, paging_collect_fn *each)
{
    if (is_leaf(entry, level)) {
        if (each)
            each(entry & ADDRESS_MASK & ~(BIT(covers(level)) - 1), BIT(covers(level)));
        return;
    }
    for (uint32_t i = 0; i < ENTRIES; i++) {
        if (table_of(entry)[i])
            collect_all(table_of(entry)[i], level - 1, each);
    }
    frames_free(table_of(entry), 1);
}

static void collect_level(uint64_t *table, uint32_t level, uint64_t virtual, uint64_t last, paging_collect_fn *each)
{
    uint64_t span = BIT(covers(level));

    for (;;) {
        uint64_t *e = entry_at(table, level, virtual), old = *e, end = virtual | (span - 1);

        if (old & X86_PTE_P) {
            if (!is_leaf(old, level))
                collect_level(table_of(old), level - 1, virtual, end < last ? end : last, each);
        } else if (old) {
            *e = 0;
            collect_all(old, level, each);
        }
        if (end >= last)
            return;
        virtual = end + 1;
    }
}

/* All of this CPU's TLB, global pages, too (SDM 3A, 4.10.4.1). */
void paging_flush(void)
{
    uint64_t cr4 = read_cr4();

    write_cr4(cr4 & ~X86_CR4_PGE);
    write_cr4(cr4 | X86_CR4_PGE);
}

void paging_unmap(uint64_t virtual, uint64_t size)
{
    spin_lock(&tables.lock);
    unmap_level(tables.root, TOP, virtual, virtual + size - 1);
    spin_unlock(&tables.lock);
    paging_flush();
}

void paging_collect(uint64_t virtual, uint64_t size, paging_collect_fn *each)
{
    spin_lock(&tables.lock);
    collect_level(tables.root, TOP, virtual, virtual + size - 1, each);
    spin_unlock(&tables.lock);
}

void paging_catch_up(void)
{
    uint64_t now = atomic_load(&wanted);
    uint32_t cpu = this_cpu()->index;

    if (atomic_load_explicit(&flushed[cpu], memory_order_relaxed) == now)
        return;
    paging_flush();
    atomic_store(&flushed[cpu], now);
}

void paging_flush_others(void)
{
    uint64_t mine = atomic_fetch_add(&wanted, 1) + 1;

    paging_catch_up();
    for (uint32_t i = 0; i < cpu_count; i++) {
        if (i == this_cpu()->index || !cpu_table[i]->online)
            continue;
        cpu_send_ipi(i, VECTOR_KICK);
        while (atomic_load(&flushed[i]) < mine) {
            paging_catch_up();
            cpu_take_interrupts();
            __builtin_ia32_pause(); /* QEMU with -icount changes to the other CPU there, else after 2 s only */
        }
    }
}

/* --- the beginning ------------------------------------------------------------------------------ */

static int map_image(void)
{
    uint64_t start = (uint64_t)image_start, text = (uint64_t)image_text_end;
    uint64_t constants = (uint64_t)image_constants_end, end = (uint64_t)image_end, at = tables.image_at;
    int err = map_locked(start, at, text - start, PAGING_EXECUTE);

    if (err == OK)
        err = map_locked(text, at + (text - start), constants - text, 0);
    if (err == OK)
        err = map_locked(constants, at + (constants - start), end - constants, PAGING_WRITE);
    return err;
}

static int map_direct(uint64_t base, uint64_t end, uint32_t flags)
{
    return base < end ? map_locked(LAYOUT_DIRECT + base, base, end - base, flags) : OK;
}

/* Of a stretch of RAM: what lies before the image's code and constants, these, and the rest. */
static int map_stretch(uint64_t base, uint64_t end)
{
    uint64_t from = tables.image_at, to = from + (uint64_t)(image_constants_end - image_start);
    int err;

    if (end <= from || base >= to)
        return map_direct(base, end, PAGING_WRITE);
    if (base > from || end < to)
        return ERR_INVALID;
    err = map_direct(base, from, PAGING_WRITE);
    if (err == OK)
        err = map_direct(from, to, 0);
    return err == OK ? map_direct(to, end, PAGING_WRITE) : err;
}

static int map_ram(const struct boot_info *b)
{
    uint64_t base = 0, end = 0;
    int err = OK;

    for (uint32_t i = 0; i < b->ranges && err == OK; i++) {
        const struct boot_range *r = &b->range[i];
        uint64_t from = r->base & PAGE_MASK, to = (r->end + PAGE_SIZE - 1) & PAGE_MASK;

        if (r->kind > BOOT_NVS || r->base > LAYOUT_WINDOWS - LAYOUT_DIRECT || to > LAYOUT_WINDOWS - LAYOUT_DIRECT)
            continue;
        if (from > end) { /* a hole before it: the stretch so far ends */
            err = map_stretch(base, end);
            base = from;
        }
        end = to;
    }
    return err == OK ? map_stretch(base, end) : err;
}

int paging_begin(const struct boot_info *b, uint64_t image_at)
{
    int err;

    tables.image_at = image_at;
    tables.root = frames_alloc(1, FRAME_OWN);
    if (!tables.root)
        return ERR_NO_MEMORY;
    err = map_image();
    return err == OK ? map_ram(b) : err;
}

uint64_t paging_root(void)
{
    return hw_phys(tables.root);
}

void paging_cpu_init(void)
{
    uint64_t cr4 = X86_CR4_PAE | X86_CR4_MCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;

    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | X86_EFER_NXE);
    if (features.pat)
        wrmsr(MSR_PAT, PAT_OURS);
    write_cr0(X86_CR0_PG | X86_CR0_WP | X86_CR0_NE | X86_CR0_ET | X86_CR0_MP | X86_CR0_PE);
    write_cr4(cr4);
    write_cr3(paging_root());
    if (features.xsave)
        cr4 |= X86_CR4_OSXSAVE;
    if (features.smep)
        cr4 |= X86_CR4_SMEP;
    if (features.smap)
        cr4 |= X86_CR4_SMAP;
    if (features.umip)
        cr4 |= X86_CR4_UMIP;
    write_cr4(cr4 | X86_CR4_PGE);
}
