/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Zeroed guest RAM and a load in progress, for tests of the boot protocols. */
#ifndef LODGE_TESTS_LIB_BOOT_ENV_H
#define LODGE_TESTS_LIB_BOOT_ENV_H

#include "machine/boot.h"

struct boot_env {
    struct guest_mem mem;
    struct boot_files files;
    struct boot boot;
    uint8_t *ram; /* the part below 4 GiB, all that loaders use */
    size_t ram_size;
    uint8_t *kernel, *initrd; /* exact copies, so that the sanitizer sees a byte read too many */
    char message[PC_MESSAGE];
};

/* memory: bytes of RAM, at most 4 GiB here. */
void boot_env_create(struct boot_env *e, uint64_t memory);
void boot_env_destroy(struct boot_env *e);
/* A file of these bytes, which must stay. */
struct boot_file boot_env_file(const void *bytes, size_t size);
void boot_env_set_kernel(struct boot_env *e, const void *bytes, size_t size);
void boot_env_set_initrd(struct boot_env *e, const void *bytes, size_t size);
/* boot_load; the message is empty if it succeeded. */
int boot_env_load(struct boot_env *e);

uint32_t boot_env_get32(const struct boot_env *e, uint64_t address);
uint64_t boot_env_get64(const struct boot_env *e, uint64_t address);

#endif
