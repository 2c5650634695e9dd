/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Multiboot kernels: by addresses in the header, and as ELF files of both classes. */
#include <string.h>

#include "core/mem.h"
#include "tests/lib/boot_env.h"
#include "tests/lib/unit.h"

enum { MEMORY = 32 << 20, FILE_SIZE = 0x2000, HEADER_AT = 0x40, MAGIC = 0x1BADB002 };

static uint8_t file[FILE_SIZE];

static void put_header(uint32_t at, uint32_t flags)
{
    store_u32(file + at, MAGIC);
    store_u32(file + at + 4, flags);
    store_u32(file + at + 8, 0u - MAGIC - flags);
}

/* A flat file to be loaded at 1 MiB, header at HEADER_AT. */
static void make_flat(void)
{
    for (uint32_t n = 0; n < sizeof(file); n++)
        file[n] = (uint8_t)(n * 3 + 1);
    put_header(HEADER_AT, 0x10003);
    store_u32(file + HEADER_AT + 12, 0x100000 + HEADER_AT);
    store_u32(file + HEADER_AT + 16, 0x100000);
    store_u32(file + HEADER_AT + 20, 0);
    store_u32(file + HEADER_AT + 24, 0);
    store_u32(file + HEADER_AT + 28, 0x100100);
}

/* An ELF file whose virtual addresses are high, as GNU Mach's. */
static void make_elf(bool is_64)
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
    store_u32(file + 24, 0xC0200010);
    if (is_64) {
        store_u32(file + 32, 64);
        store_u16(file + 54, 56);
        store_u16(file + 56, 1);
        store_u32(file + 64, 1);
        store_u64(file + 72, 0x1000);
        store_u64(file + 80, 0xC0200000);
        store_u64(file + 88, 0x200000);
        store_u64(file + 96, 0x800);
        store_u64(file + 104, 0x5001);
    } else {
        store_u32(file + 28, 52);
        store_u16(file + 42, 32);
        store_u16(file + 44, 1);
        store_u32(file + 52, 1);
        store_u32(file + 56, 0x1000);
        store_u32(file + 60, 0xC0200000);
        store_u32(file + 64, 0x200000);
        store_u32(file + 68, 0x800);
        store_u32(file + 72, 0x5001);
    }
    put_header(0x100, 3);
}

static void check_info(const struct boot_env *e, uint32_t mods)
{
    const uint8_t *info = e->ram + BOOT_INFO;
    CHECK_EQ(e->boot.entry.rax, 0x2BADB002);
    CHECK_EQ(e->boot.entry.rbx, BOOT_INFO);
    CHECK(!e->boot.entry.long_mode);
    CHECK_EQ(load_u32(info), 0x24D);
    CHECK_EQ(load_u32(info + 4), 639);
    CHECK_EQ(load_u32(info + 8), MEMORY / 1024 - 1024);
    CHECK_STR((const char *)e->ram + load_u32(info + 16), "console=com0");
    CHECK_EQ(load_u32(info + 20), mods);
    CHECK_STR((const char *)e->ram + load_u32(info + 64), "Lodge");
    uint32_t length = load_u32(info + 44), at = load_u32(info + 48);
    CHECK_EQ(length, 6 * 24);
    CHECK_EQ(load_u32(e->ram + at), 20);
    CHECK_EQ(load_u64(e->ram + at + 2 * 24 + 4), 0x100000);
    CHECK_EQ(load_u64(e->ram + at + 2 * 24 + 12), MEMORY - 0x100000);
    CHECK_EQ(load_u32(e->ram + at + 2 * 24 + 20), 1);
}

static void test_flat(void)
{
    struct boot_env e;
    boot_env_create(&e, MEMORY);
    make_flat();
    boot_env_set_kernel(&e, file, sizeof(file));
    e.boot.append = "console=com0";
    CHECK_EQ(boot_env_load(&e), OK);
    CHECK_STR(e.message, "");
    CHECK_EQ(e.boot.entry.rip, 0x100100);
    CHECK(memcmp(e.ram + 0x100000, file, sizeof(file)) == 0);
    check_info(&e, 0);

    /* a part of the file, from behind its start, with a BSS */
    store_u32(file + HEADER_AT + 16, 0x100000 + HEADER_AT - 0x10);
    store_u32(file + HEADER_AT + 20, 0x100800);
    store_u32(file + HEADER_AT + 24, 0x108000);
    memset(e.ram, 0, e.ram_size);
    boot_env_set_kernel(&e, file, sizeof(file));
    CHECK_EQ(boot_env_load(&e), OK);
    CHECK_EQ(boot_env_get32(&e, 0x100000), 0);
    CHECK(memcmp(e.ram + 0x100030, file + 0x30, 0x7D0) == 0);
    CHECK_EQ(boot_env_get32(&e, 0x100800), 0);
    boot_env_destroy(&e);
}

