/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Data movement (x86/op_mov.c, op_movcc.c): what each form leaves in registers and memory, above
 * all which upper bits it keeps, extends or clears, and that no flag changes but those it names.
 */
#include <string.h>

#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"

enum { AT = CPU_ENV_DATA };

#define OLD    0x1122334455667788u
#define SOURCE 0xF1F2F3F4F5F6F7F8u
#define MEMORY 0x8182838485868788u

static struct cpu_env e;

/* Starts with RAX = OLD, RBX = SOURCE, RSI = AT, 8 bytes of MEMORY there, RCX = 1. */
static int run(const char *code, size_t size, uint64_t flags)
{
    cpu_env_code(&e, code, size);
    e.cpu->gpr[RAX] = OLD;
    e.cpu->gpr[RBX] = SOURCE;
    e.cpu->gpr[RCX] = 1;
    e.cpu->gpr[RDX] = 0;
    e.cpu->gpr[RSI] = AT;
    cpu_env_put64(&e, AT, MEMORY);
    e.cpu->rflags = X86_FLAG_ONE | flags;
    return cpu_env_step(&e);
}

struct row {
    const char *code;
    uint8_t size;
    uint64_t rax, rbx, memory;
};

static void check_rows(const struct row *rows, size_t count)
{
    static const uint64_t flags[] = {0, X86_FLAGS_STATUS | X86_FLAG_DF};
    for (size_t n = 0; n < count; n++) {
        for (size_t f = 0; f < ARRAY_SIZE(flags); f++) {
            unit_context("row %zu", n);
            CHECK_EQ(run(rows[n].code, rows[n].size, flags[f]), X86_OK);
            CHECK_EQ(e.cpu->rip, CPU_ENV_CODE + rows[n].size);
            CHECK_EQ(e.cpu->gpr[RAX], rows[n].rax);
            CHECK_EQ(e.cpu->gpr[RBX], rows[n].rbx);
            CHECK_EQ(cpu_env_get64(&e, AT), rows[n].memory);
            CHECK_EQ(e.cpu->rflags, X86_FLAG_ONE | flags[f]);
        }
    }
    unit_context(NULL);
}

static void test_mov(void)
{
    static const struct row rows[] = {
        /* table: code, its size, RAX, RBX, memory */
        {"\x88\xD8", 2, 0x11223344556677F8, SOURCE, MEMORY},     /* al, bl */
        {"\x88\xFC", 2, 0x112233445566F788, SOURCE, MEMORY},     /* ah, bh */
        {"\x66\x89\xD8", 3, 0x112233445566F7F8, SOURCE, MEMORY}, /* ax, bx */
        {"\x89\xD8", 2, 0xF5F6F7F8, SOURCE, MEMORY},             /* eax, ebx */
        {"\x48\x89\xD8", 3, SOURCE, SOURCE, MEMORY},             /* rax, rbx */
        {"\x8A\x26", 2, 0x1122334455668888, SOURCE, MEMORY},     /* ah, [rsi] */
        {"\x66\x8B\x06", 3, 0x1122334455668788, SOURCE, MEMORY}, /* ax, [rsi] */
        {"\x8B\x46\x04", 3, 0x81828384, SOURCE, MEMORY},         /* eax, [rsi + 4] */
        {"\x48\x8B\x06", 3, MEMORY, SOURCE, MEMORY},             /* rax, [rsi] */
        {"\x88\x3E", 2, OLD, SOURCE, 0x81828384858687F7},        /* [rsi], bh */
        {"\x66\x89\x1E", 3, OLD, SOURCE, 0x818283848586F7F8},    /* [rsi], bx */
        {"\x89\x1C\x4E", 3, OLD, SOURCE, 0x8182F5F6F7F88788},    /* [rsi + rcx*2], ebx */
        {"\x48\x89\x1E", 3, OLD, SOURCE, SOURCE},                /* [rsi], rbx */
        {"\xC6\x06\x80", 3, OLD, SOURCE, 0x8182838485868780},    /* byte [rsi], 80h */
        {"\x48\xC7\x06\x00\x00\x00\x80", 7, OLD, SOURCE, 0xFFFFFFFF80000000}, /* sign-extended */
        {"\x48\xC7\xC0\xFE\xFF\xFF\xFF", 7, (uint64_t)-2, SOURCE, MEMORY},
        {"\xB8\xFE\xFF\xFF\xFF", 5, 0xFFFFFFFE, SOURCE, MEMORY},
        {"\x48\xB8\x01\x02\x03\x04\x05\x06\x07\x08", 10, 0x0807060504030201, SOURCE, MEMORY},
        {"\xB4\x5A", 2, 0x1122334455665A88, SOURCE, MEMORY},                      /* ah, imm */
        {"\x48\xA1\x00\x00\x06\x00\x00\x00\x00\x00", 10, MEMORY, SOURCE, MEMORY}, /* moffs */
        {"\xA2\x01\x00\x06\x00\x00\x00\x00\x00", 9, OLD, SOURCE, 0x8182838485868888},
        {"\x0F\xC3\x1E", 3, OLD, SOURCE, 0x81828384F5F6F7F8}, /* movnti */
        {"\x48\x0F\xC3\x1E", 4, OLD, SOURCE, SOURCE},
    };
    check_rows(rows, ARRAY_SIZE(rows));
}

