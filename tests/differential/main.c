/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The emulator against the real processor: random user-level instructions (differential.h).
 *
 *     differential [--count N] [--seed S] [--case S] [--op NAME] [--group NAME] [--mode 32|64]
 *
 * Without --seed half of the cases come from a fixed seed and half from a random one, which is
 * printed; --seed repeats a run, --case one case of it. DIFFERENTIAL_COUNT and DIFFERENTIAL_SEED in
 * the environment do the same. Exit status: 0 all equal, 1 differences, 2 cannot run here.
 */
#include "tests/differential/differential.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "core/mem.h"
#include "x86/level.h"

enum { DEFAULT_COUNT = 1000000, FIXED_SEED = 20240117, MAX_FAILURES = 10 };

static const char *const group_names[INSN_GROUP_COUNT] = {
    [INSN_GROUP_ALU] = "alu",       [INSN_GROUP_SHIFT] = "shift",
    [INSN_GROUP_BIT] = "bit",       [INSN_GROUP_MUL] = "mul",
    [INSN_GROUP_MOV] = "mov",       [INSN_GROUP_STACK] = "stack",
    [INSN_GROUP_BRANCH] = "branch", [INSN_GROUP_STRING] = "string",
    [INSN_GROUP_ATOMIC] = "atomic", [INSN_GROUP_IO] = "io",
    [INSN_GROUP_SEG] = "seg",       [INSN_GROUP_CONTROL] = "control",
    [INSN_GROUP_SYSTEM] = "system", [INSN_GROUP_FPSTATE] = "fpstate",
    [INSN_GROUP_X87] = "x87",       [INSN_GROUP_SIMD] = "simd",
};

struct options {
    uint64_t count, seed, one_case;
    bool has_seed, has_case;
    struct selection what;
    bool only_mode;
};

struct tally {
    uint64_t done, faults, failures;
    uint64_t unsteady; /* the host's answer was another when asked again */
    uint64_t group[INSN_GROUP_COUNT];
};

static noreturn void usage(void)
{
    fprintf(stderr, "usage: differential [--count N] [--seed S] [--case S] [--op NAME] "
                    "[--group NAME] [--mode 32|64]\n");
    exit(2);
}

static uint32_t group_bit(const char *name)
{
    for (unsigned n = 0; n < INSN_GROUP_COUNT; n++) {
        if (str_equal(name, group_names[n]))
            return 1u << n;
    }
    usage();
}

static const char *checked_op(const char *name)
{
    for (unsigned n = 0; n < INSN_OP_COUNT; n++) {
        if (str_equal(name, insn_op_name((enum insn_op)n)))
            return name;
    }
    usage();
}

static void parse_option(struct options *o, const char *name, const char *value)
{
    if (str_equal(name, "--count")) {
        o->count = strtoull(value, NULL, 0);
    } else if (str_equal(name, "--seed")) {
        o->seed = strtoull(value, NULL, 0);
        o->has_seed = true;
    } else if (str_equal(name, "--case")) {
        o->one_case = strtoull(value, NULL, 0);
        o->has_case = true;
    } else if (str_equal(name, "--op")) {
        o->what.op = checked_op(value);
    } else if (str_equal(name, "--group")) {
        o->what.groups = group_bit(value);
    } else if (str_equal(name, "--mode")) {
        o->what.mode = str_equal(value, "32") ? INSN_MODE_32 : INSN_MODE_64;
        o->only_mode = true;
    } else {
        usage();
    }
}

static void parse_options(struct options *o, int argc, char **argv)
{
    const char *count = getenv("DIFFERENTIAL_COUNT"), *seed = getenv("DIFFERENTIAL_SEED");
    *o = (struct options){.count = DEFAULT_COUNT,
                          .what = {.groups = (1u << INSN_GROUP_COUNT) - 1, .mode = INSN_MODE_64}};
    if (count)
        parse_option(o, "--count", count);
    if (seed)
        parse_option(o, "--seed", seed);
    for (int n = 1; n < argc; n += 2) {
        if (n + 1 >= argc)
            usage();
        parse_option(o, argv[n], argv[n + 1]);
    }
}

/* One case on both sides. */
static void run_case(const struct test_case *c, struct tally *t)
{
    struct outcome host, guest;
    unsigned int attempts = 0;
    guest_run(c, &guest);
    do
        host_run(c, &host);
    while (!outcomes_equal(c, &host, &guest) && ++attempts < HOST_ATTEMPTS);
    if (attempts == HOST_ATTEMPTS) {
        print_difference(c, &host, &guest);
        t->failures++;
    }
    t->unsteady += attempts > 0 && attempts < HOST_ATTEMPTS;
    t->done++;
    t->faults += host.kind == FAULT;
    t->group[insn_op_group((enum insn_op)c->insn.op)]++;
}

/* `count` cases from seeds that follow from `seed`. Every eighth is 32-bit code, where possible. */
static void run_series(const struct options *o, uint64_t seed, uint64_t count, struct tally *t)
{
    static struct test_case c;
    struct selection what = o->what;
    bool mixed = !o->only_mode && host_has_32bit();
    printf("differential: %lu cases from --seed %#lx\n", count, seed);
    fflush(stdout);
    for (uint64_t n = 0, tried = 0; n < count && t->failures < MAX_FAILURES; tried++) {
        uint64_t case_seed = (seed << 32) + tried;
        if (mixed)
            what.mode = (case_seed & 7) == 0 ? INSN_MODE_32 : INSN_MODE_64;
        if (!generate_case(&c, case_seed, &what))
            continue;
        run_case(&c, t);
        n++;
    }
}

static void run_one(const struct options *o, struct tally *t)
{
    static struct test_case c;
    struct selection what = o->what;
    if (!o->only_mode && host_has_32bit() && (o->one_case & 7) == 0)
        what.mode = INSN_MODE_32;
    if (!generate_case(&c, o->one_case, &what)) {
        fprintf(stderr, "differential: that case generates nothing under these options\n");
        exit(2);
    }
    print_case(&c);
    run_case(&c, t);
}

static bool passed(const struct tally *t)
{
    return t->failures == 0 && host_is_steady(t->unsteady, t->done);
}

static void report(const struct tally *t, const struct timespec *start)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    printf("differential: %lu cases (%lu faults), %lu differ, %lu answered anew, %ld s:", t->done,
           t->faults, t->failures, t->unsteady, (long)(now.tv_sec - start->tv_sec));
    for (unsigned n = 0; n < INSN_GROUP_COUNT; n++) {
        if (t->group[n])
            printf(" %s %lu", group_names[n], t->group[n]);
    }
    printf("\n%s differential\n", passed(t) ? "ok" : "not ok");
}

int main(int argc, char **argv)
{
    struct options o;
    struct tally t = {0};
    struct timespec start;
    uint32_t random = 0;
    parse_options(&o, argc, argv);
    clock_gettime(CLOCK_MONOTONIC, &start);
    const char *missing = x86_level_missing(x86_level_find("v3"));
    if (missing) {
        printf("ok differential # skipped: this processor has no %s\n", missing);
        return 0;
    }
    if (!o.has_seed && getrandom(&random, sizeof(random), 0) != sizeof(random))
        return 2;
    guest_init();
    host_init();
    if (o.has_case) {
        run_one(&o, &t);
    } else if (o.has_seed) {
        run_series(&o, o.seed, o.count, &t);
    } else {
        run_series(&o, FIXED_SEED, o.count / 2, &t);
        run_series(&o, random, o.count - o.count / 2, &t);
    }
    report(&t, &start);
    return passed(&t) ? 0 : 1;
}
