/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B (SDM 2).
 *
 * On memory the host's instruction works in place, with LOCK when the guest's has it. CMPXCHG
 * always writes its destination, on a mismatch the old value, so a page that is read-only faults
 * whatever the comparison gives.
 */
#include "x86/operand.h"

#define ATOMIC_HANDLER(name, expr)                                                                 \
    static int name(struct x86_cpu *cpu, const struct insn *i)                                     \
    {                                                                                              \
        return expr;                                                                               \
    }

/* --- CMPXCHG and XADD on one operand --- */

/* On a register image or memory; *acc is RAX (CMPXCHG) and *src the source (XADD), both images. */
typedef uint64_t atomic_reg_fn(uint64_t *dst, uint64_t *acc, uint64_t *src);
typedef uint64_t atomic_mem_fn(void *host, uint64_t *acc, uint64_t *src);

/* RAX is the accumulator and the carrier of flags, so the accumulator moves in and out. */
#define ATOMIC_CMPXCHG(prefix, operands)                                                           \
    "movq %[acc], %%rax\n\t" prefix "cmpxchg" operands "\n\tmovq %%rax, %[acc]" X86_ASM_SAVE_FLAGS

#define ATOMIC_DEFINE(bits, type, suffix, mod)                                                     \
    static always_inline uint64_t cmpxchg_reg##bits(uint64_t *dst, uint64_t *acc, uint64_t *src)   \
    {                                                                                              \
        uint64_t d = *dst, a = *acc, carrier;                                                      \
        __asm__(ATOMIC_CMPXCHG("", suffix " %" mod "[src], %" mod "[dst]")                         \
                : [dst] "+&r"(d), [acc] "+&r"(a), "=&a"(carrier)                                   \
                : [src] "r"(*src)                                                                  \
                : "cc");                                                                           \
        *acc = a;                                                                                  \
        *dst = d;                                                                                  \
        return carrier;                                                                            \
    }                                                                                              \
    static always_inline uint64_t xadd_reg##bits(uint64_t *dst, uint64_t *acc, uint64_t *src)      \
    {                                                                                              \
        uint64_t d = *dst, s = *src, carrier;                                                      \
        (void)acc;                                                                                 \
        __asm__("xadd" suffix " %" mod "[src], %" mod "[dst]" X86_ASM_SAVE_FLAGS                   \
                : [dst] "+r"(d), [src] "+r"(s), "=&a"(carrier)                                     \
                :                                                                                  \
                : "cc");                                                                           \
        *src = s;                                                                                  \
        *dst = d;                                                                                  \
        return carrier;                                                                            \
    }                                                                                              \
    ATOMIC_DEFINE_MEM(mem, "", bits, type, suffix, mod)                                            \
    ATOMIC_DEFINE_MEM(lock, "lock; ", bits, type, suffix, mod)

#define ATOMIC_DEFINE_MEM(where, prefix, bits, type, suffix, mod)                                  \
    static always_inline uint64_t cmpxchg_##where##bits(void *host, uint64_t *acc, uint64_t *src)  \
    {                                                                                              \
        uint64_t a = *acc, carrier;                                                                \
        __asm__ volatile(ATOMIC_CMPXCHG(prefix, suffix " %" mod "[src], %[dst]")                   \
                         : [dst] "+m"(*(type *)host), [acc] "+&r"(a), "=&a"(carrier)               \
                         : [src] "r"(*src)                                                         \
                         : "cc", "memory");                                                        \
        *acc = a;                                                                                  \
        return carrier;                                                                            \
    }                                                                                              \
    static always_inline uint64_t xadd_##where##bits(void *host, uint64_t *acc, uint64_t *src)     \
    {                                                                                              \
        uint64_t s = *src, carrier;                                                                \
        (void)acc;                                                                                 \
        __asm__ volatile(prefix "xadd" suffix " %" mod "[src], %[dst]" X86_ASM_SAVE_FLAGS          \
                         : [dst] "+m"(*(type *)host), [src] "+r"(s), "=&a"(carrier)                \
                         :                                                                         \
                         : "cc", "memory");                                                        \
        *src = s;                                                                                  \
        return carrier;                                                                            \
    }

ATOMIC_DEFINE(8, uint8_t, "b", "b")
ATOMIC_DEFINE(16, x86_u16, "w", "w")
ATOMIC_DEFINE(32, x86_u32, "l", "k")
ATOMIC_DEFINE(64, x86_u64, "q", "q")

/* Takes over what the operation left: RAX for CMPXCHG, reg for XADD. */
static always_inline void atomic_finish(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                        bool exchange_add, uint64_t acc, uint64_t src,
                                        uint64_t carrier)
{
    if (exchange_add)
        operand_put_reg(cpu, i->reg, size, src);
    else
        cpu->gpr[RAX] = acc;
    x86_flags_merge(cpu, X86_FLAGS_STATUS, carrier);
}

