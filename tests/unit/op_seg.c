/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Instructions of group SEG, by their bytes: segment registers, descriptor tables, LAR and its kin,
 * SWAPGS, FSGSBASE.
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

static int run(const char *bytes, size_t size)
{
    cpu_env_code(&env, bytes, size);
    return cpu_env_step(&env);
}

#define RUN(bytes) run(bytes, sizeof(bytes) - 1)

static void check_fault(uint8_t vector, uint32_t error)
{
    CHECK_EQ(env.cpu->fault.vector, vector);
    CHECK_EQ(env.cpu->fault.error, error);
    CHECK_EQ(env.cpu->rip, CPU_ENV_CODE - env.cpu->seg[SEG_CS].base);
}

/* Reached, not faulted: X86_OK or X86_JUMP. */
#define CHECK_DONE(status) CHECK((status) != X86_FAULT)

static void test_mov(void)
{
    start(CPU_ENV_LONG, 0);
    struct x86_cpu *cpu = env.cpu;
    cpu->gpr[RAX] = ~(uint64_t)0;
    CHECK_DONE(RUN("\x8C\xD8")); /* mov eax, ds */
    CHECK_EQ(cpu->gpr[RAX], CPU_ENV_SEL_DATA);
    cpu->gpr[RAX] = ~(uint64_t)0;
    CHECK_DONE(RUN("\x66\x8C\xD8")); /* mov ax, ds */
    CHECK_EQ(cpu->gpr[RAX], 0xFFFFFFFFFFFF0000 | CPU_ENV_SEL_DATA);
    cpu->gpr[RAX] = ~(uint64_t)0;
    CHECK_DONE(RUN("\x48\x8C\xC8")); /* mov rax, cs */
    CHECK_EQ(cpu->gpr[RAX], CPU_ENV_SEL_CODE64);
    cpu->gpr[RBX] = CPU_ENV_DATA;
    cpu_env_put64(&env, CPU_ENV_DATA, ~(uint64_t)0);
    CHECK_DONE(RUN("\x48\x8C\x13")); /* mov [rbx], ss: 16 bits */
    CHECK_EQ(cpu_env_get64(&env, CPU_ENV_DATA), 0xFFFFFFFFFFFF0000 | CPU_ENV_SEL_DATA);

    cpu->gpr[RAX] = 0xABC0000 | CPU_ENV_SEL_USER_DATA | 3;
    CHECK_DONE(RUN("\x8E\xE0")); /* mov fs, eax */
    CHECK_EQ(cpu->seg[SEG_FS].selector, CPU_ENV_SEL_USER_DATA | 3);
    CHECK_EQ(cpu->shadow, 0);
    cpu->gpr[RAX] = 0;
    CHECK_DONE(RUN("\x8E\xD0")); /* mov ss, eax */
    CHECK_EQ(cpu->shadow, X86_SHADOW_MOV_SS);
    cpu->shadow = 0;
    cpu->gpr[RAX] = 3;
    CHECK_EQ(RUN("\x8E\xD0"), X86_FAULT);
    check_fault(X86_GP, 0);
    CHECK_EQ(cpu->shadow, 0);
    CHECK_EQ(RUN("\x8E\xC8"), X86_FAULT); /* mov cs, eax */
    check_fault(X86_UD, 0);
    CHECK_EQ(RUN("\x8E\xF0"), X86_FAULT); /* segment register 6 */
    check_fault(X86_UD, 0);
    CHECK_EQ(RUN("\x8C\xF8"), X86_FAULT); /* 7 */
    check_fault(X86_UD, 0);
}

static void test_push_pop(void)
{
    start(CPU_ENV_PROTECTED, 0);
    struct x86_cpu *cpu = env.cpu;
    cpu_env_put32(&env, CPU_ENV_STACK0 - 4, 0xFFFFFFFF);
    CHECK_DONE(RUN("\x1E")); /* push ds: 4 bytes, 2 written */
    CHECK_EQ(cpu->gpr[RSP], CPU_ENV_STACK0 - 4);
    CHECK_EQ(cpu_env_get32(&env, CPU_ENV_STACK0 - 4), 0xFFFF0000 | CPU_ENV_SEL_DATA);
    CHECK_DONE(RUN("\x07")); /* pop es */
    CHECK_EQ(cpu->gpr[RSP], CPU_ENV_STACK0);
    CHECK_DONE(RUN("\x16\x00")); /* push ss */
    CHECK_DONE(RUN("\x17"));     /* pop ss */
    CHECK_EQ(cpu->shadow, X86_SHADOW_MOV_SS);
    CHECK_EQ(cpu->gpr[RSP], CPU_ENV_STACK0);
    /* a selector that faults leaves ESP */
    cpu_env_put32(&env, CPU_ENV_STACK0, 0x1000);
    CHECK_EQ(RUN("\x1F"), X86_FAULT); /* pop ds */
    check_fault(X86_GP, 0x1000);
    CHECK_EQ(cpu->gpr[RSP], CPU_ENV_STACK0);

    start(CPU_ENV_LONG, 0);
    cpu = env.cpu;
    CHECK_DONE(RUN("\x0F\xA0")); /* push fs */
    CHECK_EQ(cpu->gpr[RSP], CPU_ENV_STACK0 - 8);
    CHECK_EQ(cpu_env_get64(&env, CPU_ENV_STACK0 - 8), CPU_ENV_SEL_DATA);
    CHECK_DONE(RUN("\x0F\xA9")); /* pop gs */
    CHECK_EQ(cpu->gpr[RSP], CPU_ENV_STACK0);
}

