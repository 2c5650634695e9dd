/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * x87 instructions. Those that compute run natively with the guest's whole x87 state loaded
 * (x86/native_emit.c); control instructions are written out, here and in x86/op_x87_env.c.
 *
 * Exceptions of the x87 are reported by the next waiting instruction (SDM 1, 8.7). ES in the
 * image's status word says that one is pending; it is always exact (x87_normal_fsw), so it is
 * checked before an instruction is let near the host's unit, and the host never takes an exception.
 * With CR0.NE clear a PC would raise FERR#, which its board turns into IRQ 13. That way is not
 * modelled: #MF is delivered in both cases (every system since 80486 days sets NE).
 *
 * The instruction pointer, operand pointer and opcode of the last instruction are the guest's: they
 * are put into the image after each instruction, over whatever the host stored there. The selectors
 * that go with them are always zero, as on processors with CPUID.7.0:EBX bit 13; the opcode is kept
 * for each instruction.
 */
#include "x86/simd.h"

enum { MXCSR_MASK_VALUE = MXCSR_WRITABLE };

void x87_init(struct x86_fpu *fpu)
{
    unsigned int top = x87_top(fpu);
    fpu->fcw = X86_FCW_RESET;
    fpu->fsw = 0;
    x87_move_top(fpu, top);
    fpu->ftw = 0;
    fpu->fop = 0;
    fpu->fip = 0;
    fpu->fdp = 0;
}

int x87_check(struct x86_cpu *cpu, bool waits)
{
    if (unlikely(cpu->cr0 & (X86_CR0_EM | X86_CR0_TS)))
        return x86_fault(cpu, X86_NM, 0);
    if (unlikely(waits && x87_is_pending(&cpu->fpu)))
        return x86_fault(cpu, X86_MF, 0);
    return X86_OK;
}

/* --- instructions that compute --- */

/* Runs the fragment; pointers are the guest's afterwards. */
static always_inline void run_fragment(struct x86_cpu *cpu, const struct insn *i, void *memory)
{
    struct x86_fpu *fpu = &cpu->fpu;
    uint64_t fdp = i->flags & INSN_MEM ? x86_effective_address(cpu, i) : fpu->fdp;
    fpu->mxcsr &= MXCSR_WRITABLE; /* FXRSTOR would fault in the host */
    native_find(cpu, i)(&cpu->native->frame, fpu, cpu->rflags, memory);
    fpu->mxcsr_mask = MXCSR_MASK_VALUE;
    fpu->fip = cpu->rip - i->length;
    fpu->fdp = fdp;
    fpu->fop = (uint16_t)((i->opcode & 7) << 8 | i->modrm);
    if (i->simd & SIMD_FLAGS)
        cpu->rflags =
            (cpu->rflags & ~X86_FLAGS_STATUS) | (cpu->native->frame.flags & X86_FLAGS_STATUS);
}

static int x87_register(struct x86_cpu *cpu, const struct insn *i)
{
    int s = x87_check(cpu, true);
    if (likely(s == X86_OK))
        run_fragment(cpu, i, NULL);
    return s;
}

static int x87_load(struct x86_cpu *cpu, const struct insn *i)
{
    void *source;
    int s = x87_check(cpu, true);
    if (likely(s == X86_OK))
        s = simd_source(cpu, i, cpu->native->frame.bounce, &source);
    if (likely(s == X86_OK))
        run_fragment(cpu, i, source);
    return s;
}

/* An unmasked exception other than precision keeps a store from storing (SDM 1, 8.5). */
static bool has_stored(const struct x86_fpu *fpu)
{
    const uint32_t precision = 0x20, all = X87_FSW_EXCEPTIONS;
    return !(fpu->fsw & ~(uint32_t)fpu->fcw & all & ~precision);
}

static int x87_store(struct x86_cpu *cpu, const struct insn *i)
{
    uint8_t *bounce = cpu->native->frame.bounce;
    uint64_t linear;
    void *host;
    int s = x87_check(cpu, true);
    if (likely(s == X86_OK))
        s = simd_destination(cpu, i, &linear, &host);
    if (unlikely(s != X86_OK))
        return s;
    run_fragment(cpu, i, host ? host : bounce);
    if (!host && !has_stored(&cpu->fpu))
        return X86_OK;
    return simd_stored(cpu, i, linear, host, bounce);
}

