/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The simulated machine (sim.h). The driver is the test program's own stack; each CPU has one of its own, on which
 * scheduler_run makes its idle thread, and goes on from there with those of native/'s threads. Stacks are switched by
 * thread.S itself: between CPUs and driver here, between threads by scheduler.c, which comes through
 * __wrap_thread_switch (the linker's --wrap) so that it can be watched.
 */
#include "tests/lib/native/sim.h"

#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "native/clock.h"
#include "native/cpu.h"
#include "native/frames.h"
#include "native/spin.h"
#include "native/stack.h"
#include "native/thread_entry.h"

enum { CPU_STACK_SIZE = 256 << 10, STACK_MARGIN = 64 << 10, LOCKS_HELD = 4, EDGES = 1 << 14 };

enum sim_state { SIM_GOES, SIM_COMPUTES, SIM_HALTED };

struct sim_cpu {
    struct cpu cpu;
    enum sim_state state;
    uint64_t rsp;   /* while another CPU goes on */
    uint64_t until; /* SIM_COMPUTES */
    uint64_t timer; /* UINT64_MAX: off */
    bool timer_pending, kick_pending;
    struct thread *on; /* whose stack it stands on */
    struct spin *held[LOCKS_HELD];
    uint32_t holds;
    uint8_t *stack;
};

struct edge {
    const struct spin *upper, *lower; /* upper was held when lower was taken */
};

static struct sim_cpu sim[SIM_CPUS];
struct cpu *cpu_table[HW_CPUS];
uint32_t cpu_count;
static struct sim_cpu outside = {.cpu.index = SIM_CPUS}; /* the driver, as a CPU that does not schedule (yet) */
static struct sim_cpu *turn = &outside; /* whose it is */
static uint64_t driver_rsp, now_ns = 1000000, random_state, points;
static struct thread *threads[SIM_THREADS];
static struct edge edges[EDGES];
static uint32_t fail_countdown, allocations;

void __real_thread_switch(uint64_t *save, uint64_t load);
void __wrap_thread_switch(uint64_t *save, uint64_t load);
noreturn void __real_thread_begin(struct thread *t);
noreturn void __wrap_thread_begin(struct thread *t);

static noreturn void die(const char *what)
{
    fflush(stdout);
    fprintf(stderr, "simulation: %s, at point %llu\n", what, (unsigned long long)points);
    abort();
}

noreturn void seam_panic(const char *file, int line, const char *message)
{
    fprintf(stderr, "panic at %s:%d: %s\n", file, line, message);
    die("panic");
}

void seam_log(const struct vm *vm, enum seam_log_level level, const char *line, size_t length)
{
    (void)vm;
    (void)level;
    (void)line;
    (void)length;
}

uint64_t sim_random(uint64_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state * 0x2545F4914F6CDD1D >> 11) % below;
}

uint64_t sim_now(void)
{
    return now_ns;
}

uint64_t sim_points(void)
{
    return points;
}

/* --- from stack to stack; the address sanitizer is told --- */

static const void *driver_stack;
static size_t driver_stack_size;

static void stack_switch(uint64_t *save, uint64_t load, const void *stack, size_t size)
{
    void *fake;

    __sanitizer_start_switch_fiber(&fake, stack, size);
    __real_thread_switch(save, load);
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
}

static void switch_to_driver(uint64_t *save)
{
    stack_switch(save, driver_rsp, driver_stack, driver_stack_size);
}

/* That of a thread of that CPU; NULL: of none yet. */
static void switch_to_thread(uint64_t *save, uint64_t load, const struct sim_cpu *c, const struct thread *t)
{
    if (t && t->stack)
        stack_switch(save, load, (uint8_t *)t->stack - STACK_MARGIN, THREAD_STACK + STACK_MARGIN);
    else
        stack_switch(save, load, c->stack, CPU_STACK_SIZE);
}

noreturn void __wrap_thread_begin(struct thread *t)
{
    __sanitizer_finish_switch_fiber(NULL, NULL, NULL);
    __real_thread_begin(t);
}

