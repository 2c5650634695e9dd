/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * SIMD and x87 instructions as the emulator executes them (x86/op_simd*.c, op_x87*.c, native*.c)
 * against this machine's processor executing the same bytes: every encoding that isa/simd.c and
 * isa/x87.c know and this machine has, in register and memory form, with random registers, operands
 * (infinities, NaNs, denormals among them), rounding modes, exception masks and alignments.
 * Compared are all registers, flags, MXCSR, x87 state, memory, and whether and how it faulted.
 *
 * Usage: native [COUNT [SEED]]: executions per encoding.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/lib/cpu_env.h"
#include "tests/lib/host_insn.h"
#include "tests/lib/unit.h"
#include "x86/level.h"
#include "x86/mem.h"

enum { MEMORY_FIRST = HOST_WINDOW + 0x800, MEMORY_SIZE = 256, PRINTED_MAX = 25 };

static struct cpu_env env;
static struct x86_level level;
static struct host_state host, guest;
static uint64_t random_state;
static unsigned int repeat, runs, encodings, faults, failures;

/* --- random operands --- */

static uint64_t rnd(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545F4914F6CDD1D;
}

static uint64_t rnd_double(void)
{
    static const uint64_t special[] = {
        0,
        0x8000000000000000,
        0x3FF0000000000000,
        0xBFF0000000000000,
        0x7FF0000000000000,
        0xFFF0000000000000,
        0x7FF8000000000001,
        0x7FF0000000000001,
        1,
        0x000FFFFFFFFFFFFF,
        0x0010000000000000,
        0x7FEFFFFFFFFFFFFF,
        0x41DFFFFFFFC00000,
        0xC1E0000000000000,
        0x36A0000000000000,
        0x47EFFFFFE0000000,
    };
    if (rnd() & 1)
        return special[rnd() % 16];
    /* near 1, so that arithmetic is not all overflow */
    return 0x3F00000000000000 + (rnd() >> 4 & 0x01FFFFFFFFFFFFFF) + (rnd() << 63);
}

static uint32_t rnd_single(void)
{
    static const uint32_t special[] = {
        0, 0x80000000, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000, 0x7FC00001, 0x7F800001,
        1, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x4F000000, 0xCF000000, 0x33800000, 0x477FE000};
    if (rnd() & 1)
        return special[rnd() % 16];
    return 0x38000000 + (uint32_t)(rnd() >> 8 & 0x0FFFFFFF) + (uint32_t)(rnd() << 31);
}

static void rnd_bytes(uint8_t *out, size_t size)
{
    uint64_t how = rnd() % 4;
    for (size_t at = 0; at + 8 <= size; at += 8) {
        uint64_t v = rnd();
        if (how == 1)
            v = rnd_double();
        else if (how == 2)
            v = rnd_single() | (uint64_t)rnd_single() << 32;
        memcpy(out + at, &v, 8);
    }
}

static void rnd_x87(struct x86_fpu *fpu, bool pending)
{
    for (unsigned int n = 0; n < 8; n++) {
        uint64_t mantissa = rnd() | ((rnd() & 7) ? (uint64_t)1 << 63 : 0);
        static const uint16_t exponents[] = {0, 0x7FFF, 0x3FFF, 1, 0x7FFE, 0x4010, 0x403E, 0x3C00};
        uint16_t exponent = exponents[rnd() % 8] + (uint16_t)(rnd() % 3 - 1);
        if (rnd() % 6 == 0)
            mantissa = (uint64_t)(rnd() & 1) << 63;
        exponent = (uint16_t)((exponent & 0x7FFF) | (rnd() & 1) << 15);
        memset(fpu->st[n], 0, 16);
        memcpy(fpu->st[n], &mantissa, 8);
        memcpy(fpu->st[n] + 8, &exponent, 2);
    }
    fpu->fcw = 0x037F;
    if (rnd() % 2)
        fpu->fcw = (uint16_t)(0x40 | (rnd() & 0xF00) | (rnd() % 3 ? 0x3F : rnd() & 0x3F));
    fpu->fsw = (uint16_t)(rnd() & 0x7F7F);
    if (!pending)
        fpu->fsw &= (uint16_t)(0x7F40 | fpu->fcw);
    if (fpu->fsw & ~fpu->fcw & 0x3F)
        fpu->fsw |= 0x8080;
    fpu->ftw = rnd() % 3 ? 0xFF : (uint8_t)rnd();
}

