/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The Linux boot protocol on a synthetic bzImage and, where it has been fetched, on a real one:
 * what the zero page says, where things lie, and what is answered to absurd headers.
 */
#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "tests/lib/boot_env.h"
#include "tests/lib/unit.h"

enum {
    SETUP_SECTS = 4,
    SETUP_SIZE = (SETUP_SECTS + 1) * 512,
    PAYLOAD = 0x3000,
    IMAGE = SETUP_SIZE + PAYLOAD,
    MEMORY = 64 << 20,
    ZP = BOOT_INFO,
};

static uint8_t image[IMAGE];

/* A header as Linux 6.1 has it, by the offsets of boot.rst. */
static void make_image(void)
{
    memset(image, 0, sizeof(image));
    image[0x1F1] = SETUP_SECTS;
    store_u32(image + 0x1F4, PAYLOAD / 16);
    store_u16(image + 0x1FE, 0xAA55);
    image[0x200] = 0xEB;
    image[0x201] = 0x6A;
    memcpy(image + 0x202, "HdrS", 4);
    store_u16(image + 0x206, 0x020F);
    image[0x211] = 1;
    store_u32(image + 0x22C, 0x7FFFFFFF);
    store_u32(image + 0x230, 0x200000);
    image[0x234] = 1;
    image[0x235] = 21;
    store_u16(image + 0x236, 0x3F);
    store_u32(image + 0x238, 2047);
    store_u64(image + 0x258, 0x1000000);
    store_u32(image + 0x260, 0x600000);
    for (size_t n = 0; n < PAYLOAD; n++)
        image[SETUP_SIZE + n] = (uint8_t)(n * 7 + 1);
}

static void test_zero_page(void)
{
    struct boot_env e;
    static uint8_t initrd[5000];
    boot_env_create(&e, MEMORY);
    make_image();
    boot_env_set_kernel(&e, image, sizeof(image));
    memset(initrd, 0xA5, sizeof(initrd));
    boot_env_set_initrd(&e, initrd, sizeof(initrd));
    e.boot.append = "console=ttyS0";
    CHECK_EQ(boot_env_load(&e), OK);

    CHECK(e.boot.entry.long_mode);
    CHECK_EQ(e.boot.entry.rip, 0x1000200);
    CHECK_EQ(e.boot.entry.rsi, ZP);
    CHECK(memcmp(e.ram + 0x1000000, image + SETUP_SIZE, PAYLOAD) == 0);

    const uint8_t *zp = e.ram + ZP;
    CHECK(memcmp(zp + 0x1F1, image + 0x1F1, 0x1FA - 0x1F1) == 0);
    CHECK_EQ(zp[0x1EF], 0); /* sentinel */
    CHECK_EQ(zp[0x210], 0xFF);
    CHECK_EQ(zp[0x211], 0x81);
    CHECK_EQ(load_u16(zp + 0x1FA), 0xFFFF);
    CHECK_EQ(load_u32(zp + 0x214), 0x1000000);
    CHECK_EQ(load_u16(zp + 0x224), 0xDE00);
    CHECK_EQ(load_u64(zp + 0x070), BOOT_ACPI);
    CHECK_EQ(load_u32(zp + 0x230), 0x200000);
    CHECK_EQ(load_u32(zp + 0x260), 0x600000);
    for (size_t n = 0; n < 0x40; n++)
        CHECK_EQ(zp[n], 0); /* screen_info */

    CHECK_EQ(load_u32(zp + 0x228), BOOT_COMMAND_LINE);
    CHECK_STR((const char *)e.ram + BOOT_COMMAND_LINE, "console=ttyS0");

    uint32_t base = load_u32(zp + 0x218);
    CHECK_EQ(load_u32(zp + 0x21C), sizeof(initrd));
    CHECK_EQ(base, MEMORY - 0x2000); /* as high as possible */
    CHECK(memcmp(e.ram + base, initrd, sizeof(initrd)) == 0);

    uint64_t data = load_u64(zp + 0x250);
    CHECK_EQ(boot_env_get64(&e, data), 0);
    CHECK_EQ(boot_env_get32(&e, data + 8), 9); /* SETUP_RNG_SEED */
    CHECK_EQ(boot_env_get32(&e, data + 12), 32);
    CHECK(boot_env_get64(&e, data + 16) != 0);

    /* BIOS data area */
    CHECK_EQ(load_u16(e.ram + 0x400), 0x3F8);
    CHECK_EQ(load_u16(e.ram + 0x40E), 0x9FC0);
    CHECK_EQ(load_u16(e.ram + 0x413), 639);
    boot_env_destroy(&e);
}

