/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Delivery of events: real mode, protected mode with 16- and 32-bit gates, virtual-8086 mode, long
 * mode with IST; error codes; double and triple faults; what arrives from outside.
 */
#include "core/err.h"
#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"
#include "x86/level.h"
#include "x86/segment.h"

static struct cpu_env env;

static uint64_t handler(uint8_t vector)
{
    return CPU_ENV_HANDLERS + vector * 16u;
}

static void start(enum cpu_env_mode mode, unsigned int cpl)
{
    if (env.cpu)
        cpu_env_destroy(&env);
    cpu_env_create(&env, mode);
    cpu_env_all_gates(&env);
    if (mode != CPU_ENV_REAL)
        cpu_env_set_cpl(&env, cpl);
    env.cpu->rip = 0x12345;
    env.cpu->rflags |= X86_FLAG_IF | X86_FLAG_CF;
}

static int deliver(enum x86_event_kind kind, uint8_t vector)
{
    return x86_deliver(env.cpu, kind, vector, false, 0);
}

static void check_fault(uint8_t vector, uint32_t error)
{
    CHECK_EQ(env.cpu->fault.vector, vector);
    CHECK_EQ(env.cpu->fault.error, error);
}

/* --- real mode --- */

static void test_real(void)
{
    start(CPU_ENV_REAL, 0);
    struct x86_cpu *cpu = env.cpu;
    cpu->rip = 0x1234;
    cpu->rflags |= X86_FLAG_TF | X86_FLAG_AC;
    CHECK_EQ(deliver(X86_EVENT_INT_N, 0x21), X86_JUMP);
    CHECK_EQ(cpu->seg[SEG_CS].selector, handler(0x21) >> 4);
    CHECK_EQ(cpu->seg[SEG_CS].base, handler(0x21));
    CHECK_EQ(cpu->rip, 0);
    CHECK_EQ(cpu->gpr[RSP], 0xF000 - 6);
    CHECK_EQ(cpu_env_get16(&env, 0xF000 - 6), 0x1234);
    CHECK_EQ(cpu_env_get16(&env, 0xF000 - 4), CPU_ENV_CODE >> 4);
    CHECK_EQ(cpu_env_get16(&env, 0xF000 - 2), X86_FLAG_IF | X86_FLAG_TF | X86_FLAG_CF | 2);
    CHECK_EQ(cpu->rflags, X86_FLAG_CF | 2);
    /* the IDTR's limit counts here too; then the double fault finds nothing, and shutdown */
    cpu->idtr.limit = 0x21 * 4 + 2;
    CHECK_EQ(deliver(X86_EVENT_INT_N, 0x21), X86_FAULT);
    CHECK_EQ(cpu->fault.vector, X86_GP);
    cpu->idtr.limit = 8 * 4;
    CHECK_EQ(x86_raise(cpu), X86_EXIT);
    CHECK_EQ(cpu->activity, X86_SHUTDOWN);
}

/* --- protected mode --- */

static void test_protected_same_level(void)
{
    start(CPU_ENV_PROTECTED, 0);
    struct x86_cpu *cpu = env.cpu;
    cpu->rflags |= X86_FLAG_TF | X86_FLAG_NT;
    CHECK_EQ(x86_deliver(cpu, X86_EVENT_EXCEPTION, X86_GP, true, 0xABC), X86_JUMP);
    uint32_t sp = CPU_ENV_STACK0 - 16;
    CHECK_EQ(cpu->gpr[RSP], sp);
    CHECK_EQ(cpu_env_get32(&env, sp), 0xABC);
    CHECK_EQ(cpu_env_get32(&env, sp + 4), 0x12345);
    CHECK_EQ(cpu_env_get32(&env, sp + 8), CPU_ENV_SEL_CODE32);
    CHECK_EQ(cpu_env_get32(&env, sp + 12),
             X86_FLAG_RF | X86_FLAG_NT | X86_FLAG_TF | X86_FLAG_IF | X86_FLAG_CF | 2);
    CHECK_EQ(cpu->rflags, X86_FLAG_CF | 2);
    CHECK_EQ(cpu->rip, handler(X86_GP));
    CHECK_EQ(cpu->cpl, 0);
}

