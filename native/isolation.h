/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Who reaches what (isolation.c). */
#ifndef LODGE_NATIVE_ISOLATION_H
#define LODGE_NATIVE_ISOLATION_H

#include "core/err.h"
#include "core/types.h"

struct guest;
struct nested;

/* Is everything walked at each change, and what is wrong a panic? The image has one of two files that say so:
 * isolation_start.c, or the test build's tests/native/isolation_always.c. */
extern const bool isolation_always;

/* What a walk of the nested tables of all VMs has found. */
struct isolation {
    uint32_t vms;
    uint64_t writable, read_only, tables; /* pages of 4 KiB; in how many tables */
    const struct guest *broken;           /* whose table leads elsewhere; NULL: none */
};

/* Walks them all. OK, or ERR_CORRUPT and one line: some VM reaches a frame that is not its own. */
int must_check isolation_check(struct isolation *found, char *message, size_t size);
/* Frames have changed hands: does so in the test build, and panics if it is not OK. */
void isolation_changed(void);
/* The tables of a VM, by its number in the fleet; NULL: it has none now. For tests. */
const struct nested *isolation_tables(uint32_t number);

#endif
