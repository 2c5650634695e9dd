/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The translator of the soft engine: guest code of 64-bit mode becomes host code that does the same
 * inside the guest's memory.
 *
 * The guest's instructions are the host's, so most are emitted as they are. What changes:
 *
 *  - Registers. Twelve guest registers live in host registers, nearly all in their own; four live
 *    in memory (tr_mem.c has the map). Three host registers are scratch, one is Lodge's stack. GS
 *    is the frame (frame.h): everything that emitted code uses besides registers. The guest's status
 *    flags live in the host's; the other flags in cpu->rflags. So between two instructions, in
 *    emitted code, only flag-free instructions are used: LEA, MOV, MOVZX, RORX, PEXT, JRCXZ.
 *  - Memory operands go through a TLB (tr_mem.c), jumps through patched displacements or the jump
 *    cache (tr_flow.c).
 *  - Instructions that are privileged, sensitive, revealing or rare call a stub that saves registers
 *    and lets the interpreter's handler do that one instruction (stub.c).
 *
 * Exactness. Each instruction is emitted so that what can fail comes first: until the last check has
 * passed nothing that the guest can see has changed. Checks fail into a stub, never by a signal.
 * So at each stub the guest's state is that between two instructions, at an offset that the table of
 * sites has, and the interpreter takes over there: page faults, MMIO, page-crossing operands, split
 * locks, breakpoints, stores into code are all its business, done once, in one place.
 *
 * Blocks hold no address, neither of the host nor of the guest: RIP is frame.page plus a constant.
 * They are keyed by the page in guest RAM and the mode (translator.h), so one translation serves
 * all linear addresses where the page is mapped. A block is a run of instructions with one entry,
 * inside a page; conditional jumps leave it on the way.
 *
 * Modified code. Pages of which anything is translated are write-protected in all software TLBs
 * (soft_code.c); a store to one is done with all vCPUs at rest and drops the page's blocks: their
 * entries are overwritten by a call of the stale stub, so jumps to them, wherever they are, find out.
 * Code that is rewritten again and again is left to the interpreter, which compares bytes.
 *
 * The cache belongs to one vCPU and is filled front to back. When it is full all of it is dropped,
 * which stops nobody else.
 */
#include "core/assert.h"
#include "core/fmt.h"
#include "core/mem.h"
#include "engine/soft/translator.h"
#include "x86/level.h"
#include "x86/mem.h"

/* Where in its cache lines a block stands matters for how its jumps are predicted: here a loop of the
 * bench takes 5.9 or 8.2 ns. Of the four places tried, 48 is the one that is never bad (docs/soft.md). */
enum { CODE_ALIGN = 64, CODE_OFFSET = 48, PATCH_BYTES = STUB_CALL_BYTES };

/* --- sites --- */

struct tsite *tr_call_stub(struct translation *x, enum frame_stub kind)
{
    struct translator *t = x->t;
    if (x->elsewhere) {
        emit_patch(emit_jmp(&x->e), x->elsewhere);
        return &x->no_site;
    }
    emit_call(&x->e, x->base + t->stub[kind]);
    uint32_t n = t->site_count++, ret = (uint32_t)(x->e.p - x->base);
    for (; t->granules <= ret >> SITE_GRANULE_SHIFT; t->granules++)
        t->granule[t->granules] = n;
    t->sites[n] = (struct tsite){
        .ret = ret,
        .guest = x->at,
        .length = x->i ? x->i->length : 0,
        .kind = (uint8_t)kind,
        .next = SITE_NO_NEXT,
        .shadow = x->shadow,
    };
    return &t->sites[n];
}

/* Does the handler leave something that the block's mode depends on? */
static bool changes_mode(const struct insn *i)
{
    return insn_op_group((enum insn_op)i->op) == INSN_GROUP_FPSTATE;
}

void tr_call_interpreter(struct translation *x)
{
    struct translator *t = x->t;
    struct uop *u = &t->uops[t->uop_count];
    if (x->elsewhere) {
        (void)tr_call_stub(x, STUB_CALL);
        return;
    }
    u->insn = *x->i;
    u->fn = x86_select(t->cpu, x->i);
    if (changes_mode(x->i))
        u->insn.flags |= INSN_ENDS;
    tr_call_stub(x, STUB_CALL)->uop = t->uop_count++;
    x->vectors_known = false;
}

void tr_interpret(struct translation *x)
{
    tr_call_interpreter(x);
    x->plain = false;
    if (x->i->flags & INSN_ENDS || x->i->op == INSN_INVALID || changes_mode(x->i))
        x->ended = true;
}

/* --- one instruction --- */

tr_fn *tr_find(const struct translation *x)
{
    const struct insn *i = x->i;
    if (i->op == INSN_INVALID || !x86_level_has(x->t->cpu->level, (enum insn_feature)i->feature))
        return NULL;
    tr_fn *fn = tr_find_integer(i);
    if (!fn)
        fn = tr_find_flow(i);
    if (!fn)
        fn = tr_find_system(x);
    return fn ? fn : tr_find_vector(i, x->mode);
}

