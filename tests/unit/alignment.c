/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Alignment checks at CPL 3 (#AC): which operands have to be aligned to what, by instruction (SDM
 * 3A, table 6-7), and that page faults come before them. Integer operands of each size, vectors,
 * the x87's areas, and what is never checked.
 */
#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"
#include "x86/mem.h"

static struct cpu_env env;

enum { DATA = CPU_ENV_DATA, HOLE = CPU_ENV_DATA + 0x20000 };

/* Code with its memory operand at [rbx] (or [rdi]), and what that has to be aligned to; 1: nothing
 * is checked. 16 and above: that is #GP's business, with or without AC. */
struct row {
    const char *what;
    uint8_t length, align;
    uint8_t code[7];
    bool compat; /* 32-bit code */
};

/* table */
static const struct row rows[] = {
    {"mov al", 2, 1, {0x8A, 0x03}, false},
    {"mov ax", 3, 2, {0x66, 0x8B, 0x03}, false},
    {"mov eax", 2, 4, {0x8B, 0x03}, false},
    {"mov rax", 3, 8, {0x48, 0x8B, 0x03}, false},
    {"bound", 2, 4, {0x62, 0x03}, true},
    {"sgdt: word and base", 3, 0, {0x0F, 0x01, 0x03}, false},
    /* vectors: what is 2, 4 or 8 bytes is checked */
    {"movd", 4, 4, {0x66, 0x0F, 0x6E, 0x03}, false},
    {"movq", 4, 8, {0xF3, 0x0F, 0x7E, 0x03}, false},
    {"movss store", 4, 4, {0xF3, 0x0F, 0x11, 0x03}, false},
    {"addss", 4, 4, {0xF3, 0x0F, 0x58, 0x03}, false},
    {"addsd", 4, 8, {0xF2, 0x0F, 0x58, 0x03}, false},
    {"pinsrw", 5, 2, {0x66, 0x0F, 0xC4, 0x03, 0x00}, false},
    {"pextrb", 6, 1, {0x66, 0x0F, 0x3A, 0x14, 0x03, 0x00}, false},
    {"pmovzxbw", 5, 8, {0x66, 0x0F, 0x38, 0x30, 0x03}, false},
    {"cvtpi2ps", 3, 8, {0x0F, 0x2A, 0x03}, false},
    {"paddb mm", 3, 8, {0x0F, 0xFC, 0x03}, false},
    {"movq store mm", 3, 8, {0x0F, 0x7F, 0x03}, false},
    {"stmxcsr", 3, 4, {0x0F, 0xAE, 0x1B}, false},
    {"vbroadcastss", 5, 4, {0xC4, 0xE2, 0x79, 0x18, 0x03}, false},
    /* 16 and 32 bytes: not at all */
    {"movups", 3, 1, {0x0F, 0x10, 0x03}, false},
    {"movdqu store", 4, 1, {0xF3, 0x0F, 0x7F, 0x03}, false},
    {"lddqu", 4, 1, {0xF2, 0x0F, 0xF0, 0x03}, false},
    {"vaddps", 4, 1, {0xC5, 0xF0, 0x58, 0x03}, false},
    {"vmovups ymm", 4, 1, {0xC5, 0xFC, 0x10, 0x03}, false},
    {"pcmpistri", 6, 1, {0x66, 0x0F, 0x3A, 0x63, 0x03, 0x00}, false},
    /* masked: elements neither */
    {"vmaskmovps", 5, 1, {0xC4, 0xE2, 0x71, 0x2C, 0x03}, false},
    {"vmaskmovpd store", 5, 1, {0xC4, 0xE2, 0x71, 0x2F, 0x03}, false},
    {"vpmaskmovq", 5, 1, {0xC4, 0xE2, 0xF1, 0x8C, 0x03}, false},
    {"maskmovdqu", 4, 1, {0x66, 0x0F, 0xF7, 0xC1}, false},
    {"vpgatherdd xmm2, [rbx + xmm4]", 6, 1, {0xC4, 0xE2, 0x71, 0x90, 0x14, 0x23}, false},
    /* aligned or #GP, which comes first */
    {"movaps", 3, 16, {0x0F, 0x28, 0x03}, false},
    {"addps", 3, 16, {0x0F, 0x58, 0x03}, false},
    {"fxsave", 3, 16, {0x0F, 0xAE, 0x03}, false},
    {"xsave", 3, 64, {0x0F, 0xAE, 0x23}, false},
    /* x87 */
    {"fild m16", 2, 2, {0xDF, 0x03}, false},
    {"fadd m32", 2, 4, {0xD8, 0x03}, false},
    {"fld m64", 2, 8, {0xDD, 0x03}, false},
    {"fild m64", 2, 8, {0xDF, 0x2B}, false},
    {"fld m80", 2, 8, {0xDB, 0x2B}, false},
    {"fbstp", 2, 8, {0xDF, 0x33}, false},
    {"fnstcw", 2, 2, {0xD9, 0x3B}, false},
    {"fnstsw", 2, 2, {0xDD, 0x3B}, false},
    {"fldenv", 2, 4, {0xD9, 0x23}, false},
    {"fnstenv", 2, 4, {0xD9, 0x33}, false},
    {"fnstenv, 16-bit", 3, 2, {0x66, 0xD9, 0x33}, false},
    {"fnsave", 2, 4, {0xDD, 0x33}, false},
    {"frstor", 2, 4, {0xDD, 0x23}, false},
    {"frstor, 16-bit", 3, 2, {0x66, 0xDD, 0x23}, false},
};

