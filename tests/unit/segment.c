/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Segmentation: limits, types, null selectors, canonical addresses, loading of segment registers,
 * pushes and pops. Calls x86/segment.c's functions on a processor set up by cpu_env.
 */
#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"
#include "x86/segment.h"

static struct cpu_env env;

enum {
    DATA = 0x93,
    DATA_RO = 0x91,
    DATA_DOWN = 0x97,
    CODE = 0x9B,
    CODE_X = 0x99, /* execute-only */
    CODE_CONF = 0x9F,
    DPL3 = 0x60,
    SEL = CPU_ENV_SEL_FREE,
};

static void set(uint16_t selector, uint32_t base, uint32_t limit, uint32_t attr)
{
    cpu_env_set_descriptor(&env, selector, cpu_env_descriptor(base, limit, attr));
}

/* --- linear addresses --- */

static const struct linear_case {
    uint32_t attr, limit;
    uint64_t offset;
    uint32_t size;
    int access;
    bool ok;
} linear_cases[] = {
    {DATA, 0xFFF, 0, 1, X86_READ, true},
    {DATA, 0xFFF, 0xFFF, 1, X86_READ, true},
    {DATA, 0xFFF, 0xFFF, 2, X86_READ, false},
    {DATA, 0xFFF, 0x1000, 1, X86_WRITE, false},
    {DATA, 0xFFF, 0xFFFFFFFF, 1, X86_READ, false},
    {DATA, 0xFFF, 0xFF0, 16, X86_WRITE, true},
    {DATA, 0xFFF, 0xFF1, 16, X86_WRITE, false},
    {DATA_RO, 0xFFF, 0, 4, X86_READ, true},
    {DATA_RO, 0xFFF, 0, 4, X86_WRITE, false},
    {CODE, 0xFFF, 0, 4, X86_READ, true},
    {CODE, 0xFFF, 0, 4, X86_WRITE, false},
    {CODE_X, 0xFFF, 0, 4, X86_READ, false},
    {CODE_X, 0xFFF, 0, 4, X86_EXEC, true},
    /* expand-down: above the limit, up to 64 KiB or 4 GiB by B */
    {DATA_DOWN, 0xFFF, 0xFFF, 1, X86_READ, false},
    {DATA_DOWN, 0xFFF, 0x1000, 1, X86_READ, true},
    {DATA_DOWN, 0xFFF, 0xFFFF, 1, X86_READ, true},
    {DATA_DOWN, 0xFFF, 0xFFFF, 2, X86_READ, false},
    {DATA_DOWN | X86_ATTR_DB, 0xFFF, 0xFFFF, 2, X86_READ, true},
    {DATA_DOWN | X86_ATTR_DB, 0xFFF, 0xFFFFFFFC, 4, X86_READ, true},
    {DATA_DOWN | X86_ATTR_DB, 0xFFF, 0xFFFFFFFD, 4, X86_READ, false},
    {DATA | X86_ATTR_G, 0xFFFFFFFF, 0xFFFFFFFF, 1, X86_READ, true},
    {DATA | X86_ATTR_G, 0xFFFFFFFF, 0xFFFFFFFF, 2, X86_READ, false},
    {DATA | X86_ATTR_G, 0x1FFF, 0x1FFF, 1, X86_READ, true},
    {DATA | X86_ATTR_G, 0x1FFF, 0x2000, 1, X86_READ, false},
};

static void test_linear(void)
{
    struct x86_cpu *cpu = env.cpu;
    for (size_t n = 0; n < ARRAY_SIZE(linear_cases); n++) {
        const struct linear_case *c = &linear_cases[n];
        unit_context("case %zu", n);
        struct x86_descriptor d = {.low = cpu_env_descriptor(0x10000, c->limit, c->attr)};
        uint64_t linear = 0;
        x86_segment_set(&cpu->seg[SEG_ES], SEL, &d);
        int s = x86_linear_slow(cpu, SEG_ES, c->offset, c->size, c->access, &linear);
        CHECK_EQ(s, c->ok ? X86_OK : X86_FAULT);
        if (c->ok)
            CHECK_EQ(linear, (uint32_t)(0x10000 + c->offset));
        else
            CHECK_EQ(cpu->fault.vector, X86_GP);
    }
    unit_context(NULL);
}

