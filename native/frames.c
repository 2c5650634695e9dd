/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Physical memory.
 *
 * Design: memory is cut into blocks of 2 MiB, large frames. A block knows which of its 512 frames are free (a bitmap)
 * and how many; it is on one of two lists, wholly free or partly free, or on none. So a large frame, the first choice
 * of guest RAM, is taken from the head of a list, and small ones come from blocks that are broken already, so that
 * few are broken. More than 512 pages in a row are searched for among wholly free blocks; only start-up asks for
 * that. Beside it stands who owns each frame (16 bits), which the allocator checks and the isolation checker reads.
 *
 * Zeroing: when a frame is handed out, outside of the lock, so whatever its last owner left never reaches the next
 * one.
 *
 * Locking: one spin lock around lists, bitmaps and owners. frames_owner and frames_not_of read aligned words without
 * it.
 */
#include "native/frames.h"

#include "core/assert.h"
#include "core/mem.h"
#include "engine/hw.h"
#include "native/memory.h"
#include "native/spin.h"

enum { PER_BLOCK = FRAME_LARGE >> PAGE_SHIFT, WORDS = PER_BLOCK / 64, NOWHERE = -1, SEARCH = 16 };
/* Owners are written and compared by words where they are many. */
enum { OWNERS = sizeof(uint64_t) / sizeof(uint16_t) };
#define OWNER_EACH UINT64_C(0x0001000100010001)
enum list { LIST_NONE, LIST_SOME, LIST_WHOLE, LISTS };

struct block {
    uint64_t is_free[WORDS];
    int32_t next, prev;
    uint16_t count; /* free ones */
    uint8_t list;
};

static struct {
    struct spin lock;
    uint64_t frames, blocks;
    struct block *block;
    uint16_t *owner;
    int32_t head[LISTS];
    uint64_t total, free_frames;
} all;

static bool bit_get(const struct block *b, uint32_t i)
{
    return b->is_free[i / 64] >> (i % 64) & 1;
}

static void list_move(int32_t index, enum list list)
{
    struct block *b = &all.block[index];

    if (b->list == (uint8_t)list)
        return;
    if (b->list != LIST_NONE) {
        if (b->prev != NOWHERE)
            all.block[b->prev].next = b->next;
        else
            all.head[b->list] = b->next;
        if (b->next != NOWHERE)
            all.block[b->next].prev = b->prev;
    }
    b->list = (uint8_t)list;
    if (list == LIST_NONE)
        return;
    b->prev = NOWHERE;
    b->next = all.head[list];
    if (b->next != NOWHERE)
        all.block[b->next].prev = index;
    all.head[list] = index;
}

static void list_update(int32_t index)
{
    uint32_t count = all.block[index].count;

    list_move(index, count == 0 ? LIST_NONE : count == PER_BLOCK ? LIST_WHOLE : LIST_SOME);
}

/* The same for all frames of a block, all free or none: what guest RAM is made of. */
static void set_owner_whole(int32_t index, uint32_t owner)
{
    struct block *b = &all.block[index];
    uint16_t *o = all.owner + (uint64_t)(uint32_t)index * PER_BLOCK;

    for (uint32_t i = 0; i < PER_BLOCK; i += OWNERS)
        store_u64(o + i, owner * OWNER_EACH);
    memset(b->is_free, owner == FRAME_FREE ? 0xFF : 0, sizeof(b->is_free));
    b->count = owner == FRAME_FREE ? PER_BLOCK : 0;
    all.free_frames += owner == FRAME_FREE ? PER_BLOCK : 0 - (uint64_t)PER_BLOCK;
    list_update(index);
}

/* Frames first .. first + n - 1 of one block become owner's; FRAME_FREE frees them. They are not so already. */
static void set_owner(int32_t index, uint32_t first, uint32_t n, uint32_t owner)
{
    struct block *b = &all.block[index];
    uint16_t *o = all.owner + (uint64_t)(uint32_t)index * PER_BLOCK;

    if (n == PER_BLOCK) {
        set_owner_whole(index, owner);
        return;
    }
    for (uint32_t i = first; i < first + n; i++) {
        o[i] = (uint16_t)owner;
        if (owner == FRAME_FREE)
            b->is_free[i / 64] |= BIT(i % 64);
        else
            b->is_free[i / 64] &= ~BIT(i % 64);
    }
    if (owner == FRAME_FREE) {
        b->count = (uint16_t)(b->count + n);
        all.free_frames += n;
    } else {
        b->count = (uint16_t)(b->count - n);
        all.free_frames -= n;
    }
    list_update(index);
}

