/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The translator's tables: code cache, blocks and sites, TLB and jump cache.
 *
 * The code cache is filled front to back and dropped as a whole. Blocks are found by two chains of
 * indexes, by host address and mode, and by page; sites by return address, from the first one of
 * each 128 bytes of code on.
 *
 * TLB and jump cache are large and mostly empty (frame.h). What is in them is also in a journal, so
 * emptying them costs what filling them did, and no generation is needed in their entries. A journal
 * that is full empties them early.
 *
 * An invalidated block stays where it is until the cache is dropped: its entries are overwritten
 * by a call of the stale stub. Jumps to it need not be known. The head of a loop's copies (tr_loop.c) is
 * entered from the block alone, and nobody is in it then: who comes back from C looks at `epoch`.
 */
#include "core/assert.h"
#include "core/err.h"
#include "core/mem.h"
#include "engine/soft/translator.h"
#include "x86/level.h"

static size_t pages_of(size_t bytes)
{
    return (bytes + PAGE_SIZE - 1) >> PAGE_SHIFT;
}

/* --- life --- */

/* Every table of a translator: where the pointer is, and its size. */
struct table {
    size_t at, size;
};
#define TABLE(member, count) \
    {offsetof(struct translator, member), (count) * sizeof(*((struct translator *)0)->member)}
static const struct table tables[] = {
    TABLE(frame, 1),
    TABLE(blocks, TBLOCKS),
    TABLE(hash, (size_t)1 << TBLOCK_HASH_BITS),
    TABLE(page_hash, (size_t)1 << TPAGE_HASH_BITS),
    TABLE(seen, (size_t)1 << (SEEN_BITS - 6)),
    TABLE(sites, TSITES),
    TABLE(granule, (CODE_SIZE >> SITE_GRANULE_SHIFT) + 2),
    TABLE(uops, TUOPS),
    TABLE(tlb_journal[0].entry, JOURNAL),
    TABLE(tlb_journal[1].entry, JOURNAL),
    TABLE(jump_journal[0].entry, JOURNAL),
    TABLE(jump_journal[1].entry, JOURNAL),
};

static void **table_pointer(struct translator *t, const struct table *table)
{
    return (void **)(void *)((uint8_t *)t + table->at);
}

/* The host's CPUID: what emitted code is made of. */
static void host_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
                     : "a"(leaf), "c"(subleaf));
}

static uint64_t host_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

enum {
    CPUID_1C_MOVBE = 1 << 22,
    CPUID_1C_OSXSAVE = 1 << 27,
    CPUID_1C_AVX = 1 << 28,
    CPUID_7B_BMI2 = 1 << 8,
    CPUID_80000001C_LAHF = 1 << 0,
};

static bool host_has_enough(struct translator *t)
{
    uint32_t r[4], one[4];
    host_cpuid(0, 0, r);
    if (r[0] < 7)
        return false;
    host_cpuid(1, 0, one);
    t->has_movbe = one[2] & CPUID_1C_MOVBE;
    t->has_xsave = one[2] & CPUID_1C_OSXSAVE;
    t->has_avx = t->has_xsave && one[2] & CPUID_1C_AVX &&
                 (host_xcr0() & (X86_XCR0_SSE | X86_XCR0_AVX)) == (X86_XCR0_SSE | X86_XCR0_AVX);
    host_cpuid(0x80000001, 0, r);
    bool lahf = r[2] & CPUID_80000001C_LAHF;
    host_cpuid(7, 0, r);
    return lahf && r[1] & CPUID_7B_BMI2;
}

static void init_frame(struct translator *t)
{
    struct frame *f = t->frame;
    f->cpu = t->cpu;
    f->translator = t;
    f->go = 1;
    f->vectors_dead = 1;
    f->host_mxcsr = X86_MXCSR_RESET;
    f->mask_status = X86_FLAGS_STATUS;
    f->mask_system = ~X86_FLAGS_STATUS & ~(X86_FLAG_RF | X86_FLAG_VM);
    f->mask_not_if = ~X86_FLAG_IF;
    f->mask_not_df = ~X86_FLAG_DF;
    f->mask_sign[0] = BIT(31);
    f->mask_sign[1] = BIT(63);
    f->mask_bit[0] = 31;
    f->mask_bit[1] = 63;
    for (unsigned int c = 0; c < FRAME_CONTEXTS; c++) {
        for (uint32_t n = 0; n <= FRAME_TLB_SPECIAL; n++) {
            uint32_t index = n < FRAME_TLB_SPECIAL ? n : FRAME_INDEXES - 1;
            f->tlb[c].read[index] = f->tlb[c].write[index] = frame_tlb_none(index);
        }
    }
    for (unsigned int n = 0; n < FRAME_JUMPS; n++)
        f->jump[n][0].minus_rip = frame_jump_none(0);
}

