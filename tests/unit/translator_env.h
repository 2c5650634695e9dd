/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * One vCPU under the soft engine with its translator, for tests of that: code at CPU_ENV_CODE runs
 * until HLT or an exception. All gates lead to HLT, on a stack of their own.
 */
#ifndef LODGE_TESTS_UNIT_TRANSLATOR_ENV_H
#define LODGE_TESTS_UNIT_TRANSLATOR_ENV_H

#include <pthread.h>
#include <string.h>
#include <time.h>

#include "core/err.h"
#include "engine/engine.h"
#include "engine/soft/soft.h"
#include "engine/soft/translator.h"
#include "tests/lib/cpu_env.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/unit.h"
#include "x86/level.h"
#include "x86/mem.h"

enum { HALTED = -1, KICKED = -2, DIED = -3, FAR = 0x10000000 };

static struct cpu_env e;

/* How the last run ended if by an exception. */
static struct {
    uint64_t rip, error, rsp, rflags;
} at;

/* Called before the engine is made: more memory. */
static void (*before_engine)(void);

static inline void begin_at_level(const char *level)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    if (before_engine)
        before_engine();
    e.cpu->level = x86_level_find(level);
    for (unsigned int v = 0; v < 256; v++) {
        cpu_env_gate(&e, (uint8_t)v, 14, 0, CPU_ENV_SEL_CODE64, CPU_ENV_HANDLERS + v * 16, 1);
        e.ram[CPU_ENV_HANDLERS + v * 16] = 0xF4;
    }
    CHECK_EQ(engine_soft.vm_create(&e.vm), OK);
    CHECK_EQ(engine_soft.vcpu_create(e.cpu), OK);
    CHECK(soft_translator(e.cpu) != NULL);
    vcpu_enter(&e.cpu->vcpu);
}

static inline void begin(void)
{
    begin_at_level("v3");
}

static inline void end(void)
{
    vcpu_leave(&e.cpu->vcpu);
    engine_soft.vcpu_destroy(e.cpu);
    engine_soft.vm_destroy(&e.vm);
    cpu_env_destroy(&e);
}

static inline const struct translator_stats *stats(void)
{
    return &soft_translator(e.cpu)->stats;
}

/* Puts code there as a guest's store would: what was translated of it goes. Time passes, so that the page
 * is translated again. */
static inline void put_code(uint64_t physical, const void *bytes, size_t size)
{
    fake_seam_advance(2 * (uint64_t)PAGE_REST_NS);
    memcpy(e.ram + physical, bytes, size);
    code_written(&e.vm, e.ram + physical, size);
}

/* The vCPU has halted: HALTED by an instruction of the code, or the vector of the exception. */
static inline int ending_of_halt(void)
{
    uint64_t handler = e.cpu->rip - 1;
    if (handler < CPU_ENV_HANDLERS || handler >= CPU_ENV_HANDLERS + 256 * 16)
        return HALTED;
    unsigned int v = (unsigned int)(handler - CPU_ENV_HANDLERS) / 16;
    uint64_t sp = e.cpu->gpr[RSP];
    bool has_error = v == 8 || (v >= 10 && v <= 14) || v == 17;
    at.error = has_error ? cpu_env_get64(&e, sp) : 0;
    sp += has_error ? 8 : 0;
    at.rip = cpu_env_get64(&e, sp);
    at.rflags = cpu_env_get64(&e, sp + 16);
    at.rsp = cpu_env_get64(&e, sp + 24);
    return (int)v;
}

/* From RIP: as ending_of_halt says, KICKED, or DIED. */
static inline int run_on(void)
{
    struct exit x;
    e.cpu->activity = X86_RUNNING;
    CHECK_EQ(engine_soft.vcpu_run(e.cpu, &x), OK);
    if (x.reason == EXIT_KICK)
        return KICKED;
    if (x.reason != EXIT_HALT)
        return DIED;
    return ending_of_halt();
}

/* At that linear address, in ring 0 or 3, from registers as they are. */
static inline int run_at(uint64_t rip, unsigned int cpl)
{
    uint64_t rsp = e.cpu->gpr[RSP];
    cpu_env_set_cpl(&e, cpl);
    e.cpu->gpr[RSP] = rsp;
    e.cpu->rflags = X86_FLAG_ONE | (e.cpu->rflags & (X86_FLAGS_STATUS | X86_FLAG_AC));
    x86_update_mode(e.cpu);
    e.cpu->rip = rip;
    return run_on();
}

static inline void *kick_soon(void *unused)
{
    const struct timespec t = {.tv_nsec = 30000000};
    (void)unused;
    nanosleep(&t, NULL);
    vcpu_request(&e.cpu->vcpu, VCPU_REQ_KICK);
    engine_soft.vcpu_kick(e.cpu);
    return NULL;
}

/* What is at CPU_ENV_CODE, in ring 0 with a good stack; after 30 ms the vCPU is kicked. */
static inline int run_until_kicked(void)
{
    pthread_t thread;
    e.cpu->gpr[RSP] = CPU_ENV_STACK0;
    CHECK_EQ(pthread_create(&thread, NULL, kick_soon, NULL), 0);
    int ending = run_at(CPU_ENV_CODE, 0);
    pthread_join(thread, NULL);
    (void)vcpu_take_requests(&e.cpu->vcpu, VCPU_REQ_KICK);
    return ending;
}

/* New code at CPU_ENV_CODE, from its beginning, in ring 0 with a good stack. */
static inline int run_code(const void *bytes, size_t size)
{
    put_code(CPU_ENV_CODE, bytes, size);
    e.cpu->gpr[RSP] = CPU_ENV_STACK0;
    return run_at(CPU_ENV_CODE, 0);
}
#define RUN(code) run_code(code, sizeof(code) - 1)

/* Maps the 4-KiB page at FAR + n pages (0..511), 0: absent. Takes effect at the next flush. */
static inline void map_far(unsigned int n, uint64_t pte)
{
    const uint64_t table = CPU_ENV_RAM - PAGE_SIZE;
    cpu_env_put64(&e, CPU_ENV_PD + (FAR >> 21) * 8,
                  table | X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A);
    cpu_env_put64(&e, table + n * 8u, pte);
}

#endif
