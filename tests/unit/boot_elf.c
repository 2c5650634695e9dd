/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* ELF kernels of both classes, entered through PVH: notes, segments, hvm_start_info. */
#include <string.h>

#include "core/mem.h"
#include "tests/lib/boot_env.h"
#include "tests/lib/unit.h"

enum { MEMORY = 32 << 20, FILE_SIZE = 0x3000, NOTE_AT = 0x400, ENTRY = 0x100020 };

static uint8_t file[FILE_SIZE];

static uint8_t *header(bool is_64, uint32_t n)
{
    return file + (is_64 ? 64 + n * 56 : 52 + n * 32);
}

static void put_segment(bool is_64, uint32_t n, uint32_t type, uint64_t offset, uint64_t address,
                        uint64_t file_size, uint64_t memory_size)
{
    uint8_t *p = header(is_64, n);
    store_u32(p, type);
    if (is_64) {
        store_u64(p + 8, offset);
        store_u64(p + 16, address + 0xFFFFFFFF80000000);
        store_u64(p + 24, address);
        store_u64(p + 32, file_size);
        store_u64(p + 40, memory_size);
        store_u64(p + 48, 4);
    } else {
        store_u32(p + 4, (uint32_t)offset);
        store_u32(p + 8, (uint32_t)address + 0xC0000000);
        store_u32(p + 12, (uint32_t)address);
        store_u32(p + 16, (uint32_t)file_size);
        store_u32(p + 20, (uint32_t)memory_size);
        store_u32(p + 28, 4);
    }
}

/* Two segments to load, and notes: one of somebody else's, then PVH's. */
static void make_file(bool is_64)
{
    memset(file, 0, sizeof(file));
    memcpy(file,
           "\x7F"
           "ELF",
           4);
    file[4] = is_64 ? 2 : 1;
    file[5] = 1;
    file[6] = 1;
    store_u16(file + 16, 2);
    store_u16(file + 18, is_64 ? 62 : 3);
    store_u32(file + 20, 1);
    store_u32(file + 24, 0x100000);
    store_u32(file + (is_64 ? 32 : 28), is_64 ? 64 : 52);
    store_u16(file + (is_64 ? 54 : 42), is_64 ? 56 : 32);
    store_u16(file + (is_64 ? 56 : 44), 3);
    put_segment(is_64, 0, 1, 0x1000, 0x100000, 0x1000, 0x1000);
    put_segment(is_64, 1, 1, 0x2000, 0x200000, 0x800, 0x100000);
    put_segment(is_64, 2, 4, NOTE_AT, 0, 64, 64);
    uint8_t *n = file + NOTE_AT;
    store_u32(n, 4);
    store_u32(n + 4, 5); /* padded to 8 */
    store_u32(n + 8, 18);
    memcpy(n + 12, "GNU", 4);
    n += 24;
    store_u32(n, 4);
    store_u32(n + 4, is_64 ? 8 : 4);
    store_u32(n + 8, 18);
    memcpy(n + 12, "Xen", 4);
    store_u32(n + 16, ENTRY);
    for (uint32_t i = 0x1000; i < 0x2800; i++)
        file[i] = (uint8_t)(i * 5 + 3);
}

static void check_loaded(const struct boot_env *e)
{
    CHECK(!e->boot.entry.long_mode);
    CHECK_EQ(e->boot.entry.rip, ENTRY);
    CHECK_EQ(e->boot.entry.rbx, BOOT_INFO);
    CHECK(memcmp(e->ram + 0x100000, file + 0x1000, 0x1000) == 0);
    CHECK(memcmp(e->ram + 0x200000, file + 0x2000, 0x800) == 0);
    CHECK_EQ(boot_env_get64(e, 0x200800), 0);
}

