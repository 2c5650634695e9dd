/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * System instructions: privilege by table in every mode, control register rules, the way into and
 * out of long mode, debug registers and breakpoints, and what the small ones do.
 */
#include <string.h>

#include "core/err.h"
#include "tests/lib/cpu_env.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/unit.h"
#include "x86/level.h"
#include "x86/mem.h"
#include "x86/msr.h"

static struct cpu_env e;

enum { NO_FAULT = 0xFF };

/* Runs the bytes; NO_FAULT or the vector. */
static unsigned int run(const void *code, size_t size)
{
    cpu_env_code(&e, code, size);
    uint64_t start = e.cpu->rip;
    int status = x86_step(e.cpu);
    if (status == X86_FAULT) {
        CHECK_EQ(e.cpu->rip, start);
        return e.cpu->fault.vector;
    }
    CHECK_EQ(e.cpu->rip, start + size);
    return NO_FAULT;
}

#define RUN(...) run((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* --- privilege --- */

struct privilege_case {
    const char *name;
    uint8_t code[6], size;
    uint8_t cpl0, cpl3; /* vector or NO_FAULT */
};

/* table: long mode, RAX = 0, RCX = 0, operand addresses valid */
static const struct privilege_case privileges[] = {
    {"hlt", {0xF4}, 1, NO_FAULT, X86_GP},
    {"cli", {0xFA}, 1, NO_FAULT, X86_GP},
    {"sti", {0xFB}, 1, NO_FAULT, X86_GP},
    {"clts", {0x0F, 0x06}, 2, NO_FAULT, X86_GP},
    {"invd", {0x0F, 0x08}, 2, NO_FAULT, X86_GP},
    {"wbinvd", {0x0F, 0x09}, 2, NO_FAULT, X86_GP},
    {"mov rax, cr0", {0x0F, 0x20, 0xC0}, 3, NO_FAULT, X86_GP},
    {"mov rax, cr1", {0x0F, 0x20, 0xC8}, 3, X86_UD, X86_UD},
    {"mov rax, cr2", {0x0F, 0x20, 0xD0}, 3, NO_FAULT, X86_GP},
    {"mov rax, cr3", {0x0F, 0x20, 0xD8}, 3, NO_FAULT, X86_GP},
    {"mov rax, cr4", {0x0F, 0x20, 0xE0}, 3, NO_FAULT, X86_GP},
    {"mov rax, cr5", {0x0F, 0x20, 0xE8}, 3, X86_UD, X86_UD},
    {"mov rax, cr8", {0x44, 0x0F, 0x20, 0xC0}, 4, NO_FAULT, X86_GP},
    {"mov rax, cr9", {0x44, 0x0F, 0x20, 0xC8}, 4, X86_UD, X86_UD},
    {"mov cr2, rax", {0x0F, 0x22, 0xD0}, 3, NO_FAULT, X86_GP},
    {"mov cr8, rax", {0x44, 0x0F, 0x22, 0xC0}, 4, NO_FAULT, X86_GP},
    {"mov rax, dr0", {0x0F, 0x21, 0xC0}, 3, NO_FAULT, X86_GP},
    {"mov rax, dr7", {0x0F, 0x21, 0xF8}, 3, NO_FAULT, X86_GP},
    {"mov rax, dr8", {0x44, 0x0F, 0x21, 0xC0}, 4, X86_UD, X86_UD},
    {"mov dr0, rax", {0x0F, 0x23, 0xC0}, 3, NO_FAULT, X86_GP},
    {"rdmsr", {0x0F, 0x32}, 2, NO_FAULT, X86_GP}, /* RCX is set to EFER */
    {"wrmsr", {0x0F, 0x30}, 2, X86_GP, X86_GP},   /* EFER := 0 under paging */
    {"lmsw ax", {0x0F, 0x01, 0xF0}, 3, NO_FAULT, X86_GP},
    {"smsw eax", {0x0F, 0x01, 0xE0}, 3, NO_FAULT, NO_FAULT},
    {"invlpg [rbx]", {0x0F, 0x01, 0x3B}, 3, NO_FAULT, X86_GP},
    {"clac", {0x0F, 0x01, 0xCA}, 3, NO_FAULT, X86_UD},
    {"stac", {0x0F, 0x01, 0xCB}, 3, NO_FAULT, X86_UD},
    {"monitor", {0x0F, 0x01, 0xC8}, 3, X86_UD, X86_UD}, /* not in v3 */
    {"mwait", {0x0F, 0x01, 0xC9}, 3, X86_UD, X86_UD},
    {"invpcid rax, [rbx]", {0x66, 0x0F, 0x38, 0x82, 0x03}, 5, X86_UD, X86_UD}, /* not in v3 */
    {"rdpid rax", {0xF3, 0x0F, 0xC7, 0xF8}, 4, X86_UD, X86_UD},
    {"clwb [rbx]", {0x66, 0x0F, 0xAE, 0x33}, 4, X86_UD, X86_UD},
    {"rdtsc", {0x0F, 0x31}, 2, NO_FAULT, NO_FAULT},
    {"rdtscp", {0x0F, 0x01, 0xF9}, 3, NO_FAULT, NO_FAULT},
    {"rdpmc", {0x0F, 0x33}, 2, X86_GP, X86_GP},
    {"cpuid", {0x0F, 0xA2}, 2, NO_FAULT, NO_FAULT},
    {"pause", {0xF3, 0x90}, 2, NO_FAULT, NO_FAULT},
    {"rdrand eax", {0x0F, 0xC7, 0xF0}, 3, NO_FAULT, NO_FAULT},
    {"rdseed rax", {0x48, 0x0F, 0xC7, 0xF8}, 4, X86_UD, X86_UD},
    {"clflush [rbx]", {0x0F, 0xAE, 0x3B}, 3, NO_FAULT, NO_FAULT},
    {"clflushopt [rbx]", {0x66, 0x0F, 0xAE, 0x3B}, 4, NO_FAULT, NO_FAULT},
    {"lfence", {0x0F, 0xAE, 0xE8}, 3, NO_FAULT, NO_FAULT},
    {"mfence", {0x0F, 0xAE, 0xF0}, 3, NO_FAULT, NO_FAULT},
    {"sfence", {0x0F, 0xAE, 0xF8}, 3, NO_FAULT, NO_FAULT},
    {"vmcall", {0x0F, 0x01, 0xC1}, 3, NO_FAULT, NO_FAULT},
    {"vmmcall", {0x0F, 0x01, 0xD9}, 3, NO_FAULT, NO_FAULT},
};

