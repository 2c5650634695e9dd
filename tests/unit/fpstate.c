/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * x86/op_fpstate.c and x86/op_x87_env.c: instructions that save and restore x87 and vector state,
 * against this machine's processor with random states and areas; and what a program may not do with
 * them. Not compared: the x87's pointers (some processors store them only when an exception is
 * pending) and the MXCSR mask (which differs by vendor); those have tests of their own.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/lib/cpu_env.h"
#include "tests/lib/host_insn.h"
#include "tests/lib/unit.h"
#include "x86/mem.h"

enum { AREA = HOST_WINDOW + 0x400, AREA_SIZE = 1024, REPEAT = 300 };

static struct cpu_env env;
static uint64_t random_state = 0x123456789ABCDEF;

static uint64_t rnd(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545F4914F6CDD1D;
}

static void rnd_bytes(void *out, size_t size)
{
    uint8_t *p = out;
    for (size_t n = 0; n < size; n++)
        p[n] = (uint8_t)rnd();
}

/* --- one instruction on both sides --- */

struct run {
    struct host_state start, host, guest;
    int host_vector, guest_vector;
    uint8_t *host_area, *guest_area;
};
static struct run run;

/* A state that is consistent and nowhere initial. */
static void random_start(void)
{
    struct x86_fpu *fpu = &run.start.fpu;
    memset(&run.start, 0, sizeof(run.start));
    rnd_bytes(run.start.gpr, sizeof(run.start.gpr));
    run.start.gpr[RBX] = AREA;
    run.start.rflags = X86_FLAG_ONE;
    rnd_bytes(fpu->xmm, sizeof(fpu->xmm));
    rnd_bytes(fpu->ymm_high, sizeof(fpu->ymm_high));
    for (unsigned int n = 0; n < 8; n++) {
        rnd_bytes(fpu->st[n], 10);
        if (rnd() % 4 == 0)
            memset(fpu->st[n], 0, 10);
        if (rnd() % 4 == 0)
            store_u16(fpu->st[n] + 8, rnd() & 1 ? 0x7FFF : 0);
        if (rnd() % 2)
            fpu->st[n][7] |= 0x80;
    }
    fpu->fcw = (uint16_t)((rnd() & 0x1F3F) | 0x40);
    fpu->fsw = (uint16_t)(rnd() & 0x7F40 & ~0x80u);
    fpu->fsw |= (uint16_t)(rnd() & fpu->fcw & 0x3F); /* nothing pending */
    fpu->ftw = (uint8_t)(rnd() | 1);
    fpu->mxcsr = (uint32_t)rnd() & 0xFFFF;
    rnd_bytes(run.host_area, AREA_SIZE);
}

/* Runs the bytes on both sides with run.start and the area as it is now in run.host_area. */
static void run_both(const char *bytes, size_t length)
{
    struct x86_cpu *cpu = env.cpu;
    memcpy(run.guest_area, run.host_area, AREA_SIZE);
    run.host = run.start;
    run.host_vector = host_insn_run(&run.host, (const uint8_t *)bytes, length);
    cpu_env_code(&env, bytes, length);
    memcpy(cpu->gpr, run.start.gpr, sizeof(cpu->gpr));
    cpu->fpu = run.start.fpu;
    int status = cpu_env_step(&env);
    run.guest_vector = status == X86_FAULT ? cpu->fault.vector : 0;
    run.guest.fpu = cpu->fpu;
}
#define RUN(string) run_both((string), sizeof(string) - 1)

static void check_state(void)
{
    const struct x86_fpu *h = &run.host.fpu, *g = &run.guest.fpu;
    CHECK_EQ(run.guest_vector, run.host_vector);
    CHECK_EQ(g->fcw, h->fcw);
    CHECK_EQ(g->fsw, h->fsw);
    CHECK_EQ(g->ftw, h->ftw);
    CHECK_EQ(g->mxcsr, h->mxcsr);
    CHECK(memcmp(g->xmm, h->xmm, sizeof(g->xmm)) == 0);
    CHECK(memcmp(g->ymm_high, h->ymm_high, sizeof(g->ymm_high)) == 0);
    for (unsigned int n = 0; h->ftw && n < 8; n++)
        CHECK(memcmp(g->st[n], h->st[n], 10) == 0);
}

