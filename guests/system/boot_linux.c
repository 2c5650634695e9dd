/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What the Linux boot protocol hands over at the 64-bit entry (Documentation/arch/x86/boot.rst and
 * zero-page.rst): every byte of the zero page. guests/lib/startlinux.S makes this guest a bzImage;
 * what its setup header says is in guest_linux_header.
 */
#include "guests/lib/boot.h"

enum {
    ZP_SIZE = 4096,
    ZP_ACPI_RSDP = 0x070,
    ZP_E820_ENTRIES = 0x1E8,
    HDR_BEGIN = 0x1F1,
    HDR_VID_MODE = 0x1FA,
    HDR_TYPE_OF_LOADER = 0x210,
    HDR_LOADFLAGS = 0x211,
    HDR_CODE32_START = 0x214,
    HDR_RAMDISK_IMAGE = 0x218,
    HDR_RAMDISK_SIZE = 0x21C,
    HDR_HEAP_END_PTR = 0x224,
    HDR_CMD_LINE_PTR = 0x228,
    HDR_INITRD_ADDR_MAX = 0x22C,
    HDR_SETUP_DATA = 0x250,
    HDR_END = 0x264,
    ZP_E820_TABLE = 0x2D0,
    E820_ENTRY = 20,

    LOADED_HIGH = 1 << 0,
    CAN_USE_HEAP = 1 << 7,
    SETUP_RNG_SEED = 9,
    RNG_SEED_SIZE = 32,
};

/* The header as it is in the file, from HDR_BEGIN. */
extern const uint8_t guest_linux_header[];

struct setup_data {
    uint64_t next;
    uint32_t type, length;
    uint8_t data[];
};

static const uint8_t *zero_page;

static uint64_t field(unsigned int offset, unsigned int size)
{
    uint64_t v = 0;
    while (size--)
        v = v << 8 | zero_page[offset + size];
    return v;
}

static void test_processor(void)
{
    boot_check_registers((const uint64_t[16]){[6] = BOOT_INFO});
    boot_check_state(true);
}

/* The map that we ran on is the identity for all 4 GiB, in pages of 2 MiB. */
static void test_page_tables(void)
{
    const uint64_t *pml4 = boot_pointer(BOOT_PAGE_TABLES);
    const uint64_t in_use = 0xFFFFFFFFFFFFFFDF; /* all but the accessed bit */
    CHECK(boot_is_zero(pml4 + 1, 511 * 8));
    const uint64_t *pdpt = boot_pointer(pml4[0] & ~(uint64_t)4095);
    CHECK_EQ(pml4[0] & 4095 & in_use, X86_PTE_P | X86_PTE_W);
    CHECK(boot_is_zero(pdpt + 4, 508 * 8));
    for (uint64_t n = 0; n < 4 * 512; n++) {
        CHECK_EQ(pdpt[n / 512] & 4095 & in_use, X86_PTE_P | X86_PTE_W);
        const uint64_t *pd = boot_pointer(pdpt[n / 512] & ~(uint64_t)4095);
        CHECK_EQ(pd[n % 512] & in_use & ~(uint64_t)X86_PTE_D,
                 n << 21 | X86_PTE_P | X86_PTE_W | X86_PTE_PS);
    }
}

/* Fields that the loader fills in: {offset, size}. The others of the header are as in the file. */
static const uint16_t loaders[][2] = {
    /* table */
    {HDR_VID_MODE, 2},     {HDR_TYPE_OF_LOADER, 1}, {HDR_LOADFLAGS, 1},
    {HDR_CODE32_START, 4}, {HDR_RAMDISK_IMAGE, 4},  {HDR_RAMDISK_SIZE, 4},
    {HDR_HEAP_END_PTR, 2}, {HDR_CMD_LINE_PTR, 4},   {HDR_SETUP_DATA, 8},
};

static bool is_loaders(unsigned int offset)
{
    for (unsigned int n = 0; n < sizeof(loaders) / sizeof(loaders[0]); n++)
        if (offset >= loaders[n][0] && offset < loaders[n][0] + (unsigned int)loaders[n][1])
            return true;
    return false;
}

