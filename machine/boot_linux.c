/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Linux bzImage, by Documentation/arch/x86/boot.rst of the kernel: "64-bit boot protocol". The real
 * mode part is not run; the protected-mode part is loaded to its preferred address and entered at
 * offset 0x200 in 64-bit mode, with the zero page in RSI.
 *
 * Loading lower than the preferred address would not save memory: the kernel moves itself up to it
 * (boot.rst, init_size). Loading higher is never needed: kernel address randomization, if the
 * kernel has it, picks a place from the memory map on its own.
 *
 * Required: protocol 2.12 (Linux 3.8), a 64-bit entry (XLF_KERNEL_64), LOADED_HIGH. Older and
 * 32-bit-only kernels get an error that says so.
 */
#include "core/mem.h"
#include "core/seam.h"
#include "machine/boot.h"

/* Setup header, by offset in the file and in the zero page alike (boot.rst, "The Real-Mode Kernel
 * Header"). */
enum {
    HDR_SETUP_SECTS = 0x1F1,
    HDR_SYSSIZE = 0x1F4,
    HDR_VID_MODE = 0x1FA,
    HDR_BOOT_FLAG = 0x1FE,
    HDR_JUMP_LENGTH = 0x201, /* the header ends at 0x202 + this byte */
    HDR_MAGIC = 0x202,
    HDR_VERSION = 0x206,
    HDR_TYPE_OF_LOADER = 0x210,
    HDR_LOADFLAGS = 0x211,
    HDR_CODE32_START = 0x214,
    HDR_RAMDISK_IMAGE = 0x218,
    HDR_RAMDISK_SIZE = 0x21C,
    HDR_HEAP_END_PTR = 0x224,
    HDR_CMD_LINE_PTR = 0x228,
    HDR_INITRD_ADDR_MAX = 0x22C,
    HDR_KERNEL_ALIGNMENT = 0x230,
    HDR_RELOCATABLE = 0x234,
    HDR_XLOADFLAGS = 0x236,
    HDR_CMDLINE_SIZE = 0x238,
    HDR_SETUP_DATA = 0x250,
    HDR_PREF_ADDRESS = 0x258,
    HDR_INIT_SIZE = 0x260,
    HDR_END = 0x264,   /* of what protocol 2.12 has */
    HDR_LIMIT = 0x290, /* the zero page has other things from here on */
};

/* Zero page (Documentation/arch/x86/zero-page.rst). screen_info stays zero: no VGA. */
enum {
    ZP_ACPI_RSDP = 0x070,
    ZP_E820_ENTRIES = 0x1E8,
    ZP_E820_TABLE = 0x2D0,
    ZP_E820_ENTRY = 20,
    ZP_SIZE = 4096,
};

enum {
    LINUX_VERSION = 0x020C,
    LINUX_ENTRY_64 = 0x200,
    LINUX_SECTOR = 512,
    LOADFLAGS_LOADED_HIGH = 1 << 0,
    LOADFLAGS_CAN_USE_HEAP = 1 << 7,
    XLF_KERNEL_64 = 1 << 0,
    SETUP_RNG_SEED = 9,
    RNG_SEED_SIZE = 32,
    LINUX_START = 64 << 10, /* of the kernel that is there when it begins */
};

static const uint8_t linux_magic[4] = {'H', 'd', 'r', 'S'};

/* What is needed of the header, checked. */
struct linux_image {
    const uint8_t *header; /* the file's head */
    size_t setup_size;     /* bytes before the protected-mode part */
    size_t payload_size;
    uint64_t load;     /* address of the protected-mode part */
    uint64_t run_size; /* memory that it uses before it looks at the memory map */
};

static bool is_linux(const struct boot *b)
{
    return b->head_size >= HDR_MAGIC + sizeof(linux_magic) &&
           load_u16(b->head + HDR_BOOT_FLAG) == 0xAA55 &&
           memcmp(b->head + HDR_MAGIC, linux_magic, sizeof(linux_magic)) == 0;
}

