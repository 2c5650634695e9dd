/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Who gets the processor (share/cpu.c), simulated as in share_cpu.c, with what share_sim.h says checked at every step:
 * random machines, some of which all is reserved, some with VMs that are pinned, or with devices, or that work as real guests were
 * recorded to.
 *
 * Usage: share_machines [STEPS [SEED]]: steps of each test.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/lib/share_sim.h"
#include "tests/lib/unit.h"
#include "tests/unit/share_loads.h"

static uint64_t steps = 300000;

/* --- random machines ------------------------------------------------------------------------- */

static struct share_terms random_terms(uint32_t vms)
{
    struct share_terms t = {.weight = 1 + (uint32_t)sim_random(1000)};

    if (sim_random(3) == 0)
        t.limit = 10 + (uint32_t)sim_random(150);
    if (sim_random(3) == 0)
        t.reservation = (uint32_t)sim_random(sim.cpus * 100 / vms);
    if (sim_random(3) == 0)
        t.burst_ns = sim_random(200 * MS);
    if (t.limit && t.reservation > t.limit)
        t.reservation = t.limit;
    return t;
}

/* To the first `vms` no more than these. */
static void promise_reservations(uint32_t vms)
{
    sim_promise();
    for (uint32_t i = 0; i < vms; i++)
        sim.vm[i].sure = sim.vm[i].share.terms.reservation / 100.0;
}

static double most_owed;

/* Each that serves may be ahead by a slice. */
static void run_and_look(void)
{
    uint32_t servers = 0;

    for (uint32_t i = 0; i < sim.vms; i++)
        servers += sim.vm[i].all - sim.vm[i].count;
    while (sim.steps < 2000)
        sim_step(UINT64_MAX - 1);
    for (uint32_t i = 0; i < sim.vms; i++) {
        const struct sim_vm *v = &sim.vm[i];
        double bucket = (double)SHARE_BUCKET_NS * v->share.terms.limit / 100;

        CHECK(v->all > v->count || v->over_most <= bucket + v->count * SHARE_SLICE_NS); /* a limit holds no device */
        CHECK(v->owed_most <= (2.0 + sim.cpus + servers) * SHARE_SLICE_NS + bucket);
        most_owed = fmax(v->owed_most, most_owed);
    }
}

static void machine(uint64_t number)
{
    sim_begin(1, number);
    sim_begin(1 + (uint32_t)sim_random(4), number);
}

static void repeat(const char *what, void (*run)(uint64_t number))
{
    uint64_t done = 0;

    most_owed = 0;
    for (uint64_t i = 0; done < steps; i++) {
        run(i);
        done += sim.steps;
    }
    printf("%s, %" PRIu64 " steps: nobody was behind by more than %.3f ms\n", what, done, most_owed / 1e6);
}

static void pin(struct sim_vm *v, uint64_t cpus)
{
    for (uint32_t k = 0; k < v->count; k++)
        CHECK_EQ(share_vcpu_pin(&sim.share, &v->vcpu[k].share, cpus, sim.now), SHARE_NO_CPU); /* it sleeps yet */
}

/* --- anything -------------------------------------------------------------------------------- */

static void add_random_vms(bool pinned)
{
    uint32_t vms = 2 + (uint32_t)sim_random(8);

    for (uint32_t i = 0; i < vms; i++) {
        struct sim_vm *v = sim_add_vm(random_terms(vms), 1 + (uint32_t)sim_random(SIM_VCPUS));

        if (pinned && sim_random(2))
            pin(v, 1 + sim_random(BIT(sim.cpus) - 1));
        if (sim_random(2))
            sim_set_pattern(v, 1000 + sim_random(5 * MS), 1000 + sim_random(10 * MS), 90);
    }
    sim_promise();
}

static void run_random(uint64_t number)
{
    machine(number);
    add_random_vms(false);
    run_and_look();
}

static void test_random(void)
{
    repeat("random", run_random);
}

/* Devices that have little to do, or without end. They interrupt others, and who has not more than its share cannot always make up for
 * that; reservations are sure. */
static void run_random_devices(uint64_t number)
{
    machine(number);
    add_random_vms(false);
    for (uint32_t i = 0; i < sim.vms; i++)
        if (sim_random(2))
            sim_add_server(&sim.vm[i], 1000 + sim_random(300000), 1000 + sim_random(sim_random(2) ? 100000 : 3 * MS), 90);
    promise_reservations(sim.vms);
    run_and_look();
}

static void test_random_devices(void)
{
    repeat("devices", run_random_devices);
}

/* --- recorded ---------------------------------------------------------------------------------- */

static const struct {
    const struct sim_load *first;
    uint32_t count;
} loads[] = {
    {load_boot, ARRAY_SIZE(load_boot)},
    {load_shell, ARRAY_SIZE(load_shell)},
    {load_daemons, ARRAY_SIZE(load_daemons)},
    {load_idle, ARRAY_SIZE(load_idle)},
};

