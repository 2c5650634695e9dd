/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What the boot loader says (Multiboot 2, section 3.6), read once, checked, copied. (boot_info.c, pure) */
#ifndef LODGE_NATIVE_BOOT_INFO_H
#define LODGE_NATIVE_BOOT_INFO_H

#include "core/err.h"
#include "core/types.h"

/* Modules: a fleet's, three files of each VM and its own (fleet.c). With the longest paths they take 0.8 MiB of the boot
 * information. */
enum { BOOT_RANGES = 256, BOOT_MODULES = 769, BOOT_COMMAND = 1026, BOOT_RSDP = 64, BOOT_INFO_MAX = 1 << 20 };

/* From the most to the least usable; where the firmware's ranges overlap, the later wins. */
enum boot_range_kind { BOOT_RAM = 1, BOOT_ACPI, BOOT_NVS, BOOT_RESERVED, BOOT_BAD };

struct boot_range { /* [base, end), bytes */
    uint64_t base, end;
    uint32_t kind;
};

struct boot_module { /* bytes; as loaded */
    uint64_t base, size;
    char command[BOOT_COMMAND];
};

/* Multiboot 2, section 3.6.12. */
struct boot_screen {
    uint64_t address;
    uint32_t pitch, width, height; /* bytes, pixels (or characters) */
    uint8_t bits, type;            /* BOOT_SCREEN_* */
    struct {
        uint8_t position, size;
    } red, green, blue; /* of BOOT_SCREEN_RGB */
};
enum { BOOT_SCREEN_NONE = 0xFF, BOOT_SCREEN_INDEXED = 0, BOOT_SCREEN_RGB = 1, BOOT_SCREEN_TEXT = 2 };

struct boot_info {
    char command[BOOT_COMMAND]; /* Lodge's own */
    char loader[64];
    bool efi;            /* the firmware is UEFI */
    bool from_efi_map;   /* there was no map but EFI's */
    uint32_t left_out;   /* modules and ranges for which there was no room */
    uint32_t ranges;     /* in order, none overlap */
    struct boot_range range[BOOT_RANGES];
    uint32_t rsdp_size; /* 0: none */
    uint8_t rsdp[BOOT_RSDP] __attribute__((aligned(16)));
    struct boot_screen screen;
    uint32_t modules;
    struct boot_module module[BOOT_MODULES]; /* [modules .. ) are not written */
};

/* info: the boot information, of which `available` bytes may be read. OK, or ERR_INVALID, ERR_TRUNCATED or ERR_RANGE
 * and one line in message: there is no memory map, or the tags do not fit in it. */
int must_check boot_info_read(struct boot_info *b, const void *info, size_t available, char *message,
                              size_t message_size);

/* The kind of the range that address is in; 0: in none. */
uint32_t boot_info_kind(const struct boot_info *b, uint64_t address);
/* Does [base, base + size) touch a module? */
const struct boot_module *boot_info_module_in(const struct boot_info *b, uint64_t base, uint64_t size);
/* Is `word` one of the words of the command line? */
bool boot_info_option(const struct boot_info *b, const char *word);

#endif