/* All that a row may use, anew: CPL 3, operand at `address`. */
static void prepare(const struct row *r, uint64_t address, bool check)
{
    struct x86_cpu *cpu = env.cpu;
    cpu_env_reset(&env);
    *cpu_env_pte(&env, HOLE) = 0;
    cpu_env_set_cpl(&env, 3);
    if (r->compat)
        cpu_env_set_compat(&env);
    cpu->fpu.mxcsr = X86_MXCSR_RESET;
    cpu->fpu.fcw = X86_FCW_RESET;
    cpu->fpu.fsw = 0;
    cpu->fpu.ftw = 0;
    memset(cpu->fpu.xmm, 0, sizeof(cpu->fpu.xmm));
    memset(cpu->fpu.xmm[1], 0xFF, 16); /* all masks */
    cpu->gpr[RAX] = cpu->gpr[RDX] = 0;
    cpu->gpr[RBX] = cpu->gpr[RDI] = address;
    cpu->cr0 |= X86_CR0_AM;
    cpu->rflags = X86_FLAG_ONE | (check ? X86_FLAG_AC : 0);
    x86_update_mode(cpu);
    cpu_env_code(&env, r->code, r->length);
}

static uint8_t vector_of(const struct row *r, uint64_t address, bool check)
{
    prepare(r, address, check);
    return cpu_env_step(&env) == X86_FAULT ? env.cpu->fault.vector : 0;
}

static uint8_t expected(const struct row *r, uint64_t address, bool check)
{
    if (r->align == 0) /* a word, and eight bytes behind it */
        return check && (address + 2) % 8 != 0 ? X86_AC : 0;
    if (address % r->align == 0)
        return 0;
    if (r->align >= 16)
        return X86_GP;
    return check ? X86_AC : 0;
}

static void check_row(const struct row *r)
{
    for (uint64_t at = 0; at < 17; at++) {
        for (int check = 0; check < 2; check++) {
            uint8_t want = expected(r, DATA + at, check), is = vector_of(r, DATA + at, check);
            unit_context("%s, AC %d, %lu", r->what, check, at);
            CHECK_EQ(is, want);
        }
    }
    unit_context(NULL);
}

static void test_operands(void)
{
    cpu_env_create(&env, CPU_ENV_LONG);
    for (size_t n = 0; n < ARRAY_SIZE(rows); n++)
        check_row(&rows[n]);
    cpu_env_destroy(&env);
}

/* Neither in memory nor aligned: #PF, also where only the second page is missing. */
static void test_page_fault_first(void)
{
    cpu_env_create(&env, CPU_ENV_LONG);
    for (size_t n = 0; n < ARRAY_SIZE(rows); n++) {
        if (rows[n].align >= 16)
            continue;
        unit_context("%s", rows[n].what);
        CHECK_EQ(vector_of(&rows[n], HOLE + 1, true), X86_PF);
        if (rows[n].align > 1)
            CHECK_EQ(vector_of(&rows[n], HOLE - 1, true), X86_PF);
    }
    unit_context(NULL);
    cpu_env_destroy(&env);
}

/* At other privilege levels, and without CR0.AM, nothing is checked. */
static void test_conditions(void)
{
    static const struct row r = {"fldenv", 2, 4, {0xD9, 0x23}, false};
    cpu_env_create(&env, CPU_ENV_LONG);
    prepare(&r, DATA + 1, true);
    env.cpu->cr0 &= ~X86_CR0_AM;
    x86_update_mode(env.cpu);
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    prepare(&r, DATA + 1, true);
    cpu_env_set_cpl(&env, 0);
    cpu_env_code(&env, r.code, r.length);
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    cpu_env_destroy(&env);
}

int main(void)
{
    UNIT_RUN(test_operands);
    UNIT_RUN(test_page_fault_first);
    UNIT_RUN(test_conditions);
    return unit_done();
}
