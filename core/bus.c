/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The bus: a sorted array of regions, searched by halves, and the one gate for access sizes.
 *
 * An access is first cut at the region's end (the rest goes to whatever is there, or nowhere),
 * then into pieces that the device takes: at most max_size, naturally aligned unless the device
 * takes others, at least min_size. A device therefore never sees an access that its table does not
 * allow, whatever a guest does (bad-inputs D2).
 *
 * Locking: each piece takes and releases the region's lock. The array changes only while the VM is
 * being built or at rest, so look-ups take none.
 */
#include "core/bus.h"

#include "core/err.h"
#include "core/mem.h"

static bool is_power_of_two_size(uint8_t size)
{
    return size == 1 || size == 2 || size == 4 || size == 8;
}

/* Index of the first region whose base is above address. */
static uint32_t upper_bound(const struct bus *b, uint64_t address)
{
    uint32_t low = 0, high = b->count;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (b->region[mid].base <= address)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static struct bus_region *region_at(struct bus *b, uint64_t address)
{
    uint32_t at = upper_bound(b, address);
    if (at == 0)
        return NULL;
    struct bus_region *r = &b->region[at - 1];
    return address - r->base < r->size ? r : NULL;
}

int bus_add(struct bus *b, uint64_t base, uint64_t size, const struct bus_ops *ops, void *device,
            struct lock *lock)
{
    if (size == 0 || base + (size - 1) < base || !is_power_of_two_size(ops->min_size) ||
        !is_power_of_two_size(ops->max_size) || ops->min_size > ops->max_size)
        return ERR_INVALID;
    if (b->count == BUS_REGIONS)
        return ERR_NO_MEMORY;
    uint32_t at = upper_bound(b, base);
    if (at > 0 && base - b->region[at - 1].base < b->region[at - 1].size)
        return ERR_EXISTS;
    if (at < b->count && b->region[at].base - base < size)
        return ERR_EXISTS;
    memmove(&b->region[at + 1], &b->region[at], (b->count - at) * sizeof(b->region[0]));
    b->region[at] = (struct bus_region){base, size, ops, device, lock};
    b->count++;
    return OK;
}

int bus_move(struct bus *b, uint64_t old_base, uint64_t new_base)
{
    struct bus_region *r = region_at(b, old_base);
    if (!r || r->base != old_base)
        return ERR_NOT_FOUND;
    struct bus_region moved = *r;
    uint32_t at = (uint32_t)(r - b->region);
    b->count--;
    memmove(r, r + 1, (b->count - at) * sizeof(*r));
    int err = bus_add(b, new_base, moved.size, moved.ops, moved.device, moved.lock);
    if (err != OK) {
        /* the old place is still free: this cannot fail */
        memmove(&b->region[at + 1], &b->region[at], (b->count - at) * sizeof(b->region[0]));
        b->region[at] = moved;
        b->count++;
    }
    return err;
}

/* One access that the device's table allows. */
static void call_device(const struct bus_region *r, struct bus_access *a)
{
    if (r->lock)
        lock_take(r->lock);
    r->ops->access(r->device, a);
    if (r->lock)
        lock_release(r->lock);
}

static uint64_t mask_of(uint8_t size)
{
    return size >= 8 ? UINT64_MAX : ((uint64_t)1 << (size * 8)) - 1;
}

/* A read narrower than the device takes: the containing piece is read and a part given. */
static uint64_t read_narrow(const struct bus_region *r, uint64_t offset, uint8_t size)
{
    uint8_t wide = r->ops->min_size;
    uint64_t start = offset & ~(uint64_t)(wide - 1);
    if (offset - start + size > wide || start + wide > r->size)
        return mask_of(size);
    struct bus_access a = {.offset = start, .size = wide};
    call_device(r, &a);
    return (a.value >> ((offset - start) * 8)) & mask_of(size);
}

/* How large a piece of the access at offset, with so many bytes left, the device takes; 0: none. */
static uint8_t piece_size(const struct bus_region *r, uint64_t offset, uint8_t left)
{
    uint8_t size = r->ops->max_size;
    while (size > left || (!r->ops->unaligned && (offset & (size - 1u)) != 0))
        size = (uint8_t)(size / 2);
    return size >= r->ops->min_size ? size : 0;
}

static uint8_t region_access(const struct bus_region *r, uint64_t offset, uint8_t left, bool write,
                             uint64_t *value)
{
    uint8_t size = piece_size(r, offset, left);
    if (size == 0) {
        size = 1;
        while ((uint8_t)(size * 2) <= left && size * 2 <= r->ops->min_size &&
               (offset & (size * 2u - 1u)) == 0)
            size = (uint8_t)(size * 2);
        *value = write ? 0 : read_narrow(r, offset, size);
        return size;
    }
    struct bus_access a = {.offset = offset, .size = size, .write = write};
    if (write)
        a.value = *value & mask_of(size);
    call_device(r, &a);
    *value = a.value & mask_of(size);
    return size;
}

/* Does the device take an access of 1, 2, 4 or 8 bytes as it is? */
static bool takes(const struct bus_region *r, uint64_t offset, uint8_t size)
{
    return size >= r->ops->min_size && size <= r->ops->max_size && offset + size <= r->size &&
           (r->ops->unaligned || (offset & (size - 1u)) == 0);
}

/* Walks over one access; returns whether any device answered. */
static bool bus_access_pieces(struct bus *b, uint64_t address, uint8_t size, bool write, uint64_t *value)
{
    bool answered = false;
    uint64_t result = 0;
    for (uint8_t done = 0; done < size;) {
        uint64_t at = address + done; /* may wrap: then it is looked up at the bottom, harmless */
        struct bus_region *r = region_at(b, at);
        if (!r) {
            result |= (uint64_t)0xFF << (done * 8);
            done++;
            continue;
        }
        uint64_t offset = at - r->base;
        uint8_t left = (uint8_t)(size - done);
        if (left > r->size - offset)
            left = (uint8_t)(r->size - offset);
        uint64_t piece = *value >> (done * 8);
        uint8_t moved = region_access(r, offset, left, write, &piece);
        result |= piece << (done * 8);
        done = (uint8_t)(done + moved);
        answered = true;
    }
    if (!write)
        *value = result;
    return answered;
}

/* Nearly all accesses are as the device takes them. */
static bool bus_access(struct bus *b, uint64_t address, uint8_t size, bool write, uint64_t *value)
{
    struct bus_region *r = region_at(b, address);
    if (unlikely(!r || !takes(r, address - r->base, size)))
        return bus_access_pieces(b, address, size, write, value);
    struct bus_access a = {address - r->base, *value & mask_of(size), size, write};
    call_device(r, &a);
    if (!write)
        *value = a.value & mask_of(size);
    return true;
}

bool bus_read(struct bus *b, uint64_t address, uint8_t size, uint64_t *value)
{
    *value = 0;
    return bus_access(b, address, size, false, value);
}

bool bus_write(struct bus *b, uint64_t address, uint8_t size, uint64_t value)
{
    return bus_access(b, address, size, true, &value);
}
