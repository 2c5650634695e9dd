/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Far JMP, CALL, RET and IRET, call gates, SYSCALL and SYSENTER with their returns, by executing
 * instructions.
 */
#include <string.h>

#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"
#include "x86/segment.h"

static struct cpu_env env;

static void start(enum cpu_env_mode mode, unsigned int cpl)
{
    if (env.cpu)
        cpu_env_destroy(&env);
    cpu_env_create(&env, mode);
    if (mode != CPU_ENV_REAL)
        cpu_env_set_cpl(&env, cpl);
}

static void code(const char *bytes, size_t size)
{
    cpu_env_code(&env, bytes, size);
}

#define CODE(bytes) code(bytes, sizeof(bytes) - 1)

static void check_fault(uint8_t vector, uint32_t error)
{
    CHECK_EQ(env.cpu->fault.vector, vector);
    CHECK_EQ(env.cpu->fault.error, error);
}

/* JMP or CALL selector:offset with 32-bit operands; through memory in 64-bit mode. */
static int transfer(bool call, uint16_t selector, uint32_t offset)
{
    if (env.cpu->mode == INSN_MODE_64) {
        cpu_env_put32(&env, CPU_ENV_DATA, offset);
        cpu_env_put16(&env, CPU_ENV_DATA + 4, selector);
        env.cpu->gpr[RBX] = CPU_ENV_DATA;
        code(call ? "\xFF\x1B" : "\xFF\x2B", 2);
    } else {
        uint8_t bytes[7] = {call ? 0x9A : 0xEA};
        store_u32(bytes + 1, offset);
        store_u16(bytes + 5, selector);
        cpu_env_code(&env, bytes, 7);
    }
    return cpu_env_step(&env);
}

static void set_descriptor(uint16_t selector, uint32_t base, uint32_t limit, uint32_t attr)
{
    cpu_env_set_descriptor(&env, selector, cpu_env_descriptor(base, limit, attr));
}

/* --- code segments --- */

static void test_real(void)
{
    start(CPU_ENV_REAL, 0);
    struct x86_cpu *cpu = env.cpu;
    CODE("\x9A\x34\x12\x00\x20"); /* call 2000:1234 */
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(cpu->seg[SEG_CS].base, 0x20000);
    CHECK_EQ(cpu->rip, 0x1234);
    CHECK_EQ(cpu_env_get16(&env, 0xF000 - 4), 5);
    CHECK_EQ(cpu_env_get16(&env, 0xF000 - 2), CPU_ENV_CODE >> 4);
    memcpy(env.ram + 0x21234, "\xCA\x06\x00", 3); /* retf 6 */
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(cpu->rip, 5);
    CHECK_EQ(cpu->seg[SEG_CS].selector, CPU_ENV_CODE >> 4);
    CHECK_EQ(cpu->gpr[RSP], 0xF006);
    CODE("\x66\xEA\x00\x00\x01\x00\x00\x20"); /* jmp 2000:10000 */
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    check_fault(X86_GP, 0);
    cpu->gpr[RSP] = 0x1000;
    cpu_env_put16(&env, 0x1000, 0x11);
    cpu_env_put16(&env, 0x1002, 0x3000);
    cpu_env_put16(&env, 0x1004, 0xFFFF);
    cpu->nmi_masked = true;
    CODE("\xCF");
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(cpu->rip, 0x11);
    CHECK_EQ(cpu->rflags, 0x7FD7);
    CHECK(!cpu->nmi_masked);
}

static const struct direct_case {
    uint8_t cpl, rpl;
    uint32_t attr;
    uint32_t limit;
    uint8_t fault;
    uint32_t error;
} direct_cases[] = {
    {0, 0, 0x9B, 0xFFFFF, 0, 0},
    {0, 3, 0x9B, 0xFFFFF, X86_GP, 0x100},
    {3, 0, 0xFB, 0xFFFFF, 0, 0}, /* RPL below CPL is fine, it becomes CPL */
    {3, 3, 0x9B, 0xFFFFF, X86_GP, 0x100},
    {3, 3, 0x9F, 0xFFFFF, 0, 0},          /* conforming */
    {0, 0, 0xFF, 0xFFFFF, X86_GP, 0x100}, /* conforming, but outer */
    {0, 0, 0xFB, 0xFFFFF, X86_GP, 0x100},
    {0, 0, 0x93, 0xFFFFF, X86_GP, 0x100},
    {0, 0, 0x1B, 0xFFFFF, X86_NP, 0x100},
    {0, 0, 0x8E, 0xFFFFF, X86_GP, 0x100}, /* an interrupt gate */
    {0, 0, 0x82, 0xFFFFF, X86_GP, 0x100}, /* an LDT */
    {0, 0, 0x8B, 0xFFFFF, X86_GP, 0x100}, /* a busy TSS */
    {0, 0, 0x9B, 0x1FFF, X86_GP, 0},      /* offset 0x2000 beyond the limit */
};