static void test_elf_and_module(void)
{
    static const uint8_t initrd[5000] = {9, 8, 7};
    for (int is_64 = 0; is_64 < 2; is_64++) {
        struct boot_env e;
        unit_context("ELF%d", is_64 ? 64 : 32);
        boot_env_create(&e, MEMORY);
        make_elf(is_64);
        boot_env_set_kernel(&e, file, sizeof(file));
        boot_env_set_initrd(&e, initrd, sizeof(initrd));
        e.boot.append = "console=com0";
        CHECK_EQ(boot_env_load(&e), OK);
        CHECK_STR(e.message, "");
        CHECK_EQ(e.boot.entry.rip, 0x200010); /* physical */
        CHECK(memcmp(e.ram + 0x200000, file + 0x1000, 0x800) == 0);
        check_info(&e, 1);
        const uint8_t *module = e.ram + boot_env_get32(&e, BOOT_INFO + 24);
        CHECK_EQ(load_u32(module), 0x206000); /* next page after the BSS */
        CHECK_EQ(load_u32(module + 4), 0x206000 + sizeof(initrd));
        CHECK_STR((const char *)e.ram + load_u32(module + 8), "initrd");
        CHECK_EQ(load_u32(module + 12), 0);
        CHECK(memcmp(e.ram + 0x206000, initrd, sizeof(initrd)) == 0);

        e.files.initrd.size = 31 << 20;
        CHECK_EQ(boot_env_load(&e), ERR_INVALID);
        CHECK_STR(e.message,
                  "no room for the initrd (31 MiB) beside the kernel in 32 MiB of memory "
                  "(give the VM more with -m)");
        boot_env_destroy(&e);
    }
    unit_context(NULL);
}

struct bad {
    const char *name;
    uint32_t flags, header, load, load_end, bss_end, entry;
    const char *message;
};

static const struct bad bad_headers[] = {
    /* table */
    {"video", 0x10007, 0x100040, 0x100000, 0, 0, 0x100000,
     "Multiboot kernel asks for what this machine does not have (header flags 0x4; bit 2 is a "
     "video "
     "mode)"},
    {"unknown", 0x18000, 0x100040, 0x100000, 0, 0, 0x100000,
     "Multiboot kernel asks for what this machine does not have (header flags 0x8000; bit 2 is a "
     "video mode)"},
    {"no addresses", 3, 0, 0, 0, 0, 0,
     "Multiboot header without load addresses in a file that is not ELF"},
    {"load after header", 0x10003, 0x100040, 0x100041, 0, 0, 0x100041,
     "Multiboot header's load address does not fit its place in the file"},
    {"before the file", 0x10003, 0x100041, 0x100000, 0, 0, 0x100000,
     "Multiboot header's load address does not fit its place in the file"},
    {"end before start", 0x10003, 0x100040, 0x100000, 0xFFFFF, 0, 0x100000,
     "Multiboot header's addresses are out of order"},
    {"bss before end", 0x10003, 0x100040, 0x100000, 0x101000, 0x100FFF, 0x100000,
     "Multiboot header's addresses are out of order"},
    {"cut off", 0x10003, 0x100040, 0x100000, 0x103000, 0, 0x100000,
     "Multiboot kernel is cut off: 4096 bytes are missing (copy it again)"},
    {"huge bss", 0x10003, 0x100040, 0x100000, 0, 0xFFFFFFFF, 0x100000,
     "Multiboot kernel at 0x100000 to 0xfffffffe does not lie in free RAM (64 to 639 KiB, or 1 MiB "
     "to 3 GiB)"},
    {"large bss", 0x10003, 0x100040, 0x100000, 0, 0x3000000, 0x100000,
     "Multiboot kernel needs memory up to 48 MiB, and the VM has 32 MiB (give it more with -m)"},
    {"at 0", 0x10003, 0x40, 0, 0, 0, 0,
     "Multiboot kernel at 0x0 to 0x1fff does not lie in free RAM (64 to 639 KiB, or 1 MiB to 3 "
     "GiB)"},
    {"entry", 0x10003, 0x100040, 0x100000, 0, 0, 0x102000,
     "Multiboot entry 0x102000 is not in the kernel"},
};

