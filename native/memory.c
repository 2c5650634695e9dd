/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Memory at start-up, in order: a place for the frame allocator's own map, then the allocator with all RAM that
 * nobody has, then our page tables, then they are in force.
 *
 * Never handed out: what lies below 1 MiB (firmware's habits, and the page that CPUs start in), the image, the
 * modules until they are given back. The boot information was copied before and is free. Until our tables are in
 * force only the lower 4 GiB are mapped: the map must lie there, and the allocator gives its lowest frames first.
 */
#include "core/fmt.h"
#include "core/mem.h"
#include "engine/hw.h"
#include "native/features.h"
#include "native/frames.h"
#include "native/layout.h"
#include "native/memory.h"

enum { LOW_END = 1 << 20, START_LIMIT = 0x9F000 };

static uint64_t start_page;
static const struct boot_info *info;

extern uint8_t image_start[], image_end[];

static uint64_t image_size(void)
{
    return (uint64_t)(image_end - image_start);
}

/* Where RAM ends that we can use. */
static uint64_t ram_end(const struct boot_info *b)
{
    uint64_t end = 0, most = LAYOUT_WINDOWS - LAYOUT_DIRECT;

    if (features.physical_bits < 46 && BIT(features.physical_bits) < most)
        most = BIT(features.physical_bits);
    for (uint32_t i = 0; i < b->ranges; i++) {
        if (b->range[i].kind == BOOT_RAM && b->range[i].end > end)
            end = b->range[i].end;
    }
    return end < most ? end : most;
}

/* The first place in RAM at or above `low`, below `high`, that touches neither image nor module; 0: none. Steps over
 * what is in the way, each at most once. */
static uint64_t find_place(const struct boot_info *b, uint64_t image_at, uint64_t size, uint64_t low, uint64_t high)
{
    for (uint32_t i = 0; i < b->ranges; i++) {
        uint64_t at = b->range[i].base > low ? b->range[i].base : low;
        uint64_t end = b->range[i].end < high ? b->range[i].end : high;

        if (b->range[i].kind != BOOT_RAM)
            continue;
        while (at < end && end - at >= size) {
            const struct boot_module *m = boot_info_module_in(b, at, size);

            if (m)
                at = (m->base + m->size + PAGE_SIZE - 1) & PAGE_MASK;
            else if (at < image_at + image_size() && image_at < at + size)
                at = (image_at + image_size() + PAGE_SIZE - 1) & PAGE_MASK;
            else
                return at;
        }
    }
    return 0;
}

static int begin_frames(const struct boot_info *b, uint64_t image_at)
{
    uint64_t end = ram_end(b), size = (frames_map_size(end) + PAGE_SIZE - 1) & PAGE_MASK;
    uint64_t map = find_place(b, image_at, size, LOW_END, LAYOUT_EARLY_MAX);

    if (!map)
        return ERR_NO_MEMORY;
    memset(hw_virt(map), 0, size);
    frames_begin(end, hw_virt(map));
    for (uint32_t i = b->ranges; i > 0; i--) { /* downwards: frames.c */
        if (b->range[i - 1].kind == BOOT_RAM)
            frames_add(b->range[i - 1].base, b->range[i - 1].end);
    }
    frames_reserve(0, LOW_END, FRAME_OWN);
    frames_reserve(map, map + size, FRAME_OWN);
    frames_reserve(image_at, image_at + image_size(), FRAME_OWN);
    for (uint32_t i = 0; i < b->modules; i++)
        frames_reserve(b->module[i].base, b->module[i].base + b->module[i].size, FRAME_MODULE);
    return OK;
}

int memory_init(const struct boot_info *b, uint64_t image_at, char *message, size_t message_size)
{
    info = b;
    start_page = find_place(b, image_at, PAGE_SIZE, PAGE_SIZE, START_LIMIT);
    if (begin_frames(b, image_at) != OK) {
        fmt(message, message_size, "no %llu KiB below 4 GiB for the frame allocator's map",
            (unsigned long long)(frames_map_size(ram_end(b)) >> 10));
        return ERR_NO_MEMORY;
    }
    if (paging_begin(b, image_at) != OK || paging_root() >= LAYOUT_EARLY_MAX) {
        fmt(message, message_size, "too little memory for page tables");
        return ERR_NO_MEMORY;
    }
    paging_cpu_init();
    return OK;
}

uint64_t memory_start_page(void)
{
    return start_page;
}

const void *memory_firmware(void *owner, uint64_t physical, size_t size)
{
    uint64_t last = physical + size - 1, there;
    bool direct = true;

    (void)owner;
    if (size == 0 || last < physical || last >> features.physical_bits)
        return NULL;
    for (uint64_t at = physical & PAGE_MASK; at <= last && direct; at += PAGE_SIZE)
        direct = paging_lookup(LAYOUT_DIRECT + at, &there);
    if (direct)
        return hw_virt(physical);
    if (boot_info_kind(info, physical) == BOOT_RAM)
        return NULL;
    return map_device(physical, size, false);
}
