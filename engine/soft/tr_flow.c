/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Control flow.
 *
 * Inside a page a jump is a jump, from the displacement that is patched once the target is
 * translated: same page, so same mapping, same mode, nothing to check. To another page, or to where
 * a register says, it goes through the jump cache, which is emptied with the TLB: so a chain across
 * pages is checked each time that it is taken.
 *
 * Polls. A loop has a backward jump inside a page, or goes through the jump cache; the former polls
 * in front of the jump, the latter ends in a block's first entry, which polls. Between two polls lie
 * a page's worth of forward jumps at most. If what sets the flags of the backward jump comes right
 * before it, the poll goes before both, so that the host decodes them as one, as it does without us.
 *
 * A CALL finds its stack slot and its target first, and writes and moves the stack pointer when
 * nothing can fail any more.
 */
#include "core/mem.h"
#include "engine/soft/translator.h"

static bool is_in_page(uint64_t target)
{
    return target < PAGE_SIZE;
}

static uint64_t branch_target(const struct translation *x)
{
    return x->at + x->i->length + x->i->imm;
}

static void record_exit(struct translation *x, uint8_t *patch, uint64_t target)
{
    x->exit[x->exits++] = (struct texit){
        .patch = patch,
        .target = target,
        .guest = x->at,
        .length = x->i->length,
        .live = x->vectors_known,
    };
}

/* --- the jump cache --- */

struct emit_mem tr_jump_entry(const struct translation *x, bool cross, uint8_t index, size_t member)
{
    unsigned int table = x->context + (cross ? (unsigned int)FRAME_CROSS : 0);
    size_t at = offsetof(struct frame, jump) + table * sizeof(struct frame_jump) * FRAME_INDEXES;
    return emit_frame_indexed(index, 3, at + member);
}

/* RIP in R11: leaves the index for tr_jump_entry in reg. */
static void jump_index(struct translation *x, uint8_t reg)
{
    emit_vex_rr(&x->e, EMIT_OP(0xF2, 3, 0xF0), true, false, reg, 0, R11); /* rorx */
    emit8(&x->e, PAGE_SHIFT);
    emit_lea(&x->e, reg, emit_indexed(reg, R11, 0, 0));
    emit_rr(&x->e, EMIT_OP(0, 1, 0xB7), 0, reg, reg);
    emit_rm(&x->e, 0x8D, 0, reg, emit_indexed(reg, reg, 0, 0));
}

/* Leaves the block at RIP = page + target if there is no entry, else goes on. */
static void jump_compare(struct translation *x, bool cross, uint8_t index, enum frame_stub miss)
{
    struct emit *e = &x->e;
    emit_load(e, RCX, tr_jump_entry(x, cross, index, offsetof(struct frame_jump, minus_rip)));
    emit_lea(e, RCX, emit_indexed(RCX, R11, 0, 0));
    uint8_t *hit = emit_jrcxz(e);
    (void)tr_call_stub(x, miss);
    emit_patch8(hit, e->p);
}

static void jump_go(struct translation *x, uint8_t index)
{
    emit_jmp_mem(&x->e, tr_jump_entry(x, false, index, offsetof(struct frame_jump, code)));
}

void tr_jump_compare(struct translation *x, bool cross, enum frame_stub miss)
{
    jump_index(x, R10);
    jump_compare(x, cross, R10, miss);
}

static void jump_through_cache(struct translation *x, int32_t pop, enum frame_stub miss)
{
    tr_jump_compare(x, false, miss);
    if (pop)
        emit_lea(&x->e, tr_host_of[RSP], emit_at(tr_host_of[RSP], pop));
    jump_go(x, R10);
}

static bool load_target(struct translation *x, uint64_t target)
{
    if ((uint64_t)(int64_t)(int32_t)target != target)
        return false;
    emit_load(&x->e, R11, emit_frame(offsetof(struct frame, page)));
    emit_lea(&x->e, R11, emit_at(R11, (int32_t)target));
    return true;
}

/* --- jumps --- */

static bool is_far_offset(uint64_t target)
{
    return (uint64_t)(int64_t)(int32_t)target != target;
}

/* A poll in front of a backward jump, or of the instruction before; its slow way is behind the jump. */
static void poll_begin(struct translation *x)
{
    emit_load32(&x->e, RCX, emit_frame(offsetof(struct frame, go)));
    x->poll = emit_jrcxz(&x->e);
    x->poll_at = x->at;
}

static void poll_end(struct translation *x)
{
    uint16_t at = x->at;
    emit_patch8(x->poll, x->e.p);
    x->poll = NULL;
    x->at = x->poll_at;
    (void)tr_call_stub(x, STUB_POLL);
    x->at = at;
}