static void test_e820(void)
{
    struct boot_env e;
    boot_env_create(&e, 64 << 20);
    make_image();
    boot_env_set_kernel(&e, image, sizeof(image));
    CHECK_EQ(boot_env_load(&e), OK);
    static const struct boot_range want[] = {
        /* table */
        {0, 0x9FC00, 1},           {0x9FC00, 0x60400, 2},   {0x100000, 0x3F00000, 1},
        {0xE0000000, 0x100000, 2}, {0xFEC00000, 0x1000, 2}, {0xFEE00000, 0x1000, 2},
    };
    const uint8_t *zp = e.ram + ZP;
    CHECK_EQ(zp[0x1E8], 6);
    for (size_t n = 0; n < 6; n++) {
        unit_context("entry %zu", n);
        CHECK_EQ(load_u64(zp + 0x2D0 + n * 20), want[n].base);
        CHECK_EQ(load_u64(zp + 0x2D8 + n * 20), want[n].size);
        CHECK_EQ(load_u32(zp + 0x2E0 + n * 20), want[n].type);
    }
    unit_context(NULL);
    boot_env_destroy(&e);
}

/* The map of a VM with more RAM than fits below the hole. */
static void test_map_above_4g(void)
{
    struct boot_map map;
    boot_map_make(&map, 5ull << 30);
    CHECK_EQ(map.count, 7);
    CHECK_EQ(map.range[2].size, 0xC0000000 - 0x100000);
    CHECK_EQ(map.range[6].base, 4ull << 30);
    CHECK_EQ(map.range[6].size, 2ull << 30);
    for (uint32_t n = 1; n < map.count; n++)
        CHECK(map.range[n - 1].base + map.range[n - 1].size <= map.range[n].base);
}

struct bad {
    const char *name;
    uint32_t offset, size;
    uint64_t value;
    const char *message;
};

static const struct bad bad_headers[] = {
    /* table */
    {"no magic", 0x202, 4, 0, "not a kernel: no bzImage, ELF or Multiboot header found (is it the right file?)"},
    {"no boot flag", 0x1FE, 2, 0, "not a kernel: no bzImage, ELF or Multiboot header found (is it the right file?)"},
    {"old", 0x206, 2, 0x020B,
     "Linux kernel with boot protocol 2.11: at least 2.12 is needed (Linux "
     "3.8 or newer)"},
    {"zImage", 0x211, 1, 0, "Linux zImage (loaded low): a bzImage is needed"},
    {"32-bit", 0x236, 2, 0, "Linux kernel without a 64-bit entry: a 64-bit kernel is needed"},
    {"setup 255", 0x1F1, 1, 255,
     "Linux kernel has no protected-mode part (the file is cut off or "
     "damaged)"},
    {"syssize 0", 0x1F4, 4, 0,
     "Linux kernel has no protected-mode part (the file is cut off or "
     "damaged)"},
    {"syssize + 1", 0x1F4, 4, PAYLOAD / 16 + 1,
     "Linux kernel is cut off: 16 bytes are missing (copy "
     "it again)"},
    {"syssize max", 0x1F4, 4, UINT32_MAX,
     "Linux kernel is cut off: 68719464432 bytes are missing "
     "(copy it again)"},
    {"syssize 1", 0x1F4, 4, 1, "Linux kernel is too short for a 64-bit entry"},
    {"alignment 0", 0x230, 4, 0,
     "Linux kernel wants an alignment of 0x0, which is not a power of two: "
     "the file is damaged"},
    {"alignment 3", 0x230, 4, 0x300000,
     "Linux kernel wants an alignment of 0x300000, which is not a "
     "power of two: the file is damaged"},
    {"alignment 2G", 0x230, 4, 0x80000000,
     "Linux kernel needs memory up to 2054 MiB, and the VM has "
     "64 MiB (give it more with -m)"},
    {"address max", 0x258, 8, UINT64_MAX,
     "Linux kernel's preferred address is absurd: the file is "
     "damaged"},
    {"address high", 0x258, 8, 0xFFFFFFFFFFE00000,
     "Linux kernel of 0x600000 bytes at "
     "0xffffffffffe00000 wraps around: the file is "
     "damaged"},
    {"address 0", 0x258, 8, 0,
     "Linux kernel at 0x0 to 0x5fffff does not lie in free RAM (64 to 639 "
     "KiB, or 1 MiB to 3 GiB)"},
    {"in the hole", 0x258, 8, 0xE0000000,
     "Linux kernel at 0xe0000000 to 0xe05fffff does not lie in "
     "free RAM (64 to 639 KiB, or 1 MiB to 3 GiB)"},
    {"init_size", 0x260, 4, 0x7FFFFFFF,
     "Linux kernel needs memory up to 2064 MiB, and the VM has 64 "
     "MiB (give it more with -m)"},
    {"command line", 0x238, 4, 3,
     "the command line has 4 bytes, and this kernel takes 3 (shorten "
     "--append)"},
};

