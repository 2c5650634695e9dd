/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * How emitted code reaches registers and memory. Nobody else emits an access to guest memory, so
 * another way to do it (a window of linear addresses, guest page tables mirrored by the host's MMU)
 * is another version of this file.
 *
 * The way here is a TLB lookup that touches no flag, since the guest's flags live in the host's:
 *
 *     lea   r11, [operand]             unless the operand is one register
 *     rorx  rcx, r11, 12
 *     movzx ecx, cx                    index: bits 12 to 27
 *     mov   r10, gs:[addend + rcx * 8]
 *     mov   rcx, gs:[tag + rcx * 8]    minus the page's linear address
 *     lea   rcx, [rcx + r11 + size - 1]
 *     shrx  rcx, rcx, r10              by 12: 0 if page and operand's end are right
 *     jrcxz hit
 *     call  gs:[stub miss]
 *  hit:                                operand: [r11 + r10 - 12]
 *
 * One subtraction checks page, canonical form (no entry has a non-canonical address) and that the
 * operand does not cross into the next page. Addends are multiples of the page size plus 12, so they
 * serve as count, too.
 *
 * An operand that has to be aligned to 2^n bytes cannot cross. There size is left out, and the offset
 * is rotated right by n before it is shifted: what would be misaligned is at the top then, and what
 * is shifted out besides the offset is n bits of the index, which are right in any entry.
 *
 * What misses is filled and tried again, from the first instruction of the access, or interpreted.
 */
#include "core/assert.h"
#include "engine/soft/translator.h"

#define NONE EMIT_NO_REG
const uint8_t tr_host_of[16] = {RAX, R14, RDX, RBX, R15,  RBP,  RSI, RDI,
                                R8,  R9,  NONE, NONE, R12, R13, NONE, NONE};
#undef NONE

/* --- registers --- */

struct emit_mem tr_slot(uint8_t guest)
{
    unsigned int n = guest >= R14 ? guest - R14 + 2u : guest - (unsigned int)R10;
    return emit_frame(offsetof(struct frame, displaced) + 8 * n);
}

uint8_t tr_use(struct translation *x, uint8_t g, uint8_t scratch)
{
    if (g >= 16)
        return g; /* AH DH BH; who gets here has checked (tr_int.c) */
    if (!tr_is_displaced(g))
        return tr_host_of[g];
    emit_load(&x->e, scratch, tr_slot(g));
    return scratch;
}

uint8_t tr_target(uint8_t g, uint8_t scratch)
{
    if (g >= 16)
        return g;
    return tr_is_displaced(g) ? scratch : tr_host_of[g];
}

void tr_put(struct translation *x, uint8_t g, uint8_t host)
{
    if (g < 16 && tr_is_displaced(g))
        emit_store(&x->e, tr_slot(g), host);
}

/* --- addresses --- */

static bool fits_int32(int64_t v)
{
    return v == (int32_t)v;
}

/* Without a segment's base. */
static bool effective_offset(struct translation *x, uint8_t *reg)
{
    const struct insn *i = x->i;
    struct emit *e = &x->e;
    bool wide = i->addrsize == 8;
    *reg = R11;
    if (i->flags & INSN_MOFFS) {
        emit_mov_imm(e, R11, wide ? i->imm : (uint32_t)i->imm);
        return true;
    }
    if (i->flags & INSN_RIPREL) {
        int64_t d = (int64_t)i->disp + x->at + i->length;
        if (!fits_int32(d))
            return false;
        emit_load(e, R11, emit_frame(offsetof(struct frame, page)));
        emit_rm(e, 0x8D, wide ? EMIT_W : 0, R11, emit_at(R11, (int32_t)d));
        return true;
    }
    if (i->base == INSN_NO_REG && i->index == INSN_NO_REG) {
        uint64_t a = (uint64_t)(int64_t)i->disp;
        emit_mov_imm(e, R11, wide ? a : (uint32_t)a);
        return true;
    }
    struct emit_mem m = {EMIT_NO_REG, EMIT_NO_REG, i->scale, false, i->disp};
    if (i->index != INSN_NO_REG)
        m.index = tr_use(x, i->index, RCX);
    if (i->base != INSN_NO_REG)
        m.base = tr_use(x, i->base, R11);
    if (wide && m.index == EMIT_NO_REG && m.disp == 0) {
        *reg = m.base;
        return true;
    }
    emit_rm(e, 0x8D, wide ? EMIT_W : 0, R11, m);
    return true;
}

bool tr_effective(struct translation *x, uint8_t *reg)
{
    if (!effective_offset(x, reg))
        return false;
    if (x->i->seg < SEG_FS)
        return true;
    size_t base = offsetof(struct frame, segment_base) + 8u * (x->i->seg - SEG_FS);
    emit_load(&x->e, RCX, emit_frame(base));
    emit_lea(&x->e, R11, emit_indexed(*reg, RCX, 0, 0));
    *reg = R11;
    return true;
}

/* --- the lookup --- */

#define OP_RORX EMIT_OP(0xF2, 3, 0xF0)
#define OP_SHRX EMIT_OP(0xF2, 2, 0xF7)

/* `a`: host register with the linear address; `guest`: its guest register, or EMIT_NO_REG. R10: addend */
static void find_addend(struct translation *x, const uint8_t *retry, uint8_t a, uint8_t guest,
                        uint32_t size, bool write, uint32_t align)
{
    struct emit *e = &x->e;
    assert(align <= FRAME_ALIGN_MAX);
    size_t tlb = offsetof(struct frame, tlb) + x->context * sizeof(struct frame_tlb);
    size_t tags = write ? offsetof(struct frame_tlb, write) : offsetof(struct frame_tlb, read);
    emit_vex_rr(e, OP_RORX, true, false, RCX, 0, a);
    emit8(e, PAGE_SHIFT);
    emit_rr(e, EMIT_OP(0, 1, 0xB7), 0, RCX, RCX);
    emit_load(e, R10, emit_frame_indexed(RCX, 3, tlb + offsetof(struct frame_tlb, addend)));
    emit_load(e, RCX, emit_frame_indexed(RCX, 3, tlb + tags));
    emit_lea(e, RCX, emit_indexed(RCX, a, 0, align > 1 ? 0 : (int32_t)size - 1));
    if (align > 1) {
        emit_vex_rr(e, OP_RORX, true, false, RCX, 0, RCX);
        emit8(e, (unsigned int)__builtin_ctz(align));
    }
    emit_vex_rr(e, OP_SHRX, true, false, RCX, R10, RCX);
    uint8_t *hit = emit_jrcxz(e);
    struct tsite *s = tr_call_stub(x, STUB_MISS);
    s->miss.retry = (uint16_t)(e->p - retry);
    s->miss.reg = guest;
    s->miss.write = write;
    emit_patch8(hit, e->p);
}

static void lookup(struct translation *x, const uint8_t *retry, uint8_t a, uint8_t guest,
                   uint32_t size, bool write, uint32_t align, struct emit_mem *m)
{
    find_addend(x, retry, a, guest, size, write, align);
    *m = emit_indexed(a, R10, 0, -FRAME_TLB_BIAS);
}

void tr_lookup_span(struct translation *x, uint8_t a, uint32_t size, bool write)
{
    assert(size > 0 && size <= PAGE_SIZE / 2);
    find_addend(x, x->e.p, a, EMIT_NO_REG, size, write, 1);
}

/* The register that has the addend of a loop's group. R11 only if the address does not need it. */
static uint8_t group_addend(struct translation *x, uint8_t group, bool r11)
{
    uint8_t kept = x->kept[0].group == group ? R10 : R11;
    if (x->keeps && x->kept[kept - R10].group == group && (r11 || kept == R10)) {
        x->kept_used |= 1u << (kept - R10);
        return kept;
    }
    uint8_t reg = x->keeps && r11 && group == 0 ? R11 : R10;
    emit_load(&x->e, reg, emit_frame(offsetof(struct frame, loop_addend) + 8u * group));
    x->addend_loaded = true;
    x->kept[reg - R10] = (struct tkept){group, x->e.p};
    if (reg == R11)
        x->kept_used |= 1u << 1;
    return reg;
}

/* An operand in the page of a loop's group. */
static bool memory_in_group(struct translation *x, uint8_t group, struct emit_mem *m)
{
    const struct insn *i = x->i;
    int64_t disp = (int64_t)i->disp - FRAME_TLB_BIAS;
    bool based = i->base != INSN_NO_REG && i->index == INSN_NO_REG && !tr_is_displaced(i->base);
    uint8_t a;
    if (based && i->seg < SEG_FS && fits_int32(disp)) {
        *m = emit_indexed(tr_host_of[i->base], group_addend(x, group, true), 0, (int32_t)disp);
        return true;
    }
    if (!tr_effective(x, &a))
        return false;
    *m = emit_indexed(a, group_addend(x, group, false), 0, -FRAME_TLB_BIAS);
    return true;
}

bool tr_memory(struct translation *x, uint32_t size, bool write, uint32_t align, struct emit_mem *m)
{
    const uint8_t *retry = x->e.p;
    struct taccess *access = &x->access[x->n];
    uint8_t a;
    if (!x->elsewhere)
        *access = (struct taccess){(uint8_t)size, (uint8_t)align, TACCESS_ALONE, write};
    else if (access->group != TACCESS_ALONE)
        return memory_in_group(x, access->group, m);
    if (!tr_effective(x, &a))
        return false;
    uint8_t guest = a == R11 ? EMIT_NO_REG : x->i->base;
    lookup(x, retry, a, guest, size, write, align, m);
    return true;
}

void tr_memory_found(struct translation *x, const uint8_t *retry, uint32_t size, bool write,
                     uint32_t align, struct emit_mem *m)
{
    lookup(x, retry, R11, EMIT_NO_REG, size, write, align, m);
}

void tr_memory_at(struct translation *x, uint8_t guest, int32_t disp, uint32_t size, bool write,
                  struct emit_mem *m)
{
    const uint8_t *retry = x->e.p;
    uint8_t a = tr_host_of[guest];
    if (disp == 0) {
        lookup(x, retry, a, guest, size, write, 1, m);
        return;
    }
    emit_lea(&x->e, R11, emit_at(a, disp));
    lookup(x, retry, R11, EMIT_NO_REG, size, write, 1, m);
}