/* --- the CPUs' side --- */

struct cpu *this_cpu(void)
{
    return &turn->cpu;
}

void sim_point(void)
{
    if (turn != &outside)
        switch_to_driver(&turn->rsp);
}

void __wrap_thread_switch(uint64_t *save, uint64_t load)
{
    struct sim_cpu *me = turn;
    struct thread *next = me->cpu.current;

    if (container_of(save, struct thread, rsp) != me->on)
        die("a CPU switches from a thread that it does not run");
    for (uint32_t i = 0; i < cpu_count; i++)
        if (sim[i].on == next)
            die("a thread is run by two CPUs");
    if (load == 0 || load != next->rsp)
        die("a thread is switched to that was not switched out");
    if (me->holds != 1)
        die("a switch with more or fewer locks held than the run queue's");
    me->on = next;
    next->rsp = 0;
    switch_to_thread(save, load, me, next);
}

static void take_interrupts(void)
{
    struct sim_cpu *me = turn;

    if (me->holds)
        die("interrupts taken with a spin lock held");
    me->kick_pending = false;
    if (me->timer_pending) {
        me->timer_pending = false;
        scheduler_timer_fired();
    }
}

void cpu_take_interrupts(void)
{
    sim_point();
    take_interrupts();
}

static bool is_interrupted(const struct sim_cpu *c)
{
    return c->kick_pending || c->timer_pending;
}

void cpu_halt(void)
{
    struct sim_cpu *me = turn;

    if (me->holds)
        die("a CPU halts with a spin lock held");
    do {
        me->state = SIM_HALTED;
        sim_point();
        me->state = SIM_GOES;
    } while (!is_interrupted(me));
    take_interrupts();
}

void cpu_arm_timer(uint64_t deadline_ns, uint64_t now)
{
    (void)now;
    turn->cpu.timer_armed = deadline_ns;
    turn->timer = deadline_ns;
    turn->timer_pending = false;
    sim_point();
}

void cpu_send_ipi(uint32_t cpu, uint8_t vector)
{
    if (cpu >= cpu_count || vector != VECTOR_KICK)
        die("a strange interrupt was sent");
    sim_point();
    sim[cpu].kick_pending = true;
    sim_point();
}

uint64_t clock_ns(void)
{
    sim_point();
    return now_ns;
}

uint64_t clock_wall_ns(void)
{
    return now_ns;
}

void sim_work(uint64_t ns)
{
    while (ns) {
        struct sim_cpu *me = turn;
        uint64_t began = now_ns, did;

        if (me->holds)
            die("a thread computes with a spin lock held");
        me->until = began + ns;
        while (now_ns < me->until && !is_interrupted(me)) {
            me->state = SIM_COMPUTES;
            sim_point();
            me->state = SIM_GOES;
        }
        did = now_ns - began;
        atomic_fetch_add(&me->cpu.guest_ticks, did);
        ns = did < ns ? ns - did : 0;
        hw_preempt_point();
    }
}

/* One tick of the TSC is a nanosecond. */
uint32_t hw_tsc_khz(void)
{
    return 1000000;
}

/* --- spin locks --- */

static struct edge *find_edge(const struct spin *upper, const struct spin *lower)
{
    uint64_t key = (uint64_t)(uintptr_t)upper * 31 + (uint64_t)(uintptr_t)lower;
    uint32_t i = (uint32_t)((key * 0x9E3779B97F4A7C15) >> 50) % EDGES;

    while (edges[i].upper && (edges[i].upper != upper || edges[i].lower != lower))
        i = (i + 1) % EDGES;
    return &edges[i];
}

static void note_order(const struct sim_cpu *c, const struct spin *s)
{
    for (uint32_t i = 0; i < c->holds; i++) {
        if (find_edge(s, c->held[i])->upper)
            die("two spin locks are taken in both orders");
        *find_edge(c->held[i], s) = (struct edge){c->held[i], s};
    }
}

