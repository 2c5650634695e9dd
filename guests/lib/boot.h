/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * For guests/system/boot_*.c: what all boot protocols hand over alike, as docs/machine.md has it.
 * Each of those guests is told on its command line what it must find, in exactly this form:
 *
 *   memory=MIB initrd=BYTES last
 *
 * BYTES is the size of an initrd whose byte n is (31 n + 7 (n / 256)) mod 256; 0 for none.
 */
#ifndef GUESTS_LIB_BOOT_H
#define GUESTS_LIB_BOOT_H

#include "guests/lib/guest.h"

enum {
    BOOT_GDT = 0x1000,
    BOOT_PAGE_TABLES = 0x2000,
    BOOT_INFO = 0x8000,
    BOOT_COMMAND_LINE = 0x9000,
    BOOT_STACK_TOP = 0x10000,

    BOOT_CODE = 0x10, /* selectors that we are started with */
    BOOT_DATA = 0x18,
    BOOT_TSS = 0x20,
};

enum { BOOT_RAM = 1, BOOT_RESERVED = 2 };

struct __attribute__((packed)) boot_table_register {
    uint16_t limit;
    uint64_t base;
};

/* How we were started: filled in by guests/lib/entry.inc, whose offsets these are. */
struct __attribute__((packed)) guest_started {
    uint64_t gpr[16]; /* as instructions number them */
    uint64_t rflags, cr0, cr3, cr4, efer;
    uint16_t cs, ds, es, ss, fs, gs, ldtr, tr;
    struct boot_table_register gdtr, idtr; /* 32-bit: the upper half of base is 0 */
};
extern struct guest_started guest_started;
extern uint32_t guest_boot_info; /* the address that the loader gave */
extern uint8_t guest_end[];      /* of our image, .bss included */

/* From the command line, by boot_check_command_line. */
struct boot_told {
    uint64_t memory; /* bytes */
    uint32_t initrd; /* bytes */
};
extern struct boot_told boot_told;

static inline const void *boot_pointer(uint64_t address)
{
    return (const void *)(uintptr_t)address;
}

/* The command line must come first: the others need what it says. */
void boot_check_command_line(uint64_t address);
/* The general registers: these values, but for RSP, which is the top of the stack. */
void boot_check_registers(const uint64_t gpr[16]);
/* Flags, control registers, segments and the descriptors behind them. */
void boot_check_state(bool long_mode);
/* Entry n of the memory map, of `count`. */
void boot_check_range(uint32_t n, uint32_t count, uint64_t base, uint64_t size, uint32_t type);
/* RSDP: checksums, revision, place. */
void boot_check_rsdp(uint64_t address);
/* The initrd's size and bytes; it lies in free RAM below `limit`, on a page, not on us. */
void boot_check_initrd(uint64_t address, uint64_t size, uint64_t limit);
/* BIOS data area and EBDA. */
void boot_check_bda(void);
/* RAM below the devices' hole. */
uint64_t boot_ram_below(void);
/* All n bytes are 0. */
bool boot_is_zero(const void *p, size_t n);

#endif
