/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Who runs: the caller of share/cpu.c, which decides.
 *
 * A thread is a vCPU in that policy's words, on the account of its VM; a thread that is no VM's has an account of its
 * own (thread.h). Here is what the policy leaves open: switching, CPUs that halt, and the timer.
 *
 * CPUs. One with nothing to do stands in its idle thread and halts. Who makes a thread ready asks the
 * policy which CPU is to look (share_wake), and sends that one VECTOR_KICK: if it is idle, it halts no more; if it runs
 * a guest, that is left, and the engine comes to its preemption point, where `resched` is seen. A CPU that has given
 * up a thread asks whether an idle one could run it (share_spread). The policy knows a CPU for idle from when it found nothing to run there, with
 * the queue's lock held, and threads become ready with that lock held: one of the two sees the other, and the interrupt waits
 * at the local APIC until the CPU, which has interrupts off till then, halts. So no CPU sleeps while a thread may run.
 *
 * The switch. The lock is held from the decision, over the switch, to the first thing that the next thread does
 * (scheduler_arrived): the lock belongs to the CPU, not to the thread. A thread is therefore seen as ready or waiting by
 * others only when its registers have been saved, and cannot be started twice. Who waits (scheduler_block) takes this
 * lock before it lets the wait queue's go: who finds it in the wait queue has to take this lock after that and finds it
 * switched out.
 *
 * What a thread left in its CPU (hw_on_switch) is put away once it is decided that another one runs, with the lock
 * held: some hundred instructions, which are spared if the thread goes on, as it does most of the time. Only who blocks
 * does it before.
 *
 * The timer serves both the end of a grant and deadlines (wait.c). It is armed only if that is earlier than what it
 * is armed for: one that comes too early finds nothing due and arms the next, which is cheaper than arming it at
 * each switch. If it is overdue it is armed again, too: one that counts comes late if its CPU stood still (SMM, a
 * hypervisor below) between the look at the clock and its arming. Its handler only notes; the work is done at preemption points and in the idle loop, and when a
 * thread waits or yields while the timer is overdue, so that threads that do nothing but wake each other do not
 * shut out interrupts.
 *
 * Locking: queue.lock, below wait queues' and deadlines' locks, above frames' and the log's. Under it: the policy's
 * state, accounts, `current` and slice_end of all CPUs, and of threads what thread.h says. Interrupts are
 * off.
 */
#include "core/assert.h"
#include "engine/hw.h"
#include "native/cpu.h"
#include "native/spin.h"
#include "native/thread.h"

enum { OWN_PERCENT = 5 }; /* of a CPU, for each of Lodge's own threads */

static struct {
    struct spin lock;
    struct share_cpus share;
    uint64_t gone_ns; /* that threads ran that had an account of their own and have ended */
} queue;

/* However much VMs have reserved, the operator can act. */
static const struct share_terms own_terms = {.weight = 100, .reservation = OWN_PERCENT};

/* CPUs' TSCs may be apart by less than what they were checked for: never negative. */
static uint64_t elapsed(uint64_t now, uint64_t since)
{
    return now > since ? now - since : 0;
}

/* In the list of this CPU (wait.c), without its lock: others only take threads out of it, so that what is seen is never too late. */
static uint64_t first_deadline(const struct cpu *c)
{
    return atomic_load_explicit(&c->first_deadline, memory_order_relaxed);
}

static struct thread *thread_of(struct share_vcpu *x)
{
    return x ? container_of(x, struct thread, share) : NULL;
}

static noinline_cold void tell_cpu(uint32_t cpu)
{
    struct cpu *c = cpu_table[cpu];

    if (c->current != c->idle)
        atomic_store_explicit(&c->resched, true, memory_order_relaxed);
    else if (c == this_cpu())
        return; /* its idle loop looks before it halts */
    cpu_send_ipi(cpu, VECTOR_KICK);
}

/* That CPU is to look for somebody to run. */
static always_inline void tell(uint32_t cpu)
{
    if (cpu != SHARE_NO_CPU)
        tell_cpu(cpu);
}

void scheduler_init(void)
{
    share_init(&queue.share, cpu_count);
    queue.gone_ns = 0;
}

void scheduler_wake(struct thread *t)
{
    spin_lock(&queue.lock);
    if (t->state != THREAD_WAITS)
        panic("a thread that does not wait was woken");
    t->state = THREAD_READY;
    tell(share_wake(&queue.share, &t->share, seam_time_ns()));
    spin_unlock(&queue.lock);
}

void scheduler_start(struct thread *t, struct account *account, uint64_t cpus, bool serves)
{
    spin_lock(&queue.lock);
    if (!account) {
        account = &t->own;
        share_vm_add(&queue.share, &account->share, &own_terms, seam_time_ns());
    }
    share_vcpu_add(&queue.share, &account->share, &t->share, cpus, serves);
    spin_unlock(&queue.lock);
    scheduler_wake(t);
}

