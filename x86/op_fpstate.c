/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * State of the x87 and the vector registers as a whole: FWAIT, FXSAVE, FXRSTOR, the XSAVE family,
 * LDMXCSR, STMXCSR, VZEROUPPER, VZEROALL (SDM 1, chapter 13 and 10.5; volume 2).
 *
 * struct x86_fpu is an XSAVE image in standard format, so saving is copying in pieces. The guest's
 * memory is written only after all of the area has been found to be writable, and read as a whole
 * before any register changes.
 *
 * The processor that the guest sees never finds a state component to be in its initial
 * configuration (XINUSE is all ones, which SDM 1, 13.6 permits), and XSAVEOPT makes no use of its
 * licence to save less than XSAVE. There is neither XSAVEC nor XSAVES, so the compacted format is
 * refused. Selectors of the x87's pointers are zero (x86/op_x87.c).
 */
#include "x86/level.h"
#include "x86/simd.h"

enum {
    LEGACY_SIZE = 416, /* what FXSAVE writes of its 512 bytes; the rest is software's */
    LEGACY_X87 = 24,   /* control, status, tags, opcode, pointers */
    AREA_MXCSR = 24,
    AREA_ST = 32,
    AREA_XMM = 160,
    AREA_HEADER = 512,
    HEADER_SIZE = 64,
    AREA_YMM = 576,
    AREA_SIZE = 832,
    FXSAVE_ALIGN = 16,
    XSAVE_ALIGN = 64,
    PIECE = 64, /* what x86_read_bytes and x86_write_bytes take at once */
};

/*
 * --- areas of guest memory ---
 *
 * They span at most two pages. x86_mem_host checks both before anything is touched, also where it
 * then gives no pointer.
 */

static uint32_t piece_size(uint32_t left)
{
    return left < PIECE ? left : PIECE;
}

int simd_read_area(struct x86_cpu *cpu, uint64_t linear, void *buf, uint32_t size)
{
    void *host;
    int s = x86_mem_host(cpu, linear, size, X86_READ, &host);
    if (s == X86_OK && host) {
        memcpy(buf, host, size);
        return X86_OK;
    }
    for (uint32_t at = 0; s == X86_OK && at < size; at += PIECE)
        s = x86_read_bytes(cpu, x86_linear_add(cpu, linear, at), (uint8_t *)buf + at,
                           piece_size(size - at));
    return s;
}

int simd_write_area(struct x86_cpu *cpu, uint64_t linear, const void *buf, uint32_t size)
{
    void *host;
    int s = x86_mem_host(cpu, linear, size, X86_WRITE, &host);
    if (s == X86_OK && host) {
        memcpy(host, buf, size);
        x86_note_store(cpu, host);
        return X86_OK;
    }
    for (uint32_t at = 0; s == X86_OK && at < size; at += PIECE)
        s = x86_write_bytes(cpu, x86_linear_add(cpu, linear, at), (const uint8_t *)buf + at,
                            piece_size(size - at));
    return s;
}

/* Linear address of an area that must be aligned. */
static int area_address(struct x86_cpu *cpu, const struct insn *i, uint32_t size, uint32_t align,
                        int access, uint64_t *linear)
{
    int s = x86_operand(cpu, i, size, access, linear);
    if (s != X86_OK)
        return s;
    return *linear & (align - 1) ? x86_fault(cpu, X86_GP, 0) : X86_OK;
}

/* XMM8 to XMM15 exist only in 64-bit mode. */
static uint32_t vector_bytes(const struct x86_cpu *cpu)
{
    return cpu->mode == INSN_MODE_64 ? 256 : 128;
}

/* --- x87 part of both formats --- */

/* The first 24 bytes. Without REX.W the pointers have 32 bits, and selectors above them. */
static void put_x87_header(const struct x86_fpu *fpu, const struct insn *i, uint8_t *area)
{
    bool wide = i->flags & INSN_REX_W;
    store_u16(area, fpu->fcw);
    store_u16(area + 2, fpu->fsw);
    store_u16(area + 4, fpu->ftw);
    store_u16(area + 6, fpu->fop);
    store_u64(area + 8, wide ? fpu->fip : (uint32_t)fpu->fip);
    store_u64(area + 16, wide ? fpu->fdp : (uint32_t)fpu->fdp);
}

