/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Guest memory as instructions see it: effective address, segmentation, paging, then RAM or MMIO.
 * The fast path is a TLB hit inside one page of RAM; everything else is x86_mem_slow (x86/mmu.c).
 * Every memory operand, instruction fetch and string operation comes through here.
 */
#ifndef LODGE_X86_MEM_H
#define LODGE_X86_MEM_H

#include "core/mem.h"
#include "x86/cpu.h"

enum x86_access {
    X86_READ = 0,
    X86_WRITE = 1,
    X86_EXEC = 2,
    X86_SYSTEM = 4, /* ORed in: implicit supervisor access (descriptor tables, TSS) whatever CPL is */
    X86_UNALIGNED = 8, /* ORed in: #AC does not apply, whatever the size */
};

/* Plain loads and stores must be single host instructions (x86 memory order, no tearing). */
typedef uint16_t __attribute__((may_alias, aligned(1))) x86_u16;
typedef uint32_t __attribute__((may_alias, aligned(1))) x86_u32;
typedef uint64_t __attribute__((may_alias, aligned(1))) x86_u64;

static inline uint64_t x86_size_mask(uint8_t size)
{
    return size == 8 ? ~(uint64_t)0 : ((uint64_t)1 << (size * 8)) - 1;
}

/* --- registers --- */

/* n as the decoder numbers byte registers: 0..15, or 16..19 for AH CH DH BH. */
static always_inline uint8_t *x86_gpr8(struct x86_cpu *cpu, uint8_t n)
{
    uint8_t *base = (uint8_t *)cpu->gpr;
    return n < 16 ? base + (size_t)n * 8 : base + (size_t)(n - 16) * 8 + 1;
}

static always_inline uint64_t x86_get_gpr(struct x86_cpu *cpu, uint8_t n, uint8_t size)
{
    if (size == 1)
        return *x86_gpr8(cpu, n);
    return cpu->gpr[n & 15] & x86_size_mask(size);
}

/* 32-bit writes clear the upper half; 8- and 16-bit writes keep the rest. */
static always_inline void x86_set_gpr(struct x86_cpu *cpu, uint8_t n, uint8_t size, uint64_t v)
{
    switch (size) {
    case 1:
        *x86_gpr8(cpu, n) = (uint8_t)v;
        break;
    case 2:
        cpu->gpr[n & 15] = (cpu->gpr[n & 15] & ~(uint64_t)0xFFFF) | (v & 0xFFFF);
        break;
    case 4:
        cpu->gpr[n & 15] = (uint32_t)v;
        break;
    default:
        cpu->gpr[n & 15] = v;
        break;
    }
}

/* --- effective and linear addresses --- */

/* The offset of i's memory operand in its segment, cut to the address size. Gives the wrong answer
 * for VSIB (gathers add their own index). */
static always_inline uint64_t x86_effective_address(const struct x86_cpu *cpu, const struct insn *i)
{
    if (unlikely(i->flags & INSN_MOFFS))
        return i->imm;
    uint64_t a = (uint64_t)(int64_t)i->disp;
    if (i->base != INSN_NO_REG)
        a += cpu->gpr[i->base & 15];
    if (i->index != INSN_NO_REG)
        a += cpu->gpr[i->index & 15] << i->scale;
    if (i->flags & INSN_RIPREL)
        a += cpu->rip;
    if (unlikely(i->addrsize != 8))
        a &= x86_size_mask(i->addrsize);
    return a;
}

/* Segmentation (x86/segment.c): canonical check in 64-bit mode (#GP, or #SS for SS), limit, type
 * and null checks else. X86_OK and *linear, or X86_FAULT. access: enum x86_access. */
int x86_linear_slow(struct x86_cpu *cpu, uint8_t seg, uint64_t offset, uint32_t size, int access,
                    uint64_t *linear);

static always_inline int x86_linear(struct x86_cpu *cpu, uint8_t seg, uint64_t offset, uint32_t size,
                                    int access, uint64_t *linear)
{
    if (likely(cpu->mode == INSN_MODE_64)) {
        uint64_t a = offset;
        if (seg >= SEG_FS)
            a += cpu->seg[seg].base;
        /* canonical for 48 bits, also at its last byte */
        uint64_t last = a + size - 1;
        if (likely((uint64_t)((int64_t)(a << 16) >> 16) == a &&
                   (uint64_t)((int64_t)(last << 16) >> 16) == last)) {
            *linear = a;
            return X86_OK;
        }
    }
    return x86_linear_slow(cpu, seg, offset, size, access, linear);
}

/* What stands n bytes behind `linear` in the same operand. Outside 64-bit mode linear addresses have
 * 32 bits (SDM 3A, 3.3). */
static always_inline uint64_t x86_linear_add(const struct x86_cpu *cpu, uint64_t linear, uint64_t n)
{
    uint64_t a = linear + n;
    return likely(cpu->mode == INSN_MODE_64) ? a : (uint32_t)a;
}

/* Linear address of i's memory operand of `size` bytes. */
static always_inline int x86_operand(struct x86_cpu *cpu, const struct insn *i, uint32_t size,
                                     int access, uint64_t *linear)
{
    return x86_linear(cpu, i->seg, x86_effective_address(cpu, i), size, access, linear);
}