static void check_area(unsigned int from, unsigned int to)
{
    for (unsigned int at = from; at < to; at++) {
        if (run.host_area[at] != run.guest_area[at]) {
            unit_context("byte %u", at);
            CHECK_EQ(run.guest_area[at], run.host_area[at]);
            unit_context(NULL);
            return;
        }
    }
}

/* --- FXSAVE, FXRSTOR --- */

static void check_fxsave_area(void)
{
    check_state();
    check_area(0, 6);
    check_area(24, 28);
    check_area(32, 416);
}

static void test_fxsave(void)
{
    for (unsigned int n = 0; n < REPEAT; n++) {
        random_start();
        RUN("\x48\x0F\xAE\x03"); /* fxsave64 [rbx] */
        check_fxsave_area();
        random_start();
        RUN("\x0F\xAE\x03");
        check_fxsave_area();
    }
}

/* Bytes that no software stores there keep what they had. */
static void test_fxsave_leaves_the_rest(void)
{
    random_start();
    memset(run.host_area, 0xA5, AREA_SIZE);
    RUN("\x48\x0F\xAE\x03");
    for (unsigned int at = 464; at < AREA_SIZE; at++)
        CHECK_EQ(run.guest_area[at], 0xA5);
}

static void random_mxcsr_in_area(void)
{
    bool invalid = rnd() % 8 == 0;
    /* bit 17 exists on AMD's processors and not for the guest */
    store_u32(run.host_area + 24, (uint32_t)rnd() & (invalid ? 0xFFFDFFFF : 0xFFFF));
}

static void test_fxrstor(void)
{
    unsigned int faults = 0;
    for (unsigned int n = 0; n < REPEAT; n++) {
        random_start();
        random_mxcsr_in_area();
        if (n & 1)
            RUN("\x48\x0F\xAE\x0B");
        else
            RUN("\x0F\xAE\x0B");
        check_state();
        faults += run.guest_vector == X86_GP;
    }
    CHECK(faults > 0 && faults < REPEAT);
}

/* --- XSAVE, XRSTOR --- */

static void test_xsave(void)
{
    for (unsigned int n = 0; n < REPEAT; n++) {
        random_start();
        run.start.gpr[RAX] = rnd() % 8; /* the host may have more components than these */
        run.start.gpr[RDX] = 0;
        if (n & 1)
            RUN("\x48\x0F\xAE\x23"); /* xsave64 */
        else
            RUN("\x0F\xAE\x23");
        check_state();
        check_area(0, 6);
        check_area(24, 28);
        check_area(32, 416);
        check_area(512, 576 + 256);
    }
}

static void random_header(void)
{
    memset(run.host_area + 512, 0, 64);
    run.host_area[512] = (uint8_t)(rnd() & 7);
    switch (rnd() % 12) {
    case 0:
        run.host_area[512 + 8 + rnd() % 16] = (uint8_t)rnd(); /* XCOMP_BV and what must be zero */
        break;
    case 1:
        run.host_area[512 + 7] = 0x80; /* nobody has component 63 */
        break;
    default:
        break;
    }
}

static void test_xrstor(void)
{
    unsigned int faults = 0;
    for (unsigned int n = 0; n < REPEAT * 4; n++) {
        random_start();
        random_header();
        random_mxcsr_in_area();
        run.start.gpr[RAX] = rnd() % 8;
        run.start.gpr[RDX] = 0;
        if (n & 1)
            RUN("\x48\x0F\xAE\x2B"); /* xrstor64 */
        else
            RUN("\x0F\xAE\x2B");
        check_state();
        faults += run.guest_vector == X86_GP;
    }
    CHECK(faults > REPEAT / 4 && faults < REPEAT * 3);
}