/* --- the beginning ------------------------------------------------------------------------------ */

size_t frames_map_size(uint64_t end)
{
    uint64_t blocks = (end + FRAME_LARGE - 1) / FRAME_LARGE;

    return blocks * (sizeof(struct block) + PER_BLOCK * sizeof(uint16_t));
}

void frames_begin(uint64_t end, void *map)
{
    all.blocks = (end + FRAME_LARGE - 1) / FRAME_LARGE;
    all.frames = all.blocks * PER_BLOCK;
    all.block = map;
    all.owner = (uint16_t *)(void *)(all.block + all.blocks);
    all.total = all.free_frames = 0;
    for (uint32_t i = 0; i < LISTS; i++)
        all.head[i] = NOWHERE;
}

/* From the highest block down, so that the lowest ends up at the lists' heads, if ranges come from the highest down,
 * too: see memory.c. */
void frames_add(uint64_t base, uint64_t end)
{
    uint64_t first = (base + PAGE_SIZE - 1) >> PAGE_SHIFT, last = end >> PAGE_SHIFT;

    if (last > all.frames)
        last = all.frames;
    while (last > first) {
        uint64_t from = (last - 1) / PER_BLOCK * PER_BLOCK;

        if (from < first)
            from = first;
        set_owner((int32_t)(from / PER_BLOCK), (uint32_t)(from % PER_BLOCK), (uint32_t)(last - from), FRAME_FREE);
        all.total += last - from;
        last = from;
    }
}

void frames_reserve(uint64_t base, uint64_t end, uint32_t owner)
{
    uint64_t last = (end >> PAGE_SHIFT) + ((end & ~PAGE_MASK) != 0);

    for (uint64_t i = base >> PAGE_SHIFT; i < last && i < all.frames; i++) {
        if (all.owner[i] == FRAME_FREE)
            set_owner((int32_t)(i / PER_BLOCK), (uint32_t)(i % PER_BLOCK), 1, owner);
    }
}

void frames_give_back(uint64_t base, uint64_t end)
{
    spin_lock(&all.lock);
    for (uint64_t i = base >> PAGE_SHIFT; i < end >> PAGE_SHIFT && i < all.frames; i++) {
        if (all.owner[i] == FRAME_MODULE)
            set_owner((int32_t)(i / PER_BLOCK), (uint32_t)(i % PER_BLOCK), 1, FRAME_FREE);
    }
    spin_unlock(&all.lock);
}

/* --- small frames ------------------------------------------------------------------------------- */

/* The first run of n free frames in a block, or PER_BLOCK. */
static uint32_t find_run(const struct block *b, uint32_t n)
{
    uint32_t run = 0;

    if (b->count < n)
        return PER_BLOCK;
    for (uint32_t i = 0; i < PER_BLOCK; i++) {
        if (run == 0 && b->is_free[i / 64] >> (i % 64) == 0) { /* nothing in the rest of this word */
            i |= 63;
            continue;
        }
        if (run == 0)
            i += (uint32_t)__builtin_ctzll(b->is_free[i / 64] >> (i % 64));
        run = bit_get(b, i) ? run + 1 : 0;
        if (run == n)
            return i + 1 - n;
    }
    return PER_BLOCK;
}

/* In a partly free block; looks at `most` of them. */
static int32_t find_some(uint32_t n, uint32_t most, uint32_t *first)
{
    for (int32_t i = all.head[LIST_SOME]; i != NOWHERE && most > 0; i = all.block[i].next, most--) {
        *first = find_run(&all.block[i], n);
        if (*first != PER_BLOCK)
            return i;
    }
    return NOWHERE;
}

static uint64_t alloc_within_block(uint32_t n, uint32_t owner)
{
    uint32_t first = 0;
    int32_t index = find_some(n, SEARCH, &first);

    if (index == NOWHERE) {
        index = all.head[LIST_WHOLE];
        first = 0;
    }
    if (index == NOWHERE)
        index = find_some(n, UINT32_MAX, &first);
    if (index == NOWHERE)
        return 0;
    set_owner(index, first, n, owner);
    return ((uint64_t)(uint32_t)index * PER_BLOCK + first) << PAGE_SHIFT;
}

