/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * SIMD instructions that touch only some elements of their memory operand: MASKMOVQ, MASKMOVDQU,
 * VMASKMOVPx, VPMASKMOVx, and the gathers. They compute nothing, so they are written out here: the
 * guest's elements are not next to each other in host memory, and those that are masked off must
 * not fault (SDM 2, the instructions' own pages).
 *
 * Masked loads and stores fault as a whole: a store is checked for all its elements before the
 * first is written. A gather is restartable: what was loaded before a fault stays, with its mask
 * cleared, as the manual wants it.
 *
 * Alignment is never checked: "no #AC reported for any mask bit combinations" (SDM 2C, VMASKMOV),
 * "does not perform AC checks" (VGATHER).
 */
#include "x86/operand.h"
#include "x86/simd.h"

enum { VECTOR_MAX = 32 };

/* A vector register's bytes in one piece. */
static void get_vector(const struct x86_cpu *cpu, uint8_t n, uint8_t v[VECTOR_MAX])
{
    memcpy(v, cpu->fpu.xmm[n & 15], 16);
    memcpy(v + 16, cpu->fpu.ymm_high[n & 15], 16);
}

static void put_vector(struct x86_cpu *cpu, uint8_t n, const uint8_t v[VECTOR_MAX])
{
    memcpy(cpu->fpu.xmm[n & 15], v, 16);
    memcpy(cpu->fpu.ymm_high[n & 15], v + 16, 16);
}

static unsigned int vector_size(const struct insn *i)
{
    return i->flags & INSN_VEX_L ? 32 : 16;
}

/* Is the mask's element that starts at `at` set: its top bit? */
static bool is_selected(const uint8_t *mask, unsigned int at, unsigned int size)
{
    return mask[at + size - 1] & 0x80;
}

static int load_element(struct x86_cpu *cpu, uint8_t seg, uint64_t offset, uint8_t size,
                        uint8_t *value)
{
    uint64_t linear, v;
    void *host;
    int s = x86_linear(cpu, seg, offset, size, X86_READ, &linear);
    if (s == X86_OK)
        s = x86_mem_host(cpu, linear, size, X86_READ | X86_UNALIGNED, &host);
    if (s != X86_OK)
        return s;
    if (unlikely(!host))
        return x86_read_slow(cpu, linear, value, size, X86_READ | X86_UNALIGNED);
    v = operand_host_load(host, size);
    memcpy(value, &v, size);
    return X86_OK;
}

/* Writing one element would not fault. */
static int check_store(struct x86_cpu *cpu, uint8_t seg, uint64_t offset, uint8_t size)
{
    uint64_t linear;
    void *host;
    int s = x86_linear(cpu, seg, offset, size, X86_WRITE, &linear);
    if (s != X86_OK)
        return s;
    return x86_mem_host(cpu, linear, size, X86_WRITE | X86_UNALIGNED, &host);
}

static int store_element(struct x86_cpu *cpu, uint8_t seg, uint64_t offset, uint8_t size,
                         const uint8_t *value)
{
    uint64_t linear, v = 0;
    void *host;
    int s = x86_linear(cpu, seg, offset, size, X86_WRITE, &linear);
    if (s == X86_OK)
        s = x86_mem_host(cpu, linear, size, X86_WRITE | X86_UNALIGNED, &host);
    if (s != X86_OK)
        return s;
    if (unlikely(!host))
        return x86_write_slow(cpu, linear, value, size, X86_WRITE | X86_UNALIGNED);
    memcpy(&v, value, size);
    operand_host_store(host, size, v);
    x86_note_store(cpu, host);
    return X86_OK;
}

/*
 * Stores those elements of value[0..bytes) that mask selects. The offset of each is cut to the
 * address size, as processors do that store them one by one (seen on Zen 4, also that masked loads,
 * like all other operands, go on over 4 GiB in 64-bit mode).
 */
static int store_selected(struct x86_cpu *cpu, const struct insn *i, uint8_t seg, uint64_t offset,
                          uint8_t size, unsigned int bytes, const uint8_t *value,
                          const uint8_t *mask)
{
    const uint64_t cut = x86_size_mask(i->addrsize);
    for (unsigned int at = 0; at < bytes; at += size) {
        if (!is_selected(mask, at, size))
            continue;
        int s = check_store(cpu, seg, (offset + at) & cut, size);
        if (s != X86_OK)
            return s;
    }
    for (unsigned int at = 0; at < bytes; at += size) {
        if (!is_selected(mask, at, size))
            continue;
        int s = store_element(cpu, seg, (offset + at) & cut, size, value + at);
        if (s != X86_OK)
            return s;
    }
    return X86_OK;
}

/* --- MASKMOVQ, MASKMOVDQU: at DS:rDI, or another segment with a prefix --- */

static uint8_t string_segment(const struct insn *i)
{
    return i->flags & INSN_SEG_OVERRIDE ? i->seg : SEG_DS;
}

static int maskmovdqu(struct x86_cpu *cpu, const struct insn *i)
{
    int s = simd_check(cpu, i->flags & INSN_VEX);
    if (s != X86_OK)
        return s;
    return store_selected(cpu, i, string_segment(i), x86_get_gpr(cpu, RDI, i->addrsize), 1, 16,
                          cpu->fpu.xmm[i->reg & 15], cpu->fpu.xmm[i->rm & 15]);
}

/* MMn is the x87's physical register n, which the image has relative to TOP. */
static const uint8_t *mmx_register(const struct x86_cpu *cpu, uint8_t n)
{
    return cpu->fpu.st[(n - x87_top(&cpu->fpu)) & 7];
}

static int maskmovq(struct x86_cpu *cpu, const struct insn *i)
{
    int s = simd_check_mmx(cpu);
    if (s == X86_OK)
        s = store_selected(cpu, i, string_segment(i), x86_get_gpr(cpu, RDI, i->addrsize), 1, 8,
                           mmx_register(cpu, i->reg), mmx_register(cpu, i->rm));
    if (s == X86_OK)
        x87_enter_mmx(&cpu->fpu);
    return s;
}

/* --- VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ --- */

static uint8_t masked_element_size(const struct insn *i)
{
    bool wide = i->opcode < 0x80 ? i->opcode & 1 : (i->flags & INSN_REX_W) != 0;
    return wide ? 8 : 4;
}

static int masked_load(struct x86_cpu *cpu, const struct insn *i)
{
    uint8_t mask[VECTOR_MAX], result[VECTOR_MAX] = {0}, size = masked_element_size(i);
    uint64_t offset = x86_effective_address(cpu, i);
    int s = simd_check(cpu, true);
    if (s != X86_OK)
        return s;
    get_vector(cpu, i->vvvv, mask);
    for (unsigned int at = 0; at < vector_size(i); at += size) {
        if (is_selected(mask, at, size))
            s = load_element(cpu, i->seg, offset + at, size, result + at);
        if (s != X86_OK)
            return s;
    }
    put_vector(cpu, i->reg, result);
    return X86_OK;
}

static int masked_store(struct x86_cpu *cpu, const struct insn *i)
{
    uint8_t mask[VECTOR_MAX], value[VECTOR_MAX];
    int s = simd_check(cpu, true);
    if (s != X86_OK)
        return s;
    get_vector(cpu, i->vvvv, mask);
    get_vector(cpu, i->reg, value);
    return store_selected(cpu, i, i->seg, x86_effective_address(cpu, i), masked_element_size(i),
                          vector_size(i), value, mask);
}

/* --- gathers --- */

/* Opcode bit 0: indexes are quadwords; VEX.W: data are. */
struct gather {
    uint8_t index_size, data_size;
    unsigned int count;
    uint8_t index[VECTOR_MAX], mask[VECTOR_MAX], result[VECTOR_MAX];
};

static void gather_begin(struct x86_cpu *cpu, const struct insn *i, struct gather *g)
{
    g->index_size = i->opcode & 1 ? 8 : 4;
    g->data_size = i->flags & INSN_REX_W ? 8 : 4;
    g->count = vector_size(i) / (g->index_size > g->data_size ? g->index_size : g->data_size);
    get_vector(cpu, i->index, g->index);
    get_vector(cpu, i->vvvv, g->mask);
    get_vector(cpu, i->reg, g->result);
    /* elements of the mask become all ones or zero; the rest of both registers zero */
    unsigned int used = g->count * g->data_size;
    for (unsigned int at = 0; at < used; at += g->data_size) {
        bool selected = is_selected(g->mask, at, g->data_size);
        memset(g->mask + at, selected ? 0xFF : 0, g->data_size);
    }
    memset(g->mask + used, 0, VECTOR_MAX - used);
    memset(g->result + used, 0, VECTOR_MAX - used);
}

static int gather_element(struct x86_cpu *cpu, const struct insn *i, struct gather *g,
                          unsigned int n)
{
    const uint8_t *at = g->index + n * g->index_size;
    uint64_t index = g->index_size == 8 ? load_u64(at) : (uint64_t)(int32_t)load_u32(at);
    uint64_t offset = (uint64_t)(int64_t)i->disp + (index << i->scale);
    if (i->base != INSN_NO_REG)
        offset += cpu->gpr[i->base & 15];
    offset &= x86_size_mask(i->addrsize);
    return load_element(cpu, i->seg, offset, g->data_size, g->result + n * g->data_size);
}

int simd_op_gather(struct x86_cpu *cpu, const struct insn *i)
{
    struct gather g;
    int s = simd_check(cpu, true);
    if (s != X86_OK)
        return s;
    if (i->reg == i->index || i->reg == i->vvvv || i->index == i->vvvv || i->addrsize == 2 ||
        i->index == INSN_NO_REG)
        return x86_fault(cpu, X86_UD, 0);
    gather_begin(cpu, i, &g);
    for (unsigned int n = 0; s == X86_OK && n < g.count; n++) {
        unsigned int at = n * g.data_size;
        if (is_selected(g.mask, at, g.data_size))
            s = gather_element(cpu, i, &g, n);
        if (s == X86_OK)
            memset(g.mask + at, 0, g.data_size);
    }
    put_vector(cpu, i->reg, g.result);
    put_vector(cpu, i->vvvv, g.mask);
    return s;
}

x86_op_fn *simd_select_masked(const struct insn *i)
{
    if (i->map == 1)
        return i->simd & SIMD_MMX ? maskmovq : maskmovdqu;
    return i->simd & SIMD_MEM_WRITE ? masked_store : masked_load;
}
