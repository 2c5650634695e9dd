/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Test cases out of a seed: random prefixes, opcode, ModRM, displacement and immediate; what
 * insn_decode takes for an instruction that may be tried is kept. Then a state in which it does
 * something: registers that lead its memory operands into the sandbox, mostly well inside, at times
 * across page ends, into guard pages or read-only memory; operands for which rare paths are taken
 * (comparisons that succeed, quotients that fit, branch targets that can be landed on).
 */
#include "tests/differential/differential.h"

#include <string.h>

#include "core/mem.h"
#include "x86/level.h"

/* --- which instructions may be executed --- */

/* In groups that are otherwise left out: harmless, or a fault at CPL 3. */
static const uint16_t harmless[] = {
    INSN_HLT,       INSN_CLI,     INSN_CLTS,   INSN_INVD,       INSN_WBINVD, INSN_MOV_FROM_CR,
    INSN_MOV_TO_CR, INSN_RDMSR,   INSN_WRMSR,  INSN_LFENCE,     INSN_MFENCE, INSN_SFENCE,
    INSN_PAUSE,     INSN_CLFLUSH, INSN_CLWB,   INSN_CLFLUSHOPT, INSN_UD,     INSN_BOUND,
    INSN_LGDT,      INSN_LIDT,    INSN_INVLPG,
};

/* State as a whole: FSAVE's and FXSAVE's pointers are where they were executed. */
static const uint16_t fpstate[] = {INSN_FWAIT, INSN_LDMXCSR, INSN_STMXCSR, INSN_VZEROUPPER,
                                   INSN_VZEROALL};

static bool is_one_of(const uint16_t *list, size_t count, uint16_t op)
{
    for (size_t n = 0; n < count; n++) {
        if (list[n] == op)
            return true;
    }
    return false;
}

/*
 * Where processors differ: the register form of PREFETCHW is a NOP for Intel and #UD for AMD; 66
 * before a near branch in 64-bit mode is ignored by Intel, and cuts RIP to 16 bits on AMD; F2 and
 * F3 before LOOPcc mean a condition on AMD; MOVSXD to 16 bits reads 2 or 4 bytes; VPINSRQ and
 * VPEXTRQ in 32-bit code are VPINSRD and VPEXTRD for Intel, #UD for AMD.
 */
static bool depends_on_vendor(const struct insn *i, enum insn_mode mode)
{
    bool mem = i->flags & INSN_MEM;
    if (i->op == INSN_NOP)
        return i->map == 1 && i->opcode == 0x0D && !mem;
    if (i->op == INSN_MOVSX)
        return i->map == 0 && i->opsize == 2 && mem;
    if (i->op == INSN_SIMD)
        return mode == INSN_MODE_32 && (i->flags & INSN_VEX) && i->map == 3 &&
               (i->opcode == 0x22 || i->opcode == 0x16);
    if (insn_op_group((enum insn_op)i->op) != INSN_GROUP_BRANCH)
        return false;
    if (i->op >= INSN_LOOPNE && i->op <= INSN_LOOP &&
        (i->flags & (INSN_PREFIX_F2 | INSN_PREFIX_F3)))
        return true;
    return mode == INSN_MODE_64 && (i->flags & INSN_OPSIZE_PREFIX);
}

static bool is_wanted(const struct insn *i, const struct selection *what)
{
    enum insn_group group = insn_op_group((enum insn_op)i->op);
    if (!x86_level_has(x86_level_find("v3"), (enum insn_feature)i->feature))
        return false;
    if (i->op == INSN_INVALID || depends_on_vendor(i, what->mode))
        return false;
    if (what->op)
        return str_equal(what->op, insn_op_name((enum insn_op)i->op));
    if (!(what->groups >> group & 1))
        return false;
    if (group == INSN_GROUP_SYSTEM || group == INSN_GROUP_SEG || group == INSN_GROUP_CONTROL)
        return is_one_of(harmless, ARRAY_SIZE(harmless), i->op);
    if (group == INSN_GROUP_FPSTATE)
        return is_one_of(fpstate, ARRAY_SIZE(fpstate), i->op);
    return true;
}

bool is_harmless(const struct insn *i, enum insn_mode mode)
{
    const struct selection all = {.groups = (1u << INSN_GROUP_COUNT) - 1, .mode = mode};
    return is_wanted(i, &all) && (i->seg < SEG_FS || i->seg == SEG_GS);
}

/* What most random bytes are: fewer of them, so that the others have their share. */
static bool is_common(const struct insn *i)
{
    enum insn_group group = insn_op_group((enum insn_op)i->op);
    return group == INSN_GROUP_ALU || group == INSN_GROUP_MOV || group == INSN_GROUP_BRANCH ||
           group == INSN_GROUP_STACK || i->op == INSN_UD;
}

