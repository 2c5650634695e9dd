/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The translator's parts, one vCPU's worth of each: code cache, blocks, sites, and the functions
 * between engine/soft/'s files. docs/soft.md is the design; translate.c opens with the essay.
 *
 * Everything belongs to the vCPU's own thread, except while the VM is at rest.
 */
#ifndef LODGE_ENGINE_SOFT_TRANSLATOR_H
#define LODGE_ENGINE_SOFT_TRANSLATOR_H

#include "engine/soft/block.h"
#include "engine/soft/emit.h"
#include "engine/soft/frame.h"

enum {
    /* Of code: what is used at first, and what that may grow to if the same blocks are translated again
     * and again. Memory is taken as it is used. */
    CODE_FIRST = 16 << 20,
    CODE_SIZE = 64 << 20,
    CODE_BLOCK_MAX = 24 << 10, /* no block's code is longer */
    TBLOCKS = 384 << 10,
    TBLOCK_HASH_BITS = 17,
    SEEN_BITS = 20,
    TPAGE_HASH_BITS = 13,
    TSITES = 2560 << 10,
    TUOPS = 192 << 10,
    TBLOCK_INSNS = 48,  /* guest instructions in a block, at most */
    TBLOCK_BYTES = 256, /* of guest code */
    TBLOCK_SITES = 8 * TBLOCK_INSNS, /* calls of stubs in a block, at most */
    SITE_GRANULE_SHIFT = 7,
    STUB_CALL_BYTES = 5, /* a call of a stub */
    SITE_NO_NEXT = UINT16_MAX,
    JOURNAL = 16384,
    /* A page whose blocks were invalidated this often, with less than that time between two, is
     * interpreted until it has been left alone for that time. */
    PAGE_THRASH = 32,
    PAGE_REST_NS = 20000000,
    THRASH_BITS = 10,
};

/* Block 0 is none, so that tables of blocks begin as memory does: what a VM that was just made has not touched costs
 * nothing. */
#define TBLOCK_NONE  0u
#define TBLOCK_FIRST 1u

/* A translated block. Its code has three entries: `code`, with RIP in R11, which sets frame.page and
 * polls; `code` + `body`, for jumps from the same page; `code` + `live`, for those that know vector
 * registers to be loaded. */
struct tblock {
    uint64_t host; /* host address of the first guest byte: identity of the physical page */
    uint64_t second; /* of the page that its one instruction goes on in; 0: none */
    uint32_t twin;   /* the block that this one lists in `second`, for invalidation; TBLOCK_NONE */
    uint32_t code; /* offset in the cache */
    uint16_t body, live;
    uint16_t bytes;  /* of guest code */
    uint32_t length; /* of host code */
    uint32_t next_hash, next_page;
    uint8_t mode;
    uint8_t insns;
    bool stale;
};

/* A place in emitted code that calls a stub; `ret` is the return address. Sorted by it. */
struct tsite {
    uint32_t ret; /* offset in the cache */
    union {
        uint32_t uop;   /* STUB_CALL: index */
        uint32_t patch; /* STUB_CHAIN: offset of the displacement to patch */
        struct {        /* STUB_MISS */
            uint16_t retry; /* ret minus this is the beginning of the access */
            uint8_t reg;    /* guest register that holds the address, or EMIT_NO_REG: R11 */
            bool write;
        } miss;
    };
    uint16_t next;  /* ret plus this is the instruction that follows; SITE_NO_NEXT: none is emitted */
    uint16_t guest; /* offset of the instruction in its page; STUB_CHAIN: of the target */
    uint8_t length; /* of the guest instruction */
    uint8_t kind;   /* enum frame_stub */
    bool live;      /* STUB_CHAIN: vector registers are loaded */
    bool shadow;    /* the instruction follows STI: no interrupt before it */
};

_Static_assert(sizeof(struct tsite) == 16, "there are hundreds of thousands");

struct translator_stats {
    uint64_t cycles; /* of the host's TSC in emitted code and its stubs, if t->counts */
    uint64_t entered, translated, loops, loop_bytes, guest_insns, host_bytes, flushes, invalidated, stale;
    uint64_t tlb_fills, tlb_slow, tlb_flushes, page_flushes, jump_misses, chains, polls, calls;
    uint64_t calls_by_op[INSN_OP_COUNT];
};

/* What is in a table: context << 16 | index of each entry. */
struct journal {
    uint32_t *entry;
    uint32_t count;
};

/* How often blocks of a page were invalidated lately. */
struct thrash_slot {
    uint64_t page, last_ns;
    uint32_t count;
};

