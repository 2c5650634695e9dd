/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Who runs: one queue of threads that are ready, for all CPUs, in the order of their virtual time.
 *
 * Virtual time. A thread's is the time that it has run; the lowest runs next, for a slice (THREAD_SLICE_NS), after
 * which it goes on only while nobody who waits has had less. So threads that want to run all the time are never
 * more than about a slice apart. One that slept would have saved up all that time: when it wakes, its virtual time
 * is moved to within a slice of the floor, the lowest of all who run or are ready, which never goes back. A waking
 * thread takes the CPU of the thread that is furthest ahead, if that is ahead by THREAD_MARGIN_NS or more: a VM's
 * timers, which run for microseconds, are not kept waiting by vCPUs that compute.
 *
 * Who yields goes behind the first of the queue by the same margin: else the next interrupt would bring it back at
 * once.
 *
 * CPUs. One with nothing to do stands in its idle thread, says in_idle and halts. Who makes a thread ready claims
 * an idle CPU (takes in_idle away, so that the next one claims another) and sends it VECTOR_KICK; without an idle
 * one, it sets `resched` of the CPU whose thread is furthest ahead, if it is far enough, and sends the same: the
 * guest there is left, and the engine comes to its preemption point. A CPU says in_idle with the queue's lock held
 * and the queue empty, and threads are put into the queue with that lock held: one of the two sees the other, and
 * the interrupt waits at the local APIC until the CPU, which has interrupts off till then, halts. So no CPU sleeps
 * while a thread is ready.
 *
 * The switch. The queue's lock is held from the decision, over the switch, to the first thing that the next thread
 * does (scheduler_arrived): the lock belongs to the CPU, not to the thread. A thread is therefore seen as ready or
 * waiting by others only when its registers have been saved, and cannot be started twice. Who waits
 * (scheduler_block) takes the run queue's lock before it lets the wait queue's go: who finds it in the wait queue
 * has to take the run queue's lock after that and finds it switched out.
 *
 * What a thread left in its CPU (hw_on_switch) is put away before the lock is taken, so that it may take its time;
 * then the decision is made again, for it may not hold any more. It may be put away for nothing: who left it has to
 * look anyhow.
 *
 * The timer serves both the end of a slice and deadlines (wait.c). It is armed only if that is earlier than what it
 * is armed for: one that comes too early finds nothing due and arms the next, which is cheaper than arming it at
 * each switch. Its handler only notes; the work is done at preemption points and in the idle loop, and when a
 * thread waits or yields while the timer is overdue, so that threads that do nothing but wake each other do not
 * shut out interrupts.
 *
 * Locking: queue.lock, below wait queues' and deadlines' locks, above frames' and the log's. Under it: `current`,
 * `in_idle` and slice_end of all CPUs, and of threads what thread.h says. Interrupts are off.
 */
#include "core/assert.h"
#include "engine/hw.h"
#include "native/cpu.h"
#include "native/spin.h"
#include "native/thread.h"

static struct {
    struct spin lock;
    struct thread *first;   /* READY, lowest virtual_ns first; of equals who came first */
    _Atomic uint32_t ready; /* how many; without the lock a hint */
    uint64_t floor;
} queue;

/* CPUs' TSCs may be apart by less than what they were checked for: never negative. */
static uint64_t elapsed(uint64_t now, uint64_t since)
{
    return now > since ? now - since : 0;
}

static void queue_insert(struct thread *t)
{
    struct thread **p = &queue.first;

    while (*p && (*p)->virtual_ns <= t->virtual_ns)
        p = &(*p)->next;
    t->next = *p;
    *p = t;
    atomic_fetch_add_explicit(&queue.ready, 1, memory_order_relaxed);
}

static struct thread *queue_take(void)
{
    struct thread *t = queue.first;

    if (!t)
        return NULL;
    queue.first = t->next;
    t->next = NULL;
    atomic_fetch_sub_explicit(&queue.ready, 1, memory_order_relaxed);
    return t;
}

/* Virtual time of what runs there, as of now. */
static uint64_t running_virtual(const struct cpu *c, uint64_t now)
{
    return c->current->virtual_ns + elapsed(now, c->current->since);
}

/* What a thread that becomes ready finds on the CPUs. */
struct survey {
    struct cpu *idle;  /* one that is, if possible the wanted one */
    struct cpu *ahead; /* the one whose thread is furthest ahead, and its virtual time */
    uint64_t ahead_virtual;
    uint64_t lowest; /* virtual time of all who run or are ready; UINT64_MAX: nobody */
};

static struct survey survey_cpus(uint64_t now, uint32_t wanted)
{
    struct survey s = {.lowest = queue.first ? queue.first->virtual_ns : UINT64_MAX};