static void rnd_state(struct host_state *s)
{
    static const uint32_t masks[] = {0x1F80, 0x1F80, 0x1F80, 0};
    memset(s, 0, sizeof(*s));
    for (unsigned int n = 0; n < 16; n++)
        s->gpr[n] = rnd() % 4 ? rnd() : rnd() % 64;
    s->gpr[RSP] = 0;
    s->rflags = 2 | (rnd() & X86_FLAGS_STATUS);
    rnd_x87(&s->fpu, rnd() % 16 == 0);
    s->fpu.mxcsr = masks[rnd() % 4] | (uint32_t)(rnd() & 0xE07F);
    if (rnd() % 4 == 0)
        s->fpu.mxcsr = (uint32_t)rnd() & 0xFFFF;
    for (unsigned int n = 0; n < 16; n++) {
        rnd_bytes(s->fpu.xmm[n], 16);
        rnd_bytes(s->fpu.ymm_high[n], 16);
    }
}

/* --- one execution --- */

/* XSAVE may store zeros for registers that are all empty (FNINIT). */
static bool is_x87_equal(const struct x86_fpu *a, const struct x86_fpu *b)
{
    for (unsigned int n = 0; a->ftw && n < 8; n++) {
        if (memcmp(a->st[n], b->st[n], 10) != 0)
            return false;
    }
    return a->fcw == b->fcw && a->fsw == b->fsw && a->ftw == b->ftw;
}

/* CVTPI2PS from memory: manuals and processors do not agree whether it touches the x87. */
static bool is_x87_unclear(const struct insn *i)
{
    return i->op == INSN_SIMD && i->map == 1 && i->opcode == 0x2A && (i->flags & INSN_MEM);
}

/* Next to unmasked overflow and underflow PE is not exact, nor are DPPS's and DPPD's flags
 * (x86/op_simd.c). */
static uint32_t mxcsr_mask(const struct insn *i, int vector)
{
    if (vector == X86_XM && i->map == 3 && (i->opcode == 0x40 || i->opcode == 0x41))
        return ~0x3Fu;
    const uint32_t overflow = 0x08, underflow = 0x10, precision = 0x20;
    uint32_t unmasked = host.fpu.mxcsr & ~(host.fpu.mxcsr >> 7) & 0x3F;
    return vector == X86_XM && (unmasked & (overflow | underflow)) ? ~precision : ~0u;
}

static const char *difference(const struct insn *i, int vector)
{
    const void *window = (const void *)(uintptr_t)MEMORY_FIRST;
    if (vector != (guest.gpr[RSP] ? (int)guest.gpr[RSP] : 0))
        return "outcome";
    if ((host.fpu.mxcsr ^ guest.fpu.mxcsr) & mxcsr_mask(i, vector))
        return "MXCSR";
    if (memcmp(host.fpu.xmm, guest.fpu.xmm, sizeof(host.fpu.xmm)) != 0)
        return "XMM";
    if (memcmp(host.fpu.ymm_high, guest.fpu.ymm_high, sizeof(host.fpu.ymm_high)) != 0)
        return "YMM";
    if (!is_x87_unclear(i) && !is_x87_equal(&host.fpu, &guest.fpu))
        return "x87";
    if (memcmp(window, env.ram + MEMORY_FIRST, MEMORY_SIZE) != 0)
        return "memory";
    if (vector != 0)
        return NULL;
    if (memcmp(host.gpr, guest.gpr, sizeof(uint64_t) * 4) != 0 ||
        memcmp(host.gpr + 5, guest.gpr + 5, sizeof(uint64_t) * 11) != 0)
        return "general registers";
    if ((host.rflags ^ guest.rflags) & X86_FLAGS_STATUS)
        return "flags";
    return NULL;
}

static void print_failure(const uint8_t *bytes, const struct insn *i, const char *what,
                          const struct host_state *before, int vector)
{
    if (failures++ >= PRINTED_MAX)
        return;
    printf("  %s:", what);
    for (unsigned int n = 0; n < i->length; n++)
        printf(" %02x", bytes[n]);
    printf("; host %d, guest %d; MXCSR %04x -> host %04x, guest %04x\n", vector,
           (int)guest.gpr[RSP], before->fpu.mxcsr, host.fpu.mxcsr, guest.fpu.mxcsr);
    printf("    fcw %04x fsw %04x ftw %02x -> host %04x %04x %02x, guest %04x %04x %02x\n",
           before->fpu.fcw, before->fpu.fsw, before->fpu.ftw, host.fpu.fcw, host.fpu.fsw,
           host.fpu.ftw, guest.fpu.fcw, guest.fpu.fsw, guest.fpu.ftw);
}