static void test_protected_inner(void)
{
    start(CPU_ENV_PAGED, 3);
    struct x86_cpu *cpu = env.cpu;
    cpu_env_gate(&env, 0x80, 15, 3, CPU_ENV_SEL_CODE32, handler(0x80), 0);
    CHECK_EQ(deliver(X86_EVENT_INT_N, 0x80), X86_JUMP);
    uint32_t sp = CPU_ENV_STACK_TSS - 20;
    CHECK_EQ(cpu->gpr[RSP], sp);
    CHECK_EQ(cpu->seg[SEG_SS].selector, CPU_ENV_SEL_DATA);
    CHECK_EQ(cpu->seg[SEG_CS].selector, CPU_ENV_SEL_CODE32);
    CHECK_EQ(cpu->cpl, 0);
    CHECK_EQ(cpu_env_get32(&env, sp), 0x12345);
    CHECK_EQ(cpu_env_get32(&env, sp + 4), CPU_ENV_SEL_USER_CODE32 | 3);
    CHECK_EQ(cpu_env_get32(&env, sp + 8), X86_FLAG_IF | X86_FLAG_CF | 2);
    CHECK_EQ(cpu_env_get32(&env, sp + 12), CPU_ENV_STACK3);
    CHECK_EQ(cpu_env_get32(&env, sp + 16), CPU_ENV_SEL_USER_DATA | 3);
    CHECK(cpu->rflags & X86_FLAG_IF); /* a trap gate */
}

static void test_protected_16_bit_gate(void)
{
    start(CPU_ENV_PROTECTED, 3);
    struct x86_cpu *cpu = env.cpu;
    cpu_env_gate(&env, 0x20, 6, 0, CPU_ENV_SEL_CODE16, 0xF3456, 0);
    cpu->gpr[RSP] = 0x12345678;
    CHECK_EQ(deliver(X86_EVENT_EXTERNAL, 0x20), X86_JUMP);
    uint32_t sp = CPU_ENV_STACK_TSS - 10;
    CHECK_EQ(cpu->gpr[RSP], sp);
    CHECK_EQ(cpu->rip, 0x3456);
    CHECK_EQ(cpu_env_get16(&env, sp), 0x2345);
    CHECK_EQ(cpu_env_get16(&env, sp + 6), 0x5678);
    CHECK(!(cpu->rflags & X86_FLAG_IF));
}

/* Which fault the gate, its code segment and the stack give, with which error code. */
static const struct gate_case {
    const char *what;
    uint8_t cpl;
    enum x86_event_kind kind;
    uint8_t type, dpl, present;
    uint32_t code_attr; /* 0: keep the default segment */
    uint8_t fault;      /* 0: delivered */
    uint32_t error;
} gate_cases[] = {
    {"int n, dpl 0, cpl 3", 3, X86_EVENT_INT_N, 14, 0, 1, 0, X86_GP, 0x302},
    {"int3, dpl 0, cpl 3", 3, X86_EVENT_INT3, 14, 0, 1, 0, X86_GP, 0x302},
    {"icebp, dpl 0, cpl 3", 3, X86_EVENT_INT1, 14, 0, 1, 0, 0, 0},
    {"exception, dpl 0, cpl 3", 3, X86_EVENT_EXCEPTION, 14, 0, 1, 0, 0, 0},
    {"int n, dpl 3", 3, X86_EVENT_INT_N, 14, 3, 1, 0, 0, 0},
    {"type", 0, X86_EVENT_INT_N, 12, 3, 1, 0, X86_GP, 0x302},
    {"type, external", 0, X86_EVENT_EXTERNAL, 12, 3, 1, 0, X86_GP, 0x303},
    {"absent", 0, X86_EVENT_INT_N, 14, 3, 0, 0, X86_NP, 0x302},
    {"absent, external", 0, X86_EVENT_EXTERNAL, 14, 3, 0, 0, X86_NP, 0x303},
    {"dpl before presence", 3, X86_EVENT_INT_N, 14, 0, 0, 0, X86_GP, 0x302},
    {"data as code", 0, X86_EVENT_INT_N, 14, 3, 1, 0x93, X86_GP, 0x100},
    {"code absent", 0, X86_EVENT_INT_N, 14, 3, 1, 0x1B, X86_NP, 0x100},
    {"code absent, nmi", 0, X86_EVENT_NMI, 14, 3, 1, 0x1B, X86_NP, 0x101},
    {"outer code", 0, X86_EVENT_EXTERNAL, 14, 3, 1, 0xFB, X86_GP, 0x101},
    {"conforming code from cpl 3", 3, X86_EVENT_INT_N, 14, 3, 1, 0x9F, 0, 0},
};