/* FS is the C library's on the host; GS has its base in 64-bit code only. */
static bool has_usable_segment(const struct insn *i, enum insn_mode mode)
{
    return i->seg < SEG_FS || (i->seg == SEG_GS && mode == INSN_MODE_64);
}

static bool is_relative_branch(const struct insn *i)
{
    return i->op == INSN_JCC || i->op == INSN_JMP || i->op == INSN_CALL ||
           (i->op >= INSN_LOOPNE && i->op <= INSN_JCXZ);
}

/* Into itself it would run for ever, or run bytes that nobody has looked at. */
static bool branches_into_itself(const struct insn *i)
{
    return is_relative_branch(i) && (int64_t)i->imm < 0 && (int64_t)i->imm >= -(int64_t)i->length;
}

/* --- bytes --- */

struct builder {
    uint8_t bytes[48];
    uint8_t count;
    uint8_t disp_at; /* 0: no 32-bit displacement */
};

static void put(struct builder *b, uint8_t byte)
{
    b->bytes[b->count++] = byte;
}

static void put_prefixes(struct builder *b, struct rng *r, enum insn_mode mode)
{
    static const uint8_t segments[] = {0x26, 0x2E, 0x36, 0x3E, 0x65};
    if (rng_chance(r, 20))
        put(b, 0x66);
    if (rng_chance(r, 10))
        put(b, 0xF2);
    if (rng_chance(r, 12))
        put(b, 0xF3);
    if (rng_chance(r, 6))
        put(b, segments[rng_below(r, sizeof(segments))]);
    if (rng_chance(r, 7))
        put(b, 0x67);
    if (rng_chance(r, 8))
        put(b, 0xF0);
    if (mode == INSN_MODE_64 && rng_chance(r, 50))
        put(b, (uint8_t)(0x40 | rng_below(r, 16)));
}

static void put_vex(struct builder *b, struct rng *r)
{
    uint8_t second = (uint8_t)rng_next(r);
    if (rng_chance(r, 30)) {
        put(b, 0xC5);
        put(b, second);
        return;
    }
    put(b, 0xC4);
    put(b, (uint8_t)((second & 0xE0) | (1 + rng_below(r, 3))));
    put(b, (uint8_t)rng_next(r));
}

static void put_opcode(struct builder *b, struct rng *r)
{
    uint64_t map = rng_below(r, 100);
    if (map < 15) {
        put_vex(b, r);
    } else if (map < 60) {
        put(b, 0x0F);
        if (map < 25)
            put(b, map < 21 ? 0x38 : 0x3A);
    }
    put(b, (uint8_t)rng_next(r));
}

/* ModRM and what follows from it in 32- and 64-bit addressing; harmless where there is none. */
static void put_modrm(struct builder *b, struct rng *r)
{
    uint8_t modrm = (uint8_t)rng_next(r), sib = (uint8_t)rng_next(r);
    if (rng_chance(r, 30))
        modrm |= 0xC0;
    put(b, modrm);
    uint8_t mod = modrm >> 6, base = modrm & 7;
    bool has_sib = mod != 3 && base == 4;
    if (has_sib) {
        put(b, sib);
        base = sib & 7;
    }
    if (mod == 1)
        put(b, (uint8_t)rng_next(r));
    if (mod == 2 || (mod == 0 && base == 5)) {
        b->disp_at = b->count;
        uint32_t disp = (uint32_t)rng_next(r);
        for (unsigned n = 0; n < 4; n++)
            put(b, (uint8_t)(disp >> (8 * n)));
    }
    for (unsigned n = 0; n < 9; n++)
        put(b, (uint8_t)rng_next(r));
}

static bool make_bytes(struct test_case *c, struct rng *r, const struct selection *what,
                       struct builder *b)
{
    *b = (struct builder){.count = 0};
    put_prefixes(b, r, c->mode);
    put_opcode(b, r);
    put_modrm(b, r);
    if (insn_decode(&c->insn, b->bytes, INSN_MAX_LENGTH, c->mode) != INSN_DECODE_OK)
        return false;
    if (!is_wanted(&c->insn, what) || !has_usable_segment(&c->insn, c->mode))
        return false;
    if (is_common(&c->insn) && rng_chance(r, 75))
        return false;
    c->length = c->insn.length;
    return b->disp_at == 0 || b->disp_at + 4 <= c->length || !(c->insn.flags & INSN_MEM);
}

/* --- state --- */