static void empty_hashes(struct translator *t)
{
    memset(t->hash, 0, sizeof(*t->hash) << TBLOCK_HASH_BITS);
    memset(t->page_hash, 0, sizeof(*t->page_hash) << TPAGE_HASH_BITS);
}

int translator_create(struct translator **out, struct x86_cpu *cpu)
{
    struct translator *t = seam_pages_alloc(pages_of(sizeof(*t)));
    int err = ERR_NO_MEMORY;
    if (!t)
        return err;
    t->cpu = cpu;
    t->counts = cpu->vcpu.vm->statistics;
    if (!host_has_enough(t)) {
        err = ERR_UNSUPPORTED;
        goto fail;
    }
    for (size_t n = 0; n < ARRAY_SIZE(tables); n++) {
        *table_pointer(t, &tables[n]) = seam_pages_alloc(pages_of(tables[n].size));
        if (!*table_pointer(t, &tables[n]))
            goto fail;
    }
    err = seam_exec_alloc(&t->exec, CODE_SIZE);
    if (err != OK)
        goto fail;
    t->limit = CODE_FIRST;
    t->block_count = TBLOCK_FIRST;
    init_frame(t);
    stub_emit_all(t);
    *out = t;
    return OK;
fail:
    translator_destroy(t);
    return err;
}

void translator_destroy(struct translator *t)
{
    if (!t)
        return;
    seam_exec_free(&t->exec);
    for (size_t n = 0; n < ARRAY_SIZE(tables); n++)
        seam_pages_free(*table_pointer(t, &tables[n]), pages_of(tables[n].size));
    seam_pages_free(t, pages_of(sizeof(*t)));
}

/* --- blocks --- */

struct tblock *tblock_find(const struct translator *t, uint64_t host, uint8_t mode)
{
    for (uint32_t n = t->hash[tblock_hash(host, mode)]; n != TBLOCK_NONE;
         n = t->blocks[n].next_hash) {
        struct tblock *b = &t->blocks[n];
        if (b->host == host && b->mode == mode)
            return b;
    }
    return NULL;
}