static void test_extensions(void)
{
    static const struct row rows[] = {
        /* table: code, its size, RAX, RBX, memory */
        {"\x0F\xB6\xC3", 3, 0xF8, SOURCE, MEMORY},                       /* movzx eax, bl */
        {"\x0F\xB6\xC7", 3, 0xF7, SOURCE, MEMORY},                       /* eax, bh */
        {"\x66\x0F\xB6\xC3", 4, 0x11223344556600F8, SOURCE, MEMORY},     /* ax, bl */
        {"\x48\x0F\xB7\x06", 4, 0x8788, SOURCE, MEMORY},                 /* rax, word [rsi] */
        {"\x0F\xBE\xC3", 3, 0xFFFFFFF8, SOURCE, MEMORY},                 /* movsx eax, bl */
        {"\x66\x0F\xBE\x06", 4, 0x112233445566FF88, SOURCE, MEMORY},     /* ax, byte [rsi] */
        {"\x48\x0F\xBF\xC3", 4, 0xFFFFFFFFFFFFF7F8, SOURCE, MEMORY},     /* rax, bx */
        {"\x48\x63\xC3", 3, 0xFFFFFFFFF5F6F7F8, SOURCE, MEMORY},         /* movsxd rax, ebx */
        {"\x63\xC3", 2, 0xF5F6F7F8, SOURCE, MEMORY},                     /* movsxd eax, ebx */
        {"\x66\x98", 2, 0x112233445566FF88, SOURCE, MEMORY},             /* cbw */
        {"\x98", 1, 0x00007788, SOURCE, MEMORY},                         /* cwde */
        {"\x48\x98", 2, 0x0000000055667788, SOURCE, MEMORY},             /* cdqe */
        {"\x0F\x38\xF0\x06", 4, 0x88878685, SOURCE, MEMORY},             /* movbe eax, [rsi] */
        {"\x66\x0F\x38\xF0\x06", 5, 0x1122334455668887, SOURCE, MEMORY}, /* ax */
        {"\x48\x0F\x38\xF1\x1E", 5, OLD, SOURCE, 0xF8F7F6F5F4F3F2F1},    /* [rsi], rbx */
        {"\x0F\xC8", 2, 0x88776655, SOURCE, MEMORY},                     /* bswap eax */
        {"\x48\x0F\xC8", 3, 0x8877665544332211, SOURCE, MEMORY},         /* rax */
    };
    check_rows(rows, ARRAY_SIZE(rows));
}

static void test_others(void)
{
    static const struct row rows[] = {
        /* table: code, its size, RAX, RBX, memory */
        {"\x48\x8D\x44\x8E\xFF", 5, AT + 3, SOURCE, MEMORY},         /* lea rax, [rsi+rcx*4-1] */
        {"\x66\x8D\x46\xFF", 4, 0x112233445566FFFF, SOURCE, MEMORY}, /* lea ax, [rsi-1] */
        {"\x8D\x43\x08", 3, 0xF5F6F800, SOURCE, MEMORY},             /* lea eax, [rbx+8]: no #GP */
        {"\x67\x48\x8D\x43\x08", 5, 0xF5F6F800, SOURCE, MEMORY},     /* lea rax, [ebx+8] */
        {"\x48\x93", 2, SOURCE, OLD, MEMORY},                        /* xchg rax, rbx */
        {"\x93", 1, 0xF5F6F7F8, 0x55667788, MEMORY},
        {"\x86\xE3", 2, 0x112233445566F888, 0xF1F2F3F4F5F6F777, MEMORY}, /* xchg bl, ah */
        {"\x48\x87\x1E", 3, OLD, MEMORY, SOURCE},                        /* xchg [rsi], rbx */
        {"\x87\x1E", 2, OLD, 0x85868788, 0x81828384F5F6F7F8},
        {"\x90", 1, OLD, SOURCE, MEMORY},
        {"\x0F\x1F\x80\x00\x00\x00\x80", 7, OLD, SOURCE, MEMORY}, /* nop [rax-2G]: not touched */
        {"\x0F\x18\x0B", 3, OLD, SOURCE, MEMORY}, /* prefetch of what is not there */
    };
    check_rows(rows, ARRAY_SIZE(rows));
    CHECK_EQ(run("\x48\x99", 2, 0), X86_OK); /* cqo */
    CHECK_EQ(e.cpu->gpr[RDX], 0);
    CHECK_EQ(run("\x48\xF7\xD8", 3, 0), X86_OK);
    uint64_t negative = e.cpu->gpr[RAX];
    cpu_env_code(&e, "\x48\x99", 2);
    CHECK_EQ(cpu_env_step(&e), X86_OK);
    CHECK_EQ(e.cpu->gpr[RDX], UINT64_MAX);
    CHECK_EQ(e.cpu->gpr[RAX], negative);
}