uint64_t random_value(struct rng *r)
{
    static const uint64_t special[] = {0,
                                       1,
                                       UINT64_MAX,
                                       0x7F,
                                       0x80,
                                       0x7FFF,
                                       0x8000,
                                       0x7FFFFFFF,
                                       0x80000000,
                                       UINT64_C(0x7FFFFFFFFFFFFFFF),
                                       UINT64_C(0x8000000000000000),
                                       UINT64_C(0xFFFFFFFF80000000)};
    switch (rng_below(r, 6)) {
    case 0:
        return special[rng_below(r, ARRAY_SIZE(special))];
    case 1:
        return rng_below(r, 256);
    case 2:
        return (uint64_t)(int32_t)rng_next(r);
    case 3:
        return BOX_RW + rng_below(r, BOX_RW_SIZE);
    default:
        return rng_next(r);
    }
}

/* An address for a memory operand. */
static uint64_t random_target(struct rng *r)
{
    uint64_t kind = rng_below(r, 100), t;
    if (kind < 80)
        t = BOX_RW + 256 + rng_below(r, BOX_RW_SIZE - 1024);
    else if (kind < 88)
        return BOX_RW + (1 + rng_below(r, 3)) * PAGE_SIZE - 1 - rng_below(r, 32);
    else if (kind < 92)
        return BOX_RW - 16 + rng_below(r, 32);
    else if (kind < 96)
        return BOX_RW + BOX_RW_SIZE - rng_below(r, 32);
    else
        t = BOX_RO + rng_below(r, BOX_RO_SIZE - 64);
    return rng_chance(r, 60) ? t & ~UINT64_C(31) : t;
}

static bool is_in_rw(uint64_t a)
{
    return a >= BOX_RW && a <= BOX_RW + BOX_RW_SIZE - 16;
}

/* Where an INT3 stands. */
static uint64_t landing_place(struct rng *r)
{
    return BOX_INSN + 0x40 + rng_below(r, 0x80);
}

static void set_disp(struct test_case *c, struct builder *b, uint64_t disp)
{
    c->insn.disp = (int32_t)(uint32_t)disp;
    store_u32(b->bytes + b->disp_at, (uint32_t)disp);
}

/* Makes the memory operand be at `target`, by its registers or its displacement. */
static void aim(struct test_case *c, struct rng *r, struct builder *b, uint64_t target)
{
    struct insn *i = &c->insn;
    uint64_t *gpr = c->start.gpr;
    bool base = i->base != INSN_NO_REG, index = i->index != INSN_NO_REG;
    if (i->seg == SEG_GS)
        target -= BOX_GS_BASE;
    uint64_t rest = target - (uint64_t)(int64_t)i->disp;
    if (i->flags & INSN_MOFFS) {
        i->imm = target;
        memcpy(b->bytes + c->length - i->addrsize, &target, i->addrsize);
    } else if (i->flags & INSN_RIPREL) {
        set_disp(c, b, target - (BOX_INSN + c->length));
    } else if (!base && !index) {
        if (b->disp_at)
            set_disp(c, b, target);
    } else if (base && index && i->base == i->index) {
        gpr[i->base] = rest / (1 + (UINT64_C(1) << i->scale));
    } else if (base) {
        if (index && i->index < 16)
            gpr[i->index] = rng_chance(r, 70) ? rng_below(r, 512) - 256 : rng_next(r);
        gpr[i->base] = rest - (index ? gpr[i->index] << i->scale : 0);
    } else {
        gpr[i->index] = rest >> i->scale;
    }
    uint8_t reg = base ? i->base : i->index;
    if (i->addrsize == 4 && reg < 16 && c->mode == INSN_MODE_64)
        gpr[reg] = (uint32_t)gpr[reg] | (rng_chance(r, 50) ? rng_next(r) << 32 : 0);
}

static void poke(struct test_case *c, uint64_t address, uint64_t v)
{
    if (is_in_rw(address))
        memcpy(c->memory + (address - BOX_RW), &v, sizeof(v));
}

static uint64_t peek(const struct test_case *c, uint64_t address)
{
    uint64_t v = 0;
    if (is_in_rw(address))
        memcpy(&v, c->memory + (address - BOX_RW), sizeof(v));
    return v;
}

/* --- operands that make an instruction worth executing --- */