void spin_lock(struct spin *s)
{
    struct sim_cpu *me = turn;

    if (s->holder == me->cpu.index + 1)
        die("a CPU waits for a spin lock that it holds");
    note_order(me, s);
    do {
        if (me == &outside && s->holder)
            die("outside, a spin lock is waited for");
        sim_point();
    } while (s->holder);
    if (me->holds == LOCKS_HELD)
        die("too many spin locks held");
    s->holder = me->cpu.index + 1;
    me->held[me->holds++] = s;
    sim_point();
}

void spin_unlock(struct spin *s)
{
    struct sim_cpu *me = turn;
    uint32_t i = 0;

    sim_point();
    if (s->holder != me->cpu.index + 1)
        die("a spin lock is let go by who does not hold it");
    while (me->held[i] != s)
        i++;
    me->held[i] = me->held[--me->holds];
    s->holder = 0;
    sim_point();
}

uint32_t sim_locks_held(void)
{
    return turn->holds;
}

/* --- memory --- */

static bool must_fail(void)
{
    if (fail_countdown == 0)
        return false;
    return --fail_countdown == 0;
}

void sim_fail_allocation(uint32_t nth)
{
    fail_countdown = nth;
}

uint32_t sim_allocations(void)
{
    return allocations;
}

void *frames_alloc(size_t pages, uint32_t owner)
{
    void *p;

    if (owner != FRAME_OWN || must_fail())
        return NULL;
    p = aligned_alloc(PAGE_SIZE, pages << PAGE_SHIFT);
    if (!p)
        die("no memory");
    allocations++;
    return memset(p, 0, pages << PAGE_SHIFT);
}

void frames_free(void *p, size_t pages)
{
    (void)pages;
    allocations--;
    free(p);
}

/* The tests' stacks are larger: sanitizers want more. What is asked for lies at the upper end. */
static uint8_t *map_stack(size_t size)
{
    uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED || mprotect(p, PAGE_SIZE, PROT_NONE) != 0)
        die("no memory");
    __asan_unpoison_memory_region(p, size); /* what stood there before may have left its marks */
    return p;
}

void *stack_alloc(size_t size)
{
    uint8_t *p;

    if (must_fail())
        return NULL;
    p = map_stack(size + STACK_MARGIN);
    allocations++;
    memset(p + STACK_MARGIN, 0xA5, size);
    return p + STACK_MARGIN;
}

void stack_free(void *stack, size_t size)
{
    if (!stack)
        return;
    allocations--;
    if (munmap((uint8_t *)stack - STACK_MARGIN, size + STACK_MARGIN) != 0)
        die("munmap");
}

struct thread *sim_thread(const char *name, void (*function)(void *), void *arg)
{
    return sim_thread_for(NULL, name, function, arg);
}

struct thread *sim_thread_for(struct account *account, const char *name, void (*function)(void *), void *arg)
{
    struct thread *t;
    uint32_t i = 0;

    if (thread_create_for(&t, account, UINT64_MAX, false, name, function, arg) != OK)
        die("thread_create_for");
    while (i < SIM_THREADS && threads[i])
        i++;
    if (i == SIM_THREADS)
        die("too many threads");
    threads[i] = t;
    return t;
}

void sim_join(struct thread *t)
{
    for (uint32_t i = 0; i < SIM_THREADS; i++)
        if (threads[i] == t)
            threads[i] = NULL; /* it is run until it ends, but not watched any more */
    thread_join(t);
}

/* --- the driver --- */

static void cpu_main(void)
{
    __sanitizer_finish_switch_fiber(NULL, &driver_stack, &driver_stack_size);
    scheduler_run();
}

static void start_cpu(uint32_t index)
{
    struct sim_cpu *c = &sim[index];
    uint64_t *slot;

    memset(c, 0, sizeof(*c));
    c->cpu.self = &c->cpu;
    c->cpu.index = index;
    c->cpu.online = true;
    c->timer = UINT64_MAX;
    c->stack = map_stack(CPU_STACK_SIZE);
    /* As if it had called __real_thread_switch, from a place that called cpu_main: six registers, the address, and at
     * a function's entry RSP is a multiple of 16 and 8 more. */
    slot = (uint64_t *)(void *)(c->stack + CPU_STACK_SIZE - 8 * sizeof(uint64_t));
    slot[6] = (uint64_t)(uintptr_t)cpu_main;
    c->rsp = (uint64_t)(uintptr_t)slot;
    cpu_table[index] = &c->cpu;
}

