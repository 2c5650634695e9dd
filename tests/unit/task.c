/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Hardware task switch: what is saved and loaded by JMP, CALL, IRET and a task gate, busy bits and
 * back link, and that a fault before the point of no return changes nothing while one after it
 * belongs to the new task.
 */
#include <string.h>

#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"
#include "x86/segment.h"

static struct cpu_env env;

enum {
    NEW_TSS = CPU_ENV_DATA + 0x100,
    NEW_SEL = 0x100,
    GATE_SEL = 0x110,
    NEW_EIP = 0x30000,
    NEW_ESP = 0x55000,
    TYPE = 40, /* position of the type in a descriptor */
};

static void put_tss32(uint32_t eflags)
{
    uint64_t t = NEW_TSS;
    cpu_env_put32(&env, t + 0x1C, (uint32_t)env.cpu->cr3);
    cpu_env_put32(&env, t + 0x20, NEW_EIP);
    cpu_env_put32(&env, t + 0x24, eflags);
    for (uint32_t n = 0; n < 8; n++)
        cpu_env_put32(&env, t + 0x28 + n * 4, n == RSP ? NEW_ESP : 0xA0000000 + n);
    static const uint16_t selectors[6] = {CPU_ENV_SEL_USER_DATA, CPU_ENV_SEL_CODE32,
                                          CPU_ENV_SEL_DATA,      CPU_ENV_SEL_DATA,
                                          CPU_ENV_SEL_USER_DATA, 0};
    for (uint32_t n = 0; n < 6; n++)
        cpu_env_put32(&env, t + 0x48 + n * 4, selectors[n]);
    cpu_env_put32(&env, t + 0x60, 0);
    cpu_env_set_descriptor(&env, NEW_SEL, cpu_env_descriptor(NEW_TSS, 0x67, 0x89));
}

static void start(void)
{
    if (env.cpu)
        cpu_env_destroy(&env);
    cpu_env_create(&env, CPU_ENV_PAGED);
    cpu_env_all_gates(&env);
    struct x86_cpu *cpu = env.cpu;
    for (unsigned int n = 0; n < 8; n++) {
        if (n != RSP)
            cpu->gpr[n] = 0xB0000000 + n;
    }
    cpu->rflags |= X86_FLAG_CF;
    put_tss32(X86_FLAG_IF | X86_FLAG_ZF);
}

static int far(uint8_t opcode, uint16_t selector)
{
    uint8_t bytes[7] = {opcode, 0xEF, 0xBE, 0xAD, 0xDE};
    store_u16(bytes + 5, selector);
    cpu_env_code(&env, bytes, 7);
    return cpu_env_step(&env);
}

enum { JMP = 0xEA, CALL = 0x9A };

static uint8_t type_of(uint16_t selector)
{
    return cpu_env_get_descriptor(&env, selector) >> TYPE & 15;
}

static void check_new_task(uint64_t flags)
{
    struct x86_cpu *cpu = env.cpu;
    CHECK_EQ(cpu->rip, NEW_EIP);
    CHECK_EQ(cpu->gpr[RSP], NEW_ESP);
    CHECK_EQ(cpu->gpr[RDI], 0xA0000007);
    CHECK_EQ(cpu->rflags, flags);
    CHECK_EQ(cpu->seg[SEG_ES].selector, CPU_ENV_SEL_USER_DATA);
    CHECK_EQ(cpu->seg[SEG_ES].limit, 0xFFFFFFFF);
    CHECK(cpu->seg[SEG_GS].attr & X86_ATTR_UNUSABLE);
    CHECK_EQ(cpu->tr.selector, NEW_SEL);
    CHECK_EQ(cpu->tr.base, NEW_TSS);
    CHECK_EQ(type_of(NEW_SEL), X86_TYPE_TSS_BUSY);
    CHECK(cpu->cr0 & X86_CR0_TS);
}

