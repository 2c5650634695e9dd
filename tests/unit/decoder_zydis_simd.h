/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* SIMD instructions: what isa/simd.c says of operands. Included by decoder_zydis.c alone. */
#ifndef LODGE_TESTS_UNIT_DECODER_ZYDIS_SIMD_H
#define LODGE_TESTS_UNIT_DECODER_ZYDIS_SIMD_H

#include "tests/unit/decoder_zydis.h"

enum { SIMD_ALL_WRITES = SIMD_WRITE_REG | SIMD_WRITE_RM | SIMD_WRITE_VVVV };

static inline bool is_vector(ZydisRegister reg)
{
    ZydisRegisterClass kind = ZydisRegisterGetClass(reg);
    return kind == ZYDIS_REGCLASS_MMX || kind == ZYDIS_REGCLASS_XMM || kind == ZYDIS_REGCLASS_YMM;
}

/* SIMD_READ_*, SIMD_WRITE_* of one operand. */
static inline uint8_t register_use(const ZydisDecodedOperand *o)
{
    uint8_t read = 0, write = 0;
    if (o->type != ZYDIS_OPERAND_TYPE_REGISTER || !is_vector(o->reg.value))
        return 0;
    if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG) {
        read = SIMD_READ_REG;
        write = SIMD_WRITE_REG;
    } else if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM) {
        read = SIMD_READ_RM;
        write = SIMD_WRITE_RM;
    } else if (o->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD) {
        read = SIMD_READ_VVVV;
        write = SIMD_WRITE_VVVV;
    } else if (o->encoding == ZYDIS_OPERAND_ENCODING_IS4) {
        read = SIMD_READ_IS4;
    } else if (o->reg.value == ZYDIS_REGISTER_XMM0) {
        read = SIMD_READ_XMM0;
    }
    return (uint8_t)((o->actions & ZYDIS_OPERAND_ACTION_MASK_READ ? read : 0) |
                     (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? write : 0));
}

/* General registers and memory, as SIMD_*. */
static inline uint16_t other_use(const ZydisDecodedOperand *o)
{
    bool read = o->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
    bool write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
        return (uint16_t)((read ? SIMD_MEM_READ : 0) | (write ? SIMD_MEM_WRITE : 0));
    if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
        return 0;
    ZydisRegisterClass kind = ZydisRegisterGetClass(o->reg.value);
    if (kind < ZYDIS_REGCLASS_GPR8 || kind > ZYDIS_REGCLASS_GPR64)
        return 0;
    if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
        return write ? SIMD_REG_GPR_W : 0;
    if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
        return (uint16_t)((read ? SIMD_RM_GPR_R : 0) | (write ? SIMD_RM_GPR_W : 0));
    return 0;
}