/* The vector is left in guest.gpr[RSP], which takes no part otherwise. */
static void run_guest(const struct host_state *start, const struct insn *i)
{
    struct x86_cpu *cpu = env.cpu;
    memcpy(cpu->gpr, start->gpr, sizeof(cpu->gpr));
    cpu->rflags = start->rflags;
    cpu->fpu = start->fpu;
    cpu->rip = CPU_ENV_CODE + i->length;
    int status = x86_select(cpu, i)(cpu, i);
    guest.fpu = cpu->fpu;
    memcpy(guest.gpr, cpu->gpr, sizeof(guest.gpr));
    guest.rflags = cpu->rflags;
    guest.gpr[RSP] = status == X86_FAULT ? cpu->fault.vector : 0;
    if (status != X86_OK && status != X86_FAULT)
        guest.gpr[RSP] = 0xFF;
}

static void run_both(const uint8_t *bytes, const struct insn *i, const struct host_state *start)
{
    void *window = (void *)(uintptr_t)MEMORY_FIRST;
    rnd_bytes(window, MEMORY_SIZE);
    memcpy(env.ram + MEMORY_FIRST, window, MEMORY_SIZE);
    host = *start;
    int vector = host_insn_run(&host, bytes, i->length);
    run_guest(start, i);
    runs++;
    faults += vector != 0;
    const char *what = difference(i, vector);
    if (what)
        print_failure(bytes, i, what, start, vector);
}

/* --- SIMD: all encodings --- */

struct encoding {
    uint8_t map, opcode, pp, group;
    bool vex, l, w, memory, vvvv;
};

/* VSIB: distinct registers, small indexes. */
static void prepare_gather(const struct insn *i, struct host_state *s)
{
    for (unsigned int at = 0; at < 16; at += 4) {
        uint32_t v = (uint32_t)(rnd() % 32);
        memcpy(s->fpu.xmm[i->index] + at, &v, 4);
        memcpy(s->fpu.ymm_high[i->index] + at, &v, 4);
        if (i->opcode & 1)
            v = 0;
        if (at % 8) {
            memcpy(s->fpu.xmm[i->index] + at, &v, 4);
            memcpy(s->fpu.ymm_high[i->index] + at, &v, 4);
        }
    }
}

static size_t encode(const struct encoding *e, uint8_t *out)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xF3, 0xF2};
    static const uint8_t escapes[] = {0, 0, 0x38, 0x3A};
    unsigned int reg = e->group < 8 ? e->group : rnd() % 16, rm = rnd() % 16, index = rnd() % 16;
    unsigned int vvvv = e->vvvv ? rnd() % 16 : 0;
    bool vsib = e->map == 2 && e->opcode >= 0x90 && e->opcode <= 0x93;
    size_t n = 0;
    if (!vsib)
        index = 4; /* none */
    if (e->memory)
        rm = RBX;
    unsigned int b = rm >> 3, r = reg >> 3, x = index >> 3;
    if (e->vex) {
        out[n++] = 0xC4;
        out[n++] = (uint8_t)((r ? 0 : 0x80) | (x ? 0 : 0x40) | (b ? 0 : 0x20) | e->map);
        out[n++] = (uint8_t)((e->w ? 0x80 : 0) | (~vvvv & 15) << 3 | (e->l ? 4 : 0) | e->pp);
    } else {
        if (e->pp)
            out[n++] = prefixes[e->pp];
        if (e->w || b || r)
            out[n++] = (uint8_t)(0x40 | (e->w ? 8 : 0) | r << 2 | b);
        out[n++] = 0x0F;
        if (e->map > 1)
            out[n++] = escapes[e->map];
    }
    out[n++] = e->opcode;
    out[n++] = (uint8_t)((e->memory ? 0x04 : 0xC0) | (reg & 7) << 3 | (e->memory ? 0 : rm & 7));
    if (e->memory)
        out[n++] = (uint8_t)((index & 7) << 3 | RBX); /* [rbx], [rbx + xmm] */
    out[n] = (uint8_t)rnd();                          /* immediate, if it has one */
    return n;
}

/* RSP as general register operand is not run: the host needs its own. */
static bool names_rsp(const struct insn *i)
{
    bool reg = i->simd & SIMD_REG_GPR_W;
    bool rm = i->simd & (SIMD_RM_GPR_R | SIMD_RM_GPR_W);
    return (reg && i->reg == RSP) || (rm && i->rm == RSP);
}

static bool decode_random(const struct encoding *e, uint8_t *bytes, struct insn *i)
{
    memset(bytes, 0x90, INSN_MAX_LENGTH + 1);
    (void)encode(e, bytes);
    return insn_decode(i, bytes, INSN_MAX_LENGTH, INSN_MODE_64) == INSN_DECODE_OK &&
           i->op == INSN_SIMD && host_insn_has((enum insn_feature)i->feature);
}

