/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Multiplication and division (SDM 2: MUL IMUL DIV IDIV MULX), and decimal adjustment (AAA AAS AAM
 * AAD DAA DAS, not in 64-bit mode).
 *
 * Products and quotients are the host's. A division that would raise #DE is found by arithmetic
 * before the host's instruction runs, so the host never takes that exception for a guest. Decimal
 * adjustment does not exist in a 64-bit host and is done in C, from the manual's pseudocode.
 */
#include "x86/operand.h"

#define MUL_HANDLER(name, expr)                                                                    \
    static int name(struct x86_cpu *cpu, const struct insn *i)                                     \
    {                                                                                              \
        return expr;                                                                               \
    }

/* The rm operand; low `size` bytes count. */
static always_inline int mul_source(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                    uint64_t *v)
{
    if (i->flags & INSN_MEM)
        return operand_load(cpu, i, size, v);
    *v = operand_get_reg(cpu, i->rm, size);
    return X86_OK;
}

/* --- rDX:rAX <- rAX * rm, rDX:rAX / rm --- */

/* On images of RAX and RDX; returns the carrier. */
typedef uint64_t mul_wide_fn(uint64_t *a, uint64_t *d, uint64_t src, uint64_t rflags);

#define MUL_DEFINE_WIDE(name, bits, suffix, mod)                                                   \
    static always_inline uint64_t name##_wide##bits(uint64_t *a, uint64_t *d, uint64_t src,        \
                                                    uint64_t rflags)                               \
    {                                                                                              \
        uint64_t acc = *a, rdx = *d, carrier = x86_flags_pack(rflags);                             \
        __asm__(X86_ASM_LOAD_FLAGS "movq %[acc], %%rax\n\t" #name suffix " %" mod                  \
                                   "[src]\n\tmovq %%rax, %[acc]" X86_ASM_SAVE_FLAGS                \
                : [acc] "+&r"(acc), "+&a"(carrier), "+&d"(rdx)                                     \
                : [src] "r"(src)                                                                   \
                : "cc");                                                                           \
        *a = acc;                                                                                  \
        *d = rdx;                                                                                  \
        return carrier;                                                                            \
    }

static always_inline int mul_wide(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                  mul_wide_fn *op)
{
    uint64_t v;
    int s = mul_source(cpu, i, size, &v);
    if (unlikely(s != X86_OK))
        return s;
    uint64_t carrier = op(&cpu->gpr[RAX], &cpu->gpr[RDX], v, cpu->rflags);
    x86_flags_merge(cpu, X86_FLAGS_STATUS, carrier);
    return X86_OK;
}

/* Does the unsigned quotient not fit, or is the divisor 0? It fits if the dividend's upper half is
 * less than the divisor. */
static always_inline bool div_overflows(const struct x86_cpu *cpu, uint8_t size, uint64_t divisor)
{
    uint64_t mask = x86_size_mask(size);
    uint64_t high = size == 1 ? cpu->gpr[RAX] >> 8 & 0xFF : cpu->gpr[RDX] & mask;
    return high >= (divisor & mask);
}

static always_inline uint64_t sign_extend(uint64_t v, uint8_t size)
{
    unsigned shift = 64u - size * 8u;
    return (uint64_t)((int64_t)(v << shift) >> shift);
}

static uint64_t divide_128(uint64_t high, uint64_t low, uint64_t divisor)
{
    __asm__("divq %2" : "+a"(low), "+d"(high) : "r"(divisor) : "cc");
    return low;
}