struct translator {
    struct frame *frame;
    struct x86_cpu *cpu;
    struct seam_exec exec;
    uint32_t used;       /* bytes of exec */
    uint32_t limit;      /* of them */
    uint64_t *seen;      /* a bit for each hash of a block of earlier fillings */
    uint32_t seen_count; /* of these blocks */
    uint32_t seen_again; /* blocks of this filling that are among them */
    uint32_t first_code; /* where blocks begin, after the stubs */
    uint32_t entry;      /* offset of the code that C calls */
    uint32_t stub[STUB_COUNT]; /* likewise, of what emitted code calls */

    struct tblock *blocks;
    uint32_t block_count;
    uint32_t *hash;      /* first block, TBLOCK_NONE: none */
    uint32_t *page_hash; /* likewise, of a page */
    struct tsite *sites;
    uint32_t site_count;
    uint32_t *granule; /* first site at or after offset << SITE_GRANULE_SHIFT */
    uint32_t granules; /* filled in */
    struct uop *uops;
    uint32_t uop_count;

    struct journal tlb_journal[2]; /* of the lower and the upper half of the address space */
    struct journal jump_journal[2];
    uint64_t tlb_flushes[2];       /* cpu->tlb_flushes that TLB and jump cache are of */
    uint8_t vector_mode;   /* MODE_SSE, MODE_AVX that the jump cache is of */

    uint64_t epoch;   /* grows when blocks go: who called C must not return into one */
    int status;       /* of the last entry: enum x86_status */
    bool serialise;   /* code was written since emitted code last ran */
    bool has_avx, has_xsave, has_movbe;
    bool counts;      /* emitted code counts instructions */
    struct thrash_slot thrash[1 << THRASH_BITS];
    struct translator_stats stats;
};

/* --- the mode that a block is translated for (tblock.mode) --- */
enum {
    MODE_CONTEXT = 3,  /* enum x86_tlb_context */
    MODE_SSE = 1 << 2, /* SSE instructions need no checks, and raise no SIMD exceptions */
    MODE_AVX = 1 << 3,
};

/* --- code_cache.c: life, lookup, invalidation --- */

/* ERR_NO_MEMORY, ERR_PERMISSION, or ERR_UNSUPPORTED: this processor lacks what emitted code needs. */
int must_check translator_create(struct translator **out, struct x86_cpu *cpu);
void translator_destroy(struct translator *t);

struct tblock *tblock_find(const struct translator *t, uint64_t host, uint8_t mode);
/* Drops everything. */
void translator_flush_code(struct translator *t);
/* The same because there is no room: may let it have more from now on. */
void translator_make_room(struct translator *t);
/* Was a block of that key in an earlier filling? Counted. */
void translator_note_key(struct translator *t, uint64_t host, uint8_t mode);
/* Blocks in the page at that host address go. Own thread, or VM at rest. */
void translator_invalidate(struct translator *t, uint64_t host_page);
bool translator_is_thrashing(const struct translator *t, uint64_t host_page);
struct tblock *tblock_at(const struct translator *t, uint32_t offset);
const struct tsite *tsite_at(const struct translator *t, uint32_t ret);

/* Empties what is older than the vCPU's TLB. Emitted code must not run before. */
void translator_follow_tlb(struct translator *t);
void translator_flush_page(struct translator *t, uint64_t linear);
/* Takes write permission from what maps this host page. */
void translator_protect(struct translator *t, uint64_t host_page);
void translator_fill(struct translator *t, uint64_t linear, uint64_t host, bool write);
/* Enters RIP, or the page that b crosses into. */
void translator_enter_jump(struct translator *t, uint64_t rip, const struct tblock *b);
void translator_enter_cross(struct translator *t, uint64_t page, const struct tblock *b);
void translator_forget_jumps(struct translator *t);

/* --- code_pages.c: pages that hold translated code, for all vCPUs of a VM --- */
enum code_mark { CODE_MARKED, CODE_MARKED_AT_REST };
/* Before bytes of the page are translated: no vCPU can write it unseen from here on.
 * CODE_MARKED_AT_REST: the VM was at rest meanwhile, translations of addresses are void. */
enum code_mark code_mark_page(struct x86_cpu *cpu, const uint8_t *host);
/* vm->code_written. All vCPUs are at rest; size bytes in one page were written. */
void code_written(struct vm *vm, const uint8_t *host, size_t size);

/* --- translate.c --- */
/* Translates what stands at that host address, where RIP is; the page is marked as code. NULL: the first
 * instruction has to be interpreted, or (*again) translations of addresses are void. May flush the
 * cache. */
struct tblock *translate(struct translator *t, const uint8_t *host, uint64_t rip, uint8_t mode,
                         bool *again);

