/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Nested page tables: that they map all of a VM's memory slots where they are and nothing else, with the largest
 * pages that fit; that running out of memory leaves nothing behind. Physical addresses are made up here: those of
 * slots by a table of pieces, those of tables from a pool.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/hw.h"
#include "engine/nested.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/unit.h"

/* --- the home's side: RAM in pieces, from PIECES_AT on in our address space, and tables as they are --------------- */

#define PIECES_AT UINT64_C(0x7000000000000000)

static struct piece { /* of RAM as the host sees it, in a row */
    uint64_t size, physical;
} pieces[4];

static struct piece *piece_of(uint64_t *offset)
{
    for (unsigned int i = 0; i < 4; i++) {
        if (*offset < pieces[i].size)
            return &pieces[i];
        *offset -= pieces[i].size;
    }
    abort();
}

uint64_t hw_phys(const void *p)
{
    uint64_t offset = (uint64_t)(uintptr_t)p - PIECES_AT;

    if ((uint64_t)(uintptr_t)p < PIECES_AT)
        return (uint64_t)(uintptr_t)p; /* a table */
    return piece_of(&offset)->physical + offset;
}

void *hw_virt(uint64_t physical)
{
    return (void *)(uintptr_t)physical;
}

uint64_t hw_phys_run(const void *p, uint64_t size)
{
    uint64_t offset = (uint64_t)(uintptr_t)p - PIECES_AT;
    uint64_t run = piece_of(&offset)->size - offset;

    return run < size ? run : size;
}

/* What the home's checker is told. */
static struct told {
    bool inside;
    unsigned int changes;
    bool has_tables; /* after the last change */
    const struct guest_mem *mem;
} told;

void hw_nested_begin(void)
{
    CHECK(!told.inside);
    told.inside = true;
}

void hw_nested_end(const struct nested *n, const struct guest_mem *m)
{
    CHECK(told.inside);
    told.inside = false;
    told.changes++;
    told.has_tables = n->root != NULL;
    told.mem = m;
}

/* --- what the tables say ------------------------------------------------------------------------------------------ */

struct seen {
    uint32_t leaves[3], tables; /* of 4 KiB, 2 MiB, 1 GiB */
    uint64_t bytes, writable;
    bool bad;
    uint64_t expect_at, expect_to; /* that gpa leads there, if it is looked for */
    bool found;
    uint32_t stop_at; /* this table is not looked into; 0: all are */
};

static bool visit(void *owner, uint64_t gpa, uint64_t physical, uint64_t size, bool leaf, bool writable)
{
    struct seen *s = owner;

    if (!leaf) {
        s->tables++;
        return s->tables != s->stop_at;
    }
    s->leaves[size == KIB(4) ? 0 : size == MIB(2) ? 1 : 2]++;
    s->bytes += size;
    s->writable += writable ? size : 0;
    s->bad |= ((gpa | physical) & (size - 1)) != 0;
    if (s->expect_at - gpa < size)
        s->found = physical + (s->expect_at - gpa) == s->expect_to;
    return true;
}

static struct seen look(const struct nested *n, uint64_t at, uint64_t to)
{
    struct seen s = {.expect_at = at, .expect_to = to};

    nested_walk(n, visit, &s);
    return s;
}

static struct guest_mem mem;

static void set_up(void)
{
    memset(&mem, 0, sizeof(mem));
    memset(pieces, 0, sizeof(pieces));
}

static void add(uint64_t base, uint64_t size, uint64_t offset, bool writable)
{
    CHECK_EQ(guest_mem_add(&mem, gpa(base), size, (void *)(uintptr_t)(PIECES_AT + offset), writable), OK);
}

/* --- tests -------------------------------------------------------------------------------------------------------- */

