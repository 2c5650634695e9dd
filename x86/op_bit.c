/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Single bits and bit fields (SDM 2: BT BTS BTR BTC BSF BSR TZCNT LZCNT POPCNT ANDN BEXTR BLSR
 * BLSMSK BLSI BZHI PDEP PEXT CRC32).
 *
 * BT and its relatives with a register offset and a memory operand address a bit string that
 * reaches beyond the operand: the offset is signed, and the bytes it moves the address by are added
 * to the guest's effective address, in 64-bit arithmetic and cut to the address size, before
 * segmentation and paging see it. Nothing is ever added to a host address (bad-inputs C1).
 */
#include "x86/operand.h"

#define BIT_HANDLER(name, expr)                                                                    \
    static int name(struct x86_cpu *cpu, const struct insn *i)                                     \
    {                                                                                              \
        return expr;                                                                               \
    }

/* --- BT, BTS, BTR, BTC: CF only (all but ZF of the others are undefined, and unchanged) --- */

/* src: the bit's number within the operand (the host masks it to the operand size). */
#define BIT_DEFINE_TEST(name, bits, suffix, mod)                                                   \
    static always_inline uint64_t name##_reg##bits(uint64_t *dst, uint64_t src, uint64_t rflags)   \
    {                                                                                              \
        uint64_t d = *dst, carrier;                                                                \
        (void)rflags;                                                                              \
        __asm__(#name suffix " %" mod "[src], %" mod "[dst]" X86_ASM_SAVE_FLAGS                    \
                : [dst] "+r"(d), "=&a"(carrier)                                                    \
                : [src] "r"(src)                                                                   \
                : "cc");                                                                           \
        *dst = d;                                                                                  \
        return carrier;                                                                            \
    }

static always_inline int bit_reg(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                 operand_reg_fn *op, uint64_t offset, bool write)
{
    uint64_t d = operand_get_reg(cpu, i->rm, size);
    uint64_t carrier = op(&d, offset, cpu->rflags);
    if (write)
        operand_put_reg(cpu, i->rm, size, d);
    x86_flags_merge(cpu, X86_FLAG_CF, carrier);
    return X86_OK;
}

/* Linear address of the `size` bytes that hold the bit; the offset of the bit in *offset is cut to
 * its place in them. */
static int bit_address(struct x86_cpu *cpu, const struct insn *i, uint8_t size, int access,
                       uint64_t *offset, uint64_t *linear)
{
    uint64_t ea = x86_effective_address(cpu, i);
    if (i->form == INSN_FORM_RM_REG) {
        int64_t bit = size == 2   ? (int16_t)cpu->gpr[i->reg & 15]
                      : size == 4 ? (int32_t)cpu->gpr[i->reg & 15]
                                  : (int64_t)cpu->gpr[i->reg & 15];
        /* as many whole operands as the offset spans; >> of a negative number rounds down */
        ea += (uint64_t)(bit >> (size == 2 ? 4 : size == 4 ? 5 : 6)) * size;
        ea &= x86_size_mask(i->addrsize);
        *offset = (uint64_t)bit;
    } else {
        *offset = i->imm;
    }
    *offset &= size * 8u - 1;
    return x86_linear(cpu, i->seg, ea, size, access, linear);
}

static int bit_test_mem(struct x86_cpu *cpu, const struct insn *i, uint8_t size, operand_reg_fn *op)
{
    uint64_t offset, linear, v;
    int s = bit_address(cpu, i, size, X86_READ, &offset, &linear);
    if (s == X86_OK)
        s = x86_read_size(cpu, linear, size, &v);
    if (s != X86_OK)
        return s;
    x86_flags_merge(cpu, X86_FLAG_CF, op(&v, offset, cpu->rflags));
    return X86_OK;
}

static int bit_change_mem(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                          operand_reg_fn *op)
{
    uint64_t offset, linear, carrier;
    int s = bit_address(cpu, i, size, X86_WRITE, &offset, &linear);
    if (s == X86_OK)
        s = operand_rmw_at(cpu, linear, op, offset, size, i->flags & INSN_LOCK, &carrier);
    if (s != X86_OK)
        return s;
    x86_flags_merge(cpu, X86_FLAG_CF, carrier);
    return X86_OK;
}