/* --- control instructions --- */

static int x87_fninit(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    int s = x87_check(cpu, false);
    if (s == X86_OK)
        x87_init(&cpu->fpu);
    return s;
}

static int x87_fnclex(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    int s = x87_check(cpu, false);
    if (s == X86_OK)
        cpu->fpu.fsw &= (uint16_t) ~(X87_FSW_EXCEPTIONS | X87_FSW_SF | X87_FSW_ES | X87_FSW_BUSY);
    return s;
}

/* FENI, FDISI, FSETPM: of the 8087 and 80287; nothing since */
static int x87_nothing(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    return x87_check(cpu, false);
}

static int x87_fldcw(struct x86_cpu *cpu, const struct insn *i)
{
    uint64_t linear;
    uint16_t fcw;
    int s = x87_check(cpu, true);
    if (s == X86_OK)
        s = x86_operand(cpu, i, sizeof(fcw), X86_READ, &linear);
    if (s == X86_OK)
        s = x86_read16(cpu, linear, &fcw);
    if (s != X86_OK)
        return s;
    cpu->fpu.fcw = x87_normal_fcw(fcw);
    cpu->fpu.fsw = x87_normal_fsw(cpu->fpu.fsw, cpu->fpu.fcw);
    return X86_OK;
}

static int store_word(struct x86_cpu *cpu, const struct insn *i, uint16_t v)
{
    uint64_t linear;
    int s = x86_operand(cpu, i, sizeof(v), X86_WRITE, &linear);
    if (s != X86_OK)
        return s;
    return x86_write16(cpu, linear, v);
}

static int x87_fnstcw(struct x86_cpu *cpu, const struct insn *i)
{
    int s = x87_check(cpu, false);
    return s == X86_OK ? store_word(cpu, i, cpu->fpu.fcw) : s;
}

static int x87_fnstsw(struct x86_cpu *cpu, const struct insn *i)
{
    int s = x87_check(cpu, false);
    return s == X86_OK ? store_word(cpu, i, cpu->fpu.fsw) : s;
}

static int x87_fnstsw_ax(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    int s = x87_check(cpu, false);
    if (s == X86_OK)
        x86_set_gpr(cpu, RAX, 2, cpu->fpu.fsw);
    return s;
}

/* --- choice --- */

struct control {
    uint8_t opcode, modrm;
    x86_op_fn *fn;
};

static x86_op_fn *find_control(const struct control *rows, size_t count, uint8_t opcode,
                               uint8_t modrm)
{
    for (size_t n = 0; n < count; n++) {
        if (rows[n].opcode == opcode && rows[n].modrm == modrm)
            return rows[n].fn;
    }
    return NULL;
}

static x86_op_fn *select_control(const struct insn *i)
{
    /* memory forms: modrm is its reg field in place */
    static const struct control memory[] = {
        {0xD9, 4 << 3, x87_op_fldenv},  {0xD9, 5 << 3, x87_fldcw},
        {0xD9, 6 << 3, x87_op_fnstenv}, {0xD9, 7 << 3, x87_fnstcw},
        {0xDD, 4 << 3, x87_op_frstor},  {0xDD, 6 << 3, x87_op_fnsave},
        {0xDD, 7 << 3, x87_fnstsw},
    };
    static const struct control registers[] = {
        {0xDB, 0xE0, x87_nothing}, {0xDB, 0xE1, x87_nothing}, {0xDB, 0xE2, x87_fnclex},
        {0xDB, 0xE3, x87_fninit},  {0xDB, 0xE4, x87_nothing}, {0xDF, 0xE0, x87_fnstsw_ax},
    };
    if (i->flags & INSN_MEM)
        return find_control(memory, ARRAY_SIZE(memory), i->opcode, i->modrm & 0x38);
    return find_control(registers, ARRAY_SIZE(registers), i->opcode, i->modrm);
}

x86_op_fn *x86_select_x87(const struct insn *i)
{
    x86_op_fn *control = select_control(i);
    if (control)
        return control;
    if (!(i->flags & INSN_MEM))
        return x87_register;
    return i->simd & SIMD_MEM_WRITE ? x87_store : x87_load;
}