static void translate_insn(struct translation *x)
{
    struct translator *t = x->t;
    const struct translation before = {
        .e = x->e, .vectors_known = x->vectors_known, .exits = x->exits};
    uint32_t first = t->site_count, granules = t->granules;
    bool in_shadow = x->shadow;
    uint16_t before_live = x->b->live;
    tr_fn *fn = tr_find(x);
    if (!fn || !fn(x)) {
        x->e = before.e;
        x->b->live = before_live;
        x->vectors_known = before.vectors_known;
        x->exits = before.exits;
        x->ended = false;
        t->site_count = first;
        t->granules = granules;
        tr_interpret(x);
    }
    /* What ends the block has nothing behind it: whatever the interpreter then meets there. */
    for (uint32_t n = first; n < t->site_count && !x->ended; n++)
        t->sites[n].next = (uint16_t)(x->e.p - x->base - t->sites[n].ret);
    if (in_shadow) {
        x->shadow = false;
        tr_end_shadow(x);
    }
}

/* --- a block --- */

/* Entry with RIP in R11, then the body. */
static void begin_block(struct translation *x, uint16_t offset)
{
    struct tblock *b = x->b;
    struct emit *e = &x->e;
    uint8_t *slow = e->p;
    (void)tr_call_stub(x, STUB_POLL);
    b->code = (uint32_t)(e->p - x->base);
    if (offset)
        emit_lea(e, R11, emit_at(R11, -(int32_t)offset));
    emit_store(e, emit_frame(offsetof(struct frame, page)), R11);
    emit_load32(e, RCX, emit_frame(offsetof(struct frame, go)));
    emit_patch8(emit_jrcxz(e), slow);
    b->live = b->body = (uint16_t)((uint32_t)(e->p - x->base) - b->code);
    assert(b->body >= PATCH_BYTES);
}

/* With --stats: frame.instructions += n, without touching flags. Returns where n goes. */
static uint8_t *count_instructions(struct translation *x)
{
    struct emit_mem counter = emit_frame(offsetof(struct frame, instructions));
    if (!x->t->counts)
        return NULL;
    emit_load(&x->e, RCX, counter);
    emit_lea(&x->e, RCX, emit_at(RCX, INT32_MAX));
    uint8_t *n = x->e.p - 4;
    emit_store(&x->e, counter, RCX);
    return n;
}

void tr_count_instructions(struct translation *x, uint32_t n)
{
    uint8_t *count = count_instructions(x);
    if (count)
        store_u32(count, n);
}

static void translate_run(struct translation *x, uint32_t most)
{
    uint32_t at = 0;
    while (!x->ended && x->b->insns < most && at < x->code_size) {
        if (insn_decode(&x->insn, x->code + at, x->code_size - at, INSN_MODE_64) != INSN_DECODE_OK)
            break;
        x->i = &x->insn;
        x->at = (uint16_t)((x->b->host & ~PAGE_MASK) + at);
        x->n = x->b->insns;
        x->code_at[x->n] = (struct tcode){x->e.p, x->at};
        if (x->b->insns + 1u < most)
            tr_poll_early(x, at + x->insn.length);
        translate_insn(x);
        at += x->insn.length;
        x->b->insns++;
    }
    assert(!x->poll);
    x->b->bytes = (uint16_t)at;
    if (!x->ended && x->b->insns > 0)
        tr_fall_through(x, (uint32_t)(x->b->host & ~PAGE_MASK) + at);
}

static bool has_room(const struct translator *t)
{
    return t->used + CODE_BLOCK_MAX <= t->limit && t->block_count + 2 <= TBLOCKS &&
           t->site_count + TBLOCK_SITES <= TSITES && t->uop_count + TBLOCK_INSNS <= TUOPS;
}

static void list_in_page(struct translator *t, struct tblock *b, uint64_t page)
{
    uint32_t p = tpage_hash(page);
    b->next_page = t->page_hash[p];
    t->page_hash[p] = (uint32_t)(b - t->blocks);
}

static void enter_block(struct translator *t, struct tblock *b)
{
    uint32_t h = tblock_hash(b->host, b->mode);
    b->next_hash = t->hash[h];
    t->hash[h] = (uint32_t)(b - t->blocks);
    list_in_page(t, b, b->host & PAGE_MASK);
}

/* --- instructions across the end of a page --- */

/*
 * Is the next page's linear address still that of the page that the second half was read from? A
 * table beside the jump cache says so: it has an entry, for this block. The stub looks and makes one, or leaves.
 */
static void guard_second_page(struct translation *x)
{
    struct emit *e = &x->e;
    const uint8_t *self = x->base + x->b->code;
    emit_load(e, R11, emit_frame(offsetof(struct frame, page)));
    emit_lea(e, R11, emit_at(R11, PAGE_SIZE));
    tr_jump_compare(x, true, STUB_CROSS);
    emit_load(e, RCX, tr_jump_entry(x, true, R10, offsetof(struct frame_jump, code)));
    emit_rr(e, 0xF7, EMIT_W, 2, RCX); /* not */
    emit_lea_self(e, R11, self);
    emit_lea(e, RCX, emit_indexed(RCX, R11, 0, 1));
    uint8_t *same = emit_jrcxz(e);
    (void)tr_call_stub(x, STUB_CROSS);
    emit_patch8(same, e->p);
}

