/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * How far SIMD and x87 instructions reach in host memory. They run natively on guest RAM, whose
 * neighbour in the host's address space may be anything: a fragment that touches one byte more than
 * its operand (a decoder's memsize that is too small, a load that is emitted too wide) would fault
 * in the host or leak what lies there.
 *
 * One page of guest RAM stands alone between two host pages without access. Every memory encoding
 * that the host's level has is run with its operand at the very end and the very beginning of that
 * page, and one byte further in where it need not be aligned: no signal, no fault, and no byte
 * changed outside of the operand. The guest's pages on both sides are not present, so software that
 * steps over the end is found as well.
 */
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "core/err.h"
#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"
#include "x86/level.h"
#include "x86/mem.h"

enum {
    LINEAR = 0x200000,
    PHYSICAL = 0x40000000,
    FILL = 0, /* what the page holds: zeros are a valid operand of everything */
    ELEMENTS = 0xFF,
    ENCODINGS_MIN = 5000,
    FAILURES_SHOWN = 20,
};

static struct cpu_env env;
static struct x86_level level;
static uint8_t *page;
static sigjmp_buf back;
static unsigned int encodings, runs, failures;

static void on_signal(int number)
{
    siglongjmp(back, number);
}

static void catch_signals(void)
{
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    static uint8_t stack[65536];
    stack_t s = {.ss_sp = stack, .ss_size = sizeof(stack)};
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_NODEFER};
    CHECK_EQ(sigaltstack(&s, NULL), 0);
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        CHECK_EQ(sigaction(numbers[i], &a, NULL), 0);
}