static void test_alignment(void)
{
    static const struct {
        const char *bytes;
        unsigned int align;
    } rows[] = {
        {"\x48\x0F\xAE\x03", 16}, {"\x48\x0F\xAE\x0B", 16}, {"\x48\x0F\xAE\x23", 64},
        {"\x48\x0F\xAE\x2B", 64}, {"\x48\x0F\xAE\x33", 64},
    };
    for (size_t n = 0; n < sizeof(rows) / sizeof(rows[0]); n++) {
        for (unsigned int offset = 0; offset < 64; offset += 8) {
            random_start();
            memset(run.host_area, 0, AREA_SIZE);
            run.start.gpr[RBX] += offset;
            run.start.gpr[RAX] = 7;
            run.start.gpr[RDX] = 0;
            run_both(rows[n].bytes, 4);
            unit_context("row %zu offset %u", n, offset);
            CHECK_EQ(run.guest_vector, offset % rows[n].align ? X86_GP : 0);
            CHECK_EQ(run.guest_vector, run.host_vector);
            unit_context(NULL);
        }
    }
}

/* An area that reaches into a page that cannot be written: nothing of it is. */
static void test_save_crosses_into_read_only(void)
{
    static const char *const saves[] = {"\x48\x0F\xAE\x03", "\x48\x0F\xAE\x23"};
    uint64_t page = CPU_ENV_DATA + 0x11000;
    *cpu_env_pte(&env, page) &= ~X86_PTE_W;
    x86_tlb_flush(env.cpu);
    for (unsigned int n = 0; n < 2; n++) {
        random_start();
        memset(env.ram + page - 128, 0xA5, 256);
        env.cpu->gpr[RBX] = page - 128;
        env.cpu->gpr[RAX] = 7;
        env.cpu->gpr[RDX] = 0;
        cpu_env_code(&env, saves[n], 4);
        CHECK_EQ(cpu_env_step(&env), X86_FAULT);
        CHECK_EQ(env.cpu->fault.vector, X86_PF);
        CHECK_EQ(env.cpu->fault.payload, page);
        for (unsigned int at = 0; at < 256; at++)
            CHECK_EQ(env.ram[page - 128 + at], 0xA5);
    }
    *cpu_env_pte(&env, page) |= X86_PTE_W;
    x86_tlb_flush(env.cpu);
    /* and over a page end that is no obstacle */
    random_start();
    env.cpu->fpu = run.start.fpu;
    env.cpu->gpr[RBX] = page - 128;
    cpu_env_code(&env, saves[1], 4);
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK(memcmp(env.ram + page - 128 + 576, run.start.fpu.ymm_high, 256) == 0);
    CHECK(memcmp(env.ram + page - 128 + 160, run.start.fpu.xmm, 256) == 0);
}

/* --- MXCSR, upper halves --- */

static void test_mxcsr(void)
{
    for (unsigned int n = 0; n < REPEAT; n++) {
        random_start();
        store_u32(run.host_area, (uint32_t)rnd() & (n % 4 ? 0xFFFF : 0xFFFDFFFF));
        if (n & 1)
            RUN("\x0F\xAE\x13"); /* ldmxcsr [rbx] */
        else
            RUN("\xC5\xF8\xAE\x13");
        check_state();
        random_start();
        if (n & 1)
            RUN("\x0F\xAE\x1B"); /* stmxcsr [rbx] */
        else
            RUN("\xC5\xF8\xAE\x1B");
        check_state();
        check_area(0, 64);
    }
}

static void test_vzero(void)
{
    random_start();
    RUN("\xC5\xF8\x77");
    check_state();
    random_start();
    RUN("\xC5\xFC\x77");
    check_state();
}

/* --- x87 environment --- */

/* 28 or 14 bytes: the control, status and tag words; the selectors are zero, pointers not compared
 */
static void check_environment(bool wide)
{
    check_state();
    for (unsigned int n = 0; n < 3; n++) {
        if (wide)
            check_area(n * 4, n * 4 + 4);
        else
            check_area(n * 2, n * 2 + 2);
    }
}

static void test_store_environment(void)
{
    for (unsigned int n = 0; n < REPEAT; n++) {
        random_start();
        RUN("\xD9\x33"); /* fnstenv [rbx] */
        check_environment(true);
        check_area(28, 64);
        random_start();
        RUN("\x66\xD9\x33");
        check_environment(false);
        check_area(14, 64);
        random_start();
        RUN("\xDD\x33"); /* fnsave [rbx] */
        check_environment(true);
        check_area(28, 128);
        random_start();
        RUN("\x66\xDD\x33");
        check_environment(false);
        check_area(14, 128);
    }
}

