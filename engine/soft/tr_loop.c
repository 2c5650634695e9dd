/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Loops: one check of addresses for several rounds.
 *
 * What a memory operand costs is its lookup (tr_mem.c), and in a loop it is the same lookup again and
 * again: an array is walked in steps, so a few rounds stay in a page. A block that ends with a jump to
 * its own beginning gets, behind its ordinary code, a second version of itself:
 *
 *     slow: jmp   ordinary
 *     head: poll, or slow
 *           for each group of operands: lookup of the lowest byte that the coming ROUNDS rounds
 *               access; if it misses, or the highest is not in the same page: jmp ordinary
 *               mov gs:[loop_addend + n], addend  unless none is loaded anew
 *           ROUNDS copies of the body. An operand of group n is
 *               mov r10, gs:[loop_addend + n]
 *               op  [address + r10 - 12]
 *           jmp   head
 *
 * The ordinary code's jump back goes to the head. So one round is ordinary, then the copies take over,
 * and near a page's end they hand over to an ordinary round for a while.
 *
 * A group is operands with the same base, index and scale, whose registers are changed in the body by
 * nothing but additions of constants, or not at all: then where round k's operand lies is a matter of
 * arithmetic. Whatever is not known for certain to leave a register alone, or to add to all its 64
 * bits, makes it varying, and operands off varying registers are looked up as always. isa/effects.c
 * has what is known, and what it does not know makes the loop ordinary. A hostile guest reads this
 * too: an error there would be a way out, so the differential test holds it against each execution.
 * Sums are modulo 2^64 as the processor's; a group lies within a page, so what is between its lowest
 * and its highest byte cannot wrap. 32-bit additions do wrap, so they are varying.
 *
 * An operand that has to be aligned to be done inline (SSE, XCHG) is in a group only if steps keep it
 * so, and the head looks whether it is.
 *
 * If one or two groups' addends never have to be loaded anew, they are not stored either: the head leaves
 * them in R10 and R11.
 *
 * Whether R10 or R11 still has an addend from an instruction before is not left to those who translate
 * instructions, who use both as they like: the code that they have emitted is looked at, with the same
 * list. If a register that was relied on may have been written anywhere in it, it is emitted anew,
 * with the addend loaded into R10 where it is used (today's translators write none before they use it,
 * as DIV and MULX show, which write one afterwards).
 *
 * The copies have no stubs, so nothing can happen between head and jump that concerns the TLB: TLBs
 * change in stubs of their own vCPU only, or with all vCPUs at rest, which is at a poll
 * (code_pages.c). Where ordinary code would call a stub (a lookup that misses, a division that might
 * fault), a copy jumps to the same instruction in the ordinary code, where registers, flags and
 * memory mean the same, and that calls it. So do conditional jumps out of the loop. Therefore the copies
 * need no table of sites and no exits, and what can be seen at a stub is as exact as ever.
 */
#include "core/assert.h"
#include "core/mem.h"
#include "engine/soft/translator.h"

enum {
    COPIES_INSNS = 48,     /* guest instructions in all copies, at most */
    ROUNDS_MOST = 8,
    LOOP_BYTES = 4096,     /* of host code, at most */
    SPAN_MOST = 2048,      /* of a group, in all rounds: more would miss too often */
    SPAN_STANDING = 256,   /* the same of operands that do not move: they might lie across pages for good */
};

/* --- the body --- */

/* What the rounds do to registers. */
struct motion {
    uint16_t varying;
    int32_t step[16]; /* in a round; no matter for what varies */
    int32_t before[TBLOCK_INSNS][16]; /* in a round, before an instruction */
};

static bool is_small(int64_t v)
{
    return v > -SPAN_MOST && v < SPAN_MOST;
}

/* What the block's instruction n is, into x. */
static void decode(struct translation *x, uint32_t n)
{
    uint32_t offset = (uint32_t)x->code_at[n].guest - (uint32_t)(x->b->host & ~PAGE_MASK);
    int result = insn_decode(&x->insn, x->code + offset, x->code_size - offset, INSN_MODE_64);
    assert(result == INSN_DECODE_OK);
    (void)result;
    x->i = &x->insn;
    x->at = x->code_at[n].guest;
    x->n = n;
}

