/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * SIMD instructions: whether an encoding exists, and how its operands take part in it. The truth is
 * in isa/simd_table.c; here are the rules that hold for all rows (SDM volume 2, 2.3 and table 2-14
 * on, "Exception class description").
 *
 * Nothing here says what an instruction computes: x86/native.c lets the host's processor do that.
 * It needs to know which registers to load and store, how large the memory operand is, and what to
 * check first.
 *
 * Not here: instructions on general registers that happen to be VEX-encoded (BMI), and state as a
 * whole (LDMXCSR, VZEROUPPER, XSAVE), which the decoder names by itself. EVEX is not offered.
 */
#include "isa/simd_table.h"

enum {
    REG_RW = SIMD_READ_REG | SIMD_WRITE_REG,
    RM_RW = SIMD_READ_RM | SIMD_WRITE_RM,
    MM_REG = SIMD_MMX | SIMD_REG_MM,
    MM_RM = SIMD_MMX | SIMD_RM_MM,
    MM_BOTH = MM_REG | MM_RM,
};

/* What a form means. Without VEX, registers are those of `legacy`; with VEX.vvvv unused it must say
 * 1111b. */
struct form {
    uint8_t legacy, vex; /* SIMD_READ_*, SIMD_WRITE_* */
    uint16_t simd;       /* SIMD_*; of those that concern rm only in register form */
    bool store;          /* rm, if memory, is written, not read */
};

/* table */
static const struct form forms[SIMD_FORM_COUNT] = {
    [SIMD_FORM_VW] = {SIMD_READ_RM | SIMD_WRITE_REG, SIMD_READ_RM | SIMD_WRITE_REG, 0, false},
    [SIMD_FORM_VHW] = {REG_RW | SIMD_READ_RM, SIMD_READ_VVVV | SIMD_READ_RM | SIMD_WRITE_REG, 0,
                       false},
    [SIMD_FORM_VVW] = {REG_RW | SIMD_READ_RM, 0, 0, false},
    [SIMD_FORM_VVHW] = {0, REG_RW | SIMD_READ_VVVV | SIMD_READ_RM, 0, false},
    [SIMD_FORM_VHWL] = {0, SIMD_READ_VVVV | SIMD_READ_RM | SIMD_READ_IS4 | SIMD_WRITE_REG, 0,
                        false},
    [SIMD_FORM_VWZ] = {REG_RW | SIMD_READ_RM | SIMD_READ_XMM0, 0, 0, false},
    [SIMD_FORM_WV] = {SIMD_READ_REG | SIMD_WRITE_RM, SIMD_READ_REG | SIMD_WRITE_RM, 0, true},
    [SIMD_FORM_WHV] = {SIMD_READ_REG | RM_RW, SIMD_READ_REG | SIMD_READ_VVVV | SIMD_WRITE_RM, 0,
                       true},
    [SIMD_FORM_HW] = {RM_RW, SIMD_READ_RM | SIMD_WRITE_VVVV, 0, false},
    [SIMD_FORM_CMP] = {SIMD_READ_REG | SIMD_READ_RM, SIMD_READ_REG | SIMD_READ_RM, SIMD_FLAGS,
                       false},
    [SIMD_FORM_VE] = {SIMD_WRITE_REG, SIMD_WRITE_REG, SIMD_RM_GPR_R, false},
    [SIMD_FORM_VHE] = {REG_RW, SIMD_READ_VVVV | SIMD_WRITE_REG, SIMD_RM_GPR_R, false},
    [SIMD_FORM_EV] = {SIMD_READ_REG, SIMD_READ_REG, SIMD_RM_GPR_W, true},
    [SIMD_FORM_GW] = {SIMD_READ_RM, SIMD_READ_RM, SIMD_REG_GPR_W, false},
    [SIMD_FORM_PQ] = {REG_RW | SIMD_READ_RM, 0, MM_BOTH, false},
    [SIMD_FORM_QP] = {SIMD_READ_REG | SIMD_WRITE_RM, 0, MM_BOTH, true},
    [SIMD_FORM_QQ] = {RM_RW, 0, MM_RM, false},
    [SIMD_FORM_PE] = {REG_RW, 0, MM_REG | SIMD_RM_GPR_R, false},
    [SIMD_FORM_EP] = {SIMD_READ_REG, 0, MM_REG | SIMD_RM_GPR_W, true},
    [SIMD_FORM_GQ] = {SIMD_READ_RM, 0, MM_RM | SIMD_REG_GPR_W, false},
    [SIMD_FORM_VQ] = {REG_RW | SIMD_READ_RM, 0, MM_RM, false},
    [SIMD_FORM_PW] = {SIMD_READ_RM | SIMD_WRITE_REG, 0, MM_REG, false},
    [SIMD_FORM_NONE] = {0, 0, SIMD_MMX | SIMD_SPECIAL, false},
    [SIMD_FORM_MASKMOV] = {SIMD_READ_REG | SIMD_READ_RM, SIMD_READ_REG | SIMD_READ_RM, SIMD_SPECIAL,
                           false},
    [SIMD_FORM_MASKMOVQ] = {SIMD_READ_REG | SIMD_READ_RM, 0, MM_BOTH | SIMD_SPECIAL, false},
    [SIMD_FORM_MASKLOAD] = {0, SIMD_READ_VVVV | SIMD_WRITE_REG, SIMD_SPECIAL, false},
    [SIMD_FORM_MASKSTORE] = {0, SIMD_READ_VVVV | SIMD_READ_REG, SIMD_SPECIAL, true},
    [SIMD_FORM_GATHER] = {0, REG_RW | SIMD_READ_VVVV | SIMD_WRITE_VVVV, SIMD_SPECIAL, false},
    [SIMD_FORM_PCMPSTR] = {SIMD_READ_REG | SIMD_READ_RM, SIMD_READ_REG | SIMD_READ_RM,
                           SIMD_FLAGS | SIMD_SPECIAL, false},
};