static void test_privilege(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    for (size_t i = 0; i < ARRAY_SIZE(privileges); i++) {
        const struct privilege_case *c = &privileges[i];
        for (unsigned int cpl = 0; cpl < 4; cpl++) {
            unit_context("%s at CPL %u", c->name, cpl);
            cpu_env_reset(&e);
            cpu_env_set_cpl(&e, cpl);
            e.cpu->gpr[RBX] = CPU_ENV_DATA;
            e.cpu->gpr[RCX] = MSR_EFER;
            if (!strcmp(c->name, "lmsw ax"))
                e.cpu->gpr[RAX] = 1;
            CHECK_EQ(run(c->code, c->size), cpl == 0 ? c->cpl0 : c->cpl3);
        }
    }
    unit_context(NULL);
    cpu_env_destroy(&e);
}

static void test_iopl(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    cpu_env_set_cpl(&e, 3);
    e.cpu->rflags |= X86_FLAG_IOPL;
    CHECK_EQ(RUN(0xFB), NO_FAULT);
    CHECK(e.cpu->rflags & X86_FLAG_IF);
    CHECK_EQ(e.cpu->shadow, X86_SHADOW_STI);
    e.cpu->shadow = 0;
    CHECK_EQ(RUN(0xFB), NO_FAULT); /* already set: no shadow */
    CHECK_EQ(e.cpu->shadow, 0);
    CHECK_EQ(RUN(0xFA), NO_FAULT);
    CHECK(!(e.cpu->rflags & X86_FLAG_IF));
    cpu_env_destroy(&e);
}