/* All conditions with all flags. A false CMOV still clears the upper half, and still reads. */
static bool condition(unsigned int c, unsigned int f)
{
    bool cf = f & 1, zf = f & 2, sf = f & 4, of = f & 8, pf = f & 16;
    const bool value[8] = {of, cf, zf, cf || zf, sf, pf, sf != of, zf || sf != of};
    return value[c >> 1] != (c & 1);
}

static void test_conditions(void)
{
    for (unsigned int f = 0; f < 32; f++) {
        uint64_t flags = (f & 1 ? X86_FLAG_CF : 0) | (f & 2 ? X86_FLAG_ZF : 0) |
                         (f & 4 ? X86_FLAG_SF : 0) | (f & 8 ? X86_FLAG_OF : 0) |
                         (f & 16 ? X86_FLAG_PF : 0);
        for (unsigned int c = 0; c < 16; c++) {
            unit_context("condition %u, flags %x", c, (unsigned int)flags);
            bool is = condition(c, f);
            char code[4] = {0x0F, (char)(0x40 | c), (char)0xC3, 0}; /* cmovcc eax, ebx */
            CHECK_EQ(run(code, 3, flags), X86_OK);
            CHECK_EQ(e.cpu->gpr[RAX], is ? (uint32_t)SOURCE : (uint32_t)OLD);
            code[1] = (char)(0x90 | c);
            code[2] = 0x06; /* setcc [rsi] */
            CHECK_EQ(run(code, 3, flags), X86_OK);
            CHECK_EQ(cpu_env_get64(&e, AT), (MEMORY & ~(uint64_t)0xFF) | is);
            CHECK_EQ(e.cpu->rflags, X86_FLAG_ONE | flags);
        }
    }
    unit_context(NULL);
}

static void test_faults(void)
{
    static const struct {
        const char *code;
        uint8_t size;
    } rows[] = {
        /* table: RBX is not canonical */
        {"\x48\x8B\x03", 3},     {"\x88\x03", 2},     {"\x0F\xB6\x03", 3},
        {"\x48\x63\x03", 3},     {"\x87\x03", 2},     {"\x0F\x42\x03", 3}, /* cmovc, CF = 0 */
        {"\x0F\x92\x03", 3},     {"\x0F\xC3\x03", 3}, {"\xC6\x03\x01", 3},
        {"\x0F\x38\xF0\x03", 4}, {"\xD7", 1}, /* xlat */
    };
    for (size_t n = 0; n < ARRAY_SIZE(rows); n++) {
        unit_context("row %zu", n);
        CHECK_EQ(run(rows[n].code, rows[n].size, 0), X86_FAULT);
        CHECK_EQ(e.cpu->fault.vector, X86_GP);
        CHECK_EQ(e.cpu->rip, CPU_ENV_CODE);
        CHECK_EQ(e.cpu->gpr[RAX], OLD);
        CHECK_EQ(e.cpu->rflags, X86_FLAG_ONE);
    }
    unit_context(NULL);
}

static void test_flag_moves(void)
{
    const uint64_t low = X86_FLAG_SF | X86_FLAG_ZF | X86_FLAG_AF | X86_FLAG_PF | X86_FLAG_CF;
    CHECK_EQ(run("\x9F", 1, low | X86_FLAG_OF), X86_OK); /* lahf */
    CHECK_EQ(e.cpu->gpr[RAX], 0x112233445566D788);
    CHECK_EQ(run("\x9E", 1, low | X86_FLAG_OF | X86_FLAG_DF), X86_OK); /* sahf, AH = 77 */
    CHECK_EQ(e.cpu->rflags, X86_FLAG_ONE | 0x55 | X86_FLAG_OF | X86_FLAG_DF);
    static const struct {
        char code;
        uint64_t before, after;
    } rows[] = {
        /* table: cmc, clc, stc, cld, std */
        {'\xF5', 0, X86_FLAG_CF},
        {'\xF5', X86_FLAG_CF, 0},
        {'\xF8', X86_FLAG_CF, 0},
        {'\xF9', 0, X86_FLAG_CF},
        {'\xFC', X86_FLAG_DF, 0},
        {'\xFD', 0, X86_FLAG_DF},
        {'\xF9', X86_FLAG_ZF, X86_FLAG_ZF | X86_FLAG_CF},
    };
    for (size_t n = 0; n < ARRAY_SIZE(rows); n++) {
        CHECK_EQ(run(&rows[n].code, 1, rows[n].before), X86_OK);
        CHECK_EQ(e.cpu->rflags, X86_FLAG_ONE | rows[n].after);
    }
}

int main(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    UNIT_RUN(test_mov);
    UNIT_RUN(test_extensions);
    UNIT_RUN(test_others);
    UNIT_RUN(test_conditions);
    UNIT_RUN(test_faults);
    UNIT_RUN(test_flag_moves);
    cpu_env_destroy(&e);
    return unit_done();
}
