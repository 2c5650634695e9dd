/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The decoder against Zydis (a test dependency only): the same bytes to both, in three modes.
 *
 * First a sweep of every opcode of every map, legacy and VEX, with each mandatory prefix and each
 * value of modrm.reg, in memory and register form, all else random; then instructions with random
 * prefixes. Compared are validity, length, operation, operand sizes, registers, the memory operand,
 * immediates, LOCK and REP, the feature; of SIMD instructions what they read and write
 * (decoder_zydis_simd.h). Where the two may differ it is on a list (decoder_zydis.h), each with its
 * reason and a sample that must still differ.
 *
 *   decoder_zydis [SEED [COUNT]]
 *
 * COUNT is that of random instructions of each of two seeds: one fixed, the other SEED or a random
 * one, which is printed. LODGE_DECODER_COUNT in the environment does the same as COUNT.
 */
#include "tests/unit/decoder_zydis.h"
#include "tests/unit/decoder_zydis_ops.h"
#include "tests/unit/decoder_zydis_simd.h"

#include "isa/x86.h"
#include "tests/lib/unit.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { FIXED_SEED = 1, DEFAULT_COUNT = 300000, MAX_REPORTS = 200 };

struct rng {
    uint64_t state;
};

/* splitmix64 */
static uint64_t rng_next(struct rng *r)
{
    uint64_t z = r->state += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
}

static uint32_t rng_below(struct rng *r, uint32_t n)
{
    return (uint32_t)((rng_next(r) >> 32) * n >> 32);
}

struct kind {
    const char *what;
    uint16_t op;
    ZydisMnemonic mnemonic;
};

struct test {
    ZydisDecoder decoder[3];
    struct mnemonic mnemonic[ZYDIS_MNEMONIC_MAX_VALUE + 1];
    uint64_t compared, valid, reported;
    struct kind kind[MAX_REPORTS];
    unsigned int kinds;
    uint64_t excepted[sizeof(exceptions) / sizeof(exceptions[0])];
};

/* --- operands ----------------------------------------------------------------------------------
 */

/* A general register's number as struct insn has it. */
static uint8_t gpr_number(ZydisRegister reg)
{
    if (reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_BL)
        return (uint8_t)(reg - ZYDIS_REGISTER_AL);
    if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
        return (uint8_t)(reg - ZYDIS_REGISTER_AH + 16);
    if (reg >= ZYDIS_REGISTER_SPL && reg <= ZYDIS_REGISTER_R15B)
        return (uint8_t)(reg - ZYDIS_REGISTER_SPL + RSP);
    return reg == ZYDIS_REGISTER_NONE ? INSN_NO_REG : (uint8_t)ZydisRegisterGetId(reg);
}

static bool is_simd(const struct pair *p)
{
    return p->ours.op == INSN_SIMD || p->ours.op == INSN_X87;
}

/* Is the operand's size the operand size (not that of a structure, or of nothing at all)? */
static bool has_plain_size(const struct pair *p)
{
    switch (insn_op_group((enum insn_op)p->ours.op)) {
    case INSN_GROUP_ALU:
    case INSN_GROUP_SHIFT:
    case INSN_GROUP_BIT:
    case INSN_GROUP_MUL:
    case INSN_GROUP_STACK:
    case INSN_GROUP_BRANCH:
        return true;
    case INSN_GROUP_MOV:
        return p->ours.op != INSN_LEA && p->ours.op != INSN_NOP;
    case INSN_GROUP_ATOMIC:
        return p->ours.op == INSN_XADD || p->ours.op == INSN_CMPXCHG;
    case INSN_GROUP_STRING:
    case INSN_GROUP_IO:
    case INSN_GROUP_SEG:
    case INSN_GROUP_CONTROL:
    case INSN_GROUP_SYSTEM:
    case INSN_GROUP_FPSTATE:
    case INSN_GROUP_X87:
    case INSN_GROUP_SIMD:
    case INSN_GROUP_COUNT:
        break;
    }
    return false;
}