/* --- accounts --- */

void scheduler_account_add(struct account *account, const struct share_terms *terms)
{
    spin_lock(&queue.lock);
    share_vm_add(&queue.share, &account->share, terms, seam_time_ns());
    spin_unlock(&queue.lock);
}

void scheduler_account_set(struct account *account, const struct share_terms *terms)
{
    spin_lock(&queue.lock);
    share_vm_set(&queue.share, &account->share, terms, seam_time_ns());
    spin_unlock(&queue.lock);
}

void scheduler_urge(struct account *account, bool urgent)
{
    spin_lock(&queue.lock);
    share_vm_urge(&account->share, urgent);
    tell(share_spread(&queue.share, seam_time_ns())); /* who was held by its limit may run */
    spin_unlock(&queue.lock);
}

void scheduler_serve(bool serves)
{
    spin_lock(&queue.lock);
    share_vcpu_serve(&queue.share, &thread_current()->share, serves, seam_time_ns());
    spin_unlock(&queue.lock);
}

void scheduler_pin(struct thread *t, uint64_t cpus)
{
    spin_lock(&queue.lock);
    tell(share_vcpu_pin(&queue.share, &t->share, cpus, seam_time_ns()));
    spin_unlock(&queue.lock);
}

static struct account *account_of(const struct thread *t)
{
    return container_of(t->share.vm, struct account, share);
}

/* The CPU's time in guest code since it was counted last was the current thread's. Only that CPU's own count grows
 * meanwhile. */
static uint64_t guest_ticks_since(const struct cpu *c)
{
    return atomic_load_explicit(&c->guest_ticks, memory_order_relaxed) - c->guest_counted;
}

static always_inline void count_guest(struct cpu *c)
{
    uint64_t ticks = guest_ticks_since(c);

    account_of(c->current)->guest_ticks += ticks;
    c->guest_counted += ticks;
}

/* With the queue's lock held. */
static void measure_cpus(struct scheduler_use *all)
{
    for (uint32_t i = 0; i < cpu_count; i++) {
        const struct cpu *c = cpu_table[i];

        if (!c->idle)
            continue; /* it does not schedule (yet) */
        all->before_ns += c->online_ns;
        all->idle_ns += c->idle->share.ran_ns;
        if (c->current == c->idle)
            all->idle_ns += elapsed(all->now, c->idle->share.since);
    }
}

/* Into measured_ticks of each account: what was counted, and what goes on. */
static void measure_ticks(struct account *const account[], uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        account[i]->measured_ticks = account[i]->guest_ticks;
    for (uint32_t i = 0; i < cpu_count; i++) {
        const struct cpu *c = cpu_table[i];

        if (c->idle && c->current != c->idle)
            account_of(c->current)->measured_ticks += guest_ticks_since(c);
    }
}

static uint64_t ran_by_all(uint64_t now)
{
    uint64_t ns = queue.gone_ns;

    for (const struct share_vm *vm = queue.share.vms; vm; vm = vm->next)
        ns += share_use_of(vm, now).ran_ns;
    return ns;
}

void scheduler_measure(struct scheduler_use *all, struct account *const account[], struct account_use use[], uint32_t count)
{
    spin_lock(&queue.lock);
    *all = (struct scheduler_use){.now = seam_time_ns()};
    measure_cpus(all);
    all->own_ns = ran_by_all(all->now);
    measure_ticks(account, count);
    for (uint32_t i = 0; i < count; i++) {
        struct share_use u = share_use_of(&account[i]->share, all->now);

        use[i] = (struct account_use){.ran_ns = u.ran_ns, .steal_ns = u.ready_ns};
        use[i].guest_ns = scale_u64(account[i]->measured_ticks, 1000000, hw_tsc_khz());
        all->own_ns -= u.ran_ns;
    }
    spin_unlock(&queue.lock);
}

/* --- the switch --- */

static always_inline void timer_arm(struct cpu *c)
{
    uint64_t deadline = first_deadline(c);

    if (c->slice_end < deadline)
        deadline = c->slice_end;
    if (deadline >= c->timer_armed && c->timer_armed > c->now)
        return;
    cpu_arm_timer(deadline, c->now);
}

/* With the queue's lock held, which is held again, by maybe another CPU, when it returns: after that
 * scheduler_arrived. The policy has been told of the current thread, and has said who is next, until when. */
static always_inline void switch_to(struct cpu *c, struct thread *next, uint64_t now, uint64_t until)
{
    struct thread *before = c->current;

    c->now = now;
    if (before == c->idle)
        before->share.ran_ns += elapsed(now, before->share.since);
    else
        count_guest(c);
    if (next) {
        c->switches++;
    } else {
        next = c->idle;
        next->share.since = now;
    }
    next->state = THREAD_RUNS;
    c->current = next;
    c->slice_end = until;
    tell(share_spread(&queue.share, now));
    thread_switch(&before->rsp, next->rsp);
}