/* The code to translate: up to the page's end, or one instruction across it. False: neither. */
static bool fetch_code(struct translator *t, struct tblock *b, uint64_t rip, uint8_t *code,
                       uint32_t *size, bool *again)
{
    const uint8_t *host = (const uint8_t *)(uintptr_t)b->host, *second;
    uint32_t available = (uint32_t)(PAGE_SIZE - (b->host & ~PAGE_MASK));
    struct insn insn;
    *size = available < TBLOCK_BYTES ? available : TBLOCK_BYTES;
    memcpy(code, host, *size);
    if (insn_decode(&insn, code, *size, INSN_MODE_64) == INSN_DECODE_OK)
        return true;
    if (available >= INSN_MAX_LENGTH)
        return false;
    uint64_t next = (rip & PAGE_MASK) + PAGE_SIZE;
    if ((uint64_t)((int64_t)(next << 16) >> 16) != next ||
        x86_fetch_host(t->cpu, next, &second, NULL) != X86_OK || !second ||
        translator_is_thrashing(t, (uint64_t)(uintptr_t)second))
        return false;
    *again = code_mark_page(t->cpu, second) == CODE_MARKED_AT_REST;
    if (*again)
        return false;
    memcpy(code + available, second, INSN_MAX_LENGTH - available);
    *size = INSN_MAX_LENGTH;
    b->second = (uint64_t)(uintptr_t)second;
    return insn_decode(&insn, code, *size, INSN_MODE_64) == INSN_DECODE_OK;
}

/* A block by which the second page knows of b, which comes right after it. */
static struct tblock *make_twin(struct translator *t, const struct tblock *b)
{
    struct tblock *twin = &t->blocks[t->block_count++];
    *twin = *b;
    twin->host = b->second;
    twin->twin = t->block_count;
    return twin;
}

static void note_for_profilers(const struct translator *t, const struct tblock *b, uint64_t rip)
{
    struct vm *vm = t->cpu->vcpu.vm;
    char name[48];
    if (!vm->note_code)
        return;
    fmt(name, sizeof(name), "guest:%u:%lx", t->cpu->cpl, rip);
    vm->note_code(vm, t->exec.exec + b->code, b->length, name);
}

/* The code of a block whose guest code, at rip, is in x. */
static void translate_block(struct translation *x, uint64_t rip)
{
    struct translator *t = x->t;
    struct tblock *b = x->b;
    begin_block(x, x->at);
    if (b->second)
        guard_second_page(x);
    uint8_t *count = count_instructions(x);
    translate_run(x, b->second ? 1 : TBLOCK_INSNS);
    if (count)
        store_u32(count, b->insns);
    tr_finish_loop(x);
    tr_finish_exits(x);
    while ((uint32_t)(x->e.p - x->base) < b->code + b->live + PATCH_BYTES)
        emit8(&x->e, 0xCC);
    b->length = (uint32_t)(x->e.p - x->base) - b->code;
    assert(b->insns > 0 && b->length <= CODE_BLOCK_MAX - 2 * CODE_ALIGN);
    t->used = (b->code + b->length + CODE_ALIGN) & ~(uint32_t)(CODE_ALIGN - 1);
    memset(x->e.p, 0xCC, t->used - (b->code + b->length)); /* nothing falls out of a block unseen */
    note_for_profilers(t, b, rip);
    t->serialise = true;
    t->stats.translated++;
    t->stats.guest_insns += b->insns;
    t->stats.host_bytes += b->length;
}

struct tblock *translate(struct translator *t, const uint8_t *host, uint64_t rip, uint8_t mode,
                         bool *again)
{
    uint8_t code[TBLOCK_BYTES];
    if (!has_room(t))
        translator_make_room(t);
    struct tblock made = {.host = (uint64_t)(uintptr_t)host, .mode = mode, .twin = TBLOCK_NONE};
    uint32_t size;
    *again = false;
    if (!fetch_code(t, &made, rip, code, &size, again))
        return NULL;
    struct tblock *twin = made.second ? make_twin(t, &made) : NULL;
    struct tblock *b = &t->blocks[t->block_count++];
    *b = made;
    struct translation x = {
        .e = {t->exec.write + t->used + CODE_OFFSET},
        .t = t,
        .b = b,
        .at = (uint16_t)(b->host & ~PAGE_MASK),
        .mode = mode,
        .context = mode & MODE_CONTEXT,
        .base = t->exec.write,
        .code = code,
        .code_size = size,
        .plain = true,
    };
    translate_block(&x, rip);
    translator_note_key(t, b->host, mode);
    enter_block(t, b);
    if (twin) {
        twin->code = b->code;
        list_in_page(t, twin, twin->host);
    }
    return b;
}
