/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Loops over arrays, of which the translator makes copies (engine/soft/tr_loop.c): each of these must
 * end as it does instruction by instruction, with the same registers, memory and fault, wherever its
 * arrays begin and end. The pages of the arrays are not neighbours in RAM, what is around them is
 * absent, and one of them can only be read.
 */
#include "tests/unit/translator_env.h"

enum {
    FRAMES = CPU_ENV_DATA, /* of the arrays' pages */
    FRAMES_SIZE = 0x5000,
    ARRAY = FAR + 0x1000, /* four pages, the last of which can only be read; behind it and before: none */
    ARRAY_END = ARRAY + 0x4000,
    TABLE = CPU_ENV_RAM - PAGE_SIZE, /* map_far's */
    STEPS_MOST = 30000,
};

#define PAGE_FLAGS (X86_PTE_P | X86_PTE_U | X86_PTE_A)

/* Loops. rbx, rsi: arrays; rcx: rounds; rdx: an index; the others: data. */
#define LOOP(name, text)                                                                           \
    __asm__(".pushsection .rodata\n" #name ":\n" text "\n hlt\n" #name "_end:\n.popsection");     \
    extern const uint8_t name[], name##_end[]

LOOP(bytes, "1: movb %al, (%rbx)\n inc %rbx\n dec %rcx\n jnz 1b");
LOOP(words, "1: mov (%rbx), %r8\n add %r8, %rax\n add $8, %rbx\n dec %rcx\n jnz 1b");
LOOP(backward, "1: addl %eax, (%rbx)\n sub $4, %rbx\n dec %rcx\n jnz 1b");
LOOP(two_arrays, "1: mov (%rsi), %r9\n mov %r9, 8(%rbx)\n add $8, %rsi\n lea 8(%rbx), %rbx\n dec %rcx\n jnz 1b");
LOOP(wide_step, "1: add (%rbx), %rax\n add $0x200, %rbx\n dec %rcx\n jnz 1b");
LOOP(too_wide, "1: add (%rbx), %rax\n add $0x7F8, %rbx\n dec %rcx\n jnz 1b");
LOOP(neighbours, "1: mov (%rbx), %r8\n mov %r8, 0x70(%rbx)\n xor 0x1F8(%rbx), %rax\n add $16, %rbx\n dec %rcx\n jnz 1b");
LOOP(far_apart, "1: mov (%rbx), %r8\n mov %r8, 0x7C0(%rbx)\n add $8, %rbx\n dec %rcx\n jnz 1b");
LOOP(middle, "1: mov (%rbx), %r8\n add $8, %rbx\n mov %r8, (%rbx)\n add $8, %rbx\n incb -1(%rbx)\n dec %rcx\n jnz 1b");
LOOP(indexed, "1: mov (%rbx,%rdx,8), %r8\n add %r8, 16(%rbx,%rdx,8)\n inc %rdx\n dec %rcx\n jnz 1b");
LOOP(both_move, "1: mov %r8d, (%rbx,%rdx,2)\n add $3, %rdx\n sub $2, %rbx\n dec %rcx\n jnz 1b");
LOOP(index_down, "mov $0x40, %edx\n 1: mov (%rbx,%rdx,2), %r8b\n add %r8b, (%rsi,%rdx)\n dec %rdx\n dec %rcx\n jnz 1b");
LOOP(standing, "1: incl (%rsi)\n mov (%rbx), %al\n inc %rbx\n dec %rcx\n jnz 1b");
LOOP(aligned, "1: movaps (%rbx), %xmm1\n paddd %xmm1, %xmm0\n movaps %xmm0, 16(%rbx)\n add $16, %rbx\n dec %rcx\n jnz 1b");
LOOP(aligned_or_not, "1: movaps (%rbx), %xmm1\n add $8, %rbx\n dec %rcx\n jnz 1b");
LOOP(aligned_pair, "1: movups (%rsi), %xmm1\n movaps %xmm1, 32(%rbx)\n movaps (%rbx), %xmm2\n add $32, %rbx\n add $1, %rsi\n dec %rcx\n jnz 1b");
LOOP(ymm, "1: vmovups (%rbx), %ymm1\n vmovups %ymm1, (%rsi)\n add $32, %rbx\n add $32, %rsi\n dec %rcx\n jnz 1b");
LOOP(exchange, "1: xchg %rax, (%rbx)\n add $8, %rbx\n dec %rcx\n jnz 1b");
LOOP(locked, "1: lock addl $3, (%rbx)\n add $4, %rbx\n dec %rcx\n jnz 1b");
LOOP(exit_early, "1: mov (%rbx), %rax\n test $0x3F, %al\n jz 2f\n add $8, %rbx\n dec %rcx\n jnz 1b\n 2: setz %r9b");
LOOP(jump_back, "1: dec %rcx\n js 2f\n mov %rcx, (%rbx)\n add $8, %rbx\n jmp 1b\n 2: nop");
LOOP(displaced, "mov %rbx, %r14\n 1: mov (%r14), %r10\n add %r10, 8(%r14)\n add $8, %r14\n dec %rcx\n jnz 1b");
LOOP(stack_pointer, "mov %rbx, %rsp\n 1: mov (%rsp), %r10\n mov %r10, 32(%rsp)\n lea 8(%rsp), %rsp\n dec %rcx\n jnz 1b\n mov $0x40000, %esp");
LOOP(division, "1: mov $100, %eax\n xor %edx, %edx\n movzbl (%rbx), %r8d\n divl %r8d\n mov %al, (%rsi)\n inc %rbx\n inc %rsi\n dec %rcx\n jnz 1b");
LOOP(flags_live, "1: adc %rax, (%rbx)\n lea 8(%rbx), %rbx\n lea -1(%rcx), %rcx\n jrcxz 2f\n jmp 1b\n 2: nop");
LOOP(carries, "clc\n jmp 1f\n 1: mov (%rbx), %r8\n adc %r8, (%rsi)\n lea 8(%rbx), %rbx\n lea 8(%rsi), %rsi\n dec %rcx\n jnz 1b");
LOOP(table, "1: movzbl (%rbx), %eax\n movzbl (%rsi,%rax), %eax\n mov %al, (%rbx)\n inc %rbx\n dec %rcx\n jnz 1b");
LOOP(chase, "1: mov %rbx, (%rbx)\n mov (%rbx), %rbx\n add $8, %rbx\n dec %rcx\n jnz 1b");
LOOP(of_code, "1: movl $7, 2f(%rip)\n add (%rbx), %rax\n add $8, %rbx\n dec %rcx\n jnz 1b\n hlt\n .balign 8\n2: .long 0");
LOOP(many_arrays, "mov $0x123, %edx\n 1: mov (%rbx), %r8\n add %r8, (%rsi)\n mov 0x800(%rsi), %r9\n mov %r9, -0x900(%rbx)\n xor (%rbx,%rdx), %rax\n add (%rbx,%rdx,4), %rax\n add $8, %rbx\n add $4, %rsi\n dec %rcx\n jnz 1b");
LOOP(two_scales, "mov $0x123, %edx\n 1: mov (%rbx,%rdx), %r8\n add (%rbx,%rdx,4), %rax\n add $8, %rbx\n dec %rcx\n jnz 1b");
LOOP(base_is_index, "shr %rbx\n 1: mov (%rbx,%rbx), %r8b\n inc %rbx\n dec %rcx\n jnz 1b");
LOOP(scaled_itself, "shr $2, %rbx\n xor %esi, %esi\n 1: movl %ecx, (%rsi,%rbx,4)\n dec %rsi\n inc %rbx\n dec %rcx\n jnz 1b");
LOOP(by_fs, "mov %rcx, %r9\n mov $0xC0000100, %ecx\n mov $0x1000, %eax\n xor %edx, %edx\n wrmsr\n mov %r9, %rcx\n mov %ebx, %r13d\n sub $0x1000, %r13d\n 1: movb %cl, %fs:(%r13)\n mov 0x11(%r13), %al\n add $3, %r13\n dec %rcx\n jnz 1b");
LOOP(absolute, "1: incl 0x10001010\n mov (%rbx), %al\n add %al, 0x10001014\n inc %rbx\n dec %rcx\n jnz 1b");
LOOP(by_rip, "1: incl 0x50010 + by_rip(%rip)\n mov (%rbx), %al\n add %al, 0x50018 + by_rip(%rip)\n add 0x50018, %r8b\n inc %rbx\n dec %rcx\n jnz 1b"); /* in FRAMES */
/* The interpreter divides, and leaves vector registers in memory. */
#define DIVIDES "1: paddd %xmm1, %xmm0\n movzbl (%rbx), %r8d\n or $1, %r8d\n mov $1, %edx\n div %r8\n inc %rbx\n dec %rcx\n"
LOOP(vectors_lost, DIVIDES "jnz 1b");
LOOP(vectors_lost_and_read, DIVIDES "movups %xmm0, (%rsi)\n jnz 1b");
/* Addends stay in R10 and R11 from one operand to the next, but for what uses these in between. */
LOOP(kept, "1: movsd (%rsi), %xmm0\n add $0x80, %rbx\n add $8, %rsi\n unpcklpd %xmm0, %xmm0\n paddq -0x80(%rbx), %xmm0\n paddq %xmm0, %xmm1\n dec %rcx\n jnz 1b");
LOOP(kept_three, "lea 0x18(%rsi), %rdx\n 1: mov (%rbx), %r8\n mov %r8, (%rsi)\n xor (%rdx), %r8\n mov %r8, 8(%rbx)\n add %r8, 8(%rdx)\n add $8, %rbx\n add $16, %rsi\n add $4, %rdx\n dec %rcx\n jnz 1b");
LOOP(kept_and_lost, "1: mov (%rbx), %r10\n add %r10, %r11\n mov (%rsi), %r14\n sub %r14, %r15\n lea 5(%r11,%r15,2), %r10\n mov %r10, 8(%rbx)\n add %r11, (%rsi)\n add $8, %rbx\n add $8, %rsi\n dec %rcx\n jnz 1b");
LOOP(kept_or_shifted, "mov $3, %r10d\n 1: mov (%rbx), %r8\n rorx $5, %r11, %r11\n shrx %r10, (%rbx), %r14\n rorx $3, %r15, %r15\n add %r14, (%rbx)\n bts %r10, %r15\n xor %r15, (%rsi)\n xchg %r8, (%rsi)\n add $8, %rbx\n add $4, %rsi\n dec %rcx\n jnz 1b");
LOOP(kept_around_others, "1: movzbl (%rbx), %eax\n add (%rsi), %r8b\n movzbl (%rsi,%rax), %edx\n add %dl, (%rbx)\n test $1, %al\n jz 2f\n add %al, (%rsi)\n inc %rbx\n inc %rsi\n dec %rcx\n jnz 1b\n 2: nop");
LOOP(lost_in_one, "1: add (%rbx), %r8\n add %r8, %r11\n add %r11, 8(%rbx)\n sub (%rsi), %r11\n lea 1(%r11), %r15\n sub %r15, (%rbx)\n add $8, %rbx\n add $8, %rsi\n dec %rcx\n jnz 1b");
LOOP(lost_behind_others, "mov %rsi, %rdx\n 1: add (%rbx), %r8\n movzbl (%rdx), %r9d\n mov %r9, %r11\n lea 3(%r11), %r10\n add %r8, 8(%rbx)\n imul $3, (%rdx), %r11\n sub %r8, %r11\n add %r11, (%rbx)\n lea 1(%rsi,%r9), %rdx\n add $8, %rbx\n add $8, %rsi\n dec %rcx\n jnz 1b");
LOOP(second_lost, "1: mov (%rbx), %r8\n xor (%rsi), %r8\n shld $1, %r11, %r9\n sub %r8, %r9\n add %r9, 8(%rsi)\n mulx (%rsi), %r14, %r15\n sub %r14, (%rsi)\n add %r15, (%rbx)\n add $8, %rbx\n add $16, %rsi\n dec %rcx\n jnz 1b");
/* Too long for copies. */
LOOP(too_long, "mov $0x100, %r15d\n mov %rsi, %r14\n mov $3, %r10d\n mov $77, %r8d\n 1: paddd %xmm1, %xmm0\n mov (%rbx), %al\n"
               ".irp n,0,8,16,24,32,40,48,56,64,72,80,88,96,104,112,120,128\n bts %r10, \\n(%r14,%r15)\n .endr\n"
               "mov $1, %edx\n div %r8\n inc %rbx\n dec %rcx\n jnz 1b");
/* What looks like steps and is none. */
LOOP(narrow_step, "1: mov (%rbx), %r8\n add $8, %ebx\n dec %rcx\n jnz 1b");
LOOP(byte_step, "1: mov (%rbx), %al\n add $1, %bl\n dec %rcx\n jnz 1b");
LOOP(high_byte, "1: mov (%rbx), %al\n inc %bh\n dec %rcx\n jnz 1b");
LOOP(masked, "1: mov (%rbx), %rax\n add $8, %rbx\n and $-0x10, %rbx\n add $9, %rbx\n dec %rcx\n jnz 1b");
LOOP(swapped, "1: mov (%rbx), %rax\n xchg %rbx, %rsi\n add $8, %rbx\n dec %rcx\n jnz 1b");
LOOP(moved, "1: mov (%rbx), %rax\n cmp $40, %rcx\n cmovb %rsi, %rbx\n add $8, %rbx\n dec %rcx\n jnz 1b");
LOOP(multiplied, "1: mov %cl, (%rsi,%rdx)\n mov $1, %eax\n mul %rcx\n inc %rdx\n dec %rcx\n jnz 1b");
LOOP(stored_over, "mov %rbx, (%rsi)\n 1: mov (%rbx), %al\n inc %rbx\n xadd %rbx, (%rsi)\n mov (%rsi), %rbx\n inc %rbx\n dec %rcx\n jnz 1b");
LOOP(index_wraps, "mov $0xFFFFFFF0, %edx\n mov $0xFFFFFFF0, %eax\n sub %rax, %rbx\n 1: mov (%rbx,%rdx), %r8\n add $8, %edx\n dec %rcx\n jnz 1b");
LOOP(vector_to_base, "movq %rbx, %xmm3\n 1: mov (%rbx), %al\n paddq %xmm4, %xmm3\n movq %xmm3, %rbx\n inc %rbx\n dec %rcx\n jnz 1b");

static const struct {
    const char *name;
    const uint8_t *code, *end;
    bool copied; /* is one that the translator makes copies of */
} loops[] = {
#define ROW(name, copied) {#name, name, name##_end, copied}
    ROW(bytes, true),        ROW(words, true),          ROW(backward, true),
    ROW(two_arrays, true),   ROW(wide_step, true),      ROW(too_wide, true),
    ROW(neighbours, true),   ROW(far_apart, true),      ROW(middle, true),
    ROW(indexed, true),      ROW(both_move, true),      ROW(standing, true),
    ROW(aligned, true),      ROW(aligned_or_not, false), ROW(aligned_pair, true),
    ROW(ymm, true),          ROW(exchange, true),       ROW(locked, false),
    ROW(exit_early, true),   ROW(jump_back, true),      ROW(displaced, true),
    ROW(stack_pointer, true), ROW(division, true),      ROW(flags_live, false),
    ROW(carries, true),      ROW(table, true),          ROW(chase, false),
    ROW(of_code, true),      ROW(narrow_step, false),   ROW(byte_step, false),
    ROW(high_byte, false),   ROW(masked, false),        ROW(swapped, false),
    ROW(moved, false),       ROW(multiplied, false),     ROW(stored_over, false),
    ROW(index_wraps, false), ROW(vector_to_base, false), ROW(many_arrays, true),
    ROW(two_scales, true),   ROW(base_is_index, true), ROW(scaled_itself, true), ROW(by_fs, true),
    ROW(absolute, true),     ROW(by_rip, true),         ROW(vectors_lost, true),
    ROW(vectors_lost_and_read, true), ROW(too_long, false), ROW(kept, true),
    ROW(kept_three, true),   ROW(kept_and_lost, true),  ROW(kept_or_shifted, true),
    ROW(kept_around_others, true), ROW(lost_in_one, true), ROW(lost_behind_others, true),
    ROW(second_lost, true), ROW(index_down, true),
};

/* --- running --- */

struct result {
    int ending;
    uint64_t rip, error, cr2, rflags;
    uint64_t gpr[16];
    uint8_t xmm[16][16], ymm_high[16][16];
    uint8_t frames[FRAMES_SIZE];
};

struct start {
    uint64_t rbx, rsi, rcx;
};

static void map_arrays(void)
{
    static const uint32_t frame[] = {0x3000, 0x1000, 0x4000, 0x2000};
    memset(e.ram + TABLE, 0, PAGE_SIZE);
    for (unsigned int n = 0; n < ARRAY_SIZE(frame); n++)
        map_far(n + 1, (FRAMES + frame[n]) | PAGE_FLAGS | (n < 3 ? X86_PTE_W : 0));
}

static void fill_arrays(void)
{
    uint64_t v = 88172645463325252u;
    for (uint32_t n = 0; n < FRAMES_SIZE; n += 8) {
        v ^= v << 13;
        v ^= v >> 7;
        v ^= v << 17;
        cpu_env_put64(&e, FRAMES + n, v);
    }
}

static void prepare(const struct start *s)
{
    memset(e.cpu->gpr, 0, sizeof(e.cpu->gpr));
    memset(e.cpu->fpu.xmm, 0x5A, sizeof(e.cpu->fpu.xmm));
    memset(e.cpu->fpu.ymm_high, 0xA5, sizeof(e.cpu->fpu.ymm_high));
    for (unsigned int n = 8; n < 16; n++)
        e.cpu->gpr[n] = 0x0101010101010101u * n;
    e.cpu->gpr[RAX] = 0x77;
    e.cpu->gpr[RBX] = s->rbx;
    e.cpu->gpr[RSI] = s->rsi;
    e.cpu->gpr[RCX] = s->rcx;
    e.cpu->gpr[RSP] = CPU_ENV_STACK0;
    e.cpu->rflags = X86_FLAG_ONE;
    e.cpu->cr2 = 0;
    at.error = at.rip = 0;
    fill_arrays();
}

static void take(struct result *r, int ending)
{
    memset(r, 0, sizeof(*r));
    r->ending = ending;
    r->rip = ending == HALTED ? e.cpu->rip : at.rip;
    r->error = at.error;
    r->cr2 = e.cpu->cr2;
    r->rflags = (ending == HALTED ? e.cpu->rflags : at.rflags) & (X86_FLAGS_STATUS | X86_FLAG_DF);
    memcpy(r->gpr, e.cpu->gpr, sizeof(r->gpr));
    memcpy(r->xmm, e.cpu->fpu.xmm, sizeof(r->xmm));
    memcpy(r->ymm_high, e.cpu->fpu.ymm_high, sizeof(r->ymm_high));
    memcpy(r->frames, e.ram + FRAMES, FRAMES_SIZE);
}

/* What is at CPU_ENV_CODE, in ring 0, instruction by instruction, nothing translated or cached. */
static int step_at_code(void)
{
    uint32_t steps = 0;
    e.cpu->activity = X86_RUNNING;
    e.cpu->rip = CPU_ENV_CODE;
    cpu_env_set_cpl(&e, 0);
    e.cpu->gpr[RSP] = CPU_ENV_STACK0;
    x86_update_mode(e.cpu);
    while (e.cpu->activity == X86_RUNNING && steps++ < STEPS_MOST)
        (void)cpu_env_step_raise(&e);
    CHECK(steps < STEPS_MOST);
    return ending_of_halt();
}

static void run_reference(const struct start *s, struct result *r)
{
    prepare(s);
    map_arrays();
    x86_tlb_flush(e.cpu);
    take(r, step_at_code());
}

static void run_translated(const struct start *s, bool cold, struct result *r)
{
    prepare(s);
    if (cold) {
        map_arrays();
        x86_tlb_flush(e.cpu);
    }
    take(r, run_at(CPU_ENV_CODE, 0));
}

static bool is_equal(const char *name, const struct start *s, const struct result *a, const struct result *b)
{
    if (!memcmp(a, b, sizeof(*a)))
        return true;
    printf("  %s from rbx %lx, rsi %lx, rcx %lu: ending %d or %d, rip %lx or %lx, rcx %lu or %lu, cr2 %lx or %lx%s\n",
           name, s->rbx, s->rsi, s->rcx, a->ending, b->ending, a->rip, b->rip, a->gpr[RCX], b->gpr[RCX],
           a->cr2, b->cr2, memcmp(a->frames, b->frames, FRAMES_SIZE) ? ", memory differs" : "");
    return false;
}

static const uint16_t edges[] = {0,     8,     0x20,  0x98,  0x103, 0x7F0, 0x801, 0xA00, 0xE00, 0xF80, 0xFB0,
                                 0xFC8, 0xFD1, 0xFE0, 0xFE8, 0xFF0, 0xFF1, 0xFF4, 0xFF8, 0xFFC, 0xFFF};

static void run_three_times(const char *name, const struct start *s)
{
    static struct result reference, translated;
    run_reference(s, &reference);
    run_translated(s, true, &translated);
    CHECK(is_equal(name, s, &reference, &translated));
    run_translated(s, false, &translated);
    CHECK(is_equal(name, s, &reference, &translated));
}

/* From an offset in a page, each of the pages in turn. */
static void run_from_edge(const char *name, unsigned int n)
{
    for (unsigned int k = 0; k < 12; k++) {
        const struct start s = {
            .rbx = ARRAY + (k & 3) * PAGE_SIZE + edges[n],
            .rsi = ARRAY + ((k + n) % 3) * PAGE_SIZE + edges[(n * 5 + k) % ARRAY_SIZE(edges)],
            .rcx = k < 6 ? 50 : k < 10 ? 200 : 1 + k % 5,
        };
        run_three_times(name, &s);
    }
}

/* From many places shortly before the end of a page. */
static void run_near_end(const char *name)
{
    for (unsigned int n = 0; n < 256; n++) {
        const struct start s = {
            .rbx = ARRAY + (1 + (n & 3)) * PAGE_SIZE - 0x180 + n * 9 % 0x180,
            .rsi = ARRAY + 0x1000 + n * 4,
            .rcx = 40,
        };
        run_three_times(name, &s);
    }
}

static void test_loops_are_what_they_are_step_by_step(void)
{
    for (size_t l = 0; l < ARRAY_SIZE(loops); l++) {
        begin();
        put_code(CPU_ENV_CODE, loops[l].code, (size_t)(loops[l].end - loops[l].code));
        for (unsigned int n = 0; n < ARRAY_SIZE(edges); n++)
            run_from_edge(loops[l].name, n);
        run_near_end(loops[l].name);
        if ((stats()->loops > 0) != loops[l].copied)
            printf("  %s: %lu loops\n", loops[l].name, stats()->loops);
        CHECK_EQ(stats()->loops > 0, loops[l].copied);
        end();
    }
}

/* What is locked and not aligned is the interpreter's, each time, whether it is split or not. */
static void test_misaligned_exchange_is_interpreted(void)
{
    static struct result r;
    const struct start s = {.rbx = ARRAY + 1, .rsi = ARRAY, .rcx = 400};
    begin();
    put_code(CPU_ENV_CODE, exchange, (size_t)(exchange_end - exchange));
    run_translated(&s, true, &r);
    CHECK_EQ(r.ending, HALTED);
    CHECK(stats()->loops > 0);
    CHECK(stats()->tlb_slow >= 400);
    end();
}

/* With counters in the code: each instruction once, give or take a block. */
static void test_copies_are_counted(void)
{
    static struct result reference, r;
    const struct start s = {.rbx = ARRAY + 0x340, .rsi = ARRAY, .rcx = 5000};
    begin();
    soft_translator(e.cpu)->counts = true;
    put_code(CPU_ENV_CODE, bytes, (size_t)(bytes_end - bytes));
    run_reference(&s, &reference);
    run_translated(&s, true, &r);
    CHECK(is_equal("bytes", &s, &reference, &r));
    CHECK_EQ(r.ending, HALTED);
    CHECK(stats()->loops > 0);
    uint64_t counted = soft_translator(e.cpu)->frame->instructions;
    CHECK(counted >= 4 * s.rcx && counted < 4 * s.rcx + 200);
    end();
}

/* --- what happens meanwhile --- */

LOOP(endless, "1: incl (%rbx)\n jmp 1b");

static void test_endless_loop_is_left(void)
{
    begin();
    map_arrays();
    x86_tlb_flush(e.cpu);
    e.cpu->gpr[RBX] = ARRAY;
    put_code(CPU_ENV_CODE, endless, (size_t)(endless_end - endless));
    CHECK_EQ(run_until_kicked(), KICKED);
    CHECK(stats()->loops > 0);
    CHECK_EQ(e.cpu->gpr[RBX], ARRAY);
    CHECK(e.cpu->rip >= CPU_ENV_CODE && e.cpu->rip < CPU_ENV_CODE + 8);
    end();
}

/* The array's page is given another frame, and taken away: the next run of the same loop must see it. */
static void test_array_is_mapped_anew(void)
{
    begin();
    map_arrays();
    put_code(CPU_ENV_CODE, bytes, (size_t)(bytes_end - bytes));
    for (unsigned int n = 0; n < 4; n++) {
        uint64_t frame = FRAMES + n * PAGE_SIZE;
        map_far(1, frame | PAGE_FLAGS | X86_PTE_W);
        x86_tlb_flush_page(e.cpu, ARRAY);
        memset(e.ram + FRAMES, 0, FRAMES_SIZE);
        e.cpu->gpr[RBX] = ARRAY;
        e.cpu->gpr[RCX] = PAGE_SIZE;
        e.cpu->gpr[RAX] = n + 1;
        e.cpu->gpr[RSP] = CPU_ENV_STACK0;
        CHECK_EQ(run_at(CPU_ENV_CODE, 0), HALTED);
        for (uint32_t k = 0; k < FRAMES_SIZE; k++)
            CHECK_EQ(e.ram[FRAMES + k], k / PAGE_SIZE == n ? n + 1 : 0);
    }
    map_far(1, 0);
    x86_tlb_flush_page(e.cpu, ARRAY);
    e.cpu->gpr[RBX] = ARRAY;
    e.cpu->gpr[RCX] = 10;
    CHECK_EQ(run_at(CPU_ENV_CODE, 0), X86_PF);
    CHECK_EQ(e.cpu->gpr[RCX], 10);
    CHECK(stats()->loops > 0);
    end();
}

LOOP(into_itself, "1: movb %al, (%rbx)\n inc %rbx\n dec %rcx\n jnz 1b\n nop\n nop\n nop\n nop");

/* A loop that stores into the code before it, and at last into itself. */
static void test_loop_runs_into_its_own_code(void)
{
    static uint8_t code[64];
    struct result results[2];
    for (unsigned int n = 0; n < 2; n++) {
        begin();
        map_arrays();
        size_t size = (size_t)(into_itself_end - into_itself);
        memset(code, 0x90, sizeof(code));
        memcpy(code + 40, into_itself, size);
        put_code(CPU_ENV_CODE, code, 40 + size);
        const struct start s = {.rbx = CPU_ENV_CODE + 8, .rsi = ARRAY, .rcx = 60};
        prepare(&s);
        e.cpu->gpr[RAX] = 0xF4; /* HLT, over the loop's own first byte in the end */
        take(&results[n], n == 0 ? step_at_code() : run_at(CPU_ENV_CODE, 0));
        CHECK_EQ(stats()->loops > 0, n == 1); /* made anew after each store into its page */
        memcpy(results[n].frames, e.ram + CPU_ENV_CODE, sizeof(code) + size);
        end();
    }
    CHECK_EQ(memcmp(&results[0], &results[1], sizeof(results[0])), 0);
    CHECK_EQ(results[0].ending, HALTED);
    CHECK(results[0].gpr[RCX] > 0);
}

int main(void)
{
    UNIT_RUN(test_loops_are_what_they_are_step_by_step);
    UNIT_RUN(test_misaligned_exchange_is_interpreted);
    UNIT_RUN(test_copies_are_counted);
    UNIT_RUN(test_endless_loop_is_left);
    UNIT_RUN(test_array_is_mapped_anew);
    UNIT_RUN(test_loop_runs_into_its_own_code);
    return unit_done();
}