static void check_gates(enum cpu_env_mode mode)
{
    for (size_t n = 0; n < ARRAY_SIZE(gate_cases); n++) {
        const struct gate_case *c = &gate_cases[n];
        unit_context("mode %d: %s", mode, c->what);
        start(mode, c->cpl);
        struct x86_cpu *cpu = env.cpu;
        uint16_t selector = mode == CPU_ENV_LONG ? CPU_ENV_SEL_CODE64 : CPU_ENV_SEL_CODE32;
        if (c->code_attr) {
            selector = 0x100;
            uint32_t size = mode == CPU_ENV_LONG ? X86_ATTR_L : X86_ATTR_DB;
            cpu_env_set_descriptor(
                &env, selector,
                cpu_env_descriptor(0, 0xFFFFFFFF, c->code_attr | X86_ATTR_G | size));
        }
        cpu_env_gate(&env, 0x60, c->type, c->dpl, selector, handler(0x60), 0);
        if (!c->present)
            env.ram[CPU_ENV_IDT + 0x60 * (mode == CPU_ENV_LONG ? 16 : 8) + 5] &= 0x7F;
        uint64_t rsp = cpu->gpr[RSP], flags = cpu->rflags;
        int s = deliver(c->kind, 0x60);
        CHECK_EQ(s, c->fault ? X86_FAULT : X86_JUMP);
        if (c->fault) {
            check_fault(c->fault, c->error);
            CHECK_EQ(cpu->gpr[RSP], rsp);
            CHECK_EQ(cpu->rflags, flags);
            CHECK_EQ(cpu->rip, 0x12345);
            CHECK_EQ(cpu->cpl, c->cpl);
        } else {
            CHECK_EQ(cpu->rip, handler(0x60));
            CHECK_EQ(cpu->cpl, c->code_attr == 0x9F ? 3 : 0);
        }
    }
    unit_context(NULL);
}

static void test_gates(void)
{
    check_gates(CPU_ENV_PROTECTED);
    check_gates(CPU_ENV_LONG);
}

static void test_null_code_and_limit(void)
{
    static const enum cpu_env_mode modes[] = {CPU_ENV_PROTECTED, CPU_ENV_LONG};
    for (size_t n = 0; n < ARRAY_SIZE(modes); n++) {
        start(modes[n], 0);
        cpu_env_gate(&env, 0x60, 14, 3, 3, 0, 0);
        CHECK_EQ(deliver(X86_EVENT_EXTERNAL, 0x60), X86_FAULT);
        check_fault(X86_GP, 1);
        CHECK_EQ(deliver(X86_EVENT_INT_N, 0x60), X86_FAULT);
        check_fault(X86_GP, 0);
        env.cpu->idtr.limit = (uint16_t)(0x60 * (modes[n] == CPU_ENV_LONG ? 16 : 8) + 6);
        CHECK_EQ(deliver(X86_EVENT_INT_N, 0x60), X86_FAULT);
        check_fault(X86_GP, 0x302);
    }
}

/* The stack of the inner level out of a 32-bit TSS. */
static void test_tss_stack(void)
{
    static const struct {
        uint16_t ss;
        uint32_t attr; /* of selector 0x100 */
        uint32_t limit;
        uint8_t fault;
        uint32_t error;
    } cases[] = {
        {0, 0x93, 0xFFFFF, X86_TS, 1},
        {0x400, 0x93, 0xFFFFF, X86_TS, 0x401},                /* beyond the GDT */
        {0x103, 0x93, 0xFFFFF, X86_TS, 0x101},                /* RPL */
        {0x100, 0xF3, 0xFFFFF, X86_TS, 0x101},                /* DPL */
        {0x100, 0x91, 0xFFFFF, X86_TS, 0x101},                /* read-only */
        {0x100, 0x13, 0xFFFFF, X86_SS, 0x101},                /* absent */
        {0x100, 0x93, 0x7, X86_SS, 0x101},                    /* no room */
        {0x100, 0x97, CPU_ENV_STACK_TSS - 20, X86_SS, 0x101}, /* expand-down, one byte short */
        {0x100, 0x97, CPU_ENV_STACK_TSS - 21, 0, 0},
        {0x100, 0x93, 0xFFFFF, 0, 0},
    };
    for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
        unit_context("case %zu", n);
        start(CPU_ENV_PROTECTED, 3);
        cpu_env_set_descriptor(&env, 0x100,
                               cpu_env_descriptor(0, cases[n].limit, cases[n].attr | X86_ATTR_DB));
        cpu_env_put16(&env, CPU_ENV_TSS + 8, cases[n].ss);
        int s = deliver(X86_EVENT_EXTERNAL, 0x20);
        CHECK_EQ(s, cases[n].fault ? X86_FAULT : X86_JUMP);
        if (cases[n].fault)
            check_fault(cases[n].fault, cases[n].error);
        else
            CHECK_EQ(env.cpu->seg[SEG_SS].selector, 0x100);
    }
    unit_context(NULL);
    start(CPU_ENV_PROTECTED, 3);
    env.cpu->tr.limit = 8;
    CHECK_EQ(deliver(X86_EVENT_EXTERNAL, 0x20), X86_FAULT);
    check_fault(X86_TS, CPU_ENV_SEL_TSS | 1);
}

