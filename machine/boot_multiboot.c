/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Multiboot 1, by the Multiboot Specification version 0.6.96. The kernel is an ELF file of either
 * class (its entry is 32-bit all the same: GNU Mach for amd64 is one), or anything whose header has
 * load addresses (flag 16, "a.out kludge"; these win over ELF headers, as the specification says).
 *
 * The initrd is the first module, on the page after the kernel, where GRUB puts modules too:
 * kernels of this age map only so much memory above themselves before they look at their modules.
 */
#include "core/mem.h"
#include "machine/boot.h"
#include "machine/elf.h"

enum {
    SEARCH = 8192, /* 3.1: the header lies in the first 8192 bytes, 32-bit aligned */
    MAGIC = 0x1BADB002,
    BOOT_MAGIC = 0x2BADB002, /* 3.2: EAX */

    /* 3.1.2: flags of the header. 0-15 must be understood, 16-31 may be ignored. */
    FLAG_ALIGN = 1 << 0,
    FLAG_MEMORY = 1 << 1,
    FLAG_MUST = 0xFFFF,
    FLAG_ADDRESSES = 1 << 16,

    HEADER_SIZE = 12,
    HEADER_WITH_ADDRESSES = 32,
};

/* 3.3: the information structure. */
enum {
    INFO_FLAGS = 0,
    INFO_MEM_LOWER = 4,
    INFO_MEM_UPPER = 8,
    INFO_CMDLINE = 16,
    INFO_MODS_COUNT = 20,
    INFO_MODS_ADDR = 24,
    INFO_MMAP_LENGTH = 44,
    INFO_MMAP_ADDR = 48,
    INFO_LOADER_NAME = 64,
    INFO_SIZE = 88,

    HAS_MEMORY = 1 << 0,
    HAS_CMDLINE = 1 << 2,
    HAS_MODULES = 1 << 3,
    HAS_MMAP = 1 << 6,
    HAS_LOADER_NAME = 1 << 9,

    MMAP_ENTRY = 24, /* a size word that does not count itself, then 20 bytes */
    MODULE_ENTRY = 16,

    MODULES = BOOT_TABLES,
    MODULE_STRING = BOOT_TABLES + 0x40,
    LOADER_NAME = BOOT_TABLES + 0x80,
    MMAP = BOOT_TABLES + 0x100,
};

/* Offset of the header, or SEARCH if there is none. */
static size_t find_header(const struct boot *b)
{
    size_t end = b->head_size < SEARCH ? b->head_size : SEARCH;
    for (size_t at = 0; at + HEADER_SIZE <= end; at += 4) {
        const uint8_t *h = b->head + at;
        if (load_u32(h) == MAGIC && load_u32(h) + load_u32(h + 4) + load_u32(h + 8) == 0)
            return at;
    }
    return SEARCH;
}

/* Flag 16: the header's own addresses (3.1.3). */
static int load_by_addresses(struct boot *b, size_t header, uint64_t *entry)
{
    const uint8_t *h = b->head + header;
    if (b->head_size - header < HEADER_WITH_ADDRESSES)
        return boot_error(b, "Multiboot header is cut off (copy the file again)");
    uint64_t header_address = load_u32(h + 12), load = load_u32(h + 16);
    uint64_t load_end = load_u32(h + 20), bss_end = load_u32(h + 24);
    *entry = load_u32(h + 28);
    if (load > header_address || header_address - load > header)
        return boot_error(b, "Multiboot header's load address does not fit its place in the file");
    uint64_t offset = header - (header_address - load);
    uint64_t rest = b->files->kernel.size - offset;
    if (load_end == 0)
        load_end = load + rest;
    if (bss_end == 0)
        bss_end = load_end;
    if (load_end <= load || bss_end < load_end)
        return boot_error(b, "Multiboot header's addresses are out of order");
    if (load_end - load > rest)
        return boot_error(b, "Multiboot kernel is cut off: %llu bytes are missing (copy it again)",
                          (unsigned long long)(load_end - load - rest));
    int err = boot_claim(b, "Multiboot kernel", load, bss_end - load);
    if (err == OK && (*entry < load || *entry >= load_end))
        err = boot_error(b, "Multiboot entry 0x%llx is not in the kernel",
                         (unsigned long long)*entry);
    if (err == OK)
        err = boot_copy(b, load, &b->files->kernel, offset, (size_t)(load_end - load));
    return err;
}