void scheduler_arrived(void)
{
    struct cpu *c = this_cpu();

    spin_unlock(&queue.lock);
    if (c->current != c->idle)
        timer_arm(c); /* the idle loop does it before it halts */
}

/* With the queue's lock held; the current thread has stopped, and its state been set. */
static void switch_away(struct cpu *c, uint64_t now)
{
    uint64_t until;
    struct thread *next = thread_of(share_pick(&queue.share, c->index, now, &until));

    switch_to(c, next, now, until);
}

/* With the queue's lock held, which is let go: the current thread, still ready, gives way to next, or goes on. */
static always_inline void go_on_with(struct cpu *c, struct thread *next, uint64_t now, uint64_t until)
{
    atomic_store_explicit(&c->resched, false, memory_order_relaxed);
    if (next == c->current) {
        c->now = now;
        c->slice_end = until;
        spin_unlock(&queue.lock);
        timer_arm(c);
        return;
    }
    scheduler_leave();
    c->current->state = THREAD_READY;
    switch_to(c, next, now, until);
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
    t->state = THREAD_WAITS;
    share_stop(&queue.share, &t->share, false, now);
    switch_away(c, now);
    scheduler_arrived();
}

noreturn void scheduler_exit(void)
{
    struct cpu *c = this_cpu();
    struct thread *t = c->current;
    uint64_t now;

    spin_lock(&queue.lock);
    now = seam_time_ns();
    t->state = THREAD_ENDED;
    share_stop(&queue.share, &t->share, false, now);
    share_vcpu_remove(&queue.share, &t->share);
    if (t->share.vm == &t->own.share) {
        queue.gone_ns += t->own.share.ran_ns;
        share_vm_remove(&queue.share, &t->own.share);
    }
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
    struct thread *t = this_cpu()->current;

    t->on_switch = leave;
    t->on_switch_owner = owner;
}

void scheduler_leave(void)
{
    struct thread *t = this_cpu()->current;
    void (*leave)(void *owner) = t->on_switch;

    if (!leave)
        return;
    t->on_switch = NULL;
    leave(t->on_switch_owner);
}

void scheduler_preempt(void)
{
    struct cpu *c = this_cpu();
    struct thread *t = c->current, *next;
    uint64_t now, until;

    if (!atomic_load_explicit(&c->resched, memory_order_relaxed) || t == c->idle)
        return;
    atomic_store_explicit(&c->resched, false, memory_order_relaxed);
    now = seam_time_ns();
    if (first_deadline(c) <= now)
        wait_expire(c, now);
    spin_lock(&queue.lock);
    if (!share_should_stop(&queue.share, c->index, now)) {
        c->now = now;
        spin_unlock(&queue.lock);
        timer_arm(c);
        return;
    }
    next = thread_of(share_next(&queue.share, &t->share, now, &until));
    go_on_with(c, next, now, until);
}

void hw_preempt_point(void)
{
    cpu_take_interrupts();
    scheduler_preempt();
}

/* Is there no other vCPU of its VM that wants to run? A look without the lock: a guest that spins alone costs the others nothing. */
static bool spins_alone(const struct thread *t)
{
    return !t->share.serves && t->share.vm != &t->own.share && t->share.vm->runnable < 2;
}

/* A vCPU that spins helps its VM's others on; any other thread lets somebody else run: what serves a VM, too, which may wait for one of its
 * vCPUs that is another CPU's. */
void scheduler_yield(void)
{
    struct cpu *c;
    struct thread *t;
    uint64_t now, until;
    struct share_vcpu *next;

    hw_preempt_point(); /* what it yields for may be a deadline of this CPU */
    c = this_cpu();
    t = c->current;
    if (t == c->idle || spins_alone(t))
        return;
    spin_lock(&queue.lock);
    now = seam_time_ns();
    if (t->share.serves || t->share.vm == &t->own.share)
        next = share_give_way(&queue.share, &t->share, now, &until);
    else
        next = share_yield(&queue.share, &t->share, now, &until);
    go_on_with(c, thread_of(next), now, until);
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
    uint64_t now, until;

    now = seam_time_ns();
    if (first_deadline(c) <= now)
        wait_expire(c, now);
    spin_lock(&queue.lock);
    now = seam_time_ns();
    next = thread_of(share_pick(&queue.share, c->index, now, &until));
    if (next) {
        switch_to(c, next, now, until);
        scheduler_arrived();
        return;
    }
    c->now = now;
    c->slice_end = until; /* of somebody whom a limit holds back */
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
    c->idle = idle;
    c->current = idle;
    c->timer_armed = UINT64_MAX;
    c->slice_end = UINT64_MAX;
    atomic_store(&c->first_deadline, UINT64_MAX);
    c->online_ns = idle->share.since;
    share_cpu_online(&queue.share, c->index);
    spin_unlock(&queue.lock);
    for (;;)
        idle_once(c);
}