static void test_load_environment(void)
{
    static const char *const loads[] = {"\xD9\x23\x90", "\x66\xD9\x23", "\xDD\x23\x90",
                                        "\x66\xDD\x23"};
    for (unsigned int n = 0; n < REPEAT * 4; n++) {
        random_start();
        run_both(loads[n % 4], n & 1 ? 3 : 2);
        check_state();
    }
}

/* Where the last instruction and its operand were. */
static void test_pointers(void)
{
    struct x86_cpu *cpu = env.cpu;
    random_start();
    cpu->fpu = run.start.fpu;
    cpu->gpr[RBX] = AREA;
    cpu->gpr[RDI] = AREA + 64;
    cpu_env_code(&env, "\xDD\x43\x08\xD9\xE8\xD9\x37", 7); /* fld [rbx+8]; fld1; fnstenv [rdi] */
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(cpu->fpu.fip, CPU_ENV_CODE);
    CHECK_EQ(cpu->fpu.fdp, AREA + 8);
    CHECK_EQ(cpu->fpu.fop, 0x543);
    CHECK_EQ(cpu->fpu.mxcsr_mask, 0xFFFF);
    cpu->fpu.fcw |= 0x3F;
    cpu->fpu.fsw &= 0x7F00;
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(cpu->fpu.fip, CPU_ENV_CODE + 3);
    CHECK_EQ(cpu->fpu.fdp, AREA + 8);
    CHECK_EQ(cpu->fpu.fop, 0x1E8);
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(cpu_env_get32(&env, AREA + 64 + 12), CPU_ENV_CODE + 3);
    CHECK_EQ(cpu_env_get32(&env, AREA + 64 + 16), 0x1E8 << 16);
    CHECK_EQ(cpu_env_get32(&env, AREA + 64 + 20), AREA + 8);
    CHECK_EQ(cpu_env_get32(&env, AREA + 64 + 24), 0xFFFF0000);
}

/* --- pending exceptions, XCR0 --- */

static void test_pending_exception(void)
{
    static const struct {
        const char *bytes;
        uint8_t length;
        bool waits;
    } rows[] = {
        {"\x9B", 1, true},          {"\xD9\xE8", 2, true},     {"\xD9\x2B", 2, true},
        {"\xDD\x03", 2, true},      {"\xD9\x23", 2, true},     {"\xDD\x23", 2, true},
        {"\x0F\x77", 2, true},      {"\x0F\xFC\xC1", 3, true}, {"\xD9\x3B", 2, false},
        {"\xDD\x3B", 2, false},     {"\xDF\xE0", 2, false},    {"\xD9\x33", 2, false},
        {"\xDB\xE2", 2, false},     {"\xDB\xE3", 2, false},    {"\xDD\x33", 2, false},
        {"\x0F\xAE\x03", 3, false}, {"\xDB\xE4", 2, false},
    };
    for (size_t n = 0; n < sizeof(rows) / sizeof(rows[0]); n++) {
        random_start();
        run.start.fpu.fcw = 0x37E;
        run.start.fpu.fsw = 0x8081;
        run_both(rows[n].bytes, rows[n].length);
        unit_context("row %zu", n);
        CHECK_EQ(run.guest_vector, rows[n].waits ? X86_MF : 0);
        CHECK_EQ(run.host_vector, run.guest_vector);
        unit_context(NULL);
    }
}

static int xsetbv(uint64_t index, uint64_t value)
{
    env.cpu->gpr[RCX] = index;
    env.cpu->gpr[RAX] = (uint32_t)value;
    env.cpu->gpr[RDX] = value >> 32;
    cpu_env_code(&env, "\x0F\x01\xD1", 3);
    return cpu_env_step(&env) == X86_FAULT ? env.cpu->fault.vector : 0;
}