/* --- stub.c --- */
void stub_emit_all(struct translator *t);
/* Runs emitted code from b's body until it leaves; t->status says how. */
void translator_run(struct translator *t, const struct tblock *b);

/* The block at that host address, where RIP is: found, or translated. NULL: go on with the interpreter,
 * or (*again) look the address up anew. May flush the cache. */
struct tblock *tblock_get(struct translator *t, const uint8_t *host, uint64_t rip, uint8_t mode,
                          bool *again);
/* Is the code there in the vCPU's own TLB, so that what empties that finds it? Else no jump to it may be
 * entered. */
bool translator_holds_code(struct x86_cpu *cpu, uint64_t linear);
/* The mode for the vCPU's state now. 64-bit mode only. */
uint8_t translator_mode(const struct translator *t);
/* Runs translated code from RIP, which is at that host address, until it leaves; *status as a handler
 * returns. False: nothing was done, let the interpreter go on. */
bool must_check translator_round(struct translator *t, const uint8_t *host, int *status);

/* --- translator_stats.c --- */
/* Counters as text lines; returns the length, as fmt does. */
size_t translator_print(const struct translator *t, char *buf, size_t size);

/* Is there translated code for the vCPU's state? The rest is interpreted: 16- and 32-bit code, rings 1
 * and 2, alignment checks. */
static inline bool translator_can_run(const struct x86_cpu *cpu)
{
    return cpu->mode == INSN_MODE_64 && (cpu->cpl == 0 || cpu->cpl == 3) &&
           cpu->tlb != cpu->tlb_table[X86_TLB_NONE];
}

static inline bool translator_is_current(const struct translator *t)
{
    return t->cpu->tlb_flushes[0] == t->tlb_flushes[0] &&
           t->cpu->tlb_flushes[1] == t->tlb_flushes[1];
}

static inline uint32_t tblock_hash(uint64_t host, uint8_t mode)
{
    return (uint32_t)((host ^ (uint64_t)mode << 52) * 0x9E3779B97F4A7C15u >> (64 - TBLOCK_HASH_BITS));
}

static inline uint32_t tpage_hash(uint64_t host_page)
{
    return (uint32_t)((host_page >> PAGE_SHIFT) * 0x9E3779B97F4A7C15u >> (64 - TPAGE_HASH_BITS));
}

static inline const uint8_t *tblock_body(const struct translator *t, const struct tblock *b)
{
    return t->exec.exec + b->code + b->body;
}

/* Where a jump from the same page goes. */
static inline uint32_t tblock_target(const struct tblock *b, bool live)
{
    return b->code + (live ? b->live : b->body);
}

/* --- the state of one translation, for translate.c and tr_*.c --- */

enum { EXITS_MAX = TBLOCK_INSNS + 2 };

/* A jump that leaves the block, to be completed after its last instruction. */
struct texit {
    uint8_t *patch;  /* displacement */
    uint64_t target; /* offset from the page's beginning; outside of 0..0xFFF: another page */
    uint16_t guest;  /* offset of the instruction that jumps */
    uint8_t length;
    bool live;       /* vector registers are loaded */
    bool falls;      /* goes on behind an instruction; nothing to interpret */
};

/* Where a guest instruction's code begins. */
struct tcode {
    const uint8_t *code;
    uint16_t guest; /* offset in the page */
};

/* An instruction's memory operand, as tr_memory was asked for it; size 0: there is none. */
struct taccess {
    uint8_t size, align;
    uint8_t group; /* tr_loop.c; TACCESS_ALONE: none */
    bool write;
};

enum { TACCESS_ALONE = 0xFF };

/* In copies of a loop: the group whose addend R10 or R11 holds (TACCESS_ALONE: of none), if no code of
 * this instruction from `since` on writes it. */
struct tkept {
    uint8_t group;
    const uint8_t *since;
};

struct translation {
    struct emit e;
    struct translator *t;
    struct tblock *b;
    const struct insn *i; /* the instruction being translated: &insn, NULL before the first */
    struct insn insn;
    uint16_t at;          /* its offset in the page */
    uint8_t mode, context;
    bool vectors_known; /* loaded, as far as this block knows */
    bool ended;         /* the block ends here, all exits are recorded */
    bool shadow;        /* the instruction before was STI */
    uint8_t *poll;      /* of a poll under way: where its slow way is to be patched */
    uint16_t poll_at;   /* the offset in the page that it leaves at */
    const uint8_t *code; /* the block's guest code, a copy, and how much there is of it */
    uint32_t code_size;
    uint32_t insn_site; /* first site of this instruction */
    uint32_t exits;
    struct texit exit[EXITS_MAX];
    uint32_t n;         /* number of the instruction in the block */
    struct tcode code_at[TBLOCK_INSNS];
    struct taccess access[TBLOCK_INSNS];
    bool plain;               /* no instruction is interpreted always */
    uint8_t *loop_patch;      /* displacement of the jump to the block's own beginning; NULL: none */
    const uint8_t *loop_end;  /* where a Jcc of that kind goes on */
    const uint8_t *elsewhere; /* in copies (tr_loop.c): where to go instead of calling a stub; else NULL */
    struct tsite no_site;     /* what is noted there */
    struct tkept kept[2];     /* in copies: of R10 and R11 */
    bool keeps;               /* tr_memory may rely on it: tr_loop.c looks afterwards */
    unsigned int kept_used;   /* and has done so: a bit for each */
    bool addend_loaded;       /* it had to be loaded from the frame, somewhere */
    uint8_t *base; /* of the cache, written mapping */
};