static void test_large_pages(void)
{
    struct nested n;
    struct seen s;

    set_up();
    pieces[0] = (struct piece){GIB(3), GIB(5)};
    add(0, GIB(1) + MIB(4) + KIB(8), 0, true);
    CHECK_EQ(nested_create(&n, &nested_amd, true, &mem), OK);
    s = look(&n, GIB(1) + MIB(4) + KIB(4) + 5, GIB(6) + MIB(4) + KIB(4) + 5);
    CHECK(!s.bad && s.found);
    CHECK_EQ(s.leaves[2], 1);
    CHECK_EQ(s.leaves[1], 2);
    CHECK_EQ(s.leaves[0], 2);
    CHECK_EQ(s.bytes, GIB(1) + MIB(4) + KIB(8));
    CHECK_EQ(s.tables, n.tables);
    nested_destroy(&n);

    CHECK_EQ(nested_create(&n, &nested_ept, false, &mem), OK);
    s = look(&n, MIB(700), GIB(5) + MIB(700));
    CHECK(!s.bad && s.found);
    CHECK_EQ(s.leaves[2], 0);
    CHECK_EQ(s.leaves[1], 514);
    nested_destroy(&n);
}

/* What does not follow physically is not mapped as if it did, wherever the border is. */
static void test_pieces(void)
{
    struct nested n;
    struct seen s;

    set_up();
    pieces[0] = (struct piece){MIB(2) + KIB(12), MIB(100)};
    pieces[1] = (struct piece){MIB(2) - KIB(12), MIB(300) + KIB(4)};
    pieces[2] = (struct piece){MIB(4), MIB(500)};
    add(0, MIB(8), 0, true);
    CHECK_EQ(nested_create(&n, &nested_amd, true, &mem), OK);
    s = look(&n, MIB(2) + KIB(8), MIB(102) + KIB(8));
    CHECK(!s.bad && s.found);
    CHECK_EQ(s.leaves[1], 3);
    CHECK_EQ(s.leaves[0], 512);
    CHECK(look(&n, MIB(2) + KIB(12), MIB(300) + KIB(4)).found);
    CHECK(look(&n, MIB(4) - 1, MIB(302) - KIB(8) - 1).found);
    CHECK(look(&n, MIB(4), MIB(500)).found);
    CHECK(look(&n, MIB(8) - 1, MIB(504) - 1).found);
    nested_destroy(&n);
}

static void test_rom_and_holes(void)
{
    struct nested n;
    struct seen s;

    set_up();
    pieces[0] = (struct piece){MIB(16), MIB(64)};
    add(0, MIB(4), 0, true);
    add(GIB(4) - MIB(2), MIB(2), MIB(4), false);
    add(GIB(4), MIB(4), MIB(8), true);
    CHECK_EQ(nested_create(&n, &nested_amd, true, &mem), OK);
    s = look(&n, GIB(4) - MIB(1), MIB(69));
    CHECK(s.found);
    CHECK_EQ(s.bytes, MIB(10));
    CHECK_EQ(s.writable, MIB(8));
    CHECK(!look(&n, MIB(4), MIB(68)).found);
    CHECK(!look(&n, GIB(4) + MIB(4), MIB(76)).found);

    mem.count--; /* the last slot goes */
    CHECK_EQ(nested_rebuild(&n, &mem), OK);
    CHECK_EQ(look(&n, 0, 0).bytes, MIB(6));
    nested_destroy(&n);
    CHECK_EQ(n.tables, 0);
}

