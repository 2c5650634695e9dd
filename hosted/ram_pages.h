/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Which pages of private RAM are the guest's own: see ram_pages.c. */
#ifndef LODGE_HOSTED_RAM_PAGES_H
#define LODGE_HOSTED_RAM_PAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "hosted/ram.h"

enum { RAM_SEARCH_RUNS = 1 + 256 /* one left over, and those of one go */ };

struct ram_run {
    uint64_t at, end; /* bytes from the begin of RAM, whole pages */
};

struct ram_search {
    const struct ram *ram;
    uint64_t at, end; /* what is still to be looked at */
    bool failed;      /* the host does not say: what was found is not all */
    uint32_t next, count;
    struct ram_run run[RAM_SEARCH_RUNS]; /* found, not returned yet: [next, count) */
};

/* For ram_watch: can the host search for pages (Linux 6.7 and later), or has each to be looked at? */
bool ram_can_search(const struct ram *ram);
/* The guest's own pages in [at, end), of private RAM that is watched: runs that rise and do not touch. What is in a run may
 * be mapped elsewhere once it has been returned. The guest may run; then what it writes meanwhile may be missed. */
void ram_search_begin(struct ram_search *s, const struct ram *ram, uint64_t at, uint64_t end);
/* The next run. False: there is none, or s->failed. */
bool must_check ram_search_next(struct ram_search *s, struct ram_run *run);

#endif
