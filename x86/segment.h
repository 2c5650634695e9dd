/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Segmentation, for the files that implement it: descriptors and their tables, segment registers,
 * and a stack that can be filled before it is switched to. Instruction handlers use x86/mem.h.
 *
 * Faults follow one convention. `ext` is the EXT bit of the error code: X86_ERROR_EXT while an
 * event that no instruction asked for is being delivered, else 0. A selector goes into an error
 * code as selector & 0xFFFC.
 */
#ifndef LODGE_X86_SEGMENT_H
#define LODGE_X86_SEGMENT_H

#include "x86/mem.h"

/* Types of system descriptors (SDM 3A, table 3-2). */
enum {
    X86_TYPE_TSS16 = 1,
    X86_TYPE_LDT = 2,
    X86_TYPE_TSS16_BUSY = 3,
    X86_TYPE_CALL_GATE16 = 4,
    X86_TYPE_TASK_GATE = 5,
    X86_TYPE_INTERRUPT_GATE16 = 6,
    X86_TYPE_TRAP_GATE16 = 7,
    X86_TYPE_TSS = 9, /* 32-bit, or 64-bit in long mode; so are the next */
    X86_TYPE_TSS_BUSY = 11,
    X86_TYPE_CALL_GATE = 12,
    X86_TYPE_INTERRUPT_GATE = 14,
    X86_TYPE_TRAP_GATE = 15,
};

/* Attributes of whole segments, as instructions without a descriptor load them. */
enum {
    X86_ATTR_DATA_REAL = 0x93, /* present, S, data, writable, accessed */
    X86_ATTR_DATA_V86 = 0xF3,  /* the same with DPL 3 */
    X86_ATTR_CODE_FLAT = X86_ATTR_G | 0x9B,
    X86_ATTR_DATA_FLAT = X86_ATTR_G | X86_ATTR_DB | 0x93,
};

struct x86_descriptor {
    uint64_t low;    /* the descriptor proper */
    uint64_t high;   /* second half of a 16-byte system descriptor, else 0 */
    uint64_t linear; /* where it stands */
};

static inline bool x86_is_canonical(uint64_t a)
{
    return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}

static inline bool x86_selector_is_null(uint16_t selector)
{
    return (selector & 0xFFFC) == 0;
}

static inline uint32_t x86_selector_error(uint16_t selector, uint32_t ext)
{
    return (selector & 0xFFFCu) | ext;
}

/* --- parts of a descriptor --- */

static inline uint32_t x86_descriptor_attr(uint64_t low)
{
    return (uint32_t)(low >> 40) & 0xF0FF;
}

static inline uint32_t x86_descriptor_base(uint64_t low)
{
    return (uint32_t)(low >> 16 & 0xFFFFFF) | (uint32_t)(low >> 56) << 24;
}

static inline uint32_t x86_descriptor_limit(uint64_t low)
{
    uint32_t limit = (uint32_t)(low & 0xFFFF) | (uint32_t)(low >> 32 & 0xF0000);
    return low >> 32 & 1u << 23 ? limit << PAGE_SHIFT | 0xFFF : limit;
}

/* Gates: where they lead */
static inline uint16_t x86_gate_selector(uint64_t low)
{
    return (uint16_t)(low >> 16);
}

static inline uint32_t x86_gate_offset(uint64_t low)
{
    return (uint32_t)(low & 0xFFFF) | (uint32_t)(low >> 32 & 0xFFFF0000);
}

/* --- questions about attributes --- */

static inline uint8_t x86_attr_dpl(uint32_t attr)
{
    return attr >> X86_ATTR_DPL_SHIFT & 3;
}

/* Type of a system descriptor; 0 (reserved) for code and data. */
static inline uint8_t x86_attr_system_type(uint32_t attr)
{
    return attr & X86_ATTR_S ? 0 : attr & X86_ATTR_TYPE;
}

static inline bool x86_attr_is_code(uint32_t attr)
{
    return (attr & (X86_ATTR_S | 8)) == (X86_ATTR_S | 8);
}

static inline bool x86_attr_is_conforming(uint32_t attr) /* of a code segment */
{
    return attr & 4;
}

static inline bool x86_attr_is_writable(uint32_t attr)
{
    return (attr & (X86_ATTR_S | 8 | 2)) == (X86_ATTR_S | 2);
}

static inline bool x86_attr_is_readable(uint32_t attr)
{
    return attr & X86_ATTR_S && (attr & (8 | 2)) != 8;
}

/* Code with L and D both set is reserved in long mode. */
static inline bool x86_attr_is_bad_long(const struct x86_cpu *cpu, uint32_t attr)
{
    uint32_t both = X86_ATTR_L | X86_ATTR_DB;
    return cpu->long_mode && (attr & both) == both;
}

/* Is a code segment with these attributes a 64-bit one? */
static inline bool x86_attr_is_64(const struct x86_cpu *cpu, uint32_t attr)
{
    return cpu->long_mode && attr & X86_ATTR_L;
}