static void check_old_saved(uint32_t eip, uint32_t flags)
{
    CHECK_EQ(cpu_env_get32(&env, CPU_ENV_TSS + 0x20), eip);
    CHECK_EQ(cpu_env_get32(&env, CPU_ENV_TSS + 0x24), flags);
    CHECK_EQ(cpu_env_get32(&env, CPU_ENV_TSS + 0x28), 0xB0000000);
    CHECK_EQ(cpu_env_get32(&env, CPU_ENV_TSS + 0x44), 0xB0000007);
    CHECK_EQ(cpu_env_get16(&env, CPU_ENV_TSS + 0x48), CPU_ENV_SEL_DATA);
    CHECK_EQ(cpu_env_get16(&env, CPU_ENV_TSS + 0x4C), CPU_ENV_SEL_CODE32);
    CHECK_EQ(cpu_env_get32(&env, CPU_ENV_TSS + 4), CPU_ENV_STACK_TSS); /* static part */
}

static void test_jmp(void)
{
    start();
    env.cpu->dr7 |= 0x3;
    CHECK_EQ(far(JMP, NEW_SEL), X86_JUMP);
    check_new_task(X86_FLAG_IF | X86_FLAG_ZF | 2);
    check_old_saved(CPU_ENV_CODE + 7, X86_FLAG_CF | 2);
    CHECK_EQ(type_of(CPU_ENV_SEL_TSS), X86_TYPE_TSS);
    CHECK_EQ(cpu_env_get16(&env, NEW_TSS), 0); /* no link */
    CHECK_EQ(env.cpu->dr7 & 3, 2);             /* local breakpoints go */
}

static void test_call_and_return(void)
{
    start();
    CHECK_EQ(far(CALL, NEW_SEL), X86_JUMP);
    check_new_task(X86_FLAG_IF | X86_FLAG_ZF | X86_FLAG_NT | 2);
    CHECK_EQ(type_of(CPU_ENV_SEL_TSS), X86_TYPE_TSS_BUSY);
    CHECK_EQ(cpu_env_get16(&env, NEW_TSS), CPU_ENV_SEL_TSS);
    /* IRET with NT comes back, and clears NT in what it saves */
    env.ram[NEW_EIP] = 0xCF;
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(env.cpu->rip, CPU_ENV_CODE + 7);
    CHECK_EQ(env.cpu->gpr[RDI], 0xB0000007);
    CHECK_EQ(env.cpu->rflags, X86_FLAG_CF | 2);
    CHECK_EQ(env.cpu->tr.selector, CPU_ENV_SEL_TSS);
    CHECK_EQ(type_of(NEW_SEL), X86_TYPE_TSS);
    CHECK_EQ(type_of(CPU_ENV_SEL_TSS), X86_TYPE_TSS_BUSY);
    CHECK_EQ(cpu_env_get32(&env, NEW_TSS + 0x24), X86_FLAG_IF | X86_FLAG_ZF | 2);
    CHECK_EQ(cpu_env_get32(&env, NEW_TSS + 0x20), NEW_EIP + 1);
}

static void test_gates(void)
{
    start();
    cpu_env_set_descriptor(&env, GATE_SEL, (uint64_t)NEW_SEL << 16 | (uint64_t)0x85 << TYPE);
    CHECK_EQ(far(CALL, GATE_SEL), X86_JUMP);
    check_new_task(X86_FLAG_IF | X86_FLAG_ZF | X86_FLAG_NT | 2);
    /* an exception through the IDT: error code on the new stack, RF in the saved flags */
    start();
    cpu_env_gate(&env, X86_GP, X86_TYPE_TASK_GATE, 0, NEW_SEL, 0, 0);
    env.cpu->rip = 0x12345;
    CHECK_EQ(x86_deliver(env.cpu, X86_EVENT_EXCEPTION, X86_GP, true, 0x77), X86_JUMP);
    CHECK_EQ(env.cpu->gpr[RSP], NEW_ESP - 4);
    CHECK_EQ(cpu_env_get32(&env, NEW_ESP - 4), 0x77);
    check_old_saved(0x12345, X86_FLAG_RF | X86_FLAG_CF | 2);
    CHECK(env.cpu->rflags & X86_FLAG_NT);
}