static void check_direct(enum cpu_env_mode mode, bool call)
{
    for (size_t n = 0; n < ARRAY_SIZE(direct_cases); n++) {
        const struct direct_case *c = &direct_cases[n];
        unit_context("mode %d call %d case %zu", mode, call, n);
        start(mode, c->cpl);
        struct x86_cpu *cpu = env.cpu;
        set_descriptor(0x100, 0x30000, c->limit, c->attr | X86_ATTR_DB);
        uint64_t rsp = cpu->gpr[RSP];
        uint16_t cs = cpu->seg[SEG_CS].selector;
        int s = transfer(call, 0x100 | c->rpl, 0x2000);
        CHECK_EQ(s, c->fault ? X86_FAULT : X86_JUMP);
        if (c->fault) {
            check_fault(c->fault, c->error);
            CHECK_EQ(cpu->rip, CPU_ENV_CODE);
            CHECK_EQ(cpu->gpr[RSP], rsp);
            CHECK_EQ(cpu->seg[SEG_CS].selector, cs);
            continue;
        }
        CHECK_EQ(cpu->rip, 0x2000);
        CHECK_EQ(cpu->seg[SEG_CS].selector, 0x100 | c->cpl);
        CHECK_EQ(cpu->cpl, c->cpl);
        CHECK_EQ(cpu->mode, INSN_MODE_32);
        CHECK_EQ(cpu->gpr[RSP], call ? rsp - 8 : rsp);
        if (call) {
            CHECK_EQ(cpu_env_get32(&env, rsp - 4), cs);
            CHECK_EQ(cpu_env_get32(&env, rsp - 8), CPU_ENV_CODE + (mode == CPU_ENV_LONG ? 2 : 7));
        }
    }
    unit_context(NULL);
}

static void test_direct(void)
{
    check_direct(CPU_ENV_PROTECTED, false);
    check_direct(CPU_ENV_PROTECTED, true);
    check_direct(CPU_ENV_LONG, false);
    check_direct(CPU_ENV_LONG, true);
}

static void test_direct_more(void)
{
    start(CPU_ENV_LONG, 0);
    CHECK_EQ(transfer(false, 3, 0), X86_FAULT);
    check_fault(X86_GP, 0);
    CHECK_EQ(transfer(false, 0x4000, 0), X86_FAULT);
    check_fault(X86_GP, 0x4000);
    set_descriptor(0x100, 0, 0xFFFFF, 0x9B | X86_ATTR_DB | X86_ATTR_L); /* L and D */
    CHECK_EQ(transfer(false, 0x100, 0), X86_FAULT);
    check_fault(X86_GP, 0x100);
    /* m16:64 to a non-canonical address, then to a good one */
    env.cpu->gpr[RBX] = CPU_ENV_DATA;
    cpu_env_put64(&env, CPU_ENV_DATA, 0x800000000000);
    cpu_env_put16(&env, CPU_ENV_DATA + 8, CPU_ENV_SEL_CODE64);
    CODE("\x48\xFF\x2B");
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    check_fault(X86_GP, 0);
    cpu_env_put64(&env, CPU_ENV_DATA, 0xFFFF800000000000);
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(env.cpu->rip, 0xFFFF800000000000);
}

/* --- call gates --- */

static void set_gate(uint16_t selector, uint8_t type, uint8_t dpl, uint8_t parameters,
                     uint16_t target, uint64_t offset)
{
    uint64_t low = (offset & 0xFFFF) | (uint64_t)target << 16 | (uint64_t)parameters << 32 |
                   (uint64_t)(0x80u | (unsigned)dpl << 5 | type) << 40 |
                   (offset >> 16 & 0xFFFF) << 48;
    cpu_env_set_descriptor(&env, selector, low);
    if (env.mode == CPU_ENV_LONG)
        cpu_env_set_descriptor(&env, selector + 8, offset >> 32);
}

