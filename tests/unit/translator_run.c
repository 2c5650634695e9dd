/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Translated code and what surrounds it: the host's memory protection, registers that both use,
 * kicks and signals while it runs, instructions of several steps, features that the guest's
 * processor lacks.
 */
#include "tests/unit/translator_env.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define FLAGS (X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A | X86_PTE_D)

enum { FRAME_A = CPU_ENV_DATA, FRAME_B = CPU_ENV_DATA + 0x1000 };

/* --- J9 --- */

static void test_j09_never_writable_and_executable(void)
{
    char line[512];
    begin();
    CHECK_EQ(RUN("\x90\xF4"), HALTED);
    CHECK(stats()->translated > 0);
    const struct seam_exec *x = &soft_translator(e.cpu)->exec;
    CHECK(x->write != x->exec);
    bool seen = false;
    FILE *f = fopen("/proc/self/maps", "r");
    while (f && fgets(line, sizeof(line), f)) {
        unsigned long from, to;
        char rights[8];
        if (sscanf(line, "%lx-%lx %7s", &from, &to, rights) != 3)
            continue;
        CHECK(!(rights[1] == 'w' && rights[2] == 'x'));
        if ((uint64_t)(uintptr_t)x->exec >= from && (uint64_t)(uintptr_t)x->exec < to) {
            CHECK(rights[1] == '-' && rights[2] == 'x');
            seen = true;
        }
        if ((uint64_t)(uintptr_t)x->write >= from && (uint64_t)(uintptr_t)x->write < to)
            CHECK(rights[1] == 'w' && rights[2] == '-');
    }
    if (f)
        fclose(f);
    CHECK(seen);
    end();
}

/* --- J10 --- */

static uint32_t host_mxcsr(void)
{
    uint32_t v;
    __asm__ volatile("stmxcsr %0" : "=m"(v));
    return v;
}

static uint64_t host_flags(void)
{
    uint64_t v;
    __asm__ volatile("pushfq\n\tpop %0" : "=r"(v));
    return v;
}

static uint16_t host_fcw(void)
{
    uint16_t v;
    __asm__ volatile("fnstcw %0" : "=m"(v));
    return v;
}

static void test_j10_no_leak_of_registers(void)
{
    begin();
    uint16_t fcw = host_fcw();
    e.cpu->gpr[RBX] = CPU_ENV_DATA;
    e.cpu->fpu.mxcsr = 0xFFBF; /* to zero, flush, all flags */
    e.cpu->fpu.fcw = 0xF7F;
    for (unsigned int n = 0; n < 3; n++) {
        e.cpu->rflags = X86_FLAG_ONE | X86_FLAG_AC;
        /* std; sub eax, eax; addps xmm0, xmm1; stmxcsr [rbx]; fnstcw [rbx + 4]; addps; pushf; pop
         * rcx */
        CHECK_EQ(RUN("\xFD\x29\xC0\x0F\x58\xC1\x0F\xAE\x1B\xD9\x7B\x04\x0F\x58\xC1\x9C\x59\xF4"),
                 HALTED);
        CHECK_EQ(cpu_env_get32(&e, CPU_ENV_DATA), 0xFFBF);
        CHECK_EQ(cpu_env_get16(&e, CPU_ENV_DATA + 4), 0xF7F);
        CHECK_EQ(e.cpu->gpr[RCX] & (X86_FLAGS_STATUS | X86_FLAG_DF | X86_FLAG_AC),
                 X86_FLAG_ZF | X86_FLAG_PF | X86_FLAG_DF | X86_FLAG_AC);
        CHECK_EQ(host_mxcsr(), X86_MXCSR_RESET);
        CHECK_EQ(host_flags() & (X86_FLAG_DF | X86_FLAG_AC | X86_FLAG_TF), 0);
        CHECK_EQ(host_fcw(), fcw);
    }
    /* what the host has in its vector registers the guest does not see */
    uint64_t secret[4] __attribute__((aligned(32))) = {0x5EC2E7, 0x5EC2E7, 0x5EC2E7, 0x5EC2E7};
    memset(e.cpu->fpu.xmm, 0, sizeof(e.cpu->fpu.xmm));
    memset(e.cpu->fpu.ymm_high, 0, sizeof(e.cpu->fpu.ymm_high));
    __asm__ volatile("vmovaps %0, %%ymm5" : : "m"(secret) : "xmm5");
    CHECK_EQ(RUN("\xC5\xFC\x11\x2B\xF4"), HALTED); /* vmovups [rbx], ymm5 */
    for (unsigned int n = 0; n < 4; n++)
        CHECK_EQ(cpu_env_get64(&e, CPU_ENV_DATA + 8 * n), 0);
    end();
}

