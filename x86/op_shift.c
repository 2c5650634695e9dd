/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Shifts and rotates (SDM 2: ROL ROR RCL RCR SHL SHR SAR SHLD SHRD RORX SARX SHLX SHRX).
 *
 * The host's instruction runs with the guest's flags loaded and the count in CL, whatever form the
 * guest used: so a count of zero leaves flags alone and clears the upper half of a 32-bit register
 * by itself, and flags that the manual leaves undefined come out as the processor makes them.
 *
 * SHL, SHR and SAR of a register by an immediate other than zero are the exception: they write all
 * status flags, so the old ones need not be loaded.
 */
#include "x86/operand.h"

#define SHIFT_HANDLER(name, expr)                                                                  \
    static int name(struct x86_cpu *cpu, const struct insn *i)                                     \
    {                                                                                              \
        return expr;                                                                               \
    }

/* --- one operation of one size --- */

#define SHIFT_DEFINE_OP(name, bits, type, suffix, mod)                                             \
    static always_inline uint64_t name##_reg##bits(uint64_t *dst, uint64_t count, uint64_t rflags) \
    {                                                                                              \
        uint64_t d = *dst, carrier = x86_flags_pack(rflags);                                       \
        __asm__(X86_ASM_LOAD_FLAGS #name suffix " %%cl, %" mod "[dst]" X86_ASM_SAVE_FLAGS          \
                : [dst] "+r"(d), "+&a"(carrier)                                                    \
                : "c"(count)                                                                       \
                : "cc");                                                                           \
        *dst = d;                                                                                  \
        return carrier;                                                                            \
    }                                                                                              \
    static always_inline uint64_t name##_mem##bits(void *host, uint64_t count, uint64_t rflags)    \
    {                                                                                              \
        uint64_t carrier = x86_flags_pack(rflags);                                                 \
        __asm__ volatile(X86_ASM_LOAD_FLAGS #name suffix " %%cl, %[dst]" X86_ASM_SAVE_FLAGS        \
                         : [dst] "+m"(*(type *)host), "+&a"(carrier)                               \
                         : "c"(count)                                                              \
                         : "cc", "memory");                                                        \
        return carrier;                                                                            \
    }

/* --- handlers around it --- */

static always_inline int shift_reg(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                   operand_reg_fn *op, uint64_t count)
{
    uint64_t d = operand_get_reg(cpu, i->rm, size);
    uint64_t carrier = op(&d, count, cpu->rflags);
    operand_put_reg(cpu, i->rm, size, d);
    x86_flags_merge(cpu, X86_FLAGS_STATUS, carrier);
    return X86_OK;
}

