/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The differential test: one instruction, one starting state, executed by this machine's processor
 * and by the emulator; then everything that a program could see is compared.
 *
 * Memory is a sandbox at the same fixed addresses for both: real mappings of this process for the
 * host, guest pages behind guest page tables for the emulator. It lies below 2 GiB, so that every
 * way to address memory can reach it, and nothing else does (the program itself is far above).
 */
#ifndef LODGE_TESTS_DIFFERENTIAL_H
#define LODGE_TESTS_DIFFERENTIAL_H

#include "isa/insn.h"
#include "x86/cpu.h"

enum {
    BOX_BASE = 0x10000000, /* a guard page, then: */
    BOX_RW = BOX_BASE + 0x1000,
    BOX_RW_SIZE = 0x4000,
    BOX_RO = BOX_RW + BOX_RW_SIZE + 0x1000, /* between two guard pages */
    BOX_RO_SIZE = 0x1000,
    BOX_END = BOX_RO + BOX_RO_SIZE + 0x1000,
    BOX_CODE = 0x10040000, /* one page; guard pages around it */
    BOX_CODE_SIZE = 0x1000,
    BOX_INSN = BOX_CODE + 0x800, /* the instruction */
    /* Where blocks are (blocks/blocks.h), in pages that cannot and that can be written. */
    BOX_BLOCK = 0x10050000,
    BOX_BLOCK_RWX = 0x10060000,
    BOX_BLOCK_SIZE = 0x2000,
    BOX_LIMIT = 0x10070000,
};

/* What both sides start from and what they end with. */
struct state {
    uint64_t gpr[16];
    uint64_t rflags;
    uint64_t rip;
    struct x86_fpu fpu;
};

/* GS.base on both sides, so that segment bases are tested; FS is the C library's. */
#define BOX_GS_BASE UINT64_C(0x3210)

enum outcome_kind {
    DONE,  /* completed; rip is where it goes on */
    FAULT, /* vector, error code (kept only where both sides can know it), address for #PF */
    STUCK, /* emulator: gave up; host: something that must not happen (text says what) */
};

struct outcome {
    uint64_t unknown_flags; /* of RFLAGS: host_unknown_flags, if an exception saved them */
    enum outcome_kind kind;
    uint8_t vector;
    uint64_t address; /* #PF */
    struct state state;
};

/* How a block ended: at an INT3, by a fault, or (not on the host) in a halt or shutdown. */
enum block_end_kind { BLOCK_DONE, BLOCK_FAULT, BLOCK_HALTED, BLOCK_SHUTDOWN };

struct block_end {
    enum block_end_kind kind;
    uint8_t vector;
    uint32_t error;
    uint64_t address; /* #PF */
    struct state state;
};

/* A test case, complete: everything follows from the seed. */
struct test_case {
    uint64_t seed;
    enum insn_mode mode; /* INSN_MODE_64 or INSN_MODE_32 */
    uint8_t bytes[INSN_MAX_LENGTH];
    uint8_t length;
    struct insn insn;
    bool uses_vector; /* vector and x87 state take part */
    struct state start;
    uint8_t memory[BOX_RW_SIZE]; /* the sandbox's contents; BOX_RO has the first page's */
};

/* --- random.c: xorshift64* --- */
struct rng {
    uint64_t s;
};
uint64_t rng_next(struct rng *r);
uint64_t rng_below(struct rng *r, uint64_t n); /* 0 .. n - 1 */
bool rng_chance(struct rng *r, unsigned int percent);

/* --- generate.c --- */

/* Which instructions are wanted: bits by enum insn_group, or a name of one operation (or NULL). */
struct selection {
    uint32_t groups;
    const char *op;
    enum insn_mode mode;
};

/* Fills the case for this seed. False: these random bytes are no instruction that is wanted. */
bool generate_case(struct test_case *c, uint64_t seed, const struct selection *what);
/* May it be executed on the host? */
bool is_harmless(const struct insn *i, enum insn_mode mode);
uint64_t random_value(struct rng *r);
void random_vectors(struct x86_fpu *f, struct rng *r);

/* --- host.c --- */
void host_init(void);
/* Of RFLAGS: what a virtual machine that we run in loses at an exception, and a processor does not.
 */
uint64_t host_unknown_flags(void);
const uint8_t *host_memory(void);
void host_run(const struct test_case *c, struct outcome *out);
/* Can this machine and kernel run 32-bit code in this process? */
bool host_has_32bit(void);
/* A block, already in host_block_memory(base): from `entry` until an INT3 or a fault. False:
 * neither. */
void host_block_init(void);
uint8_t *host_block_memory(uint32_t base);
bool must_check host_run_block(const struct state *start, uint32_t entry, const uint8_t *memory,
                               struct block_end *end);
/*
 * How often a case is run on the host until a difference counts. A machine that is itself virtual
 * now and then answers in the processor's place, and wrongly: on one, in about one of a million
 * cases, NT was lost while a POPF had just set it, or an SSE instruction that has to raise #GP or
 * #SS raised #UD. What the processor says it says again.
 */
enum { HOST_ATTEMPTS = 4 };
/* May that many of so many cases have been answered differently when asked again? More is no
 * accident. */
static inline bool host_is_steady(uint64_t changed, uint64_t cases)
{
    return changed <= 2 + cases / 100000;
}
/* Why the last run was STUCK. */
const char *host_trouble(void);

/* --- guest.c --- */
void guest_init(void);
const uint8_t *guest_memory(void);
void guest_run(const struct test_case *c, struct outcome *out);

/* --- compare.c --- */

/* Both compare the memories, too, as host_run and guest_run left them. */
bool outcomes_equal(const struct test_case *c, const struct outcome *host,
                    const struct outcome *guest);
/* Prints the case and every difference. */
void print_difference(const struct test_case *c, const struct outcome *host,
                      const struct outcome *guest);
void print_case(const struct test_case *c);
/* Flags that an instruction leaves undefined and in which the emulator and the host may differ. */
uint64_t undefined_flags(const struct insn *i);

/*
 * In what they may differ after a string instruction with REP. If SCAS and CMPS fault, they leave flags as
 * they were on Intel's processors (SDM 2B, REP), and as the last round made them on AMD's and in the
 * emulator. Intel's take the upper halves away from registers that are 32-bit addresses and count even
 * if not a round is done.
 */
struct undefined {
    uint64_t flags;
    uint16_t upper_halves; /* of these general registers */
};
struct undefined undefined_after_rep(const struct insn *i, bool faulted);

/* VCVTPS2PH to memory: Intel's processors set MXCSR's flags although the store faults then. */
bool flags_before_it_stores(const struct insn *i);

/* F3 REX.B 90: PAUSE to Intel's processors; AMD's and the emulator exchange R8 and RAX. */
bool is_pause_on_host(const struct insn *i);

/* AuthenticAMD? */
bool host_is_amd(void);

bool compare_vectors(const struct x86_fpu *h, const struct x86_fpu *g, bool show);
bool compare_x87(const struct x86_fpu *h, const struct x86_fpu *g, bool show);

#endif