static void test_start_info(void)
{
    for (int is_64 = 0; is_64 < 2; is_64++) {
        struct boot_env e;
        static const uint8_t initrd[4097] = {1, 2, 3};
        unit_context("ELF%d", is_64 ? 64 : 32);
        boot_env_create(&e, MEMORY);
        make_file(is_64);
        boot_env_set_kernel(&e, file, sizeof(file));
        boot_env_set_initrd(&e, initrd, sizeof(initrd));
        e.boot.append = "a=b";
        CHECK_EQ(boot_env_load(&e), OK);
        CHECK_STR(e.message, "");
        check_loaded(&e);
        const uint8_t *info = e.ram + BOOT_INFO;
        CHECK_EQ(load_u32(info), 0x336EC578);
        CHECK_EQ(load_u32(info + 4), 1);
        CHECK_EQ(load_u32(info + 8), 0);
        CHECK_EQ(load_u32(info + 12), 1);
        CHECK_STR((const char *)e.ram + load_u64(info + 24), "a=b");
        CHECK_EQ(load_u64(info + 32), BOOT_ACPI);
        const uint8_t *module = e.ram + load_u64(info + 16);
        CHECK_EQ(load_u64(module), MEMORY - 0x2000);
        CHECK_EQ(load_u64(module + 8), sizeof(initrd));
        CHECK(memcmp(e.ram + load_u64(module), initrd, sizeof(initrd)) == 0);
        const uint8_t *map = e.ram + load_u64(info + 40);
        CHECK_EQ(load_u32(info + 48), 6);
        CHECK_EQ(load_u64(map + 2 * 24), 0x100000);
        CHECK_EQ(load_u64(map + 2 * 24 + 8), MEMORY - 0x100000);
        CHECK_EQ(load_u32(map + 2 * 24 + 16), 1);
        CHECK_EQ(load_u32(map + 24 + 16), 2);
        boot_env_destroy(&e);
    }
    unit_context(NULL);
}

static void test_no_initrd(void)
{
    struct boot_env e;
    boot_env_create(&e, MEMORY);
    make_file(true);
    boot_env_set_kernel(&e, file, sizeof(file));
    CHECK_EQ(boot_env_load(&e), OK);
    CHECK_EQ(boot_env_get32(&e, BOOT_INFO + 12), 0);
    CHECK_EQ(boot_env_get64(&e, BOOT_INFO + 16), 0);
    boot_env_destroy(&e);
}

struct bad {
    const char *name;
    uint32_t offset, size; /* in an ELF64 file */
    uint64_t value;
    const char *message;
};

enum { PH0 = 64, PH1 = 64 + 56, PH2 = 64 + 112 };

static const struct bad bad_files[] = {
    /* table */
    {"class", 4, 1, 3, "ELF file of a kind that no x86 kernel has (class 3, data 1)"},
    {"big-endian", 5, 1, 2, "ELF file of a kind that no x86 kernel has (class 2, data 2)"},
    {"arm", 18, 2, 183, "ELF file for another processor (machine 183): an x86 kernel is needed"},
    {"object", 16, 2, 1, "ELF file is not an executable (type 1)"},
    {"no headers", 56, 2, 0, "ELF file has no program headers: not an executable"},
    {"many headers", 56, 2, 65535,
     "ELF file has absurd program headers (65535 of 56 bytes; at most "
     "64 of 56 are taken)"},
    {"header size", 54, 2, 1,
     "ELF file has absurd program headers (3 of 1 bytes; at most 64 of 56 "
     "are taken)"},
    {"header offset", 32, 8, UINT64_MAX - 10,
     "ELF program headers lie beyond the end of the file "
     "(the file is cut off or damaged)"},
    {"header offset 2", 32, 8, FILE_SIZE - 3 * 56 + 1,
     "ELF program headers lie beyond the end of "
     "the file (the file is cut off or damaged)"},
    {"offset", PH0 + 8, 8, UINT64_MAX,
     "ELF segment 0 lies beyond the end of the file (the file is "
     "cut off or damaged)"},
    {"offset 2", PH0 + 8, 8, FILE_SIZE - 0xFFF,
     "ELF segment 0 lies beyond the end of the file (the "
     "file is cut off or damaged)"},
    {"note offset", PH2 + 8, 8, FILE_SIZE - 63,
     "ELF segment 2 lies beyond the end of the file (the "
     "file is cut off or damaged)"},
    {"file size", PH0 + 32, 8, 0x1001,
     "ELF segment 0 is larger in the file than in memory: the file "
     "is damaged"},
    {"wrap", PH1 + 40, 8, UINT64_MAX,
     "ELF segment 1 of 0xffffffffffffffff bytes at 0x200000 wraps "
     "around: the file is damaged"},
    {"memory", PH1 + 40, 8, 40 << 20,
     "ELF segment 1 needs memory up to 42 MiB, and the VM has 32 "
     "MiB (give it more with -m)"},
    {"too low", PH0 + 24, 8, 0x1000,
     "ELF segment 0 at 0x1000 to 0x1fff does not lie in free RAM (64 "
     "to 639 KiB, or 1 MiB to 3 GiB)"},
    {"on ACPI", PH0 + 24, 8, 0xF0000,
     "ELF segment 0 at 0xf0000 to 0xf0fff does not lie in free RAM "
     "(64 to 639 KiB, or 1 MiB to 3 GiB)"},
    {"across EBDA", PH0 + 24, 8, 0x9F000,
     "ELF segment 0 at 0x9f000 to 0x9ffff does not lie in free "
     "RAM (64 to 639 KiB, or 1 MiB to 3 GiB)"},
    {"above 4G", PH0 + 24, 8, 1ull << 32,
     "ELF segment 0 at 0x100000000 to 0x100000fff does not lie "
     "in free RAM (64 to 639 KiB, or 1 MiB to 3 GiB)"},
    {"overlap", PH1 + 24, 8, 0x100FFF,
     "ELF segment 1 at 0x100fff overlaps what is already loaded at "
     "0x100000: the file is damaged"},
    {"entry", NOTE_AT + 24 + 16, 8, 0x101000,
     "PVH entry 0x101000 is not in a loaded segment: the "
     "file is damaged"},
    {"entry 2", NOTE_AT + 24 + 16, 8, UINT64_MAX,
     "PVH entry 0xffffffffffffffff is not in a loaded "
     "segment: the file is damaged"},
    {"note size", NOTE_AT + 24 + 4, 4, UINT32_MAX,
     "ELF file without a PVH note or a Multiboot "
     "header: not a kernel that can be booted (Linux: "
     "give the bzImage)"},
    {"note name size", NOTE_AT, 4, UINT32_MAX,
     "ELF file without a PVH note or a Multiboot header: "
     "not a kernel that can be booted (Linux: give the "
     "bzImage)"},
    {"note type", NOTE_AT + 24 + 8, 4, 17,
     "ELF file without a PVH note or a Multiboot header: not a "
     "kernel that can be booted (Linux: give the bzImage)"},
};

