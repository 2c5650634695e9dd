/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Guest RAM and ROM as seen from the host: a few slots, each a range of guest-physical addresses
 * backed by host memory. This is the only way to guest memory outside of an engine's MMU: always
 * with a length, overflow-safe. Slots change only while the VM is at rest.
 */
#ifndef LODGE_CORE_GUEST_MEM_H
#define LODGE_CORE_GUEST_MEM_H

#include <stdatomic.h>

#include "core/types.h"

enum { GUEST_MEM_SLOTS = 8, GUEST_MEM_LATE = 4 };

struct guest_mem_slot {
    uint64_t base; /* page-aligned guest-physical address */
    uint64_t size; /* bytes, a multiple of the page size */
    uint8_t *host; /* owned by whoever added the slot */
    bool writable; /* false: ROM, guest writes are dropped */
    /* A word per page, GUEST_PAGE_*, for engines that have to know who writes it; NULL: none.
     * Owned by the engine. */
    _Atomic uint32_t *page_state;
};

/*
 * RAM whose contents the home brings from a file when somebody first asks for them. Until then
 * nobody has the host's address of it, as all who want one come through here; and the home has it
 * so that a processor cannot reach it either: an engine whose guests do not come through here is
 * stopped there, and asks for what is missing. Only for such engines.
 */
struct guest_mem_late {
    _Atomic uint32_t missing; /* a bit for each piece that is not there yet */
    struct guest_mem_piece {
        uint64_t base, size; /* whole pages of one slot */
        void *file;          /* the home's, and where in it the piece begins */
        uint64_t offset;
    } piece[GUEST_MEM_LATE]; /* written while no vCPU runs */
    /* Brings these pieces and then takes their bits away. Any thread, with any lock; at once, if
     * another thread has done it. False: they cannot be had, and the VM has been stopped for it. */
    bool (*bring)(struct guest_mem_late *late, uint32_t pieces);
};

/* Page states: what is known of a page of RAM (engine/soft/code_pages.c is the user). */
#define GUEST_PAGE_WRITER(vcpu) ((uint32_t)1 << (vcpu)) /* that vCPU may have a way to write it */
#define GUEST_PAGE_WRITERS      ((uint32_t)0xFFFF)
#define GUEST_PAGE_LATE     ((uint32_t)1 << 29) /* written besides (x86/mmu_code.c) */
#define GUEST_PAGE_PENDING      ((uint32_t)1 << 30) /* about to be CODE: no new way to write it */
#define GUEST_PAGE_CODE         ((uint32_t)1 << 31) /* translated code depends on its contents */

struct guest_mem {
    uint32_t count;
    struct guest_mem_slot slot[GUEST_MEM_SLOTS]; /* sorted by base, not overlapping */
    struct guest_mem_late *late;                 /* the home's; NULL: it has no such thing */
};

/* ERR_INVALID (alignment, wrap), ERR_EXISTS (overlap), ERR_NO_MEMORY (no slot free). */
int must_check guest_mem_add(struct guest_mem *m, struct gpa base, uint64_t size, void *host,
                             bool writable);

/* The pieces that are not there yet. */
static inline uint32_t guest_mem_missing(const struct guest_mem *m)
{
    return likely(!m->late) ? 0 : atomic_load_explicit(&m->late->missing, memory_order_acquire);
}

/* Sees to it that all of [a, a + size) is there; false: it cannot be had. */
bool guest_mem_bring(const struct guest_mem *m, uint64_t a, uint64_t size);

/* For an access that the host stopped somewhere in RAM: brings the first piece that is missing. */
bool guest_mem_bring_next(const struct guest_mem *m);

/* One more piece that is missing, which there must be room for. While no vCPU runs. */
bool guest_mem_has_late_room(const struct guest_mem *m);
void guest_mem_add_late(const struct guest_mem *m, const struct guest_mem_piece *piece);

/* The slot that holds all of [a, a + size), or NULL: also if its contents cannot be had. size 0 is
 * held by nothing. */
const struct guest_mem_slot *guest_mem_find(const struct guest_mem *m, struct gpa a, uint64_t size);

/* Host address of [a, a + size) if it lies in one slot, else NULL. The bytes are shared with
 * running vCPUs: copy once, check the copy, use the copy. */
void *guest_mem_ptr(const struct guest_mem *m, struct gpa a, uint64_t size);

/* The same of one byte, whether or not the contents are there yet: for those who bring them. */
void *guest_mem_host(const struct guest_mem *m, struct gpa a);

/* The state of the page at that host address, NULL if it has none. */
_Atomic uint32_t *guest_mem_page_state(const struct guest_mem *m, const void *host);

/* Copies; ranges may span adjacent slots. ERR_RANGE, with nothing copied, if any byte is outside,
 * or (write) in ROM. */
int must_check guest_mem_read(const struct guest_mem *m, struct gpa a, void *buf, size_t size);
int must_check guest_mem_write(const struct guest_mem *m, struct gpa a, const void *buf, size_t size);

#endif