static void create(void)
{
    cpu_env_create(&env, CPU_ENV_LONG);
    x86_level_host(&level);
    env.cpu->level = &level;
    uint8_t *m = mmap(NULL, 3 * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page = m + PAGE_SIZE;
    CHECK(m != MAP_FAILED && mprotect(page, PAGE_SIZE, PROT_READ | PROT_WRITE) == 0);
    CHECK_EQ(guest_mem_add(&env.vm.mem, gpa(PHYSICAL), PAGE_SIZE, page, true), OK);
    *cpu_env_pte(&env, LINEAR) = PHYSICAL | X86_PTE_P | X86_PTE_W | X86_PTE_U;
    *cpu_env_pte(&env, LINEAR - PAGE_SIZE) = 0;
    *cpu_env_pte(&env, LINEAR + PAGE_SIZE) = 0;
    x86_tlb_flush(env.cpu);
    catch_signals();
}

static void destroy(void)
{
    munmap(page - PAGE_SIZE, 3 * PAGE_SIZE);
    cpu_env_destroy(&env);
}

/* --- one execution ---------------------------------------------------------------------------- */

static void prepare(const struct insn *i, uint32_t at, uint8_t elements)
{
    struct x86_cpu *cpu = env.cpu;
    struct x86_fpu *fpu = &cpu->fpu;
    memset(page, FILL, PAGE_SIZE);
    cpu->gpr[RAX] = cpu->gpr[RDI] = LINEAR + at;
    cpu->gpr[RCX] = 0; /* the index where it is no vector; PCMPxSTRI write it */
    cpu->gpr[RDX] = 3; /* PCMPESTRx: length */
    cpu->rip = CPU_ENV_CODE + i->length;
    fpu->mxcsr = 0x1F80;
    fpu->fcw = 0x37F;
    fpu->fsw = 0;
    fpu->ftw = 0xFF;
    memset(fpu->st, elements, sizeof(fpu->st));
    memset(fpu->xmm, elements, sizeof(fpu->xmm));
    memset(fpu->ymm_high, elements, sizeof(fpu->ymm_high));
    if (i->index != INSN_NO_REG) { /* gathers: all elements at the one address */
        memset(fpu->xmm[i->index], 0, sizeof(fpu->xmm[0]));
        memset(fpu->ymm_high[i->index], 0, sizeof(fpu->ymm_high[0]));
    }
}

static bool is_unchanged_around(uint32_t at, uint32_t size)
{
    for (uint32_t n = 0; n < PAGE_SIZE; n++)
        if ((n < at || n >= at + size) && page[n] != FILL)
            return false;
    return true;
}

static void run_at(const struct insn *i, const uint8_t *bytes, uint32_t at, uint32_t size,
                   uint8_t elements)
{
    volatile int status = -1;
    prepare(i, at, elements);
    int number = sigsetjmp(back, 1);
    if (number == 0)
        status = x86_select(env.cpu, i)(env.cpu, i);
    runs++;
    if (number == 0 && status == X86_OK && is_unchanged_around(at, size))
        return;
    if (failures++ >= FAILURES_SHOWN)
        return;
    printf("  signal %d, status %d, vector %u, %u bytes at %x:", number, status,
           env.cpu->fault.vector, size, at);
    for (unsigned int n = 0; n < i->length; n++)
        printf(" %02x", bytes[n]);
    printf("\n");
}

/* Bytes of the operand; the element's for gathers, whose elements all lie at the address. */
static uint32_t operand_size(const struct insn *i)
{
    if (i->map == 2 && i->opcode >= 0x90 && i->opcode <= 0x93)
        return i->flags & INSN_REX_W ? 8 : 4;
    if (i->map == 1 && i->opcode == 0xF7) /* MASKMOVQ, MASKMOVDQU: implicit */
        return i->simd & SIMD_MMX ? 8 : 16;
    return i->memsize;
}

static void run_everywhere(const uint8_t *bytes)
{
    struct insn i;
    if (insn_decode(&i, bytes, INSN_MAX_LENGTH, INSN_MODE_64) != INSN_DECODE_OK)
        return;
    bool implicit = i.op == INSN_SIMD && i.map == 1 && i.opcode == 0xF7;
    if ((i.op != INSN_SIMD && i.op != INSN_X87) || (!(i.flags & INSN_MEM) && !implicit) ||
        !x86_level_has(&level, (enum insn_feature)i.feature))
        return;
    uint32_t size = operand_size(&i), last = PAGE_SIZE - size;
    encodings++;
    for (unsigned int n = 0; n < 2; n++) {
        uint8_t elements = n ? ELEMENTS : 0; /* masks: none and all selected */
        run_at(&i, bytes, last, size, elements);
        run_at(&i, bytes, 0, size, elements);
        if (i.simd & SIMD_ALIGNED)
            continue;
        run_at(&i, bytes, last - 1, size, elements);
        run_at(&i, bytes, 1, size, elements);
    }
}

/* --- all encodings ---------------------------------------------------------------------------- */

/* ModRM and what follows: [rax] or, for what wants a vector index, [rax + xmm1]; then the
 * immediate, if the instruction has one. */
static void run_operands(uint8_t *bytes, size_t n, uint8_t reg)
{
    static const uint8_t immediates[] = {0x00, 0xFF};
    for (size_t k = 0; k < ARRAY_SIZE(immediates); k++) {
        bytes[n] = (uint8_t)(reg << 3);
        memset(bytes + n + 1, immediates[k], 4);
        run_everywhere(bytes);
        bytes[n] = (uint8_t)(reg << 3 | 4);
        bytes[n + 1] = 0x08;
        memset(bytes + n + 2, immediates[k], 4);
        run_everywhere(bytes);
    }
    bytes[n] = (uint8_t)(0xC0 | reg << 3 | 1); /* MASKMOVxx are the only ones that take it */
    run_everywhere(bytes);
}

static void run_legacy(uint8_t map, uint8_t opcode, unsigned int form, uint8_t reg)
{
    static const uint8_t prefix[] = {0, 0x66, 0xF3, 0xF2};
    static const uint8_t escape[] = {0, 0, 0x38, 0x3A};
    uint8_t bytes[INSN_MAX_LENGTH + 1] = {0};
    size_t n = 0;
    if (prefix[form & 3])
        bytes[n++] = prefix[form & 3];
    if (form & 4)
        bytes[n++] = 0x48;
    bytes[n++] = 0x0F;
    if (escape[map])
        bytes[n++] = escape[map];
    bytes[n++] = opcode;
    run_operands(bytes, n, reg);
}

/* form: pp, W, L, vvvv 0 or 15 (inverted: 15 is "none", which most want) */
static void run_vex(uint8_t map, uint8_t opcode, unsigned int form, uint8_t reg)
{
    uint8_t bytes[INSN_MAX_LENGTH + 1] = {0xC4, (uint8_t)(0xE0 | map)};
    uint8_t vvvv = form & 16 ? 0x78 : 0x50;
    bytes[2] = (uint8_t)((form & 4 ? 0x80 : 0) | vvvv | (form & 8 ? 4 : 0) | (form & 3));
    bytes[3] = opcode;
    run_operands(bytes, 4, reg);
}

static void test_simd(void)
{
    for (uint8_t map = 1; map <= 3; map++) {
        for (unsigned int opcode = 0; opcode < 256; opcode++) {
            bool group = map == 1 && opcode >= 0x71 && opcode <= 0x73;
            for (uint8_t reg = 0; reg < (group ? 8 : 2); reg++) {
                for (unsigned int form = 0; form < 8; form++)
                    run_legacy(map, (uint8_t)opcode, form, reg);
                for (unsigned int form = 0; form < 32; form++)
                    run_vex(map, (uint8_t)opcode, form, reg);
            }
        }
    }
    printf("SIMD: %u encodings, %u executions\n", encodings, runs);
    CHECK_EQ(failures, 0);
    CHECK(encodings > ENCODINGS_MIN);
}

static void test_x87(void)
{
    unsigned int before = encodings;
    failures = 0;
    for (unsigned int escape = 0xD8; escape <= 0xDF; escape++) {
        for (unsigned int reg = 0; reg < 8; reg++) {
            uint8_t plain[INSN_MAX_LENGTH + 1] = {(uint8_t)escape, (uint8_t)(reg << 3)};
            uint8_t narrow[INSN_MAX_LENGTH + 1] = {0x66, plain[0], plain[1]};
            run_everywhere(plain);
            run_everywhere(narrow); /* environments are shorter */
        }
    }
    CHECK_EQ(failures, 0);
    CHECK(encodings - before > 100);
}

/* The frame itself: a byte beyond the page is a signal that it sees. */
static void check_guard(const volatile uint8_t *beyond)
{
    int number = sigsetjmp(back, 1);
    if (number == 0)
        (void)*beyond;
    CHECK_EQ(number, SIGSEGV);
}

static void test_guards(void)
{
    check_guard(page - 1);
    check_guard(page + PAGE_SIZE);
}

int main(void)
{
    create();
    UNIT_RUN(test_guards);
    UNIT_RUN(test_simd);
    UNIT_RUN(test_x87);
    destroy();
    return unit_done();
}
