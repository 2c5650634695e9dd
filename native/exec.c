/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Memory for generated code (core/seam.h): x86/native.c's fragments, by which engines have a guest's vector
 * instructions executed whose operand is not RAM.
 *
 * The same frames at two addresses: written by the direct map, executed in a range of their own, where they are
 * not writable. Pieces that were given back stay mapped, in a list by size, for the next of that size: so no CPU's
 * TLB needs to hear of it. A processor that runs new code where it has run old one has serialised in between: it
 * has been given to another vCPU's thread since, by IRET from a guest or an interrupt.
 *
 * Locking: a spin lock around the lists, above those of paging.c and frames.c.
 */
#include "core/mem.h"
#include "core/seam.h"
#include "engine/hw.h"
#include "native/frames.h"
#include "native/layout.h"
#include "native/memory.h"
#include "native/spin.h"

/* What a free piece begins with. */
struct piece {
    struct piece *next;
    const uint8_t *exec;
    size_t size;
};

static struct {
    struct spin lock;
    uint64_t next;
    struct piece *free;
} pieces = {.next = LAYOUT_EXEC};

static struct piece *take_free(size_t size)
{
    struct piece **at = &pieces.free, *p;

    while (*at && (*at)->size != size)
        at = &(*at)->next;
    p = *at;
    if (p)
        *at = p->next;
    return p;
}

static int map_new(struct seam_exec *e, uint64_t at, size_t size)
{
    void *frames = frames_alloc(size >> PAGE_SHIFT, FRAME_OWN);

    if (!frames)
        return ERR_NO_MEMORY;
    if (paging_map(at, hw_phys(frames), size, PAGING_EXECUTE) != OK) {
        frames_free(frames, size >> PAGE_SHIFT);
        return ERR_NO_MEMORY;
    }
    *e = (struct seam_exec){.write = frames, .exec = (const uint8_t *)at, .size = size};
    return OK;
}

int seam_exec_alloc(struct seam_exec *e, size_t size)
{
    struct piece *p;
    uint64_t at;

    size = (size + PAGE_SIZE - 1) & PAGE_MASK;
    spin_lock(&pieces.lock);
    p = take_free(size);
    at = pieces.next;
    if (!p)
        pieces.next += size + PAGE_SIZE;
    spin_unlock(&pieces.lock);
    if (!p)
        return map_new(e, at, size);
    *e = (struct seam_exec){.write = (uint8_t *)p, .exec = p->exec, .size = size};
    memset(e->write, 0, size);
    return OK;
}

void seam_exec_free(struct seam_exec *e)
{
    struct piece *p = (struct piece *)(void *)e->write;

    if (!p)
        return;
    *p = (struct piece){.exec = e->exec, .size = e->size};
    spin_lock(&pieces.lock);
    p->next = pieces.free;
    pieces.free = p;
    spin_unlock(&pieces.lock);
    *e = (struct seam_exec){.write = NULL};
}