static void go_on(struct sim_cpu *c)
{
    turn = c;
    switch_to_thread(&driver_rsp, c->rsp, c, c->on);
    turn = &outside;
    if (!c->on)
        c->on = c->cpu.idle;
    points++;
}

static bool may_go_on(const struct sim_cpu *c)
{
    if (c->state == SIM_GOES || is_interrupted(c))
        return true;
    return c->state == SIM_COMPUTES && c->until <= now_ns;
}

static void timers_fire(void)
{
    for (uint32_t i = 0; i < cpu_count; i++)
        if (sim[i].timer <= now_ns) {
            sim[i].timer = UINT64_MAX;
            sim[i].timer_pending = true;
        }
}

static struct sim_cpu *pick(void)
{
    struct sim_cpu *may[SIM_CPUS];
    uint32_t n = 0;

    for (uint32_t i = 0; i < cpu_count; i++)
        if (may_go_on(&sim[i]))
            may[n++] = &sim[i];
    return n ? may[sim_random(n)] : NULL;
}

/* All CPUs compute or halt, and nothing is on its way to them. */
static void check_work_conserved(void)
{
    bool halted = false;

    for (uint32_t i = 0; i < cpu_count; i++)
        halted |= sim[i].state == SIM_HALTED;
    for (uint32_t i = 0; i < SIM_THREADS && halted; i++)
        if (threads[i] && threads[i]->state == THREAD_READY)
            die("a CPU has halted while a thread is ready");
}

/* To when something happens next; false: nothing ever will. */
static bool jump(void)
{
    uint64_t next = UINT64_MAX;

    check_work_conserved();
    for (uint32_t i = 0; i < cpu_count; i++) {
        if (sim[i].state == SIM_COMPUTES && sim[i].until < next)
            next = sim[i].until;
        if (sim[i].timer < next)
            next = sim[i].timer;
    }
    if (next == UINT64_MAX)
        return false;
    if (next > now_ns)
        now_ns = next;
    return true;
}

bool sim_run(bool (*done)(void), uint64_t max_points)
{
    uint64_t end = points + max_points;

    while (points < end) {
        struct sim_cpu *c;

        if (done())
            return true;
        timers_fire();
        c = pick();
        if (c)
            go_on(c);
        else if (!jump())
            return done();
        now_ns += sim_random(4);
    }
    return done();
}

static bool all_halted(void)
{
    for (uint32_t i = 0; i < cpu_count; i++)
        if (sim[i].state != SIM_HALTED || is_interrupted(&sim[i]))
            return false;
    return true;
}

void sim_begin(uint32_t cpus, uint64_t seed)
{
    random_state = seed * 0x9E3779B97F4A7C15 + 1;
    memset(edges, 0, sizeof(edges));
    cpu_count = cpus;
    scheduler_init();
    for (uint32_t i = 0; i < cpus; i++)
        start_cpu(i);
    if (!sim_run(all_halted, 100000))
        die("CPUs do not come to rest");
}

void sim_end(void)
{
    if (!sim_run(all_halted, 1000000))
        die("CPUs do not come to rest");
    for (uint32_t i = 0; i < SIM_THREADS; i++) {
        if (!threads[i])
            continue;
        if (!scheduler_ended(threads[i]))
            die("a thread waits for ever");
        sim_join(threads[i]);
    }
    for (uint32_t i = 0; i < cpu_count; i++) {
        frames_free(sim[i].cpu.idle, 1);
        munmap(sim[i].stack, CPU_STACK_SIZE);
        cpu_table[i] = NULL;
    }
    cpu_count = 0;
}