static void get_x87(struct x86_fpu *fpu, const struct insn *i, const uint8_t *area)
{
    bool wide = i->flags & INSN_REX_W;
    fpu->fcw = x87_normal_fcw(load_u16(area));
    fpu->fsw = x87_normal_fsw(load_u16(area + 2), fpu->fcw);
    fpu->ftw = area[4];
    fpu->fop = load_u16(area + 6) & 0x7FF;
    fpu->fip = wide ? load_u64(area + 8) : load_u32(area + 8);
    fpu->fdp = wide ? load_u64(area + 16) : load_u32(area + 16);
    for (unsigned int n = 0; n < 8; n++) {
        memset(fpu->st[n], 0, sizeof(fpu->st[n]));
        memcpy(fpu->st[n], area + AREA_ST + n * 16, 10);
    }
}

static void put_mxcsr(const struct x86_fpu *fpu, uint8_t *area)
{
    store_u32(area + AREA_MXCSR, fpu->mxcsr);
    store_u32(area + AREA_MXCSR + 4, MXCSR_WRITABLE);
}

/* --- FWAIT, FXSAVE, FXRSTOR --- */

static int op_fwait(struct x86_cpu *cpu, const struct insn *i)
{
    const uint64_t both = X86_CR0_MP | X86_CR0_TS;
    (void)i;
    if ((cpu->cr0 & both) == both)
        return x86_fault(cpu, X86_NM, 0);
    return x87_is_pending(&cpu->fpu) ? x86_fault(cpu, X86_MF, 0) : X86_OK;
}

static int fx_check(struct x86_cpu *cpu)
{
    if (cpu->cr0 & X86_CR0_EM)
        return x86_fault(cpu, X86_UD, 0);
    return cpu->cr0 & X86_CR0_TS ? x86_fault(cpu, X86_NM, 0) : X86_OK;
}

/* Without CR4.OSFXSR vector registers are neither saved nor restored. */
static uint32_t fx_size(const struct x86_cpu *cpu)
{
    return cpu->cr4 & X86_CR4_OSFXSR ? AREA_XMM + vector_bytes(cpu) : AREA_XMM;
}

static int op_fxsave(struct x86_cpu *cpu, const struct insn *i)
{
    const struct x86_fpu *fpu = &cpu->fpu;
    uint8_t area[LEGACY_SIZE];
    uint64_t linear;
    int s = fx_check(cpu);
    if (s == X86_OK)
        s = area_address(cpu, i, AREA_HEADER, FXSAVE_ALIGN, X86_WRITE, &linear);
    if (s != X86_OK)
        return s;
    put_x87_header(fpu, i, area);
    put_mxcsr(fpu, area);
    memcpy(area + AREA_ST, fpu->st, sizeof(fpu->st));
    memcpy(area + AREA_XMM, fpu->xmm, sizeof(fpu->xmm));
    return simd_write_area(cpu, linear, area, fx_size(cpu));
}

static int op_fxrstor(struct x86_cpu *cpu, const struct insn *i)
{
    uint8_t area[LEGACY_SIZE];
    uint64_t linear;
    uint32_t size = fx_size(cpu);
    int s = fx_check(cpu);
    if (s == X86_OK)
        s = area_address(cpu, i, AREA_HEADER, FXSAVE_ALIGN, X86_READ, &linear);
    if (s == X86_OK)
        s = simd_read_area(cpu, linear, area, size);
    if (s != X86_OK)
        return s;
    uint32_t mxcsr = load_u32(area + AREA_MXCSR);
    if (mxcsr & ~MXCSR_WRITABLE)
        return x86_fault(cpu, X86_GP, 0);
    get_x87(&cpu->fpu, i, area);
    if (size > AREA_XMM) {
        cpu->fpu.mxcsr = mxcsr;
        memcpy(cpu->fpu.xmm, area + AREA_XMM, size - AREA_XMM);
    }
    return X86_OK;
}

/* --- XSAVE, XSAVEOPT, XRSTOR --- */

static int xsave_check(struct x86_cpu *cpu)
{
    if (!(cpu->cr4 & X86_CR4_OSXSAVE))
        return x86_fault(cpu, X86_UD, 0);
    return cpu->cr0 & X86_CR0_TS ? x86_fault(cpu, X86_NM, 0) : X86_OK;
}

/* Requested-feature bitmap: EDX:EAX and XCR0 */
static uint64_t xsave_rfbm(const struct x86_cpu *cpu)
{
    return cpu->xcr0 & ((uint32_t)cpu->gpr[RAX] | cpu->gpr[RDX] << 32);
}

