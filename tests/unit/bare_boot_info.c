/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The boot loader's tags (native/boot_info.c): as GRUB makes them, as bad firmware does, and mutilated. */
#include <stdlib.h>
#include <string.h>

#include "native/boot_info.h"
#include "tests/lib/unit.h"

enum { ROOM = 32768 };

static uint8_t info[ROOM];
static uint32_t used;
static struct boot_info b;
static char message[160];

static void put(const void *p, uint32_t size)
{
    memcpy(info + used, p, size);
    used += size;
}

static void put_u32(uint32_t v)
{
    put(&v, 4);
}

static void put_u64(uint64_t v)
{
    put(&v, 8);
}

static void begin(void)
{
    memset(info, 0, sizeof(info));
    used = 8;
}

static uint32_t tag(uint32_t type)
{
    uint32_t at = used;

    put_u32(type);
    put_u32(0);
    return at;
}

static void tag_end(uint32_t at)
{
    uint32_t size = used - at;

    memcpy(info + at + 4, &size, 4);
    used = (used + 7) & ~7u;
}

static void string_tag(uint32_t type, const char *s)
{
    uint32_t at = tag(type);

    put(s, (uint32_t)strlen(s) + 1);
    tag_end(at);
}

static void module(uint32_t start, uint32_t end, const char *command)
{
    uint32_t at = tag(3);

    put_u32(start);
    put_u32(end);
    put(command, (uint32_t)strlen(command) + 1);
    tag_end(at);
}

static uint32_t map_begin(void)
{
    uint32_t at = tag(6);

    put_u32(24);
    put_u32(0);
    return at;
}

static void entry(uint64_t base, uint64_t size, uint32_t type)
{
    put_u64(base);
    put_u64(size);
    put_u32(type);
    put_u32(0);
}

static void simple_map(void)
{
    uint32_t at = map_begin();

    entry(0, 0x9FC00, 1);
    entry(0x100000, 0x3FF00000, 1);
    tag_end(at);
}

/* From a copy of exactly that size, so that the sanitizer sees what is read beyond. */
static int read_sized(size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    int err;

    memcpy(copy, info, size);
    err = boot_info_read(&b, copy, size, message, sizeof(message));
    free(copy);
    return err;
}

static int read_all(void)
{
    tag_end(tag(0));
    memcpy(info, &used, 4);
    return read_sized(used);
}

static void check_range(uint32_t i, uint64_t base, uint64_t end, uint32_t kind)
{
    CHECK(i < b.ranges);
    CHECK_EQ(b.range[i].base, base);
    CHECK_EQ(b.range[i].end, end);
    CHECK_EQ(b.range[i].kind, kind);
}

static void test_as_grub_does(void)
{
    uint32_t at;

    begin();
    string_tag(1, "test-panic x2apic");
    string_tag(2, "GRUB 2.06");
    module(0x400000, 0x400123, "fleet");
    module(0x500000, 0x700000, "/boot/vmlinuz");
    simple_map();
    at = tag(8);
    put_u64(0xFD000000);
    put_u32(4096);
    put_u32(1024);
    put_u32(768);
    put("\x20\x01\0\0\x10\x08\x08\x08\0\x08", 10);
    tag_end(at);
    at = tag(14);
    put("RSD PTR 12345678901234567890", 20);
    tag_end(at);
    CHECK_EQ(read_all(), OK);
    CHECK_STR(b.command, "test-panic x2apic");
    CHECK_STR(b.loader, "GRUB 2.06");
    CHECK_EQ(b.modules, 2);
    CHECK_EQ(b.module[0].base, 0x400000);
    CHECK_EQ(b.module[0].size, 0x123);
    CHECK_STR(b.module[0].command, "fleet");
    CHECK_STR(b.module[1].command, "/boot/vmlinuz");
    CHECK_EQ(b.ranges, 2);
    check_range(0, 0, 0x9F000, BOOT_RAM); /* whole pages */
    check_range(1, 0x100000, 0x40000000, BOOT_RAM);
    CHECK_EQ(b.screen.type, BOOT_SCREEN_RGB);
    CHECK_EQ(b.screen.address, 0xFD000000);
    CHECK_EQ(b.screen.red.position, 16);
    CHECK_EQ(b.screen.blue.size, 8);
    CHECK_EQ(b.rsdp_size, 20);
    CHECK(memcmp(b.rsdp, "RSD PTR ", 8) == 0);
    CHECK(!b.efi && !b.from_efi_map && b.left_out == 0);
}

