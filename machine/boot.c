/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What the boot protocols have in common: the memory map, the account of what lies where, and the
 * choice of the protocol.
 *
 * Files are not trusted (bad-inputs F4). Each protocol reads a field once, checks sums for
 * overflow, and asks for memory by boot_claim, which knows RAM and everything claimed before; so a
 * segment can neither lie outside RAM, nor on what Lodge itself puts there, nor on another segment.
 * The home has zeroed RAM, hence nobody here clears memory: a file that asks for a BSS of gigabytes
 * costs nothing.
 *
 * The order of the protocols: bzImage by its magic number; ELF with a PVH note; Multiboot header
 * (in ELF or not). A kernel with several entries is entered by the first of these.
 */
#include "machine/boot.h"

#include "core/fmt.h"
#include "core/mem.h"

void boot_map_make(struct boot_map *map, uint64_t memory)
{
    const struct boot_range range[BOOT_RANGES] = {
        /* table */
        {0, BOOT_EBDA, BOOT_RAM},
        {BOOT_EBDA, MIB(1) - BOOT_EBDA, BOOT_RESERVED},
        {MIB(1), boot_ram_below(memory) - MIB(1), BOOT_RAM},
        {LODGE_MMIO_ECAM, MIB(LODGE_ECAM_BUSES), BOOT_RESERVED},
        {LODGE_MMIO_IO_APIC, PAGE_SIZE, BOOT_RESERVED},
        {LODGE_MMIO_APIC, PAGE_SIZE, BOOT_RESERVED},
        {GIB(4), boot_ram_above(memory), BOOT_RAM},
    };
    memset(map, 0, sizeof(*map));
    for (size_t n = 0; n < ARRAY_SIZE(range); n++)
        if (range[n].size > 0)
            map->range[map->count++] = range[n];
}

int boot_error(struct boot *b, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fmt_v(b->message, PC_MESSAGE, format, ap);
    va_end(ap);
    return ERR_INVALID;
}

/* --- memory -------------------------------------------------------------------------------------
 */

static bool overlaps(const struct boot_range *r, uint64_t base, uint64_t size)
{
    return base < r->base + r->size && r->base < base + size;
}

/* The claim that [base, base + size) runs into, or NULL. base + size does not wrap. */
static const struct boot_range *find_claim(const struct boot *b, uint64_t base, uint64_t size)
{
    for (uint32_t n = 0; n < b->claims; n++)
        if (overlaps(&b->claim[n], base, size))
            return &b->claim[n];
    return NULL;
}

static bool is_ram(const struct boot *b, uint64_t base, uint64_t size)
{
    for (uint32_t n = 0; n < b->map.count; n++) {
        const struct boot_range *r = &b->map.range[n];
        if (r->type == BOOT_RAM && base >= r->base && base - r->base <= r->size &&
            size <= r->size - (base - r->base))
            return base >= BOOT_LOW_END;
    }
    return false;
}

int boot_claim(struct boot *b, const char *what, uint64_t base, uint64_t size)
{
    uint64_t end;
    if (__builtin_add_overflow(base, size, &end))
        return boot_error(b, "%s of 0x%llx bytes at 0x%llx wraps around: the file is damaged", what,
                          (unsigned long long)size, (unsigned long long)base);
    if (base >= MIB(1) && base < LODGE_MMIO_HOLE && end > boot_ram_below(b->memory) &&
        end <= LODGE_MMIO_HOLE)
        return boot_error(b,
                          "%s needs memory up to %llu MiB, and the VM has %llu MiB (give it more "
                          "with -m)",
                          what, (unsigned long long)((end + MIB(1) - 1) / MIB(1)),
                          (unsigned long long)(b->memory / MIB(1)));
    if (!is_ram(b, base, size) || end > LODGE_MMIO_HOLE)
        return boot_error(
            b,
            "%s at 0x%llx to 0x%llx does not lie in free RAM (64 to 639 KiB, or 1 MiB "
            "to 3 GiB)",
            what, (unsigned long long)base, (unsigned long long)(end - 1));
    const struct boot_range *other = find_claim(b, base, size);
    if (other)
        return boot_error(b,
                          "%s at 0x%llx overlaps what is already loaded at 0x%llx: the file is "
                          "damaged",
                          what, (unsigned long long)base, (unsigned long long)other->base);
    if (b->claims == BOOT_CLAIMS)
        return boot_error(b, "too many pieces to load (at most %d)", BOOT_CLAIMS);
    b->claim[b->claims++] = (struct boot_range){base, size, BOOT_RAM};
    return OK;
}