static uint32_t xsave_size(const struct x86_cpu *cpu, uint64_t rfbm)
{
    return rfbm & X86_XCR0_AVX ? AREA_YMM + vector_bytes(cpu) : AREA_YMM;
}

/* The area has been checked; only what RFBM names is written. */
static int xsave_write(struct x86_cpu *cpu, const struct insn *i, uint64_t linear, uint64_t rfbm)
{
    const struct x86_fpu *fpu = &cpu->fpu;
    uint8_t head[AREA_ST];
    int s = X86_OK;
    put_x87_header(fpu, i, head);
    put_mxcsr(fpu, head);
    if (rfbm & X86_XCR0_X87)
        s = simd_write_area(cpu, linear, head, LEGACY_X87);
    if (s == X86_OK && (rfbm & X86_XCR0_X87))
        s = simd_write_area(cpu, x86_linear_add(cpu, linear, AREA_ST), fpu->st, sizeof(fpu->st));
    if (s == X86_OK && (rfbm & (X86_XCR0_SSE | X86_XCR0_AVX)))
        s = simd_write_area(cpu, x86_linear_add(cpu, linear, AREA_MXCSR), head + AREA_MXCSR, 8);
    if (s == X86_OK && (rfbm & X86_XCR0_SSE))
        s = simd_write_area(cpu, x86_linear_add(cpu, linear, AREA_XMM), fpu->xmm,
                            vector_bytes(cpu));
    if (s == X86_OK && (rfbm & X86_XCR0_AVX))
        s = simd_write_area(cpu, x86_linear_add(cpu, linear, AREA_YMM), fpu->ymm_high,
                            vector_bytes(cpu));
    return s;
}

static int op_xsave(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t linear, xstate_bv, rfbm = xsave_rfbm(cpu);
    uint32_t size = xsave_size(cpu, rfbm);
    void *host;
    int s = xsave_check(cpu);
    if (s == X86_OK)
        s = area_address(cpu, i, size, XSAVE_ALIGN, X86_WRITE, &linear);
    if (s == X86_OK)
        s = x86_mem_host(cpu, linear, size, X86_WRITE, &host);
    if (s == X86_OK)
        s = x86_read64(cpu, x86_linear_add(cpu, linear, AREA_HEADER), &xstate_bv);
    if (s == X86_OK)
        s = xsave_write(cpu, i, linear, rfbm);
    if (s != X86_OK)
        return s;
    return x86_write64(cpu, x86_linear_add(cpu, linear, AREA_HEADER), (xstate_bv & ~rfbm) | rfbm);
}

/* #GP unless it is the standard format's header with nothing in it that XCR0 does not have (SDM 1,
 * 13.8.1), and MXCSR is valid. */
static bool xrstor_valid(const struct x86_cpu *cpu, const uint8_t *area, uint64_t rfbm)
{
    const uint8_t *header = area + AREA_HEADER;
    if (load_u64(header) & ~cpu->xcr0)
        return false;
    if (load_u64(header + 8) != 0 || load_u64(header + 16) != 0)
        return false;
    if (!(rfbm & (X86_XCR0_SSE | X86_XCR0_AVX)))
        return true;
    return !(load_u32(area + AREA_MXCSR) & ~MXCSR_WRITABLE);
}

/* A component of vector registers: from the area, or its initial zeros. */
static void restore_vectors(void *to, const uint8_t *from, bool present, uint32_t size)
{
    if (present)
        memcpy(to, from, size);
    else
        memset(to, 0, size);
}