static void test_tss16(void)
{
    start();
    cpu_env_set_descriptor(&env, NEW_SEL, cpu_env_descriptor(NEW_TSS, 0x2B, 0x81));
    memset(env.ram + NEW_TSS, 0, 0x2C);
    cpu_env_put16(&env, NEW_TSS + 0x0E, 0x4321);
    cpu_env_put16(&env, NEW_TSS + 0x10, X86_FLAG_ZF);
    cpu_env_put16(&env, NEW_TSS + 0x12, 0x1111);
    cpu_env_put16(&env, NEW_TSS + 0x1A, 0x8000);
    cpu_env_put16(&env, NEW_TSS + 0x22, CPU_ENV_SEL_DATA16);
    cpu_env_put16(&env, NEW_TSS + 0x24, CPU_ENV_SEL_CODE16);
    cpu_env_put16(&env, NEW_TSS + 0x26, CPU_ENV_SEL_DATA16);
    uint64_t cr3 = env.cpu->cr3;
    CHECK_EQ(far(CALL, NEW_SEL), X86_JUMP);
    CHECK_EQ(env.cpu->rip, 0x4321);
    CHECK_EQ(env.cpu->gpr[RAX], 0x1111);
    CHECK_EQ(env.cpu->gpr[RSP], 0x8000);
    CHECK_EQ(env.cpu->mode, INSN_MODE_16);
    CHECK_EQ(env.cpu->stack_size, 2);
    CHECK_EQ(env.cpu->cr3, cr3);
    CHECK_EQ(type_of(NEW_SEL), X86_TYPE_TSS16_BUSY);
    env.ram[0x4321] = 0xCF;
    CHECK_EQ(cpu_env_step(&env), X86_JUMP);
    CHECK_EQ(env.cpu->rip, CPU_ENV_CODE + 7);
    CHECK_EQ(env.cpu->mode, INSN_MODE_32);
    CHECK_EQ(cpu_env_get16(&env, NEW_TSS + 0x0E), 0x4322);
}

static void test_to_v86(void)
{
    start();
    put_tss32(X86_FLAG_VM | X86_FLAG_IF);
    cpu_env_put32(&env, NEW_TSS + 0x20, 0x100);
    for (uint32_t n = 0; n < 6; n++)
        cpu_env_put32(&env, NEW_TSS + 0x48 + n * 4, 0x2000 + n);
    CHECK_EQ(far(JMP, NEW_SEL), X86_JUMP);
    CHECK(env.cpu->v86);
    CHECK_EQ(env.cpu->cpl, 3);
    CHECK_EQ(env.cpu->seg[SEG_CS].base, 0x20010);
    CHECK_EQ(env.cpu->seg[SEG_GS].base, 0x20050);
    CHECK_EQ(env.cpu->seg[SEG_DS].limit, 0xFFFF);
}

static void test_trap_bit(void)
{
    start();
    cpu_env_put16(&env, NEW_TSS + 0x64, 1);
    CHECK_EQ(far(JMP, NEW_SEL), X86_JUMP);
    CHECK_EQ(env.cpu->rip, CPU_ENV_HANDLERS + 16 * X86_DB);
    CHECK_EQ(cpu_env_get32(&env, NEW_ESP - 12), NEW_EIP); /* before its first instruction */
    CHECK(env.cpu->dr6 & X86_DR6_BT);
}

/* --- faults before the switch: nothing has changed --- */

static void break_type(void)
{
    cpu_env_set_descriptor(&env, NEW_SEL, cpu_env_descriptor(NEW_TSS, 0x67, 0x8B));
}

static void break_presence(void)
{
    cpu_env_set_descriptor(&env, NEW_SEL, cpu_env_descriptor(NEW_TSS, 0x67, 0x09));
}

static void break_limit(void)
{
    cpu_env_set_descriptor(&env, NEW_SEL, cpu_env_descriptor(NEW_TSS, 0x66, 0x89));
}

static void break_limit_and_presence(void)
{
    cpu_env_set_descriptor(&env, NEW_SEL, cpu_env_descriptor(NEW_TSS, 0x66, 0x09));
}

static void unmap(uint64_t address)
{
    *cpu_env_pte(&env, address) = 0;
    x86_tlb_flush(env.cpu);
}

static void protect(uint64_t address)
{
    *cpu_env_pte(&env, address) &= ~X86_PTE_W;
    x86_tlb_flush(env.cpu);
}

