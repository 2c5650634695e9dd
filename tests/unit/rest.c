/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Rest, asked for from outside while a vCPU waits for rest of its own in the middle of an
 * instruction (a locked operation across a cache line): who asks from outside finds it between two.
 */
#include <pthread.h>
#include <sched.h>

#include "core/vm.h"
#include "tests/lib/unit.h"

enum { ROUNDS = 300 };

static struct vm vm;
static struct vcpu cpu;
static _Atomic bool begun, quit;
static _Atomic uint32_t half_done, outside;

/* Instructions without end, each in two halves with rest between them. */
static void *run_vcpu(void *arg)
{
    (void)arg;
    vcpu_enter(&cpu);
    while (!atomic_load(&quit)) {
        atomic_store(&half_done, 1);
        atomic_store(&begun, true);
        vm_rest_begin(&vm, &cpu);
        vm_rest_end(&vm, &cpu);
        atomic_store(&half_done, 0);
        if (vcpu_requests(&cpu) & VCPU_REQ_REST)
            vcpu_rest(&cpu);
    }
    vcpu_leave(&cpu);
    return NULL;
}

static void *ask_again(void *arg)
{
    (void)arg;
    for (int i = 0; i < ROUNDS; i++) {
        vm_rest_begin(&vm, NULL);
        CHECK_EQ(atomic_load(&half_done), 0);
        atomic_fetch_add(&outside, 1);
        vm_rest_end(&vm, NULL);
    }
    return NULL;
}

static void test_outside_finds_boundaries(void)
{
    pthread_t runner, asker[2];

    vm_init(&vm, "test");
    vcpu_init(&cpu, &vm, 0);
    vm.vcpu[0] = &cpu;
    vm.vcpu_count = 1;
    CHECK_EQ(pthread_create(&runner, NULL, run_vcpu, NULL), 0);
    while (!atomic_load(&begun))
        sched_yield();
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pthread_create(&asker[i], NULL, ask_again, NULL), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(asker[i], NULL);
    atomic_store(&quit, true);
    pthread_join(runner, NULL);
    CHECK_EQ(atomic_load(&outside), 2 * ROUNDS);
}

int main(void)
{
    UNIT_RUN(test_outside_finds_boundaries);
    return unit_done();
}