static int op_xrstor(struct x86_cpu *cpu, const struct insn *i)
{
    uint8_t area[AREA_SIZE];
    uint64_t linear, rfbm = xsave_rfbm(cpu);
    uint32_t size = xsave_size(cpu, rfbm), vectors = vector_bytes(cpu);
    int s = xsave_check(cpu);
    if (s == X86_OK)
        s = area_address(cpu, i, size, XSAVE_ALIGN, X86_READ, &linear);
    if (s == X86_OK)
        s = simd_read_area(cpu, linear, area, size);
    if (s != X86_OK)
        return s;
    if (!xrstor_valid(cpu, area, rfbm))
        return x86_fault(cpu, X86_GP, 0);
    uint64_t present = load_u64(area + AREA_HEADER);
    if (rfbm & present & X86_XCR0_X87)
        get_x87(&cpu->fpu, i, area);
    else if (rfbm & X86_XCR0_X87) {
        x87_init(&cpu->fpu);
        memset(cpu->fpu.st, 0, sizeof(cpu->fpu.st));
    }
    /* whatever XSTATE_BV says */
    if (rfbm & (X86_XCR0_SSE | X86_XCR0_AVX))
        cpu->fpu.mxcsr = load_u32(area + AREA_MXCSR);
    if (rfbm & X86_XCR0_SSE)
        restore_vectors(cpu->fpu.xmm, area + AREA_XMM, present & X86_XCR0_SSE, vectors);
    if (rfbm & X86_XCR0_AVX)
        restore_vectors(cpu->fpu.ymm_high, area + AREA_YMM, present & X86_XCR0_AVX, vectors);
    return X86_OK;
}

/* --- XCR0 --- */

static int op_xgetbv(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    if (!(cpu->cr4 & X86_CR4_OSXSAVE))
        return x86_fault(cpu, X86_UD, 0);
    if ((uint32_t)cpu->gpr[RCX] != 0)
        return x86_fault(cpu, X86_GP, 0);
    cpu->gpr[RAX] = (uint32_t)cpu->xcr0;
    cpu->gpr[RDX] = cpu->xcr0 >> 32;
    return X86_OK;
}

static int op_xsetbv(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    uint64_t v = (uint32_t)cpu->gpr[RAX] | cpu->gpr[RDX] << 32;
    if (!(cpu->cr4 & X86_CR4_OSXSAVE))
        return x86_fault(cpu, X86_UD, 0);
    bool valid = (uint32_t)cpu->gpr[RCX] == 0 && (v & X86_XCR0_X87) &&
                 !(v & ~cpu->level->xcr0_mask) && (!(v & X86_XCR0_AVX) || (v & X86_XCR0_SSE));
    if (cpu->cpl != 0 || !valid)
        return x86_fault(cpu, X86_GP, 0);
    cpu->xcr0 = v;
    return X86_OK;
}

/* --- MXCSR, upper halves --- */

static int op_ldmxcsr(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t linear;
    uint32_t v;
    int s = simd_check(cpu, i->flags & INSN_VEX);
    if (s == X86_OK)
        s = x86_operand(cpu, i, sizeof(v), X86_READ, &linear);
    if (s == X86_OK)
        s = x86_read32(cpu, linear, &v);
    if (s != X86_OK)
        return s;
    if (v & ~MXCSR_WRITABLE)
        return x86_fault(cpu, X86_GP, 0);
    cpu->fpu.mxcsr = v;
    return X86_OK;
}

static int op_stmxcsr(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t linear;
    int s = simd_check(cpu, i->flags & INSN_VEX);
    if (s == X86_OK)
        s = x86_operand(cpu, i, sizeof(uint32_t), X86_WRITE, &linear);
    return s == X86_OK ? x86_write32(cpu, linear, cpu->fpu.mxcsr) : s;
}

static int op_vzeroupper(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    int s = simd_check(cpu, true);
    if (s == X86_OK)
        memset(cpu->fpu.ymm_high, 0, vector_bytes(cpu));
    return s;
}

static int op_vzeroall(struct x86_cpu *cpu, const struct insn *i)
{
    int s = op_vzeroupper(cpu, i);
    if (s == X86_OK)
        memset(cpu->fpu.xmm, 0, vector_bytes(cpu));
    return s;
}

x86_op_fn *x86_select_fpstate(const struct insn *i)
{
    static x86_op_fn *const handlers[] = {
        [INSN_FWAIT] = op_fwait,           [INSN_FXSAVE] = op_fxsave,
        [INSN_FXRSTOR] = op_fxrstor,       [INSN_XSAVE] = op_xsave,
        [INSN_XSAVEOPT] = op_xsave,        [INSN_XRSTOR] = op_xrstor,
        [INSN_XGETBV] = op_xgetbv,         [INSN_XSETBV] = op_xsetbv,
        [INSN_LDMXCSR] = op_ldmxcsr,       [INSN_STMXCSR] = op_stmxcsr,
        [INSN_VZEROUPPER] = op_vzeroupper, [INSN_VZEROALL] = op_vzeroall,
    };
    return i->op < ARRAY_SIZE(handlers) ? handlers[i->op] : NULL;
}