static void test_tsd_umip(void)
{
    struct x86_level host;
    x86_level_host(&host);
    cpu_env_create(&e, CPU_ENV_LONG);
    e.cpu->cr4 |= X86_CR4_TSD | X86_CR4_UMIP;
    CHECK_EQ(RUN(0x0F, 0x31), NO_FAULT);
    CHECK_EQ(RUN(0x0F, 0x01, 0xE0), NO_FAULT);
    cpu_env_set_cpl(&e, 3);
    CHECK_EQ(RUN(0x0F, 0x31), X86_GP);
    CHECK_EQ(RUN(0x0F, 0x01, 0xF9), X86_GP);
    CHECK_EQ(RUN(0x0F, 0x01, 0xE0), X86_GP);
    /* what v3 lacks and host has */
    e.cpu->level = &host;
    e.cpu->msr.tsc_aux = 0x1005;
    CHECK_EQ(RUN(0xF3, 0x0F, 0xC7, 0xF8), NO_FAULT);
    CHECK_EQ(e.cpu->gpr[RAX], 0x1005);
    e.cpu->gpr[RBX] = CPU_ENV_DATA;
    CHECK_EQ(RUN(0x66, 0x0F, 0xAE, 0x33), NO_FAULT);
    e.cpu->level = x86_level_find("v3");
    cpu_env_destroy(&e);
}

/* --- control registers --- */

struct cr_case {
    uint8_t cr;
    uint64_t value;
    bool ok;
};

static void check_cr(const struct cr_case *c, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unit_context("cr%u case %zu", c[i].cr, i);
        uint64_t cr0 = e.cpu->cr0, cr3 = e.cpu->cr3, cr4 = e.cpu->cr4;
        int status;
        if (c[i].cr == 0)
            status = x86_write_cr0(e.cpu, c[i].value);
        else
            status =
                c[i].cr == 3 ? x86_write_cr3(e.cpu, c[i].value) : x86_write_cr4(e.cpu, c[i].value);
        CHECK_EQ(status == X86_OK, c[i].ok);
        if (status == X86_FAULT) {
            CHECK_EQ(e.cpu->fault.vector, X86_GP);
            CHECK(e.cpu->cr0 == cr0 && e.cpu->cr3 == cr3 && e.cpu->cr4 == cr4);
        }
    }
    unit_context(NULL);
}

#define BASE0 (X86_CR0_PE | X86_CR0_ET | X86_CR0_NE | X86_CR0_PG)
#define BASE4 (X86_CR4_PAE | X86_CR4_OSFXSR)

static void test_cr_rules(void)
{
    static const struct cr_case long_mode[] = {
        {0, BASE0 | BIT(32), false},
        {0, BASE0 | X86_CR0_NW, false},
        {0, BASE0 | X86_CR0_NW | X86_CR0_CD, true},
        {0, BASE0 & ~X86_CR0_PE, false},
        {0, BASE0 & ~X86_CR0_PG, false}, /* from 64-bit mode */
        {0, BASE0 | BIT(6), true},       /* reserved and ignored */
        {3, CPU_ENV_PML4 | X86_CR3_PWT, true},
        {3, CPU_ENV_PML4 | BIT(39), false},
        {3, CPU_ENV_PML4 | BIT(63), false}, /* without PCIDE */
        {3, CPU_ENV_PML4, true},
        {4, BASE4 & ~X86_CR4_PAE, false},
        {4, BASE4 | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PGE, true},
        {4, BASE4 | X86_CR4_PCIDE, false}, /* not in v3 */
        {4, BASE4 | X86_CR4_VME, false},
        {4, BASE4 | BIT(13), false},
        {4, BASE4 | BIT(40), false},
    };
    static const struct cr_case with_pcid[] = {
        {3, CPU_ENV_PML4 | 5, true},
        {4, BASE4 | X86_CR4_PCIDE, false}, /* CR3 bits 11:0 are not zero */
        {3, CPU_ENV_PML4, true},
        {4, BASE4 | X86_CR4_PCIDE | X86_CR4_UMIP, true},
        {3, CPU_ENV_PML4 | 5 | BIT(63), true},
        {3, CPU_ENV_PML4 | BIT(62), false},
        {4, BASE4, true},
    };
    struct x86_level host;
    x86_level_host(&host);
    cpu_env_create(&e, CPU_ENV_LONG);
    check_cr(long_mode, ARRAY_SIZE(long_mode));
    CHECK_EQ(e.cpu->cr0 & BIT(6), 0);
    e.cpu->level = &host;
    check_cr(with_pcid, ARRAY_SIZE(with_pcid));
    CHECK_EQ(e.cpu->cr3, CPU_ENV_PML4 | 5); /* bit 63 is not kept */
    CHECK_EQ(x86_write_cr4(e.cpu, BASE4 | X86_CR4_PCIDE), X86_FAULT);
    e.cpu->level = x86_level_find("v3");
    cpu_env_destroy(&e);

    cpu_env_create(&e, CPU_ENV_PROTECTED);
    e.cpu->level = &host;
    CHECK_EQ(x86_write_cr4(e.cpu, X86_CR4_PAE | X86_CR4_PCIDE), X86_FAULT); /* outside long mode */
    e.cpu->level = x86_level_find("v3");
    cpu_env_destroy(&e);
}

