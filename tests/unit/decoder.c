/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The decoder's quirks, by table: bytes and what they mean, in a short text form:
 *
 *   NAME.opsize[/srcsize] [operands, destination first] [imm ...] [flags]
 *
 * Registers are numbers (r16 to r19: AH CH DH BH), memory is seg:[base+index*scale+disp]aN with N
 * the address size. The length must be that of the bytes, but for invalid encodings. What a table
 * of this kind cannot say is in decoder_rules.c; the broad comparison is decoder_zydis.c.
 */
#include "isa/insn.h"
#include "tests/lib/unit.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_BYTES = 32, TEXT_SIZE = 256 };

struct text {
    char s[TEXT_SIZE];
    size_t used;
};

__attribute__((format(printf, 2, 3))) static void put(struct text *t, const char *format, ...)
{
    __builtin_va_list args;
    __builtin_va_start(args, format);
    int n = vsnprintf(t->s + t->used, sizeof(t->s) - t->used, format, args);
    __builtin_va_end(args);
    if (n > 0 && t->used + (size_t)n < sizeof(t->s))
        t->used += (size_t)n;
}

static void put_memory(struct text *t, const struct insn *i)
{
    static const char *const segments[SEG_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs"};
    put(t, " %s:[", i->seg < SEG_COUNT ? segments[i->seg] : "?");
    if (i->flags & INSN_MOFFS)
        put(t, "+%#" PRIx64, i->imm);
    if (i->flags & INSN_RIPREL)
        put(t, "+rip");
    if (i->base != INSN_NO_REG)
        put(t, "+r%u", i->base);
    if (i->index != INSN_NO_REG)
        put(t, "+r%u*%u", i->index, 1U << i->scale);
    if (i->disp != 0)
        put(t, i->disp < 0 ? "-%#x" : "+%#x", abs(i->disp));
    put(t, "]a%u", i->addrsize);
}

static void put_rm(struct text *t, const struct insn *i)
{
    if (i->flags & INSN_MEM)
        put_memory(t, i);
    else
        put(t, " r%u", i->rm);
}

static void put_operands(struct text *t, const struct insn *i)
{
    /* for each form, in order: R reg, M rm, V vvvv, C CL, I imm */
    static const char *const orders[] = {
        [INSN_FORM_NONE] = "",           [INSN_FORM_RM] = "M",
        [INSN_FORM_RM_REG] = "MR",       [INSN_FORM_REG_RM] = "RM",
        [INSN_FORM_RM_IMM] = "MI",       [INSN_FORM_REG_RM_IMM] = "RMI",
        [INSN_FORM_RM_CL] = "MC",        [INSN_FORM_RM_REG_IMM] = "MRI",
        [INSN_FORM_RM_REG_CL] = "MRC",   [INSN_FORM_REG_VVVV_RM] = "RVM",
        [INSN_FORM_REG_RM_VVVV] = "RMV", [INSN_FORM_VVVV_RM] = "VM",
        [INSN_FORM_IMM] = "I",
    };
    for (const char *c = orders[i->form]; *c; c++) {
        if (*c == 'R')
            put(t, " r%u", i->reg);
        else if (*c == 'M')
            put_rm(t, i);
        else if (*c == 'V')
            put(t, " r%u", i->vvvv);
        else if (*c == 'C')
            put(t, " cl");
        else
            put(t, " %#" PRIx64, i->imm);
    }
    if (i->op == INSN_PUSH_SEG || i->op == INSN_POP_SEG)
        put(t, " r%u", i->reg);
    if (i->imm2 != 0)
        put(t, " imm2=%#x", i->imm2);
}

static const char *describe(struct text *t, const struct insn *i)
{
    t->used = 0;
    t->s[0] = 0;
    put(t, "%s", insn_op_name((enum insn_op)i->op));
    if (i->op == INSN_INVALID)
        return t->s;
    put(t, ".%u", i->opsize);
    if (i->srcsize != i->opsize)
        put(t, "/%u", i->srcsize);
    put_operands(t, i);
    static const struct {
        uint16_t flag;
        const char *name;
    } flags[] = {
        {INSN_LOCK, "lock"},
        {INSN_REPE, "repe"},
        {INSN_REPNE, "repne"},
        {INSN_ENDS, "ends"},
    };
    for (size_t n = 0; n < sizeof(flags) / sizeof(flags[0]); n++)
        if (i->flags & flags[n].flag)
            put(t, " %s", flags[n].name);
    return t->s;
}

static size_t parse_hex(const char *hex, uint8_t *bytes)
{
    size_t n = 0;
    char *end;
    while (*hex && n < MAX_BYTES) {
        bytes[n++] = (uint8_t)strtoul(hex, &end, 16);
        for (hex = end; *hex == ' '; hex++)
            ;
    }
    return n;
}

struct encoding {
    int mode; /* 16, 32, 64; 0: all three */
    const char *bytes, *text;
};

static void check_encoding(const struct encoding *e, enum insn_mode mode)
{
    uint8_t bytes[MAX_BYTES];
    struct insn i;
    struct text t;
    size_t n = parse_hex(e->bytes, bytes);

    unit_context("mode %d: %s", 16 << mode, e->bytes);
    CHECK_EQ(insn_decode(&i, bytes, n, mode), INSN_DECODE_OK);
    CHECK_STR(describe(&t, &i), e->text);
    if (i.op == INSN_INVALID)
        CHECK(i.length <= n && i.length > 0 && (i.flags & INSN_ENDS));
    else
        CHECK_EQ(i.length, n);
    unit_context(NULL);
}

static void check_table(const struct encoding *table, size_t count)
{
    for (size_t n = 0; n < count; n++)
        for (int mode = INSN_MODE_16; mode <= INSN_MODE_64; mode++)
            if (table[n].mode == 0 || table[n].mode == 16 << mode)
                check_encoding(&table[n], (enum insn_mode)mode);
}
#define CHECK_TABLE(t) check_table(t, sizeof(t) / sizeof((t)[0]))

static void test_alu_forms(void)
{
    static const struct encoding table[] = {
        {0, "00 d8", "ADD.1 r0 r3"},
        {0, "00 e3", "ADD.1 r3 r16"},
        {0, "02 e3", "ADD.1 r16 r3"},
        {64, "40 00 e3", "ADD.1 r3 r4"},
        {64, "45 00 e3", "ADD.1 r11 r12"},
        {64, "48 01 d8", "ADD.8 r0 r3"},
        {32, "01 d8", "ADD.4 r0 r3"},
        {32, "66 01 d8", "ADD.2 r0 r3"},
        {16, "01 d8", "ADD.2 r0 r3"},
        {16, "66 01 d8", "ADD.4 r0 r3"},
        {64, "66 48 01 d8", "ADD.8 r0 r3"},
        {0, "04 80", "ADD.1 r0 0x80"},
        {64, "48 05 00 00 00 80", "ADD.8 r0 0xffffffff80000000"},
        {64, "05 00 00 00 80", "ADD.4 r0 0x80000000"},
        {64, "66 05 00 80", "ADD.2 r0 0x8000"},
        {64, "83 c0 ff", "ADD.4 r0 0xffffffff"},
        {64, "66 83 c0 ff", "ADD.2 r0 0xffff"},
        {64, "48 83 f8 ff", "CMP.8 r0 0xffffffffffffffff"},
        {0, "80 fc 7f", "CMP.1 r16 0x7f"},
        {32, "82 c0 01", "ADD.1 r0 0x1"},
        {64, "82 c0 01", "INVALID"},
        {0, "a8 80", "TEST.1 r0 0x80"},
        {32, "f7 c8 01 00 00 00", "TEST.4 r0 0x1"},
        {0, "f6 c4 01", "TEST.1 r16 0x1"},
        {32, "f7 d8", "NEG.4 r0"},
        {32, "f7 f9", "IDIV.4 r1"},
        {32, "41", "INC.4 r1"},
        {16, "4f", "DEC.2 r7"},
        {0, "fe c7", "INC.1 r19"},
        {0, "fe d0", "INVALID"},
        {0, "d0 e0", "SHL.1 r0 0x1"},
        {0, "d2 fc", "SAR.1 r16 cl"},
        {64, "48 c1 f0 ff", "SAL.8 r0 0xff"},
        {64, "6b c1 ff", "IMUL2.4 r0 r1 0xffffffff"},
        {64, "48 69 c1 00 00 00 80", "IMUL2.8 r0 r1 0xffffffff80000000"},
        {64, "0f a4 c8 1f", "SHLD.4 r0 r1 0x1f"},
        {64, "0f ad c8", "SHRD.4 r0 r1 cl"},
        {64, "0f ba e0 ff", "BT.4 r0 0xff"},
        {64, "0f ba c0 ff", "INVALID"},
        {64, "48 0f bb c8", "BTC.8 r0 r1"},
        {32, "27", "DAA.1"},
        {64, "27", "INVALID"},
        {32, "d4 0a", "AAM.1 0xa"},
        {64, "d4 0a", "INVALID"},
        {16, "d6", "SALC.1"},
        {64, "d6", "INVALID"},
    };
    CHECK_TABLE(table);
}

static void test_moves(void)
{
    static const struct encoding table[] = {
        {64, "b4 12", "MOV.1 r16 0x12"},
        {64, "40 b4 12", "MOV.1 r4 0x12"},
        {64, "41 b4 12", "MOV.1 r12 0x12"},
        {64, "48 b8 88 77 66 55 44 33 22 81", "MOV.8 r0 0x8122334455667788"},
        {64, "b8 78 56 34 82", "MOV.4 r0 0x82345678"},
        {64, "66 b8 78 86", "MOV.2 r0 0x8678"},
        {64, "48 c7 c0 00 00 00 80", "MOV.8 r0 0xffffffff80000000"},
        {64, "c7 c8 00 00 00 00", "INVALID"},
        {64, "c7 f8 00 00 00 00", "INVALID"}, /* XBEGIN */
        {64, "a0 88 77 66 55 44 33 22 11", "MOV.1 r0 ds:[+0x1122334455667788]a8"},
        {64, "67 a1 44 33 22 11", "MOV.4 r0 ds:[+0x11223344]a4"},
        {64, "64 48 a3 10 00 00 00 00 00 00 00", "MOV.8 fs:[+0x10]a8 r0"},
        {32, "a3 10 00 00 80", "MOV.4 ds:[+0x80000010]a4 r0"},
        {16, "2e a1 34 92", "MOV.2 r0 cs:[+0x9234]a2"},
        {64, "0f b6 c4", "MOVZX.4/1 r0 r16"},
        {64, "48 0f b6 c4", "MOVZX.8/1 r0 r4"},
        {64, "66 0f b7 c1", "MOVZX.2 r0 r1"},
        {64, "48 0f bf c1", "MOVSX.8/2 r0 r1"},
        {64, "48 63 c1", "MOVSX.8/4 r0 r1"},
        {64, "63 c1", "MOVSX.4 r0 r1"},
        {64, "66 63 c1", "MOVSX.2 r0 r1"},
        {32, "63 c1", "ARPL.2 r1 r0"},
        {64, "8d 04 8b", "LEA.4 r0 ds:[+r3+r1*4]a8"},
        {64, "8d c0", "INVALID"},
        {64, "90", "NOP.4"},
        {64, "66 90", "NOP.2"},
        {64, "48 90", "NOP.8"},
        {64, "f3 90", "PAUSE.4 ends"},
        {64, "f2 90", "NOP.4"},
        {64, "41 90", "XCHG.4 r8 r0"},
        {64, "f3 41 90", "XCHG.4 r8 r0"},
        {64, "48 91", "XCHG.8 r1 r0"},
        {16, "97", "XCHG.2 r7 r0"},
        {64, "48 0f c9", "BSWAP.8 r1"},
        {64, "41 0f c8", "BSWAP.4 r8"},
        {64, "0f 94 c4", "SETCC.1 r16"},
        {64, "40 0f 94 c4", "SETCC.1 r4"},
        {64, "0f 45 c1", "CMOVCC.4 r0 r1"},
        {64, "48 98", "CBW.8"},
        {64, "66 99", "CWD.2"},
        {64, "48 0f c3 03", "MOVNTI.8 ds:[+r3]a8 r0"},
        {64, "0f c3 c3", "INVALID"},
        {64, "66 0f c3 03", "INVALID"},
        {64, "0f 38 f0 03", "MOVBE.4 r0 ds:[+r3]a8"},
        {64, "66 0f 38 f1 03", "MOVBE.2 ds:[+r3]a8 r0"},
        {64, "0f 38 f0 c3", "INVALID"},
        {64, "f2 0f 38 f0 c4", "CRC32.4/1 r0 r16"},
        {64, "f2 48 0f 38 f0 c4", "CRC32.8/1 r0 r4"},
        {64, "f2 0f 38 f1 c4", "CRC32.4 r0 r4"},
        {64, "66 f2 0f 38 f1 c4", "CRC32.4/2 r0 r4"},
        {64, "f2 48 0f 38 f1 c4", "CRC32.8 r0 r4"},
        {64, "f3 0f 38 f0 c4", "INVALID"},
    };
    CHECK_TABLE(table);
}

static void test_memory_operands(void)
{
    static const struct encoding table[] = {
        {64, "8b 05 fc ff ff ff", "MOV.4 r0 ds:[+rip-0x4]a8"},
        {64, "67 8b 05 04 00 00 00", "MOV.4 r0 ds:[+rip+0x4]a4"},
        {64, "41 8b 05 04 00 00 00", "MOV.4 r0 ds:[+rip+0x4]a8"},
        {32, "8b 05 04 00 00 80", "MOV.4 r0 ds:[-0x7ffffffc]a4"},
        {64, "8b 04 25 04 00 00 00", "MOV.4 r0 ds:[+0x4]a8"},
        {64, "8b 04 24", "MOV.4 r0 ss:[+r4]a8"},
        {64, "41 8b 04 24", "MOV.4 r0 ds:[+r12]a8"},
        {64, "42 8b 04 24", "MOV.4 r0 ss:[+r4+r12*1]a8"},
        {64, "8b 45 80", "MOV.4 r0 ss:[+r5-0x80]a8"},
        {64, "41 8b 45 00", "MOV.4 r0 ds:[+r13]a8"},
        {64, "8b 44 e5 10", "MOV.4 r0 ss:[+r5+0x10]a8"},
        {64, "41 8b 04 ed 10 00 00 00", "MOV.4 r0 ds:[+r5*8+0x10]a8"},
        {64, "65 8b 45 00", "MOV.4 r0 gs:[+r5]a8"},
        {64, "3e 8b 45 00", "MOV.4 r0 ss:[+r5]a8"},
        {64, "64 2e 8b 45 00", "MOV.4 r0 fs:[+r5]a8"},
        {32, "64 2e 8b 45 00", "MOV.4 r0 cs:[+r5]a4"},
        {32, "67 8b 00", "MOV.4 r0 ds:[+r3+r6*1]a2"},
        {16, "8b 02", "MOV.2 r0 ss:[+r5+r6*1]a2"},
        {16, "8b 46 ff", "MOV.2 r0 ss:[+r5-0x1]a2"},
        {16, "8b 06 34 12", "MOV.2 r0 ds:[+0x1234]a2"},
        {16, "8b 87 34 12", "MOV.2 r0 ds:[+r3+0x1234]a2"},
        {16, "67 8b 44 8b 10", "MOV.2 r0 ds:[+r3+r1*4+0x10]a4"},
        {16, "67 8b 05 04 00 00 00", "MOV.2 r0 ds:[+0x4]a4"},
    };
    CHECK_TABLE(table);
}

static void test_stack_and_branches(void)
{
    static const struct encoding table[] = {
        {64, "50", "PUSH.8 r0"},
        {64, "66 50", "PUSH.2 r0"},
        {64, "41 5f", "POP.8 r15"},
        {16, "66 50", "PUSH.4 r0"},
        {64, "6a 80", "PUSH.8 0xffffffffffffff80"},
        {64, "68 00 00 00 80", "PUSH.8 0xffffffff80000000"},
        {64, "66 68 00 80", "PUSH.2 0x8000"},
        {32, "6a 80", "PUSH.4 0xffffff80"},
        {64, "ff 30", "PUSH.8 ds:[+r0]a8"},
        {64, "8f 00", "POP.8 ds:[+r0]a8"},
        {64, "8f e8 00 00", "INVALID"},
        {64, "9d", "POPF.8 ends"},
        {64, "c8 10 00 1f", "ENTER.8 0x10 imm2=0x1f"},
        {32, "60", "PUSHA.4"},
        {64, "60", "INVALID"},
        {32, "06", "PUSH_SEG.4 r0"},
        {64, "06", "INVALID"},
        {16, "17", "POP_SEG.2 r2 ends"},
        {64, "0f a1", "POP_SEG.8 r4"},
        {32, "0f a9", "POP_SEG.4 r5 ends"},
        {64, "74 fe", "JCC.8 0xfffffffffffffffe ends"},
        {64, "66 0f 84 00 00 00 80", "JCC.8 0xffffffff80000000 ends"},
        {32, "66 0f 84 00 80", "JCC.2 0xffffffffffff8000 ends"},
        {16, "e8 fd ff", "CALL.2 0xfffffffffffffffd ends"},
        {64, "66 e9 01 00 00 00", "JMP.8 0x1 ends"},
        {64, "66 ff e0", "JMP_RM.8 r0 ends"},
        {32, "66 ff e0", "JMP_RM.2 r0 ends"},
        {64, "66 c3", "RET.8 ends"},
        {64, "f3 c3", "RET.8 ends"},
        {64, "c2 08 00", "RET.8 0x8 ends"},
        {64, "67 e3 00", "JCXZ.8 0 ends"},
        {64, "ff 18", "CALL_FAR_RM.4 ds:[+r0]a8 ends"},
        {64, "48 ff 28", "JMP_FAR_RM.8 ds:[+r0]a8 ends"},
        {64, "ff d8", "INVALID"},
        {64, "ff f8", "INVALID"},
        {32, "ea 78 56 34 12 08 00", "JMP_FAR.4 0x12345678 imm2=0x8 ends"},
        {16, "9a 34 92 00 f0", "CALL_FAR.2 0x9234 imm2=0xf000 ends"},
        {64, "ea 78 56 34 12 08 00", "INVALID"},
        {64, "cb", "RET_FAR.4 ends"},
        {64, "48 cf", "IRET.8 ends"},
        {64, "cd 80", "INT.4 0x80 ends"},
        {64, "f1", "INT1.4 ends"},
        {64, "ce", "INVALID"},
    };
    CHECK_TABLE(table);
}

static void test_strings_and_ports(void)
{
    static const struct encoding table[] = {
        {64, "a4", "MOVS.1"},
        {64, "f3 48 a5", "MOVS.8 repe ends"},
        {64, "f2 f3 a6", "CMPS.1 repe ends"},
        {64, "f3 f2 ae", "SCAS.1 repne ends"},
        {16, "ab", "STOS.2"},
        {64, "f3 6c", "INS.1 repe ends"},
        {64, "48 6f", "OUTS.4 ends"},
        {64, "66 6f", "OUTS.2 ends"},
        {64, "e4 80", "IN.1 0x80 ends"},
        {64, "48 ed", "IN_DX.4 ends"},
        {64, "66 ef", "OUT_DX.2 ends"},
        {16, "e7 ff", "OUT.2 0xff ends"},
    };
    CHECK_TABLE(table);
}

static void test_lock(void)
{
    static const struct encoding table[] = {
        {64, "f0 01 00", "ADD.4 ds:[+r0]a8 r0 lock"},
        {64, "f0 01 c0", "INVALID"},
        {64, "f0 03 00", "INVALID"},
        {64, "f0 39 00", "INVALID"},
        {64, "f0 83 38 00", "INVALID"},
        {64, "f0 83 00 01", "ADD.4 ds:[+r0]a8 0x1 lock"},
        {64, "f0 85 00", "INVALID"},
        {64, "f0 87 00", "XCHG.4 ds:[+r0]a8 r0 lock"},
        {64, "f0 90", "INVALID"},
        {64, "f0 88 00", "INVALID"},
        {64, "f0 f6 18", "NEG.1 ds:[+r0]a8 lock"},
        {64, "f0 f6 20", "INVALID"},
        {64, "f0 ff 00", "INC.4 ds:[+r0]a8 lock"},
        {64, "f0 ff 30", "INVALID"},
        {64, "f0 0f a3 00", "INVALID"},
        {64, "f0 0f ab 00", "BTS.4 ds:[+r0]a8 r0 lock"},
        {64, "f0 0f ba 20 01", "INVALID"},
        {64, "f0 0f ba 38 01", "BTC.4 ds:[+r0]a8 0x1 lock"},
        {64, "f0 0f b1 08", "CMPXCHG.4 ds:[+r0]a8 r1 lock"},
        {64, "f0 0f c1 08", "XADD.4 ds:[+r0]a8 r1 lock"},
        {64, "f0 0f c7 08", "CMPXCHG8B.4 ds:[+r0]a8 lock"},
        {64, "f0 48 0f c7 08", "CMPXCHG16B.8 ds:[+r0]a8 lock"},
        {64, "0f c7 c8", "INVALID"},
        {64, "f0 0f 1f 00", "INVALID"},
        {64, "f0 0f 20 c0", "INVALID"}, /* CR8 on some AMD processors */
    };
    CHECK_TABLE(table);
}

static void test_system(void)
{
    static const struct encoding table[] = {
        {64, "0f 20 c0", "MOV_FROM_CR.8 r0 r0"},
        {64, "44 0f 22 c0", "MOV_TO_CR.8 r8 r0 ends"},
        {32, "0f 22 d8", "MOV_TO_CR.4 r3 r0 ends"},
        {32, "0f 22 18", "MOV_TO_CR.4 r3 r0 ends"}, /* mod is ignored */
        {64, "0f 20 c8", "INVALID"},
        {64, "44 0f 23 c0", "INVALID"},
        {64, "0f 23 f8", "MOV_TO_DR.8 r7 r0 ends"},
        {64, "8c d8", "MOV_FROM_SEG.4 r0 r3"},
        {64, "48 8c d8", "MOV_FROM_SEG.8 r0 r3"},
        {64, "48 8c 18", "MOV_FROM_SEG.2 ds:[+r0]a8 r3"},
        {64, "8c f0", "INVALID"},
        {64, "4c 8e d8", "MOV_TO_SEG.2 r3 r0"},
        {64, "8e d0", "MOV_TO_SEG.2 r2 r0 ends"},
        {32, "8e d8", "MOV_TO_SEG.2 r3 r0 ends"},
        {64, "8e c8", "INVALID"},
        {32, "c5 00", "LDS.4 r0 ds:[+r0]a4 imm2=0x3 ends"},
        {64, "48 0f b2 00", "LDS.8 r0 ds:[+r0]a8 imm2=0x2 ends"},
        {64, "0f b5 00", "LDS.4 r0 ds:[+r0]a8 imm2=0x5"},
        {64, "0f b5 c0", "INVALID"},
        {64, "0f 01 10", "LGDT.8 ds:[+r0]a8 ends"},
        {32, "66 0f 01 18", "LIDT.2 ds:[+r0]a4 ends"},
        {64, "0f 01 38", "INVLPG.1 ds:[+r0]a8 ends"},
        {64, "0f 01 e0", "SMSW.4 r0"},
        {64, "48 0f 01 20", "SMSW.2 ds:[+r0]a8"},
        {64, "0f 01 f0", "LMSW.2 r0 ends"},
        {64, "0f 01 c1", "VMCALL.8 ends"},
        {64, "0f 01 c2", "INVALID"}, /* VMLAUNCH */
        {64, "0f 01 d9", "VMMCALL.8 ends"},
        {64, "0f 01 d8", "INVALID"}, /* VMRUN */
        {64, "0f 01 c8", "MONITOR.8"},
        {64, "0f 01 c9", "MWAIT.8 ends"},
        {64, "0f 01 cb", "STAC.8 ends"},
        {64, "f3 0f 01 cb", "INVALID"},
        {64, "0f 01 d0", "XGETBV.8"},
        {64, "0f 01 d1", "XSETBV.8 ends"},
        {64, "0f 01 d5", "INVALID"}, /* XEND */
        {64, "0f 01 ee", "INVALID"}, /* RDPKRU */
        {64, "0f 01 f8", "SWAPGS.8"},
        {32, "0f 01 f8", "INVALID"},
        {64, "0f 01 f9", "RDTSCP.8"},
        {64, "0f 00 d8", "LTR.2 r0 ends"},
        {64, "48 0f 00 c0", "SLDT.8 r0"},
        {64, "48 0f 00 00", "SLDT.2 ds:[+r0]a8"},
        {64, "0f 02 c1", "LAR.4/2 r0 r1"},
        {64, "48 0f 07", "SYSRET.8 ends"},
        {64, "0f a2", "CPUID.4 ends"},
        {64, "0f ae f0", "MFENCE.4"},
        {64, "0f ae e9", "LFENCE.4"},
        {64, "66 0f ae f8", "INVALID"},
        {64, "48 0f ae 08", "FXRSTOR.8 ds:[+r0]a8"},
        {64, "66 0f ae 08", "INVALID"},
        {64, "0f ae 30", "XSAVEOPT.4 ds:[+r0]a8"},
        {64, "66 0f ae 30", "CLWB.1 ds:[+r0]a8"},
        {64, "66 0f ae 38", "CLFLUSHOPT.1 ds:[+r0]a8"},
        {64, "f3 48 0f ae d0", "WRFSBASE.8 r0"},
        {64, "f3 0f ae c9", "RDGSBASE.4 r1"},
        {32, "f3 0f ae c9", "INVALID"},
        {64, "0f c7 f1", "RDRAND.4 r1"},
        {64, "66 0f c7 f9", "RDSEED.2 r1"},
        {64, "f3 0f c7 f9", "RDPID.8 r1"},
        {64, "0f c7 20", "INVALID"}, /* XSAVEC */
        {64, "0f c7 30", "INVALID"}, /* VMPTRLD */
        {64, "66 0f 38 82 01", "INVPCID.8 r0 ds:[+r1]a8 ends"},
        {64, "66 0f 38 82 c1", "INVALID"},
        {64, "0f 38 82 01", "INVALID"},
        {64, "0f 0b", "UD.4 ends"},
        {64, "0f ff 44 24 01", "UD.4 ends"},
        {64, "f3 0f 1e fa", "NOP.4 r2"}, /* ENDBR64 */
        {64, "66 2e 0f 1f 84 00 00 00 00 00", "NOP.2 ds:[+r0+r0*1]a8"},
        {64, "0f 0d 08", "NOP.4 ds:[+r0]a8"},
        {64, "0f 0f c0 b6", "INVALID"}, /* 3DNow! */
        {64, "0f 78 c0", "INVALID"},
        {64, "fa", "CLI.4 ends"},
        {64, "fc", "CLD.4"},
        {32, "62 00", "BOUND.4 r0 ds:[+r0]a4"},
        {64, "62 f1 7c 48 58 c0", "INVALID"},
        {32, "62 f1 7c 48 58 c0", "INVALID"},
    };
    CHECK_TABLE(table);
}

static void test_bit_and_vex(void)
{
    static const struct encoding table[] = {
        {64, "f3 0f bc c1", "TZCNT.4 r0 r1"},
        {64, "66 f3 48 0f bd c1", "LZCNT.8 r0 r1"},
        {64, "f2 0f bc c1", "BSF.4 r0 r1"},
        {64, "66 0f bd c1", "BSR.2 r0 r1"},
        {64, "66 f3 0f b8 c1", "POPCNT.2 r0 r1"},
        {64, "0f b8 c1", "INVALID"},
        {64, "66 0f 38 f6 c1", "ADCX.4 r0 r1"},
        {64, "f3 48 0f 38 f6 c1", "ADOX.8 r0 r1"},
        {64, "66 f3 0f 38 f6 c1", "ADOX.4 r0 r1"},
        {64, "0f 38 f6 c1", "INVALID"},
        {64, "c4 e2 70 f2 c2", "ANDN.4 r0 r1 r2"},
        {64, "c4 62 b0 f2 c2", "ANDN.8 r8 r9 r2"},
        {32, "c4 e2 f0 f2 c2", "ANDN.4 r0 r1 r2"}, /* W is ignored */
        {16, "c4 e2 70 f2 c2", "ANDN.4 r0 r1 r2"},
        {32, "c4 e2 30 f2 c2", "ANDN.4 r0 r1 r2"}, /* vvvv's top bit is ignored */
        {32, "c4 c2 70 f2 c2", "ANDN.4 r0 r1 r2"}, /* so is B */
        {32, "c4 e3 3b f0 c2 21", "INVALID"},      /* but not where vvvv must be 1111 */
        {64, "c4 e2 74 f2 c2", "INVALID"},         /* L */
        {64, "c4 e2 71 f2 c2", "INVALID"},         /* pp */
        {64, "c4 e2 70 f3 ca", "BLSR.4 r1 r2"},
        {64, "c4 e2 70 f3 d2", "BLSMSK.4 r1 r2"},
        {64, "c4 e2 70 f3 da", "BLSI.4 r1 r2"},
        {64, "c4 e2 70 f3 c2", "INVALID"},
        {64, "c4 e2 70 f5 c2", "BZHI.4 r0 r2 r1"},
        {64, "c4 e2 72 f5 c2", "PEXT.4 r0 r1 r2"},
        {64, "c4 e2 f3 f5 c2", "PDEP.8 r0 r1 r2"},
        {64, "c4 e2 73 f6 02", "MULX.4 r0 r1 ds:[+r2]a8"},
        {64, "c4 e2 70 f7 c2", "BEXTR.4 r0 r2 r1"},
        {64, "c4 e2 71 f7 c2", "SHLX.4 r0 r2 r1"},
        {64, "c4 e2 72 f7 c2", "SARX.4 r0 r2 r1"},
        {64, "c4 e2 73 f7 c2", "SHRX.4 r0 r2 r1"},
        {64, "c4 e3 fb f0 c2 21", "RORX.8 r0 r2 0x21"},
        {64, "c4 e3 73 f0 c2 21", "INVALID"}, /* vvvv */
        {64, "66 c4 e2 70 f2 c2", "INVALID"},
        {64, "f3 c4 e2 70 f2 c2", "INVALID"},
        {64, "48 c4 e2 70 f2 c2", "INVALID"},
        {64, "f0 c4 e2 70 f2 02", "INVALID"},
        {64, "48 2e c4 e2 70 f2 c2", "ANDN.4 r0 r1 r2"}, /* REX is not in force */
        {64, "c4 e4 70 f2 c2", "INVALID"},               /* no such map */
        {64, "c4 e2 69 90 00", "INVALID"},               /* gather without SIB */
        {16, "c4 e2 69 90 04", "INVALID"},               /* no SIB with 16-bit addresses */
        {64, "c4 e2 69 90 04 10", "INVALID"},            /* index is the mask */
        {64, "c4 e2 69 90 04 00", "INVALID"},            /* index is the destination */
        {64, "c4 e2 79 90 04 08", "INVALID"},            /* mask is the destination */
        {64, "c5 f8 77", "VZEROUPPER.4"},
        {64, "c5 fc 77", "VZEROALL.4"},
        {64, "c5 f9 77", "INVALID"},
        {64, "c5 f0 77", "INVALID"},
        {64, "c5 f8 ae 11", "LDMXCSR.4 ds:[+r1]a8"},
        {64, "c5 f8 ae 19", "STMXCSR.4 ds:[+r1]a8"},
        {64, "c5 fc ae 19", "INVALID"},
        {64, "c5 f8 ae d9", "INVALID"},
        {64, "c5 f8 ae 01", "INVALID"},
        {32, "c4 00", "LDS.4 r0 ds:[+r0]a4 ends"},  /* LES */
        {64, "48 64 8b 00", "MOV.4 r0 fs:[+r0]a8"}, /* REX before another prefix is void */
        {64, "41 48 01 c0", "ADD.8 r0 r0"},         /* the last REX counts */
    };
    CHECK_TABLE(table);
}

int main(void)
{
    UNIT_RUN(test_alu_forms);
    UNIT_RUN(test_moves);
    UNIT_RUN(test_memory_operands);
    UNIT_RUN(test_stack_and_branches);
    UNIT_RUN(test_strings_and_ports);
    UNIT_RUN(test_lock);
    UNIT_RUN(test_system);
    UNIT_RUN(test_bit_and_vex);
    return unit_done();
}