static void test_questions(void)
{
    begin();
    string_tag(1, "one two  three");
    module(0x400000, 0x401000, "m");
    simple_map();
    CHECK_EQ(read_all(), OK);
    CHECK(boot_info_option(&b, "one") && boot_info_option(&b, "two") && boot_info_option(&b, "three"));
    CHECK(!boot_info_option(&b, "tw") && !boot_info_option(&b, "threes") && !boot_info_option(&b, ""));
    CHECK_EQ(boot_info_kind(&b, 0x100000), BOOT_RAM);
    CHECK_EQ(boot_info_kind(&b, 0xFFFFF), 0);
    CHECK_EQ(boot_info_kind(&b, 0x40000000), 0);
    CHECK(boot_info_module_in(&b, 0x3FF000, 0x1001) == &b.module[0]);
    CHECK(boot_info_module_in(&b, 0x3FF000, 0x1000) == NULL);
    CHECK(boot_info_module_in(&b, 0x401000, 0x1000) == NULL);
}

/* Unsorted, overlapping, wrapping, empty, unknown types: the least usable wins. */
static void test_bad_map(void)
{
    uint32_t at;

    begin();
    at = map_begin();
    entry(0x8000000, 0x8000000, 1);
    entry(0x100000, 0x7F00000, 1); /* touches the one before: joined */
    entry(0x200000, 0x1000, 2);    /* in the middle */
    entry(0x200800, 0x1000, 3);    /* partly over it */
    entry(0x5000000, 0, 2);
    entry(0x6000000, 0x1000, 77);
    entry(0xFFFFFFFFFFFF0000, 0x100000, 1);
    tag_end(at);
    CHECK_EQ(read_all(), OK);
    CHECK_EQ(b.ranges, 7);
    check_range(0, 0x100000, 0x200000, BOOT_RAM);
    check_range(1, 0x200000, 0x201000, BOOT_RESERVED);
    check_range(2, 0x201000, 0x201800, BOOT_ACPI);
    check_range(3, 0x202000, 0x6000000, BOOT_RAM); /* begins at a whole page */
    check_range(4, 0x6000000, 0x6001000, BOOT_RESERVED);
    check_range(5, 0x6001000, 0x10000000, BOOT_RAM);
    check_range(6, 0xFFFFFFFFFFFF0000, 0xFFFFFFFFFFFFF000, BOOT_RAM);
}

static void efi_entry(uint32_t type, uint64_t base, uint64_t pages)
{
    put_u32(type);
    put_u32(0);
    put_u64(base);
    put_u64(0);
    put_u64(pages);
    put_u64(15);
    put_u64(0); /* descriptors are longer than the structure */
}

static void test_efi_map(void)
{
    uint32_t at;

    begin();
    at = tag(17);
    put_u32(48);
    put_u32(1);
    efi_entry(7, 0, 0xA0);
    efi_entry(2, 0x100000, 0x100); /* the loader's */
    efi_entry(4, 0x200000, 0x100); /* boot services': ours by now */
    efi_entry(6, 0x300000, 0x10);  /* runtime services' */
    efi_entry(9, 0x310000, 0x10);
    efi_entry(10, 0x320000, 0x10);
    efi_entry(8, 0x330000, 0x10);
    efi_entry(7, 0x340000, UINT64_MAX); /* as many pages as fit no address */
    tag_end(at);
    CHECK_EQ(read_all(), OK);
    CHECK(b.efi && b.from_efi_map);
    check_range(0, 0, 0xA0000, BOOT_RAM);
    check_range(1, 0x100000, 0x300000, BOOT_RAM);
    check_range(2, 0x300000, 0x310000, BOOT_RESERVED);
    check_range(3, 0x310000, 0x320000, BOOT_ACPI);
    check_range(4, 0x320000, 0x330000, BOOT_NVS);
    check_range(5, 0x330000, 0x340000, BOOT_BAD);
    check_range(6, 0x340000, 0xFFFFFFFFFFFFF000, BOOT_RAM);
    CHECK_EQ(b.ranges, 7);
}

static void test_other_map_goes_first(void)
{
    uint32_t at;

    begin();
    at = tag(17);
    put_u32(48);
    put_u32(1);
    efi_entry(7, 0x7000000, 0x100);
    tag_end(at);
    simple_map();
    CHECK_EQ(read_all(), OK);
    CHECK(b.efi && !b.from_efi_map);
    CHECK_EQ(boot_info_kind(&b, 0x100000), BOOT_RAM);
    CHECK_EQ(b.ranges, 2);
}

static void test_new_rsdp_wins(void)
{
    for (uint32_t first = 14; first <= 15; first++) {
        begin();
        simple_map();
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t type = i == 0 ? first : 29 - first, at = tag(type);

            if (type == 15)
                put("RSD PTR new..........................", 36);
            else
                put("RSD PTR old..................", 20);
            tag_end(at);
        }
        CHECK_EQ(read_all(), OK);
        CHECK_EQ(b.rsdp_size, 36);
        CHECK(memcmp(b.rsdp + 8, "new", 3) == 0);
    }
}