/* Where there is no host pointer: plain read and write, with all other vCPUs at rest if locked. */
static int atomic_by_parts(struct x86_cpu *cpu, uint64_t linear, uint8_t size, atomic_reg_fn *op,
                           uint64_t *acc, uint64_t *src, uint64_t *carrier)
{
    void *host;
    uint64_t v;
    int s = x86_mem_host(cpu, linear, size, X86_WRITE, &host); /* write faults come first */
    if (s == X86_OK)
        s = x86_read_size(cpu, linear, size, &v);
    if (s != X86_OK)
        return s;
    *carrier = op(&v, acc, src);
    return x86_write_size(cpu, linear, size, v);
}

static int atomic_mem_slow(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                           atomic_reg_fn *op, atomic_mem_fn *lock_op, bool exchange_add)
{
    uint64_t linear, carrier, acc = cpu->gpr[RAX], src = operand_get_reg(cpu, i->reg, size);
    bool locked = i->flags & INSN_LOCK;
    void *host = NULL;
    int s = x86_operand(cpu, i, size, X86_WRITE, &linear);
    if (s == X86_OK && locked)
        s = x86_rmw_begin(cpu, linear, size, true, &host);
    if (s != X86_OK)
        return s;
    if (host) {
        carrier = lock_op(host, &acc, &src);
        x86_note_store(cpu, host);
    } else {
        if (locked)
            x86_lock_begin(cpu);
        s = atomic_by_parts(cpu, linear, size, op, &acc, &src, &carrier);
        if (locked)
            x86_lock_end(cpu);
        if (s != X86_OK)
            return s;
    }
    atomic_finish(cpu, i, size, exchange_add, acc, src, carrier);
    return X86_OK;
}

static always_inline int atomic_mem(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                    atomic_reg_fn *op, atomic_mem_fn *mem_op,
                                    atomic_mem_fn *lock_op, bool exchange_add, bool locked)
{
    void *host = locked ? operand_try_host_locked(cpu, i, size)
                        : operand_try_host(cpu, i, size, OPERAND_ANY);
    if (unlikely(!host))
        return atomic_mem_slow(cpu, i, size, op, lock_op, exchange_add);
    uint64_t acc = cpu->gpr[RAX], src = operand_get_reg(cpu, i->reg, size);
    uint64_t carrier = mem_op(host, &acc, &src);
    x86_note_store(cpu, host);
    atomic_finish(cpu, i, size, exchange_add, acc, src, carrier);
    return X86_OK;
}

/* Both destinations are written: the source first, since XADD r, r with one register twice leaves
 * the sum, and CMPXCHG with rAX as destination its new value. */
static always_inline int atomic_reg(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                    atomic_reg_fn *op, bool exchange_add)
{
    uint64_t acc = cpu->gpr[RAX], src = operand_get_reg(cpu, i->reg, size);
    uint64_t dst = operand_get_reg(cpu, i->rm, size);
    uint64_t carrier = op(&dst, &acc, &src);
    atomic_finish(cpu, i, size, exchange_add, acc, src, carrier);
    if (size == 1) /* AL's image must not take AH back */
        operand_set_reg(cpu, i->rm, size, dst);
    else
        operand_put_reg(cpu, i->rm, size, dst);
    return X86_OK;
}