static void test_linear_null_and_stack(void)
{
    struct x86_cpu *cpu = env.cpu;
    uint64_t linear;
    x86_segment_set_null(&cpu->seg[SEG_ES], 3, 0);
    CHECK_EQ(x86_linear_slow(cpu, SEG_ES, 0, 1, X86_READ, &linear), X86_FAULT);
    CHECK_EQ(cpu->fault.vector, X86_GP);
    CHECK_EQ(cpu->fault.error, 0);
    cpu->seg[SEG_SS].limit = 0xFFF;
    CHECK_EQ(x86_linear_slow(cpu, SEG_SS, 0x1000, 1, X86_READ, &linear), X86_FAULT);
    CHECK_EQ(cpu->fault.vector, X86_SS);
}

static void test_linear_real(void)
{
    struct cpu_env real;
    uint64_t linear;
    cpu_env_create(&real, CPU_ENV_REAL);
    real.cpu->seg[SEG_DS].base = 0x12340;
    CHECK_EQ(x86_linear_slow(real.cpu, SEG_DS, 0xFFFF, 1, X86_WRITE, &linear), X86_OK);
    CHECK_EQ(linear, 0x2233F);
    CHECK_EQ(x86_linear_slow(real.cpu, SEG_DS, 0xFFFF, 2, X86_WRITE, &linear), X86_FAULT);
    /* neither type nor presence counts: code is writable through CS */
    CHECK_EQ(x86_linear_slow(real.cpu, SEG_CS, 0, 2, X86_WRITE, &linear), X86_OK);
    /* a load changes the base and keeps a limit of 4 GiB */
    real.cpu->seg[SEG_DS].limit = 0xFFFFFFFF;
    CHECK_EQ(x86_segment_load(real.cpu, SEG_DS, 0xFFFF), X86_OK);
    CHECK_EQ(real.cpu->seg[SEG_DS].base, 0xFFFF0);
    CHECK_EQ(real.cpu->seg[SEG_DS].limit, 0xFFFFFFFF);
    /* but a null selector left over from protected mode becomes usable */
    x86_segment_set_null(&real.cpu->seg[SEG_ES], 0, 0);
    CHECK_EQ(x86_segment_load(real.cpu, SEG_ES, 0x1000), X86_OK);
    CHECK_EQ(x86_linear_slow(real.cpu, SEG_ES, 0xFFFF, 1, X86_WRITE, &linear), X86_OK);
    cpu_env_destroy(&real);
}

static void test_canonical(void)
{
    static const struct {
        uint64_t offset;
        uint32_t size;
        bool ok;
    } cases[] = {
        {0, 8, true},
        {0x00007FFFFFFFFFF8, 8, true},
        {0x00007FFFFFFFFFF9, 8, false},
        {0x0000800000000000, 1, false},
        {0xFFFF7FFFFFFFFFFF, 1, false},
        {0xFFFF7FFFFFFFFFFF, 2, false},
        {0xFFFF800000000000, 8, true},
        {0xFFFFFFFFFFFFFFFF, 1, true},
    };
    struct cpu_env e;
    uint64_t linear;
    cpu_env_create(&e, CPU_ENV_LONG);
    x86_segment_set_null(&e.cpu->seg[SEG_DS], 0, 0);
    for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
        unit_context("case %zu", n);
        static const uint8_t segs[] = {SEG_DS, SEG_SS, SEG_FS};
        for (size_t k = 0; k < sizeof(segs); k++) {
            int s = x86_linear(e.cpu, segs[k], cases[n].offset, cases[n].size, X86_READ, &linear);
            CHECK_EQ(s, cases[n].ok ? X86_OK : X86_FAULT);
            if (s == X86_FAULT)
                CHECK_EQ(e.cpu->fault.vector, segs[k] == SEG_SS ? X86_SS : X86_GP);
        }
    }
    unit_context(NULL);
    e.cpu->seg[SEG_GS].base = 0xFFFF800000000000;
    CHECK_EQ(x86_linear(e.cpu, SEG_GS, 0x1000, 8, X86_READ, &linear), X86_OK);
    CHECK_EQ(linear, 0xFFFF800000001000);
    CHECK_EQ(x86_linear(e.cpu, SEG_GS, (uint64_t)-1, 1, X86_READ, &linear), X86_FAULT);
    cpu_env_destroy(&e);
}