static void test_xcr0(void)
{
    struct x86_cpu *cpu = env.cpu;
    static const struct {
        uint64_t index, value;
        int vector;
    } rows[] = {
        {0, 1, 0},          {0, 3, 0},
        {0, 7, 0},          {0, 0, X86_GP},
        {0, 2, X86_GP},     {0, 5, X86_GP},
        {0, 15, X86_GP},    {1, 7, X86_GP},
        {0, 0x207, X86_GP}, {0, (uint64_t)1 << 63 | 7, X86_GP},
    };
    for (size_t n = 0; n < sizeof(rows) / sizeof(rows[0]); n++) {
        cpu->xcr0 = 7;
        unit_context("row %zu", n);
        CHECK_EQ(xsetbv(rows[n].index, rows[n].value), rows[n].vector);
        CHECK_EQ(cpu->xcr0, rows[n].vector ? 7 : rows[n].value);
        unit_context(NULL);
    }
    cpu->xcr0 = 3;
    cpu->gpr[RCX] = 0;
    cpu->gpr[RAX] = cpu->gpr[RDX] = ~(uint64_t)0;
    cpu_env_code(&env, "\x0F\x01\xD0\x0F\x01\xD0", 6); /* xgetbv */
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(cpu->gpr[RAX], 3);
    CHECK_EQ(cpu->gpr[RDX], 0);
    cpu->gpr[RCX] = 1;
    CHECK_EQ(cpu_env_step(&env), X86_FAULT);
    CHECK_EQ(cpu->fault.vector, X86_GP);
    cpu->cr4 &= ~X86_CR4_OSXSAVE;
    CHECK_EQ(xsetbv(0, 7), X86_UD);
    cpu->cr4 |= X86_CR4_OSXSAVE;
    cpu_env_set_cpl(&env, 3);
    CHECK_EQ(xsetbv(0, 7), X86_GP);
    cpu_env_set_cpl(&env, 0);
    cpu->xcr0 = 7;
}

/* Outside of 64-bit mode there are eight vector registers. */
static void test_compatibility_mode(void)
{
    struct x86_cpu *cpu = env.cpu;
    random_start();
    cpu->fpu = run.start.fpu;
    memset(env.ram + AREA, 0xA5, AREA_SIZE);
    cpu_env_set_compat(&env);
    cpu->gpr[RBX] = AREA;
    cpu->gpr[RAX] = 7;
    cpu->gpr[RDX] = 0;
    cpu_env_code(&env, "\x0F\xAE\x23\xC5\xF8\x77", 6); /* xsave [ebx]; vzeroupper */
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK(memcmp(env.ram + AREA + 160, run.start.fpu.xmm, 128) == 0);
    CHECK_EQ(env.ram[AREA + 160 + 128], 0xA5);
    CHECK(memcmp(env.ram + AREA + 576, run.start.fpu.ymm_high, 128) == 0);
    CHECK_EQ(env.ram[AREA + 576 + 128], 0xA5);
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(load_u64(cpu->fpu.ymm_high[7]), 0);
    CHECK_EQ(load_u64(cpu->fpu.ymm_high[8]), load_u64(run.start.fpu.ymm_high[8]));
    cpu_env_set_cpl(&env, 0);
}

int main(void)
{
    host_insn_init();
    cpu_env_create(&env, CPU_ENV_LONG);
    run.host_area = (uint8_t *)(uintptr_t)AREA;
    run.guest_area = env.ram + AREA;
    UNIT_RUN(test_fxsave);
    UNIT_RUN(test_fxsave_leaves_the_rest);
    UNIT_RUN(test_fxrstor);
    UNIT_RUN(test_xsave);
    UNIT_RUN(test_xrstor);
    UNIT_RUN(test_alignment);
    UNIT_RUN(test_save_crosses_into_read_only);
    UNIT_RUN(test_mxcsr);
    UNIT_RUN(test_vzero);
    UNIT_RUN(test_store_environment);
    UNIT_RUN(test_load_environment);
    UNIT_RUN(test_pointers);
    UNIT_RUN(test_pending_exception);
    UNIT_RUN(test_xcr0);
    UNIT_RUN(test_compatibility_mode);
    cpu_env_destroy(&env);
    return unit_done();
}
