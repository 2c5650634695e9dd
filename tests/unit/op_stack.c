/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Stack instructions where the differential test does not reach: 16-bit code and stacks, privilege
 * levels, virtual-8086 mode, faults in the middle. (64- and 32-bit code at CPL 3 is compared with
 * the processor itself.)
 */
#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"
#include "x86/mem.h"

static struct cpu_env env;

static void start(enum cpu_env_mode mode, const char *code, size_t size)
{
    cpu_env_create(&env, mode);
    cpu_env_code(&env, code, size);
}

#define START(mode, code) start(mode, code, sizeof(code) - 1)

/* Virtual-8086 mode with flat little segments at 0 and the given IOPL. */
static void enter_v86(unsigned int iopl, uint64_t flags)
{
    struct x86_cpu *cpu = env.cpu;
    for (unsigned int n = 0; n < SEG_COUNT; n++)
        cpu->seg[n] = (struct x86_segment){.limit = 0xFFFF, .attr = 0xF3};
    cpu->seg[SEG_CS] =
        (struct x86_segment){CPU_ENV_CODE, 0xFFFF, 0xF3, (uint16_t)(CPU_ENV_CODE >> 4)};
    cpu->rip = 0;
    cpu->gpr[RSP] = 0x8000;
    cpu->rflags = X86_FLAG_ONE | X86_FLAG_VM | (uint64_t)iopl << X86_FLAG_IOPL_SHIFT | flags;
    x86_update_mode(cpu);
}

static void test_push_sp_and_wrap(void)
{
    START(CPU_ENV_REAL, "\x54"); /* push sp */
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(env.cpu->gpr[RSP], 0xEFFE);
    CHECK_EQ(cpu_env_get16(&env, 0xEFFE), 0xF000);
    cpu_env_destroy(&env);

    START(CPU_ENV_REAL, "\x50\x58"); /* push ax; pop ax */
    env.cpu->gpr[RSP] = 0x12340000;  /* SP 0 wraps to FFFE, the rest of RSP stays */
    env.cpu->gpr[RAX] = 0xBEEF;
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(env.cpu->gpr[RSP], 0x1234FFFE);
    CHECK_EQ(cpu_env_get16(&env, 0xFFFE), 0xBEEF);
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(env.cpu->gpr[RSP], 0x12340000);
    cpu_env_destroy(&env);
}

static void test_pusha_popa_16(void)
{
    START(CPU_ENV_REAL, "\x60\x61");
    for (unsigned int n = 0; n < 8; n++) {
        if (n != RSP)
            env.cpu->gpr[n] = 0xAAAA0000 + 0x1111 * n;
    }
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(env.cpu->gpr[RSP], 0xEFF0);
    CHECK_EQ(cpu_env_get16(&env, 0xEFF0), 0x7777); /* DI lowest */
    CHECK_EQ(cpu_env_get16(&env, 0xEFF6), 0xF000); /* SP as it was */
    for (unsigned int n = 0; n < 8; n++) {
        if (n != RSP)
            env.cpu->gpr[n] = 0xBBBBBBBB;
    }
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(env.cpu->gpr[RSP], 0xF000);
    CHECK_EQ(env.cpu->gpr[RDI], 0xBBBB7777); /* upper halves stay */
    CHECK_EQ(env.cpu->gpr[RAX], 0xBBBB0000);
    cpu_env_destroy(&env);
}

static void test_faults_change_no_register(void)
{
    /* pusha and enter 8,31 run into a page that is not there */
    static const struct {
        const char *code;
        size_t size;
    } rows[] = {{"\x60", 1}, {"\xC8\x08\x00\x1F", 4}};
    for (size_t n = 0; n < ARRAY_SIZE(rows); n++) {
        start(CPU_ENV_PAGED, rows[n].code, rows[n].size);
        uint64_t sp = CPU_ENV_DATA + 0x1008;
        *cpu_env_pte(&env, CPU_ENV_DATA) = 0;
        env.cpu->gpr[RSP] = sp;
        env.cpu->gpr[RBP] = CPU_ENV_DATA + 0x3000;
        CHECK_EQ(cpu_env_step(&env), X86_FAULT);
        CHECK_EQ(env.cpu->fault.vector, X86_PF);
        CHECK_EQ(env.cpu->fault.payload & PAGE_MASK, CPU_ENV_DATA);
        CHECK_EQ(env.cpu->gpr[RSP], sp);
        CHECK_EQ(env.cpu->gpr[RBP], CPU_ENV_DATA + 0x3000);
        cpu_env_destroy(&env);
    }
}