/* --- virtual-8086 mode --- */

static void enter_v86(unsigned int iopl)
{
    struct x86_cpu *cpu = env.cpu;
    cpu->rflags |= X86_FLAG_VM | (uint64_t)iopl << X86_FLAG_IOPL_SHIFT;
    x86_update_mode(cpu);
    for (uint8_t seg = 0; seg < SEG_COUNT; seg++) {
        cpu->seg[seg].attr = X86_ATTR_UNUSABLE;
        x86_segment_set_real(cpu, &cpu->seg[seg], (uint16_t)(0x1000 + seg * 0x100));
    }
    x86_update_mode(cpu);
    cpu->rip = 0x100;
    cpu->gpr[RSP] = 0xF000;
}

static void test_v86(void)
{
    start(CPU_ENV_PROTECTED, 0);
    struct x86_cpu *cpu = env.cpu;
    enter_v86(0);
    CHECK_EQ(cpu->cpl, 3);
    CHECK_EQ(x86_deliver(cpu, X86_EVENT_EXCEPTION, X86_GP, true, 0), X86_JUMP);
    CHECK(!cpu->v86);
    CHECK_EQ(cpu->cpl, 0);
    uint32_t sp = CPU_ENV_STACK_TSS - 40;
    CHECK_EQ(cpu->gpr[RSP], sp);
    static const uint16_t words[] = {0, 0x100, 0x1100};
    for (unsigned int n = 0; n < 3; n++)
        CHECK_EQ(cpu_env_get32(&env, sp + n * 4), words[n]);
    CHECK_EQ(cpu_env_get32(&env, sp + 12),
             X86_FLAG_VM | X86_FLAG_RF | X86_FLAG_IF | X86_FLAG_CF | 2);
    CHECK_EQ(cpu_env_get32(&env, sp + 16), 0xF000);
    static const uint8_t order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    for (unsigned int n = 0; n < 5; n++)
        CHECK_EQ(cpu_env_get32(&env, sp + 20 + n * 4), 0x1000u + order[n] * 0x100u);
    for (unsigned int n = 1; n < 5; n++)
        CHECK(cpu->seg[order[n]].attr & X86_ATTR_UNUSABLE);
    /* and back with IRETD */
    cpu_env_code(&env, "\xCF", 1);
    cpu->gpr[RSP] = sp + 4;
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK(cpu->v86);
    CHECK_EQ(cpu->rip, 0x100);
    CHECK_EQ(cpu->gpr[RSP], 0xF000);
    CHECK_EQ(cpu->seg[SEG_GS].selector, 0x1500);
    CHECK_EQ(cpu->seg[SEG_GS].base, 0x15000);
    CHECK_EQ(cpu->seg[SEG_CS].base, 0x11000);
}

static void test_v86_int(void)
{
    static const struct {
        const char *code;
        unsigned int iopl;
        uint8_t fault, vector;
    } cases[] = {
        {"\xCD\x21", 0, X86_GP, 0}, {"\xCD\x21", 3, 0, 0x21}, {"\xCC", 0, 0, 3},
        {"\xCF", 0, X86_GP, 0},     {"\xF1", 0, 0, 1},
    };
    for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
        unit_context("case %zu", n);
        start(CPU_ENV_PROTECTED, 0);
        cpu_env_gate(&env, 0x21, 14, 3, CPU_ENV_SEL_CODE32, handler(0x21), 0);
        cpu_env_gate(&env, 3, 14, 3, CPU_ENV_SEL_CODE32, handler(3), 0);
        enter_v86(cases[n].iopl);
        memcpy(env.ram + 0x11100, cases[n].code, 2);
        int s = cpu_env_step(&env);
        CHECK_EQ(s, cases[n].fault ? X86_FAULT : X86_JUMP);
        if (cases[n].fault)
            check_fault(cases[n].fault, 0);
        else
            CHECK_EQ(env.cpu->rip, handler(cases[n].vector));
    }
    unit_context(NULL);
    /* the handler must run at CPL 0 */
    start(CPU_ENV_PROTECTED, 0);
    cpu_env_set_descriptor(&env, 0x100, cpu_env_descriptor(0, 0xFFFFF, 0xBB | X86_ATTR_DB));
    cpu_env_gate(&env, 0x21, 14, 3, 0x100, 0, 0);
    enter_v86(3);
    CHECK_EQ(deliver(X86_EVENT_INT_N, 0x21), X86_FAULT);
    check_fault(X86_GP, 0x100);
}

/* --- long mode --- */