static void test_gate_inner(void)
{
    start(CPU_ENV_PROTECTED, 3);
    struct x86_cpu *cpu = env.cpu;
    set_gate(0x110, 12, 3, 2, CPU_ENV_SEL_CODE32, 0x22000);
    cpu_env_put32(&env, CPU_ENV_STACK3, 0x11111111);
    cpu_env_put32(&env, CPU_ENV_STACK3 + 4, 0x22222222);
    CHECK_EQ(transfer(true, 0x113, 0xDEADBEEF), X86_JUMP);
    uint32_t sp = CPU_ENV_STACK_TSS - 24;
    CHECK_EQ(cpu->cpl, 0);
    CHECK_EQ(cpu->rip, 0x22000);
    CHECK_EQ(cpu->gpr[RSP], sp);
    static const uint32_t frame[] = {
        CPU_ENV_CODE + 7, CPU_ENV_SEL_USER_CODE32 | 3, 0x11111111, 0x22222222,
        CPU_ENV_STACK3,   CPU_ENV_SEL_USER_DATA | 3,
    };
    for (unsigned int n = 0; n < 6; n++)
        CHECK_EQ(cpu_env_get32(&env, sp + 4 * n), frame[n]);
    /* RETF 8: parameters leave both stacks; data segments of CPL 0 become null */
    CHECK_EQ(x86_segment_load(cpu, SEG_ES, CPU_ENV_SEL_DATA), X86_OK);
    memcpy(env.ram + 0x22000, "\xCA\x08\x00", 3);
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(cpu->cpl, 3);
    CHECK_EQ(cpu->rip, CPU_ENV_CODE + 7);
    CHECK_EQ(cpu->gpr[RSP], CPU_ENV_STACK3 + 8);
    CHECK_EQ(cpu->seg[SEG_SS].selector, CPU_ENV_SEL_USER_DATA | 3);
    CHECK(cpu->seg[SEG_ES].attr & X86_ATTR_UNUSABLE);
    CHECK_EQ(cpu->seg[SEG_DS].selector, CPU_ENV_SEL_USER_DATA | 3);
}

static void test_gate_long(void)
{
    start(CPU_ENV_LONG, 3);
    struct x86_cpu *cpu = env.cpu;
    set_gate(0x110, 12, 3, 0, CPU_ENV_SEL_CODE64, 0x22000);
    CHECK_EQ(transfer(true, 0x110, 0), X86_JUMP);
    uint64_t sp = CPU_ENV_STACK_TSS - 32;
    CHECK_EQ(cpu->gpr[RSP], sp);
    CHECK_EQ(cpu->seg[SEG_SS].selector, 0);
    CHECK_EQ(cpu_env_get64(&env, sp), CPU_ENV_CODE + 2);
    CHECK_EQ(cpu_env_get64(&env, sp + 8), CPU_ENV_SEL_USER_CODE64 | 3);
    CHECK_EQ(cpu_env_get64(&env, sp + 16), CPU_ENV_STACK3);
    CHECK_EQ(cpu_env_get64(&env, sp + 24), CPU_ENV_SEL_USER_DATA | 3);
    memcpy(env.ram + 0x22000, "\x48\xCB", 2); /* retf with 64-bit operands */
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(cpu->cpl, 3);
    CHECK_EQ(cpu->gpr[RSP], CPU_ENV_STACK3);
    /* the same from compatibility mode, pushing 64-bit items */
    cpu_env_set_compat(&env);
    CHECK_EQ(transfer(true, 0x110, 0), X86_JUMP);
    CHECK_EQ(cpu->mode, INSN_MODE_64);
    CHECK_EQ(cpu_env_get64(&env, sp + 8), CPU_ENV_SEL_USER_CODE32 | 3);
}