/* --- memory by linear address --- */

static always_inline struct x86_tlb_entry *x86_tlb_slot(struct x86_cpu *cpu, uint64_t linear)
{
    return &cpu->tlb[(linear >> PAGE_SHIFT) & (X86_TLB_SIZE - 1)];
}

static always_inline uint64_t x86_tlb_tag(const struct x86_cpu *cpu, uint64_t linear)
{
    return (linear & PAGE_MASK) | cpu->tlb_generation[linear >> 63];
}

/* Page crossing, TLB miss, MMIO, ROM, alignment checks (#AC), data breakpoints: x86/mmu.c. A
 * crossing access is checked on both pages before a byte is moved. size 1..64 (also SIMD). */
int x86_read_slow(struct x86_cpu *cpu, uint64_t linear, void *buf, uint32_t size, int access);
int x86_write_slow(struct x86_cpu *cpu, uint64_t linear, const void *buf, uint32_t size, int access);

/* Host pointer to [linear, linear + size) if it is RAM in one page and the access is allowed (A/D
 * bits are set, code_written is seen to). X86_OK: *host is set; NULL means permitted, but not
 * directly reachable (MMIO, ROM, page crossing, data breakpoint): use read/write. X86_FAULT: #PF etc. */
int x86_mem_host_slow(struct x86_cpu *cpu, uint64_t linear, uint32_t size, int access, void **host);

static always_inline int x86_mem_host(struct x86_cpu *cpu, uint64_t linear, uint32_t size, int access,
                                      void **host)
{
    struct x86_tlb_entry *e = x86_tlb_slot(cpu, linear);
    uint64_t tag = access & X86_WRITE ? e->write_tag : e->read_tag;
    if (likely(tag == x86_tlb_tag(cpu, linear) && (linear & ~PAGE_MASK) + size <= PAGE_SIZE)) {
        /* a store into the running block's page is found by x86_note_store */
        *host = (void *)(uintptr_t)(linear + e->addend);
        return X86_OK;
    }
    return x86_mem_host_slow(cpu, linear, size, access, host);
}

/* Alignment checking at CPL 3 needs every access to take the slow path: with CR0.AM and RFLAGS.AC
 * set at CPL 3, x86_update_mode points cpu->tlb at a table that is never filled. */

/*
 * Called after each store through a host pointer that came out of the TLB. `host` is compared with
 * the page that the running block was fetched from (set by the engine), so that self-modifying
 * code ends its block. One compare; no branch taken in the common case.
 */
static always_inline void x86_note_store(struct x86_cpu *cpu, const void *host)
{
    if (unlikely(((uintptr_t)host & PAGE_MASK) == cpu->code_page))
        cpu->code_written = true;
}

#define X86_DEFINE_ACCESS(bits, type, raw)                                                         \
    static always_inline int x86_read##bits(struct x86_cpu *cpu, uint64_t linear, type *v)         \
    {                                                                                              \
        struct x86_tlb_entry *e = x86_tlb_slot(cpu, linear);                                       \
        if (likely(e->read_tag == x86_tlb_tag(cpu, linear) &&                                      \
                   (linear & ~PAGE_MASK) <= PAGE_SIZE - sizeof(type))) {                           \
            *v = *(const volatile raw *)(uintptr_t)(linear + e->addend);                           \
            return X86_OK;                                                                         \
        }                                                                                          \
        return x86_read_slow(cpu, linear, v, sizeof(type), X86_READ);                              \
    }                                                                                              \
    static always_inline int x86_write##bits(struct x86_cpu *cpu, uint64_t linear, type v)         \
    {                                                                                              \
        struct x86_tlb_entry *e = x86_tlb_slot(cpu, linear);                                       \
        if (likely(e->write_tag == x86_tlb_tag(cpu, linear) &&                                     \
                   (linear & ~PAGE_MASK) <= PAGE_SIZE - sizeof(type))) {                           \
            volatile raw *host = (volatile raw *)(uintptr_t)(linear + e->addend);                  \
            *host = v;                                                                             \
            x86_note_store(cpu, (const void *)(uintptr_t)host);                                    \
            return X86_OK;                                                                         \
        }                                                                                          \
        return x86_write_slow(cpu, linear, &v, sizeof(type), X86_WRITE);                           \
    }

X86_DEFINE_ACCESS(8, uint8_t, uint8_t)
X86_DEFINE_ACCESS(16, uint16_t, x86_u16)
X86_DEFINE_ACCESS(32, uint32_t, x86_u32)
X86_DEFINE_ACCESS(64, uint64_t, x86_u64)

/* The same by size (1, 2, 4, 8); reads are zero-extended. */
static always_inline int x86_read_size(struct x86_cpu *cpu, uint64_t linear, uint8_t size,
                                       uint64_t *v)
{
    uint8_t v8;
    uint16_t v16;
    uint32_t v32;
    int s;
    switch (size) {
    case 1:
        s = x86_read8(cpu, linear, &v8);
        *v = s == X86_OK ? v8 : 0;
        return s;
    case 2:
        s = x86_read16(cpu, linear, &v16);
        *v = s == X86_OK ? v16 : 0;
        return s;
    case 4:
        s = x86_read32(cpu, linear, &v32);
        *v = s == X86_OK ? v32 : 0;
        return s;
    default:
        return x86_read64(cpu, linear, v);
    }
}