static void prepare_string(struct test_case *c, struct rng *r, struct builder *b, uint64_t target)
{
    (void)b, (void)target;
    uint64_t *gpr = c->start.gpr;
    gpr[RSI] = random_target(r);
    if (c->insn.seg == SEG_GS)
        gpr[RSI] -= BOX_GS_BASE;
    gpr[RDI] = rng_chance(r, 30) ? gpr[RSI] + rng_below(r, 64) - 32 : random_target(r);
    if (rng_chance(r, 60))
        gpr[RCX] = rng_below(r, 20);
    else if (rng_chance(r, 70))
        gpr[RCX] = rng_below(r, 3000);
    if (rng_chance(r, 30)) { /* something to find equal for a while */
        uint64_t at = rng_below(r, BOX_RW_SIZE - 256);
        memset(c->memory + at, 0x5A, 256);
        gpr[RDI] = BOX_RW + at + rng_below(r, 64);
        if (rng_chance(r, 70))
            gpr[RSI] = BOX_RW + at + rng_below(r, 64);
        gpr[RAX] = UINT64_C(0x5A5A5A5A5A5A5A5A);
    }
}

static void prepare_stack(struct test_case *c, struct rng *r, struct builder *b, uint64_t target)
{
    (void)target;
    uint64_t *gpr = c->start.gpr;
    if (c->insn.op == INSN_POPF) { /* TF would trap behind it, AC everywhere */
        gpr[RSP] = BOX_RW + 64 + rng_below(r, BOX_RW_SIZE - 128);
        poke(c, gpr[RSP], rng_next(r) & ~(X86_FLAG_TF | X86_FLAG_AC));
    } else if (c->insn.op == INSN_ENTER && rng_chance(r, 80)) {
        gpr[RBP] = random_target(r);
        c->insn.imm = rng_below(r, 512);
        store_u16(b->bytes + c->length - 3, (uint16_t)c->insn.imm);
    } else if (c->insn.op == INSN_LEAVE) {
        gpr[RBP] = random_target(r);
    }
}

static void prepare_branch(struct test_case *c, struct rng *r, struct builder *b, uint64_t target)
{
    struct insn *i = &c->insn;
    if (is_relative_branch(i)) {
        uint8_t size = i->opcode >= 0x70 && i->map == 0 && i->opcode != 0xE8 && i->opcode != 0xE9
                           ? 1
                       : i->opsize == 2 ? 2
                                        : 4;
        if (size > 1 && rng_chance(r, 90)) {
            i->imm = 0x20 + rng_below(r, 0x80);
            memcpy(b->bytes + c->length - size, &i->imm, size);
        }
        if (rng_chance(r, 50))
            c->start.gpr[RCX] = rng_below(r, 3);
    } else if (i->op == INSN_RET) {
        if (rng_chance(r, 70))
            poke(c, c->start.gpr[RSP], landing_place(r));
    } else if (rng_chance(r, 70)) { /* JMP, CALL through rm */
        if (i->flags & INSN_MEM)
            poke(c, target, landing_place(r));
        else
            c->start.gpr[i->rm & 15] = landing_place(r);
    }
}

static void prepare_atomic(struct test_case *c, struct rng *r, struct builder *b, uint64_t target)
{
    (void)b;
    uint64_t *gpr = c->start.gpr;
    bool mem = c->insn.flags & INSN_MEM;
    if (rng_chance(r, 40)) { /* equal, in the low bytes at least */
        gpr[RAX] = mem ? peek(c, target) : gpr[c->insn.rm & 15];
        gpr[RDX] = c->insn.op == INSN_CMPXCHG8B ? gpr[RAX] >> 32 : peek(c, target + 8);
    }
}

static void prepare_bit(struct test_case *c, struct rng *r, struct builder *b, uint64_t target)
{
    const struct insn *i = &c->insn;
    (void)b, (void)target;
    if (i->op <= INSN_BTC && i->reg != i->base && i->reg != i->index && rng_chance(r, 80))
        c->start.gpr[i->reg & 15] = rng_below(r, 0x8000) - 0x4000;
}

static void prepare_mul(struct test_case *c, struct rng *r, struct builder *b, uint64_t target)
{
    uint64_t *gpr = c->start.gpr;
    (void)b, (void)target;
    if (rng_chance(r, 50) && c->insn.base != RDX && c->insn.index != RDX)
        gpr[RDX] = rng_chance(r, 50) ? 0 : (uint64_t)((int64_t)gpr[RAX] >> 63);
}

static void prepare_mov(struct test_case *c, struct rng *r, struct builder *b, uint64_t target)
{
    (void)b, (void)target;
    if (c->insn.op == INSN_XLAT)
        c->start.gpr[RBX] = random_target(r);
}