/* Protected mode, PAE, EFER.LME, paging: long mode, compatibility first; and back. */
static void test_long_mode_activation(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    cpu_env_set_compat(&e);
    CHECK_EQ(e.cpu->mode, INSN_MODE_32);
    uint64_t paged = e.cpu->cr0;
    CHECK_EQ(x86_write_cr0(e.cpu, paged & ~X86_CR0_PG), X86_OK);
    CHECK(!(e.cpu->efer & X86_EFER_LMA) && !e.cpu->long_mode);
    CHECK_EQ(e.cpu->paging, X86_PAGING_OFF);
    CHECK_EQ(x86_write_cr4(e.cpu, e.cpu->cr4 & ~X86_CR4_PAE), X86_OK);
    CHECK_EQ(x86_write_cr0(e.cpu, paged), X86_FAULT); /* LME without PAE */
    CHECK_EQ(x86_write_cr4(e.cpu, e.cpu->cr4 | X86_CR4_PAE), X86_OK);
    e.cpu->seg[SEG_CS].attr |= X86_ATTR_L; /* a 64-bit descriptor loaded too early */
    CHECK_EQ(x86_write_cr0(e.cpu, paged), X86_FAULT);
    e.cpu->seg[SEG_CS].attr &= ~(uint32_t)X86_ATTR_L;
    CHECK_EQ(x86_write_cr0(e.cpu, paged), X86_OK);
    CHECK(e.cpu->efer & X86_EFER_LMA && e.cpu->long_mode);
    CHECK_EQ(e.cpu->mode, INSN_MODE_32);
    CHECK_EQ(e.cpu->paging, X86_PAGING_4LEVEL);
    cpu_env_destroy(&e);
}

/* The first MOV to CR0 of a boot sector: CPL 0 although CS's selector has low bits set. */
static void test_real_to_protected(void)
{
    cpu_env_create(&e, CPU_ENV_REAL);
    e.cpu->seg[SEG_CS].selector = 0x1003;
    e.cpu->gpr[RAX] = e.cpu->cr0 | X86_CR0_PE;
    CHECK_EQ(RUN(0x0F, 0x22, 0xC0), NO_FAULT);
    CHECK(e.cpu->protected_mode);
    CHECK_EQ(e.cpu->cpl, 0);
    CHECK_EQ(e.cpu->mode, INSN_MODE_16);
    CHECK_EQ(RUN(0x0F, 0x20, 0xC0), NO_FAULT);
    cpu_env_destroy(&e);
}