static void test_gate_faults(void)
{
    static const struct {
        uint8_t cpl, rpl, dpl;
        bool call;
        uint16_t target;
        uint8_t fault;
        uint32_t error;
    } cases[] = {
        {3, 0, 0, true, CPU_ENV_SEL_CODE64, X86_GP, 0x110}, /* DPL < CPL */
        {0, 3, 0, true, CPU_ENV_SEL_CODE64, X86_GP, 0x110}, /* DPL < RPL */
        {3, 3, 3, true, 0, X86_GP, 0},                      /* null target */
        {3, 3, 3, true, 0x1000, X86_GP, 0x1000},
        {3, 3, 3, true, CPU_ENV_SEL_CODE32, X86_GP, CPU_ENV_SEL_CODE32},
        {3, 3, 3, true, CPU_ENV_SEL_DATA, X86_GP, CPU_ENV_SEL_DATA},
        {3, 3, 3, false, CPU_ENV_SEL_CODE64, X86_GP, CPU_ENV_SEL_CODE64}, /* JMP stays */
        {0, 0, 3, true, CPU_ENV_SEL_USER_CODE64, X86_GP, CPU_ENV_SEL_USER_CODE64},
        {0, 0, 0, true, CPU_ENV_SEL_CODE64, 0, 0},
        {0, 0, 0, false, CPU_ENV_SEL_CODE64, 0, 0},
        {3, 3, 3, true, CPU_ENV_SEL_CODE64, 0, 0},
    };
    for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
        unit_context("case %zu", n);
        start(CPU_ENV_LONG, cases[n].cpl);
        set_gate(0x110, 12, cases[n].dpl, 0, cases[n].target, 0x22000);
        int s = transfer(cases[n].call, 0x110 | cases[n].rpl, 0);
        CHECK_EQ(s, cases[n].fault ? X86_FAULT : X86_JUMP);
        if (cases[n].fault)
            check_fault(cases[n].fault, cases[n].error);
    }
    unit_context(NULL);
    start(CPU_ENV_LONG, 0);
    set_gate(0x110, 12, 3, 0, CPU_ENV_SEL_CODE64, 0x22000);
    cpu_env_set_descriptor(&env, 0x118, (uint64_t)12 << 40); /* type in the upper half */
    CHECK_EQ(transfer(true, 0x110, 0), X86_FAULT);
    check_fault(X86_GP, 0x110);
    set_gate(0x110, 4, 3, 0, CPU_ENV_SEL_CODE64, 0x22000); /* no 16-bit gates here */
    CHECK_EQ(transfer(true, 0x110, 0), X86_FAULT);
    check_fault(X86_GP, 0x110);
    CHECK_EQ(transfer(true, CPU_ENV_SEL_TSS, 0), X86_FAULT); /* no tasks either */
    check_fault(X86_GP, CPU_ENV_SEL_TSS);
}

/* --- returns --- */

static const struct iret_case {
    const char *what;
    uint8_t cpl;
    uint16_t cs, ss;
    uint64_t rip;
    uint8_t fault;
    uint32_t error;
} iret_cases[] = {
    {"same", 0, CPU_ENV_SEL_CODE64, CPU_ENV_SEL_DATA, 0x1000, 0, 0},
    {"same, null ss", 0, CPU_ENV_SEL_CODE64, 0, 0x1000, 0, 0},
    {"null ss with rpl", 0, CPU_ENV_SEL_CODE64, 3, 0x1000, X86_GP, 0},
    {"null cs", 0, 3, CPU_ENV_SEL_DATA, 0x1000, X86_GP, 0},
    {"outer", 0, CPU_ENV_SEL_USER_CODE64 | 3, CPU_ENV_SEL_USER_DATA | 3, 0x1000, 0, 0},
    {"outer, compat", 0, CPU_ENV_SEL_USER_CODE32 | 3, CPU_ENV_SEL_USER_DATA | 3, 0x1000, 0, 0},
    {"outer, null ss", 0, CPU_ENV_SEL_USER_CODE64 | 3, 3, 0x1000, X86_GP, 0},
    {"outer, ss rpl", 0, CPU_ENV_SEL_USER_CODE64 | 3, CPU_ENV_SEL_USER_DATA, 0x1000, X86_GP,
     CPU_ENV_SEL_USER_DATA},
    {"outer, ss dpl", 0, CPU_ENV_SEL_USER_CODE64 | 3, CPU_ENV_SEL_DATA | 3, 0x1000, X86_GP,
     CPU_ENV_SEL_DATA},
    {"cs dpl != rpl", 0, CPU_ENV_SEL_CODE64 | 3, CPU_ENV_SEL_USER_DATA | 3, 0x1000, X86_GP,
     CPU_ENV_SEL_CODE64},
    {"inner", 3, CPU_ENV_SEL_CODE64, CPU_ENV_SEL_DATA, 0x1000, X86_GP, CPU_ENV_SEL_CODE64},
    {"not code", 0, CPU_ENV_SEL_DATA, CPU_ENV_SEL_DATA, 0x1000, X86_GP, CPU_ENV_SEL_DATA},
    {"rip", 0, CPU_ENV_SEL_CODE64, CPU_ENV_SEL_DATA, 0x800000000000, X86_GP, 0},
    {"rip, compat", 0, CPU_ENV_SEL_CODE32, CPU_ENV_SEL_DATA, 0x100000000, X86_GP, 0},
    {"compat, null ss", 0, CPU_ENV_SEL_CODE32, 0, 0x1000, X86_GP, 0},
    {"cs beyond", 0, 0x2000, CPU_ENV_SEL_DATA, 0x1000, X86_GP, 0x2000},
    {"ss beyond", 0, CPU_ENV_SEL_CODE64, 0x2000, 0x1000, X86_GP, 0x2000},
};

