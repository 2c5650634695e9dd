/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Code generation for native fragments (x86/native.h). A fragment is a function
 *
 *     uint64_t fragment(frame: RDI, fpu: RSI, gpr: RDX, memory: RCX) -> RAX
 *
 * and looks like this, parts in brackets only where the instruction needs them:
 *
 *     [ldmxcsr frame.mxcsr]
 *     movups fpu.xmm[n] -> xmmN          for each register that is read; vinsertf128 for ymm
 *     the instruction, memory operand [rcx], general register read: rdx, written: rax
 *     [pushfq; pop frame.flags]
 *     [stmxcsr frame.mxcsr_out; ldmxcsr frame.mxcsr_host; jump to the end if an unmasked
 *      exception was raised]
 *     movups xmmN -> fpu.xmm[n]          for the register that is written
 *     [vzeroupper] [emms]
 *     ret
 *
 * Legacy SSE instructions are framed by legacy moves, so the host's upper halves stay out of play
 * and the guest's stay in the image. VEX instructions clear what lies above their result; it is
 * stored as a whole.
 */
#include "core/assert.h"
#include "x86/native.h"

enum { GPR_IN = RDX, GPR_OUT = RAX, MEMORY = RCX, FPU = RSI, FRAME = RDI };

struct emitter {
    uint8_t *p;
};

static void put8(struct emitter *e, unsigned int v)
{
    *e->p++ = (uint8_t)v;
}

static void put32(struct emitter *e, uint32_t v)
{
    for (unsigned int shift = 0; shift < 32; shift += 8)
        put8(e, v >> shift);
}

static void put_bytes(struct emitter *e, const char *bytes, size_t size)
{
    for (size_t n = 0; n < size; n++)
        put8(e, (uint8_t)bytes[n]);
}
#define PUT(e, string) put_bytes((e), (string), sizeof(string) - 1)

/* ModRM for [base + disp32]; base is neither RSP nor R12. */
static void put_memory(struct emitter *e, unsigned int reg, unsigned int base, size_t displacement)
{
    put8(e, 0x80 | (reg & 7) << 3 | base);
    put32(e, (uint32_t)displacement);
}

static void put_vex3(struct emitter *e, unsigned int map, bool w, unsigned int reg, unsigned int rm,
                     unsigned int vvvv, bool l, unsigned int pp)
{
    put8(e, 0xC4);
    put8(e, (reg < 8 ? 0x80u : 0) | 0x40 | (rm < 8 ? 0x20u : 0) | map);
    put8(e, (w ? 0x80u : 0) | (~vvvv & 15) << 3 | (l ? 4u : 0) | pp);
}

/* --- moves between the image and the host's registers --- */

static size_t xmm_offset(unsigned int n)
{
    return offsetof(struct x86_fpu, xmm) + n * 16u;
}

static size_t ymm_high_offset(unsigned int n)
{
    return offsetof(struct x86_fpu, ymm_high) + n * 16u;
}

/* MOVUPS, opcode 10 (load) or 11 (store) */
static void put_movups(struct emitter *e, unsigned int opcode, unsigned int n)
{
    if (n >= 8)
        put8(e, 0x44);
    put8(e, 0x0F);
    put8(e, opcode);
    put_memory(e, n, FPU, xmm_offset(n));
}

static void put_vmovups(struct emitter *e, unsigned int opcode, unsigned int n)
{
    put_vex3(e, 1, false, n, FPU, 0, false, 0);
    put8(e, opcode);
    put_memory(e, n, FPU, xmm_offset(n));
}

static void load_vector(struct emitter *e, const struct insn *i, unsigned int n)
{
    if (!(i->flags & INSN_VEX)) {
        put_movups(e, 0x10, n);
        return;
    }
    put_vmovups(e, 0x10, n);
    if (i->flags & INSN_VEX_L) { /* VINSERTF128 ymmN, ymmN, fpu.ymm_high[n], 1 */
        put_vex3(e, 3, false, n, FPU, n, true, 1);
        put8(e, 0x18);
        put_memory(e, n, FPU, ymm_high_offset(n));
        put8(e, 1);
    }
}