static void test_header(void)
{
    for (unsigned int n = HDR_BEGIN; n < HDR_END; n++)
        if (!is_loaders(n) && zero_page[n] != guest_linux_header[n - HDR_BEGIN]) {
            guest_print("at 0x%x of the zero page: ", n);
            CHECK_EQ(zero_page[n], guest_linux_header[n - HDR_BEGIN]);
        }
    CHECK_EQ(field(HDR_VID_MODE, 2), 0xFFFF);
    CHECK_EQ(field(HDR_TYPE_OF_LOADER, 1), 0xFF);
    CHECK_EQ(field(HDR_LOADFLAGS, 1), LOADED_HIGH | CAN_USE_HEAP);
    CHECK_EQ(field(HDR_CODE32_START, 4), 0x100000);
    CHECK_EQ(field(HDR_HEAP_END_PTR, 2), 0xDE00);
    boot_check_command_line(field(HDR_CMD_LINE_PTR, 4));
}

static void test_initrd(void)
{
    uint64_t base = field(HDR_RAMDISK_IMAGE, 4), size = field(HDR_RAMDISK_SIZE, 4);
    uint64_t limit = field(HDR_INITRD_ADDR_MAX, 4) + 1;
    if (limit > boot_ram_below())
        limit = boot_ram_below();
    boot_check_initrd(base, size, limit);
    if (!boot_told.initrd)
        CHECK_EQ(base, 0);
    else
        CHECK_EQ(base, (limit - size) & ~(uint64_t)4095); /* as high as allowed */
}

static void test_e820(void)
{
    uint32_t count = zero_page[ZP_E820_ENTRIES];
    CHECK(count > 0);
    for (uint32_t n = 0; n < count; n++) {
        unsigned int at = ZP_E820_TABLE + n * E820_ENTRY;
        boot_check_range(n, count, field(at, 8), field(at + 8, 8), (uint32_t)field(at + 16, 4));
    }
}

static void test_rsdp(void)
{
    boot_check_rsdp(field(ZP_ACPI_RSDP, 8));
}

/* One piece of setup data, the random seed: 32 bytes, of which eight at least differ. */
static void test_rng_seed(void)
{
    const struct setup_data *d = boot_pointer(field(HDR_SETUP_DATA, 8));
    unsigned int different = 0;
    CHECK(d != NULL);
    if (!d)
        return;
    CHECK_EQ(d->next, 0);
    CHECK_EQ(d->type, SETUP_RNG_SEED);
    CHECK_EQ(d->length, RNG_SEED_SIZE);
    for (unsigned int n = 0; n < RNG_SEED_SIZE; n++) {
        unsigned int before = 0;
        while (before < n && d->data[before] != d->data[n])
            before++;
        different += before == n;
    }
    CHECK(different >= 8);
}

/* No screen, no disks, no EFI, and not what lay around the header in the file. */
static void test_rest_is_zero(void)
{
    uint32_t count = zero_page[ZP_E820_ENTRIES], table_end = ZP_E820_TABLE + count * E820_ENTRY;
    CHECK(boot_is_zero(zero_page, ZP_ACPI_RSDP));
    CHECK(boot_is_zero(zero_page + ZP_ACPI_RSDP + 8, ZP_E820_ENTRIES - ZP_ACPI_RSDP - 8));
    CHECK(boot_is_zero(zero_page + ZP_E820_ENTRIES + 1, HDR_BEGIN - ZP_E820_ENTRIES - 1));
    CHECK(boot_is_zero(zero_page + HDR_END, ZP_E820_TABLE - HDR_END));
    CHECK(boot_is_zero(zero_page + table_end, ZP_SIZE - table_end));
}

int main(void)
{
    zero_page = boot_pointer(guest_boot_info);
    GUEST_RUN(test_processor);
    GUEST_RUN(test_page_tables);
    GUEST_RUN(test_header);
    GUEST_RUN(test_initrd);
    GUEST_RUN(test_e820);
    GUEST_RUN(test_rsdp);
    GUEST_RUN(test_rng_seed);
    GUEST_RUN(test_rest_is_zero);
    GUEST_RUN(boot_check_bda);
    return guest_done();
}