/* False: something does what is not known. */
static bool study(struct translation *x, struct motion *motion)
{
    int32_t sum[16] = {0};
    motion->varying = 0;
    for (uint32_t n = 0; n < x->b->insns; n++) {
        uint16_t written;
        memcpy(motion->before[n], sum, sizeof(sum));
        decode(x, n);
        if (!insn_gpr_writes(x->i, &written) || x->i->flags & INSN_LOCK)
            return false;
        int64_t step = insn_gpr_step(x->i);
        for (unsigned int r = 0; r < 16; r++) {
            if (!(written & 1u << r))
                continue;
            if (step == 0 || !is_small(step) || !is_small(sum[r] + step))
                motion->varying |= (uint16_t)(1u << r);
            else
                sum[r] += (int32_t)step;
        }
    }
    memcpy(motion->step, sum, sizeof(sum));
    return true;
}

/* --- groups of operands --- */

struct group {
    struct insn operand; /* the lowest that any round accesses */
    int64_t low, high;   /* of all rounds, from [base + index << scale] at the head; high is beyond */
    int32_t step;
    uint32_t align; /* of the lowest, and so of all */
    bool write;
};

struct loop {
    struct translation *x;
    uint32_t rounds;
    uint32_t groups;
    struct group group[FRAME_LOOP_ADDENDS];
    struct motion motion;
};

static bool moves_in_steps(const struct motion *m, uint8_t reg)
{
    return reg == INSN_NO_REG || !(m->varying & 1u << reg);
}

static int64_t sum_of(const struct insn *i, const int32_t *by_register)
{
    int64_t sum = 0;
    if (i->base != INSN_NO_REG)
        sum += by_register[i->base];
    if (i->index != INSN_NO_REG)
        sum += (int64_t)by_register[i->index] * (1 << i->scale);
    return sum;
}

static bool is_same_place(const struct insn *a, const struct insn *b)
{
    return a->base == b->base && a->index == b->index && (a->index == INSN_NO_REG || a->scale == b->scale) &&
           a->seg == b->seg && !((a->flags ^ b->flags) & INSN_RIPREL);
}

static bool can_join(const struct group *g, const struct insn *i, const struct group *other)
{
    int64_t low = g->low < other->low ? g->low : other->low;
    int64_t high = g->high > other->high ? g->high : other->high;
    return is_same_place(&g->operand, i) && g->align == other->align &&
           (g->low - other->low) % (int64_t)g->align == 0 &&
           high - low <= (g->step == 0 ? SPAN_STANDING : SPAN_MOST);
}

/* The operand of the instruction in x as a group of its own. */
static bool operand_group(const struct loop *l, struct group *g)
{
    const struct translation *x = l->x;
    const struct insn *i = x->i;
    const struct taccess *a = &x->access[x->n];
    if (!a->size || i->addrsize != 8 || i->flags & INSN_MOFFS || !moves_in_steps(&l->motion, i->base) ||
        !moves_in_steps(&l->motion, i->index))
        return false;
    int64_t step = sum_of(i, l->motion.step), rest = step * (int64_t)(l->rounds - 1);
    int64_t first = i->disp + sum_of(i, l->motion.before[x->n]);
    if (i->flags & INSN_RIPREL)
        first += x->at + i->length;
    *g = (struct group){
        .operand = *i,
        .low = first + (rest < 0 ? rest : 0),
        .high = first + (rest > 0 ? rest : 0) + a->size,
        .step = (int32_t)step,
        .align = a->align,
        .write = a->write,
    };
    return is_small(step) && g->high - g->low <= SPAN_MOST && step % (int64_t)a->align == 0 &&
           g->low == (int32_t)g->low && g->high == (int32_t)g->high;
}

