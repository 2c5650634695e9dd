/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The processor that this runs on: whether it can run a level, and the level "host".
 *
 * Under soft the host matters only for instructions that are executed natively: vectors, x87,
 * CMPXCHG16B, bit counts, BMI (tools/check.py compares the rows of x86/level.c with the objects).
 * Everything else is emulated and may be offered anywhere. So "host" is v3's identity and emulated
 * features, plus PCID, INVPCID, UMIP, RDSEED, CLWB and RDPID which the emulator has too, plus those
 * native features that the host has and the emulator knows how to call. Vendor, family and model stay
 * v3's: the host's own would make kernels read its model-specific registers and take up mitigations
 * for leaks that soft does not have.
 */
#include "core/mem.h"
#include "isa/x86.h"
#include "x86/cpuid_bits.h"
#include "x86/level.h"

static void host_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
                     : "a"(leaf), "c"(subleaf));
}

/* What has been asked of the host: in a virtual machine each CPUID may cost as much as a system call, or ten. */
struct host {
    uint32_t highest[2]; /* basic leaf, extended leaf */
    bool saves_ymm;      /* its system saves the upper halves of YMM registers */
    uint32_t leaf, subleaf, out[4]; /* asked last */
};

static void ask(struct host *h, uint32_t leaf, uint32_t subleaf)
{
    if (h->leaf == leaf && h->subleaf == subleaf)
        return;
    host_cpuid(leaf, subleaf, h->out);
    h->leaf = leaf;
    h->subleaf = subleaf;
}

static struct host host_look(void)
{
    struct host h;
    uint32_t low, high, out[4];
    host_cpuid(0x80000000, 0, out);
    h.highest[1] = out[0];
    host_cpuid(0, 0, out);
    h.highest[0] = out[0];
    host_cpuid(1, 0, h.out);
    h.leaf = 1;
    h.subleaf = 0;
    h.saves_ymm = false;
    if (h.out[2] & CPUID_1C_OSXSAVE) {
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        h.saves_ymm = (low & (X86_XCR0_SSE | X86_XCR0_AVX)) == (X86_XCR0_SSE | X86_XCR0_AVX);
    }
    return h;
}

static bool host_has(struct host *h, const struct x86_feature_bit *b)
{
    if (b->leaf > h->highest[b->leaf >> 31] || (b->ymm && !h->saves_ymm))
        return false;
    ask(h, b->leaf, b->subleaf);
    return h->out[b->reg] >> b->bit & 1;
}

const char *x86_level_missing(const struct x86_level *level)
{
    size_t count;
    const struct x86_feature_bit *bits = x86_feature_bits(&count);
    struct host host = host_look();
    for (size_t i = 0; i < count; i++) {
        const struct x86_feature_bit *b = &bits[i];
        if (b->native && x86_level_has(level, (enum insn_feature)b->feature) && !host_has(&host, b))
            return b->name;
    }
    return NULL;
}

static struct x86_cpuid_row *find_row(struct x86_level *level, uint32_t leaf, uint32_t subleaf)
{
    const struct x86_cpuid_row *r = x86_level_row(level, leaf, subleaf);
    return r ? &level->row[r - level->row] : NULL;
}

/* Sets or clears a feature in the level's mask and in its CPUID row. */
static void set_feature(struct x86_level *level, const struct x86_feature_bit *b, bool on)
{
    struct x86_cpuid_row *row = find_row(level, b->leaf, b->subleaf);
    if (!row)
        return;
    uint32_t *const reg[4] = {&row->eax, &row->ebx, &row->ecx, &row->edx};
    uint32_t bit = CPUID_BIT(b->bit);
    *reg[b->reg] = on ? *reg[b->reg] | bit : *reg[b->reg] & ~bit;
    uint64_t feature = BIT(b->feature);
    level->insn_features = on ? level->insn_features | feature : level->insn_features & ~feature;
}

/* Emulated features that v3 leaves out. */
static bool is_extra(uint8_t feature)
{
    return feature == INSN_FEATURE_INVPCID || feature == INSN_FEATURE_RDPID ||
           feature == INSN_FEATURE_CLWB || feature == INSN_FEATURE_RDSEED;
}

/* AVX went: so do its state component and what leaf D says of it. */
static void drop_avx_state(struct x86_level *level)
{
    level->xcr0_mask &= ~X86_XCR0_AVX;
    struct x86_cpuid_row *row = find_row(level, 0xD, 0);
    if (row) {
        row->eax = (uint32_t)level->xcr0_mask;
        row->ebx = row->ecx = 576;
    }
    row = find_row(level, 0xD, 2);
    if (row)
        row->eax = row->ebx = 0;
}

void x86_level_host(struct x86_level *out)
{
    const struct x86_level *base = x86_level_find("v3");
    size_t count;
    const struct x86_feature_bit *bits = x86_feature_bits(&count);
    struct host host = host_look();
    *out = *base;
    (void)str_copy(out->name, sizeof(out->name), "host");
    for (size_t i = 0; i < count; i++) {
        const struct x86_feature_bit *b = &bits[i];
        if (b->native)
            set_feature(out, b, host_has(&host, b));
        else if (is_extra(b->feature))
            set_feature(out, b, true);
    }
    /* Without AVX nothing of VEX may be there. */
    if (!x86_level_has(out, INSN_FEATURE_AVX))
        drop_avx_state(out);

    struct x86_cpuid_row *row = find_row(out, 1, 0);
    row->ecx |= CPUID_1C_PCID;
    row = find_row(out, 7, 0);
    row->ecx |= CPUID_7C_UMIP;
    row = find_row(out, 0x80000003, 0);
    row->eax = 'U' | ' ' << 8 | 'h' << 16 | 'o' << 24;
    row->ebx = 's' | 't' << 8;
    out->cr4_mask |= X86_CR4_PCIDE | X86_CR4_UMIP;
    out->pcid = true;
}