static const char *compare_register(const struct pair *p, const ZydisDecodedOperand *o)
{
    uint8_t number = gpr_number(o->reg.value);
    ZydisRegisterClass kind = ZydisRegisterGetClass(o->reg.value);
    bool general = kind >= ZYDIS_REGCLASS_GPR8 && kind <= ZYDIS_REGCLASS_GPR64;
    unsigned int size = p->ours.opsize;
    const char *what = NULL;

    if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG) {
        what = number == p->ours.reg ? NULL : "reg";
    } else if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ||
               o->encoding == ZYDIS_OPERAND_ENCODING_OPCODE) {
        what = number == p->ours.rm && !(p->ours.flags & INSN_MEM) ? NULL : "rm";
        size = p->ours.srcsize;
    } else if (o->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD) {
        what = number == p->ours.vvvv ? NULL : "vvvv";
    } else {
        return NULL;
    }
    if (what)
        return what;
    return general && has_plain_size(p) && o->size != size * 8 ? "register's size" : NULL;
}

static uint64_t cut(uint64_t v, unsigned int bytes)
{
    return bytes >= 8 ? v : v & (((uint64_t)1 << (8 * bytes)) - 1);
}

static const char *compare_memory(const struct pair *p, const ZydisDecodedOperand *o)
{
    const struct insn *i = &p->ours;
    if (o->mem.type == ZYDIS_MEMOP_TYPE_INVALID || o->encoding == ZYDIS_OPERAND_ENCODING_NONE)
        return NULL;
    if (!(i->flags & INSN_MEM))
        return "memory form";
    bool lea = o->mem.type == ZYDIS_MEMOP_TYPE_AGEN;
    if (!lea && ZydisRegisterGetId(o->mem.segment) != i->seg)
        return "segment";
    if (has_plain_size(p) && o->size != i->srcsize * 8)
        return "memory operand's size";
    if (i->flags & INSN_MOFFS)
        return cut((uint64_t)o->mem.disp.value, i->addrsize) == i->imm ? NULL : "moffs address";
    bool riprel = o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP;
    if (riprel != !!(i->flags & INSN_RIPREL))
        return "RIP-relative";
    if ((riprel ? INSN_NO_REG : gpr_number(o->mem.base)) != i->base)
        return "base";
    if (gpr_number(o->mem.index) != i->index)
        return "index";
    if (i->index != INSN_NO_REG && o->mem.scale != 1 << i->scale)
        return "scale";
    if (o->mem.disp.has_displacement && (uint64_t)o->mem.disp.value != (uint64_t)(int64_t)i->disp)
        return "displacement";
    return NULL;
}

