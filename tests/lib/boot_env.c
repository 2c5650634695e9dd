/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
#include "tests/lib/boot_env.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static void die(const char *what)
{
    fprintf(stderr, "boot_env: %s\n", what);
    abort();
}

void boot_env_create(struct boot_env *e, uint64_t memory)
{
    memset(e, 0, sizeof(*e));
    e->ram_size = (size_t)boot_ram_below(memory);
    e->ram = mmap(NULL, e->ram_size, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (e->ram == MAP_FAILED || guest_mem_add(&e->mem, gpa(0), e->ram_size, e->ram, true) != OK)
        die("no memory");
    e->boot.mem = &e->mem;
    e->boot.files = &e->files;
    e->boot.append = "";
    e->boot.memory = memory;
    e->boot.rsdp = BOOT_ACPI;
    e->boot.message = e->message;
}

void boot_env_destroy(struct boot_env *e)
{
    munmap(e->ram, e->ram_size);
    free(e->kernel);
    free(e->initrd);
}

static uint8_t *copy(uint8_t *old, const void *bytes, size_t size)
{
    free(old);
    uint8_t *p = malloc(size ? size : 1);
    if (!p)
        die("no memory");
    memcpy(p, bytes, size);
    return p;
}

static int read_bytes(void *owner, uint64_t offset, void *to, size_t n)
{
    memcpy(to, (const uint8_t *)owner + offset, n);
    return OK;
}

struct boot_file boot_env_file(const void *bytes, size_t size)
{
    return (struct boot_file){
        .size = size, .read = read_bytes, .owner = (void *)(uintptr_t)bytes};
}

void boot_env_set_kernel(struct boot_env *e, const void *bytes, size_t size)
{
    e->kernel = copy(e->kernel, bytes, size);
    e->files.kernel = boot_env_file(e->kernel, size);
}

void boot_env_set_initrd(struct boot_env *e, const void *bytes, size_t size)
{
    e->initrd = copy(e->initrd, bytes, size);
    e->files.initrd = boot_env_file(e->initrd, size);
}

int boot_env_load(struct boot_env *e)
{
    e->message[0] = 0;
    return boot_load(&e->boot);
}

uint32_t boot_env_get32(const struct boot_env *e, uint64_t address)
{
    uint32_t v = 0;
    if (guest_mem_read(&e->mem, gpa(address), &v, sizeof(v)) != OK)
        die("address");
    return v;
}

uint64_t boot_env_get64(const struct boot_env *e, uint64_t address)
{
    uint64_t v = 0;
    if (guest_mem_read(&e->mem, gpa(address), &v, sizeof(v)) != OK)
        die("address");
    return v;
}