/* --- loads --- */

enum { OK_LOAD = 0xFF };

static const struct load_case {
    uint8_t cpl, seg, rpl;
    uint32_t attr;
    uint8_t fault; /* vector, or OK_LOAD */
} load_cases[] = {
    {0, SEG_DS, 0, DATA, OK_LOAD},
    {0, SEG_DS, 0, DATA_RO, OK_LOAD},
    {0, SEG_DS, 0, DATA_DOWN, OK_LOAD},
    {0, SEG_DS, 0, CODE, OK_LOAD},
    {0, SEG_DS, 0, CODE_X, X86_GP},
    {0, SEG_DS, 3, DATA, X86_GP},
    {0, SEG_DS, 3, DATA | DPL3, OK_LOAD},
    {0, SEG_DS, 3, CODE_CONF, OK_LOAD},
    {0, SEG_DS, 0, 0x82, X86_GP}, /* LDT */
    {0, SEG_DS, 0, 0x13, X86_NP},
    {0, SEG_DS, 0, 0x19, X86_GP}, /* wrong type before not present */
    {3, SEG_DS, 3, DATA, X86_GP},
    {3, SEG_DS, 0, DATA, X86_GP},
    {3, SEG_DS, 0, DATA | DPL3, OK_LOAD},
    {3, SEG_FS, 3, CODE_CONF, OK_LOAD},
    {3, SEG_GS, 3, CODE, X86_GP},
    {0, SEG_SS, 0, DATA, OK_LOAD},
    {0, SEG_SS, 0, DATA_RO, X86_GP},
    {0, SEG_SS, 0, CODE, X86_GP},
    {0, SEG_SS, 3, DATA | DPL3, X86_GP},
    {0, SEG_SS, 0, DATA | DPL3, X86_GP},
    {0, SEG_SS, 0, 0x13, X86_SS},
    {3, SEG_SS, 3, DATA | DPL3, OK_LOAD},
    {3, SEG_SS, 0, DATA, X86_GP},
    {1, SEG_SS, 1, DATA | 0x20, OK_LOAD},
    {1, SEG_SS, 0, DATA, X86_GP},
};

static void check_loads(enum cpu_env_mode mode)
{
    struct cpu_env e;
    cpu_env_create(&e, mode);
    for (size_t n = 0; n < ARRAY_SIZE(load_cases); n++) {
        const struct load_case *c = &load_cases[n];
        unit_context("mode %d case %zu", mode, n);
        cpu_env_reset(&e);
        cpu_env_set_cpl(&e, c->cpl);
        uint16_t selector = 0x100 | c->rpl;
        uint32_t attr = c->attr & 0x10 ? c->attr & ~1u : c->attr; /* not accessed yet */
        cpu_env_set_descriptor(&e, selector, cpu_env_descriptor(0x12345678, 0xABCDE, attr));
        struct x86_segment before = e.cpu->seg[c->seg];
        int s = x86_segment_load(e.cpu, c->seg, selector);
        const struct x86_segment *now = &e.cpu->seg[c->seg];
        if (c->fault == OK_LOAD) {
            CHECK_EQ(s, X86_OK);
            CHECK_EQ(now->selector, selector);
            CHECK_EQ(now->base, 0x12345678);
            CHECK_EQ(now->limit, 0xABCDE);
            CHECK_EQ(now->attr, attr | 1);
            CHECK_EQ(cpu_env_get_descriptor(&e, selector) >> 40 & 0xFF, (attr | 1) & 0xFF);
        } else {
            CHECK_EQ(s, X86_FAULT);
            CHECK_EQ(e.cpu->fault.vector, c->fault);
            CHECK_EQ(e.cpu->fault.error, 0x100);
            CHECK_EQ(now->selector, before.selector);
            CHECK_EQ(now->attr, before.attr);
            CHECK_EQ(cpu_env_get_descriptor(&e, selector) >> 40 & 0xFF, attr & 0xFF);
        }
    }
    unit_context(NULL);
    cpu_env_destroy(&e);
}