static void break_new_page(void)
{
    unmap(NEW_TSS);
}

static void break_new_second_page(void)
{
    uint64_t base = CPU_ENV_DATA + 0x1000 - 0x40;
    cpu_env_set_descriptor(&env, NEW_SEL, cpu_env_descriptor((uint32_t)base, 0x67, 0x89));
    unmap(CPU_ENV_DATA + 0x1000);
}

static void protect_old_tss(void)
{
    protect(CPU_ENV_TSS);
}

static void protect_new_tss(void)
{
    protect(NEW_TSS);
}

static void protect_gdt(void)
{
    protect(CPU_ENV_GDT);
}

static void shorten_old_tss(void)
{
    env.cpu->tr.limit = 0x66;
}

static void test_faults_before(void)
{
    static const struct {
        void (*prepare)(void);
        uint8_t fault;
        uint32_t error;
    } cases[] = {
        {break_type, X86_GP, NEW_SEL},
        {break_presence, X86_NP, NEW_SEL},
        {break_limit, X86_TS, NEW_SEL},
        {break_limit_and_presence, X86_NP, NEW_SEL},
        {break_new_page, X86_PF, 0},
        {break_new_second_page, X86_PF, 0},
        {protect_old_tss, X86_PF, X86_PF_P | X86_PF_W},
        {protect_new_tss, X86_PF, X86_PF_P | X86_PF_W},
        {protect_gdt, X86_PF, X86_PF_P | X86_PF_W},
        {shorten_old_tss, X86_TS, CPU_ENV_SEL_TSS},
    };
    static uint8_t before[CPU_ENV_RAM];
    for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
        unit_context("case %zu", n);
        start();
        cases[n].prepare();
        struct x86_cpu *cpu = env.cpu;
        struct x86_segment tr = cpu->tr;
        uint8_t bytes[7] = {CALL, 0, 0, 0, 0, NEW_SEL & 0xFF, NEW_SEL >> 8};
        cpu_env_code(&env, bytes, 7);
        memcpy(before, env.ram, CPU_ENV_RAM);
        CHECK_EQ(cpu_env_step(&env), X86_FAULT);
        CHECK_EQ(cpu->fault.vector, cases[n].fault);
        CHECK_EQ(cpu->fault.error, cases[n].error);
        CHECK_EQ(cpu->rip, CPU_ENV_CODE);
        CHECK_EQ(cpu->tr.selector, tr.selector);
        CHECK_EQ(cpu->rflags, X86_FLAG_CF | 2);
        CHECK(!(cpu->cr0 & X86_CR0_TS));
        /* memory, but for accessed and dirty bits of page tables, which hardware may set */
        CHECK(memcmp(before + CPU_ENV_GDT, env.ram + CPU_ENV_GDT, CPU_ENV_RAM - CPU_ENV_GDT) == 0);
    }
    unit_context(NULL);
}

static void test_privilege(void)
{
    start();
    cpu_env_set_cpl(&env, 3);
    CHECK_EQ(far(JMP, NEW_SEL | 3), X86_FAULT);
    CHECK_EQ(env.cpu->fault.vector, X86_GP);
    CHECK_EQ(env.cpu->fault.error, NEW_SEL);
    cpu_env_set_descriptor(&env, NEW_SEL, cpu_env_descriptor(NEW_TSS, 0x67, 0xE9));
    CHECK_EQ(far(JMP, NEW_SEL | 3), X86_JUMP);
    CHECK_EQ(env.cpu->cpl, 0);
}

static void test_bad_link(void)
{
    static const struct {
        uint16_t link;
        uint32_t error;
    } cases[] = {{0, 0},
                 {0x104, 0x104},
                 {0x1000, 0x1000},
                 {CPU_ENV_SEL_DATA, CPU_ENV_SEL_DATA},
                 {NEW_SEL, NEW_SEL}};
    for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
        unit_context("case %zu", n);
        start();
        env.cpu->rflags |= X86_FLAG_NT;
        cpu_env_put16(&env, CPU_ENV_TSS, cases[n].link);
        cpu_env_code(&env, "\xCF", 1);
        CHECK_EQ(cpu_env_step(&env), X86_FAULT);
        CHECK_EQ(env.cpu->fault.vector, X86_TS);
        CHECK_EQ(env.cpu->fault.error, cases[n].error);
        CHECK_EQ(env.cpu->tr.selector, CPU_ENV_SEL_TSS);
    }
    unit_context(NULL);
}