#define SHIFT_HANDLERS(name, bits, size)                                                           \
    SHIFT_HANDLER(name##_rm_imm##bits, shift_reg(cpu, i, size, name##_reg##bits, i->imm))          \
    SHIFT_HANDLER(name##_rm_cl##bits, shift_reg(cpu, i, size, name##_reg##bits, cpu->gpr[RCX]))    \
    SHIFT_HANDLER(name##_mem_imm##bits, operand_rmw(cpu, i, size, OPERAND_ANY, name##_reg##bits,   \
                                                    name##_mem##bits, i->imm, X86_FLAGS_STATUS))   \
    SHIFT_HANDLER(name##_mem_cl##bits,                                                             \
                  operand_rmw(cpu, i, size, OPERAND_ANY, name##_reg##bits, name##_mem##bits,       \
                              cpu->gpr[RCX], X86_FLAGS_STATUS))

#define SHIFT(name)                                                                                \
    SHIFT_DEFINE_OP(name, 8, uint8_t, "b", "b")                                                    \
    SHIFT_DEFINE_OP(name, 16, x86_u16, "w", "w")                                                   \
    SHIFT_DEFINE_OP(name, 32, x86_u32, "l", "k")                                                   \
    SHIFT_DEFINE_OP(name, 64, x86_u64, "q", "q")                                                   \
    SHIFT_HANDLERS(name, 8, 1)                                                                     \
    SHIFT_HANDLERS(name, 16, 2)                                                                    \
    SHIFT_HANDLERS(name, 32, 4)                                                                    \
    SHIFT_HANDLERS(name, 64, 8)

SHIFT(rol)
SHIFT(ror)
SHIFT(rcl)
SHIFT(rcr)
SHIFT(shl)
SHIFT(shr)
SHIFT(sar)

/* --- SHL, SHR, SAR of a register by a constant that is not zero --- */

#define SHIFT_DEFINE_QUICK(name, bits, suffix, mod)                                                \
    static int name##_quick##bits(struct x86_cpu *cpu, const struct insn *i)                       \
    {                                                                                              \
        uint64_t d = operand_get_reg(cpu, i->rm, bits / 8), carrier;                               \
        __asm__(#name suffix " %%cl, %" mod "[dst]" X86_ASM_SAVE_FLAGS                             \
                : [dst] "+r"(d), "=&a"(carrier)                                                    \
                : "c"(i->imm)                                                                      \
                : "cc");                                                                           \
        operand_put_reg(cpu, i->rm, bits / 8, d);                                                  \
        x86_flags_merge(cpu, X86_FLAGS_STATUS, carrier);                                           \
        return X86_OK;                                                                             \
    }

#define SHIFT_QUICK(name)                                                                          \
    SHIFT_DEFINE_QUICK(name, 32, "l", "k")                                                         \
    SHIFT_DEFINE_QUICK(name, 64, "q", "q")

SHIFT_QUICK(shl)
SHIFT_QUICK(shr)
SHIFT_QUICK(sar)

/* NULL if i is none of these. */
static x86_op_fn *select_quick(const struct insn *i)
{
    static x86_op_fn *const table[][2] = {[INSN_SHL - INSN_SHL] = {shl_quick32, shl_quick64},
                                          [INSN_SHR - INSN_SHL] = {shr_quick32, shr_quick64},
                                          [INSN_SAL - INSN_SHL] = {shl_quick32, shl_quick64},
                                          [INSN_SAR - INSN_SHL] = {sar_quick32, sar_quick64}};
    if (i->op < INSN_SHL || i->opsize < 4 || i->flags & INSN_MEM || i->form != INSN_FORM_RM_IMM ||
        (i->imm & (i->opsize * 8u - 1)) == 0)
        return NULL;
    return table[i->op - INSN_SHL][i->opsize == 8];
}

/* --- SHLD, SHRD --- */

/* *dst shifted, filled from src. Returns the carrier. */
typedef uint64_t shift_double_fn(uint64_t *dst, uint64_t src, uint64_t count, uint64_t rflags);

#define SHIFT_DEFINE_DOUBLE(name, bits, suffix, mod)                                               \
    static uint64_t name##_reg##bits(uint64_t *dst, uint64_t src, uint64_t count, uint64_t rflags) \
    {                                                                                              \
        uint64_t d = *dst, carrier = x86_flags_pack(rflags);                                       \
        __asm__(X86_ASM_LOAD_FLAGS #name suffix " %%cl, %" mod "[src], %" mod                      \
                                                "[dst]" X86_ASM_SAVE_FLAGS                         \
                : [dst] "+r"(d), "+&a"(carrier)                                                    \
                : "c"(count), [src] "r"(src)                                                       \
                : "cc");                                                                           \
        *dst = d;                                                                                  \
        return carrier;                                                                            \
    }                                                                                              \
    SHIFT_HANDLER(name##bits, shift_double(cpu, i, name##_reg##bits))

static int shift_double_mem(struct x86_cpu *cpu, const struct insn *i, shift_double_fn *op,
                            uint64_t count)
{
    uint64_t linear, v;
    void *host;
    int s = x86_operand(cpu, i, i->opsize, X86_WRITE, &linear);
    if (s == X86_OK)
        s = x86_mem_host(cpu, linear, i->opsize, X86_WRITE, &host); /* write faults come first */
    if (s == X86_OK)
        s = x86_read_size(cpu, linear, i->opsize, &v);
    if (s != X86_OK)
        return s;
    uint64_t carrier = op(&v, cpu->gpr[i->reg & 15], count, cpu->rflags);
    s = x86_write_size(cpu, linear, i->opsize, v);
    if (s == X86_OK)
        x86_flags_merge(cpu, X86_FLAGS_STATUS, carrier);
    return s;
}

static always_inline int shift_double(struct x86_cpu *cpu, const struct insn *i,
                                      shift_double_fn *op)
{
    uint64_t count = i->form == INSN_FORM_RM_REG_CL ? cpu->gpr[RCX] : i->imm;
    if (i->flags & INSN_MEM)
        return shift_double_mem(cpu, i, op, count);
    uint64_t carrier = op(&cpu->gpr[i->rm & 15], cpu->gpr[i->reg & 15], count, cpu->rflags);
    x86_flags_merge(cpu, X86_FLAGS_STATUS, carrier);
    return X86_OK;
}

SHIFT_DEFINE_DOUBLE(shld, 16, "w", "w")
SHIFT_DEFINE_DOUBLE(shld, 32, "l", "k")
SHIFT_DEFINE_DOUBLE(shld, 64, "q", "q")
SHIFT_DEFINE_DOUBLE(shrd, 16, "w", "w")
SHIFT_DEFINE_DOUBLE(shrd, 32, "l", "k")
SHIFT_DEFINE_DOUBLE(shrd, 64, "q", "q")

static x86_op_fn *select_double(const struct insn *i)
{
    static x86_op_fn *const table[2][3] = {{shld16, shld32, shld64}, {shrd16, shrd32, shrd64}};
    return table[i->op == INSN_SHRD][operand_size_index(i->opsize) - 1]; /* never one byte */
}

/* --- BMI2: no flags, 32 and 64 bits --- */

static uint64_t shift_extend(uint64_t v, uint8_t size)
{
    return size == 4 ? (uint64_t)(int32_t)v : v;
}

static int shift_bmi2(struct x86_cpu *cpu, const struct insn *i)
{
    uint8_t bits = (uint8_t)(i->opsize * 8);
    uint64_t v = cpu->gpr[i->rm & 15];
    uint64_t count = i->op == INSN_RORX ? i->imm : cpu->gpr[i->vvvv & 15];
    if (i->flags & INSN_MEM) {
        int s = operand_load(cpu, i, i->opsize, &v);
        if (s != X86_OK)
            return s;
    }
    v &= x86_size_mask(i->opsize);
    count &= bits - 1u;
    if (i->op == INSN_SHLX)
        v <<= count;
    else if (i->op == INSN_SHRX)
        v >>= count;
    else if (i->op == INSN_SARX)
        v = (uint64_t)((int64_t)shift_extend(v, i->opsize) >> count);
    else
        v = v >> count | (count ? v << (bits - count) : 0);
    operand_set_reg(cpu, i->reg, i->opsize, v);
    return X86_OK;
}

/* --- selection --- */

enum shift_shape { SHIFT_RM_IMM, SHIFT_RM_CL, SHIFT_MEM_IMM, SHIFT_MEM_CL, SHIFT_SHAPES };

/* table */
#define SHIFT_ROW(name)                                                                            \
    {                                                                                              \
        name##8, name##16, name##32, name##64                                                      \
    }
#define SHIFT_ROWS(name)                                                                           \
    {                                                                                              \
        [SHIFT_RM_IMM] = SHIFT_ROW(name##_rm_imm), [SHIFT_RM_CL] = SHIFT_ROW(name##_rm_cl),        \
        [SHIFT_MEM_IMM] = SHIFT_ROW(name##_mem_imm), [SHIFT_MEM_CL] = SHIFT_ROW(name##_mem_cl)     \
    }

static x86_op_fn *const shift_table[][SHIFT_SHAPES][4] = {
    [INSN_ROL - INSN_ROL] = SHIFT_ROWS(rol), [INSN_ROR - INSN_ROL] = SHIFT_ROWS(ror),
    [INSN_RCL - INSN_ROL] = SHIFT_ROWS(rcl), [INSN_RCR - INSN_ROL] = SHIFT_ROWS(rcr),
    [INSN_SHL - INSN_ROL] = SHIFT_ROWS(shl), [INSN_SHR - INSN_ROL] = SHIFT_ROWS(shr),
    [INSN_SAL - INSN_ROL] = SHIFT_ROWS(shl), [INSN_SAR - INSN_ROL] = SHIFT_ROWS(sar),
};

x86_op_fn *x86_select_shift(const struct insn *i)
{
    if (i->op == INSN_SHLD || i->op == INSN_SHRD)
        return select_double(i);
    if (i->op > INSN_SAR)
        return shift_bmi2;
    x86_op_fn *quick = select_quick(i);
    if (quick)
        return quick;
    bool cl = i->form == INSN_FORM_RM_CL;
    enum shift_shape shape = i->flags & INSN_MEM ? (cl ? SHIFT_MEM_CL : SHIFT_MEM_IMM)
                                                 : (cl ? SHIFT_RM_CL : SHIFT_RM_IMM);
    return shift_table[i->op - INSN_ROL][shape][operand_size_index(i->opsize)];
}
