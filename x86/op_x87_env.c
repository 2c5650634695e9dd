/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * FNSTENV, FLDENV, FNSAVE, FRSTOR: the x87's environment in the 14- and 28-byte formats (SDM 1,
 * 8.1.10, figures 8-9 to 8-12), and the formats' register area. Written out, because the host would
 * store its own pointers.
 *
 * The image keeps the abridged tag word (one bit: not empty); the two-bit tags that the formats
 * want are made from the registers' contents, as processors do. The pointers are kept as offsets,
 * without selectors, which read as zero.
 */
#include "x86/simd.h"

enum {
    ENV_WORDS = 7,
    ENV_FCW = 0,
    ENV_FSW,
    ENV_FTW,
    ENV_FIP,
    ENV_FCS, /* 32-bit protected mode: opcode in the upper half; real mode: FIP's upper bits */
    ENV_FDP,
    ENV_FDS,
    REGISTER_SIZE = 10,
    STATE_SIZE_MAX = 28 + 8 * REGISTER_SIZE,
};

enum { TAG_VALID, TAG_ZERO, TAG_SPECIAL, TAG_EMPTY };

static unsigned int tag_of(const uint8_t st[16])
{
    uint64_t mantissa = load_u64(st);
    unsigned int exponent = load_u16(st + 8) & 0x7FFF;
    if (exponent == 0)
        return mantissa ? TAG_SPECIAL : TAG_ZERO;
    return exponent == 0x7FFF || !(mantissa >> 63) ? TAG_SPECIAL : TAG_VALID;
}

static uint16_t full_tags(const struct x86_fpu *fpu)
{
    unsigned int tags = 0;
    for (unsigned int n = 0; n < 8; n++) {
        bool empty = !(fpu->ftw >> n & 1);
        unsigned int tag = empty ? TAG_EMPTY : tag_of(fpu->st[(n - x87_top(fpu)) & 7]);
        tags |= tag << (2 * n);
    }
    return (uint16_t)tags;
}

static uint8_t abridged_tags(uint16_t tags)
{
    unsigned int bits = 0;
    for (unsigned int n = 0; n < 8; n++) {
        if ((tags >> (2 * n) & 3) != TAG_EMPTY)
            bits |= 1u << n;
    }
    return (uint8_t)bits;
}

/* --- the formats --- */

/* In 32-bit formats what is not defined reads as ones. Returns the size. */
static uint32_t put_environment(const struct x86_cpu *cpu, bool wide, uint8_t *buf)
{
    const struct x86_fpu *fpu = &cpu->fpu;
    uint32_t fip = (uint32_t)fpu->fip, fdp = (uint32_t)fpu->fdp;
    uint32_t env[ENV_WORDS] = {
        [ENV_FCW] = fpu->fcw | 0xFFFF0000,
        [ENV_FSW] = fpu->fsw | 0xFFFF0000,
        [ENV_FTW] = full_tags(fpu) | 0xFFFF0000,
        [ENV_FIP] = fip,
        [ENV_FCS] = (uint32_t)fpu->fop << 16,
        [ENV_FDP] = fdp,
        [ENV_FDS] = 0xFFFF0000,
    };
    if (!cpu->protected_mode) {
        uint32_t high = wide ? 0xFFFF : 0xF; /* pointer bits over 15: 12 on of the next word */
        env[ENV_FIP] = (fip & 0xFFFF) | 0xFFFF0000;
        env[ENV_FCS] = (fip >> 16 & high) << 12 | fpu->fop;
        env[ENV_FDP] = (fdp & 0xFFFF) | 0xFFFF0000;
        env[ENV_FDS] = (fdp >> 16 & high) << 12;
    }
    for (unsigned int n = 0; n < ENV_WORDS; n++) {
        if (wide)
            store_u32(buf + n * 4, env[n]);
        else
            store_u16(buf + n * 2, (uint16_t)env[n]);
    }
    return ENV_WORDS * (wide ? 4 : 2);
}

static void get_pointers(struct x86_cpu *cpu, bool wide, const uint32_t env[ENV_WORDS])
{
    struct x86_fpu *fpu = &cpu->fpu;
    if (cpu->protected_mode) {
        fpu->fip = env[ENV_FIP];
        fpu->fdp = env[ENV_FDP];
        if (wide)
            fpu->fop = env[ENV_FCS] >> 16 & 0x7FF;
        return;
    }
    uint32_t high = wide ? 0xFFFF : 0xF;
    fpu->fip = (env[ENV_FIP] & 0xFFFF) | (env[ENV_FCS] >> 12 & high) << 16;
    fpu->fdp = (env[ENV_FDP] & 0xFFFF) | (env[ENV_FDS] >> 12 & high) << 16;
    fpu->fop = env[ENV_FCS] & 0x7FF;
}

