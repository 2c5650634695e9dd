/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * libFuzzer target: kernel files of all kinds. Whatever the file, it is either refused with one
 * line, or loaded: then every piece lies in RAM, no two overlap, nothing lies where Lodge puts its
 * own tables, and the entry is in a piece. Tried with little and with much memory, with and without
 * an initrd. Run it with -max_len=16384.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "machine/boot.h"

enum { MUCH = 64 << 20, LITTLE = 4 << 20, INITRD = 5000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool x)
{
    if (!x)
        abort();
}

static void require_good(const struct boot *b)
{
    require(boot_is_claimed(b, b->entry.rip));
    for (uint32_t n = 0; n < b->claims; n++) {
        const struct boot_range *c = &b->claim[n];
        uint64_t end = c->base + c->size;
        require(c->size > 0 && end > c->base);
        require((c->base >= BOOT_LOW_END && end <= BOOT_EBDA) ||
                (c->base >= MIB(1) && end <= b->memory));
        for (uint32_t m = 0; m < n; m++)
            require(end <= b->claim[m].base || b->claim[m].base + b->claim[m].size <= c->base);
    }
}

static void require_message(const char *message)
{
    require(message[0] != 0 && memchr(message, 0, PC_MESSAGE) != NULL);
    for (const char *p = message; *p; p++)
        require(*p >= ' ' && *p <= '~');
}

static void try_load(uint8_t *ram, uint64_t memory, const struct boot_files *files)
{
    static char message[PC_MESSAGE];
    struct guest_mem mem = {0};
    require(guest_mem_add(&mem, gpa(0), memory, ram, true) == OK);
    struct boot b = {.mem = &mem,
                     .files = files,
                     .append = "console=ttyS0",
                     .memory = memory,
                     .rsdp = BOOT_ACPI,
                     .message = message};
    memset(message, 0, sizeof(message));
    int err = boot_load(&b);
    require(err == OK || err == ERR_INVALID);
    if (err == OK)
        require_good(&b);
    else
        require_message(message);
}

static int read_bytes(void *owner, uint64_t offset, void *to, size_t n)
{
    memcpy(to, (const uint8_t *)owner + offset, n);
    return OK;
}

static struct boot_file file_of(const uint8_t *bytes, size_t size)
{
    return (struct boot_file){
        .size = size, .read = read_bytes, .owner = (void *)(uintptr_t)bytes};
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t initrd[INITRD];
    static uint8_t *ram;
    if (!ram) {
        ram = mmap(NULL, MUCH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        require(ram != MAP_FAILED);
    }
    struct boot_files files = {.kernel = file_of(data, size)};
    try_load(ram, MUCH, &files);
    files.initrd = file_of(initrd, sizeof(initrd));
    try_load(ram, MUCH, &files);
    try_load(ram, LITTLE, &files);
    return 0;
}
