/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * isa/simd.c and isa/x87.c against this machine's processor: which encodings exist. Every opcode of
 * the SIMD maps with every mandatory prefix, with and without VEX, both vector lengths, both W, in
 * register and memory form, and VEX.vvvv used or not; and all of D8 to DF. An encoding that the
 * tables do not have must be #UD for the processor, and the other way round.
 */
#include <string.h>
#include <sys/mman.h>

#include "isa/simd_table.h"
#include "tests/lib/host_insn.h"
#include "tests/lib/unit.h"

/* One encoding. */
struct encoding {
    uint8_t map, opcode, pp;
    bool vex, l, w, memory, vvvv_used;
    uint8_t reg;
};

static size_t encode(const struct encoding *e, uint8_t *out)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xF3, 0xF2};
    static const uint8_t escapes[] = {0, 0, 0x38, 0x3A};
    size_t n = 0;
    if (e->vex) {
        out[n++] = 0xC4;
        out[n++] = 0xE0 | e->map;
        out[n++] =
            (uint8_t)((e->w ? 0x80 : 0) | (e->vvvv_used ? 13 : 15) << 3 | (e->l ? 4 : 0) | e->pp);
    } else {
        if (e->pp)
            out[n++] = prefixes[e->pp];
        if (e->w)
            out[n++] = 0x48;
        out[n++] = 0x0F;
        if (e->map > 1)
            out[n++] = escapes[e->map];
    }
    out[n++] = e->opcode;
    out[n++] = (uint8_t)((e->memory ? 0x04 : 0xC1) | e->reg << 3);
    if (e->memory)
        out[n++] = 0x23; /* [rbx]; as VSIB: [rbx + xmm4] */
    out[n++] = 0;        /* immediate, or a start of the next instruction */
    return n;
}

/* What this processor may have and Lodge does not offer, so that its existence proves nothing. */
static bool is_beyond(const struct encoding *e)
{
    /* AVX-512 mask registers */
    if (e->vex && e->map == 1 &&
        ((e->opcode >= 0x41 && e->opcode <= 0x4B) || (e->opcode >= 0x90 && e->opcode <= 0x99)))
        return true;
    if (e->vex && e->map == 3 && e->opcode >= 0x30 && e->opcode <= 0x33)
        return true;
    /* SSE4A: EXTRQ, INSERTQ, MOVNTSS, MOVNTSD */
    if (!e->vex && e->map == 1 && (e->opcode == 0x78 || e->opcode == 0x79 || e->opcode == 0x2B))
        return e->opcode != 0x2B || e->pp >= 2;
    /* AVX-VNNI and relatives, AVX-IFMA, AVX-NE-CONVERT, SHA512, SM3, SM4 */
    if (e->vex && e->map == 2 &&
        ((e->opcode >= 0x50 && e->opcode <= 0x53) || e->opcode == 0xB4 || e->opcode == 0xB5 ||
         e->opcode == 0xB0 || e->opcode == 0xB1 || e->opcode == 0x72 || e->opcode == 0xD2 ||
         e->opcode == 0xD3 || (e->opcode >= 0xCB && e->opcode <= 0xCD) || e->opcode == 0xDA))
        return true;
    if (e->vex && e->map == 3 && e->opcode == 0xDE)
        return true;
    /* VPERMQ, VPERMPD: some processors ignore VEX.W, which must be 1 */
    return e->vex && e->map == 3 && e->opcode <= 1 && !e->w;
}

/* Opcodes of the maps where nothing but SIMD is. */
static bool is_simd_opcode(const struct encoding *e)
{
    uint8_t o = e->opcode;
    if (e->map == 1)
        return (o >= 0x10 && o <= 0x17) || (o >= 0x28 && o <= 0x2F) ||
               (o >= 0x50 && o <= 0x7F && o != 0x77 && o != 0x78 && o != 0x79) || o == 0xC2 ||
               (o >= 0xC4 && o <= 0xC6) || o >= 0xD0;
    if (e->map == 2)
        return o < 0xF0 && !(o >= 0x80 && o <= 0x83) && !(e->vex && o >= 0xE0 && o < 0xF0);
    return o < 0xF0;
}

