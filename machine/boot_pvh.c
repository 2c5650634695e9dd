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
    NOTE_DESC = NOTE_HEADER + 4, /* behind the name "Xen", with either alignment */
    NOTE_ROOM = NOTE_DESC + 8,
    NOTES = 256, /* that are looked at, of a segment: Linux has about 20 */

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

/* Is this the note, of which the first NOTE_ROOM bytes are here? Then *entry is what it says. */
static bool is_entry(const uint8_t *note, uint32_t name_size, uint32_t desc_size, uint64_t *entry)
{
    if (load_u32(note + 8) != NOTE_PHYS32_ENTRY || name_size != 4 ||
        memcmp(note + NOTE_HEADER, "Xen", 4) != 0 || (desc_size != 4 && desc_size != 8))
        return false;
    *entry = desc_size == 8 ? load_u64(note + NOTE_DESC) : load_u32(note + NOTE_DESC);
    return true;
}

/* Looks through one PT_NOTE segment. */
static int find_in_segment(struct boot *b, const struct elf_segment *s, uint64_t *entry, bool *found)
{
    uint64_t alignment = s->alignment == 8 ? 8 : 4;
    uint64_t at = s->offset, left = s->file_size;
    for (int i = 0; i < NOTES && left >= NOTE_HEADER; i++) {
        uint8_t note[NOTE_ROOM] = {0};
        int err = boot_read(b, &b->files->kernel, at, note, left < NOTE_ROOM ? left : NOTE_ROOM);
        if (err != OK)
            return err;
        uint32_t name_size = load_u32(note), desc_size = load_u32(note + 4);
        uint64_t desc = align_up((uint64_t)NOTE_HEADER + name_size, alignment);
        uint64_t next = align_up(desc + desc_size, alignment);
        if (desc + desc_size > left)
            break;
        *found = is_entry(note, name_size, desc_size, entry);
        if (*found || next >= left)
            break;
        at += next;
        left -= next;
    }
    return OK;
}

static int find_note(struct boot *b, const struct elf *e, uint64_t *entry, bool *found)
{
    int err = OK;
    for (uint32_t n = 0; n < e->header_count && err == OK && !*found; n++) {
        struct elf_segment s;
        elf_segment_get(e, n, &s);
        if (s.type == ELF_PT_NOTE)
            err = find_in_segment(b, &s, entry, found);
    }
    return err;
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
    int err = boot_claim_high(b, "initrd", b->files->initrd.size, GIB(4), &base);
    if (err == OK)
        err = boot_copy_late(b, base, &b->files->initrd, 0, b->files->initrd.size, 0);
    if (err != OK)
        return err;
    store_u64(module, base);
    store_u64(module + 8, b->files->initrd.size);
    return boot_write(b, MODLIST, module, sizeof(module));
}

static int write_start_info(struct boot *b)
{
    uint8_t info[START_SIZE] = {0};
    int err = boot_write_command_line(b, CONFIG_APPEND - 1);
    if (err == OK)
        err = write_memmap(b);
    if (err == OK && b->files->initrd.size > 0)
        err = write_module(b);
    if (err != OK)
        return err;
    store_u32(info, START_MAGIC);
    store_u32(info + 4, 1); /* version */
    store_u32(info + 12, b->files->initrd.size > 0);
    store_u64(info + 16, b->files->initrd.size > 0 ? MODLIST : 0);
    store_u64(info + 24, BOOT_COMMAND_LINE);
    store_u64(info + 32, b->rsdp);
    store_u64(info + 40, MEMMAP);
    store_u32(info + 48, b->map.count);
    return boot_write(b, BOOT_INFO, info, sizeof(info));
}

int boot_pvh_load(struct boot *b, bool *mine)
{
    struct elf e;
    uint64_t entry = 0;
    *mine = false;
    if (!elf_is(b))
        return OK;
    int err = elf_open(b, &e);
    if (err == OK)
        err = find_note(b, &e, &entry, mine);
    if (err != OK || !*mine)
        return err;
    err = elf_load(b, &e);
    if (err != OK)
        return err;
    if (!boot_is_claimed(b, entry))
        return boot_error(b, "PVH entry 0x%llx is not in a loaded segment: the file is damaged",
                          (unsigned long long)entry);
    b->entry = (struct boot_entry){.rip = entry, .rbx = BOOT_INFO};
    return write_start_info(b);
}
