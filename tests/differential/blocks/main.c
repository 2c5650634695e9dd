/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The translator against interpreter and processor, block by block (blocks.h).
 *
 *     blocks [--count N] [--seed S] [--case S]
 *
 * N is in instructions that the reference executed. Without --seed half of them are of blocks from
 * a fixed seed, half from a random one, which is printed; BLOCKS_COUNT in the environment is
 * --count. Exit status: 0 all equal, 1 differences, 2 cannot run here.
 */
#include "tests/differential/blocks/compare.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "core/mem.h"
#include "x86/level.h"

enum { DEFAULT_COUNT = 1000000, FIXED_SEED = 20260611, MAX_FAILURES = 5, WATCHED_SECONDS = 30 };

struct tally {
    uint64_t blocks, steps, dropped, host, host_loose, kernel, rewritten, failures;
    uint64_t unsteady; /* the host's answer was another when asked again */
    uint64_t kinds[4], vectors[32];
};

static volatile uint64_t running; /* for whoever kills it */

/* SIGPROF: a run does not end. */
static void on_alarm(int sig)
{
    char text[64];
    (void)sig;
    int n = snprintf(text, sizeof(text), "blocks: --case %#lx hangs\n", running);
    ssize_t ignored = write(2, text, (size_t)n);
    (void)ignored;
    _exit(1);
}

/*
 * Which of two faults is found first, which byte of an operand is named, and what processors of
 * other makes do: see tests/differential/compare.c. Here such an end is not compared with the
 * host's.
 */
static bool end_is_loose(const struct block_case *c, const struct block_result *r)
{
    struct insn i;
    uint64_t at = r->end.state.rip - c->base;
    if (r->end.kind != BLOCK_FAULT)
        return false;
    if (r->end.vector == X86_AC || r->end.vector == X86_XM || r->end.vector == X86_MF)
        return true;
    if (at >= BOX_BLOCK_SIZE ||
        insn_decode(&i, r->code + at, BOX_BLOCK_SIZE - at, INSN_MODE_64) != INSN_DECODE_OK)
        return false;
    enum insn_group g = insn_op_group((enum insn_op)i.op);
    return i.op == INSN_CMPS || i.op == INSN_CALL_RM || i.op == INSN_CMPXCHG16B ||
           g == INSN_GROUP_X87 ||
           (i.op == INSN_SIMD && i.simd & (SIMD_ALIGNED | SIMD_SPECIAL | SIMD_MMX));
}

/* UD0 or UD1 whose operand's bytes are in a page that is not there: Intel's processors fetch them,
 * AMD's know of none and raise #UD at once. */
static bool is_ud_without_operand(const struct block_result *host,
                                  const struct block_result *reference)
{
    uint64_t rip = reference->end.state.rip, at = rip & (BOX_BLOCK_SIZE - 1);
    uint8_t code[2 * INSN_MAX_LENGTH] = {0};
    struct insn i;
    if (!host_is_amd() || host->end.vector != X86_UD || reference->end.vector != X86_PF ||
        reference->end.address != (rip | ~PAGE_MASK) + 1 || BOX_BLOCK_SIZE - at > INSN_MAX_LENGTH)
        return false;
    memcpy(code, reference->code + at, BOX_BLOCK_SIZE - at);
    return insn_decode(&i, code, sizeof(code), INSN_MODE_64) == INSN_DECODE_OK && i.op == INSN_UD &&
           i.map == 1 && (i.opcode == 0xB9 || i.opcode == 0xFF);
}

/* What of the host's answer is no word of the processor's: true if the whole of it is. */
static bool is_loose_on_host(struct block_result *host, const struct block_result *reference)
{
    /* Linux says of the kernel's half that pages are present there, so that nobody can find out;
     * the guest's identity-mapped RAM is the kernel's own, too. */
    if (host->end.vector == X86_PF &&
        (host->end.address >> 63 || host->end.address < BOX_BASE / 16))
        host->end.error = reference->end.error;
    /* neither aligned nor present: which is found first differs */
    return host->end.kind == BLOCK_FAULT &&
           (host->end.vector == X86_AC || is_ud_without_operand(host, reference));
}

static void compare_with_host(const struct block_case *c, const struct block_result *reference,
                              struct tally *t)
{
    static struct block_result host;
    if (end_is_loose(c, reference)) {
        t->host_loose++;
        return;
    }
    for (unsigned int attempt = 0; attempt < HOST_ATTEMPTS; attempt++) {
        if (!leg_host(c, &host)) {
            print_block(c);
            printf("  the host did something that must not be\n");
            t->failures++;
            return;
        }
        if (is_loose_on_host(&host, reference)) {
            t->host_loose++;
            return;
        }
        if (blocks_equal(c, &host, reference, LEG_HOST)) {
            t->host++;
            t->unsteady += attempt > 0;
            return;
        }
    }
    print_blocks(c, &host, reference, LEG_HOST, "host", "reference");
    t->host++;
    t->failures++;
}

