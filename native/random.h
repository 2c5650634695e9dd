/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Random numbers of the bare machine (random.c). seam_random is random_bytes. */
#ifndef LODGE_NATIVE_RANDOM_H
#define LODGE_NATIVE_RANDOM_H

#include "core/types.h"

/* Seeds the generator, from what the processor has, from timing, and from boot information (anything that differs
 * from machine to machine: the memory map, the tables). One line on what it is worth in message; message_size > 0.
 * Boot CPU, once, before random_bytes. Some 100 us. */
void random_init(const void *boot_information, size_t size, char *message, size_t message_size);

/* That many random bytes. Any CPU; takes a spin lock that is below all others. */
void random_bytes(void *buf, size_t size);

/* Stirs something in, of whatever worth. Any CPU; the same lock. */
void random_add(const void *p, size_t size);
/* Something happened just now that nobody can foretell to the tick (a device's interrupt): its time is stirred in
 * with the next seed. Any CPU, any time; a few instructions. */
void random_event(void);

#endif