#define BIT_HANDLERS(name, bits, size, write, mem)                                                 \
    BIT_HANDLER(name##_rm_reg##bits,                                                               \
                bit_reg(cpu, i, size, name##_reg##bits, cpu->gpr[i->reg & 15], write))             \
    BIT_HANDLER(name##_rm_imm##bits, bit_reg(cpu, i, size, name##_reg##bits, i->imm, write))       \
    BIT_HANDLER(name##_mem##bits, mem(cpu, i, size, name##_reg##bits))

#define BIT_TEST(name, write, mem)                                                                 \
    BIT_DEFINE_TEST(name, 16, "w", "w")                                                            \
    BIT_DEFINE_TEST(name, 32, "l", "k")                                                            \
    BIT_DEFINE_TEST(name, 64, "q", "q")                                                            \
    BIT_HANDLERS(name, 16, 2, write, mem)                                                          \
    BIT_HANDLERS(name, 32, 4, write, mem)                                                          \
    BIT_HANDLERS(name, 64, 8, write, mem)

BIT_TEST(bt, false, bit_test_mem)
BIT_TEST(bts, true, bit_change_mem)
BIT_TEST(btr, true, bit_change_mem)
BIT_TEST(btc, true, bit_change_mem)

/* --- reg <- op(rm): scans and counts --- */

#define BIT_DEFINE_OP(name, bits, suffix, mod)                                                     \
    static uint64_t name##_reg##bits(uint64_t *dst, uint64_t src, uint64_t rflags)                 \
    {                                                                                              \
        uint64_t d = *dst, carrier = x86_flags_pack(rflags);                                       \
        __asm__(X86_ASM_LOAD_FLAGS #name suffix " %" mod "[src], %" mod "[dst]" X86_ASM_SAVE_FLAGS \
                : [dst] "+r"(d), "+&a"(carrier)                                                    \
                : [src] "r"(src)                                                                   \
                : "cc");                                                                           \
        *dst = d;                                                                                  \
        return carrier;                                                                            \
    }

static int bit_unary(struct x86_cpu *cpu, const struct insn *i, uint8_t size, operand_reg_fn *op)
{
    uint64_t src = cpu->gpr[i->rm & 15];
    if (i->flags & INSN_MEM) {
        int s = operand_load(cpu, i, size, &src);
        if (s != X86_OK)
            return s;
    }
    /* the destination goes in, too: BSF and BSR of zero leave it as it was */
    uint64_t carrier = op(&cpu->gpr[i->reg & 15], src, cpu->rflags);
    x86_flags_merge(cpu, X86_FLAGS_STATUS, carrier);
    return X86_OK;
}

#define BIT_UNARY(name)                                                                            \
    BIT_DEFINE_OP(name, 16, "w", "w")                                                              \
    BIT_DEFINE_OP(name, 32, "l", "k")                                                              \
    BIT_DEFINE_OP(name, 64, "q", "q")                                                              \
    BIT_HANDLER(name##16, bit_unary(cpu, i, 2, name##_reg16))                                      \
    BIT_HANDLER(name##32, bit_unary(cpu, i, 4, name##_reg32))                                      \
    BIT_HANDLER(name##64, bit_unary(cpu, i, 8, name##_reg64))

BIT_UNARY(bsf)
BIT_UNARY(bsr)
BIT_UNARY(tzcnt)
BIT_UNARY(lzcnt)
BIT_UNARY(popcnt)

/* --- BMI1, BMI2: 32 and 64 bits, destination apart from the sources --- */

/* dst <- op(a, b); returns the carrier. The three in the order of the assembler's operands. */
typedef uint64_t bit_bmi_fn(uint64_t *dst, uint64_t a, uint64_t b, uint64_t rflags);

#define BIT_DEFINE_BMI(name, bits, mod, operands)                                                  \
    static uint64_t name##_reg##bits(uint64_t *dst, uint64_t a, uint64_t b, uint64_t rflags)       \
    {                                                                                              \
        uint64_t d, carrier = x86_flags_pack(rflags);                                              \
        __asm__(X86_ASM_LOAD_FLAGS #name " " operands(mod) ", %" mod "[dst]" X86_ASM_SAVE_FLAGS    \
                : [dst] "=&r"(d), "+&a"(carrier)                                                   \
                : [a] "r"(a), [b] "r"(b)                                                           \
                : "cc");                                                                           \
        *dst = d;                                                                                  \
        return carrier;                                                                            \
    }

#define BIT_RM_FIRST(mod)  "%" mod "[a], %" mod "[b]" /* AT&T order: vvvv is the first source */
#define BIT_RM_SECOND(mod) "%" mod "[b], %" mod "[a]" /* BEXTR, BZHI: vvvv is the second */
#define BIT_RM_ONLY(mod)   "%" mod "[a]"

/* a is rm, b is vvvv; the destination is reg, or vvvv for BLSR and the like. */
static int bit_bmi(struct x86_cpu *cpu, const struct insn *i, bit_bmi_fn *op32, bit_bmi_fn *op64)
{
    uint64_t a = cpu->gpr[i->rm & 15], b = cpu->gpr[i->vvvv & 15];
    uint8_t dst = i->form == INSN_FORM_VVVV_RM ? i->vvvv : i->reg;
    if (i->flags & INSN_MEM) {
        int s = operand_load(cpu, i, i->opsize, &a);
        if (s != X86_OK)
            return s;
    }
    bit_bmi_fn *op = i->opsize == 8 ? op64 : op32;
    uint64_t carrier = op(&cpu->gpr[dst & 15], a, b, cpu->rflags);
    x86_flags_merge(cpu, X86_FLAGS_STATUS, carrier);
    return X86_OK;
}

#define BIT_BMI(name, operands)                                                                    \
    BIT_DEFINE_BMI(name, 32, "k", operands)                                                        \
    BIT_DEFINE_BMI(name, 64, "q", operands)                                                        \
    BIT_HANDLER(name, bit_bmi(cpu, i, name##_reg32, name##_reg64))

BIT_BMI(andn, BIT_RM_FIRST)
BIT_BMI(bextr, BIT_RM_SECOND)
BIT_BMI(blsr, BIT_RM_ONLY)
BIT_BMI(blsmsk, BIT_RM_ONLY)
BIT_BMI(blsi, BIT_RM_ONLY)
BIT_BMI(bzhi, BIT_RM_SECOND)
BIT_BMI(pdep, BIT_RM_FIRST)
BIT_BMI(pext, BIT_RM_FIRST)

/* --- CRC32: reg (32 or 64 bits) <- reg, rm (8 to 64 bits) --- */

static int crc32(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t src = operand_get_reg(cpu, i->rm, i->srcsize);
    uint64_t *dst = &cpu->gpr[i->reg & 15];
    if (i->flags & INSN_MEM) {
        int s = operand_load(cpu, i, i->srcsize, &src);
        if (s != X86_OK)
            return s;
    }
    uint64_t v = *dst;
    if (i->srcsize == 1)
        __asm__("crc32b %b1, %k0" : "+r"(v) : "r"(src));
    else if (i->srcsize == 2)
        __asm__("crc32w %w1, %k0" : "+r"(v) : "r"(src));
    else if (i->srcsize == 4)
        __asm__("crc32l %k1, %k0" : "+r"(v) : "r"(src));
    else
        __asm__("crc32q %1, %0" : "+r"(v) : "r"(src));
    *dst = v;
    return X86_OK;
}

/* --- selection --- */

enum { BIT_RM_REG, BIT_RM_IMM, BIT_MEM, BIT_SHAPES };

/* table */
#define BIT_ROW(name)                                                                              \
    {                                                                                              \
        name##16, name##32, name##64                                                               \
    }
#define BIT_ROWS(name)                                                                             \
    {                                                                                              \
        [BIT_RM_REG] = BIT_ROW(name##_rm_reg), [BIT_RM_IMM] = BIT_ROW(name##_rm_imm),              \
        [BIT_MEM] = BIT_ROW(name##_mem)                                                            \
    }

static x86_op_fn *const bit_tests[][BIT_SHAPES][3] = {
    [INSN_BT - INSN_BT] = BIT_ROWS(bt),
    [INSN_BTS - INSN_BT] = BIT_ROWS(bts),
    [INSN_BTR - INSN_BT] = BIT_ROWS(btr),
    [INSN_BTC - INSN_BT] = BIT_ROWS(btc),
};

static x86_op_fn *const bit_unaries[][3] = {
    [INSN_BSF - INSN_BSF] = BIT_ROW(bsf),       [INSN_BSR - INSN_BSF] = BIT_ROW(bsr),
    [INSN_TZCNT - INSN_BSF] = BIT_ROW(tzcnt),   [INSN_LZCNT - INSN_BSF] = BIT_ROW(lzcnt),
    [INSN_POPCNT - INSN_BSF] = BIT_ROW(popcnt),
};

static x86_op_fn *const bit_others[] = {
    [INSN_ANDN - INSN_ANDN] = andn,   [INSN_BEXTR - INSN_ANDN] = bextr,
    [INSN_BLSR - INSN_ANDN] = blsr,   [INSN_BLSMSK - INSN_ANDN] = blsmsk,
    [INSN_BLSI - INSN_ANDN] = blsi,   [INSN_BZHI - INSN_ANDN] = bzhi,
    [INSN_PDEP - INSN_ANDN] = pdep,   [INSN_PEXT - INSN_ANDN] = pext,
    [INSN_CRC32 - INSN_ANDN] = crc32,
};

x86_op_fn *x86_select_bit(const struct insn *i)
{
    if (i->op >= INSN_ANDN)
        return bit_others[i->op - INSN_ANDN];
    unsigned size = operand_size_index(i->opsize) - 1; /* never one byte */
    if (i->op >= INSN_BSF)
        return bit_unaries[i->op - INSN_BSF][size];
    unsigned shape = i->flags & INSN_MEM           ? BIT_MEM
                     : i->form == INSN_FORM_RM_IMM ? BIT_RM_IMM
                                                   : BIT_RM_REG;
    return bit_tests[i->op - INSN_BT][shape][size];
}