/* --- faults after it: the new task's --- */

static void test_faults_after(void)
{
    static const struct {
        uint8_t offset; /* of a selector in the new TSS */
        uint16_t selector;
        uint8_t fault;
        uint32_t error;
    } cases[] = {
        {0x4C, 0, X86_TS, 0}, /* CS */
        {0x4C, CPU_ENV_SEL_DATA, X86_TS, CPU_ENV_SEL_DATA},
        {0x4C, 0x1000, X86_TS, 0x1000},
        {0x50, 0, X86_TS, 0}, /* SS */
        {0x50, CPU_ENV_SEL_USER_DATA, X86_TS, CPU_ENV_SEL_USER_DATA},
        {0x54, CPU_ENV_SEL_TSS, X86_TS, CPU_ENV_SEL_TSS},   /* DS */
        {0x54, 0x120, X86_NP, 0x120},                       /* not present */
        {0x60, CPU_ENV_SEL_DATA, X86_TS, CPU_ENV_SEL_DATA}, /* LDT */
    };
    for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
        unit_context("case %zu", n);
        start();
        cpu_env_set_descriptor(&env, 0x120, cpu_env_descriptor(0, 0xFFFFF, 0x13));
        cpu_env_put16(&env, NEW_TSS + cases[n].offset, cases[n].selector);
        /* its handler has a stack of its own, by another task, as system software does it */
        uint64_t handler_tss = CPU_ENV_DATA + 0x1000;
        memcpy(env.ram + handler_tss, env.ram + NEW_TSS, 0x68);
        static const uint16_t good[6] = {
            CPU_ENV_SEL_DATA, CPU_ENV_SEL_CODE32, CPU_ENV_SEL_DATA, CPU_ENV_SEL_DATA, 0, 0};
        for (uint32_t k = 0; k < 6; k++)
            cpu_env_put32(&env, handler_tss + 0x48 + k * 4, good[k]);
        cpu_env_put32(&env, handler_tss + 0x60, 0);
        cpu_env_put32(&env, handler_tss + 0x20, 0x44444);
        cpu_env_put16(&env, NEW_TSS + 0x64, 1); /* no trap for a task that does not begin */
        cpu_env_set_descriptor(&env, 0x130, cpu_env_descriptor((uint32_t)handler_tss, 0x67, 0x89));
        cpu_env_gate(&env, cases[n].fault, X86_TYPE_TASK_GATE, 0, 0x130, 0, 0);
        CHECK_EQ(far(JMP, NEW_SEL), X86_JUMP);
        CHECK_EQ(env.cpu->rip, 0x44444);
        CHECK_EQ(env.cpu->tr.selector, 0x130);
        CHECK_EQ(cpu_env_get16(&env, handler_tss), NEW_SEL); /* it interrupted the new task */
        CHECK_EQ(cpu_env_get32(&env, NEW_TSS + 0x20), NEW_EIP);
        CHECK_EQ(cpu_env_get16(&env, NEW_TSS + cases[n].offset), cases[n].selector);
        CHECK_EQ(cpu_env_get32(&env, env.cpu->gpr[RSP]), cases[n].error);
        CHECK_EQ(env.cpu->debug_pending, 0);
        check_old_saved(CPU_ENV_CODE + 7, X86_FLAG_CF | 2);
    }
    unit_context(NULL);
}

int main(void)
{
    UNIT_RUN(test_jmp);
    UNIT_RUN(test_call_and_return);
    UNIT_RUN(test_gates);
    UNIT_RUN(test_tss16);
    UNIT_RUN(test_to_v86);
    UNIT_RUN(test_trap_bit);
    UNIT_RUN(test_faults_before);
    UNIT_RUN(test_privilege);
    UNIT_RUN(test_bad_link);
    UNIT_RUN(test_faults_after);
    cpu_env_destroy(&env);
    return unit_done();
}