/* A jump back: the displacement at `patch` is completed by tr_finish_loop, or with the other exits. */
static void record_backward(struct translation *x, uint8_t *patch, uint64_t target)
{
    if (target == (x->b->host & ~PAGE_MASK) && !x->b->second)
        x->loop_patch = patch;
    else
        record_exit(x, patch, target);
}

/* Is there, at that offset in x->code, a Jcc that tr_jcc will end the block with, after a poll? */
static bool is_backward_jcc(const struct translation *x, uint32_t at)
{
    const uint8_t *code = x->code + at;
    uint32_t have = at < x->code_size ? x->code_size - at : 0;
    int64_t target = (int64_t)(x->b->host & ~PAGE_MASK) + at, here = target;
    if (have >= 2 && (code[0] & 0xF0) == 0x70)
        target += 2 + (int8_t)code[1];
    else if (have >= 6 && code[0] == 0x0F && (code[1] & 0xF0) == 0x80)
        target += 6 + (int32_t)load_u32(code + 2);
    else
        return false;
    return target >= 0 && target <= here;
}

/* Only before what is short, so that the poll reaches its slow way. */
void tr_poll_early(struct translation *x, uint32_t next)
{
    if (insn_op_group((enum insn_op)x->i->op) != INSN_GROUP_ALU || x->i->flags & INSN_MEM ||
        x->shadow || !is_backward_jcc(x, next))
        return;
    poll_begin(x);
}

static bool tr_jcc(struct translation *x)
{
    uint64_t target = branch_target(x);
    unsigned int condition = x->i->opcode & 15;
    if (x->i->opsize != 8 || is_far_offset(target))
        return false;
    if (!is_in_page(target) || target > x->at) {
        record_exit(x, emit_jcc(&x->e, condition), target);
        return true;
    }
    if (!x->poll)
        poll_begin(x);
    record_backward(x, emit_jcc(&x->e, condition), target);
    x->loop_end = x->e.p;
    tr_fall_through(x, (uint32_t)x->at + x->i->length);
    poll_end(x);
    return true;
}

static bool tr_jmp(struct translation *x)
{
    uint64_t target = branch_target(x);
    if (x->i->opsize != 8 || is_far_offset(target))
        return false;
    x->ended = true;
    if (!is_in_page(target)) {
        (void)load_target(x, target);
        jump_through_cache(x, 0, STUB_BRANCH);
        return true;
    }
    if (target > x->at) {
        record_exit(x, emit_jmp(&x->e), target);
        return true;
    }
    poll_begin(x);
    record_backward(x, emit_jmp(&x->e), target);
    poll_end(x);
    return true;
}

static void target_from_register(struct translation *x)
{
    uint8_t r = tr_use(x, x->i->rm, R11);
    if (r != R11)
        emit_mov(&x->e, R11, r);
}

/* JMP r/m */
static bool tr_jmp_rm(struct translation *x)
{
    const struct insn *i = x->i;
    if (i->opsize != 8)
        return false;
    if (i->flags & INSN_MEM) {
        struct emit_mem m;
        if (!tr_memory(x, 8, false, 1, &m))
            return false;
        emit_load(&x->e, R11, m);
    } else {
        target_from_register(x);
    }
    jump_through_cache(x, 0, STUB_BRANCH);
    x->ended = true;
    return true;
}

/* --- calls --- */

static void store_return_address(struct translation *x, struct emit_mem m)
{
    emit_load(&x->e, RCX, emit_frame(offsetof(struct frame, page)));
    emit_lea(&x->e, RCX, emit_at(RCX, x->at + x->i->length));
    emit_store(&x->e, m, RCX);
}

static bool call_in_page(struct translation *x, uint64_t target)
{
    struct emit_mem m;
    uint8_t *slow = NULL;
    bool backward = target <= x->at;
    if (backward) { /* over a call of the stub, since what follows is long */
        emit_load32(&x->e, RCX, emit_frame(offsetof(struct frame, go)));
        slow = emit_jrcxz(&x->e);
        emit8(&x->e, 0xEB);
        emit8(&x->e, 0);
        uint8_t *over = x->e.p - 1;
        emit_patch8(slow, x->e.p);
        (void)tr_call_stub(x, STUB_POLL);
        emit_patch8(over, x->e.p);
    }
    tr_memory_at(x, RSP, -8, 8, true, &m);
    store_return_address(x, m);
    emit_mov(&x->e, tr_host_of[RSP], R11);
    record_exit(x, emit_jmp(&x->e), target);
    return true;
}

