/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* ELF files as kernels: the two classes behind one set of fields (System V ABI, chapters 4 and 5).
 * Inside machine/ only. */
#ifndef LODGE_MACHINE_ELF_H
#define LODGE_MACHINE_ELF_H

#include "machine/boot.h"

enum { ELF_PT_LOAD = 1, ELF_PT_NOTE = 4, ELF_HEADER_MAX = 56 /* of a program header */ };

struct elf {
    bool is_64;
    uint64_t entry;
    uint32_t header_count; /* at most BOOT_SEGMENTS */
    uint8_t headers[BOOT_SEGMENTS * ELF_HEADER_MAX];
};

struct elf_segment {
    uint32_t type;
    uint64_t offset, file_size; /* lies inside the file */
    uint64_t virtual_address, physical_address, memory_size;
    uint64_t alignment;
};

/* Does the kernel's file start like an ELF file? */
bool elf_is(const struct boot *b);
/* Checks header and program headers of a file that elf_is. */
int must_check elf_open(struct boot *b, struct elf *e);
/* Program header n < header_count. */
void elf_segment_get(const struct elf *e, uint32_t n, struct elf_segment *s);
/* Claims and loads all PT_LOAD segments to their physical addresses. */
int must_check elf_load(struct boot *b, const struct elf *e);
/* The entry as a physical address: through the segment that holds it, by virtual address or, if
 * none does, as it is. ERR_INVALID if that is in nothing that was loaded. */
int must_check elf_physical_entry(struct boot *b, const struct elf *e, uint64_t *entry);

#endif