static int check_version(struct boot *b, const uint8_t *h)
{
    if (b->head_size < HDR_END)
        return boot_error(b, "Linux kernel is cut off in its header (copy it again)");
    uint16_t version = load_u16(h + HDR_VERSION);
    if (version < LINUX_VERSION)
        return boot_error(b,
                          "Linux kernel with boot protocol %u.%02u: at least 2.12 is needed "
                          "(Linux 3.8 or newer)",
                          version >> 8, version & 0xFFu);
    if (!(h[HDR_LOADFLAGS] & LOADFLAGS_LOADED_HIGH))
        return boot_error(b, "Linux zImage (loaded low): a bzImage is needed");
    if (!(load_u16(h + HDR_XLOADFLAGS) & XLF_KERNEL_64))
        return boot_error(b, "Linux kernel without a 64-bit entry: a 64-bit kernel is needed");
    return OK;
}

static int check_sizes(struct boot *b, struct linux_image *image)
{
    const uint8_t *h = image->header;
    uint64_t sects = h[HDR_SETUP_SECTS] ? h[HDR_SETUP_SECTS] : 4; /* boot.rst: 0 means 4 */
    uint64_t setup_size = (sects + 1) * LINUX_SECTOR;
    uint64_t payload = (uint64_t)load_u32(h + HDR_SYSSIZE) * 16;
    if (b->files->kernel.size <= setup_size || payload == 0)
        return boot_error(b, "Linux kernel has no protected-mode part (the file is cut off or "
                             "damaged)");
    /* syssize is rounded up to paragraphs. What follows (a signature) is not loaded. */
    uint64_t rest = b->files->kernel.size - setup_size;
    if (payload > rest + 15)
        return boot_error(b, "Linux kernel is cut off: %llu bytes are missing (copy it again)",
                          (unsigned long long)(payload - rest));
    if (payload <= LINUX_ENTRY_64)
        return boot_error(b, "Linux kernel is too short for a 64-bit entry");
    image->setup_size = (size_t)setup_size;
    image->payload_size = (size_t)(payload < rest ? payload : rest);
    return OK;
}

static int check_place(struct boot *b, struct linux_image *image)
{
    const uint8_t *h = image->header;
    uint64_t load = load_u64(h + HDR_PREF_ADDRESS);
    image->run_size = load_u32(h + HDR_INIT_SIZE);
    if (h[HDR_RELOCATABLE]) {
        uint64_t alignment = load_u32(h + HDR_KERNEL_ALIGNMENT);
        if (alignment == 0 || (alignment & (alignment - 1)) != 0)
            return boot_error(b,
                              "Linux kernel wants an alignment of 0x%llx, which is not a power of "
                              "two: the file is damaged",
                              (unsigned long long)alignment);
        if (__builtin_add_overflow(load, alignment - 1, &load))
            return boot_error(b, "Linux kernel's preferred address is absurd: the file is damaged");
        load &= ~(alignment - 1);
    }
    if (image->run_size < image->payload_size)
        image->run_size = image->payload_size;
    image->load = load;
    return OK;
}

static int load_initrd(struct boot *b, const uint8_t *h, uint8_t *zero_page)
{
    uint64_t base;
    if (b->files->initrd.size == 0)
        return OK;
    uint64_t limit = (uint64_t)load_u32(h + HDR_INITRD_ADDR_MAX) + 1;
    int err = boot_claim_high(b, "initrd", b->files->initrd.size, limit, &base);
    if (err != OK)
        return err;
    store_u32(zero_page + HDR_RAMDISK_IMAGE, (uint32_t)base);
    store_u32(zero_page + HDR_RAMDISK_SIZE, (uint32_t)b->files->initrd.size);
    return boot_copy_late(b, base, &b->files->initrd, 0, b->files->initrd.size, 0);
}

