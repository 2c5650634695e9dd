/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A machine whose two vCPUs run, each on a thread of its own, is brought to rest from outside,
 * saved, and goes on in another machine. tests/unit/roundtrip.c compares one vCPU's run to the last
 * bit; here the moments are wherever the threads happen to be, so the guest itself keeps what can
 * be checked:
 *
 *  - Each vCPU steps a recurrence in registers and counts its steps; vCPU 1 does so once more in
 * its NMI handler, in other registers. A register lost or an instruction done twice breaks the
 * chain.
 *  - vCPU 0 sends two NMIs in each round. The first finds vCPU 1 running; its handler does not
 * return before vCPU 0 lets it. The second comes while the handler runs: in odd rounds before the
 * move, which then meets a vCPU with NMIs masked and one pending; in even rounds after it, when
 * NMIs must still be masked. Handlers are counted, and nesting is an error.
 *  - Each vCPU has its own TSC_ADJUST. Time stands still while they run, so that their TSCs, read
 * at the end, must differ by that to the tick, and be what time the test let pass.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/err.h"
#include "core/mem.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/pc_env.h"
#include "tests/lib/unit.h"

enum {
    ROUNDS = 16,
    PATIENCE_US = 60 * 1000 * 1000,
    STEP_US = 20,
    ADVANCE_NS = 1000000,
    STATE_MAX = 32768,

    /* Words of the guest's memory */
    WORDS = 0x280000,
    HOST_GO = 0x00, /* round that the test lets go on */
    READY = 0x04,   /* round whose first handler runs */
    HANDLERS = 0x08,
    DEPTH = 0x0C,
    NESTED = 0x10,
    UP = 0x14,
    HANDLER_GO = 0x18, /* round whose first handler may return */
    FINISH = 0x1C,
    BEATS = 0x20, /* of each vCPU */
    DONE = 0x28,
    RESULTS = 0x40, /* 64 bytes for each vCPU */
    STEPS = 0x00,
    CHAIN = 0x04,
    HANDLER_STEPS = 0x08,
    HANDLER_CHAIN = 0x0C,
    TSC = 0x10,
    ADJUST = 0x18,
};

#define ADJUST_0 UINT64_C(0x0000012345678000)
#define ADJUST_1 UINT64_C(0xFFFFFFFFFFF01234) /* behind */
#define FACTOR   0x5851F42Du
#define ADDEND   0x14057B7Fu

/* clang-format off */
#define AT(label) "(" label " - smp_begin + 0x100000)"
#define STEP "imul $0x5851F42D, %ebx, %ebx\n add $0x14057B7F, %ebx\n inc %esi\n"
#define SEND_NMI "movl $0x1000000, 0xFEE00310\n movl $0x4400, 0xFEE00300\n"
#define SET_ADJUST(high, low) "mov $0x3B, %ecx\n mov $" high ", %edx\n mov $" low ", %eax\n wrmsr\n"
#define SAVE_RESULTS(at)                                                                          \
    "mov %esi, 0x280000 + " at "\n mov %ebx, 0x280004 + " at "\n"                                 \
    "mov %ebp, 0x280008 + " at "\n mov %ecx, 0x28000C + " at "\n"                                 \
    "rdtsc\n mov %eax, 0x280010 + " at "\n mov %edx, 0x280014 + " at "\n"                         \
    "mov $0x3B, %ecx\n rdmsr\n mov %eax, 0x280018 + " at "\n mov %edx, 0x28001C + " at "\n"