static void test_lds(void)
{
    start(CPU_ENV_PROTECTED, 0);
    struct x86_cpu *cpu = env.cpu;
    cpu->gpr[RBX] = CPU_ENV_DATA;
    cpu_env_put32(&env, CPU_ENV_DATA, 0x11223344);
    cpu_env_put16(&env, CPU_ENV_DATA + 4, CPU_ENV_SEL_USER_DATA);
    CHECK_DONE(RUN("\xC4\x03")); /* les eax, [ebx] */
    CHECK_EQ(cpu->gpr[RAX], 0x11223344);
    CHECK_EQ(cpu->seg[SEG_ES].selector, CPU_ENV_SEL_USER_DATA);
    cpu_env_put16(&env, CPU_ENV_DATA + 4, CPU_ENV_SEL_CODE32 + 0x1000);
    CHECK_EQ(RUN("\x0F\xB4\x0B"), X86_FAULT); /* lfs ecx, [ebx] */
    check_fault(X86_GP, CPU_ENV_SEL_CODE32 + 0x1000);
    CHECK_EQ(cpu->gpr[RCX], 0);
    cpu_env_put16(&env, CPU_ENV_DATA + 4, CPU_ENV_SEL_DATA);
    CHECK_DONE(RUN("\x0F\xB2\x23")); /* lss esp, [ebx] */
    CHECK_EQ(cpu->gpr[RSP], 0x11223344);
    CHECK_EQ(cpu->shadow, 0);
}

/* --- tables --- */

static void test_gdtr(void)
{
    start(CPU_ENV_LONG, 0);
    struct x86_cpu *cpu = env.cpu;
    cpu->gpr[RBX] = CPU_ENV_DATA;
    memset(env.ram + CPU_ENV_DATA, 0xEE, 16);
    CHECK_DONE(RUN("\x0F\x01\x03")); /* sgdt [rbx] */
    CHECK_EQ(cpu_env_get16(&env, CPU_ENV_DATA), cpu->gdtr.limit);
    CHECK_EQ(cpu_env_get64(&env, CPU_ENV_DATA + 2), CPU_ENV_GDT);
    CHECK_EQ(env.ram[CPU_ENV_DATA + 10], 0xEE);
    cpu_env_put64(&env, CPU_ENV_DATA + 2, 0xFFFF800000000123);
    CHECK_DONE(RUN("\x0F\x01\x1B")); /* lidt [rbx] */
    CHECK_EQ(cpu->idtr.base, 0xFFFF800000000123);
    CHECK_EQ(cpu->idtr.limit, CPU_ENV_GDT_ENTRIES * 8 - 1);
    cpu_env_put64(&env, CPU_ENV_DATA + 2, 0x0000800000000123);
    CHECK_EQ(RUN("\x0F\x01\x13"), X86_FAULT); /* lgdt [rbx] */
    check_fault(X86_GP, 0);
    CHECK_EQ(cpu->gdtr.base, CPU_ENV_GDT);

    start(CPU_ENV_PROTECTED, 0);
    cpu = env.cpu;
    cpu->gpr[RBX] = CPU_ENV_DATA;
    cpu_env_put64(&env, CPU_ENV_DATA, 0x123456780040);
    CHECK_DONE(RUN("\x66\x0F\x01\x1B")); /* 16-bit operands: 24 bits of base */
    CHECK_EQ(cpu->idtr.base, 0x345678);
    CHECK_DONE(RUN("\x0F\x01\x1B"));
    CHECK_EQ(cpu->idtr.base, 0x12345678);
    memset(env.ram + CPU_ENV_DATA, 0xEE, 16);
    CHECK_DONE(RUN("\x0F\x01\x0B")); /* sidt [ebx] */
    CHECK_EQ(cpu_env_get64(&env, CPU_ENV_DATA), 0xEEEE123456780040);
}