static void check_long_frame(uint64_t sp, bool has_error, uint64_t ss, uint64_t rsp, uint64_t cs)
{
    CHECK_EQ(env.cpu->gpr[RSP], sp - (has_error ? 48 : 40));
    CHECK_EQ(cpu_env_get64(&env, sp - 8), ss);
    CHECK_EQ(cpu_env_get64(&env, sp - 16), rsp);
    CHECK_EQ(cpu_env_get64(&env, sp - 32), cs);
    CHECK_EQ(cpu_env_get64(&env, sp - 40), 0x12345);
}

static void test_long(void)
{
    /* same level: 16-byte alignment, SS stays */
    start(CPU_ENV_LONG, 0);
    struct x86_cpu *cpu = env.cpu;
    cpu->gpr[RSP] = CPU_ENV_STACK0 - 5;
    cpu->rflags |= X86_FLAG_TF | X86_FLAG_RF;
    CHECK_EQ(x86_deliver(cpu, X86_EVENT_EXCEPTION, X86_PF, true, 7), X86_JUMP);
    check_long_frame(CPU_ENV_STACK0 - 16, true, CPU_ENV_SEL_DATA, CPU_ENV_STACK0 - 5,
                     CPU_ENV_SEL_CODE64);
    CHECK_EQ(cpu_env_get64(&env, CPU_ENV_STACK0 - 16 - 48), 7);
    CHECK_EQ(cpu->seg[SEG_SS].selector, CPU_ENV_SEL_DATA);
    CHECK_EQ(cpu->rflags, X86_FLAG_CF | 2);

    /* from CPL 3: RSP0, null SS */
    start(CPU_ENV_LONG, 3);
    cpu = env.cpu;
    CHECK_EQ(deliver(X86_EVENT_EXTERNAL, 0x20), X86_JUMP);
    check_long_frame(CPU_ENV_STACK_TSS, false, CPU_ENV_SEL_USER_DATA | 3, CPU_ENV_STACK3,
                     CPU_ENV_SEL_USER_CODE64 | 3);
    CHECK_EQ(cpu->seg[SEG_SS].selector, 0);
    CHECK(cpu->seg[SEG_SS].attr & X86_ATTR_UNUSABLE);
    CHECK_EQ(cpu->cpl, 0);

    /* from compatibility mode */
    start(CPU_ENV_LONG, 3);
    cpu = env.cpu;
    cpu_env_set_compat(&env);
    CHECK_EQ(cpu->mode, INSN_MODE_32);
    CHECK_EQ(deliver(X86_EVENT_EXTERNAL, 0x20), X86_JUMP);
    check_long_frame(CPU_ENV_STACK_TSS, false, CPU_ENV_SEL_USER_DATA | 3, CPU_ENV_STACK3,
                     CPU_ENV_SEL_USER_CODE32 | 3);
    CHECK_EQ(cpu->mode, INSN_MODE_64);

    /* IST, from both levels */
    for (unsigned int cpl = 0; cpl <= 3; cpl += 3) {
        start(CPU_ENV_LONG, cpl);
        cpu_env_gate(&env, 2, 14, 0, CPU_ENV_SEL_CODE64, handler(2), 3);
        CHECK_EQ(deliver(X86_EVENT_NMI, 2), X86_JUMP);
        CHECK_EQ(env.cpu->gpr[RSP], CPU_ENV_STACK_IST + 0x2000 - 40);
    }
}

static void test_long_faults(void)
{
    start(CPU_ENV_LONG, 3);
    struct x86_cpu *cpu = env.cpu;
    /* a 32-bit code segment is no target, nor is one with L and D */
    cpu_env_gate(&env, 0x60, 14, 3, CPU_ENV_SEL_CODE32, 0, 0);
    CHECK_EQ(deliver(X86_EVENT_INT_N, 0x60), X86_FAULT);
    check_fault(X86_GP, CPU_ENV_SEL_CODE32);
    cpu_env_gate(&env, 0x60, 5, 3, CPU_ENV_SEL_TSS, 0, 0);
    CHECK_EQ(deliver(X86_EVENT_INT_N, 0x60), X86_FAULT);
    check_fault(X86_GP, 0x302);
    /* handler and stack not canonical */
    cpu_env_gate(&env, 0x60, 14, 3, CPU_ENV_SEL_CODE64, 0x800000000000, 0);
    CHECK_EQ(deliver(X86_EVENT_EXTERNAL, 0x60), X86_FAULT);
    check_fault(X86_GP, 1);
    cpu_env_gate(&env, 0x60, 14, 3, CPU_ENV_SEL_CODE64, handler(0x60), 0);
    cpu_env_put64(&env, CPU_ENV_TSS + 4, 0x800000000010);
    CHECK_EQ(deliver(X86_EVENT_EXTERNAL, 0x60), X86_FAULT);
    check_fault(X86_SS, 1);
    /* TSS too short for IST 7, stack not mapped */
    cpu_env_gate(&env, 0x60, 14, 3, CPU_ENV_SEL_CODE64, handler(0x60), 7);
    cpu->tr.limit = 90;
    CHECK_EQ(deliver(X86_EVENT_EXTERNAL, 0x60), X86_FAULT);
    check_fault(X86_TS, CPU_ENV_SEL_TSS | 1);
    cpu_env_gate(&env, 0x60, 14, 3, CPU_ENV_SEL_CODE64, handler(0x60), 0);
    cpu_env_put64(&env, CPU_ENV_TSS + 4, CPU_ENV_STACK_TSS);
    *cpu_env_pte(&env, CPU_ENV_STACK_TSS - 8) = 0;
    x86_tlb_flush(cpu);
    CHECK_EQ(deliver(X86_EVENT_EXTERNAL, 0x60), X86_FAULT);
    check_fault(X86_PF, X86_PF_W);
    CHECK_EQ(cpu->cpl, 3);
    CHECK_EQ(cpu->gpr[RSP], CPU_ENV_STACK3);
}