static void test_bad_files(void)
{
    for (size_t n = 0; n < sizeof(bad_files) / sizeof(bad_files[0]); n++) {
        const struct bad *bad = &bad_files[n];
        struct boot_env e;
        unit_context("%s", bad->name);
        boot_env_create(&e, MEMORY);
        make_file(true);
        memcpy(file + bad->offset, &bad->value, bad->size);
        boot_env_set_kernel(&e, file, sizeof(file));
        CHECK_EQ(boot_env_load(&e), ERR_INVALID);
        CHECK_STR(e.message, bad->message);
        boot_env_destroy(&e);
    }
    unit_context(NULL);
}

static void test_nothing_to_load(void)
{
    struct boot_env e;
    boot_env_create(&e, MEMORY);
    make_file(true);
    store_u32(file + PH0, 0);
    store_u32(file + PH1, 0);
    boot_env_set_kernel(&e, file, sizeof(file));
    CHECK_EQ(boot_env_load(&e), ERR_INVALID);
    CHECK_STR(e.message, "ELF file has nothing to load");
    boot_env_destroy(&e);
}

static void test_truncation(void)
{
    for (int is_64 = 0; is_64 < 2; is_64++) {
        struct boot_env e;
        boot_env_create(&e, MEMORY);
        make_file(is_64);
        for (size_t size = 0; size < 0x2800; size += size < 0x500 ? 1 : 255) {
            unit_context("ELF%d, %zu bytes", is_64 ? 64 : 32, size);
            boot_env_set_kernel(&e, file, size);
            CHECK_EQ(boot_env_load(&e), ERR_INVALID);
            CHECK(e.message[0] != 0);
        }
        boot_env_destroy(&e);
    }
    unit_context(NULL);
}

/* A program header on itself, as note, must not loop: the notes are bounded by their own sizes. */
static void test_note_loop(void)
{
    struct boot_env e;
    boot_env_create(&e, MEMORY);
    make_file(true);
    store_u64(header(true, 2) + 8, 0x2800); /* zeros: notes without name and contents */
    store_u64(header(true, 2) + 32, 0x800);
    boot_env_set_kernel(&e, file, sizeof(file));
    CHECK_EQ(boot_env_load(&e), ERR_INVALID);
    boot_env_destroy(&e);
}

int main(void)
{
    UNIT_RUN(test_start_info);
    UNIT_RUN(test_no_initrd);
    UNIT_RUN(test_bad_files);
    UNIT_RUN(test_nothing_to_load);
    UNIT_RUN(test_truncation);
    UNIT_RUN(test_note_loop);
    return unit_done();
}