/* Who may: by CPL and UMIP. In real mode those that need protected mode are #UD. */
static void test_privilege(void)
{
    static const struct {
        const char *bytes;
        bool ring0, umip, protected_only;
    } cases[] = {
        {"\x0F\x01\x03", false, true, false}, /* sgdt [rbx] */
        {"\x0F\x01\x0B", false, true, false}, /* sidt */
        {"\x0F\x01\x13", true, false, false}, /* lgdt */
        {"\x0F\x01\x1B", true, false, false}, /* lidt */
        {"\x0F\x00\xC0", false, true, true},  /* sldt eax */
        {"\x0F\x00\xC8", false, true, true},  /* str eax */
        {"\x0F\x00\xD0", true, false, true},  /* lldt ax */
        {"\x0F\x00\xE0", false, false, true}, /* verr ax */
        {"\x0F\x00\xE8", false, false, true}, /* verw ax */
        {"\x0F\x02\xC0", false, false, true}, /* lar eax, ax */
        {"\x0F\x03\xC0", false, false, true}, /* lsl eax, ax */
    };
    for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
        for (unsigned int cpl = 0; cpl < 4; cpl++) {
            for (int umip = 0; umip < 2; umip++) {
                unit_context("case %zu cpl %u umip %d", n, cpl, umip);
                start(CPU_ENV_LONG, cpl);
                env.cpu->gpr[RBX] = CPU_ENV_DATA;
                env.cpu->cr4 |= umip ? X86_CR4_UMIP : 0;
                bool barred = cpl && (cases[n].ring0 || (umip && cases[n].umip));
                int s = run(cases[n].bytes, 3);
                CHECK_EQ(s == X86_FAULT, barred);
                if (barred)
                    check_fault(X86_GP, 0);
            }
        }
        unit_context("case %zu real", n);
        start(CPU_ENV_REAL, 0);
        int s = run(cases[n].bytes, 3);
        CHECK_EQ(s == X86_FAULT, cases[n].protected_only);
        if (s == X86_FAULT)
            check_fault(X86_UD, 0);
    }
    unit_context(NULL);
}

static void test_lldt_ltr(void)
{
    static const struct {
        bool ltr;
        uint16_t selector;
        uint32_t attr;
        uint64_t high;
        uint8_t fault;
        uint32_t error;
    } cases[] = {
        {false, 0, 0x82, 0, 0, 0},
        {true, 0, 0x89, 0, X86_GP, 0},
        {false, 0x100, 0x82, 0x12345678, 0, 0},
        {true, 0x100, 0x89, 0x12345678, X86_GP, 0x100}, /* not canonical */
        {true, 0x100, 0x89, 0xFFFF8001, 0, 0},
        {true, 0x100, 0x8B, 0, X86_GP, 0x100}, /* busy */
        {true, 0x100, 0x81, 0, X86_GP, 0x100}, /* 16-bit */
        {true, 0x100, 0x82, 0, X86_GP, 0x100},
        {false, 0x100, 0x89, 0, X86_GP, 0x100},
        {false, 0x100, 0x92, 0, X86_GP, 0x100}, /* data */
        {false, 0x100, 0x02, 0, X86_NP, 0x100},
        {true, 0x100, 0x09, 0, X86_NP, 0x100},
        {false, 0x104, 0x82, 0, X86_GP, 0x104},
        {false, 0x1000, 0x82, 0, X86_GP, 0x1000},
        {false, CPU_ENV_GDT_ENTRIES * 8 - 8, 0x82, 0, X86_GP, CPU_ENV_GDT_ENTRIES * 8 - 8},
        {false, 0x100, 0x82, (uint64_t)1 << 40, X86_GP, 0x100}, /* type in the upper half */
    };
    for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
        unit_context("case %zu", n);
        start(CPU_ENV_LONG, 0);
        struct x86_cpu *cpu = env.cpu;
        /* canonical bases only, except where that is the case */
        uint64_t high = cases[n].high == 0x12345678 && !cases[n].ltr ? 0x1234 : cases[n].high;
        cpu_env_set_descriptor(&env, 0x100, cpu_env_descriptor(0x500000, 0x67, cases[n].attr));
        cpu_env_set_descriptor(&env, 0x108, high);
        cpu->gpr[RAX] = cases[n].selector;
        int s = cases[n].ltr ? RUN("\x0F\x00\xD8") : RUN("\x0F\x00\xD0");
        CHECK_EQ(s == X86_FAULT, cases[n].fault != 0);
        const struct x86_segment *now = cases[n].ltr ? &cpu->tr : &cpu->ldtr;
        if (cases[n].fault) {
            check_fault(cases[n].fault, cases[n].error);
            CHECK_EQ(now->selector, cases[n].ltr ? CPU_ENV_SEL_TSS : 0);
        } else if (cases[n].selector) {
            CHECK_EQ(now->selector, 0x100);
            CHECK_EQ(now->base, high << 32 | 0x500000);
            CHECK_EQ(now->limit, 0x67);
            CHECK_EQ(cpu_env_get_descriptor(&env, 0x100) >> 40 & 0xFF, cases[n].ltr ? 0x8B : 0x82);
            CHECK_DONE(cases[n].ltr ? RUN("\x0F\x00\xC9") : RUN("\x0F\x00\xC1"));
            CHECK_EQ(cpu->gpr[RCX], 0x100);
        } else {
            CHECK(now->attr & X86_ATTR_UNUSABLE);
        }
    }
    unit_context(NULL);
}

