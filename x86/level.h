/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * vCPU levels: const tables of everything that identifies a processor to its guest. "v2" and "v3"
 * (the default) can be given by every engine; "host" is what this host has, less what soft cannot
 * keep its promises about. A level is never computed half from the host: v2 and v3 are the same
 * bits on every machine.
 */
#ifndef LODGE_X86_LEVEL_H
#define LODGE_X86_LEVEL_H

#include "core/types.h"
#include "isa/insn.h"

struct x86_cpu;

struct x86_cpuid_row {
    uint32_t leaf, subleaf;
    bool has_subleaf; /* ECX selects */
    uint32_t eax, ebx, ecx, edx;
};

enum { X86_LEVEL_ROWS = 48 };

struct x86_level {
    char name[16];
    uint32_t count;
    struct x86_cpuid_row row[X86_LEVEL_ROWS]; /* static part; topology, APIC id, OSXSAVE, XCR0 size
                                                 are filled in by x86_cpuid */
    uint64_t insn_features; /* BIT(enum insn_feature); INSN_FEATURE_NONE is always set */
    uint64_t arch_capabilities;
    uint64_t xcr0_mask;
    uint64_t cr4_mask;      /* bits that MOV to CR4 may set */
    uint64_t efer_mask;
    uint8_t physical_bits;
    bool pcid, x2apic, tsc_deadline, spec_ctrl;
    bool gib_pages;
};

/* The local APIC timer's input clock, before its divider; CPUID leaves 15H and 40000010H say so. */
enum { X86_APIC_TIMER_KHZ = 1000000 };

/* A const level by name ("v2", "v3"), or NULL. "host" needs x86_level_host. */
const struct x86_level *x86_level_find(const char *name);

/* Builds "host" from the CPUID of the processor that this runs on. */
void x86_level_host(struct x86_level *out);

/* Takes the whole mitigation profile away: claims neither freedom from leaks nor a vendor's controls, so that any host
 * with the level's features can go on with the VM. Guests then do all that they know against leaks. */
void x86_level_make_portable(struct x86_level *level);

/* What the host lacks to run this level under soft (instructions are executed natively): name of
 * the first missing feature ("avx2"), or NULL. */
const char *x86_level_missing(const struct x86_level *level);

/* May a VM that was saved at level `wanted` (from a file: anything) go on with that table where `offered`
 * is what this host and engine give? OK, or ERR_UNSUPPORTED and in why[] the first bit that is lacking. */
int must_check x86_level_offers(const struct x86_level *offered, const struct x86_level *wanted, char *why,
                                size_t size);

/* CPUID as the guest sees it on this vCPU (SDM 2A CPUID; unknown leaves as the manual says). */
void x86_cpuid(const struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);

static inline bool x86_level_has(const struct x86_level *level, enum insn_feature f)
{
    return (level->insn_features >> f) & 1;
}

#endif