static void prepare(struct host_state *s)
{
    memset(s, 0, sizeof(*s));
    s->rflags = 2;
    s->gpr[RBX] = s->gpr[RDI] = s->gpr[RCX] = HOST_WINDOW + 256;
    s->fpu.fcw = X86_FCW_RESET;
    s->fpu.mxcsr = X86_MXCSR_RESET;
}

/* --- memory operands --- */

static const uint64_t window_end = HOST_WINDOW + HOST_WINDOW_SIZE;

static bool faults_at(const uint8_t *bytes, size_t length, uint64_t address)
{
    static struct host_state s;
    prepare(&s);
    s.gpr[RBX] = address;
    return host_insn_run(&s, bytes, length) == X86_GP;
}

/* Behind the window nothing is mapped: the operand must end there, and not before. */
static void check_memory_operand(const uint8_t *bytes, const struct insn *i)
{
    bool writes = i->simd & SIMD_MEM_WRITE;
    CHECK(i->memsize != 0 && i->memsize <= 32);
    CHECK(writes != ((i->simd & SIMD_MEM_READ) != 0));
    CHECK(!faults_at(bytes, i->length, window_end - i->memsize));
    /* SDM 2, exception class 4 wants SHA's operands aligned; AMD's processors do not care */
    if (i->feature != INSN_FEATURE_SHA)
        CHECK_EQ(faults_at(bytes, i->length, HOST_WINDOW + 1), (i->simd & SIMD_ALIGNED) != 0);
    if (!(i->simd & SIMD_ALIGNED))
        CHECK(faults_at(bytes, i->length, window_end - i->memsize + 1));
    mprotect((void *)(uintptr_t)HOST_WINDOW, HOST_WINDOW_SIZE, PROT_READ);
    CHECK_EQ(faults_at(bytes, i->length, HOST_WINDOW), writes);
    mprotect((void *)(uintptr_t)HOST_WINDOW, HOST_WINDOW_SIZE, PROT_READ | PROT_WRITE);
}

static unsigned int compared, existing, wrong;

/* 0F FF is UD0 and has a ModRM byte on some processors, but never exists. */
static void check_encoding(const struct encoding *e)
{
    static struct host_state s;
    uint8_t bytes[16] = {0};
    size_t length = encode(e, bytes);
    struct insn i;
    if (!is_simd_opcode(e) || is_beyond(e))
        return;
    bool decoded = insn_decode(&i, bytes, sizeof(bytes), INSN_MODE_64) == INSN_DECODE_OK;
    bool exists = decoded && i.op != INSN_INVALID;
    if (exists && (i.op != INSN_SIMD || !host_insn_has((enum insn_feature)i.feature)))
        return;
    prepare(&s);
    bool host = host_insn_run(&s, bytes, length) != X86_UD;
    compared++;
    existing += exists;
    if (exists && host && e->memory && (!(i.simd & SIMD_SPECIAL) || (i.simd & SIMD_FLAGS))) {
        unit_context("map %u opcode %02x pp %u vex %d L%d W%d", e->map, e->opcode, e->pp, e->vex,
                     e->l, e->w);
        check_memory_operand(bytes, &i);
        unit_context(NULL);
    }
    if (host == exists || wrong++ > 40)
        return;
    printf("map %u opcode %02x pp %u %s L%u W%u %s /%u vvvv %s: table says %s\n", e->map, e->opcode,
           e->pp, e->vex ? "VEX" : "legacy", e->l, e->w, e->memory ? "mem" : "reg", e->reg,
           e->vvvv_used ? "used" : "unused", exists ? "exists" : "#UD");
}

static bool is_group(const struct encoding *e)
{
    return e->map == 1 && e->opcode >= 0x71 && e->opcode <= 0x73;
}

static void sweep_forms(struct encoding e)
{
    for (unsigned int form = 0; form < 32; form++) {
        e.l = form & 1;
        e.w = form & 2;
        e.memory = form & 4;
        e.vvvv_used = form & 8;
        e.vex = form & 16;
        if (!e.vex && (e.l || e.vvvv_used))
            continue;
        for (e.reg = is_group(&e) ? 0 : 3; e.reg < (is_group(&e) ? 8 : 4); e.reg++)
            check_encoding(&e);
    }
}