    for (uint32_t i = 0; i < cpu_count; i++) {
        struct cpu *c = cpu_table[i];
        uint64_t v;

        if (!c || !c->current)
            continue; /* does not schedule (yet) */
        if (c->current == c->idle) {
            bool better = !s.idle || c == this_cpu() || (i == wanted && s.idle != this_cpu());

            if (atomic_load_explicit(&c->in_idle, memory_order_relaxed) && better)
                s.idle = c;
            continue;
        }
        v = running_virtual(c, now);
        if (v < s.lowest)
            s.lowest = v;
        if (!s.ahead || v > s.ahead_virtual) {
            s.ahead = c;
            s.ahead_virtual = v;
        }
    }
    return s;
}

/* The CPU that is to be told of t, which is in the queue; NULL: none. */
static struct cpu *choose_cpu(const struct survey *s, const struct thread *t)
{
    if (s->idle) {
        atomic_store_explicit(&s->idle->in_idle, false, memory_order_relaxed);
        /* Itself: its idle loop looks at the queue before it halts. */
        return s->idle == this_cpu() ? NULL : s->idle;
    }
    if (!s->ahead || t->virtual_ns + THREAD_MARGIN_NS > s->ahead_virtual)
        return NULL;
    atomic_store_explicit(&s->ahead->resched, true, memory_order_relaxed);
    return s->ahead;
}

static void settle_virtual(struct thread *t, uint64_t lowest)
{
    uint64_t low, high;

    if (lowest != UINT64_MAX && lowest > queue.floor)
        queue.floor = lowest;
    low = elapsed(queue.floor, THREAD_SLICE_NS);
    high = queue.floor + THREAD_SLICE_NS;
    if (t->virtual_ns < low)
        t->virtual_ns = low;
    if (t->virtual_ns > high)
        t->virtual_ns = high;
}

void scheduler_wake(struct thread *t)
{
    struct survey s;
    struct cpu *target;
    uint64_t now;

    spin_lock(&queue.lock);
    if (t->state != THREAD_WAITS)
        panic("a thread that does not wait was woken");
    now = seam_time_ns();
    s = survey_cpus(now, t->cpu);
    settle_virtual(t, s.lowest);
    t->state = THREAD_READY;
    t->since = now;
    queue_insert(t);
    target = choose_cpu(&s, t);
    spin_unlock(&queue.lock);
    if (target)
        cpu_send_ipi(target->index, VECTOR_KICK);
}

void scheduler_start(struct thread *t)
{
    spin_lock(&queue.lock);
    t->virtual_ns = queue.floor;
    spin_unlock(&queue.lock);
    scheduler_wake(t);
}

/* --- the switch --- */

/* What the current thread has run since the last time is added up. */
static void charge(struct thread *t, uint64_t now)
{
    uint64_t ran = elapsed(now, t->since);

    t->ran_ns += ran;
    t->virtual_ns += ran;
    t->since += ran;
}

static void timer_arm(struct cpu *c)
{
    uint64_t deadline = wait_first_deadline(c);

    if (c->slice_end < deadline)
        deadline = c->slice_end;
    if (deadline >= c->timer_armed)
        return;
    c->timer_armed = deadline;
    cpu_arm_timer(deadline);
}

/* With the queue's lock held, which is held again, by maybe another CPU, when it returns: after that
 * scheduler_arrived. The current thread's state has been set, and its time charged. */
static void switch_to(struct cpu *c, struct thread *next, uint64_t now)
{
    struct thread *before = c->current;

    if (next != c->idle)
        next->ready_ns += elapsed(now, next->since);
    next->state = THREAD_RUNS;
    next->since = now;
    next->cpu = c->index;
    c->current = next;
    c->slice_end = next == c->idle ? UINT64_MAX : now + THREAD_SLICE_NS;
    atomic_store_explicit(&c->in_idle, next == c->idle, memory_order_relaxed);
    atomic_store_explicit(&c->resched, false, memory_order_relaxed);
    thread_switch(&before->rsp, next->rsp);
}

void scheduler_arrived(void)
{
    struct cpu *c = this_cpu();

    spin_unlock(&queue.lock);
    if (c->current != c->idle)
        timer_arm(c); /* the idle loop does it before it halts */
}

/* With the queue's lock held. */
static void switch_away(struct cpu *c, uint64_t now)
{
    struct thread *next = queue_take();

    switch_to(c, next ? next : c->idle, now);
}

/* The current thread, still ready, gives way to the first one of the queue, which is not empty. */
static void give_way(struct cpu *c, uint64_t now)
{
    struct thread *t = c->current, *next = queue_take();

    t->state = THREAD_READY;
    t->since = now;
    queue_insert(t);
    switch_to(c, next, now);
    scheduler_arrived();
}