static void run_case(struct block_case *c, struct tally *t)
{
    static struct block_result reference, interpreter, cold, warm;
    running = c->seed;
    if (!leg_reference(c, &reference)) {
        t->dropped++;
        return;
    }
    t->blocks++;
    t->steps += reference.steps;
    t->kinds[reference.end.kind]++;
    t->kernel += c->kernel;
    if (reference.end.kind == BLOCK_FAULT)
        t->vectors[reference.end.vector & 31]++;
    t->rewritten += memcmp(reference.code, c->code, BOX_BLOCK_SIZE) != 0;
    leg_interpreter(c, &interpreter);
    leg_translator(c, false, &cold);
    leg_translator(c, true, &warm);
    if ((!c->kernel &&
         !compare_blocks(c, &reference, &interpreter, LEG_STEPS, "reference", "interpreter")) ||
        !compare_blocks(c, &interpreter, &cold, LEG_ENGINE, "interpreter", "translator") ||
        !compare_blocks(c, &interpreter, &warm, LEG_ENGINE, "interpreter", "translator, again"))
        t->failures++;
    else if (c->host)
        compare_with_host(c, &reference, t);
    if (t->blocks % 1024 == 0 && !legs_agree_on_ram()) {
        printf("RAM differs where no block should have written (seen at case %#lx)\n", c->seed);
        t->failures++;
    }
}

/* In processor time: the machine may be busy with other things. */
static void watch(void)
{
    struct itimerval t = {.it_value.tv_sec = WATCHED_SECONDS};
    if (setitimer(ITIMER_PROF, &t, NULL) != 0)
        exit(2);
}

static void run_series(uint64_t seed, uint64_t count, struct tally *t)
{
    static struct block_case c;
    uint64_t until = t->steps + count;
    printf("blocks: %lu instructions from --seed %#lx\n", count, seed);
    fflush(stdout);
    for (uint64_t n = 0; t->steps < until && t->failures < MAX_FAILURES; n++) {
        if (n % 256 == 0)
            watch();
        generate_block(&c, (seed << 32) + n);
        run_case(&c, t);
    }
}

static bool passed(const struct tally *t)
{
    return t->failures == 0 && host_is_steady(t->unsteady, t->host);
}

static void report(const struct tally *t, const struct timespec *start)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    legs_print_stats();
    printf(
        "blocks: %lu instructions in %lu blocks (%lu in the kernel's ring, %lu rewrote themselves, "
        "%lu on the host too, %lu left out there, %lu answered anew), %lu without one result, %ld "
        "s\n",
        t->steps, t->blocks, t->kernel, t->rewritten, t->host, t->host_loose, t->unsteady,
        t->dropped, (long)(now.tv_sec - start->tv_sec));
    printf("blocks: %lu done, %lu halted, %lu shutdown; exceptions:", t->kinds[BLOCK_DONE],
           t->kinds[BLOCK_HALTED], t->kinds[BLOCK_SHUTDOWN]);
    for (unsigned int v = 0; v < 32; v++)
        if (t->vectors[v])
            printf(" %u: %lu", v, t->vectors[v]);
    printf("\n%s blocks\n", passed(t) ? "ok" : "not ok");
}

static uint64_t number_after(int argc, char **argv, const char *name, uint64_t otherwise)
{
    for (int n = 1; n + 1 < argc; n += 2)
        if (str_equal(argv[n], name))
            return strtoull(argv[n + 1], NULL, 0);
    return otherwise;
}

int main(int argc, char **argv)
{
    struct tally t = {0};
    struct timespec start;
    static struct block_case c;
    const char *environment = getenv("BLOCKS_COUNT");
    uint64_t count = number_after(argc, argv, "--count",
                                  environment ? strtoull(environment, NULL, 0) : DEFAULT_COUNT);
    uint64_t seed = number_after(argc, argv, "--seed", 0),
             one = number_after(argc, argv, "--case", 0);
    uint32_t random = 0;
    const char *missing = x86_level_missing(x86_level_find("v3"));
    clock_gettime(CLOCK_MONOTONIC, &start);
    if (missing) {
        printf("ok blocks # skipped: this processor has no %s\n", missing);
        return 0;
    }
    if (getrandom(&random, sizeof(random), 0) != sizeof(random))
        return 2;
    signal(SIGPROF, on_alarm);
    legs_init();
    host_init();
    host_block_init();
    if (one) {
        generate_block(&c, one);
        print_block(&c);
        run_case(&c, &t);
    } else if (seed) {
        run_series(seed, count, &t);
    } else {
        run_series(FIXED_SEED, count / 2, &t);
        run_series(random, count - count / 2, &t);
    }
    report(&t, &start);
    return passed(&t) ? 0 : 1;
}