static void put_iret_frame(uint64_t rip, uint64_t cs, uint64_t flags, uint64_t rsp, uint64_t ss)
{
    const uint64_t frame[5] = {rip, cs, flags, rsp, ss};
    for (unsigned int n = 0; n < 5; n++)
        cpu_env_put64(&env, env.cpu->gpr[RSP] + 8 * n, frame[n]);
}

static void test_iretq(void)
{
    for (size_t n = 0; n < ARRAY_SIZE(iret_cases); n++) {
        const struct iret_case *c = &iret_cases[n];
        unit_context("%s", c->what);
        start(CPU_ENV_LONG, c->cpl);
        struct x86_cpu *cpu = env.cpu;
        uint64_t rsp = cpu->gpr[RSP] -= 0x100;
        put_iret_frame(c->rip, c->cs, X86_FLAG_IF | X86_FLAG_ZF | 2, 0x65432, c->ss);
        cpu->nmi_masked = true;
        CODE("\x48\xCF");
        int s = cpu_env_step(&env);
        CHECK_EQ(s, c->fault ? X86_FAULT : X86_JUMP);
        CHECK(!cpu->nmi_masked); /* also if it faulted */
        if (c->fault) {
            check_fault(c->fault, c->error);
            CHECK_EQ(cpu->rip, CPU_ENV_CODE);
            CHECK_EQ(cpu->gpr[RSP], rsp);
            CHECK_EQ(cpu->rflags, 2);
            continue;
        }
        CHECK_EQ(cpu->rip, c->rip);
        CHECK_EQ(cpu->gpr[RSP], 0x65432);
        CHECK_EQ(cpu->seg[SEG_CS].selector, c->cs);
        CHECK_EQ(cpu->seg[SEG_SS].selector, c->ss);
        CHECK_EQ(cpu->cpl, c->cs & 3);
        CHECK_EQ(cpu->rflags, X86_FLAG_IF | X86_FLAG_ZF | 2);
        CHECK_EQ(cpu->mode,
                 c->cs >> 3 == CPU_ENV_SEL_USER_CODE32 >> 3 ? INSN_MODE_32 : INSN_MODE_64);
        CHECK_EQ(cpu->seg[SEG_DS].attr & X86_ATTR_UNUSABLE,
                 (c->cs & 3) > c->cpl ? X86_ATTR_UNUSABLE : 0);
    }
    unit_context(NULL);
}

