/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Guest RAM: see ram.c. */
#ifndef LODGE_HOSTED_RAM_H
#define LODGE_HOSTED_RAM_H

#include <stddef.h>
#include <stdint.h>

#include "core/types.h"

/* Zero-filled shared memory that the host backs page by page as it is touched. ERR_NO_MEMORY and a
 * message; also when it is more than the host has at all. */
int must_check ram_create(void **ram, uint64_t size, char *message, size_t message_size);
/* All zero again, pages given back to the host. Works in the sandbox. */
void ram_zero(void *ram, uint64_t size);
/* The host's physical memory and swap, and what of the former is free now. */
void ram_of_host(uint64_t *total, uint64_t *available);

#endif
