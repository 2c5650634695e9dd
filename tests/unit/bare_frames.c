/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The frame allocator (native/frames.c), on physical memory that is a mapping of this program's. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/hw.h"
#include "native/frames.h"
#include "native/memory.h"
#include "tests/lib/unit.h"

enum { MEGABYTES = 32, PAGES = MEGABYTES << 8, BLOCK = 512 };

static uint8_t *memory;
static void *map;

uint64_t hw_phys(const void *p)
{
    return (uint64_t)((const uint8_t *)p - memory);
}

void *hw_virt(uint64_t physical)
{
    return memory + physical;
}

/* 1 MiB that is nobody's, RAM up to 30 MiB + 8 KiB, a hole of a page at 7 MiB. */
static void setup(void)
{
    free(map);
    if (memory)
        munmap(memory, MEGABYTES << 20);
    memory = mmap(NULL, MEGABYTES << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    map = calloc(1, frames_map_size(MEGABYTES << 20));
    frames_begin(MEGABYTES << 20, map);
    frames_add((7 << 20) + 4096, (30 << 20) + 8192);
    frames_add(1 << 20, 7 << 20);
}

static uint64_t free_pages(void)
{
    uint64_t total, bytes;

    frames_count(&total, &bytes);
    CHECK(bytes <= total);
    return bytes / 4096;
}

enum { ALL = (29 << 8) + 2 - 1 };

static void test_counts(void)
{
    uint64_t total, bytes;

    setup();
    frames_count(&total, &bytes);
    CHECK_EQ(total / 4096, ALL);
    CHECK_EQ(bytes, total);
    CHECK_EQ(frames_owner(0), FRAME_NOT_RAM);
    CHECK_EQ(frames_owner(1 << 20), FRAME_FREE);
    CHECK_EQ(frames_owner(7 << 20), FRAME_NOT_RAM);
    CHECK_EQ(frames_owner((30 << 20) + 4096), FRAME_FREE);
    CHECK_EQ(frames_owner((30 << 20) + 8192), FRAME_NOT_RAM);
    CHECK_EQ(frames_owner(1ull << 40), FRAME_NOT_RAM);
}

static void test_rounding(void)
{
    setup();
    frames_begin(MEGABYTES << 20, memset(map, 0, frames_map_size(MEGABYTES << 20)));
    frames_add(0x100800, 0x104800); /* RAM inwards */
    CHECK_EQ(free_pages(), 3);
    frames_reserve(0x101FFF, 0x102001, FRAME_OWN); /* taken outwards */
    CHECK_EQ(free_pages(), 1);
    CHECK_EQ(frames_owner(0x101000), FRAME_OWN);
    CHECK_EQ(frames_owner(0x103000), FRAME_FREE);
}

static void test_zeroed_and_owned(void)
{
    uint8_t *p;

    setup();
    memset(memory, 0xAA, MEGABYTES << 20);
    p = frames_alloc(3, FRAME_GUEST + 5);
    CHECK(p != NULL);
    for (uint32_t i = 0; i < 3 * 4096; i++)
        CHECK(p[i] == 0);
    CHECK(p[3 * 4096] == 0xAA);
    for (uint64_t i = 0; i < 3; i++)
        CHECK_EQ(frames_owner(hw_phys(p) + i * 4096), FRAME_GUEST + 5);
    CHECK_EQ(free_pages(), ALL - 3);
    frames_free(p, 3);
    CHECK_EQ(free_pages(), ALL);
    CHECK_EQ(frames_owner(hw_phys(p)), FRAME_FREE);
    p = frames_alloc(BLOCK, FRAME_OWN);
    CHECK(p && p[0] == 0 && p[(2 << 20) - 1] == 0);
    CHECK(frames_alloc(0, FRAME_OWN) == NULL);
    frames_free(NULL, 1);
}

/* To the first page that is another's, wherever it lies among those that are compared together. */
static void test_owned_run(void)
{
    uint64_t at;

    setup();
    at = frames_alloc_large(FRAME_GUEST + 1);
    CHECK_EQ(at % (2 << 20), 0);
    CHECK_EQ(frames_not_of(FRAME_GUEST + 1, at, 2 << 20) - at, 2 << 20);
    CHECK_EQ(frames_not_of(FRAME_GUEST + 1, at + 4096, 4 << 20) - (at + 4096), (2 << 20) - 4096);
    CHECK_EQ(frames_not_of(FRAME_GUEST + 2, at, 2 << 20) - at, 0);
    for (uint64_t i = 0; i < 12; i++) {
        frames_free(hw_virt(at + i * 4096), 1);
        CHECK_EQ(frames_not_of(FRAME_FREE, at, i * 4096) - at, i * 4096);
        CHECK_EQ(frames_not_of(FRAME_FREE, at, 2 << 20) - at, (i + 1) * 4096);
        CHECK_EQ(frames_not_of(FRAME_GUEST + 1, at + i * 4096, 2 << 20) - (at + i * 4096), 0);
        CHECK_EQ(frames_not_of(FRAME_GUEST + 1, at + (i + 1) * 4096, 2 << 20) - (at + (i + 1) * 4096), (2 << 20) - (i + 1) * 4096);
    }
    CHECK_EQ(frames_not_of(FRAME_NOT_RAM, UINT64_C(1) << 40, 4096) - (UINT64_C(1) << 40), 0);
}

/* All of it in large frames; what is not whole blocks stays for small ones. */
static void test_large(void)
{
    uint64_t at[16], n = 0;

    setup();
    for (;;) {
        uint64_t physical = frames_alloc_large(FRAME_GUEST);

        if (!physical)
            break;
        CHECK_EQ(physical % FRAME_LARGE, 0);
        CHECK_EQ(frames_owner(physical + FRAME_LARGE - 1), FRAME_GUEST);
        at[n++] = physical;
    }
    CHECK_EQ(n, 13); /* 2 to 6 and 8 to 30 MiB */
    CHECK_EQ(free_pages(), ALL - 13 * BLOCK);
    CHECK(frames_alloc(BLOCK, FRAME_OWN) == NULL);
    CHECK(frames_alloc(256, FRAME_OWN) != NULL); /* 6 to 7 MiB, or 1 to 2 */
    for (uint64_t i = 0; i < n; i++)
        frames_free_large(at[i]);
    CHECK(frames_alloc(5 * BLOCK, FRAME_OWN) != NULL);
}

/* Small requests must not break blocks while broken ones have room. */
static void test_few_broken(void)
{
    uint64_t n = 0;

    setup();
    for (uint32_t i = 0; i < 256 + 255; i++) /* what lies in blocks that are broken from the start */
        CHECK(frames_alloc(1, FRAME_OWN) != NULL);
    while (frames_alloc_large(FRAME_GUEST))
        n++;
    CHECK_EQ(n, 13);
}

/* More than a block: in a row, across blocks, and none where they do not follow each other. */
static void test_many_in_a_row(void)
{
    uint8_t *p, *q;

    setup();
    p = frames_alloc(10 * BLOCK + 1, FRAME_OWN);
    CHECK(p != NULL);
    CHECK_EQ(hw_phys(p) % FRAME_LARGE, 0);
    CHECK_EQ(frames_owner(hw_phys(p) + 10ull * FRAME_LARGE), FRAME_OWN);
    CHECK_EQ(frames_owner(hw_phys(p) + 10ull * FRAME_LARGE + 4096), FRAME_FREE);
    CHECK(frames_alloc(10 * BLOCK + 1, FRAME_OWN) == NULL);
    q = frames_alloc(2 * BLOCK, FRAME_OWN);
    CHECK(q != NULL);
    frames_free(p, 10 * BLOCK + 1);
    frames_free(q, 2 * BLOCK);
    CHECK_EQ(free_pages(), ALL);
    CHECK(frames_alloc(12 * BLOCK, FRAME_OWN) == NULL);
}

static void test_modules_come_back(void)
{
    setup();
    frames_reserve(4 << 20, (4 << 20) + 5 * 4096 + 1, FRAME_MODULE);
    frames_reserve((4 << 20) + 4096, (4 << 20) + 8192, FRAME_OWN); /* not free: not changed */
    CHECK_EQ(free_pages(), ALL - 6);
    CHECK_EQ(frames_owner((4 << 20) + 4096), FRAME_MODULE);
    frames_give_back(4 << 20, (4 << 20) + 6 * 4096);
    CHECK_EQ(free_pages(), ALL);
    frames_give_back(0, 1ull << 40); /* nothing of it is a module's */
    CHECK_EQ(free_pages(), ALL);
}

/* Random requests against a model: who has what, nothing twice, all comes back. */
static void test_random(void)
{
    enum { HELD = 200 };
    static uint16_t model[PAGES];
    struct {
        uint8_t *p;
        size_t pages;
    } held[HELD] = {0};
    uint32_t random = 7, made = 0;

    setup();
    memset(model, 0, sizeof(model));
    for (uint32_t round = 0; round < 20000; round++) {
        random = random * 1664525 + 1013904223;
        uint32_t slot = (random >> 8) % HELD, owner = FRAME_GUEST + slot;
        size_t pages = (random >> 16) % 8 ? 1 + (random >> 20) % 9 : 1 + (random >> 20) % 1200;

        if (held[slot].p) {
            for (size_t i = 0; i < held[slot].pages; i++) {
                uint64_t frame = hw_phys(held[slot].p) / 4096 + i;

                CHECK_EQ(model[frame], owner);
                CHECK_EQ(frames_owner(frame * 4096), owner);
                model[frame] = 0;
            }
            frames_free(held[slot].p, held[slot].pages);
            held[slot].p = NULL;
            continue;
        }
        held[slot].p = frames_alloc(pages, owner);
        held[slot].pages = pages;
        made += held[slot].p != NULL;
        for (size_t i = 0; held[slot].p && i < pages; i++) {
            CHECK_EQ(model[hw_phys(held[slot].p) / 4096 + i], 0);
            model[hw_phys(held[slot].p) / 4096 + i] = (uint16_t)owner;
        }
    }
    CHECK(made > 5000);
    for (uint32_t i = 0; i < HELD; i++)
        frames_free(held[i].p, held[i].pages);
    CHECK_EQ(free_pages(), ALL);
    test_large();
}

int main(void)
{
    UNIT_RUN(test_counts);
    UNIT_RUN(test_rounding);
    UNIT_RUN(test_zeroed_and_owned);
    UNIT_RUN(test_owned_run);
    UNIT_RUN(test_large);
    UNIT_RUN(test_few_broken);
    UNIT_RUN(test_many_in_a_row);
    UNIT_RUN(test_modules_come_back);
    UNIT_RUN(test_random);
    return unit_done();
}