static void find_groups(struct loop *l)
{
    struct translation *x = l->x;
    l->groups = 0;
    for (uint32_t n = 0; n < x->b->insns; n++) {
        struct group one;
        x->access[n].group = TACCESS_ALONE;
        if (!x->access[n].size)
            continue;
        decode(x, n);
        if (!operand_group(l, &one))
            continue;
        uint32_t k = 0;
        while (k < l->groups && !can_join(&l->group[k], x->i, &one))
            k++;
        if (k == FRAME_LOOP_ADDENDS)
            continue;
        struct group *g = &l->group[k];
        x->access[n].group = (uint8_t)k;
        if (k == l->groups) {
            *g = one;
            l->groups++;
            continue;
        }
        g->low = one.low < g->low ? one.low : g->low;
        g->high = one.high > g->high ? one.high : g->high;
        g->write |= one.write;
    }
}

/* --- code --- */

#define OP_SHLX EMIT_OP(0x66, 2, 0xF7)

static void go_ordinary(struct translation *x)
{
    emit_patch(emit_jmp(&x->e), x->elsewhere);
}

/* Leaves the addend in R10, and (store) in the frame. */
static bool check_group(struct translation *x, struct group *g, uint32_t n, bool store)
{
    struct emit *e = &x->e;
    g->operand.disp = (int32_t)g->low;
    g->operand.length = 0;
    x->i = &g->operand;
    x->at = 0;
    uint8_t a;
    if (!tr_effective(x, &a) || (a == R11 && n > 0 && !store))
        return false;
    tr_lookup_span(x, a, (uint32_t)(g->high - g->low), g->write);
    if (store)
        emit_store(e, emit_frame(offsetof(struct frame, loop_addend) + 8 * n), R10);
    if (g->align > 1) { /* nothing but the low bits */
        emit_mov_imm(e, RCX, 64 - (uint64_t)__builtin_ctz(g->align));
        emit_vex_rr(e, OP_SHLX, true, false, RCX, RCX, a);
        uint8_t *aligned = emit_jrcxz(e);
        go_ordinary(x);
        emit_patch8(aligned, e->p);
    }
    return true;
}

static void keep_nothing(struct translation *x)
{
    x->kept[0].group = x->kept[1].group = TACCESS_ALONE;
}

/* Looks at the code from `p` on, an instruction's: what it may have written is kept no more. False: that
 * is so of a register that tr_memory has relied on. */
static bool look_what_is_kept(struct translation *x, const uint8_t *p)
{
    unsigned int lost = 0;
    while (p < x->e.p) {
        struct insn i;
        uint16_t written;
        if (insn_decode(&i, p, (size_t)(x->e.p - p), INSN_MODE_64) != INSN_DECODE_OK ||
            !insn_gpr_writes(&i, &written) || i.op == INSN_JCC || i.op == INSN_JMP) {
            lost = BIT(ARRAY_SIZE(x->kept)) - 1; /* behind a jump it is not known what was executed */
            break;
        }
        for (unsigned int k = 0; k < ARRAY_SIZE(x->kept); k++)
            if (written & 1u << (R10 + k) && p >= x->kept[k].since)
                lost |= 1u << k;
        p += i.length;
    }
    for (unsigned int k = 0; k < ARRAY_SIZE(x->kept); k++)
        if (lost & 1u << k)
            x->kept[k].group = TACCESS_ALONE;
    return !(lost & x->kept_used);
}

/* Emits the instruction in x, if it can with addends that were kept. */
static bool emit_keeping(struct translation *x, tr_fn *fn)
{
    const struct emit before = x->e;
    const bool vectors_known = x->vectors_known;
    x->keeps = true;
    x->kept_used = 0;
    x->kept[0].since = x->kept[1].since = before.p;
    if (!fn(x))
        return false;
    if (look_what_is_kept(x, before.p))
        return true;
    x->e = before;
    x->vectors_known = vectors_known;
    keep_nothing(x);
    x->keeps = false;
    if (!fn(x))
        return false;
    (void)look_what_is_kept(x, before.p);
    return true;
}