static void test_loads(void)
{
    check_loads(CPU_ENV_PROTECTED);
    check_loads(CPU_ENV_PAGED);
    check_loads(CPU_ENV_LONG);
}

static void test_load_null(void)
{
    struct cpu_env e;
    cpu_env_create(&e, CPU_ENV_LONG);
    struct x86_cpu *cpu = e.cpu;
    cpu->seg[SEG_FS].base = 0x1234;
    CHECK_EQ(x86_segment_load(cpu, SEG_FS, 0), X86_OK);
    CHECK_EQ(cpu->seg[SEG_FS].base, 0);
    CHECK(cpu->seg[SEG_FS].attr & X86_ATTR_UNUSABLE);
    /* SS: 64-bit, CPL 0-2, RPL = CPL; CPL must survive it (a null SS once gave guests CPL 0) */
    CHECK_EQ(x86_segment_load(cpu, SEG_SS, 3), X86_FAULT);
    CHECK_EQ(cpu->fault.vector, X86_GP);
    CHECK_EQ(x86_segment_load(cpu, SEG_SS, 0), X86_OK);
    x86_update_mode(cpu);
    CHECK_EQ(cpu->cpl, 0);
    cpu_env_set_cpl(&e, 1);
    CHECK_EQ(x86_segment_load(cpu, SEG_SS, 0), X86_FAULT);
    CHECK_EQ(x86_segment_load(cpu, SEG_SS, 1), X86_OK);
    x86_update_mode(cpu);
    CHECK_EQ(cpu->cpl, 1);
    CHECK_EQ(x86_attr_dpl(cpu->seg[SEG_SS].attr), 1);
    cpu_env_set_cpl(&e, 3);
    CHECK_EQ(x86_segment_load(cpu, SEG_SS, 3), X86_FAULT);
    cpu_env_set_cpl(&e, 0);
    cpu_env_set_compat(&e);
    CHECK_EQ(x86_segment_load(cpu, SEG_SS, 0), X86_FAULT);
    CHECK_EQ(x86_segment_load(cpu, SEG_DS, 0), X86_OK);
    cpu_env_destroy(&e);
}

static void test_tables(void)
{
    struct x86_cpu *cpu = env.cpu;
    struct x86_descriptor d;
    cpu->gdtr.limit = 0x6F; /* last byte of SEL's descriptor */
    CHECK_EQ(x86_descriptor_fetch(cpu, SEL | 3, X86_GP, 0, &d), X86_OK);
    cpu->gdtr.limit = 0x6E;
    CHECK_EQ(x86_descriptor_fetch(cpu, SEL | 3, X86_TS, X86_ERROR_EXT, &d), X86_FAULT);
    CHECK_EQ(cpu->fault.vector, X86_TS);
    CHECK_EQ(cpu->fault.error, SEL | 1);
    /* LDT: none, then one */
    CHECK_EQ(x86_descriptor_fetch(cpu, 0x0C, X86_GP, 0, &d), X86_FAULT);
    CHECK_EQ(cpu->fault.error, 0x0C);
    cpu->ldtr = (struct x86_segment){CPU_ENV_LDT, 15, 0x82, CPU_ENV_SEL_LDT};
    set(0x0C, 0x777, 0x10, DATA);
    CHECK_EQ(x86_segment_load(cpu, SEG_GS, 0x0C), X86_OK);
    CHECK_EQ(cpu->seg[SEG_GS].base, 0x777);
    CHECK_EQ(x86_descriptor_fetch(cpu, 0x14, X86_GP, 0, &d), X86_FAULT);
}

