/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Guest RAM and ROM as seen from the host: a few slots, each a range of guest-physical addresses
 * backed by host memory. This is the only way to guest memory outside of an engine's MMU: always
 * with a length, overflow-safe. Slots change only while the VM is at rest.
 */
#ifndef LODGE_CORE_GUEST_MEM_H
#define LODGE_CORE_GUEST_MEM_H

#include "core/types.h"

enum { GUEST_MEM_SLOTS = 8 };

struct guest_mem_slot {
    uint64_t base; /* page-aligned guest-physical address */
    uint64_t size; /* bytes, a multiple of the page size */
    uint8_t *host; /* owned by whoever added the slot */
    bool writable; /* false: ROM, guest writes are dropped */
};

struct guest_mem {
    uint32_t count;
    struct guest_mem_slot slot[GUEST_MEM_SLOTS]; /* sorted by base, not overlapping */
};

/* ERR_INVALID (alignment, wrap), ERR_EXISTS (overlap), ERR_NO_MEMORY (no slot free). */
int must_check guest_mem_add(struct guest_mem *m, struct gpa base, uint64_t size, void *host,
                             bool writable);

/* The slot that holds all of [a, a + size), or NULL. size 0 is held by nothing. */
const struct guest_mem_slot *guest_mem_find(const struct guest_mem *m, struct gpa a, uint64_t size);

/* Host address of [a, a + size) if it lies in one slot, else NULL. The bytes are shared with
 * running vCPUs: copy once, check the copy, use the copy. */
void *guest_mem_ptr(const struct guest_mem *m, struct gpa a, uint64_t size);

/* Copies; ranges may span adjacent slots. ERR_RANGE, with nothing copied, if any byte is outside,
 * or (write) in ROM. */
int must_check guest_mem_read(const struct guest_mem *m, struct gpa a, void *buf, size_t size);
int must_check guest_mem_write(const struct guest_mem *m, struct gpa a, const void *buf, size_t size);

#endif