/* Of a copy. */
static bool emit_insn(struct translation *x, uint32_t n)
{
    decode(x, n);
    x->elsewhere = x->code_at[n].code;
    if (x->i->op == INSN_JCC) {
        bool last = n + 1 == x->b->insns;
        unsigned int condition = x->i->opcode & 15;
        emit_patch(emit_jcc(&x->e, last ? condition ^ 1 : condition), last ? x->loop_end : x->elsewhere);
        return true;
    }
    if (x->i->op == INSN_JMP)
        return true;
    tr_fn *fn = tr_find(x);
    return fn && emit_keeping(x, fn);
}

/* The addends of one or two groups, left in registers. */
static bool check_groups_kept(struct loop *l)
{
    struct translation *x = l->x;
    if (l->groups > 2 || !check_group(x, &l->group[0], 0, false))
        return false;
    if (l->groups == 2) {
        emit_mov(&x->e, R11, R10);
        x->kept[1].group = 0;
        if (!check_group(x, &l->group[1], 1, false))
            return false;
    }
    x->kept[0].group = (uint8_t)(l->groups - 1);
    return true;
}

static bool check_groups(struct loop *l)
{
    for (uint32_t k = 0; k < l->groups; k++)
        if (!check_group(l->x, &l->group[k], k, true))
            return false;
    return true;
}

/* With `kept` the frame has no addends: false if an instruction needs one from there. */
static bool emit_loop(struct loop *l, const uint8_t *ordinary, bool kept)
{
    struct translation *x = l->x;
    struct emit *e = &x->e;
    x->elsewhere = ordinary;
    x->addend_loaded = false;
    keep_nothing(x);
    const uint8_t *slow = e->p;
    go_ordinary(x);
    const uint8_t *head = e->p;
    emit_load32(e, RCX, emit_frame(offsetof(struct frame, go)));
    emit_patch8(emit_jrcxz(e), slow);
    if (!(kept ? check_groups_kept(l) : check_groups(l)))
        return false;
    for (uint32_t round = 0; round < l->rounds; round++) {
        const uint8_t *counted = e->p;
        tr_count_instructions(x, x->b->insns);
        if (e->p != counted)
            keep_nothing(x);
        for (uint32_t n = 0; n < x->b->insns; n++)
            if (!emit_insn(x, n) || e->p - slow > LOOP_BYTES)
                return false;
        if (kept && x->addend_loaded)
            return false;
    }
    emit_patch(emit_jmp(e), head);
    emit_patch(x->loop_patch, head);
    return true;
}

static uint32_t rounds_of(uint32_t insns)
{
    uint32_t rounds = ROUNDS_MOST;
    while (rounds > 1 && rounds * insns > COPIES_INSNS)
        rounds /= 2;
    return rounds;
}

/* False: not worth it, nothing is left behind. */
static bool make_loop(struct translation *x, const uint8_t *ordinary)
{
    struct loop l = {.x = x, .rounds = rounds_of(x->b->insns)};
    const struct emit before = x->e;
    if (!x->plain || l.rounds < 2 || !study(x, &l.motion))
        return false;
    do {
        find_groups(&l);
    } while (l.groups == 0 && (l.rounds /= 2) > 1);
    if (l.groups == 0)
        return false;
    const bool vectors_known = x->vectors_known;
    if (!emit_loop(&l, ordinary, true)) {
        x->e = before;
        x->vectors_known = vectors_known;
        if (!emit_loop(&l, ordinary, false)) {
            x->e = before;
            return false;
        }
    }
    x->t->stats.loops++;
    x->t->stats.loop_bytes += (uint64_t)(x->e.p - before.p);
    return true;
}

void tr_finish_loop(struct translation *x)
{
    if (!x->loop_patch)
        return;
    /* Are vector registers loaded at the jump back? In copies more is known. */
    const bool vectors_known = x->vectors_known;
    const uint8_t *ordinary = x->base + tblock_target(x->b, vectors_known);
    emit_patch(x->loop_patch, ordinary);
    (void)make_loop(x, ordinary);
    x->vectors_known = vectors_known;
    x->elsewhere = NULL;
    x->i = &x->insn;
}
