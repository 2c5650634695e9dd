/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Addition, subtraction, logic (SDM 2: ADD OR ADC SBB AND SUB XOR CMP TEST INC DEC NOT NEG ADCX
 * ADOX).
 *
 * Each operation of each size is one host instruction in a small inline function, on a register
 * image and, where memory can be the destination, in place on memory with and without LOCK. The
 * handlers around them fetch operands and take the flags over. All are generated, so that a handler
 * is straight code: ALU_BINARY(add) makes those of ADD for four sizes and eleven shapes.
 *
 * Ordering: an unlocked read-modify-write of memory is one host instruction, as on a processor.
 * Registers change only after memory was reached without a fault.
 */
#include "x86/operand.h"

/* --- the operations themselves --- */

/* `setup` is assembly that goes before the instruction: the carry flag of ADC and SBB. */
#define ALU_DEFINE_REG_OP(name, bits, type, suffix, mod, setup)                                    \
    static always_inline uint64_t name##_reg##bits(uint64_t *dst, uint64_t src, uint64_t rflags)   \
    {                                                                                              \
        uint64_t d = *dst, carrier;                                                                \
        (void)rflags;                                                                              \
        __asm__(setup #name suffix " %" mod "[src], %" mod "[dst]" X86_ASM_SAVE_FLAGS              \
                : [dst] "+r"(d), "=&a"(carrier)                                                    \
                : [src] "r"(src), [rflags] "r"(rflags)                                             \
                : "cc");                                                                           \
        *dst = d;                                                                                  \
        return carrier;                                                                            \
    }

#define ALU_DEFINE_MEM_OP(name, where, prefix, bits, type, suffix, mod, setup)                     \
    static always_inline uint64_t name##_##where##bits(void *host, uint64_t src, uint64_t rflags)  \
    {                                                                                              \
        uint64_t carrier;                                                                          \
        (void)rflags;                                                                              \
        __asm__ volatile(setup prefix #name suffix " %" mod "[src], %[dst]" X86_ASM_SAVE_FLAGS     \
                         : [dst] "+m"(*(type *)host), "=&a"(carrier)                               \
                         : [src] "r"(src), [rflags] "r"(rflags)                                    \
                         : "cc", "memory");                                                        \
        return carrier;                                                                            \
    }

#define ALU_DEFINE_OP(name, bits, type, suffix, mod, setup)                                        \
    ALU_DEFINE_REG_OP(name, bits, type, suffix, mod, setup)                                        \
    ALU_DEFINE_MEM_OP(name, mem, "", bits, type, suffix, mod, setup)                               \
    ALU_DEFINE_MEM_OP(name, lock, "lock; ", bits, type, suffix, mod, setup)

/* INC, DEC, NOT, NEG: no source. */
#define ALU_DEFINE_UNARY_OP(name, bits, type, suffix, mod, setup)                                  \
    static always_inline uint64_t name##_reg##bits(uint64_t *dst, uint64_t src, uint64_t rflags)   \
    {                                                                                              \
        uint64_t d = *dst, carrier;                                                                \
        (void)src, (void)rflags;                                                                   \
        __asm__(#name suffix " %" mod "[dst]" X86_ASM_SAVE_FLAGS                                   \
                : [dst] "+r"(d), "=&a"(carrier)                                                    \
                :                                                                                  \
                : "cc");                                                                           \
        *dst = d;                                                                                  \
        return carrier;                                                                            \
    }                                                                                              \
    ALU_DEFINE_UNARY_MEM_OP(name, mem, "", bits, type, suffix)                                     \
    ALU_DEFINE_UNARY_MEM_OP(name, lock, "lock; ", bits, type, suffix)

#define ALU_DEFINE_UNARY_MEM_OP(name, where, prefix, bits, type, suffix)                           \
    static always_inline uint64_t name##_##where##bits(void *host, uint64_t src, uint64_t rflags)  \
    {                                                                                              \
        uint64_t carrier;                                                                          \
        (void)src, (void)rflags;                                                                   \
        __asm__ volatile(prefix #name suffix " %[dst]" X86_ASM_SAVE_FLAGS                          \
                         : [dst] "+m"(*(type *)host), "=&a"(carrier)                               \
                         :                                                                         \
                         : "cc", "memory");                                                        \
        return carrier;                                                                            \
    }