#define ATOMIC_HANDLERS(name, bits, size, exchange_add)                                            \
    ATOMIC_HANDLER(name##_rm##bits, atomic_reg(cpu, i, size, name##_reg##bits, exchange_add))      \
    ATOMIC_HANDLER(name##_plain##bits,                                                             \
                   atomic_mem(cpu, i, size, name##_reg##bits, name##_mem##bits, name##_lock##bits, \
                              exchange_add, false))                                                \
    ATOMIC_HANDLER(name##_locked##bits,                                                            \
                   atomic_mem(cpu, i, size, name##_reg##bits, name##_lock##bits,                   \
                              name##_lock##bits, exchange_add, true))

ATOMIC_HANDLERS(xadd, 8, 1, true)
ATOMIC_HANDLERS(xadd, 16, 2, true)
ATOMIC_HANDLERS(xadd, 32, 4, true)
ATOMIC_HANDLERS(xadd, 64, 8, true)
ATOMIC_HANDLERS(cmpxchg, 8, 1, false)
ATOMIC_HANDLERS(cmpxchg, 16, 2, false)
ATOMIC_HANDLERS(cmpxchg, 32, 4, false)
ATOMIC_HANDLERS(cmpxchg, 64, 8, false)

/* --- CMPXCHG8B, CMPXCHG16B: memory only, ZF only --- */

/* What is compared and what replaces it, low half first. */
struct atomic_pair {
    uint64_t old[2], new[2];
};

/* True if equal (and replaced); else old[] is what was found. Without LOCK it is not less than
 * asked for, only slower. */
static bool exchange_pair(void *host, uint8_t size, struct atomic_pair *p)
{
    bool equal;
    if (size == 16) {
        __asm__ volatile("lock; cmpxchg16b %[mem]"
                         : [mem] "+m"(*(uint8_t(*)[16])host), "+a"(p->old[0]), "+d"(p->old[1]),
                           "=@ccz"(equal)
                         : "b"(p->new[0]), "c"(p->new[1])
                         : "memory");
    } else {
        __asm__ volatile("lock; cmpxchg8b %[mem]"
                         : [mem] "+m"(*(x86_u64 *)host), "+a"(p->old[0]), "+d"(p->old[1]),
                           "=@ccz"(equal)
                         : "b"(p->new[0]), "c"(p->new[1])
                         : "memory");
    }
    return equal;
}

static int exchange_pair_by_parts(struct x86_cpu *cpu, uint64_t linear, uint8_t size,
                                  struct atomic_pair *p, bool *equal)
{
    uint8_t half = size / 2, found[16] __attribute__((aligned(16))) = {0};
    void *host;
    int s = x86_mem_host(cpu, linear, size, X86_WRITE, &host);
    if (s == X86_OK)
        s = x86_read_bytes(cpu, linear, found, size);
    if (s != X86_OK)
        return s;
    for (unsigned n = 0; n < 2; n++)
        p->old[n] &= x86_size_mask(half);
    *equal = exchange_pair(found, size, p);
    return x86_write_bytes(cpu, linear, found, size);
}

static int exchange_pair_at(struct x86_cpu *cpu, uint64_t linear, uint8_t size, bool locked,
                            struct atomic_pair *p, bool *equal)
{
    void *host;
    int s = x86_rmw_begin(cpu, linear, size, true, &host);
    if (s != X86_OK)
        return s;
    if (host) {
        *equal = exchange_pair(host, size, p);
        x86_note_store(cpu, host);
        return X86_OK;
    }
    if (locked)
        x86_lock_begin(cpu);
    s = exchange_pair_by_parts(cpu, linear, size, p, equal);
    if (locked)
        x86_lock_end(cpu);
    return s;
}

static int cmpxchg_pair(struct x86_cpu *cpu, const struct insn *i, uint8_t size)
{
    uint64_t linear;
    uint8_t half = size / 2;
    struct atomic_pair p = {{cpu->gpr[RAX], cpu->gpr[RDX]}, {cpu->gpr[RBX], cpu->gpr[RCX]}};
    bool equal;
    int s = x86_operand(cpu, i, size, X86_WRITE, &linear);
    if (s != X86_OK)
        return s;
    if (size == 16 && (linear & 15))
        return x86_fault(cpu, X86_GP, 0);
    s = exchange_pair_at(cpu, linear, size, i->flags & INSN_LOCK, &p, &equal);
    if (s != X86_OK)
        return s;
    x86_flag_set(cpu, X86_FLAG_ZF, equal);
    if (!equal) {
        operand_set_reg(cpu, RAX, half, p.old[0]);
        operand_set_reg(cpu, RDX, half, p.old[1]);
    }
    return X86_OK;
}

ATOMIC_HANDLER(cmpxchg8b, cmpxchg_pair(cpu, i, 8))
ATOMIC_HANDLER(cmpxchg16b, cmpxchg_pair(cpu, i, 16))

x86_op_fn *x86_select_atomic(const struct insn *i)
{
    enum { IN_REG, PLAIN, LOCKED, SHAPES };
#define ATOMIC_ROW(name)                                                                           \
    {                                                                                              \
        name##8, name##16, name##32, name##64                                                      \
    }
    static x86_op_fn *const table[2][SHAPES][4] = {
        {[IN_REG] = ATOMIC_ROW(xadd_rm),
         [PLAIN] = ATOMIC_ROW(xadd_plain),
         [LOCKED] = ATOMIC_ROW(xadd_locked)},
        {[IN_REG] = ATOMIC_ROW(cmpxchg_rm),
         [PLAIN] = ATOMIC_ROW(cmpxchg_plain),
         [LOCKED] = ATOMIC_ROW(cmpxchg_locked)},
    };
    if (i->op == INSN_CMPXCHG8B)
        return cmpxchg8b;
    if (i->op == INSN_CMPXCHG16B)
        return cmpxchg16b;
    unsigned shape = !(i->flags & INSN_MEM) ? IN_REG : i->flags & INSN_LOCK ? LOCKED : PLAIN;
    return table[i->op == INSN_CMPXCHG][shape][operand_size_index(i->opsize)];
}