__asm__(
    ".pushsection .rodata\n .balign 16\n .globl smp_begin, smp_ap, smp_end\n"
    "smp_begin:\n"
    ".long 0x1BADB002, 0x10000, 0 - 0x1BADB002 - 0x10000, 0x100000, 0x100000, 0, 0, 0x100020\n"
    ".code32\n"
    "mov $0x300000, %esp\n lidt " AT("smp_idtr") "\n"
    "mov $" AT("on_nmi") ", %eax\n mov $0x100000, %edx\n mov %ax, %dx\n mov %edx, 0x206010\n"
    "mov $0x8E00, %ax\n mov %eax, 0x206014\n" /* vector 2: interrupt gate, CS 0x10 */
    SET_ADJUST("0x123", "0x45678000")
    "movl $0x1FF, 0xFEE000F0\n xor %esi, %esi\n xor %ebx, %ebx\n xor %edi, %edi\n"
    "1: " STEP "cmpl $1, 0x280014\n jne 1b\n"

    "2: inc %edi\n" SEND_NMI
    "lea -1(%edi,%edi), %eax\n 3: " STEP "cmp 0x280008, %eax\n jne 3b\n"
    "test $1, %edi\n jz 4f\n" SEND_NMI
    "4: mov %edi, 0x280004\n"
    "5: " STEP "incl 0x280020\n cmp %edi, 0x280000\n jb 5b\n"
    "test $1, %edi\n jnz 7f\n" SEND_NMI
    "7: lea 2000(%esi), %edx\n 8: " STEP "incl 0x280020\n cmp %edx, %esi\n jb 8b\n"
    "mov %edi, 0x280018\n"
    "add $1, %eax\n 9: " STEP "cmp 0x280008, %eax\n jne 9b\n"
    "6: " STEP "cmpl $0, 0x28000C\n jne 6b\n"
    "cmp $16, %edi\n jb 2b\n"
    "movl $1, 0x28001C\n" SAVE_RESULTS("0x40") "movl $1, 0x280028\n"
    "1: hlt\n jmp 1b\n"

    "smp_ap: mov $0x2F0000, %esp\n lidt " AT("smp_idtr") "\n"
    SET_ADJUST("0xFFFFFFFF", "0xFFF01234")
    "movl $0x1FF, 0xFEE000F0\n xor %esi, %esi\n xor %ebx, %ebx\n xor %ebp, %ebp\n xor %ecx, %ecx\n"
    "movl $1, 0x280014\n"
    "2: " STEP "incl 0x280024\n cmpl $0, 0x28001C\n je 2b\n"
    SAVE_RESULTS("0x80") "movl $1, 0x28002C\n"
    "1: hlt\n jmp 1b\n"

    /* On vCPU 1. Of each two, the first waits to be let go. */
    "on_nmi: push %eax\n lock incl 0x28000C\n cmpl $1, 0x28000C\n je 1f\n incl 0x280010\n"
    "1: mov 0x280008, %eax\n inc %eax\n mov %eax, 0x280008\n test $1, %al\n jz 3f\n"
    "inc %eax\n shr $1, %eax\n"
    "2: imul $0x5851F42D, %ecx, %ecx\n add $0x14057B7F, %ecx\n inc %ebp\n incl 0x280024\n"
    "cmp %eax, 0x280018\n jb 2b\n"
    "3: lock decl 0x28000C\n pop %eax\n iret\n"

    ".balign 8\n smp_idtr: .word 0xFF\n .long 0x206000\n"
    ".code64\n smp_end:\n .popsection\n");
/* clang-format on */

extern const uint8_t smp_begin[], smp_ap[], smp_end[];

/* --- a machine and its threads ---------------------------------------------------------------- */

struct machine {
    struct pc_env env;
    pthread_t thread[2];
};

static struct machine machines[2]; /* one, and the one that it moves to */

static _Atomic uint32_t *word(struct machine *m, uint32_t offset)
{
    return (_Atomic uint32_t *)(void *)(m->env.ram + WORDS + offset);
}

static void build(struct machine *m)
{
    pc_env_create(&m->env, 2);
    m->env.engine = &engine_soft;
    m->env.files.kernel = boot_env_file(smp_begin, (size_t)(smp_end - smp_begin));
    CHECK_EQ(pc_env_build(&m->env), OK);
}

/* vCPU 1 begins as vCPU 0 does, elsewhere. */
static void boot(struct machine *m)
{
    build(m);
    CHECK_EQ(pc_env_boot(&m->env), OK);
    const struct x86_cpu *first = pc_cpu(&m->env.vm, 0);
    struct x86_cpu *cpu = pc_cpu(&m->env.vm, 1);
    memcpy(cpu->seg, first->seg, sizeof(cpu->seg));
    cpu->tr = first->tr;
    cpu->ldtr = first->ldtr;
    cpu->gdtr = first->gdtr;
    cpu->rflags = first->rflags;
    cpu->cr0 = first->cr0;
    cpu->rip = 0x100000 + (uint64_t)(smp_ap - smp_begin);
    cpu->activity = X86_RUNNING;
    x86_update_mode(cpu);
}

static void *run_first(void *vm)
{
    pc_run_vcpu(vm, 0);
    return NULL;
}

static void *run_second(void *vm)
{
    pc_run_vcpu(vm, 1);
    return NULL;
}

static void go(struct machine *m)
{
    vm_clock_start(&m->env.vm);
    CHECK_EQ(pthread_create(&m->thread[0], NULL, run_first, &m->env.vm), 0);
    CHECK_EQ(pthread_create(&m->thread[1], NULL, run_second, &m->env.vm), 0);
}

/* Its threads have been told to stop. */
static void end(struct machine *m)
{
    pthread_join(m->thread[0], NULL);
    pthread_join(m->thread[1], NULL);
    CHECK_EQ(m->env.vm.stop_reason, VM_STOP_USER);
    vm_clock_stop(&m->env.vm);
}

static void wait_for(struct machine *m, uint32_t offset, uint32_t value)
{
    for (unsigned int us = 0; atomic_load(word(m, offset)) != value; us += STEP_US) {
        if (us > PATIENCE_US) {
            fprintf(stderr, "the guest does not get on: %s\n", m->env.vm.stop_text);
            abort();
        }
        usleep(STEP_US);
    }
}

/* --- moving ----------------------------------------------------------------------------------- */

struct state {
    size_t size;
    uint8_t bytes[STATE_MAX];
};

static unsigned int masked, pending;

static void save(const struct machine *m, struct state *s)
{
    struct state_writer w = {.buf = s->bytes, .size = STATE_MAX};
    state_save_all(&m->env.vm.state, &w);
    CHECK(w.used <= STATE_MAX);
    s->size = w.used;
}