/* --- exceptions that meet exceptions --- */

static void test_double_fault(void)
{
    /* First exception; whether gates of #GP, #PF, #DF are there; what comes out (0: shutdown). */
    static const struct {
        uint8_t first;
        bool gp, pf_stack, df;
        uint8_t result;
    } cases[] = {
        {X86_GP, false, true, true, X86_DF}, /* #GP not present: #NP: contributory twice */
        {X86_UD, false, true, true, X86_NP}, /* benign first */
        {X86_PF, true, true, true, X86_PF},
        {X86_GP, false, true, false, 0}, /* #DF not present either */
        {X86_DF, true, true, false, 0},
    };
    for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
        unit_context("case %zu", n);
        start(CPU_ENV_LONG, 3);
        struct x86_cpu *cpu = env.cpu;
        if (!cases[n].gp)
            env.ram[CPU_ENV_IDT + cases[n].first * 16 + 5] = 0x0E;
        if (!cases[n].df)
            env.ram[CPU_ENV_IDT + X86_DF * 16 + 5] = 0x0E;
        cpu->fault = (struct x86_fault){.vector = cases[n].first, .payload = 0x777};
        cpu->fault.has_error = cases[n].first != X86_UD;
        int s = x86_raise(cpu);
        CHECK_EQ(s, cases[n].result ? X86_JUMP : X86_EXIT);
        if (cases[n].result)
            CHECK_EQ(cpu->rip, handler(cases[n].result));
        else
            CHECK_EQ(cpu->activity, X86_SHUTDOWN);
    }
    unit_context(NULL);
}

static void test_fault_on_stack(void)
{
    /* #PF whose frame faults: #DF on an IST stack, with the second address in CR2 */
    start(CPU_ENV_LONG, 3);
    struct x86_cpu *cpu = env.cpu;
    cpu_env_gate(&env, X86_DF, 14, 0, CPU_ENV_SEL_CODE64, handler(X86_DF), 1);
    *cpu_env_pte(&env, CPU_ENV_STACK_TSS - 8) = 0;
    x86_tlb_flush(cpu);
    x86_fault_page(cpu, 0x123000, X86_PF_U);
    CHECK_EQ(x86_raise(cpu), X86_JUMP);
    CHECK_EQ(cpu->rip, handler(X86_DF));
    CHECK_EQ(cpu->cr2 & ~(uint64_t)0xFFF, CPU_ENV_STACK_TSS - 0x1000);
    CHECK_EQ(cpu_env_get64(&env, CPU_ENV_STACK_IST - 48), 0); /* error code of #DF */
    /* contributory first, then #PF: serial, if #PF has a stack */
    start(CPU_ENV_LONG, 3);
    cpu = env.cpu;
    cpu_env_gate(&env, X86_PF, 14, 0, CPU_ENV_SEL_CODE64, handler(X86_PF), 1);
    *cpu_env_pte(&env, CPU_ENV_STACK_TSS - 8) = 0;
    x86_tlb_flush(cpu);
    x86_fault(cpu, X86_GP, 0);
    CHECK_EQ(x86_raise(cpu), X86_JUMP);
    CHECK_EQ(cpu->rip, handler(X86_PF));
}

