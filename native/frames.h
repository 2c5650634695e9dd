/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Physical memory (frames.c), our own page tables (paging.c), guest RAM as we see it (window.c). Any CPU; spin locks
 * of their own.
 */
#ifndef LODGE_NATIVE_FRAMES_H
#define LODGE_NATIVE_FRAMES_H

#include "core/err.h"
#include "core/types.h"

enum { FRAME_LARGE = 2 << 20 };

/* Who a frame belongs to, for each 4-KiB frame; the checker asks. */
enum {
    FRAME_NOT_RAM = 0, /* devices, firmware, holes */
    FRAME_FREE,
    FRAME_OWN,       /* the hypervisor's */
    FRAME_MODULE,    /* boot modules, until they are given back */
    FRAME_GUEST = 16 /* + number of the VM */
};

/* Physically contiguous zeroed pages by their address in the direct map, NULL: there are none. */
void *frames_alloc(size_t pages, uint32_t owner);
void frames_free(void *p, size_t pages);
/* A large frame (2 MiB, aligned), zeroed, by physical address; 0: none. */
uint64_t frames_alloc_large(uint32_t owner);
void frames_free_large(uint64_t physical);
uint32_t frames_owner(uint64_t physical);
/* The first frame in [physical, physical + size) that is not owner's; its end: all are. */
uint64_t frames_not_of(uint32_t owner, uint64_t physical, uint64_t size);
void frames_count(uint64_t *total, uint64_t *free_bytes);

/* Zeroed RAM of a guest, contiguous as we see it: of large frames, and of small ones where there are no large ones or
 * less is left. ERR_NO_MEMORY. Interrupts are taken meanwhile, and all CPUs' TLBs flushed when it is freed: no lock is
 * held. */
int must_check window_alloc(uint64_t size, uint32_t owner, void **base);
void window_free(void *base, uint64_t size);

/* Devices' memory, by physical address; uncached, or write-combining. NULL: no room. For ever. */
void *map_device(uint64_t physical, size_t size, bool write_combining);

#endif