/* struct setup_data: next, type, length, bytes. */
static int write_rng_seed(struct boot *b, uint8_t *zero_page)
{
    uint8_t seed[16 + RNG_SEED_SIZE] = {0};
    store_u32(seed + 8, SETUP_RNG_SEED);
    store_u32(seed + 12, RNG_SEED_SIZE);
    seam_random(seed + 16, RNG_SEED_SIZE);
    store_u64(zero_page + HDR_SETUP_DATA, BOOT_TABLES);
    int err = boot_write(b, BOOT_TABLES, seed, sizeof(seed));
    memset(seed, 0, sizeof(seed));
    return err;
}

static void fill_e820(const struct boot_map *map, uint8_t *zero_page)
{
    zero_page[ZP_E820_ENTRIES] = (uint8_t)map->count;
    for (uint32_t n = 0; n < map->count; n++) {
        uint8_t *entry = zero_page + ZP_E820_TABLE + n * ZP_E820_ENTRY;
        store_u64(entry, map->range[n].base);
        store_u64(entry + 8, map->range[n].size);
        store_u32(entry + 16, map->range[n].type);
    }
}

static void fill_header(const struct boot *b, const struct linux_image *image, uint8_t *zero_page)
{
    const uint8_t *h = image->header;
    size_t end = (size_t)HDR_MAGIC + h[HDR_JUMP_LENGTH];
    if (end < HDR_END)
        end = HDR_END;
    if (end > HDR_LIMIT)
        end = HDR_LIMIT;
    if (end > b->head_size)
        end = b->head_size;
    memcpy(zero_page + HDR_SETUP_SECTS, h + HDR_SETUP_SECTS, end - HDR_SETUP_SECTS);

    zero_page[HDR_TYPE_OF_LOADER] = 0xFF; /* no number assigned */
    zero_page[HDR_LOADFLAGS] |= LOADFLAGS_CAN_USE_HEAP;
    store_u16(zero_page + HDR_HEAP_END_PTR, 0xE000 - 0x200);
    store_u16(zero_page + HDR_VID_MODE, 0xFFFF); /* "normal" */
    store_u32(zero_page + HDR_CODE32_START, (uint32_t)image->load);
    store_u32(zero_page + HDR_RAMDISK_IMAGE, 0);
    store_u32(zero_page + HDR_RAMDISK_SIZE, 0);
    store_u32(zero_page + HDR_CMD_LINE_PTR, BOOT_COMMAND_LINE);
    store_u64(zero_page + ZP_ACPI_RSDP, b->rsdp);
}

int boot_linux_load(struct boot *b, bool *mine)
{
    struct linux_image image = {.header = b->head};
    uint8_t zero_page[ZP_SIZE] = {0};
    *mine = is_linux(b);
    if (!*mine)
        return OK;
    int err = check_version(b, image.header);
    if (err == OK)
        err = check_sizes(b, &image);
    if (err == OK)
        err = check_place(b, &image);
    if (err == OK)
        err = boot_claim(b, "Linux kernel", image.load, image.run_size);
    if (err == OK)
        err = boot_copy_late(b, image.load, &b->files->kernel, image.setup_size,
                             image.payload_size, LINUX_START);
    if (err == OK)
        err = boot_write_command_line(b, load_u32(image.header + HDR_CMDLINE_SIZE));
    if (err != OK)
        return err;

    fill_header(b, &image, zero_page);
    fill_e820(&b->map, zero_page);
    err = load_initrd(b, image.header, zero_page);
    if (err == OK)
        err = write_rng_seed(b, zero_page);
    if (err == OK)
        err = boot_write(b, BOOT_INFO, zero_page, sizeof(zero_page));
    b->entry = (struct boot_entry){
        .long_mode = true, .rip = image.load + LINUX_ENTRY_64, .rsi = BOOT_INFO};
    return err;
}