/* --- J11, J15: something from outside while translated code runs --- */

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Code that goes on for ever, or nearly; it must be left soon, between two instructions or
 * iterations. */
static void expect_kick(const void *code, size_t size)
{
    double before = seconds();
    put_code(CPU_ENV_CODE, code, size);
    CHECK_EQ(run_until_kicked(), KICKED);
    CHECK(seconds() - before < 5);
    CHECK(e.cpu->rip >= CPU_ENV_CODE && e.cpu->rip < CPU_ENV_CODE + size + PAGE_SIZE);
}
#define EXPECT_KICK(code) expect_kick(code, sizeof(code) - 1)

static void test_j11_loops_and_strings_are_left(void)
{
    begin();
    EXPECT_KICK("\xEB\xFE");                             /* jmp to itself */
    EXPECT_KICK("\x75\xFE\x74\xFC");                     /* jcc */
    EXPECT_KICK("\xFF\xC0\xE9\xF9\xFF\xFF\xFF");         /* over more than one instruction */
    EXPECT_KICK("\x48\x8D\x05\xF9\xFF\xFF\xFF\xFF\xE0"); /* lea rax, [rip - 7]; jmp rax */
    EXPECT_KICK("\x5B\xE8\xFA\xFF\xFF\xFF");             /* pop rbx; call to it: RSP stays */
    EXPECT_KICK("\x48\x8D\x05\xF9\xFF\xFF\xFF\x50\xC3"); /* push and ret */
    EXPECT_KICK("\xB9\x02\x00\x00\x00\xE2\xFE\xEB\xF7"); /* loop */
    EXPECT_KICK(
        "\xBF\x00\x00\x10\x00\xB9\x00\x00\x40\x00\xF3\xAA\xEB\xF2"); /* rep stosb of 4 MiB */
    /* REP with RCX = 2^63 and a page that all of it is in, by LODSB that goes to and fro: one
     * prefix cannot. A SCASB that finds nothing goes up to where nothing is mapped: #PF with RCX
     * and RDI to go on from. */
    memset(e.ram + CPU_ENV_DATA, 1, CPU_ENV_RAM / 2);
    e.cpu->gpr[RDI] = CPU_ENV_DATA;
    e.cpu->gpr[RCX] = BIT(63);
    e.cpu->gpr[RAX] = 0x77;
    int vector = RUN("\xF2\xAE\xF4");
    CHECK(vector == X86_PF || vector == HALTED);
    CHECK_EQ(e.cpu->gpr[RDI] - CPU_ENV_DATA, BIT(63) - e.cpu->gpr[RCX]);
    end();
}

static volatile sig_atomic_t signals;

static void on_timer(int sig)
{
    (void)sig;
    signals++;
    /* what a handler may use: vector registers, flags, the red zone's place */
    __asm__ volatile("vpcmpeqd %%ymm0, %%ymm0, %%ymm0\n\tstd\n\tcld" : : : "xmm0", "cc");
}

/* A sum by integer and vector instructions, with flags that live long, while a timer of the host
 * fires. */
