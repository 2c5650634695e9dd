/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The boot information: a list of tags, each with its type and size, padded to 8 bytes (Multiboot 2, section 3.6). It
 * lies in memory that is ours to hand out, so what matters is copied, and it comes from firmware and a boot loader,
 * so every length is checked against what contains it. Unknown tags are skipped.
 *
 * Memory maps of firmware overlap, are not sorted and may wrap. They are taken apart at every bound, and each piece
 * gets the least usable kind that covers it; neighbours of one kind are joined; RAM is then trimmed to whole pages.
 * The map of EFI (tag 17; UEFI 2.10, 7.2.3) is used if there is no other.
 *
 * Pure: reads what it is given and writes *b.
 */
#include "native/boot_info.h"

#include "core/fmt.h"
#include "core/mem.h"

enum { /* Multiboot 2, section 3.6: types of tags */
    TAG_END = 0,
    TAG_COMMAND = 1,
    TAG_LOADER = 2,
    TAG_MODULE = 3,
    TAG_MAP = 6,
    TAG_SCREEN = 8,
    TAG_EFI32 = 11,
    TAG_EFI64 = 12,
    TAG_RSDP_1 = 14,
    TAG_RSDP_2 = 15,
    TAG_EFI_MAP = 17,
};

enum { RAW_RANGES = 512, TAG_HEADER = 8, MODULE_HEADER = 16, MAP_HEADER = 16 };

struct reader {
    struct boot_info *b;
    const uint8_t *map, *efi_map; /* tags, 0: there is none */
    uint32_t map_size, efi_map_size;
};

static uint32_t pick(uint32_t n, uint32_t max)
{
    return n < max ? n : max;
}

/* A string in `size` bytes that may lack its end. */
static void copy_string(char *dst, size_t room, const uint8_t *src, uint32_t size)
{
    size_t n = 0;

    while (n + 1 < room && n < size && src[n]) {
        dst[n] = (char)src[n];
        n++;
    }
    dst[n] = 0;
}

static void read_module(struct boot_info *b, const uint8_t *tag, uint32_t size)
{
    uint32_t start = 0, end = 0;
    struct boot_module *m = &b->module[b->modules];

    if (size >= MODULE_HEADER) {
        start = load_u32(tag + 8);
        end = load_u32(tag + 12);
    }
    if (size < MODULE_HEADER || end < start || b->modules == BOOT_MODULES) {
        b->left_out++;
        return;
    }
    m->base = start;
    m->size = end - start;
    copy_string(m->command, sizeof(m->command), tag + MODULE_HEADER, size - MODULE_HEADER);
    b->modules++;
}

/* Multiboot 2, section 3.6.12: of the colours only direct ones are of use. */
static void read_screen(struct boot_info *b, const uint8_t *tag, uint32_t size)
{
    struct boot_screen s = {.type = BOOT_SCREEN_NONE};

    if (size < 32)
        return;
    s.address = load_u64(tag + 8);
    s.pitch = load_u32(tag + 16);
    s.width = load_u32(tag + 20);
    s.height = load_u32(tag + 24);
    s.bits = tag[28];
    s.type = tag[29];
    if (s.type > BOOT_SCREEN_TEXT || (s.type == BOOT_SCREEN_RGB && size < 38))
        return;
    if (s.width > 16384 || s.height > 16384 || s.pitch > 16384 * 8 || s.address > UINT64_MAX - GIB(4))
        return;
    if ((uint64_t)s.width * s.bits > (uint64_t)s.pitch * 8)
        return;
    if (s.type == BOOT_SCREEN_RGB) {
        memcpy(&s.red, tag + 32, 2);
        memcpy(&s.green, tag + 34, 2);
        memcpy(&s.blue, tag + 36, 2);
    }
    b->screen = s;
}

static void read_rsdp(struct boot_info *b, const uint8_t *tag, uint32_t size, bool second)
{
    uint32_t n = pick(size - TAG_HEADER, BOOT_RSDP);

    if (b->rsdp_size && !second) /* the newer one has come first */
        return;
    memcpy(b->rsdp, tag + TAG_HEADER, n);
    b->rsdp_size = n;
}