struct tblock *tblock_at(const struct translator *t, uint32_t offset)
{
    uint32_t low = TBLOCK_FIRST, high = t->block_count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (t->blocks[middle].code <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    assert(low > TBLOCK_FIRST);
    return &t->blocks[low - 1];
}

const struct tsite *tsite_at(const struct translator *t, uint32_t ret)
{
    uint32_t n = t->granule[ret >> SITE_GRANULE_SHIFT];
    while (n < t->site_count && t->sites[n].ret < ret)
        n++;
    assert(n < t->site_count && t->sites[n].ret == ret);
    return &t->sites[n];
}

void translator_flush_code(struct translator *t)
{
    t->used = t->first_code;
    if (t->block_count > TBLOCK_FIRST)
        empty_hashes(t);
    t->block_count = TBLOCK_FIRST;
    t->site_count = t->granules = t->uop_count = 0;
    translator_forget_jumps(t);
    t->epoch++;
    t->stats.flushes++;
}

/*
 * More room helps if what is dropped comes back. A system that boots runs most of its code once, and
 * fills the cache more than once with ever new blocks; a compiler comes back to all of its own, though
 * maybe not within one filling. So what is seen is kept until it is too much to tell anything.
 */
static uint32_t key_bit(uint64_t host, uint8_t mode)
{
    return (uint32_t)((host ^ (uint64_t)mode << 52) * 0x9E3779B97F4A7C15u >> (64 - SEEN_BITS));
}

void translator_note_key(struct translator *t, uint64_t host, uint8_t mode)
{
    uint32_t bit = key_bit(host, mode);
    t->seen_again += (uint32_t)(t->seen[bit / 64] >> bit % 64 & 1);
}

void translator_make_room(struct translator *t)
{
    if (t->seen_again > t->block_count / 3 && t->limit < CODE_SIZE)
        t->limit *= 2;
    if (t->seen_count > 1u << (SEEN_BITS - 1)) {
        memset(t->seen, 0, (size_t)1 << (SEEN_BITS - 3));
        t->seen_count = 0;
    }
    t->seen_count += t->block_count;
    for (uint32_t n = TBLOCK_FIRST; n < t->block_count; n++) {
        uint32_t bit = key_bit(t->blocks[n].host, t->blocks[n].mode);
        t->seen[bit / 64] |= BIT(bit % 64);
    }
    t->seen_again = 0;
    translator_flush_code(t);
}

/* --- invalidation --- */

static struct thrash_slot *thrash_slot(const struct translator *t, uint64_t host_page)
{
    return (struct thrash_slot *)(uintptr_t)&t
        ->thrash[(host_page >> PAGE_SHIFT) * 0x9E3779B97F4A7C15u >> (64 - THRASH_BITS)];
}

bool translator_is_thrashing(const struct translator *t, uint64_t host_page)
{
    const struct thrash_slot *s = thrash_slot(t, host_page);
    return s->page == host_page && s->count >= PAGE_THRASH &&
           seam_time_ns() - s->last_ns < PAGE_REST_NS;
}

static void note_thrash(struct translator *t, uint64_t host_page)
{
    struct thrash_slot *s = thrash_slot(t, host_page);
    uint64_t now = seam_time_ns();
    if (s->page != host_page || now - s->last_ns >= PAGE_REST_NS)
        *s = (struct thrash_slot){.page = host_page};
    s->last_ns = now;
    s->count++;
}

static void forget(struct translator *t, const struct tblock *b)
{
    uint32_t *link = &t->hash[tblock_hash(b->host, b->mode)];
    while (*link != TBLOCK_NONE && &t->blocks[*link] != b)
        link = &t->blocks[*link].next_hash;
    if (*link != TBLOCK_NONE)
        *link = b->next_hash;
}

/* Its entries are overwritten; it is found no more. */
static void make_stale(struct translator *t, struct tblock *b)
{
    const uint32_t entry[] = {b->code, b->code + b->body, b->code + b->live};
    for (unsigned int n = 0; n < ARRAY_SIZE(entry); n++) {
        struct emit e = {t->exec.write + entry[n]};
        emit_call(&e, t->exec.write + t->stub[STUB_STALE]);
    }
    if (!b->stale)
        forget(t, b);
    b->stale = true;
}

void translator_invalidate(struct translator *t, uint64_t host_page)
{
    uint32_t *link = &t->page_hash[tpage_hash(host_page)];
    bool found = false;
    while (*link != TBLOCK_NONE) {
        struct tblock *b = &t->blocks[*link];
        if ((b->host & PAGE_MASK) != host_page) {
            link = &b->next_page;
            continue;
        }
        *link = b->next_page;
        make_stale(t, b->twin == TBLOCK_NONE ? b : &t->blocks[b->twin]);
        t->stats.invalidated++;
        found = true;
    }
    if (!found)
        return;
    note_thrash(t, host_page);
    t->serialise = true;
    t->epoch++;
}

/* --- TLB and jump cache --- */

static uint32_t half_of(uint64_t linear)
{
    return (uint32_t)(linear >> 63);
}

/* False: there is no room, empty it first. */
static bool journal_note(struct journal *j, unsigned int context, uint32_t index)
{
    if (j->count == JOURNAL)
        return false;
    j->entry[j->count++] = context << FRAME_INDEX_BITS | index;
    return true;
}

static void empty_jumps(struct translator *t, uint32_t half)
{
    struct journal *j = &t->jump_journal[half];
    for (uint32_t n = 0; n < j->count; n++) {
        uint32_t index = j->entry[n] & (FRAME_INDEXES - 1);
        t->frame->jump[j->entry[n] >> FRAME_INDEX_BITS][index].minus_rip = frame_jump_none(index);
    }
    j->count = 0;
}

static void empty_tlb(struct translator *t, uint32_t half)
{
    struct journal *j = &t->tlb_journal[half];
    for (uint32_t n = 0; n < j->count; n++) {
        uint32_t index = j->entry[n] & (FRAME_INDEXES - 1);
        struct frame_tlb *tlb = &t->frame->tlb[j->entry[n] >> FRAME_INDEX_BITS];
        tlb->read[index] = tlb->write[index] = frame_tlb_none(index);
    }
    j->count = 0;
}

void translator_follow_tlb(struct translator *t)
{
    for (uint32_t half = 0; half < 2; half++) {
        if (t->tlb_flushes[half] == t->cpu->tlb_flushes[half])
            continue;
        empty_tlb(t, half);
        empty_jumps(t, half);
        t->tlb_flushes[half] = t->cpu->tlb_flushes[half];
        t->stats.tlb_flushes++;
    }
}

static uint32_t tlb_index(uint64_t linear)
{
    return linear >> PAGE_SHIFT & (FRAME_INDEXES - 1);
}

void translator_flush_page(struct translator *t, uint64_t linear)
{
    uint64_t minus = -(linear & PAGE_MASK);
    uint32_t index = tlb_index(linear);
    const struct journal *j = &t->jump_journal[half_of(linear)];
    t->stats.page_flushes++;
    for (unsigned int c = 0; c < FRAME_CONTEXTS; c++) {
        struct frame_tlb *tlb = &t->frame->tlb[c];
        if (tlb->read[index] == minus)
            tlb->read[index] = frame_tlb_none(index);
        if (tlb->write[index] == minus)
            tlb->write[index] = frame_tlb_none(index);
    }
    for (uint32_t n = 0; n < j->count; n++) {
        uint32_t at = j->entry[n] & (FRAME_INDEXES - 1);
        struct frame_jump *e = &t->frame->jump[j->entry[n] >> FRAME_INDEX_BITS][at];
        if ((-e->minus_rip & PAGE_MASK) == (linear & PAGE_MASK))
            e->minus_rip = frame_jump_none(at);
    }
}

void translator_protect(struct translator *t, uint64_t host_page)
{
    for (uint32_t half = 0; half < 2; half++) {
        const struct journal *j = &t->tlb_journal[half];
        for (uint32_t n = 0; n < j->count; n++) {
            uint32_t index = j->entry[n] & (FRAME_INDEXES - 1);
            struct frame_tlb *tlb = &t->frame->tlb[j->entry[n] >> FRAME_INDEX_BITS];
            if (tlb->write[index] != frame_tlb_none(index) &&
                tlb->addend[index] - FRAME_TLB_BIAS - tlb->write[index] == host_page)
                tlb->write[index] = frame_tlb_none(index);
        }
    }
}

/* An entry may be in the journals of both halves, if it has been of both: emptied twice, then. */
void translator_fill(struct translator *t, uint64_t linear, uint64_t host, bool write)
{
    uint32_t index = tlb_index(linear), half = half_of(linear);
    struct frame_tlb *tlb = &t->frame->tlb[t->cpu->tlb_context];
    uint64_t none = frame_tlb_none(index), minus = -(linear & PAGE_MASK);
    if (tlb->read[index] != minus) {
        if (!journal_note(&t->tlb_journal[half], t->cpu->tlb_context, index)) {
            empty_tlb(t, half);
            (void)journal_note(&t->tlb_journal[half], t->cpu->tlb_context, index);
        }
        tlb->write[index] = none; /* of another page, which the new addend is not for */
    }
    tlb->addend[index] = host - linear + FRAME_TLB_BIAS;
    tlb->read[index] = minus;
    if (write)
        tlb->write[index] = minus;
    t->stats.tlb_fills++;
}

static void enter_jump(struct translator *t, unsigned int table, uint64_t rip, const struct tblock *b)
{
    uint32_t index = frame_jump_index(rip), half = half_of(rip);
    struct frame_jump *j = &t->frame->jump[table][index];
    if (j->minus_rip != -rip && !journal_note(&t->jump_journal[half], table, index)) {
        empty_jumps(t, half);
        (void)journal_note(&t->jump_journal[half], table, index);
    }
    j->minus_rip = -rip;
    j->code = t->exec.exec + b->code;
}

void translator_enter_jump(struct translator *t, uint64_t rip, const struct tblock *b)
{
    enter_jump(t, t->cpu->tlb_context, rip, b);
}

void translator_enter_cross(struct translator *t, uint64_t page, const struct tblock *b)
{
    enter_jump(t, FRAME_CROSS + (unsigned int)t->cpu->tlb_context, page, b);
}

void translator_forget_jumps(struct translator *t)
{
    empty_jumps(t, 0);
    empty_jumps(t, 1);
}