static void (*const prepare[INSN_GROUP_COUNT])(struct test_case *c, struct rng *r,
                                               struct builder *b, uint64_t target) = {
    [INSN_GROUP_STRING] = prepare_string, [INSN_GROUP_STACK] = prepare_stack,
    [INSN_GROUP_BRANCH] = prepare_branch, [INSN_GROUP_ATOMIC] = prepare_atomic,
    [INSN_GROUP_BIT] = prepare_bit,       [INSN_GROUP_MUL] = prepare_mul,
    [INSN_GROUP_MOV] = prepare_mov,
};

/* --- vector and x87 state --- */

void random_vectors(struct x86_fpu *f, struct rng *r)
{
    *f = (struct x86_fpu){.fcw = X86_FCW_RESET, .mxcsr = X86_MXCSR_RESET, .xstate_bv = 7};
    if (rng_chance(r, 20))
        f->mxcsr = (uint32_t)rng_below(r, 0x10000);
    if (rng_chance(r, 30))
        f->fcw = (uint16_t)((rng_next(r) & 0x0F3F) | 0x40);
    if (rng_chance(r, 70))
        f->fcw |= 0x3F;
    f->fsw = (uint16_t)(rng_chance(r, 50) ? 0 : rng_next(r) & 0x7F00);
    f->ftw = (uint8_t)(rng_chance(r, 50) ? 0xFF : rng_next(r));
    for (unsigned n = 0; n < 16; n++) {
        uint64_t v[4];
        for (unsigned k = 0; k < 4; k++)
            v[k] = random_value(r);
        memcpy(f->xmm[n], v, 16);
        memcpy(f->ymm_high[n], v + 2, 16);
    }
    for (unsigned n = 0; n < 8; n++) {
        static const uint16_t exponents[] = {0, 1, 0x3FFF, 0x4000, 0x7FFF, 0xBFFF, 0x3FC0, 0x403E};
        uint64_t mantissa = rng_next(r) | (rng_chance(r, 85) ? UINT64_C(1) << 63 : 0);
        uint16_t exponent = exponents[rng_below(r, ARRAY_SIZE(exponents))];
        memcpy(f->st[n], &mantissa, 8);
        memcpy(f->st[n] + 8, &exponent, 2);
    }
}

static bool touches_vectors(const struct insn *i)
{
    enum insn_group group = insn_op_group((enum insn_op)i->op);
    return group == INSN_GROUP_SIMD || group == INSN_GROUP_X87 || group == INSN_GROUP_FPSTATE;
}

static void random_state(struct test_case *c, struct rng *r)
{
    for (unsigned n = 0; n < 16; n++)
        c->start.gpr[n] = random_value(r);
    c->start.gpr[RSP] =
        rng_chance(r, 85) ? BOX_RW + 0x400 + 8 * rng_below(r, 0x600) : random_target(r);
    c->start.rflags = X86_FLAG_ONE | X86_FLAG_IF | (rng_next(r) & X86_FLAGS_STATUS);
    if (rng_chance(r, 15))
        c->start.rflags |= X86_FLAG_DF;
    for (unsigned n = 0; n < BOX_RW_SIZE; n += 8)
        store_u64(c->memory + n, rng_next(r));
    c->uses_vector = touches_vectors(&c->insn);
    if (c->uses_vector)
        random_vectors(&c->start.fpu, r);
    if (rng_chance(r, c->uses_vector ? 15 : 4))
        c->start.rflags |= X86_FLAG_AC;
}

bool generate_case(struct test_case *c, uint64_t seed, const struct selection *what)
{
    struct rng r = {seed * UINT64_C(0x9E3779B97F4A7C15) | 1};
    struct builder b;
    (void)rng_next(&r);
    c->seed = seed;
    c->mode = what->mode;
    if (!make_bytes(c, &r, what, &b))
        return false;
    random_state(c, &r);
    uint64_t target = random_target(&r);
    if (c->insn.flags & INSN_MEM)
        aim(c, &r, &b, target);
    enum insn_group group = insn_op_group((enum insn_op)c->insn.op);
    if (prepare[group])
        prepare[group](c, &r, &b, target);
    if (c->mode == INSN_MODE_32) {
        for (unsigned n = 0; n < 16; n++)
            c->start.gpr[n] = n < 8 ? (uint32_t)c->start.gpr[n] : 0;
    }
    memcpy(c->bytes, b.bytes, c->length);
    /* the bytes were patched: take what they say now. A prefix or escape where the opcode was meant
     * to be may have made another instruction out of them. */
    uint16_t op = c->insn.op;
    if (insn_decode(&c->insn, c->bytes, c->length, c->mode) != INSN_DECODE_OK)
        return false;
    return c->insn.length == c->length && c->insn.op == op && !branches_into_itself(&c->insn);
}