static enum simd_pp prefix_of(const struct insn *i)
{
    if (i->flags & INSN_PREFIX_F3)
        return SIMD_PP_F3;
    if (i->flags & INSN_PREFIX_F2)
        return SIMD_PP_F2;
    return i->flags & INSN_OPSIZE_PREFIX ? SIMD_PP_66 : SIMD_PP_NP;
}

static uint8_t feature_of(const struct simd_row *row, const struct insn *i)
{
    if (!(i->flags & INSN_VEX))
        return row->legacy;
    return i->flags & INSN_VEX_L ? row->vex256 : row->vex128;
}

/* Registers named by the encoding that the form gives a meaning to. */
static uint8_t registers_of(const struct simd_row *row, const struct insn *i)
{
    const struct form *form = &forms[row->form];
    uint8_t regs = i->flags & INSN_VEX ? form->vex : form->legacy;
    if (i->flags & INSN_MEM)
        regs &= (uint8_t) ~(SIMD_READ_RM | SIMD_WRITE_RM);
    return regs;
}

static bool row_allows_vex_fields(const struct simd_row *row, const struct insn *i)
{
    bool w = i->flags & INSN_REX_W;
    if (row->flags & (w ? SIMD_ROW_W0 : SIMD_ROW_W1))
        return false;
    return i->vvvv == 0 || (registers_of(row, i) & (SIMD_READ_VVVV | SIMD_WRITE_VVVV));
}

static bool row_matches(const struct simd_row *row, const struct insn *i)
{
    bool memory = i->flags & INSN_MEM;
    if (row->pp != prefix_of(i))
        return false;
    if (row->group != SIMD_GROUP_ANY && row->group != (i->modrm >> 3 & 7))
        return false;
    if (memory ? row->size == SIMD_SIZE_NONE : (row->flags & SIMD_ROW_MEM) != 0)
        return false;
    if (feature_of(row, i) == INSN_FEATURE_NONE)
        return false;
    return !(i->flags & INSN_VEX) || row_allows_vex_fields(row, i);
}

/* The first row of the opcode, or where it would be. */
static const struct simd_row *find_opcode(const struct simd_map *map, uint8_t opcode)
{
    uint32_t low = 0, high = map->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (map->row[middle].opcode < opcode)
            low = middle + 1;
        else
            high = middle;
    }
    return map->row + low;
}

