/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Nested page tables, in two formats that differ by a few bits (struct nested_format).
 *
 * They are built from runs: the home says how far the host's pages of a slot follow each other physically, and
 * such a run is mapped by the largest pages for which guest-physical and physical address are aligned alike. So
 * what does not follow physically is never mapped as if it did.
 *
 * AMD's walk takes each access for a user's (APM 2, 15.25.5), hence U in every entry; A and D are set beforehand,
 * which spares the processor writing to tables. Intel's leaves say write-back (SDM 3C, 28.3.7.2), and the guest's
 * PAT decides between that and less, as on AMD's.
 *
 * Locking: the home's around each change, for its checker (hw_nested_begin). Built before the guest runs, changed only
 * with the VM at rest.
 */
#include "engine/nested.h"

#include "engine/hw.h"

enum { LEVELS = 4, ENTRIES = 512, INDEX_BITS = 9 };

#define ADDRESS_MASK UINT64_C(0x000FFFFFFFFFF000)
#define GUEST_END    BIT(PAGE_SHIFT + LEVELS * INDEX_BITS)
#define PAGE_LARGE   BIT(7) /* the same bit in both formats */

/* P, W, U; A, D; PS (APM 2, 5.4). */
const struct nested_format nested_amd = {
    .table = 0x07,
    .leaf = 0x65,
    .large = PAGE_LARGE,
    .write = 0x02,
    .present = 0x01,
};

/* Read, write, execute; memory type 6: write-back (SDM 3C, tables 28-1 to 28-6). */
const struct nested_format nested_ept = {
    .table = 0x07,
    .leaf = 0x05 | 6 << 3,
    .large = PAGE_LARGE,
    .write = 0x02,
    .present = 0x07,
};

/* Bytes that an entry of that level maps; level 1 has pages of 4 KiB. */
static uint64_t size_at(unsigned int level)
{
    return PAGE_SIZE << (level - 1) * INDEX_BITS;
}

static uint32_t index_at(uint64_t gpa, unsigned int level)
{
    return (uint32_t)(gpa >> (PAGE_SHIFT + (level - 1) * INDEX_BITS)) & (ENTRIES - 1);
}

static bool is_leaf(uint64_t entry, unsigned int level)
{
    return level == 1 || entry & PAGE_LARGE;
}

static uint64_t *table_of(uint64_t entry)
{
    return hw_virt(entry & ADDRESS_MASK);
}

static uint64_t *make_table(struct nested *n)
{
    uint64_t *t = seam_pages_alloc(1);

    if (t)
        n->tables++;
    return t;
}

/* The entry of that level for the address, its tables made on the way; NULL: no memory. */
static uint64_t *find_entry(struct nested *n, uint64_t gpa, unsigned int level)
{
    uint64_t *entry = &n->root[index_at(gpa, LEVELS)];

    for (unsigned int at = LEVELS; at > level; at--) {
        if (!(*entry & n->format->present)) {
            uint64_t *t = make_table(n);

            if (!t)
                return NULL;
            *entry = hw_phys(t) | n->format->table;
        }
        entry = &table_of(*entry)[index_at(gpa, at - 1)];
    }
    return entry;
}

/* The level of the largest page that may begin a run of `size` bytes. */
static unsigned int largest(const struct nested *n, uint64_t gpa, uint64_t physical, uint64_t size)
{
    unsigned int level = n->gib_pages ? 3 : 2;

    while (level > 1 && (size < size_at(level) || (gpa | physical) & (size_at(level) - 1)))
        level--;
    return level;
}

/* [gpa, gpa + size) to physical memory that is one piece. */
static int map_run(struct nested *n, uint64_t gpa, uint64_t physical, uint64_t size, bool writable)
{
    const struct nested_format *f = n->format;

    while (size > 0) {
        unsigned int level = largest(n, gpa, physical, size);
        uint64_t *entry = find_entry(n, gpa, level);

        if (!entry)
            return ERR_NO_MEMORY;
        *entry = physical | f->leaf | (level > 1 ? f->large : 0) | (writable ? f->write : 0);
        gpa += size_at(level);
        physical += size_at(level);
        size -= size_at(level);
    }
    return OK;
}

static int map_slot(struct nested *n, const struct guest_mem_slot *s)
{
    uint64_t done = 0;
    int err = OK;

    if (s->base >= GUEST_END || s->size > GUEST_END - s->base)
        return ERR_RANGE;
    while (done < s->size && err == OK) {
        uint64_t run = hw_phys_run(s->host + done, s->size - done);

        err = map_run(n, s->base + done, hw_phys(s->host + done), run, s->writable);
        done += run;
    }
    return err;
}

static void free_table(struct nested *n, uint64_t *table, unsigned int level);

static void free_all(struct nested *n)
{
    if (n->root)
        free_table(n, n->root, LEVELS);
    n->root = NULL;
}

static int map_all(struct nested *n, const struct guest_mem *m)
{
    int err = OK;

    n->root = make_table(n);
    if (!n->root)
        return ERR_NO_MEMORY;
    for (uint32_t i = 0; i < m->count && err == OK; i++)
        err = map_slot(n, &m->slot[i]);
    if (err != OK)
        free_all(n);
    return err;
}

int nested_create(struct nested *n, const struct nested_format *format, bool gib_pages, const struct guest_mem *m)
{
    int err;

    *n = (struct nested){.format = format, .gib_pages = gib_pages, .mem = m};
    hw_nested_begin();
    err = map_all(n, m);
    hw_nested_end(n, m);
    return err;
}

int nested_rebuild(struct nested *n, const struct guest_mem *m)
{
    struct nested anew = {.format = n->format, .gib_pages = n->gib_pages, .mem = m};
    int err;

    hw_nested_begin();
    err = map_all(&anew, m);
    if (err == OK) {
        free_all(n);
        *n = anew;
    }
    hw_nested_end(n, m);
    return err;
}

uint64_t nested_root(const struct nested *n)
{
    return hw_phys(n->root);
}

/* --- all of it: walking, freeing ------------------------------------------------------------------ */

static void walk_table(const struct nested *n, const uint64_t *table, unsigned int level, uint64_t gpa,
                       nested_visit *visit, void *owner)
{
    if (!visit(owner, gpa, hw_phys(table), PAGE_SIZE, false, false))
        return;
    for (uint32_t i = 0; i < ENTRIES; i++, gpa += size_at(level)) {
        uint64_t entry = table[i];

        if (!(entry & n->format->present))
            continue;
        if (is_leaf(entry, level))
            (void)visit(owner, gpa, entry & ADDRESS_MASK, size_at(level), true, (entry & n->format->write) != 0);
        else
            walk_table(n, table_of(entry), level - 1, gpa, visit, owner);
    }
}

void nested_walk(const struct nested *n, nested_visit *visit, void *owner)
{
    if (n->root)
        walk_table(n, n->root, LEVELS, 0, visit, owner);
}

static void free_table(struct nested *n, uint64_t *table, unsigned int level)
{
    for (uint32_t i = 0; i < ENTRIES; i++) {
        if (table[i] & n->format->present && !is_leaf(table[i], level))
            free_table(n, table_of(table[i]), level - 1);
    }
    seam_pages_free(table, 1);
    n->tables--;
}

void nested_destroy(struct nested *n)
{
    if (!n->root)
        return;
    hw_nested_begin();
    free_all(n);
    hw_nested_end(n, n->mem);
}