static void test_msw(void)
{
    cpu_env_create(&e, CPU_ENV_PROTECTED);
    e.cpu->gpr[RAX] = 0xFFFE; /* TS, EM, MP; PE cannot be cleared */
    CHECK_EQ(RUN(0x0F, 0x01, 0xF0), NO_FAULT);
    CHECK_EQ(e.cpu->cr0 & 0xF, 0xF);
    CHECK_EQ(RUN(0x0F, 0x06), NO_FAULT);
    CHECK_EQ(e.cpu->cr0 & 0xF, 0x7);
    cpu_env_put16(&e, CPU_ENV_DATA, 0);
    e.cpu->gpr[RBX] = CPU_ENV_DATA;
    CHECK_EQ(RUN(0x0F, 0x01, 0x33), NO_FAULT); /* lmsw [ebx] */
    CHECK_EQ(e.cpu->cr0 & 0xF, 1);
    cpu_env_put32(&e, CPU_ENV_DATA, 0xAAAAAAAA);
    CHECK_EQ(RUN(0x0F, 0x01, 0x23), NO_FAULT); /* smsw [ebx]: 16 bits */
    CHECK_EQ(cpu_env_get32(&e, CPU_ENV_DATA), 0xAAAA0000 | (e.cpu->cr0 & 0xFFFF));
    CHECK_EQ(RUN(0x0F, 0x01, 0xE0), NO_FAULT);
    CHECK_EQ(e.cpu->gpr[RAX], (uint32_t)e.cpu->cr0);
    cpu_env_destroy(&e);
}

static void test_cr8(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    e.cpu->gpr[RAX] = 9;
    CHECK_EQ(RUN(0x44, 0x0F, 0x22, 0xC0), NO_FAULT);
    CHECK_EQ(lapic_get_cr8(e.cpu), 9);
    e.cpu->gpr[RAX] = 16;
    CHECK_EQ(RUN(0x44, 0x0F, 0x22, 0xC0), X86_GP);
    CHECK_EQ(RUN(0x44, 0x0F, 0x20, 0xC0), NO_FAULT);
    CHECK_EQ(e.cpu->gpr[RAX], 9);
    cpu_env_destroy(&e);
}

/* --- debug registers and breakpoints --- */

static void test_debug_registers(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    e.cpu->gpr[RAX] = 0xFFFFFFFF;
    CHECK_EQ(RUN(0x0F, 0x23, 0xF0), NO_FAULT); /* dr6 */
    CHECK_EQ(e.cpu->dr6, 0xFFFFEFFF);
    e.cpu->gpr[RAX] = 0;
    CHECK_EQ(RUN(0x0F, 0x23, 0xF0), NO_FAULT);
    CHECK_EQ(e.cpu->dr6, 0xFFFF0FF0);
    e.cpu->gpr[RAX] = 0xFFFFFFFF & ~X86_DR7_GD;
    CHECK_EQ(RUN(0x0F, 0x23, 0xF8), NO_FAULT);
    CHECK_EQ(e.cpu->dr7, 0xFFFF07FF);
    e.cpu->gpr[RAX] = BIT(32);
    CHECK_EQ(RUN(0x0F, 0x23, 0xF8), X86_GP);
    CHECK_EQ(RUN(0x0F, 0x23, 0xF0), X86_GP);
    CHECK_EQ(RUN(0x0F, 0x23, 0xC0), NO_FAULT); /* addresses are 64 bits wide */
    CHECK_EQ(e.cpu->dr[0], BIT(32));

    CHECK_EQ(RUN(0x0F, 0x21, 0xE0), NO_FAULT); /* dr4 is dr6 */
    CHECK_EQ(e.cpu->gpr[RAX], e.cpu->dr6);
    e.cpu->cr4 |= X86_CR4_DE;
    CHECK_EQ(RUN(0x0F, 0x21, 0xE0), X86_UD);
    CHECK_EQ(RUN(0x0F, 0x21, 0xE8), X86_UD);
    e.cpu->dr7 |= X86_DR7_GD;
    CHECK_EQ(RUN(0x0F, 0x21, 0xC0), X86_DB);
    CHECK_EQ(e.cpu->fault.payload, X86_DR6_BD);
    CHECK_EQ(RUN(0x0F, 0x21, 0xE0), X86_UD); /* before GD */
    cpu_env_destroy(&e);
}