static void test_bad_headers(void)
{
    for (size_t n = 0; n < sizeof(bad_headers) / sizeof(bad_headers[0]); n++) {
        const struct bad *bad = &bad_headers[n];
        struct boot_env e;
        unit_context("%s", bad->name);
        boot_env_create(&e, MEMORY);
        make_image();
        memcpy(image + bad->offset, &bad->value, bad->size);
        boot_env_set_kernel(&e, image, sizeof(image));
        e.boot.append = "abcd";
        CHECK_EQ(boot_env_load(&e), ERR_INVALID);
        CHECK_STR(e.message, bad->message);
        boot_env_destroy(&e);
    }
    unit_context(NULL);
}

static void test_good_variants(void)
{
    static const struct bad good[] = {
        /* table */
        {"setup_sects 0 is 4", 0x1F1, 1, 0, NULL},
        {"not relocatable", 0x234, 1, 0, NULL},
        {"unaligned address", 0x258, 8, 0xF00000, NULL}, /* aligned up to 0x1000000 */
        {"init_size 0", 0x260, 4, 0, NULL},
        {"long header", 0x201, 1, 0xFF, NULL},
        {"short header", 0x201, 1, 0, NULL},
    };
    for (size_t n = 0; n < sizeof(good) / sizeof(good[0]); n++) {
        struct boot_env e;
        unit_context("%s", good[n].name);
        boot_env_create(&e, MEMORY);
        make_image();
        memcpy(image + good[n].offset, &good[n].value, good[n].size);
        boot_env_set_kernel(&e, image, sizeof(image));
        CHECK_EQ(boot_env_load(&e), OK);
        CHECK_EQ(e.boot.entry.rip, 0x1000200);
        CHECK_EQ(boot_env_get32(&e, ZP + 0x260), load_u32(image + 0x260));
        CHECK_EQ(boot_env_get32(&e, ZP + 0x290), 0); /* what follows the header */
        boot_env_destroy(&e);
    }
    unit_context(NULL);
}

static void test_truncation(void)
{
    struct boot_env e;
    boot_env_create(&e, MEMORY);
    make_image();
    for (size_t size = 0; size < sizeof(image) - 15; size += size < 0x300 ? 1 : 509) {
        unit_context("%zu bytes", size);
        boot_env_set_kernel(&e, image, size);
        CHECK_EQ(boot_env_load(&e), ERR_INVALID);
        CHECK(e.message[0] != 0 && !strchr(e.message, '\n'));
    }
    unit_context(NULL);
    boot_env_destroy(&e);
}