static void test_pop_memory_uses_new_sp(void)
{
    START(CPU_ENV_LONG, "\x8F\x04\x24"); /* pop qword [rsp] */
    cpu_env_put64(&env, CPU_ENV_DATA, 0x1122334455667788);
    env.cpu->gpr[RSP] = CPU_ENV_DATA;
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(env.cpu->gpr[RSP], CPU_ENV_DATA + 8);
    CHECK_EQ(cpu_env_get64(&env, CPU_ENV_DATA + 8), 0x1122334455667788);
    cpu_env_destroy(&env);

    START(CPU_ENV_LONG, "\x8F\x00"); /* pop qword [rax]: not writable */
    env.cpu->gpr[RSP] = CPU_ENV_DATA;
    env.cpu->gpr[RAX] = UINT64_C(0x8000000000000000);
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    CHECK_EQ(env.cpu->fault.vector, X86_GP);
    CHECK_EQ(env.cpu->gpr[RSP], CPU_ENV_DATA);
    cpu_env_destroy(&env);
}

static void test_enter_copies_frames(void)
{
    START(CPU_ENV_LONG, "\xC8\x10\x00\x03\xC9"); /* enter 16, 3; leave */
    uint64_t sp = CPU_ENV_DATA + 0x800, bp = CPU_ENV_DATA + 0x400;
    env.cpu->gpr[RSP] = sp;
    env.cpu->gpr[RBP] = bp;
    cpu_env_put64(&env, bp - 8, 0x111);
    cpu_env_put64(&env, bp - 16, 0x222);
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(env.cpu->gpr[RBP], sp - 8);
    CHECK_EQ(env.cpu->gpr[RSP], sp - 32 - 16);
    CHECK_EQ(cpu_env_get64(&env, sp - 8), bp);
    CHECK_EQ(cpu_env_get64(&env, sp - 16), 0x111);
    CHECK_EQ(cpu_env_get64(&env, sp - 24), 0x222);
    CHECK_EQ(cpu_env_get64(&env, sp - 32), sp - 8);
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(env.cpu->gpr[RSP], sp);
    CHECK_EQ(env.cpu->gpr[RBP], bp);
    cpu_env_destroy(&env);
}

/* Which flags POPF changes: all ones are popped, then zeros. table */
static const struct {
    unsigned int cpl, iopl;
    uint64_t changes;
} popf_cases[] = {
    {0, 0, X86_FLAG_IF | X86_FLAG_IOPL},
    {0, 3, X86_FLAG_IF | X86_FLAG_IOPL},
    {3, 3, X86_FLAG_IF},
    {3, 2, 0},
    {3, 0, 0},
};

static void test_popf_by_privilege(void)
{
    const uint64_t always =
        X86_FLAGS_STATUS | X86_FLAG_TF | X86_FLAG_DF | X86_FLAG_NT | X86_FLAG_AC | X86_FLAG_ID;
    for (size_t n = 0; n < ARRAY_SIZE(popf_cases); n++) {
        unit_context("case %zu", n);
        START(CPU_ENV_LONG, "\x9D");
        struct x86_cpu *cpu = env.cpu;
        uint64_t iopl = (uint64_t)popf_cases[n].iopl << X86_FLAG_IOPL_SHIFT;
        if (popf_cases[n].cpl == 3)
            cpu_env_set_cpl(&env, 3);
        cpu->gpr[RSP] = CPU_ENV_DATA;
        cpu->rflags = X86_FLAG_ONE | iopl;
        cpu_env_put64(&env, CPU_ENV_DATA, 0x3FFFFF);
        CHECK_EQ(cpu_env_step(&env), X86_JUMP); /* TF, AC */
        uint64_t changes = always | popf_cases[n].changes;
        CHECK_EQ(cpu->rflags, (X86_FLAG_ONE | iopl | changes));
        cpu->rip = CPU_ENV_CODE;
        cpu->gpr[RSP] = CPU_ENV_DATA;
        cpu_env_put64(&env, CPU_ENV_DATA, 0);
        cpu->rflags |= X86_FLAG_RF;
        cpu->rflags &= ~X86_FLAG_AC; /* the slow path is not what is tested here */
        x86_update_mode(cpu);
        CHECK_EQ(cpu_env_step(&env), X86_JUMP);
        CHECK_EQ(cpu->rflags, (X86_FLAG_ONE | iopl) & ~(popf_cases[n].changes & X86_FLAG_IOPL));
        cpu_env_destroy(&env);
    }
    unit_context(NULL);
}

