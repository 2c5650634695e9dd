/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The ELF reader for kernels. Section headers are not looked at: a kernel is loaded by its program
 * headers alone. elf_open checks once that every program header, and every segment's bytes, lie
 * inside the file; nothing after it needs to.
 */
#include "machine/elf.h"

#include "core/fmt.h"
#include "core/mem.h"

/* ELF header and program header by class: offsets of the fields (System V ABI, figures 4-3, 5-1).
 */
enum {
    EI_CLASS = 4,
    EI_DATA = 5,
    EI_VERSION = 6,
    E_TYPE = 16,
    E_MACHINE = 18,
    CLASS_32 = 1,
    CLASS_64 = 2,
    DATA_LITTLE = 1,
    TYPE_EXEC = 2,
    TYPE_DYN = 3,
    MACHINE_386 = 3,
    MACHINE_X86_64 = 62,
};

struct elf_layout {
    uint8_t word; /* bytes of an address or size */
    uint8_t header_size, entry, phoff, phentsize, phnum;
    uint8_t ph_size, ph_offset, ph_vaddr, ph_paddr, ph_filesz, ph_memsz, ph_align;
};

static const struct elf_layout layouts[2] = {
    /* table */
    {4, 52, 24, 28, 42, 44, 32, 4, 8, 12, 16, 20, 28},
    {8, 64, 24, 32, 54, 56, ELF_HEADER_MAX, 8, 16, 24, 32, 40, 48},
};

static uint64_t load_word(const uint8_t *p, const struct elf_layout *l)
{
    return l->word == 8 ? load_u64(p) : load_u32(p);
}

bool elf_is(const struct boot *b)
{
    return b->head_size >= 4 && memcmp(b->head,
                                       "\x7F"
                                       "ELF",
                                       4) == 0;
}

static int check_ident(struct boot *b)
{
    const uint8_t *f = b->head;
    if (b->head_size < layouts[0].header_size)
        return boot_error(b, "ELF file is cut off in its header (copy it again)");
    if ((f[EI_CLASS] != CLASS_32 && f[EI_CLASS] != CLASS_64) || f[EI_DATA] != DATA_LITTLE ||
        f[EI_VERSION] != 1)
        return boot_error(b, "ELF file of a kind that no x86 kernel has (class %u, data %u)",
                          f[EI_CLASS], f[EI_DATA]);
    uint16_t machine = load_u16(f + E_MACHINE);
    if (machine != MACHINE_386 && machine != MACHINE_X86_64)
        return boot_error(b, "ELF file for another processor (machine %u): an x86 kernel is needed",
                          machine);
    uint16_t type = load_u16(f + E_TYPE);
    if (type != TYPE_EXEC && type != TYPE_DYN)
        return boot_error(b, "ELF file is not an executable (type %u)", type);
    return OK;
}

static int check_segments(struct boot *b, const struct elf *e)
{
    for (uint32_t n = 0; n < e->header_count; n++) {
        struct elf_segment s;
        uint64_t end;
        elf_segment_get(e, n, &s);
        if (s.type != ELF_PT_LOAD && s.type != ELF_PT_NOTE)
            continue;
        if (__builtin_add_overflow(s.offset, s.file_size, &end) || end > b->files->kernel.size)
            return boot_error(b,
                              "ELF segment %u lies beyond the end of the file (the file is cut "
                              "off or damaged)",
                              n);
        if (s.type == ELF_PT_LOAD && s.file_size > s.memory_size)
            return boot_error(b,
                              "ELF segment %u is larger in the file than in memory: the file is "
                              "damaged",
                              n);
    }
    return OK;
}

int elf_open(struct boot *b, struct elf *e)
{
    const uint8_t *h = b->head;
    const struct boot_file *file = &b->files->kernel;
    int err = check_ident(b);
    if (err != OK)
        return err;
    e->is_64 = h[EI_CLASS] == CLASS_64;
    const struct elf_layout *l = &layouts[e->is_64];
    if (b->head_size < l->header_size)
        return boot_error(b, "ELF file is cut off in its header (copy it again)");
    uint64_t offset = load_word(h + l->phoff, l);
    e->entry = load_word(h + l->entry, l);
    e->header_count = load_u16(h + l->phnum);
    if (e->header_count == 0)
        return boot_error(b, "ELF file has no program headers: not an executable");
    if (e->header_count > BOOT_SEGMENTS || load_u16(h + l->phentsize) != l->ph_size)
        return boot_error(b,
                          "ELF file has absurd program headers (%u of %u bytes; at most %d of %u "
                          "are taken)",
                          e->header_count, load_u16(h + l->phentsize), BOOT_SEGMENTS,
                          l->ph_size);
    uint64_t length = (uint64_t)e->header_count * l->ph_size;
    if (length > file->size || offset > file->size - length)
        return boot_error(b, "ELF program headers lie beyond the end of the file (the file is cut "
                             "off or damaged)");
    err = boot_read(b, file, offset, e->headers, (size_t)length);
    return err != OK ? err : check_segments(b, e);
}

void elf_segment_get(const struct elf *e, uint32_t n, struct elf_segment *s)
{
    const struct elf_layout *l = &layouts[e->is_64];
    const uint8_t *p = e->headers + (size_t)n * l->ph_size;
    s->type = load_u32(p);
    s->offset = load_word(p + l->ph_offset, l);
    s->virtual_address = load_word(p + l->ph_vaddr, l);
    s->physical_address = load_word(p + l->ph_paddr, l);
    s->file_size = load_word(p + l->ph_filesz, l);
    s->memory_size = load_word(p + l->ph_memsz, l);
    s->alignment = load_word(p + l->ph_align, l);
}

int elf_load(struct boot *b, const struct elf *e)
{
    bool loaded = false;
    for (uint32_t n = 0; n < e->header_count; n++) {
        struct elf_segment s;
        char what[32];
        elf_segment_get(e, n, &s);
        if (s.type != ELF_PT_LOAD || s.memory_size == 0)
            continue;
        fmt(what, sizeof(what), "ELF segment %u", n);
        int err = boot_claim(b, what, s.physical_address, s.memory_size);
        if (err == OK && s.file_size > 0)
            err = boot_copy(b, s.physical_address, &b->files->kernel, s.offset,
                            (size_t)s.file_size);
        if (err != OK)
            return err;
        loaded = true;
    }
    return loaded ? OK : boot_error(b, "ELF file has nothing to load");
}

int elf_physical_entry(struct boot *b, const struct elf *e, uint64_t *entry)
{
    *entry = e->entry;
    for (uint32_t n = 0; n < e->header_count; n++) {
        struct elf_segment s;
        elf_segment_get(e, n, &s);
        if (s.type == ELF_PT_LOAD && e->entry >= s.virtual_address &&
            e->entry - s.virtual_address < s.memory_size) {
            *entry = s.physical_address + (e->entry - s.virtual_address);
            break;
        }
    }
    if (!boot_is_claimed(b, *entry))
        return boot_error(b, "ELF entry 0x%llx is not in a loaded segment: the file is damaged",
                          (unsigned long long)e->entry);
    return OK;
}
