/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Memory as start-up and the platform's own files need it, beside native/frames.h: the frame allocator's beginning
 * (frames.c), page tables (paging.c), and what puts them together (memory.c).
 */
#ifndef LODGE_NATIVE_MEMORY_H
#define LODGE_NATIVE_MEMORY_H

#include "core/err.h"
#include "core/types.h"
#include "native/boot_info.h"

/* frames.c, at boot, one CPU: frames_begin with zeroed memory of frames_map_size(end) bytes for frames below `end`
 * (physical), then frames_add for RAM, then frames_reserve for what of it is taken: free ones only are changed.
 * Bounds are rounded: inwards for RAM, outwards for what is taken. */
size_t frames_map_size(uint64_t end);
void frames_begin(uint64_t end, void *map);
void frames_add(uint64_t base, uint64_t end);
void frames_reserve(uint64_t base, uint64_t end, uint32_t owner);
/* A module's memory back; only frames that are FRAME_MODULE. */
void frames_give_back(uint64_t base, uint64_t end);
/* Lowest RAM first: what boot.S has mapped is enough until paging.c's tables are in force. */

/* memory.c: everything above in order, from the boot information; then our page tables are in force. ERR_NO_MEMORY
 * and one line in message. */
int must_check memory_init(const struct boot_info *b, uint64_t image_at, char *message, size_t message_size);
/* Physical address of a page below 1 MiB where a start-up IPI may lead; 0: there is none. */
uint64_t memory_start_page(void);
/* size bytes of physical memory that the firmware may have left anywhere; NULL: cannot be. For acpi_parse. */
const void *memory_firmware(void *owner, uint64_t physical, size_t size);

enum { PAGING_WRITE = 1, PAGING_EXECUTE = 2, PAGING_UNCACHED = 4, PAGING_COMBINING = 8 };

/* Our page tables (paging.c). Makes them, with the image and the RAM that b has; they are not in force yet. */
int must_check paging_begin(const struct boot_info *b, uint64_t image_at);
/* This CPU's control registers, PAT and EFER as they stay, and our tables in force. */
void paging_cpu_init(void);
/* CR3; below 4 GiB, where a CPU that starts can load it. */
uint64_t paging_root(void);

/*
 * [virtual, virtual + size), whole pages where nothing is mapped, to physical memory in a row, with the largest pages
 * that fit. ERR_NO_MEMORY: some of it may be mapped.
 *
 * The way back has two steps, so that a frame is not somebody else's while a CPU still knows its way there:
 * paging_unmap takes the range out of the tables and out of this CPU's TLB, paging_flush_others out of the others';
 * then paging_collect gives each page that had been mapped to `each`.
 */
int must_check paging_map(uint64_t virtual, uint64_t physical, uint64_t size, uint32_t flags);
void paging_unmap(uint64_t virtual, uint64_t size);
typedef void paging_collect_fn(uint64_t physical, uint64_t size);
void paging_collect(uint64_t virtual, uint64_t size, paging_collect_fn *each);
/* Where `virtual` leads; false: nowhere. */
bool paging_lookup(uint64_t virtual, uint64_t *physical);

/* This CPU forgets all that it knows of the tables. */
void paging_flush(void);
/* All other CPUs forget what is not mapped any more; returns when they have. No lock held; interrupts are taken. */
void paging_flush_others(void);
/* This CPU does so if it was asked: from the handler of VECTOR_KICK, and while waiting for others. */
void paging_catch_up(void);

#endif