static const char *compare_immediates(const struct pair *p)
{
    const ZydisDecodedOperand *first = NULL, *second = NULL;
    for (unsigned int n = 0; n < p->z.operand_count_visible; n++) {
        if (p->operand[n].type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
            continue;
        if (first)
            second = &p->operand[n];
        else
            first = &p->operand[n];
    }
    if (!first || first->encoding == ZYDIS_OPERAND_ENCODING_IS4)
        return NULL;
    uint64_t value = first->imm.value.u;
    if (first->imm.is_signed && !first->imm.is_relative)
        value = cut(value, p->ours.opsize);
    if (value != p->ours.imm)
        return "immediate";
    return second && second->imm.value.u != p->ours.imm2 ? "second immediate" : NULL;
}

/* Strings: size and the segment that a prefix may change. */
static const char *compare_string(const struct pair *p)
{
    for (unsigned int n = 0; n < p->z.operand_count; n++) {
        const ZydisDecodedOperand *o = &p->operand[n];
        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        if (o->size != p->ours.opsize * 8)
            return "string's size";
        bool source = gpr_number(o->mem.base) == RSI;
        if (source && ZydisRegisterGetId(o->mem.segment) != p->ours.seg)
            return "string's segment";
    }
    return NULL;
}

static const char *compare_operand(const struct pair *p, const ZydisDecodedOperand *o)
{
    switch (o->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        return is_simd(p) ? NULL : compare_register(p, o);
    case ZYDIS_OPERAND_TYPE_MEMORY:
        return compare_memory(p, o);
    case ZYDIS_OPERAND_TYPE_POINTER:
        return o->ptr.offset == p->ours.imm && o->ptr.segment == p->ours.imm2 ? NULL : "pointer";
    case ZYDIS_OPERAND_TYPE_UNUSED:
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        break;
    }
    return NULL;
}

static const char *compare_operands(const struct pair *p)
{
    const char *what = NULL;
    for (unsigned int n = 0; n < p->z.operand_count && !what; n++)
        what = compare_operand(p, &p->operand[n]);
    if (!what)
        what = compare_immediates(p);
    if (!what && insn_op_group((enum insn_op)p->ours.op) == INSN_GROUP_STRING)
        what = compare_string(p);
    return what;
}

static const char *compare_flags(const struct pair *p)
{
    const uint64_t repe = ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE;
    if (!!(p->z.attributes & ZYDIS_ATTRIB_HAS_LOCK) != !!(p->ours.flags & INSN_LOCK))
        return "LOCK";
    if (!!(p->z.attributes & repe) != !!(p->ours.flags & INSN_REPE))
        return "REPE";
    if (!!(p->z.attributes & ZYDIS_ATTRIB_HAS_REPNE) != !!(p->ours.flags & INSN_REPNE))
        return "REPNE";
    return NULL;
}

/* Far, near; relative, indirect. */
static const char *compare_branch(const struct pair *p)
{
    enum insn_op op = (enum insn_op)p->ours.op;
    bool far = op == INSN_JMP_FAR || op == INSN_JMP_FAR_RM || op == INSN_CALL_FAR ||
               op == INSN_CALL_FAR_RM || op == INSN_RET_FAR;
    enum insn_group group = insn_op_group(op);
    if (!far && group != INSN_GROUP_BRANCH)
        return NULL;
    if (far != (p->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR))
        return "branch type";
    return p->z.operand_width != p->ours.opsize * 8 ? "branch's operand size" : NULL;
}

/* What differs, or NULL. */
static const char *compare(const struct test *t, const struct pair *p)
{
    bool valid = p->ours.op != INSN_INVALID;
    if (valid != p->z_valid)
        return valid ? "Zydis: not an instruction" : "ours: not an instruction";
    if (!valid)
        return NULL;
    const char *what = compare_flags(p);
    if (p->ours.length != p->z.length)
        what = "length";
    else if (op_class((enum insn_op)p->ours.op) != expected_op(t->mnemonic, p))
        what = "operation";
    else if (p->ours.op == INSN_JCC || p->ours.op == INSN_SETCC || p->ours.op == INSN_CMOVCC)
        what = t->mnemonic[p->z.mnemonic].condition != (p->ours.opcode & 15) ? "condition" : what;
    if (!what && p->ours.addrsize * 8 != p->z.address_width)
        what = "address size";
    if (!what)
        what = compare_branch(p);
    if (!what)
        what = compare_operands(p);
    if (!what)
        what = compare_feature(p);
    if (!what && p->ours.op == INSN_SIMD)
        what = compare_simd(p);
    return what;
}

/* --- running -----------------------------------------------------------------------------------
 */

/* One report for each operation and kind of difference is enough. */
static bool is_new_kind(struct test *t, const struct pair *p, const char *what)
{
    struct kind kind = {what, p->ours.op, p->z_valid ? p->z.mnemonic : ZYDIS_MNEMONIC_INVALID};
    for (unsigned int n = 0; n < t->kinds; n++)
        if (t->kind[n].what == kind.what && t->kind[n].op == kind.op &&
            t->kind[n].mnemonic == kind.mnemonic)
            return false;
    if (t->kinds == MAX_REPORTS)
        return false;
    t->kind[t->kinds++] = kind;
    return true;
}

static void report(struct test *t, const struct pair *p, const char *what)
{
    char text[64] = "";
    for (unsigned int n = 0; n < 15; n++)
        snprintf(text + 3 * n, sizeof(text) - 3 * n, " %02x", p->bytes[n]);
    t->reported++;
    if (is_new_kind(t, p, what)) {
        unit_context("%d-bit%s: ours %s.%u/%u feature %u length %u, Zydis %s%s length %u",
                     16 << p->mode, text, insn_op_name((enum insn_op)p->ours.op), p->ours.opsize,
                     p->ours.srcsize, p->ours.feature, p->ours.length, p->z_valid ? "" : "no ",
                     p->z_valid ? ZydisMnemonicGetString(p->z.mnemonic) : "instruction",
                     p->z_valid ? p->z.length : 0);
        unit_fail(__FILE__, __LINE__, what);
        unit_context(NULL);
    }
}

static void run_one(struct test *t, struct pair *p)
{
    const char *what;
    int status = insn_decode(&p->ours, p->bytes, sizeof(p->bytes), p->mode);
    ZyanStatus z_status =
        ZydisDecoderDecodeFull(&t->decoder[p->mode], p->bytes, sizeof(p->bytes), &p->z, p->operand);
    p->z_valid = ZYAN_SUCCESS(z_status);
    t->compared++;
    if (status == INSN_DECODE_TOO_LONG)
        what = z_status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG || !p->z_valid ? NULL : "too long";
    else if (status != INSN_DECODE_OK)
        what = "status";
    else
        what = compare(t, p);
    t->valid += p->z_valid;
    if (!what)
        return;
    for (size_t n = 0; n < sizeof(exceptions) / sizeof(exceptions[0]); n++) {
        if (exceptions[n].applies(p)) {
            t->excepted[n]++;
            return;
        }
    }
    report(t, p, what);
}

static void fill(struct rng *r, struct pair *p, unsigned int from)
{
    uint64_t v = 0;
    for (unsigned int n = from; n < sizeof(p->bytes); n++, v >>= 8) {
        if (v == 0)
            v = rng_next(r);
        p->bytes[n] = (uint8_t)v;
    }
}

static unsigned int put_escape(struct pair *p, unsigned int n, unsigned int map)
{
    if (map >= 1)
        p->bytes[n++] = 0x0F;
    if (map >= 2)
        p->bytes[n++] = map == 2 ? 0x38 : 0x3A;
    return n;
}

/* All of modrm.reg, in memory and register form. */
static void sweep_modrm(struct test *t, struct rng *r, struct pair *p, unsigned int at)
{
    for (unsigned int reg = 0; reg < 16; reg++) {
        fill(r, p, at);
        uint8_t mod = (uint8_t)(reg & 8 ? 0xC0 : p->bytes[at] & 0xC0);
        p->bytes[at] = (uint8_t)(mod | (reg & 7) << 3 | (p->bytes[at] & 7));
        run_one(t, p);
    }
}

static void sweep_legacy(struct test *t, struct rng *r)
{
    static const char *const prefixes[] = {"",     "\x66",     "\xf3",     "\xf2",
                                           "\xf0", "\x66\xf3", "\x66\xf2", "\x48"};
    struct pair p;
    for (int mode = INSN_MODE_16; mode <= INSN_MODE_64; mode++)
        for (size_t k = 0; k < sizeof(prefixes) / sizeof(prefixes[0]); k++)
            for (unsigned int opcode = 0; opcode < 4 * 256; opcode++) {
                p.mode = (enum insn_mode)mode;
                unsigned int n = (unsigned int)strlen(prefixes[k]);
                memcpy(p.bytes, prefixes[k], n);
                n = put_escape(&p, n, opcode >> 8);
                p.bytes[n++] = (uint8_t)opcode;
                sweep_modrm(t, r, &p, n);
            }
}

static void sweep_vex(struct test *t, struct rng *r)
{
    struct pair p;
    for (int mode = INSN_MODE_16; mode <= INSN_MODE_64; mode++)
        for (unsigned int fields = 0; fields < 16; fields++) /* W, L, pp */
            for (unsigned int opcode = 256; opcode < 4 * 256; opcode++) {
                uint64_t bits = rng_next(r);
                uint8_t vvvv = bits & 1 ? 0x78 : (uint8_t)(bits >> 1) & 0x78;
                p.mode = (enum insn_mode)mode;
                p.bytes[0] = 0xC4;
                p.bytes[1] = (uint8_t)((bits >> 8 & 0x20) | 0xC0 | opcode >> 8);
                p.bytes[2] = (uint8_t)((fields & 8) << 4 | vvvv | (fields & 7));
                p.bytes[3] = (uint8_t)opcode;
                if (mode == INSN_MODE_64)
                    p.bytes[1] ^= (uint8_t)(bits >> 16) & 0xC0;
                sweep_modrm(t, r, &p, 4);
            }
}

/* Any prefixes before any opcode. */
static void run_random(struct test *t, struct rng *r)
{
    static const uint8_t prefixes[] = {0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66,
                                       0x67, 0xF0, 0xF2, 0xF3, 0x40, 0x48};
    struct pair p;
    p.mode = (enum insn_mode)rng_below(r, 3);
    fill(r, &p, 0);
    unsigned int n = 0, count = rng_below(r, 5);
    if (rng_below(r, 64) == 0)
        count = rng_below(r, 15);
    while (n < count) {
        uint8_t prefix = prefixes[rng_below(r, sizeof(prefixes))];
        p.bytes[n++] = prefix < 0x40 || prefix > 0x48 ? prefix : prefix ^ (rng_next(r) & 7);
    }
    if (rng_below(r, 4) == 0) {
        p.bytes[n++] = rng_below(r, 2) ? 0xC4 : 0xC5;
        if (p.bytes[n - 1] == 0xC4)
            p.bytes[n] = (uint8_t)((p.bytes[n] & 0xE0) | rng_below(r, 4));
    } else {
        n = put_escape(&p, n, rng_below(r, 4));
    }
    run_one(t, &p);
}

static void start(struct test *t)
{
    static const ZydisMachineMode modes[3] = {
        ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_MACHINE_MODE_LONG_64};
    static const ZydisStackWidth widths[3] = {ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32,
                                              ZYDIS_STACK_WIDTH_64};
    /* on processors without these they are hint NOPs, or their prefix is ignored */
    static const ZydisDecoderMode off[] = {ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET,
                                           ZYDIS_DECODER_MODE_CLDEMOTE,
                                           ZYDIS_DECODER_MODE_WBNOINVD};
    for (int m = 0; m < 3; m++) {
        CHECK(ZYAN_SUCCESS(ZydisDecoderInit(&t->decoder[m], modes[m], widths[m])));
        for (size_t n = 0; n < sizeof(off) / sizeof(off[0]); n++)
            CHECK(ZYAN_SUCCESS(ZydisDecoderEnableMode(&t->decoder[m], off[n], false)));
    }
    for (unsigned int m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++)
        map_mnemonic(&t->mnemonic[m], ZydisMnemonicGetString((ZydisMnemonic)m));
}

static void finish(const struct test *t)
{
    printf("# %" PRIu64 " compared, %" PRIu64 " of them instructions; %" PRIu64 " differences\n",
           t->compared, t->valid, t->reported);
    for (size_t n = 0; n < sizeof(exceptions) / sizeof(exceptions[0]); n++) {
        printf("# excepted %" PRIu64 ": %s\n", t->excepted[n], exceptions[n].because);
    }
    CHECK(t->valid > t->compared / 8);
    CHECK_EQ(t->reported, 0);
}

/* Each exception is still needed. */
static void run_samples(struct test *t)
{
    for (size_t n = 0; n < sizeof(exceptions) / sizeof(exceptions[0]); n++) {
        struct pair p = {.mode = INSN_MODE_64};
        uint64_t before = t->excepted[n];
        memcpy(p.bytes, exceptions[n].sample, sizeof(exceptions[n].sample));
        run_one(t, &p);
        unit_context("%s", exceptions[n].because);
        CHECK(t->excepted[n] > before);
        unit_context(NULL);
    }
}

static uint64_t option_seed, option_count;

static void test_against_zydis(void)
{
    struct test *t = calloc(1, sizeof(*t));
    if (!t)
        abort();
    start(t);
    struct rng fixed = {FIXED_SEED}, random = {option_seed};
    run_samples(t);
    sweep_legacy(t, &fixed);
    sweep_vex(t, &fixed);
    for (uint64_t n = 0; n < option_count; n++) {
        run_random(t, &fixed);
        run_random(t, &random);
    }
    finish(t);
    free(t);
}

int main(int argc, char **argv)
{
    const char *count = argc > 2 ? argv[2] : getenv("LODGE_DECODER_COUNT");
    option_seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
    option_count = count ? strtoull(count, NULL, 0) : DEFAULT_COUNT;
    printf("# seed %" PRIu64 ", count %" PRIu64 "\n", option_seed, option_count);
    UNIT_RUN(test_against_zydis);
    return unit_done();
}