/* --- questions --- */

static void test_lar_lsl(void)
{
    /* attr; then whether VERR, VERW, LAR, LSL say yes at CPL 3 with RPL 3, in legacy, long mode */
    static const struct {
        uint32_t attr;
        bool verr, verw, lar, lsl, lar_long, lsl_long;
    } cases[] = {
        {0xF3, true, true, true, true, true, true}, /* data, DPL 3 */
        {0xF1, true, false, true, true, true, true},
        {0x93, false, false, false, false, false, false}, /* DPL 0 */
        {0xFB, true, false, true, true, true, true},
        {0xF9, false, false, true, true, true, true},     /* execute-only */
        {0x9F, true, false, true, true, true, true},      /* conforming */
        {0x73, true, true, true, true, true, true},       /* not present: does not matter */
        {0xE2, false, false, true, true, true, true},     /* LDT */
        {0xE1, false, false, true, true, false, false},   /* 16-bit TSS */
        {0xE9, false, false, true, true, true, true},     /* TSS */
        {0xE4, false, false, true, false, false, false},  /* 16-bit call gate */
        {0xEC, false, false, true, false, true, false},   /* call gate */
        {0xE5, false, false, true, false, false, false},  /* task gate */
        {0xEE, false, false, false, false, false, false}, /* interrupt gate */
        {0xE0, false, false, false, false, false, false},
    };
    for (size_t n = 0; n < 2 * ARRAY_SIZE(cases); n++) {
        size_t c = n / 2;
        bool wide = n & 1;
        unit_context("case %zu %s", c, wide ? "long" : "legacy");
        start(wide ? CPU_ENV_LONG : CPU_ENV_PROTECTED, 3);
        struct x86_cpu *cpu = env.cpu;
        uint64_t d =
            cpu_env_descriptor(0x12345678, 0xABCDE000, cases[c].attr | X86_ATTR_G | X86_ATTR_AVL);
        cpu_env_set_descriptor(&env, 0x100, d);
        cpu->gpr[RAX] = 0x103;
        const struct {
            const char *bytes;
            bool yes;
            uint64_t result;
        } asks[] = {
            {"\x0F\x00\xE0", cases[c].verr, 0x777},
            {"\x0F\x00\xE8", cases[c].verw, 0x777},
            {"\x0F\x02\xC8", wide ? cases[c].lar_long : cases[c].lar, d >> 32 & 0xFFFF00},
            {"\x0F\x03\xC8", wide ? cases[c].lsl_long : cases[c].lsl, 0xABCDEFFF},
        };
        for (size_t k = 0; k < 4; k++) {
            cpu->gpr[RCX] = 0x777;
            cpu->rflags = (k & 1 ? X86_FLAG_ZF : 0) | X86_FLAG_CF | 2;
            CHECK_DONE(run(asks[k].bytes, 3));
            CHECK_EQ(cpu->rflags, (asks[k].yes ? X86_FLAG_ZF : 0) | X86_FLAG_CF | 2);
            CHECK_EQ(cpu->gpr[RCX], asks[k].yes ? asks[k].result : 0x777);
        }
    }
    unit_context(NULL);
    /* null and beyond the table: no, without a fault */
    start(CPU_ENV_LONG, 0);
    env.cpu->rflags |= X86_FLAG_ZF;
    CHECK_DONE(RUN("\x0F\x02\xC8"));
    CHECK_EQ(env.cpu->rflags, 2);
    env.cpu->gpr[RAX] = 0x1000;
    CHECK_DONE(RUN("\x0F\x03\xC8"));
    CHECK_EQ(env.cpu->rflags, 2);
    /* 16 bits of a result */
    env.cpu->gpr[RAX] = CPU_ENV_SEL_DATA;
    env.cpu->gpr[RCX] = ~(uint64_t)0;
    CHECK_DONE(RUN("\x66\x0F\x02\xC8"));
    CHECK_EQ(env.cpu->gpr[RCX], 0xFFFFFFFFFFFF9300);
}

