/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A bus: which device answers at which address. A VM has two, port I/O and MMIO.
 *
 * The bus is the access-size gate (bad-inputs D2): a region says which sizes and alignments it
 * takes; an access that it does not take is split or answered without the device being called.
 * The bus takes the region's lock around the handler, so handlers of one board never race.
 * Handlers of one access never nest into the bus (V9): a device does not do MMIO on its own.
 *
 * Regions are added while the VM is built or at rest; look-ups take no lock.
 */
#ifndef LODGE_CORE_BUS_H
#define LODGE_CORE_BUS_H

#include "core/lock.h"
#include "core/types.h"

enum { BUS_REGIONS = 64 };

/* One access, relative to the region. Handlers may assume offset + size <= region size and size in
 * the region's range. Bits of value above size * 8 are zero on write and ignored on read. */
struct bus_access {
    uint64_t offset;
    uint64_t value;
    uint8_t size; /* 1, 2, 4 or 8 */
    bool write;
};

struct bus_ops {
    const char *name; /* "i8254" */
    uint8_t min_size; /* smaller accesses: min_size is read and a part taken; writes dropped */
    uint8_t max_size; /* larger accesses are split into max_size pieces, low address first */
    bool unaligned;   /* may accesses be misaligned? else they are split into bytes if min_size is
                         1, otherwise read as all ones and dropped */
    void (*access)(void *device, struct bus_access *a);
};

struct bus_region {
    uint64_t base;
    uint64_t size;
    const struct bus_ops *ops;
    void *device;
    struct lock *lock; /* taken around ops->access; NULL: the device needs none */
};

struct bus {
    uint32_t count;
    struct bus_region region[BUS_REGIONS]; /* sorted by base, not overlapping */
};

/* ERR_EXISTS (overlap), ERR_NO_MEMORY (full), ERR_INVALID (empty, wraps, bad sizes). */
int must_check bus_add(struct bus *b, uint64_t base, uint64_t size, const struct bus_ops *ops,
                       void *device, struct lock *lock);
/* Moves a region (a PCI BAR). Same errors; on error nothing has changed. VM at rest. */
int must_check bus_move(struct bus *b, uint64_t old_base, uint64_t new_base);

/* One access of 1, 2, 4 or 8 bytes at an absolute address. Reads of nothing are all ones, writes
 * to nothing are dropped; returns false then (nobody answered). */
bool bus_read(struct bus *b, uint64_t address, uint8_t size, uint64_t *value);
bool bus_write(struct bus *b, uint64_t address, uint8_t size, uint64_t value);

#endif