static void test_debug_payload(void)
{
    start(CPU_ENV_LONG, 0);
    struct x86_cpu *cpu = env.cpu;
    cpu->dr6 = X86_DR6_FIXED | 0xF | X86_DR6_BT;
    cpu->dr7 |= X86_DR7_GD;
    cpu->rflags |= X86_FLAG_TF;
    x86_fault_debug(cpu, X86_DR6_BS | 2);
    CHECK_EQ(x86_raise(cpu), X86_JUMP);
    CHECK_EQ(cpu->dr6, X86_DR6_FIXED | X86_DR6_BT | X86_DR6_BS | 2);
    CHECK(!(cpu->dr7 & X86_DR7_GD));
    uint64_t image = cpu_env_get64(&env, CPU_ENV_STACK0 - 24);
    CHECK(image & X86_FLAG_TF);
    CHECK(!(image & X86_FLAG_RF));
}

/* #AC on the stack of a CPL 3 handler raises #AC again: hangs hardware, must not hang us. */
static void test_endless_benign(void)
{
    start(CPU_ENV_PROTECTED, 3);
    struct x86_cpu *cpu = env.cpu;
    cpu_env_gate(&env, X86_AC, 14, 3, CPU_ENV_SEL_USER_CODE32, handler(X86_AC), 0);
    cpu->cr0 |= X86_CR0_AM;
    cpu->rflags |= X86_FLAG_AC;
    cpu->gpr[RSP] = CPU_ENV_STACK3 - 1;
    x86_update_mode(cpu);
    x86_fault(cpu, X86_AC, 0);
    CHECK_EQ(x86_raise(cpu), X86_EXIT);
    CHECK_EQ(cpu->activity, X86_SHUTDOWN);
}

/* --- what arrives from outside --- */

static void post(uint8_t vector)
{
    struct apic_message m = {.destination = 0, .delivery = APIC_FIXED, .vector = vector};
    CHECK_EQ(apic_send(&env.vm, &m), 0);
}

static void start_events(void)
{
    start(CPU_ENV_LONG, 0);
    lapic_mmio_write(env.cpu, 0xF0, 0x1FF); /* software-enabled */
    vcpu_take_requests(&env.cpu->vcpu, ~0u);
}

static void test_interrupts(void)
{
    start_events();
    struct x86_cpu *cpu = env.cpu;
    CHECK_EQ(x86_take_events(cpu), X86_OK);
    post(0x40);
    post(0x50);
    /* IF clear: waits, and the request stays so that the run loop asks again */
    cpu->rflags &= ~X86_FLAG_IF;
    CHECK_EQ(x86_take_events(cpu), X86_OK);
    CHECK(vcpu_requests(&cpu->vcpu) & VCPU_REQ_INTR);
    /* a shadow: likewise */
    cpu->rflags |= X86_FLAG_IF;
    cpu->shadow = X86_SHADOW_STI;
    CHECK_EQ(x86_take_events(cpu), X86_OK);
    CHECK(vcpu_requests(&cpu->vcpu) & VCPU_REQ_INTR);
    cpu->shadow = 0;
    CHECK_EQ(x86_take_events(cpu), X86_JUMP);
    CHECK_EQ(cpu->rip, handler(0x50)); /* the higher one */
    /* the lower one is kept out by its priority until EOI */
    cpu->rflags |= X86_FLAG_IF;
    CHECK_EQ(x86_take_events(cpu), X86_OK);
    lapic_mmio_write(cpu, 0xB0, 0);
    CHECK_EQ(x86_take_events(cpu), X86_JUMP);
    CHECK_EQ(cpu->rip, handler(0x40));
}

static void test_halt(void)
{
    start_events();
    struct x86_cpu *cpu = env.cpu;
    cpu->activity = X86_HALTED;
    CHECK_EQ(x86_take_events(cpu), X86_EXIT);
    CHECK_EQ(cpu->activity, X86_HALTED);
    post(0x40);
    CHECK_EQ(x86_take_events(cpu), X86_JUMP);
    CHECK_EQ(cpu->activity, X86_RUNNING);
    /* IF clear: sleeps on, and the request does not keep it awake */
    post(0x50);
    cpu->rflags &= ~X86_FLAG_IF;
    cpu->activity = X86_HALTED;
    CHECK_EQ(x86_take_events(cpu), X86_EXIT);
    CHECK_EQ(cpu->activity, X86_HALTED);
    CHECK(!(vcpu_requests(&cpu->vcpu) & VCPU_REQ_INTR));
    /* an NMI wakes it, and the interrupt is not forgotten */
    vcpu_request(&cpu->vcpu, VCPU_REQ_NMI);
    CHECK_EQ(x86_take_events(cpu), X86_JUMP);
    CHECK_EQ(cpu->rip, handler(X86_NMI));
    CHECK(vcpu_requests(&cpu->vcpu) & VCPU_REQ_INTR);
    /* a paravirtual kick ends one halt */
    start_events();
    cpu = env.cpu;
    cpu->activity = X86_HALTED;
    vcpu_request(&cpu->vcpu, VCPU_REQ_PV_KICK);
    CHECK_EQ(x86_take_events(cpu), X86_EXIT);
    CHECK_EQ(cpu->activity, X86_RUNNING);
    CHECK(!cpu->pv_kick);
}