static void get_environment(struct x86_cpu *cpu, bool wide, const uint8_t *buf)
{
    struct x86_fpu *fpu = &cpu->fpu;
    unsigned int top = x87_top(fpu);
    uint32_t env[ENV_WORDS];
    for (unsigned int n = 0; n < ENV_WORDS; n++)
        env[n] = wide ? load_u32(buf + n * 4) : load_u16(buf + n * 2);
    fpu->fcw = x87_normal_fcw((uint16_t)env[ENV_FCW]);
    fpu->fsw = x87_normal_fsw((uint16_t)env[ENV_FSW], fpu->fcw);
    x87_move_top(fpu, top);
    fpu->ftw = abridged_tags((uint16_t)env[ENV_FTW]);
    get_pointers(cpu, wide, env);
}

/* --- the instructions --- */

static bool is_wide(const struct insn *i)
{
    return i->opsize != 2;
}

/* Where the area lies. Under #AC it counts as an array of words or doublewords, its registers of 10
 * bytes too (SDM 3A, table 6-7). */
static int area_address(struct x86_cpu *cpu, const struct insn *i, int access, uint64_t *linear)
{
    void *host;
    int s = x86_operand(cpu, i, i->memsize, access, linear);
    if (s == X86_OK)
        s = x86_mem_host(cpu, *linear, i->memsize, access, &host);
    return s == X86_OK ? x86_check_alignment(cpu, *linear, is_wide(i) ? 4 : 2) : s;
}

static int store_area(struct x86_cpu *cpu, const struct insn *i, const uint8_t *buf)
{
    uint64_t linear;
    int s = area_address(cpu, i, X86_WRITE, &linear);
    return s == X86_OK ? simd_write_area(cpu, linear, buf, i->memsize) : s;
}

static int load_area(struct x86_cpu *cpu, const struct insn *i, uint8_t *buf)
{
    uint64_t linear;
    int s = area_address(cpu, i, X86_READ, &linear);
    return s == X86_OK ? simd_read_area(cpu, linear, buf, i->memsize) : s;
}

/* Does not wait; masks all exceptions afterwards. */
int x87_op_fnstenv(struct x86_cpu *cpu, const struct insn *i)
{
    uint8_t buf[STATE_SIZE_MAX];
    int s = x87_check(cpu, false);
    if (s != X86_OK)
        return s;
    (void)put_environment(cpu, is_wide(i), buf);
    s = store_area(cpu, i, buf);
    if (s != X86_OK)
        return s;
    cpu->fpu.fcw |= X87_FSW_EXCEPTIONS;
    cpu->fpu.fsw = x87_normal_fsw(cpu->fpu.fsw, cpu->fpu.fcw);
    return X86_OK;
}

int x87_op_fldenv(struct x86_cpu *cpu, const struct insn *i)
{
    uint8_t buf[STATE_SIZE_MAX];
    int s = x87_check(cpu, true);
    if (s == X86_OK)
        s = load_area(cpu, i, buf);
    if (s == X86_OK)
        get_environment(cpu, is_wide(i), buf);
    return s;
}

/* Does not wait; FNINIT afterwards. */
int x87_op_fnsave(struct x86_cpu *cpu, const struct insn *i)
{
    uint8_t buf[STATE_SIZE_MAX];
    int s = x87_check(cpu, false);
    if (s != X86_OK)
        return s;
    uint32_t at = put_environment(cpu, is_wide(i), buf);
    for (unsigned int n = 0; n < 8; n++)
        memcpy(buf + at + n * REGISTER_SIZE, cpu->fpu.st[n], REGISTER_SIZE);
    s = store_area(cpu, i, buf);
    if (s == X86_OK)
        x87_init(&cpu->fpu);
    return s;
}

int x87_op_frstor(struct x86_cpu *cpu, const struct insn *i)
{
    uint8_t buf[STATE_SIZE_MAX];
    int s = x87_check(cpu, true);
    if (s == X86_OK)
        s = load_area(cpu, i, buf);
    if (s != X86_OK)
        return s;
    get_environment(cpu, is_wide(i), buf);
    const uint8_t *from = buf + ENV_WORDS * (is_wide(i) ? 4 : 2);
    for (unsigned int n = 0; n < 8; n++) {
        memset(cpu->fpu.st[n], 0, sizeof(cpu->fpu.st[n]));
        memcpy(cpu->fpu.st[n], from + n * REGISTER_SIZE, REGISTER_SIZE);
    }
    return X86_OK;
}