static int load_elf(struct boot *b, uint64_t *entry)
{
    struct elf e;
    if (!elf_is(b))
        return boot_error(b, "Multiboot header without load addresses in a file that is not ELF");
    int err = elf_open(b, &e);
    if (err == OK)
        err = elf_load(b, &e);
    return err != OK ? err : elf_physical_entry(b, &e, entry);
}

static int load_module(struct boot *b, uint8_t *info)
{
    static const char name[] = "initrd";
    uint8_t module[MODULE_ENTRY] = {0};
    uint64_t base;
    if (b->files->initrd.size == 0)
        return OK;
    int err = boot_claim_low(b, "initrd", b->files->initrd.size, boot_claimed_end(b), &base);
    if (err == OK)
        err = boot_copy_late(b, base, &b->files->initrd, 0, b->files->initrd.size, 0);
    if (err == OK)
        err = boot_write(b, MODULE_STRING, name, sizeof(name));
    if (err != OK)
        return err;
    store_u32(module, (uint32_t)base);
    store_u32(module + 4, (uint32_t)(base + b->files->initrd.size));
    store_u32(module + 8, MODULE_STRING);
    store_u32(info + INFO_MODS_COUNT, 1);
    store_u32(info + INFO_MODS_ADDR, MODULES);
    return boot_write(b, MODULES, module, sizeof(module));
}

static int write_mmap(struct boot *b, uint8_t *info)
{
    uint8_t mmap[BOOT_RANGES * MMAP_ENTRY] = {0};
    for (uint32_t n = 0; n < b->map.count; n++) {
        uint8_t *entry = mmap + n * MMAP_ENTRY;
        store_u32(entry, MMAP_ENTRY - 4);
        store_u64(entry + 4, b->map.range[n].base);
        store_u64(entry + 12, b->map.range[n].size);
        store_u32(entry + 20, b->map.range[n].type);
    }
    store_u32(info + INFO_MMAP_LENGTH, b->map.count * MMAP_ENTRY);
    store_u32(info + INFO_MMAP_ADDR, MMAP);
    return boot_write(b, MMAP, mmap, (size_t)b->map.count * MMAP_ENTRY);
}

static int write_info(struct boot *b)
{
    static const char loader[] = "Lodge";
    uint8_t info[INFO_SIZE] = {0};
    store_u32(info + INFO_FLAGS,
              HAS_MEMORY | HAS_CMDLINE | HAS_MODULES | HAS_MMAP | HAS_LOADER_NAME);
    store_u32(info + INFO_MEM_LOWER, BOOT_EBDA / 1024);
    store_u32(info + INFO_MEM_UPPER, (uint32_t)((boot_ram_below(b->memory) - MIB(1)) / 1024));
    store_u32(info + INFO_CMDLINE, BOOT_COMMAND_LINE);
    store_u32(info + INFO_LOADER_NAME, LOADER_NAME);
    int err = boot_write_command_line(b, CONFIG_APPEND - 1);
    if (err == OK)
        err = boot_write(b, LOADER_NAME, loader, sizeof(loader));
    if (err == OK)
        err = load_module(b, info);
    if (err == OK)
        err = write_mmap(b, info);
    return err != OK ? err : boot_write(b, BOOT_INFO, info, sizeof(info));
}

int boot_multiboot_load(struct boot *b, bool *mine)
{
    uint64_t entry = 0;
    size_t header = find_header(b);
    *mine = header < SEARCH;
    if (!*mine)
        return OK;
    uint32_t flags = load_u32(b->head + header + 4);
    uint32_t unknown = flags & FLAG_MUST & ~(uint32_t)(FLAG_ALIGN | FLAG_MEMORY);
    if (unknown)
        return boot_error(b,
                          "Multiboot kernel asks for what this machine does not have (header "
                          "flags 0x%x; bit 2 is a video mode)",
                          unknown);
    int err = flags & FLAG_ADDRESSES ? load_by_addresses(b, header, &entry) : load_elf(b, &entry);
    if (err == OK)
        err = write_info(b);
    b->entry = (struct boot_entry){.rip = entry, .rax = BOOT_MAGIC, .rbx = BOOT_INFO};
    return err;
}