static void test_initrd_room(void)
{
    struct boot_env e;
    static uint8_t initrd[8 << 20];
    make_image();
    boot_env_create(&e, 24 << 20); /* the kernel ends at 22 MiB */
    boot_env_set_kernel(&e, image, sizeof(image));
    boot_env_set_initrd(&e, initrd, 2 << 20);
    CHECK_EQ(boot_env_load(&e), OK);
    CHECK_EQ(boot_env_get32(&e, ZP + 0x218), 22 << 20);
    boot_env_set_initrd(&e, initrd, (2 << 20) + 1); /* goes below the kernel */
    CHECK_EQ(boot_env_load(&e), OK);
    CHECK_EQ(boot_env_get32(&e, ZP + 0x218), (14 << 20) - 4096);
    e.files.initrd.size = 16 << 20; /* never read: it does not fit */
    CHECK_EQ(boot_env_load(&e), ERR_INVALID);
    CHECK_STR(e.message, "no room for the initrd (16 MiB) beside the kernel in 24 MiB of memory "
                         "(give the VM more with -m)");
    e.files.initrd.size = SIZE_MAX;
    CHECK_EQ(boot_env_load(&e), ERR_INVALID);

    store_u32(image + 0x22C, 0x7FFFFF); /* initrd_addr_max: below 8 MiB */
    boot_env_set_kernel(&e, image, sizeof(image));
    boot_env_set_initrd(&e, initrd, 4 << 20);
    CHECK_EQ(boot_env_load(&e), OK);
    CHECK_EQ(boot_env_get32(&e, ZP + 0x218), 4 << 20);
    boot_env_set_initrd(&e, initrd, 8 << 20);
    CHECK_EQ(boot_env_load(&e), ERR_INVALID);
    boot_env_destroy(&e);
}

static int refuse_to_read(void *owner, uint64_t offset, void *to, size_t n)
{
    uint64_t *from = owner;
    (void)to;
    return offset + n > *from ? ERR_IO : OK;
}

/* A disk that fails, or a file that has become shorter, at any place. */
static void test_unreadable(void)
{
    struct boot_env e;
    uint64_t readable = 0;
    make_image();
    boot_env_create(&e, MEMORY);
    boot_env_set_kernel(&e, image, sizeof(image));
    boot_env_set_initrd(&e, image, 5000);
    struct boot_files good = e.files;
    e.files.initrd.read = refuse_to_read;
    e.files.initrd.owner = &readable;
    CHECK_EQ(boot_env_load(&e), ERR_INVALID);
    CHECK_STR(e.message, "initrd cannot be read (copy it to a disk first)");
    readable = 5000;
    CHECK_EQ(boot_env_load(&e), OK);
    e.files = good;
    readable = 0;
    e.files.kernel.read = refuse_to_read;
    e.files.kernel.owner = &readable;
    CHECK_EQ(boot_env_load(&e), ERR_INVALID);
    CHECK_STR(e.message, "kernel cannot be read (copy it to a disk first)");
    boot_env_destroy(&e);
}

static bool may_hide;

static bool hide(void *owner, uint64_t offset, void *to, size_t n)
{
    (void)owner;
    (void)offset;
    CHECK((uintptr_t)to % 4096 == 0 && n % 4096 == 0 && n != 0);
    return may_hide;
}

/* Of large files only what is not whole pages is loaded at once, and of the kernel its first 64 KiB;
 * what is left for later is said exactly. Where the home hides nothing, all is loaded. */
static void test_late(void)
{
    enum { SIZE = (2 << 20) + 5, KERNEL = SETUP_SIZE + (3 << 20) + 7 };
    static uint8_t kernel[KERNEL], initrd[SIZE];
    struct guest_mem_late late = {0};
    struct boot_env e;
    make_image();
    memset(kernel, 0x5A, KERNEL);
    memcpy(kernel, image, SETUP_SIZE);
    store_u32(kernel + 0x1F4, (KERNEL - SETUP_SIZE) / 16); /* size of the rest */
    memset(initrd, 0xA5, SIZE);
    boot_env_create(&e, MEMORY);
    for (int round = 0; round < 2; round++) {
        may_hide = round != 0;
        e.mem.late = &late;
        boot_env_set_kernel(&e, kernel, KERNEL);
        boot_env_set_initrd(&e, initrd, SIZE);
        e.files.kernel.hide = e.files.initrd.hide = hide;
        memset(e.ram, 0, MEMORY);
        CHECK_EQ(boot_env_load(&e), OK);
        CHECK_EQ(atomic_load(&late.missing), may_hide ? 3 : 0);
        const uint8_t *k = e.ram + 0x1000000, *i = e.ram + load_u32(e.ram + ZP + 0x218);
        CHECK(k[0] == 0x5A && k[0xFFFF] == 0x5A && i[SIZE - 1] == 0xA5 && i[2 << 20] == 0xA5);
        CHECK(k[0x10000] == (may_hide ? 0 : 0x5A) && i[0] == (may_hide ? 0 : 0xA5));
        CHECK(i[(2 << 20) - 1] == (may_hide ? 0 : 0xA5));
    }
    CHECK(late.piece[0].base == 0x1010000 && late.piece[0].size == (3 << 20) - 0x10000);
    CHECK(late.piece[0].offset == SETUP_SIZE + 0x10000);
    CHECK_EQ(late.piece[1].base, load_u32(e.ram + ZP + 0x218));
    CHECK(late.piece[1].size == 2 << 20 && late.piece[1].offset == 0);
    boot_env_destroy(&e);
}

