/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Address space that is given out piece by piece: windows (a VM's RAM, in a row as we see it) and devices' memory.
 *
 * Windows: a table of pieces in order of address, first fit, each on a 2-MiB boundary and followed by 2 MiB of
 * nothing, which ends a runaway copy. Devices are mapped for ever; a request that lies in an earlier one gets the
 * same.
 *
 * Locking: a spin lock for both tables; it is above those of paging.c and frames.c and not held while mapping
 * windows.
 */
#include "core/assert.h"
#include "core/mem.h"
#include "engine/hw.h"
#include "native/cpu.h"
#include "native/frames.h"
#include "native/layout.h"
#include "native/memory.h"
#include "native/spin.h"

enum { WINDOWS = 512, DEVICES = 128 };

struct piece {
    uint64_t base, size;
};

static struct {
    struct spin lock;
    uint32_t windows;
    struct piece window[WINDOWS]; /* sorted */
    uint32_t devices;
    struct {
        uint64_t virtual, physical, size;
        bool combining;
    } device[DEVICES];
    uint64_t next_device;
} space = {.next_device = LAYOUT_DEVICES};

/* --- windows ------------------------------------------------------------------------------------ */

static uint64_t window_room(uint64_t size)
{
    return ((size + FRAME_LARGE - 1) & ~(uint64_t)(FRAME_LARGE - 1)) + FRAME_LARGE;
}

/* Address space for size bytes; 0: none. */
static uint64_t take_window(uint64_t size)
{
    uint64_t at = LAYOUT_WINDOWS, room = window_room(size);
    uint32_t i = 0;

    spin_lock(&space.lock);
    while (i < space.windows && space.window[i].base - at < room) {
        at = space.window[i].base + window_room(space.window[i].size);
        i++;
    }
    if (space.windows == WINDOWS || LAYOUT_DEVICES - at < room) {
        at = 0;
    } else {
        memmove(&space.window[i + 1], &space.window[i], (space.windows - i) * sizeof(space.window[0]));
        space.window[i] = (struct piece){at, size};
        space.windows++;
    }
    spin_unlock(&space.lock);
    return at;
}

static void give_window(uint64_t base, uint64_t size)
{
    uint32_t i = 0;

    spin_lock(&space.lock);
    while (i < space.windows && space.window[i].base != base)
        i++;
    if (i == space.windows || space.window[i].size != size)
        panic("a window freed that is not there");
    space.windows--;
    memmove(&space.window[i], &space.window[i + 1], (space.windows - i) * sizeof(space.window[0]));
    spin_unlock(&space.lock);
}

/* One step of filling: a large frame if there is one and room, else a small one. How much, 0: no memory. */
static uint64_t fill_one(uint64_t at, uint64_t left, uint32_t owner, bool *large)
{
    uint64_t physical = 0, size = FRAME_LARGE;
    void *p;

    if (*large && left >= FRAME_LARGE)
        physical = frames_alloc_large(owner);
    if (!physical) {
        *large = *large && left < FRAME_LARGE;
        size = PAGE_SIZE;
        p = frames_alloc(1, owner);
        if (!p)
            return 0;
        physical = hw_phys(p);
    }
    if (paging_map(at, physical, size, PAGING_WRITE) == OK)
        return size;
    frames_free(hw_virt(physical), size >> PAGE_SHIFT);
    return 0;
}

static void free_frames(uint64_t physical, uint64_t size)
{
    frames_free(hw_virt(physical), size >> PAGE_SHIFT);
}

int window_alloc(uint64_t size, uint32_t owner, void **base)
{
    uint64_t whole = (size + PAGE_SIZE - 1) & PAGE_MASK, at, step;
    bool large = true;

    if (size == 0 || size > LAYOUT_DEVICES - LAYOUT_WINDOWS)
        return ERR_INVALID;
    at = take_window(whole);
    if (!at)
        return ERR_NO_MEMORY;
    for (uint64_t done = 0; done < whole; done += step) {
        step = fill_one(at + done, whole - done, owner, &large);
        hw_preempt_point(); /* zeroing gigabytes takes long */
        if (!step) {
            window_free((void *)at, whole);
            return ERR_NO_MEMORY;
        }
    }
    *base = (void *)at;
    return OK;
}

void window_free(void *base, uint64_t size)
{
    uint64_t at = (uint64_t)base, whole = (size + PAGE_SIZE - 1) & PAGE_MASK;

    if (!base)
        return;
    paging_unmap(at, whole);
    paging_flush_others();
    paging_collect(at, whole, free_frames);
    give_window(at, whole);
}

/* --- devices ------------------------------------------------------------------------------------ */

static uint64_t find_device(uint64_t physical, uint64_t size, bool combining)
{
    for (uint32_t i = 0; i < space.devices; i++) {
        uint64_t offset = physical - space.device[i].physical;

        if (space.device[i].combining == combining && offset < space.device[i].size &&
            size <= space.device[i].size - offset)
            return space.device[i].virtual + offset;
    }
    return 0;
}

static uint64_t map_new_device(uint64_t first, uint64_t size, bool combining)
{
    uint64_t at = space.next_device;
    uint32_t flags = PAGING_WRITE | (combining ? PAGING_COMBINING : PAGING_UNCACHED);

    /* Offset within 2 MiB as in physical memory, for large pages; a page of nothing between two. */
    at = (at & ~(uint64_t)(FRAME_LARGE - 1)) + (first & (FRAME_LARGE - 1));
    if (at < space.next_device)
        at += FRAME_LARGE;
    if (space.devices == DEVICES || size > LAYOUT_STACKS - at || paging_map(at, first, size, flags) != OK)
        return 0;
    space.next_device = at + size + PAGE_SIZE;
    space.device[space.devices].virtual = at;
    space.device[space.devices].physical = first;
    space.device[space.devices].size = size;
    space.device[space.devices++].combining = combining;
    return at;
}

void *map_device(uint64_t physical, size_t size, bool write_combining)
{
    uint64_t first = physical & PAGE_MASK, last = physical + size - 1, at;

    if (size == 0 || last < physical || last >= BIT(52))
        return NULL;
    spin_lock(&space.lock);
    at = find_device(physical, size, write_combining);
    if (!at) {
        at = map_new_device(first, (last | ~PAGE_MASK) + 1 - first, write_combining);
        at = at ? at + (physical - first) : 0;
    }
    spin_unlock(&space.lock);
    return (void *)at;
}