/* --- handlers around one operation of one size --- */

static always_inline int alu_reg_reg(struct x86_cpu *cpu, uint8_t dst, uint8_t src, uint8_t size,
                                     operand_reg_fn *op, bool write, uint64_t mask)
{
    uint64_t d = operand_get_reg(cpu, dst, size);
    uint64_t carrier = op(&d, operand_get_reg(cpu, src, size), cpu->rflags);
    if (write)
        operand_put_reg(cpu, dst, size, d);
    if (mask)
        x86_flags_merge(cpu, mask, carrier);
    return X86_OK;
}

static always_inline int alu_reg_imm(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                     operand_reg_fn *op, bool write, uint64_t mask)
{
    uint64_t d = operand_get_reg(cpu, i->rm, size);
    uint64_t carrier = op(&d, i->imm, cpu->rflags);
    if (write)
        operand_put_reg(cpu, i->rm, size, d);
    if (mask)
        x86_flags_merge(cpu, mask, carrier);
    return X86_OK;
}

/* reg <- reg op mem, when the TLB alone did not serve. */
static int alu_reg_mem_slow(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                            operand_reg_fn *op, bool write)
{
    uint64_t v;
    int s = operand_load(cpu, i, size, &v);
    if (s != X86_OK)
        return s;
    uint64_t d = operand_get_reg(cpu, i->reg, size);
    uint64_t carrier = op(&d, v, cpu->rflags);
    if (write)
        operand_put_reg(cpu, i->reg, size, d);
    x86_flags_merge(cpu, X86_FLAGS_STATUS, carrier);
    return X86_OK;
}

static always_inline int alu_reg_mem(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                     enum operand_kind kind, operand_reg_fn *op, bool write)
{
    uint64_t v;
    if (unlikely(!operand_try_load(cpu, i, size, kind, &v)))
        return alu_reg_mem_slow(cpu, i, size, op, write);
    uint64_t d = operand_get_reg(cpu, i->reg, size);
    uint64_t carrier = op(&d, v, cpu->rflags);
    if (write)
        operand_put_reg(cpu, i->reg, size, d);
    x86_flags_merge(cpu, X86_FLAGS_STATUS, carrier);
    return X86_OK;
}

static int alu_compare_mem_slow(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                operand_reg_fn *op, uint64_t src)
{
    uint64_t v;
    int s = operand_load(cpu, i, size, &v);
    if (s != X86_OK)
        return s;
    x86_flags_merge(cpu, X86_FLAGS_STATUS, op(&v, src, cpu->rflags));
    return X86_OK;
}

/* CMP and TEST with memory on the left: the only ones there that do not write it. */
static always_inline int alu_compare_mem(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                         enum operand_kind kind, operand_reg_fn *op, uint64_t src)
{
    uint64_t v;
    if (unlikely(!operand_try_load(cpu, i, size, kind, &v)))
        return alu_compare_mem_slow(cpu, i, size, op, src);
    x86_flags_merge(cpu, X86_FLAGS_STATUS, op(&v, src, cpu->rflags));
    return X86_OK;
}

#define ALU_HANDLER(name, expr)                                                                    \
    static int name(struct x86_cpu *cpu, const struct insn *i)                                     \
    {                                                                                              \
        return expr;                                                                               \
    }