static void read_tag(struct reader *r, uint32_t type, const uint8_t *tag, uint32_t size)
{
    struct boot_info *b = r->b;

    if (type == TAG_COMMAND) {
        copy_string(b->command, sizeof(b->command), tag + TAG_HEADER, size - TAG_HEADER);
    } else if (type == TAG_LOADER) {
        copy_string(b->loader, sizeof(b->loader), tag + TAG_HEADER, size - TAG_HEADER);
    } else if (type == TAG_MODULE) {
        read_module(b, tag, size);
    } else if (type == TAG_MAP) {
        r->map = tag;
        r->map_size = size;
    } else if (type == TAG_EFI_MAP) {
        r->efi_map = tag;
        r->efi_map_size = size;
        b->efi = true;
    } else if (type == TAG_SCREEN) {
        read_screen(b, tag, size);
    } else if (type == TAG_EFI32 || type == TAG_EFI64) {
        b->efi = true;
    } else if (type == TAG_RSDP_1 || type == TAG_RSDP_2) {
        read_rsdp(b, tag, size, type == TAG_RSDP_2);
    }
}

/* --- the memory map ---------------------------------------------------------------------------- */

struct raw_map {
    uint32_t count;
    struct boot_range range[RAW_RANGES];
    uint32_t bounds;
    uint64_t bound[2 * RAW_RANGES];
};

static void raw_add(struct boot_info *b, struct raw_map *m, uint64_t base, uint64_t size, uint32_t kind)
{
    if (size == 0)
        return;
    if (m->count == RAW_RANGES) {
        b->left_out++;
        return;
    }
    if (size > UINT64_MAX - base)
        size = UINT64_MAX - base;
    m->range[m->count++] = (struct boot_range){base, base + size, kind};
}

/* Multiboot 2, section 3.6.8 */
static void raw_from_map(struct boot_info *b, struct raw_map *m, const uint8_t *tag, uint32_t size)
{
    static const uint8_t kinds[] = {BOOT_RESERVED, BOOT_RAM, BOOT_RESERVED, BOOT_ACPI, BOOT_NVS, BOOT_BAD};
    uint32_t step = size >= MAP_HEADER ? load_u32(tag + 8) : 0;

    if (step < 24)
        return;
    for (uint64_t at = MAP_HEADER; at + step <= size; at += step) {
        uint32_t type = load_u32(tag + at + 16);
        uint32_t kind = type < sizeof(kinds) ? kinds[type] : (uint32_t)BOOT_RESERVED;

        raw_add(b, m, load_u64(tag + at), load_u64(tag + at + 8), kind);
    }
}

/* UEFI 2.10, 7.2.3 (EFI_MEMORY_DESCRIPTOR) and table 7.10: what is whose after ExitBootServices */
static void raw_from_efi(struct boot_info *b, struct raw_map *m, const uint8_t *tag, uint32_t size)
{
    static const uint8_t kinds[] = {
        BOOT_RESERVED, BOOT_RAM,      BOOT_RAM,      BOOT_RAM, BOOT_RAM, /* loader's, boot services' */
        BOOT_RESERVED, BOOT_RESERVED, BOOT_RAM,                          /* runtime services', free */
        BOOT_BAD,      BOOT_ACPI,     BOOT_NVS,
    };
    uint32_t step = size >= MAP_HEADER ? load_u32(tag + 8) : 0;

    if (step < 40)
        return;
    for (uint64_t at = MAP_HEADER; at + step <= size; at += step) {
        uint32_t type = load_u32(tag + at);
        uint64_t pages = load_u64(tag + at + 24);
        uint64_t bytes = pages <= UINT64_MAX >> PAGE_SHIFT ? pages << PAGE_SHIFT : UINT64_MAX;

        raw_add(b, m, load_u64(tag + at + 8), bytes, type < sizeof(kinds) ? kinds[type] : (uint32_t)BOOT_RESERVED);
    }
}

static void sort_bounds(struct raw_map *m)
{
    for (uint32_t i = 0; i < m->count; i++) {
        m->bound[m->bounds++] = m->range[i].base;
        m->bound[m->bounds++] = m->range[i].end;
    }
    for (uint32_t i = 1; i < m->bounds; i++) { /* nearly sorted as it comes */
        uint64_t v = m->bound[i];
        uint32_t k = i;

        for (; k > 0 && m->bound[k - 1] > v; k--)
            m->bound[k] = m->bound[k - 1];
        m->bound[k] = v;
    }
}

static uint32_t raw_kind(const struct raw_map *m, uint64_t base)
{
    uint32_t kind = 0;

    for (uint32_t i = 0; i < m->count; i++) {
        if (m->range[i].base <= base && base < m->range[i].end && m->range[i].kind > kind)
            kind = m->range[i].kind;
    }
    return kind;
}