static void test_instruction_breakpoint(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    e.cpu->dr[3] = CPU_ENV_CODE;
    e.cpu->rip = CPU_ENV_CODE;
    CHECK_EQ(x86_debug_before(e.cpu), X86_OK);
    e.cpu->dr7 = X86_DR7_FIXED | BIT(7); /* G3 */
    CHECK(x86_debug_armed(e.cpu));
    CHECK_EQ(x86_debug_before(e.cpu), X86_FAULT);
    CHECK_EQ(e.cpu->fault.vector, X86_DB);
    CHECK_EQ(e.cpu->fault.payload, 8);
    e.cpu->rflags |= X86_FLAG_RF;
    CHECK_EQ(x86_debug_before(e.cpu), X86_OK);
    e.cpu->rflags &= ~X86_FLAG_RF;
    e.cpu->rip++;
    CHECK_EQ(x86_debug_before(e.cpu), X86_OK);
    cpu_env_destroy(&e);

    cpu_env_create(&e, CPU_ENV_REAL); /* linear addresses: with CS's base */
    e.cpu->dr[0] = CPU_ENV_CODE + 0x10;
    e.cpu->rip = 0x10;
    e.cpu->dr7 = X86_DR7_FIXED | BIT(0);
    CHECK_EQ(x86_debug_before(e.cpu), X86_FAULT);
    cpu_env_destroy(&e);
}

static void test_traps(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    CHECK_EQ(x86_debug_after(e.cpu, false), X86_OK);
    CHECK_EQ(x86_debug_after(e.cpu, true), X86_FAULT);
    CHECK_EQ(e.cpu->fault.payload, X86_DR6_BS);
    e.cpu->debug_pending = 2;
    e.cpu->shadow = X86_SHADOW_MOV_SS; /* waits for the next instruction */
    CHECK_EQ(x86_debug_after(e.cpu, true), X86_OK);
    e.cpu->shadow = 0;
    CHECK_EQ(x86_debug_after(e.cpu, false), X86_FAULT);
    CHECK_EQ(e.cpu->fault.payload, 2);
    CHECK_EQ(e.cpu->debug_pending, 0);

    e.cpu->dr[1] = 0x3F8;
    e.cpu->dr7 = X86_DR7_FIXED | BIT(2) | (uint64_t)2 << 20; /* I/O, one byte */
    x86_debug_io(e.cpu, 0x3F8, 1);
    CHECK_EQ(e.cpu->debug_pending, 0); /* without CR4.DE there are none */
    e.cpu->cr4 |= X86_CR4_DE;
    x86_debug_io(e.cpu, 0x3F7, 1);
    CHECK_EQ(e.cpu->debug_pending, 0);
    x86_debug_io(e.cpu, 0x3F7, 2);
    CHECK_EQ(e.cpu->debug_pending, 2);
    cpu_env_destroy(&e);
}

/* --- invalidation --- */

static void test_invlpg(void)
{
    uint32_t v;
    cpu_env_create(&e, CPU_ENV_LONG);
    CHECK_EQ(x86_read32(e.cpu, CPU_ENV_DATA, &v), X86_OK);
    *cpu_env_pte(&e, CPU_ENV_DATA) = 0;
    e.cpu->gpr[RBX] = CPU_ENV_DATA + 5;
    CHECK_EQ(RUN(0x0F, 0x01, 0x3B), NO_FAULT);
    CHECK_EQ(x86_read32(e.cpu, CPU_ENV_DATA, &v), X86_FAULT);
    e.cpu->gpr[RBX] = BIT(50); /* not canonical: nothing happens */
    CHECK_EQ(RUN(0x0F, 0x01, 0x3B), NO_FAULT);
    cpu_env_destroy(&e);
}

static unsigned int invpcid(uint64_t type, uint64_t pcid, uint64_t address)
{
    cpu_env_put64(&e, CPU_ENV_DATA + 0x1000, pcid);
    cpu_env_put64(&e, CPU_ENV_DATA + 0x1008, address);
    e.cpu->gpr[RBX] = CPU_ENV_DATA + 0x1000;
    e.cpu->gpr[RAX] = type;
    return RUN(0x66, 0x0F, 0x38, 0x82, 0x03);
}