/* Shapes that every two-operand operation has. */
#define ALU_COMMON_HANDLERS(name, bits, size, write)                                               \
    ALU_HANDLER(name##bits##_rm_reg,                                                               \
                alu_reg_reg(cpu, i->rm, i->reg, size, name##_reg##bits, write, X86_FLAGS_STATUS))  \
    ALU_HANDLER(name##bits##_reg_rm,                                                               \
                alu_reg_reg(cpu, i->reg, i->rm, size, name##_reg##bits, write, X86_FLAGS_STATUS))  \
    ALU_HANDLER(name##bits##_rm_imm,                                                               \
                alu_reg_imm(cpu, i, size, name##_reg##bits, write, X86_FLAGS_STATUS))              \
    ALU_HANDLER(name##bits##_reg_mem,                                                              \
                alu_reg_mem(cpu, i, size, OPERAND_ANY, name##_reg##bits, write))                   \
    ALU_HANDLER(name##bits##_reg_base,                                                             \
                alu_reg_mem(cpu, i, size, OPERAND_BASE, name##_reg##bits, write))

#define ALU_RMW(kind, bits, size, name, src)                                                       \
    operand_rmw(cpu, i, size, kind, name##_reg##bits, name##_mem##bits, src, X86_FLAGS_STATUS)
#define ALU_RMW_LOCKED(bits, size, name, src)                                                      \
    operand_rmw_locked(cpu, i, size, name##_reg##bits, name##_lock##bits, src, X86_FLAGS_STATUS)

#define ALU_BINARY_HANDLERS(name, bits, size)                                                      \
    ALU_COMMON_HANDLERS(name, bits, size, true)                                                    \
    ALU_HANDLER(name##bits##_mem_reg,                                                              \
                ALU_RMW(OPERAND_ANY, bits, size, name, operand_get_reg(cpu, i->reg, size)))        \
    ALU_HANDLER(name##bits##_base_reg,                                                             \
                ALU_RMW(OPERAND_BASE, bits, size, name, operand_get_reg(cpu, i->reg, size)))       \
    ALU_HANDLER(name##bits##_mem_imm, ALU_RMW(OPERAND_ANY, bits, size, name, i->imm))              \
    ALU_HANDLER(name##bits##_base_imm, ALU_RMW(OPERAND_BASE, bits, size, name, i->imm))            \
    ALU_HANDLER(name##bits##_lock_reg,                                                             \
                ALU_RMW_LOCKED(bits, size, name, operand_get_reg(cpu, i->reg, size)))              \
    ALU_HANDLER(name##bits##_lock_imm, ALU_RMW_LOCKED(bits, size, name, i->imm))

#define ALU_COMPARE_HANDLERS(name, bits, size)                                                     \
    ALU_COMMON_HANDLERS(name, bits, size, false)                                                   \
    ALU_HANDLER(name##bits##_mem_reg, alu_compare_mem(cpu, i, size, OPERAND_ANY, name##_reg##bits, \
                                                      operand_get_reg(cpu, i->reg, size)))         \
    ALU_HANDLER(name##bits##_base_reg,                                                             \
                alu_compare_mem(cpu, i, size, OPERAND_BASE, name##_reg##bits,                      \
                                operand_get_reg(cpu, i->reg, size)))                               \
    ALU_HANDLER(name##bits##_mem_imm,                                                              \
                alu_compare_mem(cpu, i, size, OPERAND_ANY, name##_reg##bits, i->imm))              \
    ALU_HANDLER(name##bits##_base_imm,                                                             \
                alu_compare_mem(cpu, i, size, OPERAND_BASE, name##_reg##bits, i->imm))

#define ALU_UNARY_HANDLERS(name, bits, size, mask)                                                 \
    ALU_HANDLER(name##bits##_rm,                                                                   \
                alu_reg_reg(cpu, i->rm, i->rm, size, name##_reg##bits, true, mask))                \
    ALU_HANDLER(name##bits##_mem, operand_rmw(cpu, i, size, OPERAND_ANY, name##_reg##bits,         \
                                              name##_mem##bits, 0, mask))                          \
    ALU_HANDLER(name##bits##_lock,                                                                 \
                operand_rmw_locked(cpu, i, size, name##_reg##bits, name##_lock##bits, 0, mask))

/* All four sizes. */
#define ALU_OPS(define, name, setup)                                                               \
    define(name, 8, uint8_t, "b", "b", setup) define(name, 16, x86_u16, "w", "w", setup)           \
        define(name, 32, x86_u32, "l", "k", setup) define(name, 64, x86_u64, "q", "q", setup)

#define ALU_BINARY(name, setup)                                                                    \
    ALU_OPS(ALU_DEFINE_OP, name, setup)                                                            \
    ALU_BINARY_HANDLERS(name, 8, 1)                                                                \
    ALU_BINARY_HANDLERS(name, 16, 2)                                                               \
    ALU_BINARY_HANDLERS(name, 32, 4)                                                               \
    ALU_BINARY_HANDLERS(name, 64, 8)

#define ALU_COMPARE(name)                                                                          \
    ALU_OPS(ALU_DEFINE_REG_OP, name, "")                                                           \
    ALU_COMPARE_HANDLERS(name, 8, 1)                                                               \
    ALU_COMPARE_HANDLERS(name, 16, 2)                                                              \
    ALU_COMPARE_HANDLERS(name, 32, 4)                                                              \
    ALU_COMPARE_HANDLERS(name, 64, 8)

#define ALU_UNARY(name, mask)                                                                      \
    ALU_OPS(ALU_DEFINE_UNARY_OP, name, "")                                                         \
    ALU_UNARY_HANDLERS(name, 8, 1, mask)                                                           \
    ALU_UNARY_HANDLERS(name, 16, 2, mask)                                                          \
    ALU_UNARY_HANDLERS(name, 32, 4, mask)                                                          \
    ALU_UNARY_HANDLERS(name, 64, 8, mask)

#define ALU_CARRY_IN "btl $0, %k[rflags]\n\t"

ALU_BINARY(add, "")
ALU_BINARY(or, "")
ALU_BINARY(adc, ALU_CARRY_IN)
ALU_BINARY(sbb, ALU_CARRY_IN)
ALU_BINARY(and, "")
ALU_BINARY(sub, "")
ALU_BINARY(xor, "")
ALU_COMPARE(cmp)
ALU_COMPARE(test)
ALU_UNARY(inc, X86_FLAGS_NOT_CF)
ALU_UNARY(dec, X86_FLAGS_NOT_CF)
ALU_UNARY(not, 0)
ALU_UNARY(neg, X86_FLAGS_STATUS)

/* --- ADCX, ADOX: 32 and 64 bits, reg <- reg + rm, one flag in and out --- */

/* By ADC, whose carry comes from that flag (bit 0: CF, bit 11: OF). Level v3 offers ADX, and hosts
 * of Haswell's age, which have all else that v3 executes natively, lack it. */
#define ALU_DEFINE_ADX(name, bit, bits, suffix, mod)                                               \
    static uint64_t name##_reg##bits(uint64_t *dst, uint64_t src, uint64_t rflags)                 \
    {                                                                                              \
        uint64_t d = *dst;                                                                         \
        bool carry;                                                                                \
        __asm__("btl $" #bit ", %k[rflags]\n\tadc" suffix " %" mod "[src], %" mod "[dst]"          \
                : [dst] "+r"(d), "=@ccc"(carry)                                                    \
                : [src] "r"(src), [rflags] "r"(rflags));                                           \
        *dst = d;                                                                                  \
        return x86_flags_pack((rflags & ~BIT(bit)) | (uint64_t)carry << bit);                      \
    }                                                                                              \
    ALU_HANDLER(name##bits##_reg_rm, alu_adx(cpu, i, bits / 8, name##_reg##bits))

static always_inline int alu_adx(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                 operand_reg_fn *op)
{
    if (i->flags & INSN_MEM)
        return alu_reg_mem(cpu, i, size, OPERAND_ANY, op, true);
    return alu_reg_reg(cpu, i->reg, i->rm, size, op, true, X86_FLAGS_STATUS);
}

ALU_DEFINE_ADX(adcx, 0, 32, "l", "k")
ALU_DEFINE_ADX(adcx, 0, 64, "q", "q")
ALU_DEFINE_ADX(adox, 11, 32, "l", "k")
ALU_DEFINE_ADX(adox, 11, 64, "q", "q")

/* --- selection --- */

enum alu_shape {
    ALU_RM_REG,
    ALU_REG_RM,
    ALU_RM_IMM,
    ALU_REG_MEM,
    ALU_REG_BASE,
    ALU_MEM_REG,
    ALU_BASE_REG,
    ALU_MEM_IMM,
    ALU_BASE_IMM,
    ALU_LOCK_REG,
    ALU_LOCK_IMM,
    ALU_SHAPES,
};

/* table */
#define ALU_ROW(name, shape)                                                                       \
    {                                                                                              \
        name##8##shape, name##16##shape, name##32##shape, name##64##shape                          \
    }
#define ALU_COMMON_ROWS(name)                                                                      \
    [ALU_RM_REG] = ALU_ROW(name, _rm_reg), [ALU_REG_RM] = ALU_ROW(name, _reg_rm),                  \
    [ALU_RM_IMM] = ALU_ROW(name, _rm_imm), [ALU_REG_MEM] = ALU_ROW(name, _reg_mem),                \
    [ALU_REG_BASE] = ALU_ROW(name, _reg_base), [ALU_MEM_REG] = ALU_ROW(name, _mem_reg),            \
    [ALU_BASE_REG] = ALU_ROW(name, _base_reg), [ALU_MEM_IMM] = ALU_ROW(name, _mem_imm),            \
    [ALU_BASE_IMM] = ALU_ROW(name, _base_imm)
#define ALU_ROWS(name)                                                                             \
    {                                                                                              \
        ALU_COMMON_ROWS(name), [ALU_LOCK_REG] = ALU_ROW(name, _lock_reg),                          \
                               [ALU_LOCK_IMM] = ALU_ROW(name, _lock_imm)                           \
    }

static x86_op_fn *const alu_binary[][ALU_SHAPES][4] = {
    [INSN_ADD - INSN_ADD] = ALU_ROWS(add),
    [INSN_OR - INSN_ADD] = ALU_ROWS(or),
    [INSN_ADC - INSN_ADD] = ALU_ROWS(adc),
    [INSN_SBB - INSN_ADD] = ALU_ROWS(sbb),
    [INSN_AND - INSN_ADD] = ALU_ROWS(and),
    [INSN_SUB - INSN_ADD] = ALU_ROWS(sub),
    [INSN_XOR - INSN_ADD] = ALU_ROWS(xor),
    [INSN_CMP - INSN_ADD] = {ALU_COMMON_ROWS(cmp)},
    [INSN_TEST - INSN_ADD] = {ALU_COMMON_ROWS(test)},
};

enum { ALU_RM, ALU_MEM, ALU_LOCK, ALU_UNARY_SHAPES };

#define ALU_UNARY_ROWS(name)                                                                       \
    {                                                                                              \
        [ALU_RM] = ALU_ROW(name, _rm), [ALU_MEM] = ALU_ROW(name, _mem),                            \
        [ALU_LOCK] = ALU_ROW(name, _lock)                                                          \
    }

static x86_op_fn *const alu_unary[][ALU_UNARY_SHAPES][4] = {
    [INSN_INC - INSN_INC] = ALU_UNARY_ROWS(inc),
    [INSN_DEC - INSN_INC] = ALU_UNARY_ROWS(dec),
    [INSN_NOT - INSN_INC] = ALU_UNARY_ROWS(not ),
    [INSN_NEG - INSN_INC] = ALU_UNARY_ROWS(neg),
};

static enum alu_shape alu_shape_of(const struct insn *i)
{
    bool imm = i->form == INSN_FORM_RM_IMM;
    bool base = operand_kind_of(i) == OPERAND_BASE;
    if (!(i->flags & INSN_MEM))
        return imm ? ALU_RM_IMM : i->form == INSN_FORM_REG_RM ? ALU_REG_RM : ALU_RM_REG;
    if (i->form == INSN_FORM_REG_RM)
        return base ? ALU_REG_BASE : ALU_REG_MEM;
    if (i->flags & INSN_LOCK)
        return imm ? ALU_LOCK_IMM : ALU_LOCK_REG;
    if (imm)
        return base ? ALU_BASE_IMM : ALU_MEM_IMM;
    return base ? ALU_BASE_REG : ALU_MEM_REG;
}

x86_op_fn *x86_select_alu(const struct insn *i)
{
    unsigned size = operand_size_index(i->opsize);
    if (i->op == INSN_ADCX)
        return i->opsize == 8 ? adcx64_reg_rm : adcx32_reg_rm;
    if (i->op == INSN_ADOX)
        return i->opsize == 8 ? adox64_reg_rm : adox32_reg_rm;
    if (i->op >= INSN_INC) {
        unsigned where = !(i->flags & INSN_MEM) ? ALU_RM
                         : i->flags & INSN_LOCK ? ALU_LOCK
                                                : ALU_MEM;
        return alu_unary[i->op - INSN_INC][where][size];
    }
    return alu_binary[i->op - INSN_ADD][alu_shape_of(i)][size];
}