static always_inline int x86_write_size(struct x86_cpu *cpu, uint64_t linear, uint8_t size, uint64_t v)
{
    switch (size) {
    case 1:
        return x86_write8(cpu, linear, (uint8_t)v);
    case 2:
        return x86_write16(cpu, linear, (uint16_t)v);
    case 4:
        return x86_write32(cpu, linear, (uint32_t)v);
    default:
        return x86_write64(cpu, linear, v);
    }
}

/* Longer or structured accesses (descriptors, SIMD operands): any size up to 64 bytes. */
static always_inline int x86_read_bytes(struct x86_cpu *cpu, uint64_t linear, void *buf, uint32_t size)
{
    return x86_read_slow(cpu, linear, buf, size, X86_READ);
}

static always_inline int x86_write_bytes(struct x86_cpu *cpu, uint64_t linear, const void *buf,
                                         uint32_t size)
{
    return x86_write_slow(cpu, linear, buf, size, X86_WRITE);
}

/* #AC if alignment checking is in force and `linear` is not aligned to `align` bytes: for operands
 * whose size does not say what they have to be aligned to. Page faults come first: find them. */
int x86_check_alignment(struct x86_cpu *cpu, uint64_t linear, uint32_t align);

/*
 * A read-modify-write begins: checks write permission of the whole operand. *host non-NULL: the
 * operand may be worked on in place with a host instruction (LOCK-prefixed if the guest's was);
 * call x86_note_store after. *host NULL: not directly reachable; read and write with
 * x86_read_size / x86_write_size, and if the instruction is LOCKed, or the operand crosses a cache
 * line with LOCK, bracket it with x86_lock_begin / x86_lock_end, which bring all vCPUs to rest.
 * A LOCKed operand that crosses a cache line (64 bytes) always comes back as NULL.
 */
int x86_rmw_begin(struct x86_cpu *cpu, uint64_t linear, uint32_t size, bool locked, void **host);
void x86_lock_begin(struct x86_cpu *cpu);
void x86_lock_end(struct x86_cpu *cpu);

/* --- x86/mmu_code.c: stores that are not an instruction's own --- */

/* Before memory is written by the processor itself, in one page and in the middle of whatever: page
 * table entries, KVM's pages. If translated code depends on it, cpu->late_code is set. */
void x86_write_late(struct x86_cpu *cpu, const void *host);
/* The vCPU stands between two instructions and late_code is set: drops such code, with all vCPUs at
 * rest. Translations of addresses are void afterwards. */
void x86_drop_late_code(struct x86_cpu *cpu);

/* --- x86/mmu.c: paging --- */

/* Drops all translations, all but global ones (may drop those too), or one page's. Own thread. */
void x86_tlb_flush(struct x86_cpu *cpu);
void x86_tlb_flush_local(struct x86_cpu *cpu);
void x86_tlb_flush_page(struct x86_cpu *cpu, uint64_t linear);
/* No entry lets the page at that host address be written any more. Own thread, or at rest. */
void x86_tlb_protect(struct x86_cpu *cpu, uint64_t host_page);

/*
 * Walks the guest's page tables. access: enum x86_access; user: the access counts as CPL 3's.
 * Sets A and (write) D bits atomically. X86_OK: *physical; X86_FAULT: #PF recorded.
 */
int x86_translate(struct x86_cpu *cpu, uint64_t linear, int access, struct gpa *physical);

/* Without side effects or faults, for debuggers and dumps: false if not mapped. */
bool x86_translate_peek(const struct x86_cpu *cpu, uint64_t linear, struct gpa *physical);

/* Host address of the code at linear, for up to the end of its page; NULL with X86_OK when it is
 * not RAM or ROM (fetch byte by byte is refused: executing from MMIO ends the VM or faults as
 * x86/mmu.c says). X86_FAULT: #PF. physical may be NULL. */
int x86_fetch_host(struct x86_cpu *cpu, uint64_t linear, const uint8_t **host, struct gpa *physical);

/* Copies up to 15 instruction bytes from cs:rip, across a page end if needed; *got says how many
 * are readable before a fault. Fault only if not even the first byte is. With *got < 15, cpu->fault
 * is what reading the next byte would raise: a caller that needs it returns X86_FAULT. What is
 * neither RAM nor ROM reads as FF bytes, an invalid instruction. */
int x86_fetch_bytes(struct x86_cpu *cpu, uint8_t *buf, uint32_t *got);

/* --- x86/segment.c: stack, for gates and far transfers too --- */

/* One item of `size` bytes (2, 4, 8) at SS:rSP with the current stack width. On X86_FAULT rSP is
 * unchanged. */
int x86_push(struct x86_cpu *cpu, uint8_t size, uint64_t v);
int x86_pop(struct x86_cpu *cpu, uint8_t size, uint64_t *v);

#endif