/* The feature that Zydis's extension means; INSN_FEATURE_NONE where it is too coarse to say. */
static inline enum insn_feature feature_of(ZydisISAExt ext)
{
    static const uint8_t features[ZYDIS_ISA_EXT_MAX_VALUE + 1] = {
        [ZYDIS_ISA_EXT_ADOX_ADCX] = INSN_FEATURE_ADX,
        [ZYDIS_ISA_EXT_AES] = INSN_FEATURE_AES,
        [ZYDIS_ISA_EXT_AVX] = INSN_FEATURE_AVX,
        [ZYDIS_ISA_EXT_AVX2] = INSN_FEATURE_AVX2,
        [ZYDIS_ISA_EXT_AVX2GATHER] = INSN_FEATURE_AVX2,
        [ZYDIS_ISA_EXT_BMI1] = INSN_FEATURE_BMI1,
        [ZYDIS_ISA_EXT_BMI2] = INSN_FEATURE_BMI2,
        [ZYDIS_ISA_EXT_CLFLUSHOPT] = INSN_FEATURE_CLFLUSHOPT,
        [ZYDIS_ISA_EXT_CLFSH] = INSN_FEATURE_CLFSH,
        [ZYDIS_ISA_EXT_CLWB] = INSN_FEATURE_CLWB,
        [ZYDIS_ISA_EXT_F16C] = INSN_FEATURE_F16C,
        [ZYDIS_ISA_EXT_FMA] = INSN_FEATURE_FMA,
        [ZYDIS_ISA_EXT_GFNI] = INSN_FEATURE_GFNI,
        [ZYDIS_ISA_EXT_INVPCID] = INSN_FEATURE_INVPCID,
        [ZYDIS_ISA_EXT_MONITOR] = INSN_FEATURE_MONITOR,
        [ZYDIS_ISA_EXT_MOVBE] = INSN_FEATURE_MOVBE,
        [ZYDIS_ISA_EXT_PCLMULQDQ] = INSN_FEATURE_PCLMUL,
        [ZYDIS_ISA_EXT_RDPID] = INSN_FEATURE_RDPID,
        [ZYDIS_ISA_EXT_RDRAND] = INSN_FEATURE_RDRAND,
        [ZYDIS_ISA_EXT_RDSEED] = INSN_FEATURE_RDSEED,
        [ZYDIS_ISA_EXT_RDTSCP] = INSN_FEATURE_RDTSCP,
        [ZYDIS_ISA_EXT_RDWRFSGS] = INSN_FEATURE_FSGSBASE,
        [ZYDIS_ISA_EXT_SHA] = INSN_FEATURE_SHA,
        [ZYDIS_ISA_EXT_SMAP] = INSN_FEATURE_SMAP,
        [ZYDIS_ISA_EXT_SSE2] = INSN_FEATURE_SSE2,
        [ZYDIS_ISA_EXT_SSE3] = INSN_FEATURE_SSE3,
        [ZYDIS_ISA_EXT_SSSE3] = INSN_FEATURE_SSSE3,
        [ZYDIS_ISA_EXT_VAES] = INSN_FEATURE_VAES,
        [ZYDIS_ISA_EXT_VPCLMULQDQ] = INSN_FEATURE_VPCLMUL,
        [ZYDIS_ISA_EXT_XSAVE] = INSN_FEATURE_XSAVE,
        [ZYDIS_ISA_EXT_XSAVEOPT] = INSN_FEATURE_XSAVEOPT,
    };
    return (enum insn_feature)features[ext];
}

static inline const char *compare_feature(const struct pair *p)
{
    enum insn_feature feature = feature_of(p->z.meta.isa_ext);
    enum insn_op op = (enum insn_op)p->ours.op;
    if (feature == INSN_FEATURE_NONE || feature == p->ours.feature)
        return NULL;
    /* BSF where there is no BMI1; on every processor that we offer; needs two, names one */
    if (op == INSN_TZCNT || op == INSN_LFENCE || op == INSN_MFENCE ||
        p->z.mnemonic == ZYDIS_MNEMONIC_VPCLMULQDQ)
        return NULL;
    return "feature";
}

static inline const char *compare_simd(const struct pair *p)
{
    const uint16_t mask =
        SIMD_MEM_READ | SIMD_MEM_WRITE | SIMD_REG_GPR_W | SIMD_RM_GPR_R | SIMD_RM_GPR_W;
    uint8_t regs = 0;
    uint16_t simd = 0;
    for (unsigned int n = 0; n < p->z.operand_count; n++) {
        const ZydisDecodedOperand *o = &p->operand[n];
        regs |= register_use(o);
        simd |= other_use(o);
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY &&
            o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM && o->size != p->ours.memsize * 8)
            return "SIMD memory operand's size";
    }
    if ((regs ^ p->ours.simd_regs) & SIMD_ALL_WRITES)
        return "SIMD registers written";
    if (regs & ~p->ours.simd_regs) /* to read more than needed is no fault */
        return "SIMD registers read that we do not";
    if ((simd ^ p->ours.simd) & mask)
        return "SIMD use of memory or general registers";
    return NULL;
}

#endif