static void run_encoding(const struct encoding *e)
{
    uint8_t bytes[INSN_MAX_LENGTH + 1];
    struct host_state start;
    struct insn i;
    if ((e->map == 3 && e->opcode < 2 && !e->w) || (e->map == 1 && e->opcode == 0x38) ||
        (e->map == 1 && e->opcode == 0x3A))
        return; /* VEX.W ignored by some; escapes to other maps */
    if (!decode_random(e, bytes, &i))
        return;
    encodings++;
    for (unsigned int n = 0; n < repeat; n++) {
        if (!decode_random(e, bytes, &i) || names_rsp(&i))
            continue;
        rnd_state(&start);
        uint64_t offset = rnd() % 2 ? 0 : rnd() % 32;
        if (i.feature == INSN_FEATURE_SHA)
            offset &= 16;
        start.gpr[RBX] = start.gpr[RDI] = MEMORY_FIRST + 64 + offset;
        if (i.map == 3 && i.opcode == 0x1D) /* VCVTPS2PH: unmasked underflow is not exact */
            start.fpu.mxcsr |= 0x800;
        if (is_x87_unclear(&i))
            start.fpu.fsw &= 0x7F00;
        if (i.map == 2 && i.opcode >= 0x90 && i.opcode <= 0x93)
            prepare_gather(&i, &start);
        run_both(bytes, &i, &start);
    }
}

static void run_forms(struct encoding e)
{
    bool group = e.map == 1 && e.opcode >= 0x71 && e.opcode <= 0x73;
    for (unsigned int form = 0; form < 32; form++) {
        e.l = form & 1;
        e.w = form & 2;
        e.memory = form & 4;
        e.vvvv = form & 8;
        e.vex = form & 16;
        if (!e.vex && (e.l || e.vvvv))
            continue;
        for (e.group = group ? 0 : 8; e.group < (group ? 8 : 9); e.group++)
            run_encoding(&e);
    }
}

static void test_simd(void)
{
    for (uint8_t map = 1; map <= 3; map++) {
        for (unsigned int opcode = 0; opcode < 256; opcode++) {
            for (uint8_t pp = 0; pp < 4; pp++)
                run_forms((struct encoding){.map = map, .opcode = (uint8_t)opcode, .pp = pp});
        }
    }
    printf("SIMD: %u encodings, %u executions, %u of them faulted\n", encodings, runs, faults);
    CHECK_EQ(failures, 0);
    CHECK(encodings > 1000);
}

/* --- x87: all encodings --- */

/* Those that store an environment store their own instruction's pointers. */
static bool is_environment(const struct insn *i)
{
    unsigned int reg = i->modrm >> 3 & 7;
    if (!(i->flags & INSN_MEM))
        return false;
    return (i->opcode == 0xD9 && (reg == 4 || reg == 6)) ||
           (i->opcode == 0xDD && (reg == 4 || reg == 6));
}

static void run_x87(uint8_t escape, uint8_t modrm)
{
    uint8_t bytes[INSN_MAX_LENGTH + 1] = {escape, modrm};
    struct host_state start;
    struct insn i;
    if (insn_decode(&i, bytes, INSN_MAX_LENGTH, INSN_MODE_64) != INSN_DECODE_OK ||
        i.op != INSN_X87 || is_environment(&i))
        return;
    encodings++;
    for (unsigned int n = 0; n < repeat; n++) {
        rnd_state(&start);
        start.gpr[RBX] = MEMORY_FIRST + 64 + rnd() % 32;
        run_both(bytes, &i, &start);
    }
}

static void test_x87(void)
{
    encodings = runs = faults = failures = 0;
    for (unsigned int escape = 0xD8; escape <= 0xDF; escape++) {
        for (unsigned int modrm = 0; modrm < 256; modrm++) {
            if (modrm >= 0xC0 || (modrm & 0xC7) == 3) /* [rbx] */
                run_x87((uint8_t)escape, (uint8_t)modrm);
        }
    }
    printf("x87: %u encodings, %u executions, %u of them faulted\n", encodings, runs, faults);
    CHECK_EQ(failures, 0);
    CHECK(encodings > 400);
}

int main(int argc, char **argv)
{
    repeat = argc > 1 ? (unsigned int)strtoul(argv[1], NULL, 0) : 20;
    random_state = argc > 2 ? strtoull(argv[2], NULL, 0) : 0x5DEECE66D;
    printf("seed %#llx\n", (unsigned long long)random_state);
    host_insn_init();
    cpu_env_create(&env, CPU_ENV_LONG);
    /* everything that the tables know, whatever the level has */
    level = *env.cpu->level;
    level.insn_features = ~(uint64_t)0;
    env.cpu->level = &level;
    UNIT_RUN(test_simd);
    UNIT_RUN(test_x87);
    cpu_env_destroy(&env);
    return unit_done();
}