/* Virtual-8086 mode: what PUSHF and POPF do by IOPL, CR4.VME and operand size (SDM 3B 20.2.7,
 * 20.3). table */
static const struct {
    const char *code;
    size_t size;
    unsigned int iopl;
    bool vme;
    uint64_t flags; /* before, besides VM and IOPL */
    uint16_t popped;
    bool fault;
    uint64_t after; /* POPF: VIF and IF */
} v86_cases[] = {
    {"\x9D", 1, 3, false, 0, 0x200, false, X86_FLAG_IF},
    {"\x9D", 1, 0, false, 0, 0x200, true, 0},
    {"\x66\x9D", 2, 0, true, 0, 0x200, true, 0},
    {"\x9D", 1, 0, true, 0, 0x200, false, X86_FLAG_VIF},
    {"\x9D", 1, 0, true, X86_FLAG_VIF, 0, false, 0},
    {"\x9D", 1, 0, true, X86_FLAG_VIP, 0x200, true, 0},
    {"\x9D", 1, 0, true, X86_FLAG_VIP, 0, false, 0},
    {"\x9D", 1, 0, true, 0, 0x100, true, 0},
    {"\x9C", 1, 0, false, 0, 0, true, 0},
    {"\x66\x9C", 2, 0, true, 0, 0, true, 0},
    {"\x9C", 1, 0, true, X86_FLAG_VIF, 0, false, X86_FLAG_VIF},
    {"\x9C", 1, 3, false, X86_FLAG_IF, 0, false, X86_FLAG_IF},
};

static void test_flags_in_v86(void)
{
    for (size_t n = 0; n < ARRAY_SIZE(v86_cases); n++) {
        unit_context("case %zu", n);
        start(CPU_ENV_PROTECTED, v86_cases[n].code, v86_cases[n].size);
        if (v86_cases[n].vme)
            env.cpu->cr4 |= X86_CR4_VME;
        enter_v86(v86_cases[n].iopl, v86_cases[n].flags);
        cpu_env_put16(&env, 0x8000, v86_cases[n].popped);
        int status = cpu_env_step(&env);
        CHECK_EQ(status == X86_FAULT, v86_cases[n].fault);
        if (v86_cases[n].fault) {
            CHECK_EQ(env.cpu->fault.vector, X86_GP);
            CHECK_EQ(env.cpu->gpr[RSP], 0x8000);
        } else {
            CHECK_EQ(env.cpu->rflags & (X86_FLAG_IF | X86_FLAG_VIF), v86_cases[n].after);
            CHECK_EQ(env.cpu->rflags >> X86_FLAG_IOPL_SHIFT & 3, v86_cases[n].iopl);
        }
        if (!v86_cases[n].fault && v86_cases[n].code[0] == '\x9C') {
            uint16_t image = cpu_env_get16(&env, 0x7FFE);
            CHECK_EQ(image & X86_FLAG_IOPL, X86_FLAG_IOPL);
            CHECK_EQ(image & X86_FLAG_IF, X86_FLAG_IF);
        }
        cpu_env_destroy(&env);
    }
    unit_context(NULL);
}

int main(void)
{
    UNIT_RUN(test_push_sp_and_wrap);
    UNIT_RUN(test_pusha_popa_16);
    UNIT_RUN(test_faults_change_no_register);
    UNIT_RUN(test_pop_memory_uses_new_sp);
    UNIT_RUN(test_enter_copies_frames);
    UNIT_RUN(test_popf_by_privilege);
    UNIT_RUN(test_flags_in_v86);
    return unit_done();
}