/* Debians that boot, are used and idle, beside others that compute. */
static void run_recorded(uint64_t number)
{
    uint32_t vms;

    machine(number);
    vms = 2 + (uint32_t)sim_random(8);
    for (uint32_t i = 0; i < vms; i++) {
        struct sim_vm *v = sim_add_vm(random_terms(vms), 1 + (uint32_t)sim_random(SIM_VCPUS));

        if (i > 0 && sim_random(3) > 0)
            for (uint32_t k = 0; k < v->count; k++) {
                uint64_t which = sim_random(ARRAY_SIZE(loads));

                sim_set_load(&v->vcpu[k], loads[which].first, loads[which].count);
            }
    }
    sim_promise();
    run_and_look();
}

static void test_recorded(void)
{
    repeat("recorded", run_recorded);
}

/* --- all that there is, reserved ------------------------------------------------------------- */

/* Parts of any size that fill the machine, beside greedy ones of great weight: each has what it reserved, and if all want
 * theirs, nobody has more. */
static void run_all_reserved(uint64_t number)
{
    uint32_t left, vms;

    machine(number);
    left = sim.cpus * 100;
    vms = 1 + (uint32_t)sim_random(6);
    for (uint32_t i = 0; i < vms; i++) {
        uint32_t count = 1 + (uint32_t)sim_random(SIM_VCPUS), most = count * 100 < left ? count * 100 : left;
        uint32_t percent = i + 1 < vms ? (uint32_t)sim_random(most + 1) : most;
        struct sim_vm *v = sim_add_vm((struct share_terms){.weight = 1 + (uint32_t)sim_random(10), .reservation = percent}, count);

        left -= percent;
        if (sim_random(3) == 0)
            sim_set_pattern(v, 1000 + sim_random(5 * MS), 1000 + sim_random(10 * MS), 90);
    }
    for (uint32_t i = 0; i < 3; i++)
        (void)sim_add_vm((struct share_terms){.weight = 1 + (uint32_t)sim_random(10000)}, 1 + (uint32_t)sim_random(SIM_VCPUS));
    promise_reservations(vms);
    run_and_look();
}

static void test_all_reserved(void)
{
    repeat("all reserved", run_all_reserved);
}

/* --- pins ------------------------------------------------------------------------------------ */

/* Anybody anywhere: no CPU idles while somebody may run on it, and limits are kept; nothing else is promised. */
static void run_pinned(uint64_t number)
{
    machine(number);
    add_random_vms(true);
    for (uint32_t i = 0; i < sim.vms; i++)
        sim.vm[i].sure = 0;
    run_and_look();
}

static void test_pinned(void)
{
    repeat("pinned", run_pinned);
}

/* Each pinned to one CPU, of which it has a part reserved that fits beside the others', among greedy ones that are not. */
static void run_pinned_reservations(uint64_t number)
{
    uint32_t left[SHARE_CPUS], vms;

    machine(number);
    for (uint32_t i = 0; i < sim.cpus; i++)
        left[i] = 100;
    vms = 1 + (uint32_t)sim_random(6);
    for (uint32_t i = 0; i < vms; i++) {
        uint32_t cpu = (uint32_t)sim_random(sim.cpus), percent = (uint32_t)sim_random(left[cpu] + 1);
        struct sim_vm *v = sim_add_vm((struct share_terms){.weight = 1 + (uint32_t)sim_random(10), .reservation = percent},
                                      1 + (uint32_t)sim_random(2));

        left[cpu] -= percent;
        pin(v, BIT(cpu));
        if (sim_random(2))
            sim_set_pattern(v, 1000 + sim_random(5 * MS), 1000 + sim_random(10 * MS), 90);
    }
    for (uint32_t i = 0; i < 3; i++)
        (void)sim_add_vm((struct share_terms){.weight = 1000}, 1 + (uint32_t)sim_random(SIM_VCPUS));
    promise_reservations(sim.vms);
    run_and_look();
}

static void test_pinned_reservations(void)
{
    repeat("pinned reservations", run_pinned_reservations);
}

int main(int argc, char **argv)
{
    if (getenv("LODGE_NIGHTLY"))
        steps = 10000000;
    steps = argc > 1 ? strtoull(argv[1], NULL, 0) : steps;
    sim_seed = argc > 2 ? strtoull(argv[2], NULL, 0) : sim_seed;
    UNIT_RUN(test_random);
    UNIT_RUN(test_random_devices);
    UNIT_RUN(test_recorded);
    UNIT_RUN(test_all_reserved);
    UNIT_RUN(test_pinned);
    UNIT_RUN(test_pinned_reservations);
    return unit_done();
}