static void store_vector(struct emitter *e, const struct insn *i, unsigned int n)
{
    if (!(i->flags & INSN_VEX)) {
        put_movups(e, 0x11, n);
        return;
    }
    put_vmovups(e, 0x11, n);
    /* VEXTRACTF128 fpu.ymm_high[n], ymmN, 1; after a VEX.128 instruction that is zero */
    put_vex3(e, 3, false, n, FPU, 0, true, 1);
    put8(e, 0x19);
    put_memory(e, n, FPU, ymm_high_offset(n));
    put8(e, 1);
}

/* MOVQ, opcode 6F (load) or 7F (store). TOP is 0, so MMn is in the place of ST(n). */
static void put_mmx(struct emitter *e, unsigned int opcode, unsigned int n)
{
    put8(e, 0x0F);
    put8(e, opcode);
    put_memory(e, n, FPU, offsetof(struct x86_fpu, st) + (n & 7) * 16u);
}

static void load_registers(struct emitter *e, const struct insn *i)
{
    unsigned int regs = i->simd_regs;
    if ((regs & SIMD_READ_REG) && (i->simd & SIMD_REG_MM))
        put_mmx(e, 0x6F, i->reg);
    else if (regs & SIMD_READ_REG)
        load_vector(e, i, i->reg & 15);
    if ((regs & SIMD_READ_RM) && (i->simd & SIMD_RM_MM))
        put_mmx(e, 0x6F, i->rm);
    else if (regs & SIMD_READ_RM)
        load_vector(e, i, i->rm & 15);
    if (regs & SIMD_READ_VVVV)
        load_vector(e, i, i->vvvv & 15);
    if (regs & SIMD_READ_IS4)
        load_vector(e, i, i->imm >> 4 & 15);
    if (regs & SIMD_READ_XMM0)
        load_vector(e, i, 0);
}

static void store_registers(struct emitter *e, const struct insn *i)
{
    unsigned int regs = i->simd_regs;
    if ((regs & SIMD_WRITE_REG) && (i->simd & SIMD_REG_MM))
        put_mmx(e, 0x7F, i->reg);
    else if (regs & SIMD_WRITE_REG)
        store_vector(e, i, i->reg & 15);
    if ((regs & SIMD_WRITE_RM) && (i->simd & SIMD_RM_MM))
        put_mmx(e, 0x7F, i->rm);
    else if (regs & SIMD_WRITE_RM)
        store_vector(e, i, i->rm & 15);
    if (regs & SIMD_WRITE_VVVV)
        store_vector(e, i, i->vvvv & 15);
}

/* --- the instruction --- */

static unsigned int pp_of(const struct insn *i)
{
    uint8_t prefix = insn_mandatory_prefix(i);
    return prefix == 0xF2 ? 3 : prefix == 0xF3 ? 2 : prefix == 0x66 ? 1 : 0;
}

/* Mandatory prefix, REX, escape bytes */
static void put_legacy_head(struct emitter *e, const struct insn *i, unsigned int reg,
                            unsigned int rm)
{
    uint8_t prefix = insn_mandatory_prefix(i);
    bool w = i->flags & INSN_REX_W;
    if (prefix)
        put8(e, prefix);
    if (w || reg >= 8 || rm >= 8)
        put8(e, 0x40 | (w ? 8u : 0) | (reg >= 8 ? 4u : 0) | (rm >= 8 ? 1u : 0));
    put8(e, 0x0F);
    if (i->map > 1)
        put8(e, i->map == 2 ? 0x38 : 0x3A);
}

static void put_instruction(struct emitter *e, const struct insn *i)
{
    bool memory = i->flags & INSN_MEM;
    unsigned int reg = i->simd & SIMD_REG_GPR_W ? GPR_OUT : i->reg & 15u;
    unsigned int rm = memory ? MEMORY : i->rm & 15u;
    if (i->simd & (SIMD_RM_GPR_R | SIMD_RM_GPR_W))
        rm = i->simd & SIMD_RM_GPR_R ? GPR_IN : GPR_OUT;
    if (i->flags & INSN_VEX)
        put_vex3(e, i->map & 3u, i->flags & INSN_REX_W, reg, rm, i->vvvv, i->flags & INSN_VEX_L,
                 pp_of(i));
    else
        put_legacy_head(e, i, reg, rm);
    put8(e, i->opcode);
    put8(e, (memory ? 0 : 0xC0u) | (reg & 7) << 3 | (rm & 7));
    if (insn_simd_has_imm8(i))
        put8(e, i->imm & 0xFF);
}