static void put_range(struct boot_info *b, uint64_t base, uint64_t end, uint32_t kind)
{
    struct boot_range *last = b->ranges ? &b->range[b->ranges - 1] : NULL;

    if (last && last->kind == kind && last->end == base) {
        last->end = end;
    } else if (b->ranges == BOOT_RANGES) {
        b->left_out++;
    } else {
        b->range[b->ranges++] = (struct boot_range){base, end, kind};
    }
}

static void trim_ram(struct boot_info *b)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < b->ranges; i++) {
        struct boot_range r = b->range[i];

        if (r.kind == BOOT_RAM) {
            r.base = r.base > PAGE_MASK ? PAGE_MASK : (r.base + PAGE_SIZE - 1) & PAGE_MASK;
            r.end &= PAGE_MASK;
        }
        if (r.base < r.end)
            b->range[kept++] = r;
    }
    b->ranges = kept;
}

static void make_ranges(struct boot_info *b, struct raw_map *m)
{
    sort_bounds(m);
    for (uint32_t i = 0; i + 1 < m->bounds; i++) {
        uint32_t kind = m->bound[i] < m->bound[i + 1] ? raw_kind(m, m->bound[i]) : 0;

        if (kind)
            put_range(b, m->bound[i], m->bound[i + 1], kind);
    }
    trim_ram(b);
}

static int read_map(struct reader *r, char *message, size_t message_size)
{
    static struct raw_map m; /* too large for a stack; used once, at boot, by one CPU */

    m.count = m.bounds = 0;
    if (r->map)
        raw_from_map(r->b, &m, r->map, r->map_size);
    if (m.count == 0 && r->efi_map) {
        raw_from_efi(r->b, &m, r->efi_map, r->efi_map_size);
        r->b->from_efi_map = true;
    }
    make_ranges(r->b, &m);
    for (uint32_t i = 0; i < r->b->ranges; i++) {
        if (r->b->range[i].kind == BOOT_RAM)
            return OK;
    }
    fmt(message, message_size, "the boot loader passed no memory map with RAM");
    return ERR_INVALID;
}

int boot_info_read(struct boot_info *b, const void *info, size_t available, char *message, size_t message_size)
{
    const uint8_t *p = info;
    struct reader r = {.b = b};
    uint64_t total = available >= 8 ? load_u32(p) : 0;

    memset(b, 0, offsetof(struct boot_info, module));
    b->screen.type = BOOT_SCREEN_NONE;
    if (total < 16 || total > available || total > BOOT_INFO_MAX) {
        fmt(message, message_size, "boot information of %llu bytes", (unsigned long long)total);
        return ERR_RANGE;
    }
    for (uint64_t at = 8; at + TAG_HEADER <= total;) {
        uint32_t type = load_u32(p + at), size = load_u32(p + at + 4);

        if (type == TAG_END)
            return read_map(&r, message, message_size);
        if (size < TAG_HEADER || size > total - at) {
            fmt(message, message_size, "boot information: tag %u of %u bytes at %llu of %llu", type, size,
                (unsigned long long)at, (unsigned long long)total);
            return ERR_INVALID;
        }
        read_tag(&r, type, p + at, size);
        at += ((uint64_t)size + 7) & ~(uint64_t)7;
    }
    fmt(message, message_size, "boot information without an end");
    return ERR_TRUNCATED;
}

uint32_t boot_info_kind(const struct boot_info *b, uint64_t address)
{
    for (uint32_t i = 0; i < b->ranges; i++) {
        if (b->range[i].base <= address && address < b->range[i].end)
            return b->range[i].kind;
    }
    return 0;
}

const struct boot_module *boot_info_module_in(const struct boot_info *b, uint64_t base, uint64_t size)
{
    for (uint32_t i = 0; i < b->modules; i++) {
        const struct boot_module *m = &b->module[i];

        if (m->base < base + size && base < m->base + m->size)
            return m;
    }
    return NULL;
}

bool boot_info_option(const struct boot_info *b, const char *word)
{
    size_t length = str_len(word);

    for (const char *p = b->command; *p;) {
        size_t n = 0;

        while (p[n] && p[n] != ' ')
            n++;
        if (n == length && memcmp(p, word, n) == 0)
            return true;
        p += n;
        while (*p == ' ')
            p++;
    }
    return false;
}