void scheduler_block(struct spin *wait_queue)
{
    struct cpu *c = this_cpu();
    struct thread *t = c->current;
    uint64_t now;

    spin_lock(&queue.lock);
    spin_unlock(wait_queue);
    now = seam_time_ns();
    charge(t, now);
    t->state = THREAD_WAITS;
    t->since = now;
    switch_away(c, now);
    scheduler_arrived();
}

noreturn void scheduler_exit(void)
{
    struct cpu *c = this_cpu();
    uint64_t now;

    spin_lock(&queue.lock);
    now = seam_time_ns();
    charge(c->current, now);
    c->current->state = THREAD_ENDED;
    switch_away(c, now);
    panic("a thread that has ended was run");
}

bool scheduler_ended(struct thread *t)
{
    bool ended;

    spin_lock(&queue.lock);
    ended = t->state == THREAD_ENDED;
    spin_unlock(&queue.lock);
    return ended;
}

/* --- preemption --- */

void hw_on_switch(void (*leave)(void *owner), void *owner)
{
    struct thread *t = thread_current();

    t->on_switch = leave;
    t->on_switch_owner = owner;
}

void scheduler_leave(void)
{
    struct thread *t = thread_current();
    void (*leave)(void *owner) = t->on_switch;

    if (!leave)
        return;
    t->on_switch = NULL;
    leave(t->on_switch_owner);
}

/* With the queue's lock held: has the first one of the queue more right to this CPU than the current thread? */
static bool turn_is_over(const struct cpu *c, uint64_t now)
{
    uint64_t margin = now >= c->slice_end ? 0 : THREAD_MARGIN_NS;

    return queue.first && queue.first->virtual_ns + margin <= running_virtual(c, now);
}

/* The first look: without what the thread left in the CPU put away. A slice that goes on does so anew. */
static bool look_for_turn(struct cpu *c)
{
    uint64_t now;
    bool over;

    spin_lock(&queue.lock);
    now = seam_time_ns();
    over = turn_is_over(c, now);
    if (!over && now >= c->slice_end)
        c->slice_end = now + THREAD_SLICE_NS;
    spin_unlock(&queue.lock);
    return over;
}

void scheduler_preempt(void)
{
    struct cpu *c = this_cpu();
    uint64_t now;

    if (!atomic_load_explicit(&c->resched, memory_order_relaxed) || c->current == c->idle)
        return;
    atomic_store_explicit(&c->resched, false, memory_order_relaxed);
    wait_expire(c, seam_time_ns());
    if (!look_for_turn(c)) {
        timer_arm(c);
        return;
    }
    scheduler_leave();
    spin_lock(&queue.lock);
    now = seam_time_ns();
    if (turn_is_over(c, now)) {
        charge(c->current, now);
        give_way(c, now);
        return;
    }
    spin_unlock(&queue.lock);
    timer_arm(c);
}

void hw_preempt_point(void)
{
    cpu_take_interrupts();
    scheduler_preempt();
}

void scheduler_yield(void)
{
    struct cpu *c;
    uint64_t now, behind;

    hw_preempt_point(); /* what it yields for may be a deadline of this CPU */
    c = this_cpu();
    if (c->current == c->idle || atomic_load_explicit(&queue.ready, memory_order_relaxed) == 0)
        return;
    scheduler_leave();
    spin_lock(&queue.lock);
    now = seam_time_ns();
    if (!queue.first) {
        spin_unlock(&queue.lock);
        return;
    }
    charge(c->current, now);
    behind = queue.first->virtual_ns + THREAD_MARGIN_NS;
    if (c->current->virtual_ns < behind)
        c->current->virtual_ns = behind;
    give_way(c, now);
}

void scheduler_timer_fired(void)
{
    struct cpu *c = this_cpu();

    c->timer_armed = UINT64_MAX;
    atomic_store_explicit(&c->resched, true, memory_order_relaxed);
}

/* --- idle --- */

static void idle_once(struct cpu *c)
{
    struct thread *next;
    uint64_t now;

    wait_expire(c, seam_time_ns());
    spin_lock(&queue.lock);
    next = queue_take();
    if (next) {
        now = seam_time_ns();
        charge(c->idle, now);
        switch_to(c, next, now);
        scheduler_arrived();
        return;
    }
    atomic_store_explicit(&c->in_idle, true, memory_order_relaxed);
    spin_unlock(&queue.lock);
    timer_arm(c);
    cpu_halt();
}

noreturn void scheduler_run(void)
{
    struct cpu *c = this_cpu();
    struct thread *idle = thread_adopt("idle");

    if (!idle)
        panic("no memory for an idle thread");
    spin_lock(&queue.lock);
    idle->state = THREAD_RUNS;
    idle->cpu = c->index;
    c->idle = idle;
    c->current = idle;
    c->timer_armed = UINT64_MAX;
    c->slice_end = UINT64_MAX;
    spin_unlock(&queue.lock);
    for (;;)
        idle_once(c);
}