static void test_too_many(void)
{
    uint32_t at;

    begin();
    for (uint32_t i = 0; i < BOOT_MODULES + 5; i++)
        module(0x400000 + i * 0x1000, 0x400800 + i * 0x1000, "m");
    module(5, 4, "ends before it begins");
    at = map_begin();
    for (uint64_t i = 0; i < BOOT_RANGES + 10; i++)
        entry(i * 0x10000, 0x1000, 1);
    tag_end(at);
    CHECK_EQ(read_all(), OK);
    CHECK_EQ(b.modules, BOOT_MODULES);
    CHECK_EQ(b.ranges, BOOT_RANGES);
    CHECK_EQ(b.left_out, 6 + 10);
}

static void test_long_strings(void)
{
    char text[BOOT_COMMAND + 100];
    uint32_t at;

    memset(text, 'x', sizeof(text));
    begin();
    at = tag(1); /* without an end */
    put(text, sizeof(text));
    tag_end(at);
    simple_map();
    CHECK_EQ(read_all(), OK);
    CHECK_EQ(strlen(b.command), BOOT_COMMAND - 1);
}

static void test_bad_screen(void)
{
    static const struct {
        uint32_t pitch, width, height;
        uint8_t bits, type;
    } bad[] = {{4096, 1024, 768, 32, 3}, {4092, 1024, 768, 32, 1}, {4096, 1u << 31, 768, 32, 1},
               {1u << 31, 4, 4, 32, 1}};

    for (uint32_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        uint32_t at;

        begin();
        simple_map();
        at = tag(8);
        put_u64(0xFD000000);
        put_u32(bad[i].pitch);
        put_u32(bad[i].width);
        put_u32(bad[i].height);
        put((uint8_t[10]){bad[i].bits, bad[i].type, 0, 0, 16, 8, 8, 8, 0, 8}, 10);
        tag_end(at);
        CHECK_EQ(read_all(), OK);
        CHECK_EQ(b.screen.type, BOOT_SCREEN_NONE);
    }
}

static void test_no_map(void)
{
    uint32_t at;

    begin();
    CHECK_EQ(read_all(), ERR_INVALID);
    begin();
    at = map_begin();
    entry(0x1000, 0x100000, 2);
    tag_end(at);
    CHECK_EQ(read_all(), ERR_INVALID);
    CHECK_STR(message, "the boot loader passed no memory map with RAM");
}

static void test_bad_sizes(void)
{
    begin();
    simple_map();
    CHECK_EQ(read_all(), OK);
    for (size_t size = 0; size < used; size++) { /* less than it says */
        CHECK_EQ(read_sized(size), ERR_RANGE);
    }
    for (uint32_t total = 16; total < used; total++) { /* it says less: some tag is cut, or there is no end */
        memcpy(info, &total, 4);
        CHECK(read_sized(used) != OK);
    }
    memcpy(info, &used, 4);
    memset(info + 12, 0, 4); /* a tag of no size would be for ever */
    CHECK_EQ(read_sized(used), ERR_INVALID);
    memset(info + 12, 0xFF, 4);
    CHECK_EQ(read_sized(used), ERR_INVALID);
}

/* What must hold whatever was read. */
static void check_sane(void)
{
    CHECK(b.ranges <= BOOT_RANGES && b.modules <= BOOT_MODULES && b.rsdp_size <= BOOT_RSDP);
    for (uint32_t i = 0; i < b.ranges; i++) {
        CHECK(b.range[i].base < b.range[i].end);
        CHECK(i == 0 || b.range[i - 1].end <= b.range[i].base);
    }
    CHECK(memchr(b.command, 0, sizeof(b.command)) && memchr(b.loader, 0, sizeof(b.loader)));
}

static void test_mutilated(void)
{
    uint8_t good[ROOM];
    uint32_t random = 1, read = 0;

    test_as_grub_does();
    memcpy(good, info, sizeof(good));
    for (uint32_t round = 0; round < 20000; round++) {
        memcpy(info, good, sizeof(good));
        for (uint32_t i = 0; i < 1 + round % 4; i++) {
            random = random * 1664525 + 1013904223;
            info[(random >> 8) % used] = (uint8_t)(random >> 24);
        }
        if (read_sized(used) == OK) {
            check_sane();
            read++;
        }
    }
    CHECK(read > 1000 && read < 20000);
}

int main(void)
{
    UNIT_RUN(test_as_grub_does);
    UNIT_RUN(test_questions);
    UNIT_RUN(test_bad_map);
    UNIT_RUN(test_efi_map);
    UNIT_RUN(test_other_map_goes_first);
    UNIT_RUN(test_new_rsdp_wins);
    UNIT_RUN(test_too_many);
    UNIT_RUN(test_long_strings);
    UNIT_RUN(test_bad_screen);
    UNIT_RUN(test_no_map);
    UNIT_RUN(test_bad_sizes);
    UNIT_RUN(test_mutilated);
    return unit_done();
}