static int no_room(struct boot *b, const char *what, uint64_t size)
{
    return boot_error(b,
                      "no room for the %s (%llu MiB) beside the kernel in %llu MiB of memory "
                      "(give the VM more with -m)",
                      what, (unsigned long long)((size + MIB(1) - 1) / MIB(1)),
                      (unsigned long long)(b->memory / MIB(1)));
}

int boot_claim_high(struct boot *b, const char *what, uint64_t size, uint64_t limit, uint64_t *base)
{
    uint64_t end = boot_ram_below(b->memory);
    if (limit < end)
        end = limit;
    /* Each turn goes below one more claim. */
    for (uint32_t n = 0; n <= b->claims; n++) {
        if (end < size || end - size < MIB(1))
            break;
        *base = (end - size) & PAGE_MASK;
        const struct boot_range *other = find_claim(b, *base, size);
        if (!other)
            return boot_claim(b, what, *base, size);
        end = other->base;
    }
    return no_room(b, what, size);
}

int boot_claim_low(struct boot *b, const char *what, uint64_t size, uint64_t limit, uint64_t *base)
{
    uint64_t end = boot_ram_below(b->memory);
    uint64_t at = (limit < MIB(1) ? MIB(1) : limit) + PAGE_SIZE - 1;
    for (uint32_t n = 0; n <= b->claims; n++) {
        at &= PAGE_MASK;
        if (at > end || size > end - at)
            break;
        const struct boot_range *other = find_claim(b, at, size);
        if (!other) {
            *base = at;
            return boot_claim(b, what, at, size);
        }
        at = other->base + other->size + PAGE_SIZE - 1;
    }
    return no_room(b, what, size);
}

uint64_t boot_claimed_end(const struct boot *b)
{
    uint64_t end = 0;
    for (uint32_t n = 0; n < b->claims; n++)
        if (b->claim[n].base + b->claim[n].size > end)
            end = b->claim[n].base + b->claim[n].size;
    return end;
}

bool boot_is_claimed(const struct boot *b, uint64_t address)
{
    return address < UINT64_MAX && find_claim(b, address, 1) != NULL;
}

int boot_write(struct boot *b, uint64_t address, const void *bytes, size_t size)
{
    if (guest_mem_write(b->mem, gpa(address), bytes, size) != OK)
        return boot_error(b, "cannot write %zu bytes at 0x%llx of the guest's memory", size,
                          (unsigned long long)address);
    return OK;
}

typedef int boot_reader(void *owner, uint64_t offset, void *to, size_t n);

static int read_by(struct boot *b, const struct boot_file *f, boot_reader *reader, uint64_t offset,
                   void *to, size_t n)
{
    const char *what = f == &b->files->initrd ? "initrd" : "kernel";
    if (n == 0)
        return OK;
    if (offset > f->size || n > f->size - offset)
        return boot_error(b, "%s is cut off (copy the file again)", what);
    if (reader(f->owner, offset, to, n) != OK)
        return boot_error(b, "%s cannot be read (copy it to a disk first)", what);
    return OK;
}

int boot_read(struct boot *b, const struct boot_file *f, uint64_t offset, void *to, size_t n)
{
    return read_by(b, f, f->read, offset, to, n);
}

int boot_copy(struct boot *b, uint64_t address, const struct boot_file *f, uint64_t offset, size_t n)
{
    void *to = guest_mem_ptr(b->mem, gpa(address), n); /* what is claimed lies in one slot */
    if (!to)
        return boot_error(b, "cannot write %zu bytes at 0x%llx of the guest's memory", n,
                          (unsigned long long)address);
    return read_by(b, f, f->load ? f->load : f->read, offset, to, n);
}

/* Whole pages, claimed. False: they are to be copied now; that also says what is wrong with them. */
static bool leave_for_later(struct boot *b, uint64_t address, const struct boot_file *f,
                            uint64_t offset, size_t n)
{
    struct guest_mem_piece piece = {address, n, f->owner, offset};
    void *to = guest_mem_ptr(b->mem, gpa(address), n);
    if (!f->hide || n < BOOT_LATE || !to || offset > f->size || n > f->size - offset ||
        !guest_mem_has_late_room(b->mem) || !f->hide(f->owner, offset, to, n))
        return false;
    guest_mem_add_late(b->mem, &piece);
    return true;
}