static void test_j15_signals_of_the_host(void)
{
    struct sigaction action = {.sa_handler = on_timer}, before;
    struct itimerval fast = {{0, 200}, {0, 200}}, off = {{0, 0}, {0, 0}};
    begin();
    sigaction(SIGALRM, &action, &before);
    setitimer(ITIMER_REAL, &fast, NULL);
    for (unsigned int n = 0; n < 20; n++) {
        e.cpu->gpr[RCX] = 1000000;
        e.cpu->gpr[RAX] = e.cpu->gpr[R10] = e.cpu->gpr[RDX] = 0;
        e.cpu->gpr[RBX] = CPU_ENV_DATA;
        cpu_env_put32(&e, CPU_ENV_DATA, 0);
        /* pxor xmm0; pcmpeqd xmm1; stc; L: paddd-like psubd xmm0, xmm1; adc rax, 0; stc; inc r10;
         * inc dword [rbx]; dec rcx; jnz L; movd edx, xmm0; hlt. INC and DEC leave CF alone. */
        CHECK_EQ(RUN("\x66\x0F\xEF\xC0\x66\x0F\x76\xC9\xF9"
                     "\x66\x0F\xFA\xC1\x48\x83\xD0\x00\xF9\x49\xFF\xC2\xFF\x03\x48\xFF\xC9\x75\xED"
                     "\x66\x0F\x7E\xC2\xF4"),
                 HALTED);
        CHECK_EQ(e.cpu->gpr[RAX], 1000000);
        CHECK_EQ(e.cpu->gpr[R10], 1000000);
        CHECK_EQ(e.cpu->gpr[RDX], 1000000);
        CHECK_EQ(cpu_env_get32(&e, CPU_ENV_DATA), 1000000);
    }
    setitimer(ITIMER_REAL, &off, NULL);
    sigaction(SIGALRM, &before, NULL);
    CHECK(signals > 10);
    end();
}

/* --- J12 --- */

static void test_j12_locked_across_pages(void)
{
    begin();
    map_far(0, FRAME_A | FLAGS);
    map_far(1, FRAME_B | FLAGS);
    for (unsigned int n = 0; n < 3; n++) {
        cpu_env_put32(&e, FRAME_A + 0xFFC, 0xFFFF0000);
        cpu_env_put32(&e, FRAME_B, 0x0000FFFF);
        e.cpu->gpr[RBX] = FAR + 0xFFE;
        e.cpu->gpr[RAX] = 1;
        CHECK_EQ(RUN("\xF0\x01\x03\xF4"), HALTED); /* lock add [rbx], eax */
        CHECK_EQ(cpu_env_get32(&e, FRAME_A + 0xFFC), 0);
        CHECK_EQ(cpu_env_get32(&e, FRAME_B), 0);
        CHECK_EQ(RUN("\x87\x03\xF4"), HALTED); /* xchg */
        CHECK_EQ(cpu_env_get32(&e, FRAME_A + 0xFFC), 0x00010000);
        /* cmpxchg8b across: not equal loads EDX:EAX, then equal stores ECX:EBX */
        e.cpu->gpr[RDI] = FAR + 0xFFC;
        e.cpu->gpr[RAX] = 5;
        CHECK_EQ(RUN("\xF0\x0F\xC7\x0F\xF4"), HALTED);
        CHECK_EQ(e.cpu->gpr[RAX], 0x00010000);
        e.cpu->gpr[RCX] = 0x1234;
        CHECK_EQ(RUN("\xF0\x0F\xC7\x0F\xF4"), HALTED);
        CHECK_EQ(cpu_env_get32(&e, FRAME_B), 0x1234);
        e.cpu->gpr[RDI] = FAR + 0xFF8;
        CHECK_EQ(RUN("\xF0\x48\x0F\xC7\x0F\xF4"), X86_GP); /* cmpxchg16b wants alignment */
        CHECK_EQ(at.rip, CPU_ENV_CODE);
    }
    /* the second page may not be written: #PF, and nothing was */
    map_far(1, FRAME_B | (FLAGS & ~X86_PTE_W));
    x86_tlb_flush(e.cpu);
    cpu_env_put32(&e, FRAME_A + 0xFFC, 0xABCD0000);
    e.cpu->gpr[RBX] = FAR + 0xFFE;
    for (unsigned int n = 0; n < 2; n++) {
        CHECK_EQ(n ? RUN("\xF0\x01\x03\xF4") : RUN("\x01\x03\xF4"), X86_PF);
        CHECK_EQ(e.cpu->cr2, FAR + PAGE_SIZE);
        CHECK_EQ(at.error, X86_PF_P | X86_PF_W);
        CHECK_EQ(cpu_env_get32(&e, FRAME_A + 0xFFC), 0xABCD0000);
    }
    end();
}