static void test_invpcid(void)
{
    struct x86_level host;
    uint32_t v;
    x86_level_host(&host);
    cpu_env_create(&e, CPU_ENV_LONG);
    e.cpu->level = &host;
    for (uint64_t type = 0; type < 4; type++) {
        *cpu_env_pte(&e, CPU_ENV_DATA) = CPU_ENV_DATA | X86_PTE_P;
        CHECK_EQ(x86_read32(e.cpu, CPU_ENV_DATA, &v), X86_OK);
        *cpu_env_pte(&e, CPU_ENV_DATA) = 0;
        CHECK_EQ(invpcid(type, 0, CPU_ENV_DATA), NO_FAULT);
        CHECK_EQ(x86_read32(e.cpu, CPU_ENV_DATA, &v), X86_FAULT);
    }
    CHECK_EQ(invpcid(4, 0, 0), X86_GP);
    CHECK_EQ(invpcid(UINT64_MAX, 0, 0), X86_GP);
    CHECK_EQ(invpcid(0, 1, 0), X86_GP); /* without PCIDE */
    CHECK_EQ(invpcid(1, 0x1000, 0), X86_GP);
    CHECK_EQ(invpcid(0, 0, BIT(47)), X86_GP);
    CHECK_EQ(x86_write_cr4(e.cpu, e.cpu->cr4 | X86_CR4_PCIDE), X86_OK);
    CHECK_EQ(invpcid(0, 1, 0), NO_FAULT);
    cpu_env_set_cpl(&e, 3);
    CHECK_EQ(invpcid(2, 0, 0), X86_GP);
    e.cpu->level = x86_level_find("v3");
    cpu_env_destroy(&e);
}

static void test_clflush_checks(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    *cpu_env_pte(&e, CPU_ENV_DATA) = 0;
    x86_tlb_flush(e.cpu);
    e.cpu->gpr[RBX] = CPU_ENV_DATA;
    CHECK_EQ(RUN(0x0F, 0xAE, 0x3B), X86_PF);
    CHECK_EQ(e.cpu->fault.error, 0);
    e.cpu->gpr[RBX] = BIT(50);
    CHECK_EQ(RUN(0x0F, 0xAE, 0x3B), X86_GP);
    cpu_env_destroy(&e);
}

/* --- the small ones --- */

static void test_results(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    vm_clock_start(&e.vm);
    fake_seam_advance(0x123456789);
    memset(e.cpu->gpr, 0xFF, sizeof(e.cpu->gpr));
    CHECK_EQ(RUN(0x0F, 0x31), NO_FAULT);
    CHECK_EQ(e.cpu->gpr[RDX] << 32 | e.cpu->gpr[RAX], vm_clock_ns(&e.vm));
    e.cpu->msr.tsc_aux = 7;
    CHECK_EQ(RUN(0x0F, 0x01, 0xF9), NO_FAULT);
    CHECK_EQ(e.cpu->gpr[RCX], 7);

    e.cpu->gpr[RAX] = 0xFFFFFFFF00000000;
    e.cpu->gpr[RCX] = UINT64_MAX;
    CHECK_EQ(RUN(0x0F, 0xA2), NO_FAULT); /* upper halves are ignored and cleared */
    CHECK_EQ(e.cpu->gpr[RAX], 0x16);
    CHECK_EQ(e.cpu->gpr[RCX], 0x6C65746E);

    e.cpu->gpr[RCX] = 0xFFFFFFFF00000000u | MSR_LSTAR;
    e.cpu->gpr[RAX] = 0xAAAAAAAA81000000;
    e.cpu->gpr[RDX] = 0xAAAAAAAAFFFFFFFF;
    CHECK_EQ(RUN(0x0F, 0x30), NO_FAULT);
    CHECK_EQ(e.cpu->msr.lstar, 0xFFFFFFFF81000000);
    CHECK_EQ(RUN(0x0F, 0x32), NO_FAULT);
    CHECK_EQ(e.cpu->gpr[RAX], 0x81000000);
    CHECK_EQ(e.cpu->gpr[RDX], 0xFFFFFFFF);
    e.cpu->gpr[RCX] = 0x12345;
    CHECK_EQ(RUN(0x0F, 0x32), X86_GP);
    CHECK_EQ(e.cpu->gpr[RAX], 0x81000000);

    e.cpu->rflags |= X86_FLAGS_STATUS;
    e.cpu->gpr[RAX] = UINT64_MAX;
    CHECK_EQ(RUN(0x0F, 0xC7, 0xF0), NO_FAULT); /* rdrand eax */
    CHECK_EQ(e.cpu->gpr[RAX] >> 32, 0);
    CHECK_EQ(e.cpu->rflags & X86_FLAGS_STATUS, X86_FLAG_CF);
    e.cpu->gpr[RAX] = UINT64_MAX << 16;
    CHECK_EQ(RUN(0x66, 0x0F, 0xC7, 0xF0), NO_FAULT); /* rdrand ax */
    CHECK_EQ(e.cpu->gpr[RAX] >> 16, UINT64_MAX >> 16);
    cpu_env_destroy(&e);
}

