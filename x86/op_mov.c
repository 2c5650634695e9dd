/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Data movement that leaves the status flags alone (SDM 2: MOV MOVZX MOVSX MOVBE LEA XCHG BSWAP CBW
 * CWD XLAT NOP MOVNTI), and moves of single flags. CMOVcc and SETcc are in op_movcc.c.
 *
 * MOV, MOVZX and LEA are about half of all instructions that a guest executes, so each size, form
 * and kind of address has a handler of its own; the macros make them from the small functions above
 * them. The fast handlers are leaves: what the TLB does not serve goes on in a slow form.
 */
#include "x86/operand.h"

#define MOV_HANDLER(name, expr)                                                                    \
    static int name(struct x86_cpu *cpu, const struct insn *i)                                     \
    {                                                                                              \
        (void)cpu, (void)i; /* not all expressions use both */                                     \
        return expr;                                                                               \
    }

/* table row: sizes 1, 2, 4, 8 */
#define MOV_ROW(name)                                                                              \
    {                                                                                              \
        name##8, name##16, name##32, name##64                                                      \
    }

/* --- MOV --- */

static always_inline int mov_reg(struct x86_cpu *cpu, uint8_t dst, uint8_t src, uint8_t size)
{
    operand_set_reg(cpu, dst, size, operand_get_reg(cpu, src, size));
    return X86_OK;
}

static always_inline int mov_imm(struct x86_cpu *cpu, const struct insn *i, uint8_t size)
{
    operand_set_reg(cpu, i->rm, size, i->imm);
    return X86_OK;
}

static int mov_load_slow(struct x86_cpu *cpu, const struct insn *i, uint8_t size)
{
    uint64_t v;
    int s = operand_load(cpu, i, size, &v);
    if (s == X86_OK)
        operand_set_reg(cpu, i->reg, size, v);
    return s;
}

static always_inline int mov_load(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                  enum operand_kind kind)
{
    uint64_t v;
    if (unlikely(!operand_try_load(cpu, i, size, kind, &v)))
        return mov_load_slow(cpu, i, size);
    operand_set_reg(cpu, i->reg, size, v);
    return X86_OK;
}

static always_inline int mov_store(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                   enum operand_kind kind, uint64_t v)
{
    void *host = operand_try_host(cpu, i, size, kind);
    if (unlikely(!host))
        return operand_store(cpu, i, size, v);
    operand_host_store(host, size, v);
    x86_note_store(cpu, host);
    return X86_OK;
}