static void test_arpl(void)
{
    static const struct {
        uint16_t destination, source, result;
        bool zf;
    } cases[] = {{0x100, 0x3, 0x103, true},
                 {0x103, 0x3, 0x103, false},
                 {0x102, 0x1, 0x102, false},
                 {0xFFFC, 0x2, 0xFFFE, true}};
    start(CPU_ENV_PROTECTED, 3);
    struct x86_cpu *cpu = env.cpu;
    for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
        unit_context("case %zu", n);
        cpu->gpr[RAX] = 0x55550000 | cases[n].destination;
        cpu->gpr[RCX] = 0xAAAA0000 | cases[n].source;
        CHECK_DONE(RUN("\x63\xC8")); /* arpl ax, cx */
        CHECK_EQ(cpu->gpr[RAX], 0x55550000 | cases[n].result);
        CHECK_EQ((cpu->rflags & X86_FLAG_ZF) != 0, cases[n].zf);
    }
    unit_context(NULL);
    cpu->gpr[RBX] = CPU_ENV_DATA;
    cpu_env_put32(&env, CPU_ENV_DATA, 0x99990100);
    CHECK_DONE(RUN("\x63\x0B")); /* arpl [ebx], cx */
    CHECK_EQ(cpu_env_get32(&env, CPU_ENV_DATA), 0x99990102);
}

/* --- bases --- */

static void test_bases(void)
{
    start(CPU_ENV_LONG, 0);
    struct x86_cpu *cpu = env.cpu;
    cpu->seg[SEG_GS].base = 0x1111;
    cpu->msr.kernel_gs_base = 0x2222;
    CHECK_DONE(RUN("\x0F\x01\xF8")); /* swapgs */
    CHECK_EQ(cpu->seg[SEG_GS].base, 0x2222);
    CHECK_EQ(cpu->msr.kernel_gs_base, 0x1111);
    CHECK_EQ(RUN("\xF3\x0F\xAE\xC0"), X86_FAULT); /* rdfsbase eax: CR4 says no */
    check_fault(X86_UD, 0);
    cpu->cr4 |= X86_CR4_FSGSBASE;
    cpu_env_set_cpl(&env, 3);
    cpu->gpr[RAX] = 0xFFFF800012345678;
    CHECK_DONE(RUN("\xF3\x48\x0F\xAE\xD8")); /* wrgsbase rax */
    CHECK_EQ(cpu->seg[SEG_GS].base, 0xFFFF800012345678);
    CHECK_DONE(RUN("\xF3\x48\x0F\xAE\xC9")); /* rdgsbase rcx */
    CHECK_EQ(cpu->gpr[RCX], 0xFFFF800012345678);
    CHECK_DONE(RUN("\xF3\x0F\xAE\xC9")); /* rdgsbase ecx */
    CHECK_EQ(cpu->gpr[RCX], 0x12345678);
    CHECK_DONE(RUN("\xF3\x0F\xAE\xD0")); /* wrfsbase eax: zero-extended */
    CHECK_EQ(cpu->seg[SEG_FS].base, 0x12345678);
    cpu->gpr[RAX] = 0x0000800000000000;
    CHECK_EQ(RUN("\xF3\x48\x0F\xAE\xD0"), X86_FAULT);
    check_fault(X86_GP, 0);
    CHECK_EQ(RUN("\x0F\x01\xF8"), X86_FAULT);
    check_fault(X86_GP, 0);
    cpu_env_set_compat(&env);
    CHECK_EQ(RUN("\x0F\x01\xF8"), X86_FAULT);
    check_fault(X86_UD, 0);
    CHECK_EQ(RUN("\xF3\x0F\xAE\xC0"), X86_FAULT);
    check_fault(X86_UD, 0);
}

int main(void)
{
    UNIT_RUN(test_mov);
    UNIT_RUN(test_push_pop);
    UNIT_RUN(test_lds);
    UNIT_RUN(test_gdtr);
    UNIT_RUN(test_privilege);
    UNIT_RUN(test_lldt_ltr);
    UNIT_RUN(test_lar_lsl);
    UNIT_RUN(test_arpl);
    UNIT_RUN(test_bases);
    cpu_env_destroy(&env);
    return unit_done();
}