static void test_table_faults(void)
{
    struct cpu_env e;
    struct x86_descriptor d;
    cpu_env_create(&e, CPU_ENV_LONG);
    /* supervisor-only GDT page, read from CPL 3: an implicit supervisor access */
    cpu_env_set_cpl(&e, 3);
    *cpu_env_pte(&e, CPU_ENV_GDT) &= ~(uint64_t)X86_PTE_U;
    x86_tlb_flush(e.cpu);
    CHECK_EQ(x86_descriptor_fetch(e.cpu, SEL, X86_GP, 0, &d), X86_OK);
    *cpu_env_pte(&e, CPU_ENV_GDT) = 0;
    x86_tlb_flush(e.cpu);
    CHECK_EQ(x86_descriptor_fetch(e.cpu, SEL, X86_GP, 0, &d), X86_FAULT);
    CHECK_EQ(e.cpu->fault.vector, X86_PF);
    CHECK_EQ(e.cpu->fault.error, 0);
    CHECK_EQ(e.cpu->fault.payload, CPU_ENV_GDT + SEL);
    /* a table at the end of the canonical half */
    e.cpu->gdtr.base = 0x00007FFFFFFFFFF0;
    CHECK_EQ(x86_descriptor_fetch(e.cpu, 0x18, X86_GP, 0, &d), X86_FAULT);
    CHECK_EQ(e.cpu->fault.vector, X86_GP);
    cpu_env_destroy(&e);
}

/* --- stack --- */

static void test_push_pop(void)
{
    struct x86_cpu *cpu = env.cpu;
    uint64_t v;
    CHECK_EQ(x86_push(cpu, 4, 0x11223344), X86_OK);
    CHECK_EQ(cpu->gpr[RSP], CPU_ENV_STACK0 - 4);
    CHECK_EQ(cpu_env_get32(&env, CPU_ENV_STACK0 - 4), 0x11223344);
    CHECK_EQ(x86_pop(cpu, 2, &v), X86_OK);
    CHECK_EQ(v, 0x3344);
    CHECK_EQ(cpu->gpr[RSP], CPU_ENV_STACK0 - 2);
    /* 16-bit stack: SP wraps, the upper half of ESP stays */
    cpu->seg[SEG_SS].attr &= ~(uint32_t)X86_ATTR_DB;
    x86_update_mode(cpu);
    cpu->gpr[RSP] = 0x70000;
    CHECK_EQ(x86_push(cpu, 2, 0xBEEF), X86_OK);
    CHECK_EQ(cpu->gpr[RSP], 0x7FFFE);
    CHECK_EQ(cpu_env_get16(&env, 0xFFFE), 0xBEEF);
    CHECK_EQ(x86_pop(cpu, 2, &v), X86_OK);
    CHECK_EQ(cpu->gpr[RSP], 0x70000);
    /* no room: #SS(0), nothing moved */
    cpu->seg[SEG_SS].limit = 0xFFF;
    cpu->gpr[RSP] = 0;
    CHECK_EQ(x86_push(cpu, 2, 1), X86_FAULT);
    CHECK_EQ(cpu->fault.vector, X86_SS);
    CHECK_EQ(cpu->gpr[RSP], 0);
}

static void fresh(void (*test)(void), const char *name)
{
    cpu_env_reset(&env);
    unit_run(name, test);
}

#define FRESH(test) fresh(test, #test)

int main(void)
{
    cpu_env_create(&env, CPU_ENV_PROTECTED);
    FRESH(test_linear);
    FRESH(test_linear_null_and_stack);
    FRESH(test_linear_real);
    FRESH(test_canonical);
    FRESH(test_loads);
    FRESH(test_load_null);
    FRESH(test_tables);
    FRESH(test_table_faults);
    FRESH(test_push_pop);
    cpu_env_destroy(&env);
    return unit_done();
}
