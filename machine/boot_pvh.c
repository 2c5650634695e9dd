/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * PVH: the direct boot ABI that began with Xen and that Linux (CONFIG_PVH) and the BSDs offer
 * (xen.git, docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h). An ELF file tells by a note
 * of owner "Xen" and type 18 where its 32-bit entry is; the kernel gets a struct hvm_start_info in
 * EBX. This is how an uncompressed vmlinux is booted.
 */
#include "core/mem.h"
#include "machine/boot.h"
#include "machine/elf.h"

enum {
    NOTE_PHYS32_ENTRY = 18,
    NOTE_HEADER = 12,

    START_MAGIC = 0x336EC578,
    START_SIZE = 56, /* struct hvm_start_info, version 1 */
    MEMMAP_ENTRY = 24,
    MODLIST_ENTRY = 32,
    MODLIST = BOOT_TABLES, /* one module at most */
    MEMMAP = BOOT_TABLES + 0x100,
};

static uint64_t align_up(uint64_t v, uint64_t alignment)
{
    return (v + alignment - 1) & ~(alignment - 1);
}

/* One PT_NOTE segment, which lies inside the file: sets *entry if the note is there. */
static bool find_entry(const uint8_t *p, uint64_t size, uint64_t alignment, uint64_t *entry)
{
    while (size >= NOTE_HEADER) {
        uint32_t name_size = load_u32(p);
        uint32_t desc_size = load_u32(p + 4);
        uint64_t desc = align_up((uint64_t)NOTE_HEADER + name_size, alignment);
        uint64_t next = align_up(desc + desc_size, alignment);
        if (desc + desc_size > size)
            return false;
        if (load_u32(p + 8) == NOTE_PHYS32_ENTRY && name_size == 4 &&
            memcmp(p + NOTE_HEADER, "Xen", 4) == 0 && (desc_size == 4 || desc_size == 8)) {
            *entry = desc_size == 8 ? load_u64(p + desc) : load_u32(p + desc);
            return true;
        }
        if (next >= size)
            return false;
        p += next;
        size -= next;
    }
    return false;
}

static bool find_note(const struct elf *e, uint64_t *entry)
{
    for (uint32_t n = 0; n < e->header_count; n++) {
        struct elf_segment s;
        elf_segment_get(e, n, &s);
        if (s.type == ELF_PT_NOTE &&
            find_entry(e->file + s.offset, s.file_size, s.alignment == 8 ? 8 : 4, entry))
            return true;
    }
    return false;
}

static int write_memmap(struct boot *b)
{
    uint8_t memmap[BOOT_RANGES * MEMMAP_ENTRY] = {0};
    for (uint32_t n = 0; n < b->map.count; n++) {
        store_u64(memmap + n * MEMMAP_ENTRY, b->map.range[n].base);
        store_u64(memmap + n * MEMMAP_ENTRY + 8, b->map.range[n].size);
        store_u32(memmap + n * MEMMAP_ENTRY + 16, b->map.range[n].type);
    }
    return boot_write(b, MEMMAP, memmap, (size_t)b->map.count * MEMMAP_ENTRY);
}

static int write_module(struct boot *b)
{
    uint8_t module[MODLIST_ENTRY] = {0};
    uint64_t base;
    int err = boot_claim_high(b, "initrd", b->files->initrd_size, GIB(4), &base);
    if (err == OK)
        err = boot_write(b, base, b->files->initrd, b->files->initrd_size);
    if (err != OK)
        return err;
    store_u64(module, base);
    store_u64(module + 8, b->files->initrd_size);
    return boot_write(b, MODLIST, module, sizeof(module));
}

static int write_start_info(struct boot *b)
{
    uint8_t info[START_SIZE] = {0};
    int err = boot_write_command_line(b, CONFIG_APPEND - 1);
    if (err == OK)
        err = write_memmap(b);
    if (err == OK && b->files->initrd_size > 0)
        err = write_module(b);
    if (err != OK)
        return err;
    store_u32(info, START_MAGIC);
    store_u32(info + 4, 1); /* version */
    store_u32(info + 12, b->files->initrd_size > 0);
    store_u64(info + 16, b->files->initrd_size > 0 ? MODLIST : 0);
    store_u64(info + 24, BOOT_COMMAND_LINE);
    store_u64(info + 32, b->rsdp);
    store_u64(info + 40, MEMMAP);
    store_u32(info + 48, b->map.count);
    return boot_write(b, BOOT_INFO, info, sizeof(info));
}

int boot_pvh_load(struct boot *b, bool *mine)
{
    struct elf e;
    uint64_t entry;
    *mine = false;
    if (!elf_is(b->files))
        return OK;
    int err = elf_open(b, &e);
    if (err != OK)
        return err;
    *mine = find_note(&e, &entry);
    if (!*mine)
        return OK;
    err = elf_load(b, &e);
    if (err != OK)
        return err;
    if (!boot_is_claimed(b, entry))
        return boot_error(b, "PVH entry 0x%llx is not in a loaded segment: the file is damaged",
                          (unsigned long long)entry);
    b->entry = (struct boot_entry){.rip = entry, .rbx = BOOT_INFO};
    return write_start_info(b);
}