static void test_stac_changes_context(void)
{
    uint32_t v;
    cpu_env_create(&e, CPU_ENV_LONG);
    CHECK_EQ(x86_write_cr4(e.cpu, e.cpu->cr4 | X86_CR4_SMAP), X86_OK);
    cpu_env_code(&e, "\x0F\x01\xCB\x0F\x01\xCA", 6);
    *cpu_env_pte(&e, CPU_ENV_CODE) &= ~X86_PTE_U;
    CHECK_EQ(x86_read32(e.cpu, CPU_ENV_DATA, &v), X86_FAULT); /* a user page */
    CHECK_EQ(x86_step(e.cpu), X86_OK);
    CHECK_EQ(x86_read32(e.cpu, CPU_ENV_DATA, &v), X86_OK);
    CHECK_EQ(x86_step(e.cpu), X86_OK);
    CHECK_EQ(x86_read32(e.cpu, CPU_ENV_DATA, &v), X86_FAULT);
    cpu_env_destroy(&e);
}

/* A spinning vCPU gives up its pCPU now and then, but only if there is another vCPU. */
static void test_pause(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    for (int vcpus = 1; vcpus <= 2; vcpus++) {
        unsigned int yields = 0;
        e.vm.vcpu_count = (uint32_t)vcpus;
        for (int i = 0; i < 320; i++) {
            cpu_env_code(&e, "\xF3\x90", 2);
            yields += x86_step(e.cpu) == X86_JUMP;
        }
        CHECK_EQ(yields, vcpus == 1 ? 0 : 10);
    }
    e.vm.vcpu_count = 1;
    cpu_env_destroy(&e);
}

/* A loop with two PAUSEs spins as well; one that works between them does not. */
static void test_pause_elsewhere(void)
{
    static const uint8_t two[] = {0xF3, 0x90, 0xF3, 0x90};
    for (uint64_t between = 10; between <= 1000; between *= 100) {
        unsigned int yields = 0;
        cpu_env_create(&e, CPU_ENV_LONG);
        e.vm.vcpu_count = 2;
        for (int i = 0; i < 320; i++) {
            if (i % 2 == 0)
                cpu_env_code(&e, two, sizeof(two));
            yields += x86_step(e.cpu) == X86_JUMP;
            e.cpu->instructions += between; /* as the engine counts */
        }
        CHECK_EQ(yields, between == 10 ? 10 : 0);
        e.vm.vcpu_count = 1;
        cpu_env_destroy(&e);
    }
}

int main(void)
{
    UNIT_RUN(test_privilege);
    UNIT_RUN(test_iopl);
    UNIT_RUN(test_tsd_umip);
    UNIT_RUN(test_cr_rules);
    UNIT_RUN(test_long_mode_activation);
    UNIT_RUN(test_real_to_protected);
    UNIT_RUN(test_msw);
    UNIT_RUN(test_cr8);
    UNIT_RUN(test_debug_registers);
    UNIT_RUN(test_instruction_breakpoint);
    UNIT_RUN(test_traps);
    UNIT_RUN(test_invlpg);
    UNIT_RUN(test_invpcid);
    UNIT_RUN(test_clflush_checks);
    UNIT_RUN(test_results);
    UNIT_RUN(test_stac_changes_context);
    UNIT_RUN(test_pause);
    UNIT_RUN(test_pause_elsewhere);
    return unit_done();
}