static void test_bad_headers(void)
{
    for (size_t n = 0; n < sizeof(bad_headers) / sizeof(bad_headers[0]); n++) {
        const struct bad *bad = &bad_headers[n];
        struct boot_env e;
        unit_context("%s", bad->name);
        boot_env_create(&e, MEMORY);
        make_flat();
        put_header(HEADER_AT, bad->flags);
        store_u32(file + HEADER_AT + 12, bad->header);
        store_u32(file + HEADER_AT + 16, bad->load);
        store_u32(file + HEADER_AT + 20, bad->load_end);
        store_u32(file + HEADER_AT + 24, bad->bss_end);
        store_u32(file + HEADER_AT + 28, bad->entry);
        boot_env_set_kernel(&e, file, sizeof(file));
        CHECK_EQ(boot_env_load(&e), ERR_INVALID);
        CHECK_STR(e.message, bad->message);
        boot_env_destroy(&e);
    }
    unit_context(NULL);
}

/* Where the header may lie: aligned, wholly in the first 8 KiB, with a good checksum. */
static void test_header_search(void)
{
    static const struct {
        uint32_t at;
        int spoil; /* added to the checksum */
        bool found;
    } place[] = {
        /* table */
        {0, 0, true},      {4, 0, true},           {2, 0, false},
        {0x1FD4, 0, true}, {0x1FF4 - 20, 0, true}, {HEADER_AT, 1, false},
    };
    for (size_t n = 0; n < sizeof(place) / sizeof(place[0]); n++) {
        struct boot_env e;
        unit_context("at 0x%x", place[n].at);
        boot_env_create(&e, MEMORY);
        memset(file, 0, sizeof(file));
        uint8_t *h = file + place[n].at;
        put_header(place[n].at, 0x10000);
        store_u32(h + 8, load_u32(h + 8) + (uint32_t)place[n].spoil);
        store_u32(h + 12, 0x100000 + place[n].at);
        store_u32(h + 16, 0x100000);
        store_u32(h + 28, 0x100000);
        boot_env_set_kernel(&e, file, sizeof(file));
        CHECK_EQ(boot_env_load(&e), place[n].found ? OK : ERR_INVALID);
        boot_env_destroy(&e);
    }
    unit_context(NULL);
}

static void test_truncation(void)
{
    struct boot_env e;
    boot_env_create(&e, MEMORY);
    make_flat();
    store_u32(file + HEADER_AT + 20, 0x102000);
    for (size_t size = 0; size < sizeof(file); size += size < 0x200 ? 1 : 127) {
        unit_context("%zu bytes", size);
        boot_env_set_kernel(&e, file, size);
        CHECK_EQ(boot_env_load(&e), ERR_INVALID);
        CHECK(e.message[0] != 0);
    }
    unit_context(NULL);
    boot_env_destroy(&e);
}

/* GNU Mach, if it is there: i386 or amd64. */
static void test_gnu_mach(void)
{
    static uint8_t bytes[4 << 20];
    FILE *f = fopen("build/guests/gnumach/vmlinuz", "rb");
    if (!f) {
        printf("# build/guests/gnumach/vmlinuz is not there: not tried\n");
        return;
    }
    size_t size = fread(bytes, 1, sizeof(bytes), f);
    fclose(f);
    struct boot_env e;
    boot_env_create(&e, 64 << 20);
    boot_env_set_kernel(&e, bytes, size);
    CHECK_EQ(boot_env_load(&e), OK);
    CHECK_STR(e.message, "");
    CHECK_EQ(e.boot.entry.rax, 0x2BADB002);
    printf("# GNU Mach: %u pieces, entry 0x%llx, end 0x%llx\n", e.boot.claims,
           (unsigned long long)e.boot.entry.rip, (unsigned long long)boot_claimed_end(&e.boot));
    boot_env_destroy(&e);
}

int main(void)
{
    UNIT_RUN(test_flat);
    UNIT_RUN(test_elf_and_module);
    UNIT_RUN(test_bad_headers);
    UNIT_RUN(test_header_search);
    UNIT_RUN(test_truncation);
    UNIT_RUN(test_gnu_mach);
    return unit_done();
}