#define MOV_HANDLERS(bits, size)                                                                   \
    MOV_HANDLER(mov_rm_reg##bits, mov_reg(cpu, i->rm, i->reg, size))                               \
    MOV_HANDLER(mov_reg_rm##bits, mov_reg(cpu, i->reg, i->rm, size))                               \
    MOV_HANDLER(mov_rm_imm##bits, mov_imm(cpu, i, size))                                           \
    MOV_HANDLER(mov_reg_mem##bits, mov_load(cpu, i, size, OPERAND_ANY))                            \
    MOV_HANDLER(mov_reg_base##bits, mov_load(cpu, i, size, OPERAND_BASE))                          \
    MOV_HANDLER(mov_mem_reg##bits,                                                                 \
                mov_store(cpu, i, size, OPERAND_ANY, operand_get_reg(cpu, i->reg, size)))          \
    MOV_HANDLER(mov_base_reg##bits,                                                                \
                mov_store(cpu, i, size, OPERAND_BASE, operand_get_reg(cpu, i->reg, size)))         \
    MOV_HANDLER(mov_mem_imm##bits, mov_store(cpu, i, size, OPERAND_ANY, i->imm))                   \
    MOV_HANDLER(mov_base_imm##bits, mov_store(cpu, i, size, OPERAND_BASE, i->imm))

MOV_HANDLERS(8, 1)
MOV_HANDLERS(16, 2)
MOV_HANDLERS(32, 4)
MOV_HANDLERS(64, 8)

static x86_op_fn *select_mov(const struct insn *i)
{
    static x86_op_fn *const rm_reg[] = MOV_ROW(mov_rm_reg), *const reg_rm[] = MOV_ROW(mov_reg_rm);
    static x86_op_fn *const rm_imm[] = MOV_ROW(mov_rm_imm);
    static x86_op_fn *const load[OPERAND_KINDS][4] = {
        [OPERAND_BASE] = MOV_ROW(mov_reg_base), [OPERAND_ANY] = MOV_ROW(mov_reg_mem)};
    static x86_op_fn *const store[OPERAND_KINDS][4] = {
        [OPERAND_BASE] = MOV_ROW(mov_base_reg), [OPERAND_ANY] = MOV_ROW(mov_mem_reg)};
    static x86_op_fn *const store_imm[OPERAND_KINDS][4] = {
        [OPERAND_BASE] = MOV_ROW(mov_base_imm), [OPERAND_ANY] = MOV_ROW(mov_mem_imm)};
    unsigned n = operand_size_index(i->opsize);
    enum operand_kind kind = operand_kind_of(i);
    if (!(i->flags & INSN_MEM)) {
        if (i->form == INSN_FORM_RM_IMM)
            return rm_imm[n];
        return i->form == INSN_FORM_REG_RM ? reg_rm[n] : rm_reg[n];
    }
    if (i->form == INSN_FORM_RM_IMM)
        return store_imm[kind][n];
    return i->form == INSN_FORM_REG_RM ? load[kind][n] : store[kind][n];
}

/* --- MOVZX, MOVSX --- */

static always_inline uint64_t mov_extend(uint64_t v, uint8_t from, bool is_signed)
{
    if (from == 1)
        return is_signed ? (uint64_t)(int8_t)v : (uint8_t)v;
    if (from == 2)
        return is_signed ? (uint64_t)(int16_t)v : (uint16_t)v;
    return is_signed ? (uint64_t)(int32_t)v : (uint32_t)v;
}

static int mov_extend_slow(struct x86_cpu *cpu, const struct insn *i, bool is_signed)
{
    uint64_t v;
    int s = operand_load(cpu, i, i->srcsize, &v);
    if (s == X86_OK)
        operand_set_reg(cpu, i->reg, i->opsize, mov_extend(v, i->srcsize, is_signed));
    return s;
}

static always_inline int mov_extend_reg(struct x86_cpu *cpu, const struct insn *i, uint8_t to,
                                        uint8_t from, bool is_signed)
{
    uint64_t v = operand_get_reg(cpu, i->rm, from);
    operand_set_reg(cpu, i->reg, to, mov_extend(v, from, is_signed));
    return X86_OK;
}

static always_inline int mov_extend_mem(struct x86_cpu *cpu, const struct insn *i, uint8_t to,
                                        uint8_t from, enum operand_kind kind, bool is_signed)
{
    uint64_t v;
    if (unlikely(!operand_try_load(cpu, i, from, kind, &v)))
        return mov_extend_slow(cpu, i, is_signed);
    operand_set_reg(cpu, i->reg, to, mov_extend(v, from, is_signed));
    return X86_OK;
}

enum { EXTEND_REG, EXTEND_MEM, EXTEND_BASE, EXTEND_WHERE };

#define MOV_EXTEND(name, to, from, is_signed)                                                      \
    MOV_HANDLER(name##_reg, mov_extend_reg(cpu, i, to, from, is_signed))                           \
    MOV_HANDLER(name##_mem, mov_extend_mem(cpu, i, to, from, OPERAND_ANY, is_signed))              \
    MOV_HANDLER(name##_base, mov_extend_mem(cpu, i, to, from, OPERAND_BASE, is_signed))
#define MOV_EXTEND_ROW(name)                                                                       \
    {                                                                                              \
        [EXTEND_REG] = name##_reg, [EXTEND_MEM] = name##_mem, [EXTEND_BASE] = name##_base          \
    }

MOV_EXTEND(movzx16_8, 2, 1, false)
MOV_EXTEND(movzx64_8, 8, 1, false) /* to 32 bits is the same: the upper half is cleared */
MOV_EXTEND(movzx16_16, 2, 2, false)
MOV_EXTEND(movzx64_16, 8, 2, false)
MOV_EXTEND(movsx16_8, 2, 1, true)
MOV_EXTEND(movsx32_8, 4, 1, true)
MOV_EXTEND(movsx64_8, 8, 1, true)
MOV_EXTEND(movsx16_16, 2, 2, true)
MOV_EXTEND(movsx32_16, 4, 2, true)
MOV_EXTEND(movsx64_16, 8, 2, true)
MOV_EXTEND(movsx32_32, 4, 4, true) /* MOVSXD without REX.W */
MOV_EXTEND(movsx64_32, 8, 4, true)

static x86_op_fn *select_extend(const struct insn *i)
{
    /* [size of source][size of destination] */
    static x86_op_fn *const zero[3][4][EXTEND_WHERE] = {[0] = {[1] = MOV_EXTEND_ROW(movzx16_8),
                                                               [2] = MOV_EXTEND_ROW(movzx64_8),
                                                               [3] = MOV_EXTEND_ROW(movzx64_8)},
                                                        [1] = {[1] = MOV_EXTEND_ROW(movzx16_16),
                                                               [2] = MOV_EXTEND_ROW(movzx64_16),
                                                               [3] = MOV_EXTEND_ROW(movzx64_16)}};
    static x86_op_fn *const sign[3][4][EXTEND_WHERE] = {
        [0] = {[1] = MOV_EXTEND_ROW(movsx16_8),
               [2] = MOV_EXTEND_ROW(movsx32_8),
               [3] = MOV_EXTEND_ROW(movsx64_8)},
        [1] = {[1] = MOV_EXTEND_ROW(movsx16_16),
               [2] = MOV_EXTEND_ROW(movsx32_16),
               [3] = MOV_EXTEND_ROW(movsx64_16)},
        [2] = {[2] = MOV_EXTEND_ROW(movsx32_32), [3] = MOV_EXTEND_ROW(movsx64_32)}};
    unsigned where = !(i->flags & INSN_MEM)               ? EXTEND_REG
                     : operand_kind_of(i) == OPERAND_BASE ? EXTEND_BASE
                                                          : EXTEND_MEM;
    unsigned from = operand_size_index(i->srcsize), to = operand_size_index(i->opsize);
    return i->op == INSN_MOVZX ? zero[from][to][where] : sign[from][to][where];
}

/* --- LEA: no segment, no access --- */

static always_inline int lea(struct x86_cpu *cpu, const struct insn *i, uint8_t size, bool base)
{
    uint64_t a =
        base ? cpu->gpr[i->base & 15] + (uint64_t)(int64_t)i->disp : x86_effective_address(cpu, i);
    operand_set_reg(cpu, i->reg, size, a);
    return X86_OK;
}

MOV_HANDLER(lea_any16, lea(cpu, i, 2, false))
MOV_HANDLER(lea_any32, lea(cpu, i, 4, false))
MOV_HANDLER(lea_any64, lea(cpu, i, 8, false))
MOV_HANDLER(lea_base64, lea(cpu, i, 8, true))

static x86_op_fn *select_lea(const struct insn *i)
{
    if (i->opsize == 2)
        return lea_any16;
    if (i->opsize == 4)
        return lea_any32;
    return operand_kind_of(i) == OPERAND_BASE ? lea_base64 : lea_any64;
}

/* --- XCHG: with memory it is locked, with or without the prefix (SDM 3A 8.1.2.1) --- */

/* An operand_reg_fn whose "carrier" is the old value. */
static uint64_t exchange_op(uint64_t *dst, uint64_t src, uint64_t rflags)
{
    uint64_t old = *dst;
    (void)rflags;
    *dst = src;
    return old;
}

static int xchg_mem_slow(struct x86_cpu *cpu, const struct insn *i, uint8_t size)
{
    uint64_t linear, old;
    int s = x86_operand(cpu, i, size, X86_WRITE, &linear);
    if (s != X86_OK)
        return s;
    s = operand_rmw_at(cpu, linear, exchange_op, operand_get_reg(cpu, i->reg, size), size, true,
                       &old);
    if (s == X86_OK)
        operand_set_reg(cpu, i->reg, size, old);
    return s;
}

static always_inline int xchg_reg(struct x86_cpu *cpu, const struct insn *i, uint8_t size)
{
    uint64_t a = operand_get_reg(cpu, i->rm, size), b = operand_get_reg(cpu, i->reg, size);
    operand_set_reg(cpu, i->rm, size, b);
    operand_set_reg(cpu, i->reg, size, a);
    return X86_OK;
}

#define DEFINE_XCHG(bits, size, type)                                                              \
    MOV_HANDLER(xchg_reg##bits, xchg_reg(cpu, i, size))                                            \
    static int xchg_mem##bits(struct x86_cpu *cpu, const struct insn *i)                           \
    {                                                                                              \
        void *host = operand_try_host_locked(cpu, i, size);                                        \
        if (unlikely(!host))                                                                       \
            return xchg_mem_slow(cpu, i, size);                                                    \
        type v = (type)operand_get_reg(cpu, i->reg, size);                                         \
        __asm__ volatile("xchg %0, %1" : "+q"(v), "+m"(*(type *)host) : : "memory");               \
        x86_note_store(cpu, host);                                                                 \
        operand_set_reg(cpu, i->reg, size, v);                                                     \
        return X86_OK;                                                                             \
    }

DEFINE_XCHG(8, 1, uint8_t)
DEFINE_XCHG(16, 2, x86_u16)
DEFINE_XCHG(32, 4, x86_u32)
DEFINE_XCHG(64, 8, x86_u64)

static x86_op_fn *select_xchg(const struct insn *i)
{
    static x86_op_fn *const table[2][4] = {MOV_ROW(xchg_reg), MOV_ROW(xchg_mem)};
    return table[i->flags & INSN_MEM ? 1 : 0][operand_size_index(i->opsize)];
}

/* --- MOVBE, BSWAP --- */

static uint64_t byte_swap(uint64_t v, uint8_t size)
{
    return __builtin_bswap64(v) >> (64 - 8 * size);
}

static int movbe_load(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t v;
    int s = operand_load(cpu, i, i->opsize, &v);
    if (s == X86_OK)
        operand_set_reg(cpu, i->reg, i->opsize, byte_swap(v, i->opsize));
    return s;
}

static int movbe_store(struct x86_cpu *cpu, const struct insn *i)
{
    return operand_store(cpu, i, i->opsize, byte_swap(cpu->gpr[i->reg & 15], i->opsize));
}

/* 16 bits: undefined by the manual; this processor's answer. */
static int bswap16(struct x86_cpu *cpu, const struct insn *i)
{
    __asm__(".byte 0x66\n\tbswapl %k0" : "+r"(cpu->gpr[i->rm & 15]));
    return X86_OK;
}

static int bswap(struct x86_cpu *cpu, const struct insn *i)
{
    cpu->gpr[i->rm & 15] = byte_swap(cpu->gpr[i->rm & 15], i->opsize);
    return X86_OK;
}

/* --- CBW CWDE CDQE, CWD CDQ CQO --- */

MOV_HANDLER(cbw16, (operand_set_reg(cpu, RAX, 2, (uint64_t)(int8_t)cpu->gpr[RAX]), X86_OK))
MOV_HANDLER(cbw32, (operand_set_reg(cpu, RAX, 4, (uint64_t)(int16_t)cpu->gpr[RAX]), X86_OK))
MOV_HANDLER(cbw64, (operand_set_reg(cpu, RAX, 8, (uint64_t)(int32_t)cpu->gpr[RAX]), X86_OK))
MOV_HANDLER(cwd16, (operand_set_reg(cpu, RDX, 2, 0 - (cpu->gpr[RAX] >> 15 & 1)), X86_OK))
MOV_HANDLER(cwd32, (operand_set_reg(cpu, RDX, 4, 0 - (cpu->gpr[RAX] >> 31 & 1)), X86_OK))
MOV_HANDLER(cwd64, (operand_set_reg(cpu, RDX, 8, 0 - (cpu->gpr[RAX] >> 63)), X86_OK))

static x86_op_fn *select_convert(const struct insn *i)
{
    static x86_op_fn *const table[2][4] = {{cbw16, cbw16, cbw32, cbw64},
                                           {cwd16, cwd16, cwd32, cwd64}};
    return table[i->op == INSN_CWD][operand_size_index(i->opsize)];
}

/* --- the rest, one handler each --- */

static int xlat(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t offset = cpu->gpr[RBX] + (uint8_t)cpu->gpr[RAX], linear;
    uint8_t v;
    int s = x86_linear(cpu, i->seg, offset & x86_size_mask(i->addrsize), 1, X86_READ, &linear);
    if (s != X86_OK)
        return s;
    s = x86_read8(cpu, linear, &v);
    if (s == X86_OK)
        operand_set_reg(cpu, RAX, 1, v);
    return s;
}

static int movnti(struct x86_cpu *cpu, const struct insn *i)
{
    return operand_store(cpu, i, i->opsize, cpu->gpr[i->reg & 15]);
}

/* SF ZF AF PF CF, to and from AH */
#define LAHF_FLAGS (X86_FLAGS_STATUS & 0xFF)

static int lahf(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    uint64_t ah = (cpu->rflags & LAHF_FLAGS) | X86_FLAG_ONE;
    cpu->gpr[RAX] = (cpu->gpr[RAX] & ~(uint64_t)0xFF00) | ah << 8;
    return X86_OK;
}

static int sahf(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    cpu->rflags = (cpu->rflags & ~LAHF_FLAGS) | (cpu->gpr[RAX] >> 8 & LAHF_FLAGS);
    return X86_OK;
}

MOV_HANDLER(salc, (operand_set_reg(cpu, RAX, 1, 0 - (cpu->rflags & X86_FLAG_CF)), X86_OK))
MOV_HANDLER(cmc, (cpu->rflags ^= X86_FLAG_CF, X86_OK))
MOV_HANDLER(clc, (cpu->rflags &= ~X86_FLAG_CF, X86_OK))
MOV_HANDLER(stc, (cpu->rflags |= X86_FLAG_CF, X86_OK))
MOV_HANDLER(cld, (cpu->rflags &= ~X86_FLAG_DF, X86_OK))
MOV_HANDLER(std, (cpu->rflags |= X86_FLAG_DF, X86_OK))
MOV_HANDLER(nop, X86_OK)

static x86_op_fn *select_swap(const struct insn *i)
{
    if (i->op == INSN_BSWAP)
        return i->opsize == 2 ? bswap16 : bswap;
    return i->form == INSN_FORM_REG_RM ? movbe_load : movbe_store;
}

x86_op_fn *x86_select_mov(const struct insn *i)
{
    static const struct {
        x86_op_fn *handler;
        x86_op_fn *(*select)(const struct insn *i);
    } table[INSN_MOVNTI - INSN_MOV + 1] = {
        [INSN_MOV - INSN_MOV] = {.select = select_mov},
        [INSN_MOVZX - INSN_MOV] = {.select = select_extend},
        [INSN_MOVSX - INSN_MOV] = {.select = select_extend},
        [INSN_MOVBE - INSN_MOV] = {.select = select_swap},
        [INSN_LEA - INSN_MOV] = {.select = select_lea},
        [INSN_XCHG - INSN_MOV] = {.select = select_xchg},
        [INSN_BSWAP - INSN_MOV] = {.select = select_swap},
        [INSN_CMOVCC - INSN_MOV] = {.select = x86_select_cmovcc},
        [INSN_SETCC - INSN_MOV] = {.select = x86_select_setcc},
        [INSN_CBW - INSN_MOV] = {.select = select_convert},
        [INSN_CWD - INSN_MOV] = {.select = select_convert},
        [INSN_XLAT - INSN_MOV] = {.handler = xlat},
        [INSN_LAHF - INSN_MOV] = {.handler = lahf},
        [INSN_SAHF - INSN_MOV] = {.handler = sahf},
        [INSN_SALC - INSN_MOV] = {.handler = salc},
        [INSN_CMC - INSN_MOV] = {.handler = cmc},
        [INSN_CLC - INSN_MOV] = {.handler = clc},
        [INSN_STC - INSN_MOV] = {.handler = stc},
        [INSN_CLD - INSN_MOV] = {.handler = cld},
        [INSN_STD - INSN_MOV] = {.handler = std},
        [INSN_NOP - INSN_MOV] = {.handler = nop},
        [INSN_MOVNTI - INSN_MOV] = {.handler = movnti},
    };
    unsigned n = (unsigned)(i->op - INSN_MOV);
    return table[n].handler ? table[n].handler : table[n].select(i);
}