static const struct simd_row *find_row(const struct insn *i)
{
    const struct simd_map *map = &simd_maps[i->map & 3];
    const struct simd_row *end = map->row + map->count;
    for (const struct simd_row *row = find_opcode(map, i->opcode);
         row < end && row->opcode == i->opcode; row++) {
        if (row_matches(row, i))
            return row;
    }
    return NULL;
}

static uint8_t size_of(const struct simd_row *row, const struct insn *i, bool wide)
{
    uint8_t vector = forms[row->form].simd & SIMD_MMX ? 8 : i->flags & INSN_VEX_L ? 32 : 16;
    const uint8_t sizes[SIMD_SIZE_COUNT] = {
        [SIMD_SIZE_NONE] = 0,
        [SIMD_SIZE_1] = 1,
        [SIMD_SIZE_2] = 2,
        [SIMD_SIZE_4] = 4,
        [SIMD_SIZE_8] = 8,
        [SIMD_SIZE_16] = 16,
        [SIMD_SIZE_V] = vector,
        [SIMD_SIZE_H] = vector / 2,
        [SIMD_SIZE_Q] = vector / 4,
        [SIMD_SIZE_E] = vector / 8,
        [SIMD_SIZE_D] = vector == 32 ? 32 : 8,
        [SIMD_SIZE_Y] = wide ? 8 : 4,
        [SIMD_SIZE_S] = i->flags & INSN_REX_W ? 8 : 4,
    };
    return sizes[row->size];
}

/* Is #GP due when the memory operand is not aligned? Without VEX: always, if it has 16 bytes, but
 * for the instructions that exist for that purpose. */
static bool must_be_aligned(const struct simd_row *row, const struct insn *i)
{
    if (row->flags & SIMD_ROW_ALIGNED)
        return true;
    return !(i->flags & INSN_VEX) && i->memsize == 16 && !(row->flags & SIMD_ROW_ANY);
}

/* Flags of the memory form. */
static uint16_t memory_flags(const struct simd_row *row, const struct insn *i)
{
    uint16_t simd = forms[row->form].store ? SIMD_MEM_WRITE : SIMD_MEM_READ;
    if (must_be_aligned(row, i))
        simd |= SIMD_ALIGNED;
    if (row->flags & SIMD_ROW_ANY)
        simd |= SIMD_UNALIGNED_OK;
    return simd;
}

/* Outside of 64-bit mode general registers have 32 bits, whatever VEX.W says, and bit 7 of an
 * immediate that names a register is ignored. */
static void narrow(struct insn *i, const struct form *form)
{
    /* PCMPESTRx takes its lengths from EAX and EDX then, too */
    bool lengths = form == &forms[SIMD_FORM_PCMPSTR];
    if (lengths || form->simd & (SIMD_REG_GPR_W | SIMD_RM_GPR_R | SIMD_RM_GPR_W))
        i->flags &= (uint16_t)~INSN_REX_W;
    if (form->vex & SIMD_READ_IS4)
        i->imm &= 0x7F;
}

bool simd_decode(struct insn *i, enum insn_mode mode)
{
    const struct simd_row *row = find_row(i);
    if (!row)
        return false;
    const struct form *form = &forms[row->form];
    if (mode != INSN_MODE_64)
        narrow(i, form);
    bool wide = i->flags & INSN_REX_W;
    uint16_t simd = form->simd;
    i->op = INSN_SIMD;
    i->feature = feature_of(row, i);
    i->simd_regs = registers_of(row, i);
    i->memsize = 0;
    if (i->flags & INSN_MEM) {
        i->memsize = size_of(row, i, wide);
        simd &= (uint16_t) ~(SIMD_RM_GPR_R | SIMD_RM_GPR_W | SIMD_RM_MM);
        if (row->flags & SIMD_ROW_MM_REG)
            simd &= (uint16_t)~SIMD_MMX;
        simd |= memory_flags(row, i);
    }
    if (wide && (simd & (SIMD_REG_GPR_W | SIMD_RM_GPR_R | SIMD_RM_GPR_W)))
        simd |= SIMD_GPR_64;
    if (!(row->flags & SIMD_ROW_FP))
        simd |= SIMD_NO_FP;
    i->simd = simd;
    return true;
}