/* The same for the signed quotient: by magnitudes, with room for one more below zero than above. */
static bool idiv_overflows(const struct x86_cpu *cpu, uint8_t size, uint64_t divisor)
{
    uint64_t low = cpu->gpr[RAX], high = cpu->gpr[RDX];
    if (size == 1)
        low = sign_extend(low, 2);
    else if (size == 2)
        low = sign_extend((high & 0xFFFF) << 16 | (low & 0xFFFF), 4);
    else if (size == 4)
        low = high << 32 | (uint32_t)low;
    if (size != 8)
        high = 0 - (low >> 63);
    divisor = sign_extend(divisor, size);

    bool negative = high >> 63, opposite = negative != (bool)(divisor >> 63);
    if (negative) {
        low = 0 - low;
        high = ~high + (low == 0);
    }
    if (divisor >> 63)
        divisor = 0 - divisor;
    if (high >= divisor) /* also when it is 0 */
        return true;
    uint64_t limit = (uint64_t)1 << (size * 8 - 1);
    return divide_128(high, low, divisor) > (opposite ? limit : limit - 1);
}

static always_inline int divide(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                mul_wide_fn *op, bool is_signed)
{
    uint64_t v;
    int s = mul_source(cpu, i, size, &v);
    if (unlikely(s != X86_OK))
        return s;
    if (is_signed ? idiv_overflows(cpu, size, v) : div_overflows(cpu, size, v))
        return x86_fault(cpu, X86_DE, 0);
    uint64_t carrier = op(&cpu->gpr[RAX], &cpu->gpr[RDX], v, cpu->rflags);
    x86_flags_merge(cpu, X86_FLAGS_STATUS, carrier);
    return X86_OK;
}

#define MUL_WIDE_OPS(name)                                                                         \
    MUL_DEFINE_WIDE(name, 8, "b", "b")                                                             \
    MUL_DEFINE_WIDE(name, 16, "w", "w")                                                            \
    MUL_DEFINE_WIDE(name, 32, "l", "k")                                                            \
    MUL_DEFINE_WIDE(name, 64, "q", "q")
