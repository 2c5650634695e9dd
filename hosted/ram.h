/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Guest RAM: see ram.c. */
#ifndef LODGE_HOSTED_RAM_H
#define LODGE_HOSTED_RAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/types.h"

struct ram {
    uint8_t *base; /* a shared mapping of all of the memfd */
    uint64_t size;
    int fd;
};

/* Zero-filled shared memory that the host backs page by page as it is touched. ERR_NO_MEMORY and a
 * message; also when it is more than the host has at all. */
int must_check ram_create(struct ram *ram, uint64_t size, char *message, size_t message_size);
/* All zero again, pages given back to the host. Nothing is hidden. Works in the sandbox. */
void ram_zero(const struct ram *ram);
/* Whole pages that nobody reaches through the mapping, and reaches again. What is written to the
 * memfd is there afterwards. False: the host does not do it, and it is as it was. In the sandbox. */
bool ram_hide(void *at, uint64_t size);
bool ram_show(void *at, uint64_t size);
/* The host's physical memory and swap, and what of the former is free now. */
void ram_of_host(uint64_t *total, uint64_t *available);

#endif