/* More than a block's worth: wholly free blocks that follow each other. */
static uint64_t alloc_blocks(uint64_t n, uint32_t owner)
{
    uint64_t wanted = (n + PER_BLOCK - 1) / PER_BLOCK, run = 0, first;

    for (uint64_t i = 0; i < all.blocks; i++) {
        run = all.block[i].count == PER_BLOCK ? run + 1 : 0;
        if (run < wanted)
            continue;
        first = i + 1 - wanted;
        for (uint64_t k = 0; k < wanted; k++) {
            uint64_t left = n - k * PER_BLOCK;

            set_owner((int32_t)(first + k), 0, left < PER_BLOCK ? (uint32_t)left : PER_BLOCK, owner);
        }
        return first * FRAME_LARGE;
    }
    return 0;
}

void *frames_alloc(size_t pages, uint32_t owner)
{
    uint64_t physical = 0;
    void *p;

    assert(owner != FRAME_FREE && owner != FRAME_NOT_RAM && owner <= UINT16_MAX);
    spin_lock(&all.lock);
    if (pages != 0 && pages <= all.free_frames)
        physical = pages <= PER_BLOCK ? alloc_within_block((uint32_t)pages, owner) : alloc_blocks(pages, owner);
    spin_unlock(&all.lock);
    if (!physical)
        return NULL;
    p = hw_virt(physical);
    memset(p, 0, pages << PAGE_SHIFT);
    return p;
}

/* Frames i .. i + n - 1, which somebody owns, are free again. */
static void give_back(uint64_t i, uint64_t n)
{
    spin_lock(&all.lock);
    if (i >= all.frames || n > all.frames - i)
        panic("frames freed that are not there");
    for (uint64_t end = i + n; i < end;) {
        uint64_t stop = (i / PER_BLOCK + 1) * PER_BLOCK;

        if (stop > end)
            stop = end;
        for (uint64_t k = i; k < stop; k++) {
            if (all.owner[k] == FRAME_FREE || all.owner[k] == FRAME_NOT_RAM)
                panic("a frame freed that nobody owns");
        }
        set_owner((int32_t)(i / PER_BLOCK), (uint32_t)(i % PER_BLOCK), (uint32_t)(stop - i), FRAME_FREE);
        i = stop;
    }
    spin_unlock(&all.lock);
}

void frames_free(void *p, size_t pages)
{
    if (p)
        give_back(hw_phys(p) >> PAGE_SHIFT, pages);
}

/* --- large frames ------------------------------------------------------------------------------- */

uint64_t frames_alloc_large(uint32_t owner)
{
    int32_t index;
    uint64_t physical;

    assert(owner != FRAME_FREE && owner != FRAME_NOT_RAM && owner <= UINT16_MAX);
    spin_lock(&all.lock);
    index = all.head[LIST_WHOLE];
    if (index != NOWHERE)
        set_owner(index, 0, PER_BLOCK, owner);
    spin_unlock(&all.lock);
    if (index == NOWHERE)
        return 0;
    physical = (uint64_t)(uint32_t)index * FRAME_LARGE;
    memset(hw_virt(physical), 0, FRAME_LARGE);
    return physical;
}

void frames_free_large(uint64_t physical)
{
    give_back(physical >> PAGE_SHIFT, PER_BLOCK);
}

/* --- questions ---------------------------------------------------------------------------------- */

uint32_t frames_owner(uint64_t physical)
{
    uint64_t i = physical >> PAGE_SHIFT;

    return i < all.frames ? all.owner[i] : (uint32_t)FRAME_NOT_RAM;
}

uint64_t frames_not_of(uint32_t owner, uint64_t physical, uint64_t size)
{
    uint64_t i = physical >> PAGE_SHIFT, end = (physical + size) >> PAGE_SHIFT;

    if (end > all.frames)
        end = all.frames;
    while (i + OWNERS <= end && load_u64(all.owner + i) == owner * OWNER_EACH)
        i += OWNERS;
    while (i < end && all.owner[i] == owner)
        i++;
    return i << PAGE_SHIFT;
}

void frames_count(uint64_t *total, uint64_t *free_bytes)
{
    spin_lock(&all.lock);
    *total = all.total << PAGE_SHIFT;
    *free_bytes = all.free_frames << PAGE_SHIFT;
    spin_unlock(&all.lock);
}