#define MULTIPLY(name)                                                                             \
    MUL_WIDE_OPS(name)                                                                             \
    MUL_HANDLER(name##8, mul_wide(cpu, i, 1, name##_wide8))                                        \
    MUL_HANDLER(name##16, mul_wide(cpu, i, 2, name##_wide16))                                      \
    MUL_HANDLER(name##32, mul_wide(cpu, i, 4, name##_wide32))                                      \
    MUL_HANDLER(name##64, mul_wide(cpu, i, 8, name##_wide64))
#define DIVIDE(name, is_signed)                                                                    \
    MUL_WIDE_OPS(name)                                                                             \
    MUL_HANDLER(name##8, divide(cpu, i, 1, name##_wide8, is_signed))                               \
    MUL_HANDLER(name##16, divide(cpu, i, 2, name##_wide16, is_signed))                             \
    MUL_HANDLER(name##32, divide(cpu, i, 4, name##_wide32, is_signed))                             \
    MUL_HANDLER(name##64, divide(cpu, i, 8, name##_wide64, is_signed))

MULTIPLY(mul)
MULTIPLY(imul)
DIVIDE(div, false)
DIVIDE(idiv, true)

/*
 * --- IMUL with two and three operands: reg <- reg * rm, rm * imm ---
 *
 * Compilers use these all the time, so only CF and OF are taken over. The others are undefined, and
 * stay as they were, as on Zen processors.
 */

#define IMUL_FLAGS (X86_FLAG_CF | X86_FLAG_OF)

#define MUL_DEFINE_TWO(bits, suffix, mod)                                                          \
    static always_inline uint64_t imul_reg##bits(uint64_t *dst, uint64_t src)                      \
    {                                                                                              \
        uint64_t d = *dst, carrier;                                                                \
        __asm__("imul" suffix " %" mod "[src], %" mod "[dst]" X86_ASM_SAVE_FLAGS                   \
                : [dst] "+r"(d), "=&a"(carrier)                                                    \
                : [src] "r"(src)                                                                   \
                : "cc");                                                                           \
        *dst = d;                                                                                  \
        return carrier;                                                                            \
    }                                                                                              \
    MUL_HANDLER(imul_reg_rm##bits, imul_reg_rm(cpu, i, bits / 8, imul_reg##bits))                  \
    MUL_HANDLER(imul_reg_mem##bits, imul_reg_mem(cpu, i, bits / 8, imul_reg##bits))                \
    MUL_HANDLER(imul_imm##bits, imul_imm(cpu, i, bits / 8, imul_reg##bits))

typedef uint64_t imul_fn(uint64_t *dst, uint64_t src);

static always_inline int imul_reg_rm(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                     imul_fn *op)
{
    uint64_t d = cpu->gpr[i->reg & 15];
    uint64_t carrier = op(&d, operand_get_reg(cpu, i->rm, size));
    cpu->gpr[i->reg & 15] = d;
    x86_flags_merge(cpu, IMUL_FLAGS, carrier);
    return X86_OK;
}

static always_inline int imul_reg_mem(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                      imul_fn *op)
{
    uint64_t v;
    int s = operand_load(cpu, i, size, &v);
    if (s != X86_OK)
        return s;
    x86_flags_merge(cpu, IMUL_FLAGS, op(&cpu->gpr[i->reg & 15], v));
    return X86_OK;
}

static always_inline int imul_imm(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                  imul_fn *op)
{
    uint64_t v;
    int s = mul_source(cpu, i, size, &v);
    if (unlikely(s != X86_OK))
        return s;
    uint64_t carrier = op(&v, i->imm);
    operand_set_reg(cpu, i->reg, size, v);
    x86_flags_merge(cpu, IMUL_FLAGS, carrier);
    return X86_OK;
}

MUL_DEFINE_TWO(16, "w", "w")
MUL_DEFINE_TWO(32, "l", "k")
MUL_DEFINE_TWO(64, "q", "q")

/* --- MULX: reg:vvvv <- rDX * rm, no flags --- */

static int mulx(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t v;
    int s = mul_source(cpu, i, i->opsize, &v);
    if (s != X86_OK)
        return s;
    uint64_t mask = x86_size_mask(i->opsize);
    unsigned __int128 product = (unsigned __int128)(v & mask) * (cpu->gpr[RDX] & mask);
    /* the low half first: when both name one register it gets the high half */
    operand_set_reg(cpu, i->vvvv, i->opsize, (uint64_t)product);
    operand_set_reg(cpu, i->reg, i->opsize, (uint64_t)(product >> (i->opsize * 8)));
    return X86_OK;
}

/*
 * --- decimal adjustment ---
 *
 * The flags that the manual leaves undefined are those of the addition or subtraction that is done,
 * as Zen processors have them (the differential test compares all).
 */

/* *v += by or -= by in 8 or 16 bits; returns the carrier. */
static uint64_t decimal_add8(uint64_t *v, uint64_t by)
{
    uint64_t carrier;
    __asm__("addb %b2, %b0" X86_ASM_SAVE_FLAGS : "+r"(*v), "=&a"(carrier) : "r"(by) : "cc");
    return carrier;
}

static uint64_t decimal_add16(uint64_t *v, uint64_t by)
{
    uint64_t carrier;
    __asm__("addw %w2, %w0" X86_ASM_SAVE_FLAGS : "+r"(*v), "=&a"(carrier) : "r"(by) : "cc");
    return carrier;
}

/* AAA, AAS: by: what an adjustment adds to AX. */
static int ascii_adjust(struct x86_cpu *cpu, uint64_t by)
{
    uint64_t ax = cpu->gpr[RAX] & 0xFFFF;
    bool adjust = (ax & 0xF) > 9 || (cpu->rflags & X86_FLAG_AF);
    x86_flags_merge(cpu, X86_FLAGS_STATUS, decimal_add16(&ax, adjust ? by : 0));
    x86_flag_set(cpu, X86_FLAG_AF, adjust);
    x86_flag_set(cpu, X86_FLAG_CF, adjust);
    operand_set_reg(cpu, RAX, 2, ax & 0xFF0F);
    return X86_OK;
}

static int aaa(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    return ascii_adjust(cpu, 0x106);
}

static int aas(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    return ascii_adjust(cpu, 0 - (uint64_t)0x106);
}

static int aam(struct x86_cpu *cpu, const struct insn *i)
{
    uint8_t al = (uint8_t)cpu->gpr[RAX], base = (uint8_t)i->imm;
    if (base == 0)
        return x86_fault(cpu, X86_DE, 0);
    uint64_t v = al % base;
    x86_flags_merge(cpu, X86_FLAGS_STATUS, decimal_add8(&v, 0));
    operand_set_reg(cpu, RAX, 2, (uint64_t)(al / base) << 8 | v);
    return X86_OK;
}

static int aad(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t al = cpu->gpr[RAX] & 0xFF, ah = cpu->gpr[RAX] >> 8 & 0xFF;
    x86_flags_merge(cpu, X86_FLAGS_STATUS, decimal_add8(&al, ah * (i->imm & 0xFF)));
    operand_set_reg(cpu, RAX, 2, al & 0xFF);
    return X86_OK;
}

/* DAA, DAS */
static int decimal_adjust(struct x86_cpu *cpu, bool subtract)
{
    uint64_t old = cpu->gpr[RAX] & 0xFF, al = old, by = 0;
    bool carry = cpu->rflags & X86_FLAG_CF;
    bool low = (old & 0xF) > 9 || (cpu->rflags & X86_FLAG_AF);
    bool high = old > 0x99 || carry;
    by = (low ? 6u : 0u) + (high ? 0x60u : 0u);
    x86_flags_merge(cpu, X86_FLAGS_STATUS, decimal_add8(&al, subtract ? 0 - by : by));
    x86_flag_set(cpu, X86_FLAG_AF, low);
    /* SDM 2A: DAA's last step clears CF where it does not set it, DAS's keeps the first step's */
    x86_flag_set(cpu, X86_FLAG_CF, high || (subtract && low && old < 6));
    operand_set_reg(cpu, RAX, 1, al);
    return X86_OK;
}

static int daa(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    return decimal_adjust(cpu, false);
}

static int das(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    return decimal_adjust(cpu, true);
}

/* --- selection --- */

static x86_op_fn *select_imul2(const struct insn *i)
{
    enum { IN_REG, IN_MEM, BY_IMM, SHAPES };
    static x86_op_fn *const table[SHAPES][3] = {
        [IN_REG] = {imul_reg_rm16, imul_reg_rm32, imul_reg_rm64},
        [IN_MEM] = {imul_reg_mem16, imul_reg_mem32, imul_reg_mem64},
        [BY_IMM] = {imul_imm16, imul_imm32, imul_imm64}};
    unsigned shape = i->form == INSN_FORM_REG_RM_IMM ? BY_IMM
                     : i->flags & INSN_MEM           ? IN_MEM
                                                     : IN_REG;
    return table[shape][operand_size_index(i->opsize) - 1]; /* never one byte */
}

x86_op_fn *x86_select_mul(const struct insn *i)
{
    static x86_op_fn *const table[INSN_DAS - INSN_MUL + 1][4] = {
        [INSN_MUL - INSN_MUL] = {mul8, mul16, mul32, mul64},
        [INSN_IMUL - INSN_MUL] = {imul8, imul16, imul32, imul64},
        [INSN_DIV - INSN_MUL] = {div8, div16, div32, div64},
        [INSN_IDIV - INSN_MUL] = {idiv8, idiv16, idiv32, idiv64},
        [INSN_AAA - INSN_MUL] = {aaa},
        [INSN_AAS - INSN_MUL] = {aas},
        [INSN_AAM - INSN_MUL] = {aam},
        [INSN_AAD - INSN_MUL] = {aad},
        [INSN_DAA - INSN_MUL] = {daa},
        [INSN_DAS - INSN_MUL] = {das},
    };
    if (i->op == INSN_IMUL2)
        return select_imul2(i);
    if (i->op == INSN_MULX)
        return mulx;
    /* decimal adjustment is on AL whatever the operand size */
    unsigned size = i->op >= INSN_AAA ? 0 : operand_size_index(i->opsize);
    return table[i->op - INSN_MUL][size];
}