static void test_encodings_exist(void)
{
    for (uint8_t map = 1; map <= 3; map++) {
        for (unsigned int opcode = 0; opcode < 256; opcode++) {
            for (uint8_t pp = 0; pp < 4; pp++)
                sweep_forms((struct encoding){.map = map, .opcode = (uint8_t)opcode, .pp = pp});
        }
    }
    printf("%u encodings compared, %u exist\n", compared, existing);
    CHECK_EQ(wrong, 0);
    CHECK(existing > 1500);
}

static void test_x87_exists(void)
{
    static struct host_state s;
    for (unsigned int escape = 0xD8; escape <= 0xDF; escape++) {
        for (unsigned int modrm = 0; modrm < 256; modrm++) {
            uint8_t bytes[16] = {(uint8_t)escape, (uint8_t)modrm};
            struct insn i;
            if (modrm < 0xC0 && (modrm & 0xC7) != 3) /* memory: [rbx] */
                continue;
            CHECK_EQ(insn_decode(&i, bytes, sizeof(bytes), INSN_MODE_64), INSN_DECODE_OK);
            prepare(&s);
            memset((void *)(uintptr_t)HOST_WINDOW, 0, HOST_WINDOW_SIZE);
            bool host = host_insn_run(&s, bytes, 2) != X86_UD;
            unit_context("%02x %02x", escape, modrm);
            CHECK_EQ(i.op != INSN_INVALID, host);
        }
    }
    unit_context(NULL);
}

/* Rows are found by binary search. */
static void test_rows_are_sorted(void)
{
    for (unsigned int map = 1; map < 4; map++) {
        for (unsigned int n = 1; n < simd_maps[map].count; n++) {
            unit_context("map %u row %u", map, n);
            CHECK(simd_maps[map].row[n - 1].opcode <= simd_maps[map].row[n].opcode);
        }
    }
    unit_context(NULL);
}

/* VEX.W and the fourth operand's top bit outside of 64-bit mode. */
static void test_32bit(void)
{
    static const uint8_t vcvtsi2sd[] = {0xC4, 0xE1, 0xFB, 0x2A, 0xC0}; /* W1 */
    static const uint8_t vpinsrd[] = {0xC4, 0xE3, 0xF9, 0x22, 0x03, 0x01};
    static const uint8_t vblendvps[] = {0xC4, 0xE3, 0x71, 0x4A, 0xC2, 0xB5};
    static const uint8_t vfmadd[] = {0xC4, 0xE2, 0xF1, 0xB8, 0xC2};
    struct insn i;
    CHECK_EQ(insn_decode(&i, vcvtsi2sd, sizeof(vcvtsi2sd), INSN_MODE_64), INSN_DECODE_OK);
    CHECK(i.simd & SIMD_GPR_64);
    CHECK_EQ(insn_decode(&i, vcvtsi2sd, sizeof(vcvtsi2sd), INSN_MODE_32), INSN_DECODE_OK);
    CHECK(i.op == INSN_SIMD && !(i.simd & SIMD_GPR_64) && !(i.flags & INSN_REX_W));
    CHECK_EQ(insn_decode(&i, vpinsrd, sizeof(vpinsrd), INSN_MODE_32), INSN_DECODE_OK);
    CHECK_EQ(i.memsize, 4);
    CHECK(!(i.flags & INSN_REX_W));
    CHECK_EQ(insn_decode(&i, vblendvps, sizeof(vblendvps), INSN_MODE_32), INSN_DECODE_OK);
    CHECK_EQ(i.imm, 0x35);
    CHECK_EQ(insn_decode(&i, vblendvps, sizeof(vblendvps), INSN_MODE_64), INSN_DECODE_OK);
    CHECK_EQ(i.imm, 0xB5);
    CHECK_EQ(insn_decode(&i, vfmadd, sizeof(vfmadd), INSN_MODE_32), INSN_DECODE_OK);
    CHECK(i.flags & INSN_REX_W); /* PD */
}

int main(void)
{
    host_insn_init();
    UNIT_RUN(test_rows_are_sorted);
    UNIT_RUN(test_encodings_exist);
    UNIT_RUN(test_x87_exists);
    UNIT_RUN(test_32bit);
    return unit_done();
}