static void test_nmi(void)
{
    start_events();
    struct x86_cpu *cpu = env.cpu;
    cpu->rflags &= ~X86_FLAG_IF;
    vcpu_request(&cpu->vcpu, VCPU_REQ_NMI);
    cpu->shadow = X86_SHADOW_MOV_SS;
    CHECK_EQ(x86_take_events(cpu), X86_OK);
    cpu->shadow = 0;
    CHECK_EQ(x86_take_events(cpu), X86_JUMP);
    CHECK_EQ(cpu->rip, handler(X86_NMI));
    CHECK(cpu->nmi_masked);
    /* one more waits for IRET */
    vcpu_request(&cpu->vcpu, VCPU_REQ_NMI);
    CHECK_EQ(x86_take_events(cpu), X86_OK);
    CHECK(cpu->nmi_pending);
    memcpy(env.ram + handler(X86_NMI), "\x48\xCF", 2);
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK(!cpu->nmi_masked);
    CHECK_EQ(cpu->rip, 0x12345);
    CHECK_EQ(x86_take_events(cpu), X86_JUMP);
    CHECK_EQ(cpu->rip, handler(X86_NMI));
}

static void test_init_sipi(void)
{
    start_events();
    struct x86_cpu *cpu = env.cpu;
    /* SIPI to a running processor is dropped */
    vcpu_request(&cpu->vcpu, VCPU_REQ_SIPI);
    CHECK_EQ(x86_take_events(cpu), X86_OK);
    CHECK(!(vcpu_requests(&cpu->vcpu) & VCPU_REQ_SIPI));
    cpu->activity = X86_WAIT_SIPI;
    vcpu_request(&cpu->vcpu, VCPU_REQ_NMI);
    CHECK_EQ(x86_take_events(cpu), X86_EXIT);
    CHECK_EQ(cpu->activity, X86_WAIT_SIPI);
    atomic_store(&cpu->vcpu.sipi_vector, 0x9A);
    vcpu_request(&cpu->vcpu, VCPU_REQ_SIPI);
    CHECK_EQ(x86_take_events(cpu), X86_EXIT);
    CHECK_EQ(cpu->activity, X86_RUNNING);
    CHECK_EQ(cpu->seg[SEG_CS].base, 0x9A000);
    /* INIT comes first */
    vcpu_request(&cpu->vcpu, VCPU_REQ_INIT);
    CHECK_EQ(x86_take_events(cpu), X86_EXIT);
    CHECK_EQ(cpu->seg[SEG_CS].selector, 0xF000);
}

/* An INIT and the SIPI that followed it, found at once by a thread that was late: none is lost. */
static void test_init_and_sipi(void)
{
    struct x86_cpu *ap;
    start_events();
    CHECK_EQ(x86_cpu_create(&ap, &env.vm, 1, x86_level_find("v3")), OK);
    ap->activity = X86_RUNNING;
    atomic_store(&ap->vcpu.sipi_vector, 0x9A);
    vcpu_request(&ap->vcpu, VCPU_REQ_SIPI);
    vcpu_request(&ap->vcpu, VCPU_REQ_INIT);
    CHECK_EQ(x86_take_events(ap), X86_EXIT);
    CHECK_EQ(ap->activity, X86_WAIT_SIPI);
    CHECK_EQ(x86_take_events(ap), X86_EXIT);
    CHECK_EQ(ap->activity, X86_RUNNING);
    CHECK_EQ(ap->seg[SEG_CS].base, 0x9A000);
    x86_cpu_destroy(ap);
}

int main(void)
{
    UNIT_RUN(test_real);
    UNIT_RUN(test_protected_same_level);
    UNIT_RUN(test_protected_inner);
    UNIT_RUN(test_protected_16_bit_gate);
    UNIT_RUN(test_gates);
    UNIT_RUN(test_null_code_and_limit);
    UNIT_RUN(test_tss_stack);
    UNIT_RUN(test_v86);
    UNIT_RUN(test_v86_int);
    UNIT_RUN(test_long);
    UNIT_RUN(test_long_faults);
    UNIT_RUN(test_double_fault);
    UNIT_RUN(test_fault_on_stack);
    UNIT_RUN(test_debug_payload);
    UNIT_RUN(test_endless_benign);
    UNIT_RUN(test_interrupts);
    UNIT_RUN(test_halt);
    UNIT_RUN(test_nmi);
    UNIT_RUN(test_init_sipi);
    UNIT_RUN(test_init_and_sipi);
    cpu_env_destroy(&env);
    return unit_done();
}