/* What IRET may change in RFLAGS, by CPL and IOPL. */
static void test_iret_flags(void)
{
    static const struct {
        uint8_t cpl, iopl;
        uint64_t changed;
    } cases[] = {
        {0, 0, 0x3C7FD5 & ~X86_FLAG_VM & ~X86_FLAG_RF},
        {3, 0, 0x244DD5},
        {3, 3, 0x244FD5},
    };
    for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
        unit_context("case %zu", n);
        start(CPU_ENV_LONG, cases[n].cpl);
        struct x86_cpu *cpu = env.cpu;
        uint64_t before = (uint64_t)cases[n].iopl << X86_FLAG_IOPL_SHIFT | 2;
        cpu->gpr[RSP] -= 0x100;
        cpu->rflags = before;
        put_iret_frame(0x1000, cpu->seg[SEG_CS].selector, ~before & 0xFFFFFFFF, 0x65432,
                       cpu->seg[SEG_SS].selector);
        CODE("\x48\xCF");
        CHECK_EQ(cpu_env_step(&env), X86_JUMP);
        CHECK_EQ(cpu->rflags ^ before, cases[n].changed);
    }
    unit_context(NULL);
    /* NT in long mode; RF while a breakpoint is enabled */
    start(CPU_ENV_LONG, 0);
    env.cpu->rflags |= X86_FLAG_NT;
    CODE("\x48\xCF");
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    check_fault(X86_GP, 0);
    env.cpu->rflags = 2;
    env.cpu->dr7 |= 1;
    env.cpu->gpr[RSP] -= 0x100;
    put_iret_frame(0x1000, CPU_ENV_SEL_CODE64, X86_FLAG_RF | 2, 0x65432, 0);
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(env.cpu->rflags, X86_FLAG_RF | 2);
}

static void test_iret_across_pages(void)
{
    start(CPU_ENV_LONG, 0);
    struct x86_cpu *cpu = env.cpu;
    cpu->gpr[RSP] = CPU_ENV_DATA + 0x1000 - 16;
    put_iret_frame(0x1000, CPU_ENV_SEL_CODE64, 2, 0x65432, 0);
    CODE("\x48\xCF");
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(cpu->gpr[RSP], 0x65432);
    /* second page absent: nothing has changed */
    cpu->gpr[RSP] = CPU_ENV_DATA + 0x1000 - 16;
    *cpu_env_pte(&env, CPU_ENV_DATA + 0x1000) = 0;
    x86_tlb_flush(cpu);
    CODE("\x48\xCF");
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    check_fault(X86_PF, 0);
    CHECK_EQ(cpu->gpr[RSP], CPU_ENV_DATA + 0x1000 - 16);
    /* not canonical */
    cpu->gpr[RSP] = 0x800000000000 - 16;
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    check_fault(X86_SS, 0);
}

static void test_iret_protected(void)
{
    /* to CPL 3 and the flags of an outer return, 32-bit */
    start(CPU_ENV_PROTECTED, 0);
    struct x86_cpu *cpu = env.cpu;
    static const uint32_t frame[] = {0x1000, CPU_ENV_SEL_USER_CODE32 | 3, X86_FLAG_IF | 2, 0x65432,
                                     CPU_ENV_SEL_USER_DATA | 3};
    cpu->gpr[RSP] -= 20;
    for (unsigned int n = 0; n < 5; n++)
        cpu_env_put32(&env, CPU_ENV_STACK0 - 20 + 4 * n, frame[n]);
    CODE("\xCF");
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(cpu->cpl, 3);
    CHECK_EQ(cpu->gpr[RSP], 0x65432);
    CHECK_EQ(cpu->rflags, X86_FLAG_IF | 2);
    CHECK(cpu->seg[SEG_DS].attr & X86_ATTR_UNUSABLE);
    /* same level, 16-bit operands: pops 6 bytes, upper flags stay */
    start(CPU_ENV_PROTECTED, 0);
    cpu = env.cpu;
    cpu->rflags |= X86_FLAG_AC | X86_FLAG_ID;
    cpu_env_put16(&env, CPU_ENV_STACK0, 0x1234);
    cpu_env_put16(&env, CPU_ENV_STACK0 + 2, CPU_ENV_SEL_CODE32);
    cpu_env_put16(&env, CPU_ENV_STACK0 + 4, X86_FLAG_ZF);
    CODE("\x66\xCF");
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(cpu->rip, 0x1234);
    CHECK_EQ(cpu->gpr[RSP], CPU_ENV_STACK0 + 6);
    CHECK_EQ(cpu->rflags, X86_FLAG_AC | X86_FLAG_ID | X86_FLAG_ZF | 2);
}

/* --- system calls --- */