/* The bits, by the manuals: P W U A D PS; and R W X, write-back, PS. */
static void test_formats(void)
{
    struct nested n;

    set_up();
    pieces[0] = (struct piece){GIB(2), GIB(1)};
    add(0, GIB(1), 0, true);
    add(GIB(1), GIB(1), GIB(1), false);
    CHECK_EQ(nested_create(&n, &nested_amd, true, &mem), OK);
    CHECK_EQ(n.root[0] & 0xFFF, 0x07);
    CHECK_EQ(((uint64_t *)hw_virt(n.root[0] & ~UINT64_C(0xFFF)))[0], GIB(1) | 0xE7);
    CHECK_EQ(((uint64_t *)hw_virt(n.root[0] & ~UINT64_C(0xFFF)))[1], GIB(2) | 0xE5);
    CHECK_EQ(nested_root(&n), hw_phys(n.root));
    nested_destroy(&n);
    CHECK_EQ(nested_create(&n, &nested_ept, true, &mem), OK);
    CHECK_EQ(n.root[0] & 0xFFF, 0x07);
    CHECK_EQ(((uint64_t *)hw_virt(n.root[0] & ~UINT64_C(0xFFF)))[0], GIB(1) | 0xB7);
    CHECK_EQ(((uint64_t *)hw_virt(n.root[0] & ~UINT64_C(0xFFF)))[1], GIB(2) | 0xB5);
    nested_destroy(&n);
}

/* Each allocation fails in turn. (The sanitizer finds what is left behind.) */
static void test_no_memory(void)
{
    struct nested n, before;
    uint32_t tables;

    set_up();
    pieces[0] = (struct piece){MIB(8), KIB(4)}; /* aligned alike for small pages only */
    add(GIB(1), MIB(8), 0, true);
    CHECK_EQ(nested_create(&n, &nested_amd, true, &mem), OK);
    tables = n.tables;
    CHECK_EQ(tables, 7);
    before = n;
    for (uint32_t fail = 0; fail < tables; fail++) {
        fake_seam_fail_allocation(fail + 1);
        CHECK_EQ(nested_rebuild(&n, &mem), ERR_NO_MEMORY);
        CHECK(memcmp(&n, &before, sizeof(n)) == 0);
    }
    fake_seam_fail_allocation(0);
    CHECK_EQ(fake_seam_allocations(), tables);
    CHECK_EQ(look(&n, 0, 0).bytes, MIB(8));
    nested_destroy(&n);
    CHECK(!n.root);

    mem.slot[0].base = BIT(48) - MIB(4);
    CHECK_EQ(nested_create(&n, &nested_amd, true, &mem), ERR_RANGE);
    CHECK(!n.root);
}

/* The checker hears of every change, when it is whole; and whoever walks may leave a table out. */
static void test_checker(void)
{
    struct nested n;
    struct seen s = {.stop_at = 3};

    set_up();
    memset(&told, 0, sizeof(told));
    pieces[0] = (struct piece){MIB(4), MIB(8)};
    add(0, MIB(4), 0, true);
    CHECK_EQ(nested_create(&n, &nested_amd, true, &mem), OK);
    CHECK(told.changes == 1 && told.has_tables && told.mem == &mem);
    nested_walk(&n, visit, &s);
    CHECK(s.tables == 3 && s.bytes == 0);
    CHECK_EQ(nested_rebuild(&n, &mem), OK);
    CHECK(told.changes == 2 && told.has_tables);
    fake_seam_fail_allocation(1);
    CHECK_EQ(nested_rebuild(&n, &mem), ERR_NO_MEMORY);
    CHECK(told.changes == 3 && told.has_tables);
    fake_seam_fail_allocation(0);
    nested_destroy(&n);
    CHECK(told.changes == 4 && !told.has_tables && told.mem == &mem);
    nested_destroy(&n); /* nothing is left to tell of */
    CHECK_EQ(told.changes, 4);
    fake_seam_fail_allocation(2);
    CHECK_EQ(nested_create(&n, &nested_amd, true, &mem), ERR_NO_MEMORY);
    CHECK(told.changes == 5 && !told.has_tables);
    fake_seam_fail_allocation(0);
}

int main(void)
{
    UNIT_RUN(test_large_pages);
    UNIT_RUN(test_pieces);
    UNIT_RUN(test_rom_and_holes);
    UNIT_RUN(test_formats);
    UNIT_RUN(test_no_memory);
    UNIT_RUN(test_checker);
    return unit_done();
}
