/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Nested page tables: from guest-physical addresses to physical ones, in AMD's format (APM 2, 15.25) and in
 * Intel's (SDM 3C, 28.3). Made of a VM's memory slots, whole, before the guest runs: RAM may be read, written and
 * executed, ROM read and executed, and there is nothing else. So the tables are const while vCPUs run, and a
 * nested page fault is always an access to what is not RAM.
 */
#ifndef LODGE_ENGINE_NESTED_H
#define LODGE_ENGINE_NESTED_H

#include "core/err.h"
#include "core/guest_mem.h"
#include "core/types.h"

/* What two formats differ in: bits of an entry. Addresses are in bits 51:12 in both. */
struct nested_format {
    uint64_t table;   /* of an entry that points to the next table */
    uint64_t leaf;    /* of one that maps a page */
    uint64_t large;   /* more of one that maps a page of 2 MiB or 1 GiB */
    uint64_t write;   /* the page may be written */
    uint64_t present; /* an entry with none of these is empty */
};

extern const struct nested_format nested_amd, nested_ept;

struct nested {
    const struct nested_format *format;
    uint64_t *root;  /* the table of level 4; NULL: there are none */
    bool gib_pages;  /* the processor has pages of 1 GiB */
    uint32_t tables; /* pages that they are made of */
    const struct guest_mem *mem; /* what they map */
};

/* Maps all of *m. gib_pages: CPUID 80000001H EDX[26] (AMD), IA32_VMX_EPT_VPID_CAP[17] (Intel). ERR_NO_MEMORY,
 * with nothing left behind; ERR_RANGE: a slot ends beyond 2^48. */
int must_check nested_create(struct nested *n, const struct nested_format *format, bool gib_pages,
                             const struct guest_mem *m);
/* The slots have changed; the VM is at rest. On an error the old tables are as they were. The caller has every vCPU
 * forget translations before it runs again. */
int must_check nested_rebuild(struct nested *n, const struct guest_mem *m);
/* Frees the tables; none there is fine. */
void nested_destroy(struct nested *n);

/* Physical address of the root: N_CR3, or an EPTP's address. */
uint64_t nested_root(const struct nested *n);

/* For the checker: each table (leaf false, gpa the first address that it
 * translates, size 4096) and each leaf. False, of a table: it is not looked into. */
typedef bool nested_visit(void *owner, uint64_t gpa, uint64_t physical, uint64_t size, bool leaf, bool writable);
void nested_walk(const struct nested *n, nested_visit *visit, void *owner);

#endif
