/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Boot protocols: from a kernel's file to RAM contents and the boot processor's first state. Inside
 * machine/ only; docs/machine.md describes the result.
 *
 * Lodge plays the boot loader: there is no firmware. What a protocol hands to the kernel lies in
 * the first 64 KiB of RAM, which no kernel is loaded to:
 */
#ifndef LODGE_MACHINE_BOOT_H
#define LODGE_MACHINE_BOOT_H

#include "core/err.h"
#include "core/guest_mem.h"
#include "lodge/ports.h"
#include "machine/pc.h"
#include "x86/cpu.h"

enum {
    BOOT_BDA = 0x400,          /* BIOS data area: base memory, EBDA segment, COM1's port */
    BOOT_GDT = 0x1000,         /* see boot_cpu.c */
    BOOT_PAGE_TABLES = 0x2000, /* six pages: identity map of 4 GiB for 64-bit entries */
    BOOT_INFO = 0x8000,        /* zero page, hvm_start_info or Multiboot information */
    BOOT_COMMAND_LINE = 0x9000,
    BOOT_TABLES = 0xA000,     /* memory map, module list, setup_data: what BOOT_INFO points to */
    BOOT_STACK_TOP = 0x10000, /* 16 KiB of stack that no protocol promises, but some may use */
    BOOT_LOW_END = 0x10000,

    BOOT_EBDA = 0x9FC00, /* end of conventional memory */
    BOOT_ACPI = 0xE0000, /* ACPI tables */
    BOOT_ACPI_SIZE = 0x1F000,
    BOOT_GENERATION = 0xFF000, /* the VM's generation id, 16 bytes, in a page of its own */
};

enum boot_range_type { BOOT_RAM = 1, BOOT_RESERVED = 2 }; /* as in e820 */

struct boot_range {
    uint64_t base, size;
    uint32_t type;
};

enum { BOOT_RANGES = 8 };

/* The memory map that every protocol hands on, sorted. */
struct boot_map {
    uint32_t count;
    struct boot_range range[BOOT_RANGES];
};

/* RAM below LODGE_MMIO_HOLE and above 4 GiB. */
static inline uint64_t boot_ram_below(uint64_t memory)
{
    return memory < LODGE_MMIO_HOLE ? memory : LODGE_MMIO_HOLE;
}

static inline uint64_t boot_ram_above(uint64_t memory)
{
    return memory - boot_ram_below(memory);
}

void boot_map_make(struct boot_map *map, uint64_t memory);

/* How the boot processor starts: flat segments, interrupts off, everything else as after reset. */
struct boot_entry {
    bool long_mode; /* 64-bit with the identity map; else 32-bit without paging */
    uint64_t rip, rax, rbx, rsi;
};

enum {
    BOOT_CLAIMS = 72,
    BOOT_SEGMENTS = 64,
    BOOT_HEAD = 8192 + 32, /* where Multiboot's header may begin, and its size */
    BOOT_LATE = 1 << 20,   /* less than that is not worth its coming late */
};

/* A load in progress. The first part is filled in by the caller. */
struct boot {
    const struct guest_mem *mem;
    const struct boot_files *files;
    const char *append;
    uint64_t memory; /* bytes of RAM */
    uint64_t rsdp;   /* guest-physical address of the ACPI root pointer, 0 for none */
    char *message;   /* PC_MESSAGE bytes */

    struct boot_entry entry; /* out */

    size_t head_size; /* of the kernel's file, or BOOT_HEAD */
    uint8_t head[BOOT_HEAD];

    struct boot_map map;
    uint32_t claims; /* what has been loaded or set aside */
    struct boot_range claim[BOOT_CLAIMS];
};

/* Loads b->files. ERR_INVALID with a one-line message (the home puts the file's name before it). */
int must_check boot_load(struct boot *b);

/* Puts the boot processor into b->entry's state and writes the tables that this needs. */
int must_check boot_enter(const struct boot *b, struct x86_cpu *cpu);

/* --- for the protocols --- */

int must_check boot_error(struct boot *b, const char *format, ...) printf_like(2, 3);

/* Sets [base, base + size) aside for `what` ("kernel segment 2"): all in one range of RAM, above
 * BOOT_LOW_END, free. size > 0. */
int must_check boot_claim(struct boot *b, const char *what, uint64_t base, uint64_t size);
/* The same for the highest or lowest free page-aligned place below 4 GiB, under or from `limit`. */
int must_check boot_claim_high(struct boot *b, const char *what, uint64_t size, uint64_t limit,
                               uint64_t *base);
int must_check boot_claim_low(struct boot *b, const char *what, uint64_t size, uint64_t limit,
                              uint64_t *base);
/* End of the highest claim. */
uint64_t boot_claimed_end(const struct boot *b);
bool boot_is_claimed(const struct boot *b, uint64_t address);

/* Writes into the guest's RAM; a failure is a bug of ours, told as an error all the same. */
int must_check boot_write(struct boot *b, uint64_t address, const void *bytes, size_t size);
/* The n bytes from `offset` on of one of b->files. */
int must_check boot_read(struct boot *b, const struct boot_file *f, uint64_t offset, void *to,
                         size_t n);
/* The same, into the guest's RAM. */
int must_check boot_copy(struct boot *b, uint64_t address, const struct boot_file *f,
                         uint64_t offset, size_t n);
/* The same, but only the first `now` bytes are sure to be copied at once. The rest may come when the
 * guest first touches it: nobody else looks at it before. */
int must_check boot_copy_late(struct boot *b, uint64_t address, const struct boot_file *f,
                              uint64_t offset, size_t n, size_t now);
/* The command line, at BOOT_COMMAND_LINE; limit: the longest that the kernel takes. */
int must_check boot_write_command_line(struct boot *b, size_t limit);

/* Each protocol: *mine says whether the file is of that kind; if it is, loads it. */
int must_check boot_linux_load(struct boot *b, bool *mine);
int must_check boot_pvh_load(struct boot *b, bool *mine);
int must_check boot_multiboot_load(struct boot *b, bool *mine);

#endif