/* Group 15 of 0F AE: 2 LDMXCSR, 3 STMXCSR */
static void put_mxcsr(struct emitter *e, unsigned int reg, size_t frame_offset)
{
    put8(e, 0x0F);
    put8(e, 0xAE);
    put_memory(e, reg, FRAME, frame_offset);
}

static void put_save_flags(struct emitter *e)
{
    PUT(e, "\x9C\x8F"); /* pushfq; pop [frame.flags] */
    put_memory(e, 0, FRAME, offsetof(struct native_frame, flags));
}

/* Takes the flags that were raised and leaves out the stores if one is unmasked. */
static void put_exceptions_and_stores(struct emitter *e, const struct insn *i)
{
    put_mxcsr(e, 3, offsetof(struct native_frame, mxcsr_out));
    put_mxcsr(e, 2, offsetof(struct native_frame, mxcsr_host));
    PUT(e, "\x44\x8B"); /* mov r8d, [frame.unmasked] */
    put_memory(e, 0, FRAME, offsetof(struct native_frame, unmasked));
    PUT(e, "\x44\x85"); /* test [frame.mxcsr_out], r8d */
    put_memory(e, 0, FRAME, offsetof(struct native_frame, mxcsr_out));
    PUT(e, "\x75\x00"); /* jnz, over the stores */
    uint8_t *after_jump = e->p;
    store_registers(e, i);
    assert(e->p - after_jump < 128);
    after_jump[-1] = (uint8_t)(e->p - after_jump);
}

/* PCMPESTRx and PCMPISTRx want RAX and RDX and write RCX (opcodes 61, 63) or XMM0 (60, 62). */
static bool is_string_compare(const struct insn *i)
{
    return i->map == 3 && i->opcode >= 0x60 && i->opcode <= 0x63;
}

static void put_string_result(struct emitter *e, const struct insn *i)
{
    if (i->opcode & 1)
        PUT(e, "\x48\x89\xC8"); /* mov rax, rcx */
    else
        store_vector(e, i, 0);
}

uint32_t native_emit(const struct insn *i, uint8_t *code)
{
    struct emitter e = {code};
    bool exceptions = !(i->simd & SIMD_NO_FP);
    if (exceptions)
        put_mxcsr(&e, 2, offsetof(struct native_frame, mxcsr));
    load_registers(&e, i);
    if (is_string_compare(i)) {
        PUT(&e, "\x48\x8B"); /* mov rax, [frame.rax] */
        put_memory(&e, RAX, FRAME, offsetof(struct native_frame, rax));
    }
    put_instruction(&e, i);
    if (i->simd & SIMD_FLAGS)
        put_save_flags(&e);
    if (is_string_compare(i))
        put_string_result(&e, i);
    if (exceptions)
        put_exceptions_and_stores(&e, i);
    else
        store_registers(&e, i);
    if (i->flags & INSN_VEX)
        PUT(&e, "\xC5\xF8\x77"); /* vzeroupper */
    if (i->simd & SIMD_MMX)
        PUT(&e, "\x0F\x77"); /* emms */
    PUT(&e, "\xC3");
    return (uint32_t)(e.p - code);
}

/*
 * x87: the whole unit is loaded from the image and saved to it. FXSAVE does not wait, so exceptions
 * that the instruction raised are found in the image, not by the host.
 */
uint32_t native_emit_x87(const struct insn *i, uint8_t *code)
{
    struct emitter e = {code};
    bool conditional =
        (i->opcode == 0xDA || i->opcode == 0xDB) && i->modrm >= 0xC0 && i->modrm < 0xE0;
    PUT(&e, "\x48\x0F\xAE\x0E"); /* fxrstor64 [rsi] */
    if (conditional)
        PUT(&e, "\x88\xD4\x9E"); /* FCMOVcc reads CF, ZF, PF: mov ah, dl; sahf */
    put8(&e, i->opcode);
    put8(&e, i->flags & INSN_MEM ? (i->modrm & 0x38u) | MEMORY : i->modrm);
    if (i->simd & SIMD_FLAGS)
        put_save_flags(&e);
    PUT(&e, "\x48\x0F\xAE\x06"); /* fxsave64 [rsi] */
    PUT(&e, "\xDB\xE3");         /* fninit */
    put_mxcsr(&e, 2, offsetof(struct native_frame, mxcsr_host));
    PUT(&e, "\xC3");
    return (uint32_t)(e.p - code);
}