/* --- J13 --- */

struct half_done {
    const char *name, *code;
    size_t size;
};
#define HALF(name, code)                                                                           \
    {                                                                                              \
        name, code, sizeof(code) - 1                                                               \
    }
/* With RSP = RBP = FAR + 8, where a page begins before which none is, or ends so; RBX: absent. */
static const struct half_done halves[] = {
    HALF("push [rbx]", "\xFF\x33"),
    HALF("call [rbx]", "\xFF\x13"),
    HALF("pop [rbx]", "\x8F\x03"),
    HALF("iretq", "\x48\xCF"),
    HALF("lretq", "\x48\xCB"),
    HALF("xchg [rbx], rsp", "\x48\x87\x23"),
    HALF("xadd [rbx], rax", "\x48\x0F\xC1\x03"),
    HALF("cmpxchg [rbx], rcx", "\x48\x0F\xB1\x0B"),
    HALF("movsb", "\xA4"),
    HALF("cmpsq", "\x48\xA7"),
    HALF("lfar", "\xFF\x1B"),
    HALF("mulx", "\xC4\xE2\xFB\xF6\x03"),
    HALF("mul [rbx]", "\x48\xF7\x23"),
    HALF("div [rbx]", "\x48\xF7\x33"),
    HALF("bts [rbx], rax", "\x48\x0F\xAB\x03"),
    HALF("setc [rbx]", "\x0F\x92\x03"),
    HALF("rcl [rbx], cl", "\x48\xD3\x13"),
    HALF("fxrstor [rbx]", "\x0F\xAE\x0B"),
    HALF("lidt [rbx]", "\x0F\x01\x1B"),
    HALF("inc [rbx]", "\x48\xFF\x03"),
    HALF("vmovups", "\xC5\xFC\x10\x03"),
    HALF("vmaskmovps", "\xC4\xE2\x7D\x2C\x03"),
};