static void test_syscall(void)
{
    start(CPU_ENV_LONG, 3);
    struct x86_cpu *cpu = env.cpu;
    cpu->msr.lstar = 0xFFFFFFFF80001000;
    cpu->msr.sfmask = X86_FLAG_IF | X86_FLAG_TF;
    cpu->rflags = X86_FLAG_IF | X86_FLAG_CF | 2;
    CODE("\x0F\x05");
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(cpu->cpl, 0);
    CHECK_EQ(cpu->rip, 0xFFFFFFFF80001000);
    CHECK_EQ(cpu->gpr[RCX], CPU_ENV_CODE + 2);
    CHECK_EQ(cpu->gpr[R11], X86_FLAG_IF | X86_FLAG_CF | 2);
    CHECK_EQ(cpu->rflags, X86_FLAG_CF | 2);
    CHECK_EQ(cpu->seg[SEG_CS].selector, CPU_ENV_SEL_CODE64);
    CHECK_EQ(cpu->seg[SEG_SS].selector, CPU_ENV_SEL_DATA);
    /* back, to 64-bit code */
    CODE("\x48\x0F\x07");
    cpu->gpr[R11] = ~(uint64_t)0;
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(cpu->cpl, 3);
    CHECK_EQ(cpu->rip, CPU_ENV_CODE + 2);
    CHECK_EQ(cpu->rflags, 0x3C7FD7);
    CHECK_EQ(cpu->seg[SEG_CS].selector, CPU_ENV_SEL_USER_CODE64 | 3);
    CHECK_EQ(cpu->seg[SEG_SS].selector, CPU_ENV_SEL_USER_DATA | 3);
    CHECK_EQ(cpu->mode, INSN_MODE_64);
    /* to 32-bit code */
    cpu->rflags = 2;
    cpu_env_set_cpl(&env, 0);
    cpu->gpr[RCX] = 0xFFFFFFFF00012345;
    CODE("\x0F\x07");
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(cpu->rip, 0x12345);
    CHECK_EQ(cpu->mode, INSN_MODE_32);
    CHECK_EQ(cpu->seg[SEG_CS].selector, CPU_ENV_SEL_USER_CODE32 | 3);
    /* STAR with an RPL: CS loses it, SS does not (SDM 2B, SYSCALL) */
    start(CPU_ENV_LONG, 3);
    cpu = env.cpu;
    cpu->msr.star |= UINT64_C(3) << 32;
    CODE("\x0F\x05");
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(cpu->cpl, 0);
    CHECK_EQ(cpu->seg[SEG_CS].selector, CPU_ENV_SEL_CODE64);
    CHECK_EQ(cpu->seg[SEG_SS].selector, CPU_ENV_SEL_DATA | 3);
}

static void test_syscall_faults(void)
{
    start(CPU_ENV_LONG, 0);
    struct x86_cpu *cpu = env.cpu;
    cpu->gpr[RCX] = 0x800000000000;
    CODE("\x48\x0F\x07");
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    check_fault(X86_GP, 0);
    CHECK_EQ(cpu->cpl, 0);
    cpu_env_set_cpl(&env, 3);
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    check_fault(X86_GP, 0);
    cpu->efer &= ~X86_EFER_SCE;
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    CHECK_EQ(cpu->fault.vector, X86_UD);
    cpu->efer |= X86_EFER_SCE;
    cpu_env_set_compat(&env);
    CODE("\x0F\x05");
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    CHECK_EQ(cpu->fault.vector, X86_UD);
}

