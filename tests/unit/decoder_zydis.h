/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Where the decoder and Zydis may differ, and why. Included by decoder_zydis.c alone. */
#ifndef LODGE_TESTS_UNIT_DECODER_ZYDIS_H
#define LODGE_TESTS_UNIT_DECODER_ZYDIS_H

#include "isa/insn.h"

#include <Zydis/Zydis.h>

/* The same bytes, decoded twice. */
struct pair {
    enum insn_mode mode;
    bool z_valid;
    uint8_t bytes[16];
    struct insn ours;
    ZydisDecodedInstruction z; /* if z_valid */
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
};

struct exception {
    bool (*applies)(const struct pair *p);
    const char *because;
    uint8_t sample[12]; /* in 64-bit mode: still different, or the exception has to go */
};

static bool is_not_offered(const struct pair *p)
{
    static const bool offered[ZYDIS_ISA_EXT_MAX_VALUE + 1] = {
        [ZYDIS_ISA_EXT_ADOX_ADCX] = true,  [ZYDIS_ISA_EXT_AES] = true,
        [ZYDIS_ISA_EXT_AVX] = true,        [ZYDIS_ISA_EXT_AVX2] = true,
        [ZYDIS_ISA_EXT_AVX2GATHER] = true, [ZYDIS_ISA_EXT_AVXAES] = true,
        [ZYDIS_ISA_EXT_BASE] = true,       [ZYDIS_ISA_EXT_BMI1] = true,
        [ZYDIS_ISA_EXT_BMI2] = true,       [ZYDIS_ISA_EXT_CLFLUSHOPT] = true,
        [ZYDIS_ISA_EXT_CLFSH] = true,      [ZYDIS_ISA_EXT_CLWB] = true,
        [ZYDIS_ISA_EXT_F16C] = true,       [ZYDIS_ISA_EXT_FMA] = true,
        [ZYDIS_ISA_EXT_GFNI] = true,       [ZYDIS_ISA_EXT_INVPCID] = true,
        [ZYDIS_ISA_EXT_LONGMODE] = true,   [ZYDIS_ISA_EXT_LZCNT] = true,
        [ZYDIS_ISA_EXT_MMX] = true,        [ZYDIS_ISA_EXT_MONITOR] = true,
        [ZYDIS_ISA_EXT_MOVBE] = true,      [ZYDIS_ISA_EXT_PAUSE] = true,
        [ZYDIS_ISA_EXT_PCLMULQDQ] = true,  [ZYDIS_ISA_EXT_RDPID] = true,
        [ZYDIS_ISA_EXT_RDRAND] = true,     [ZYDIS_ISA_EXT_RDSEED] = true,
        [ZYDIS_ISA_EXT_RDTSCP] = true,     [ZYDIS_ISA_EXT_RDWRFSGS] = true,
        [ZYDIS_ISA_EXT_SHA] = true,        [ZYDIS_ISA_EXT_SMAP] = true,
        [ZYDIS_ISA_EXT_SSE] = true,        [ZYDIS_ISA_EXT_SSE2] = true,
        [ZYDIS_ISA_EXT_SSE3] = true,       [ZYDIS_ISA_EXT_SSE4] = true,
        [ZYDIS_ISA_EXT_SSSE3] = true,      [ZYDIS_ISA_EXT_VAES] = true,
        [ZYDIS_ISA_EXT_VPCLMULQDQ] = true, [ZYDIS_ISA_EXT_X87] = true,
        [ZYDIS_ISA_EXT_XSAVE] = true,      [ZYDIS_ISA_EXT_XSAVEOPT] = true,
    };
    return p->z_valid && p->ours.op == INSN_INVALID && !offered[p->z.meta.isa_ext];
}

static bool is_rep_xchg_r8(const struct pair *p)
{
    return p->ours.op == INSN_XCHG && p->z_valid && p->z.mnemonic == ZYDIS_MNEMONIC_PAUSE;
}

static bool is_movsxd_16(const struct pair *p)
{
    return p->z_valid && p->z.mnemonic == ZYDIS_MNEMONIC_MOVSXD && p->ours.op == INSN_MOVSX &&
           p->ours.opsize == 2 && p->ours.srcsize == 2;
}

/* SIB without base, with address size 4 and REX.B or VEX.B */
static bool is_r13d_for_no_base(const struct pair *p)
{
    return p->z_valid && p->mode == INSN_MODE_64 && p->ours.addrsize == 4 &&
           p->ours.base == INSN_NO_REG && p->z.raw.sib.offset != 0 && p->z.raw.modrm.mod == 0 &&
           p->z.raw.sib.base == 5;
}

static const struct exception exceptions[] = {
    {is_not_offered, "an extension that no level offers", {0x0F, 0x01, 0xD5}}, /* XEND */
    {is_rep_xchg_r8,
     "F3 90 with REX.B: processors exchange with R8, Zydis 4.0 says PAUSE",
     {0xF3, 0x41, 0x90}},
    {is_movsxd_16,
     "MOVSXD with 66: the manual says r/m16, Zydis reads 32 bits",
     {0x66, 0x63, 0x01}},
    {is_r13d_for_no_base,
     "67 with SIB base 5 and mod 0: Zydis 4.0 makes it [R13D] if B is set; there is no base "
     "(SDM 2A table 2-5), and processors have none",
     {0x67, 0x43, 0x8B, 0x04, 0xCD}},
};

#endif
