/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Linux's request to search page tables (6.7 and later; PAGEMAP_SCAN(2const)), which older headers do not have. Names are
 * our own, since newer headers do. */
#ifndef LODGE_HOSTED_PAGEMAP_SCAN_H
#define LODGE_HOSTED_PAGEMAP_SCAN_H

#include <stdint.h>
#include <sys/ioctl.h>

enum { /* categories of pages */
    PAGEMAP_IS_FILE = 1 << 2,
    PAGEMAP_IS_PRESENT = 1 << 3,
    PAGEMAP_IS_SWAPPED = 1 << 4,
    PAGEMAP_IS_ZERO_PAGE = 1 << 5,
};

struct pagemap_region {
    uint64_t start, end; /* addresses */
    uint64_t categories;
};

struct pagemap_scan {
    uint64_t size; /* of this */
    uint64_t flags;
    uint64_t start, end; /* addresses */
    uint64_t stopped_at; /* out: `end`, or where there was no more room */
    uint64_t regions;    /* address of where they go */
    uint64_t room;       /* for so many */
    uint64_t most_pages; /* 0: no limit */
    uint64_t inverted;   /* these categories are taken for their opposite in what follows */
    uint64_t all_of, any_of;
    uint64_t returned; /* categories that regions are told apart by */
};

#define PAGEMAP_SCAN_REQUEST _IOWR('f', 16, struct pagemap_scan)

#endif