static void test_sysenter(void)
{
    static const enum cpu_env_mode modes[] = {CPU_ENV_PROTECTED, CPU_ENV_LONG};
    for (size_t n = 0; n < 2; n++) {
        bool wide = modes[n] == CPU_ENV_LONG;
        unit_context("mode %d", modes[n]);
        start(modes[n], 3);
        struct x86_cpu *cpu = env.cpu;
        CODE("\x0F\x34");
        CHECK_EQ(cpu_env_step(&env), X86_FAULT); /* SYSENTER_CS is 0 */
        check_fault(X86_GP, 0);
        cpu->msr.sysenter_cs = CPU_ENV_SEL_CODE64;
        cpu->msr.sysenter_esp = 0x1234567812345678;
        cpu->msr.sysenter_eip = wide ? 0xFFFF800012345000 : 0x12345000;
        cpu->rflags |= X86_FLAG_IF;
        CHECK_EQ(cpu_env_step(&env), X86_JUMP);
        CHECK_EQ(cpu->cpl, 0);
        CHECK_EQ(cpu->rip, cpu->msr.sysenter_eip);
        CHECK_EQ(cpu->gpr[RSP], wide ? 0x1234567812345678 : 0x12345678);
        CHECK_EQ(cpu->rflags, 2);
        CHECK_EQ(cpu->mode, wide ? INSN_MODE_64 : INSN_MODE_32);
        cpu->gpr[RCX] = 0x65432;
        cpu->gpr[RDX] = 0x11111;
        CODE("\x0F\x35");
        CHECK_EQ(cpu_env_step(&env), X86_JUMP);
        CHECK_EQ(cpu->cpl, 3);
        CHECK_EQ(cpu->gpr[RSP], 0x65432);
        CHECK_EQ(cpu->rip, 0x11111);
        CHECK_EQ(cpu->seg[SEG_CS].selector, (CPU_ENV_SEL_CODE64 + 16) | 3);
        CHECK_EQ(cpu->seg[SEG_SS].selector, (CPU_ENV_SEL_CODE64 + 24) | 3);
        CHECK_EQ(cpu->mode, INSN_MODE_32);
    }
    unit_context(NULL);
    start(CPU_ENV_LONG, 0);
    env.cpu->msr.sysenter_cs = CPU_ENV_SEL_CODE64;
    env.cpu->gpr[RDX] = 0x800000000000;
    CODE("\x48\x0F\x35");
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    check_fault(X86_GP, 0);
    env.cpu->gpr[RDX] = 0x1000;
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(env.cpu->mode, INSN_MODE_64);
    CHECK_EQ(env.cpu->seg[SEG_CS].selector, (CPU_ENV_SEL_CODE64 + 32) | 3);
}

/* --- small instructions of the group --- */

static void test_small(void)
{
    start(CPU_ENV_PROTECTED, 0);
    struct x86_cpu *cpu = env.cpu;
    cpu_env_all_gates(&env);
    CODE("\x0F\x0B"); /* ud2 */
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    CHECK_EQ(cpu->fault.vector, X86_UD);
    CODE("\x0F\xAA"); /* rsm */
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    CHECK_EQ(cpu->fault.vector, X86_UD);
    CODE("\xCE"); /* into */
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    cpu->rflags |= X86_FLAG_OF;
    CODE("\xCE");
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(cpu->rip, CPU_ENV_HANDLERS + 16 * X86_OF);
    CHECK_EQ(cpu_env_get32(&env, cpu->gpr[RSP]), CPU_ENV_CODE + 1);
    /* bound ecx, [ebx]: -5 .. 10 */
    static const struct {
        uint32_t index;
        bool ok;
    } bounds[] = {{0, true}, {10, true}, {11, false}, {(uint32_t)-5, true}, {(uint32_t)-6, false}};
    cpu->gpr[RBX] = CPU_ENV_DATA;
    cpu_env_put32(&env, CPU_ENV_DATA, (uint32_t)-5);
    cpu_env_put32(&env, CPU_ENV_DATA + 4, 10);
    for (size_t n = 0; n < ARRAY_SIZE(bounds); n++) {
        unit_context("bound %zu", n);
        cpu->gpr[RCX] = bounds[n].index;
        CODE("\x62\x0B");
        CHECK_EQ(cpu_env_step(&env), bounds[n].ok ? X86_OK : X86_FAULT);
        if (!bounds[n].ok)
            CHECK_EQ(cpu->fault.vector, X86_BR);
    }
    unit_context(NULL);
}

int main(void)
{
    UNIT_RUN(test_real);
    UNIT_RUN(test_direct);
    UNIT_RUN(test_direct_more);
    UNIT_RUN(test_gate_inner);
    UNIT_RUN(test_gate_long);
    UNIT_RUN(test_gate_faults);
    UNIT_RUN(test_iretq);
    UNIT_RUN(test_iret_flags);
    UNIT_RUN(test_iret_across_pages);
    UNIT_RUN(test_iret_protected);
    UNIT_RUN(test_syscall);
    UNIT_RUN(test_syscall_faults);
    UNIT_RUN(test_sysenter);
    UNIT_RUN(test_small);
    cpu_env_destroy(&env);
    return unit_done();
}