/* The stack slot is found; its host address is to be in R10, the target in R11. */
static void call_through_cache(struct translation *x)
{
    jump_index(x, RCX);
    jump_compare(x, false, RCX, STUB_BRANCH);
    store_return_address(x, emit_at(R10, 0));
    emit_lea(&x->e, tr_host_of[RSP], emit_at(tr_host_of[RSP], -8));
    jump_index(x, R10);
    jump_go(x, R10);
}

static void find_stack_slot(struct translation *x)
{
    struct emit_mem m;
    tr_memory_at(x, RSP, -8, 8, true, &m);
    emit_lea(&x->e, R10, m);
}

static bool tr_call(struct translation *x)
{
    uint64_t target = branch_target(x);
    if (x->i->opsize != 8 || is_far_offset(target))
        return false;
    x->ended = true;
    if (is_in_page(target))
        return call_in_page(x, target);
    find_stack_slot(x);
    (void)load_target(x, target);
    call_through_cache(x);
    return true;
}

static bool tr_call_rm(struct translation *x)
{
    const struct insn *i = x->i;
    struct emit_mem kept = emit_frame(offsetof(struct frame, kept));
    if (i->opsize != 8)
        return false;
    if (i->flags & INSN_MEM) {
        struct emit_mem m;
        if (!tr_memory(x, 8, false, 1, &m))
            return false;
        emit_load(&x->e, RCX, m);
        emit_store(&x->e, kept, RCX);
        find_stack_slot(x);
        emit_load(&x->e, R11, kept);
    } else {
        find_stack_slot(x);
        target_from_register(x);
    }
    call_through_cache(x);
    x->ended = true;
    return true;
}

static bool tr_ret(struct translation *x)
{
    struct emit_mem m;
    if (x->i->opsize != 8)
        return false;
    tr_memory_at(x, RSP, 0, 8, false, &m);
    emit_load(&x->e, R11, m);
    jump_through_cache(x, 8 + (int32_t)(x->i->imm & 0xFFFF), STUB_BRANCH);
    x->ended = true;
    return true;
}

tr_fn *tr_find_flow(const struct insn *i)
{
    static tr_fn *const table[] = {
        [INSN_JCC - INSN_JCC] = tr_jcc,         [INSN_JMP - INSN_JCC] = tr_jmp,
        [INSN_JMP_RM - INSN_JCC] = tr_jmp_rm,   [INSN_CALL - INSN_JCC] = tr_call,
        [INSN_CALL_RM - INSN_JCC] = tr_call_rm, [INSN_RET - INSN_JCC] = tr_ret,
    };
    unsigned int n = (unsigned int)(i->op - INSN_JCC);
    return n < ARRAY_SIZE(table) ? table[n] : NULL;
}

/* --- a block's end --- */

void tr_fall_through(struct translation *x, uint32_t offset)
{
    record_exit(x, emit_jmp(&x->e), offset);
    x->exit[x->exits - 1].falls = true;
    x->ended = true;
}

/* The body to go to at once, if the target is translated. */
static const uint8_t *known_target(const struct translation *x, uint64_t target, bool live)
{
    uint64_t page = x->b->host & PAGE_MASK;
    if (page + target == x->b->host)
        return x->base + tblock_target(x->b, live);
    const struct tblock *b = tblock_find(x->t, page + target, x->mode);
    return b ? x->base + tblock_target(b, live) : NULL;
}

static void finish_exit(struct translation *x, const struct texit *exit)
{
    const uint8_t *known = is_in_page(exit->target) ? known_target(x, exit->target, exit->live) : NULL;
    if (known) {
        emit_patch(exit->patch, known);
        return;
    }
    emit_patch(exit->patch, x->e.p);
    x->at = exit->guest;
    if (is_in_page(exit->target)) {
        struct tsite *s = tr_call_stub(x, STUB_CHAIN);
        s->guest = (uint16_t)exit->target;
        s->live = exit->live;
        s->patch = (uint32_t)(exit->patch - x->base);
        return;
    }
    (void)load_target(x, exit->target);
    uint32_t first = x->t->site_count;
    jump_through_cache(x, 0, exit->falls ? STUB_POLL : STUB_BRANCH);
    struct tsite *s = &x->t->sites[first];
    s->length = exit->length;
    if (exit->falls)
        s->guest = (uint16_t)exit->target; /* the next page's beginning */
}

void tr_finish_exits(struct translation *x)
{
    for (uint32_t n = 0; n < x->exits; n++)
        finish_exit(x, &x->exit[n]);
}
