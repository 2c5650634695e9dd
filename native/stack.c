/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Stacks with a page below each that is not mapped. Freed ones stay mapped, in a list by size, for the next of that
 * size: so no CPU's TLB needs to hear of it. Address space is never reused otherwise; there is enough for ever.
 *
 * Locking: a spin lock around the lists, above those of paging.c and frames.c.
 */
#include "native/stack.h"

#include "core/assert.h"
#include "core/mem.h"
#include "engine/hw.h"
#include "native/frames.h"
#include "native/layout.h"
#include "native/memory.h"
#include "native/spin.h"

enum { STACK_SIZES = 4 };

static struct {
    struct spin lock;
    uint64_t next;
    struct {
        size_t size;
        void *free; /* the first word of each leads to the next */
    } list[STACK_SIZES];
} stacks = {.next = LAYOUT_STACKS};

/* The list of that size; a size that has none yet gets one. */
static uint32_t stack_list(size_t size)
{
    uint32_t i = 0;

    while (i < STACK_SIZES && stacks.list[i].size != size && stacks.list[i].size != 0)
        i++;
    if (i == STACK_SIZES)
        panic("stacks of too many sizes");
    stacks.list[i].size = size;
    return i;
}

void *stack_alloc(size_t size)
{
    uint64_t at;
    void *p, *frames;
    uint32_t list;

    spin_lock(&stacks.lock);
    list = stack_list(size);
    p = stacks.list[list].free;
    if (p) {
        memcpy(&stacks.list[list].free, p, sizeof(void *));
        memset(p, 0, size);
    }
    at = stacks.next + PAGE_SIZE;
    if (!p)
        stacks.next = at + size;
    spin_unlock(&stacks.lock);
    if (p)
        return p;
    frames = frames_alloc(size >> PAGE_SHIFT, FRAME_OWN);
    if (!frames)
        return NULL;
    if (paging_map(at, hw_phys(frames), size, PAGING_WRITE) == OK)
        return (void *)at;
    frames_free(frames, size >> PAGE_SHIFT);
    return NULL;
}

void stack_free(void *base, size_t size)
{
    uint32_t list;

    if (!base)
        return;
    spin_lock(&stacks.lock);
    list = stack_list(size);
    memcpy(base, &stacks.list[list].free, sizeof(void *));
    stacks.list[list].free = base;
    spin_unlock(&stacks.lock);
}