int boot_copy_late(struct boot *b, uint64_t address, const struct boot_file *f, uint64_t offset,
                   size_t n, size_t now)
{
    size_t before = (size_t)(((address + now + PAGE_SIZE - 1) & PAGE_MASK) - address);
    size_t whole = n > before ? (size_t)((n - before) & PAGE_MASK) : 0;
    if (whole == 0 || !leave_for_later(b, address + before, f, offset + before, whole))
        return boot_copy(b, address, f, offset, n);
    int err = before == 0 ? OK : boot_copy(b, address, f, offset, before);
    size_t copied = before + whole;
    if (err == OK && n > copied)
        err = boot_copy(b, address + copied, f, offset + copied, n - copied);
    return err;
}

int boot_write_command_line(struct boot *b, size_t limit)
{
    size_t length = str_len(b->append);
    if (limit > CONFIG_APPEND - 1)
        limit = CONFIG_APPEND - 1;
    if (length > limit)
        return boot_error(b,
                          "the command line has %zu bytes, and this kernel takes %zu (shorten "
                          "--append)",
                          length, limit);
    return boot_write(b, BOOT_COMMAND_LINE, b->append, length + 1);
}

/* --- choice -------------------------------------------------------------------------------------
 */

/* A file that is no kernel, but that people try: says what to do about it. */
static int refuse_file(struct boot *b)
{
    static const struct {
        const char *magic;
        const char *what;
    } known[] = {
        /* table */
        {"\x1F\x8B", "the file is compressed with gzip (unpack it first)"},
        {"\xFD"
         "7zXZ",
         "the file is compressed with xz (unpack it first)"},
        {"\x28\xB5\x2F\xFD", "the file is compressed with zstd (unpack it first)"},
        {"BZh", "the file is compressed with bzip2 (unpack it first)"},
        {"!<arch>", "the file is a package or archive (unpack the kernel from it)"},
        {"\x7F"
         "ELF",
         "ELF file without a PVH note or a Multiboot header: not a kernel that can be "
         "booted (Linux: give the bzImage)"},
    };
    if (b->head_size == 0)
        return boot_error(b, "the file is empty");
    for (size_t n = 0; n < ARRAY_SIZE(known); n++) {
        size_t length = str_len(known[n].magic);
        if (b->head_size >= length && memcmp(b->head, known[n].magic, length) == 0)
            return boot_error(b, "%s", known[n].what);
    }
    return boot_error(b, "not a kernel: no bzImage, ELF or Multiboot header found (is it the "
                         "right file?)");
}

/* What a BIOS leaves in its data area and kernels look for there: where conventional memory ends,
 * and COM1's port. The EBDA's first byte is its size in KiB. */
static int write_bda(struct boot *b)
{
    uint8_t bda[0x20] = {0};
    uint8_t ebda = 1;
    store_u16(bda, LODGE_PORT_SERIAL);
    store_u16(bda + 0x0E, BOOT_EBDA >> 4);
    store_u16(bda + 0x13, BOOT_EBDA / 1024);
    int err = boot_write(b, BOOT_BDA, bda, sizeof(bda));
    return err != OK ? err : boot_write(b, BOOT_EBDA, &ebda, 1);
}

static int read_head(struct boot *b)
{
    size_t size = b->files->kernel.size;
    b->head_size = size < BOOT_HEAD ? size : BOOT_HEAD;
    return boot_read(b, &b->files->kernel, 0, b->head, b->head_size);
}

int boot_load(struct boot *b)
{
    static int (*const protocol[])(struct boot * b, bool *mine) = {
        boot_linux_load,
        boot_pvh_load,
        boot_multiboot_load,
    };
    b->claims = 0;
    memset(&b->entry, 0, sizeof(b->entry));
    boot_map_make(&b->map, b->memory);
    int err = write_bda(b);
    if (err == OK)
        err = read_head(b);
    if (err != OK)
        return err;
    for (size_t n = 0; n < ARRAY_SIZE(protocol); n++) {
        bool mine = false;
        err = protocol[n](b, &mine);
        if (err != OK || mine)
            return err;
    }
    return refuse_file(b);
}