static void test_j13_faults_leave_nothing_half_done(void)
{
    uint64_t before[16];
    uint32_t faults = 0;
    begin();
    map_far(1, FRAME_A | FLAGS); /* between two absent pages */
    for (unsigned int n = 0; n < ARRAY_SIZE(halves); n++) {
        for (unsigned int k = 0; k < 8; k++) {
            unit_context("%s, %u", halves[n].name, k);
            for (unsigned int r = 0; r < 16; r++)
                before[r] = UINT64_C(0x1111111111111111) * r + 1;
            /* across the end of the page that is there: all of the operand, or a part of it */
            uint64_t edge = FAR + 2 * PAGE_SIZE - (k & 3 ? 4 : 0);
            before[RBX] = before[RDI] = before[RSI] = edge;
            before[RSP] = k & 4 ? FAR + PAGE_SIZE + 4 : FAR + 2 * PAGE_SIZE - 12;
            if (halves[n].code[0] != '\x48' || halves[n].code[1] != '\xCF')
                before[RSP] = k & 4 ? FAR + PAGE_SIZE + 4 : FAR + 2 * PAGE_SIZE - 4;
            memcpy(e.cpu->gpr, before, sizeof(before));
            e.cpu->rflags = X86_FLAG_ONE | X86_FLAG_CF | X86_FLAG_OF | X86_FLAG_PF;
            put_code(CPU_ENV_CODE, halves[n].code, halves[n].size);
            put_code(CPU_ENV_CODE + halves[n].size, "\xF4", 1);
            int vector = run_at(CPU_ENV_CODE, 0);
            if (vector == HALTED) /* not all need memory that is not there for all positions */
                continue;
            faults++;
            CHECK(vector == X86_PF || vector == X86_GP || vector == X86_SS || vector == X86_NP);
            CHECK_EQ(at.rip, CPU_ENV_CODE);
            CHECK_EQ(at.rsp, before[RSP]);
            CHECK_EQ(at.rflags & X86_FLAGS_STATUS, X86_FLAG_CF | X86_FLAG_OF | X86_FLAG_PF);
            before[RSP] = e.cpu->gpr[RSP];
            CHECK_EQ(memcmp(e.cpu->gpr, before, sizeof(before)), 0);
        }
    }
    CHECK(faults > 120);
    end();
}

/* --- J14 --- */

static void test_j14_features_that_are_masked(void)
{
    static const struct half_done masked[] = {
        HALF("vaddps", "\xC5\xF4\x58\xC2"),
        HALF("andn", "\xC4\xE2\x60\xF2\xC1"),
        HALF("rorx", "\xC4\xE3\x7B\xF0\xC1\x05"),
        HALF("movbe", "\x0F\x38\xF0\x03"),
        HALF("vpbroadcastd", "\xC4\xE2\x7D\x58\xC1"),
        HALF("vfmadd", "\xC4\xE2\x71\x98\xC2"),
        HALF("pext", "\xC4\xE2\x62\xF5\xC1"),
        HALF("vzeroupper", "\xC5\xF8\x77"),
        HALF("xgetbv", "\x0F\x01\xD0"),
    };
    begin_at_level("v2");
    e.cpu->cr4 &= ~X86_CR4_OSXSAVE;
    e.cpu->xcr0 = 1;
    x86_update_mode(e.cpu);
    e.cpu->gpr[RBX] = CPU_ENV_DATA;
    for (unsigned int n = 0; n < ARRAY_SIZE(masked); n++) {
        unit_context("%s", masked[n].name);
        for (unsigned int times = 0; times < 2; times++) {
            CHECK_EQ(run_code(masked[n].code, masked[n].size), X86_UD);
            CHECK_EQ(at.rip, CPU_ENV_CODE);
        }
    }
    unit_context(NULL);
    /* without BMI1 and LZCNT these are BSF and BSR */
    e.cpu->gpr[RCX] = 0;
    e.cpu->gpr[RAX] = 5;
    CHECK_EQ(RUN("\xF3\x0F\xBC\xC1\xF4"), HALTED);
    CHECK(e.cpu->rflags & X86_FLAG_ZF);
    CHECK_EQ(e.cpu->gpr[RAX], 5);
    e.cpu->gpr[RCX] = 0x10;
    CHECK_EQ(RUN("\xF3\x0F\xBD\xC1\xF4"), HALTED);
    CHECK_EQ(e.cpu->gpr[RAX], 4);
    end();
}

int main(void)
{
    UNIT_RUN(test_j09_never_writable_and_executable);
    UNIT_RUN(test_j10_no_leak_of_registers);
    UNIT_RUN(test_j11_loops_and_strings_are_left);
    UNIT_RUN(test_j12_locked_across_pages);
    UNIT_RUN(test_j13_faults_leave_nothing_half_done);
    UNIT_RUN(test_j14_features_that_are_masked);
    UNIT_RUN(test_j15_signals_of_the_host);
    return unit_done();
}