static bool is_same(const struct state *a, const struct state *b)
{
    return a->size == b->size && memcmp(a->bytes, b->bytes, a->size) == 0;
}

/* At rest nothing moves, however long it lasts. */
static void check_rest(struct machine *m, const struct state *before)
{
    static struct state after;
    uint32_t beats[2];
    for (uint32_t n = 0; n < 2; n++) {
        CHECK(atomic_load(&m->env.vm.vcpu[n]->resting) && !atomic_load(&m->env.vm.vcpu[n]->parked));
        beats[n] = atomic_load(word(m, BEATS + n * 4));
    }
    usleep(500);
    for (uint32_t n = 0; n < 2; n++)
        CHECK_EQ(atomic_load(word(m, BEATS + n * 4)), beats[n]);
    save(m, &after);
    CHECK(is_same(before, &after));
}

static bool nmi_is_pending(const struct x86_cpu *cpu)
{
    return cpu->nmi_pending || vcpu_requests(&cpu->vcpu) & VCPU_REQ_NMI;
}

/* Both vCPUs of `from` are running; afterwards those of `to` are. round: what NMIs must be like on
 * vCPU 1, 0 if anything will do. */
static void move(struct machine *from, struct machine *to, uint32_t round)
{
    static struct state before, after;
    const struct x86_cpu *cpu = pc_cpu(&from->env.vm, 1);
    vm_rest_begin(&from->env.vm, NULL);
    if (round > 0) {
        CHECK(cpu->nmi_masked);
        CHECK_EQ(nmi_is_pending(cpu), round & 1);
        masked += cpu->nmi_masked;
        pending += nmi_is_pending(cpu);
    }
    vm_clock_stop(&from->env.vm);
    save(from, &before);
    check_rest(from, &before);
    build(to);
    memcpy(to->env.ram, from->env.ram, to->env.config.memory);
    CHECK_EQ(state_load_all(&to->env.vm.state, before.bytes, before.size), OK);
    save(to, &after);
    CHECK(is_same(&before, &after));
    vm_stop(&from->env.vm, VM_STOP_USER, 0, "moved");
    vm_rest_end(&from->env.vm, NULL);
    end(from);
    pc_env_destroy(&from->env);
    go(to);
}

/* --- the test --------------------------------------------------------------------------------- */

static uint32_t chain(uint32_t steps)
{
    uint32_t v = 0;
    while (steps--)
        v = v * FACTOR + ADDEND;
    return v;
}

static void check_chain(struct machine *m, uint32_t steps_at)
{
    uint32_t steps = atomic_load(word(m, steps_at));
    CHECK(steps > ROUNDS);
    CHECK_EQ(atomic_load(word(m, steps_at + CHAIN - STEPS)), chain(steps));
}

static void check_end(struct machine *m)
{
    const uint8_t *first = m->env.ram + WORDS + RESULTS, *second = first + 0x40;
    check_chain(m, RESULTS + STEPS);
    check_chain(m, RESULTS + 0x40 + STEPS);
    check_chain(m, RESULTS + 0x40 + HANDLER_STEPS);
    CHECK_EQ(atomic_load(word(m, HANDLERS)), 2 * ROUNDS);
    CHECK_EQ(atomic_load(word(m, NESTED)), 0);
    CHECK_EQ(load_u64(first + ADJUST), ADJUST_0);
    CHECK_EQ(load_u64(second + ADJUST), ADJUST_1);
    CHECK_EQ(load_u64(first + TSC), ADJUST_0 + ROUNDS * ADVANCE_NS); /* one tick is 1 ns */
    CHECK_EQ(load_u64(second + TSC), ADJUST_1 + ROUNDS * ADVANCE_NS);
}

static void test_moved_while_both_run(void)
{
    unsigned int on = 0, seed = 1;
    boot(&machines[0]);
    go(&machines[0]);
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        unit_context("round %u", round);
        wait_for(&machines[on], READY, round);
        move(&machines[on], &machines[on ^ 1], round);
        on ^= 1;
        fake_seam_advance(ADVANCE_NS);
        atomic_store(word(&machines[on], HOST_GO), round);
        if (round == ROUNDS)
            break;
        seed = seed * 1103515245 + 12345; /* and once more, wherever they are by then */
        usleep((seed >> 16) % 400);
        move(&machines[on], &machines[on ^ 1], 0);
        on ^= 1;
    }
    unit_context(NULL);
    wait_for(&machines[on], DONE, 1);
    wait_for(&machines[on], DONE + 4, 1);
    vm_stop(&machines[on].env.vm, VM_STOP_USER, 0, "done");
    end(&machines[on]);
    check_end(&machines[on]);
    pc_env_destroy(&machines[on].env);
    CHECK_EQ(masked, ROUNDS);
    CHECK_EQ(pending, ROUNDS / 2);
}

int main(void)
{
    UNIT_RUN(test_moved_while_both_run);
    CHECK_EQ(fake_seam_allocations(), 0);
    return unit_done();
}