/* Loading twice, as a reset does, gives the same but for the seed. */
static void test_reload(void)
{
    struct boot_env e;
    make_image();
    boot_env_create(&e, MEMORY);
    boot_env_set_kernel(&e, image, sizeof(image));
    CHECK_EQ(boot_env_load(&e), OK);
    uint64_t seed = boot_env_get64(&e, BOOT_TABLES + 16);
    uint8_t *before = malloc(e.ram_size);
    memcpy(before, e.ram, e.ram_size);
    memset(e.ram, 0, e.ram_size);
    CHECK_EQ(boot_env_load(&e), OK);
    CHECK(boot_env_get64(&e, BOOT_TABLES + 16) != seed);
    memcpy(e.ram + BOOT_TABLES, before + BOOT_TABLES, 48);
    CHECK(memcmp(e.ram, before, e.ram_size) == 0);
    free(before);
    boot_env_destroy(&e);
}

static void test_other_files(void)
{
    static const struct {
        const char *bytes;
        const char *message;
    } file[] = {
        /* table */
        {"", "the file is empty"},
        {"\x1F\x8B\x08", "the file is compressed with gzip (unpack it first)"},
        {"#!/bin/sh\n", "not a kernel: no bzImage, ELF or Multiboot header found (is it the right file?)"},
        {"!<arch>\ndebian-binary", "the file is a package or archive (unpack the kernel from it)"},
    };
    for (size_t n = 0; n < sizeof(file) / sizeof(file[0]); n++) {
        struct boot_env e;
        boot_env_create(&e, MEMORY);
        boot_env_set_kernel(&e, file[n].bytes, strlen(file[n].bytes));
        CHECK_EQ(boot_env_load(&e), ERR_INVALID);
        CHECK_STR(e.message, file[n].message);
        boot_env_destroy(&e);
    }
}

/* A kernel of Debian's, if it is there. */
static void test_real_kernel(void)
{
    static const char *const path[] = {"build/guests/debian-6.1-cloud/vmlinuz",
                                       "build/guests/debian-6.1-generic/vmlinuz",
                                       "build/guests/debian-6.12-cloud/vmlinuz"};
    for (size_t n = 0; n < 3; n++) {
        struct boot_env e;
        FILE *f = fopen(path[n], "rb");
        if (!f) {
            printf("# %s is not there: not tried\n", path[n]);
            continue;
        }
        static uint8_t bytes[64 << 20];
        size_t size = fread(bytes, 1, sizeof(bytes), f);
        fclose(f);
        unit_context("%s", path[n]);
        boot_env_create(&e, 256 << 20);
        boot_env_set_kernel(&e, bytes, size);
        CHECK_EQ(boot_env_load(&e), OK);
        CHECK_STR(e.message, "");
        CHECK_EQ(e.boot.entry.rip, 0x1000200);
        CHECK_EQ(boot_env_get32(&e, ZP + 0x202), 0x53726448);
        boot_env_set_kernel(&e, bytes, size / 2);
        CHECK_EQ(boot_env_load(&e), ERR_INVALID);
        boot_env_destroy(&e);
        boot_env_create(&e, 16 << 20);
        boot_env_set_kernel(&e, bytes, size);
        CHECK_EQ(boot_env_load(&e), ERR_INVALID);
        CHECK(strstr(e.message, "give it more with -m") != NULL);
        boot_env_destroy(&e);
    }
    unit_context(NULL);
}

int main(void)
{
    UNIT_RUN(test_zero_page);
    UNIT_RUN(test_e820);
    UNIT_RUN(test_map_above_4g);
    UNIT_RUN(test_bad_headers);
    UNIT_RUN(test_good_variants);
    UNIT_RUN(test_truncation);
    UNIT_RUN(test_initrd_room);
    UNIT_RUN(test_unreadable);
    UNIT_RUN(test_late);
    UNIT_RUN(test_reload);
    UNIT_RUN(test_other_files);
    UNIT_RUN(test_real_kernel);
    return unit_done();
}