/* Translators of single instructions; false: interpret. */
typedef bool tr_fn(struct translation *x);

/* Guest register -> host register, or EMIT_NO_REG for a displaced one. Host RCX, R10 and R11 are
 * scratch, host RSP is Lodge's own stack: guest RCX lives in R14, guest RSP in R15. */
extern const uint8_t tr_host_of[16];

static inline bool tr_is_displaced(uint8_t guest)
{
    return tr_host_of[guest] == EMIT_NO_REG;
}

struct emit_mem tr_slot(uint8_t guest); /* of a displaced register */

/* The host register that holds guest register g; a displaced one is loaded to `scratch` first. */
uint8_t tr_use(struct translation *x, uint8_t g, uint8_t scratch);
/* Where to put a result for g; tr_put stores it if g is displaced. */
uint8_t tr_target(uint8_t g, uint8_t scratch);
void tr_put(struct translation *x, uint8_t g, uint8_t host);

/* Emits the poll of the backward jump behind the coming instruction, if it can go there: tr_flow.c */
void tr_poll_early(struct translation *x, uint32_t next);
/* Emits a call of a stub and notes the site; in copies of a loop, a jump to the ordinary code. */
struct tsite *tr_call_stub(struct translation *x, enum frame_stub kind);
/* The translator of the instruction in x; NULL: interpret. */
tr_fn *tr_find(const struct translation *x);
/* With --stats: n instructions more. */
void tr_count_instructions(struct translation *x, uint32_t n);
/* The current instruction is interpreted. */
void tr_interpret(struct translation *x);
/* Emits a call of the interpreter for this instruction, which goes on behind all of its code. */
void tr_call_interpreter(struct translation *x);
/* Behind the instruction after STI: leaves if there are requests. */
void tr_end_shadow(struct translation *x);

/*
 * A memory operand of `size` bytes. Emits what finds it in the TLB and leaves the host operand in
 * *m: [address + addend], in R11 or a pinned register, and R10, or in copies of a loop in a pinned register
 * and R11; RCX is free afterwards. align: bytes
 * that it must be aligned to for the fast way, else 1. False: not to be emitted, interpret.
 */
bool tr_memory(struct translation *x, uint32_t size, bool write, uint32_t align, struct emit_mem *m);
/* The same for a linear address that is in R11; all since `retry` belongs to the access. */
void tr_memory_found(struct translation *x, const uint8_t *retry, uint32_t size, bool write,
                     uint32_t align, struct emit_mem *m);
/* The same for [guest register + disp] with stack semantics: no segment. */
void tr_memory_at(struct translation *x, uint8_t guest, int32_t disp, uint32_t size, bool write,
                  struct emit_mem *m);
/* Finds the page of `size` bytes, at most half a page, from the linear address in host register a, and
 * leaves its addend in R10. a is not RCX or R10. */
void tr_lookup_span(struct translation *x, uint8_t a, uint32_t size, bool write);
/* LEA: the effective address into a host register (R11 is used on the way). False: interpret. */
bool tr_effective(struct translation *x, uint8_t *reg);

tr_fn *tr_find_integer(const struct insn *i);
tr_fn *tr_find_flow(const struct insn *i);
tr_fn *tr_find_system(const struct translation *x);
tr_fn *tr_find_vector(const struct insn *i, uint8_t mode);
void tr_finish_exits(struct translation *x);
/* If the block ends with a jump to its own beginning: the loop's second version, and that jump's target. */
void tr_finish_loop(struct translation *x);
void tr_fall_through(struct translation *x, uint32_t offset);
/* RIP, or (cross) the page that the block goes on in, is in R11: calls the stub unless its table has it;
 * R10 is its index then, for tr_jump_entry. */
void tr_jump_compare(struct translation *x, bool cross, enum frame_stub miss);
struct emit_mem tr_jump_entry(const struct translation *x, bool cross, uint8_t index, size_t member);

#endif