/* --- implicit supervisor accesses: descriptor tables and TSS --- */

int x86_system_read(struct x86_cpu *cpu, uint64_t linear, void *buf, uint32_t size);
int x86_system_write(struct x86_cpu *cpu, uint64_t linear, const void *buf, uint32_t size);

static always_inline int x86_system_read64(struct x86_cpu *cpu, uint64_t linear, uint64_t *v)
{
    const struct x86_tlb_entry *e =
        &cpu->tlb_table[X86_TLB_KERNEL][(linear >> PAGE_SHIFT) & (X86_TLB_SIZE - 1)];
    if (likely(e->read_tag == x86_tlb_tag(cpu, linear) && (linear & ~PAGE_MASK) <= PAGE_SIZE - 8)) {
        *v = *(const volatile x86_u64 *)(uintptr_t)(linear + e->addend);
        return X86_OK;
    }
    return x86_system_read(cpu, linear, v, 8);
}

/* --- descriptor tables --- */

/* Linear address of the selector's descriptor of `size` bytes in the GDT or LDT; false if it is
 * not within the table. The null selector is not special here. */
bool x86_descriptor_find(const struct x86_cpu *cpu, uint16_t selector, uint32_t size,
                         uint64_t *linear);

/* Reads the selector's descriptor, 8 bytes. Outside the table: `vector` with the selector. */
int x86_descriptor_fetch(struct x86_cpu *cpu, uint16_t selector, uint8_t vector, uint32_t ext,
                         struct x86_descriptor *d);

/* In long mode: also reads the second half of a system descriptor, and checks that its type field
 * is 0 (else `vector` with the selector). Else does nothing. */
int x86_descriptor_fetch_high(struct x86_cpu *cpu, uint16_t selector, uint8_t vector, uint32_t ext,
                              struct x86_descriptor *d);

/* Sets bits in byte 5 (accessed: 1, busy: 2) of a descriptor in memory and in *d, atomically; no
 * store if they are set already. */
int x86_descriptor_set_bits(struct x86_cpu *cpu, struct x86_descriptor *d, uint8_t bits);
int x86_descriptor_clear_bits(struct x86_cpu *cpu, uint64_t linear, uint8_t bits);

/* The accessed bit of a code or data segment. */
static inline int x86_descriptor_access(struct x86_cpu *cpu, struct x86_descriptor *d)
{
    return likely(d->low & (uint64_t)1 << 40) ? X86_OK : x86_descriptor_set_bits(cpu, d, 1);
}

/* --- segment registers --- */

void x86_segment_set(struct x86_segment *s, uint16_t selector, const struct x86_descriptor *d);
/* Unusable; keeps the DPL, which for SS is always the CPL. */
void x86_segment_set_null(struct x86_segment *s, uint16_t selector, uint8_t dpl);
/* As real mode (limit and attributes stay) and virtual-8086 mode (64 KiB, DPL 3) load them. */
void x86_segment_set_real(const struct x86_cpu *cpu, struct x86_segment *s, uint16_t selector);

/* Loads ES, SS, DS, FS or GS as MOV and POP do, all checks included; nothing changes on X86_FAULT.
 */
int x86_segment_load(struct x86_cpu *cpu, uint8_t seg, uint16_t selector);

/* After a return to an outer level: data segments that the new CPL may not use become null. */
void x86_segments_drop(struct x86_cpu *cpu);

/* Does the segment permit the access? No paging, no canonical check; not for 64-bit mode. */
bool x86_segment_permits(const struct x86_cpu *cpu, const struct x86_segment *s, uint64_t offset,
                         uint32_t size, int access);

/* --- a stack on the side --- */

/* Pushes and pops work on this copy, so that a far transfer which faults has not moved SS:rSP. */
struct x86_stack {
    struct x86_segment ss;
    uint64_t sp;
    uint8_t width;  /* of the stack pointer: 2, 4, 8 */
    uint8_t access; /* X86_SYSTEM: a stack of an inner level, while CPL is still the outer one */
    uint32_t error; /* of #SS when there is no room */
};

void x86_stack_current(const struct x86_cpu *cpu, uint32_t ext, struct x86_stack *st);
/* Width of a stack under that segment. */
uint8_t x86_stack_width(bool mode_64, const struct x86_segment *ss);
/* Room for `items` pushes? X86_OK or #SS. */
int x86_stack_check(struct x86_cpu *cpu, const struct x86_stack *st, uint32_t items, uint8_t size);
int x86_stack_push(struct x86_cpu *cpu, struct x86_stack *st, uint8_t size, uint64_t v);
int x86_stack_pop(struct x86_cpu *cpu, struct x86_stack *st, uint8_t size, uint64_t *v);
/* Steps over `bytes` without touching them. */
void x86_stack_skip(struct x86_stack *st, uint64_t bytes);
/* rSP becomes the copy's, in its width. SS is the caller's. */
void x86_stack_commit(struct x86_cpu *cpu, const struct x86_stack *st);

#endif
