/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Who gets the processor, and when.
 *
 * What is fair. At any moment some VMs want to run. The machine's CPUs are divided among them
 * (share_divide): by weight, but nobody gets less than its reservation, more than its limit, or
 * more than it has runnable vCPUs; what one cannot use is the others'. That is the fluid schedule.
 * The real one gives whole CPUs for a slice at a time and stays close to it: earliest eligible
 * virtual deadline first (I. Stoica, H. Abdel-Wahab, 1995; as Linux's EEVDF since 6.6), with two
 * turns of our own.
 *
 * First turn: the account is the VM's, not the vCPU's. A VM's virtual time v advances by what its
 * vCPUs run, divided by phi, its weight in effect. The virtual time V of all is the average of the
 * active VMs' v, weighted by phi, so that what all are owed, phi * (V - v), adds up to nothing:
 * nobody's debt is lost, no credit is made, when VMs come and go. A VM whose v is not after V is
 * eligible: it has not had more than its part. The eligible one whose deadline, v plus a slice, is
 * first, runs next. Eligibility keeps anybody from running ahead by more than a slice, deadlines
 * from falling behind by more. How a guest spreads its work over vCPUs, or when it sleeps, makes no
 * difference to its account. A VM is charged with the whole slice when a vCPU of it begins to run,
 * and given back what was not used: so what another CPU decides meanwhile knows of it, and a VM
 * with several vCPUs gets its CPUs by the same rule.
 *
 * Second turn: phi. Where bounds do not matter, it is the weight, exact at every moment, with
 * nothing to recompute. VMs that are held at a bound have the phi that gives them that rate beside
 * the others. Who is, is found when the set of active VMs has changed, at most once in
 * SHARE_DIVIDE_NS. Who could use no more cannot make up for what it misses either: its phi is an
 * eighth higher, so that it is owed something and goes first.
 *
 * Now and V. As grants are charged beforehand, V is ahead of the present: by what the grants that
 * run have left. Who comes or goes is measured by the V of the present. Who comes with a debt
 * moves V itself: its v is set so that it owes as much afterwards.
 *
 * Sleep. Who goes to sleep owing something (it ran ahead) works it off, in its absence, at the rate
 * that it had; who is owed something keeps it, at most a slice. So sleeping just before being
 * charged gains nothing.
 *
 * Reservation. phi gives it on average, as of the last division; so that nothing is lost by what
 * happens in between, it is counted, too: who has wanted to run and is a slice short of it goes
 * first.
 *
 * Latency. One that wakes, and has not had its part, goes before all who compute, for
 * SHARE_WAKE_NS: it takes the CPU from the one whose deadline is last. If it has had its part
 * already, it is not eligible, and waits. Who computes loses nothing by it but time: if it falls
 * behind by more than a slice, it goes first.
 *
 * Limit: a bucket of tokens, filled at the limit's rate, which holds SHARE_BUCKET_NS of it. Grants
 * take from it beforehand: over any time a VM gets no more than that time's part and a bucket, and
 * a slice for each vCPU. What serves (a VM's devices and timers) takes from it, and is never held
 * by it.
 *
 * Credit: while a VM uses less than its share of the machine if all wanted theirs, it saves up the
 * difference, at most burst_ns. While it has credit and wants more, its weight counts
 * SHARE_BURST_FACTOR times, and all that it runs above that share is taken from the credit, whether
 * others wanted it or not: else it would matter who is asleep in the moment when it is counted.
 * The others' reservations are not touched by weights.
 *
 * Directed yield. Who spins waiting for another vCPU of its VM hands the rest of its slice to the
 * one of them that has waited longest for a CPU. If none waits, it spins on: what it waits for
 * runs. It does not give way to other VMs, which would cost it more than it asked for.
 *
 * What is proven by simulation (tests/unit/share_cpu.c), over millions of steps: over any time, who
 * wants to run all the time gets its weight's share, and whoever wants to run its reservation, less
 * at most a slice for each CPU and two; limits and credit as said; no CPU idles while anybody may
 * run; no pattern that a search found gets more than 1 % above its share.
 *
 * CPUs. Each has a queue of those that are ready, where they ran last, since their data is in its
 * caches. A CPU that needs somebody looks at its own queue first and takes from another's only one
 * that is due earlier by MARGIN_NS, or that is eligible if its own has none; an idle one
 * takes anything. Queues are short (vCPUs that are ready on one CPU), so they are lists that are
 * looked through: a dozen instructions each.
 *
 * Work that serves (vcpu->serves) is short and holds up whole VMs: it goes before everybody, in the
 * order of coming, on its VM's account.
 *
 * Locking: the caller's, around everything. Accounts are in cpu_account.c.
 */
#include "core/assert.h"
#include "share/cpu_private.h"

/* An earlier deadline elsewhere is worth cold caches from there on; of two vCPUs of one VM, having
 * waited so much longer. */
enum { MARGIN_NS = SHARE_SLICE_NS / 4, TURN_NS = 2 * SHARE_SLICE_NS };

/* --- queues ---------------------------------------------------------------------------------- */

static void enqueue(struct share_cpus *s, struct share_vcpu *x, uint32_t cpu)
{
    struct share_queue *q = &s->queue[cpu];

    x->cpu = cpu;
    x->next = NULL;
    x->before = q->last;
    if (q->last)
        q->last->next = x;
    else
        q->first = x;
    q->last = x;
    q->count++;
    s->ready++;
}

static void dequeue(struct share_cpus *s, struct share_vcpu *x)
{
    struct share_queue *q = &s->queue[x->cpu];

    if (x->before)
        x->before->next = x->next;
    else
        q->first = x->next;
    if (x->next)
        x->next->before = x->before;
    else
        q->last = x->before;
    q->count--;
    s->ready--;
}

/* --- the best one ---------------------------------------------------------------------------- */

struct best {
    struct share_vcpu *x;
    uint64_t deadline;
    bool serves, due, fresh, eligible;
};

struct search {
    struct share_cpus *s;
    uint64_t now, virtual_now;
    uint32_t cpu; /* for whom */
};

static uint64_t deadline_of(const struct share_vcpu *x)
{
    const struct share_vm *vm = x->vm;

    return vm->v + (x->fresh ? vm->quantum / (SHARE_SLICE_NS / SHARE_WAKE_NS) : vm->quantum);
}

/* Held by its limit? Then it is noted when it will not be. */
static bool is_held(struct search *f, struct share_vm *vm)
{
    uint64_t at;

    if (likely(!vm->terms.limit) || share_may_run(vm, f->now))
        return false;
    at = share_released_at(vm);
    if (at < f->s->release)
        f->s->release = at;
    return true;
}

/* Of two with equal rights, the first one found: who came first to its queue. */
static bool is_better(const struct best *a, const struct best *b)
{
    if (!b->x || a->serves != b->serves)
        return !b->x || a->serves;
    if (a->serves)
        return false;
    if (a->due != b->due)
        return a->due;
    if (a->eligible != b->eligible)
        return a->eligible;
    if (a->fresh != b->fresh)
        return a->fresh;
    return share_is_before(a->deadline, b->deadline);
}

/* By more than anybody is who can run when it wants to: it has too few vCPUs to make up for what it
 * misses. */
static bool is_far_behind(const struct search *f, const struct share_vm *vm)
{
    return !share_is_before(f->virtual_now, vm->v + vm->quantum + vm->quantum / 2);
}

static void look_through(struct search *f, const struct share_queue *q, struct best *best)
{
    for (struct share_vcpu *x = q->first; x; x = x->next) {
        struct best b = {.x = x, .serves = x->serves};

        if (!(x->mask & BIT(f->cpu)) || (!x->serves && is_held(f, x->vm)))
            continue;
        if (!x->serves) {
            b.deadline = deadline_of(x);
            b.due = share_is_due(x->vm, f->now) || is_far_behind(f, x->vm);
            b.eligible = !share_is_before(f->virtual_now, x->vm->v);
            b.fresh = x->fresh;
        }
        if (is_better(&b, best))
            *best = b;
    }
}

/* How much of virtual time passes in MARGIN_NS, all CPUs busy. */
static uint64_t margin(const struct share_cpus *s)
{
    return s->phi ? (uint64_t)share_to_virtual(MARGIN_NS, s->phi) * s->online : 0;
}

static struct best find_best(struct search *f)
{
    struct share_cpus *s = f->s;
    struct best own = {0}, other = {0};

    look_through(f, &s->queue[f->cpu], &own);
    if (s->ready == s->queue[f->cpu].count)
        return own;
    for (uint32_t i = 0; i < s->count; i++)
        if (i != f->cpu && s->queue[i].count)
            look_through(f, &s->queue[i], &other);
    if (!own.x || !other.x)
        return own.x ? own : other;
    if (own.x->vm == other.x->vm && !own.serves && !other.serves)
        return other.x->since + TURN_NS < own.x->since ? other : own;
    if (own.serves == other.serves && own.due == other.due && own.eligible == other.eligible &&
        own.fresh == other.fresh)
        other.deadline += margin(s);
    return is_better(&other, &own) ? other : own;
}

/* --- who runs -------------------------------------------------------------------------------- */

static uint64_t length_of_grant(struct share_vcpu *x, uint64_t now)
{
    uint64_t ns;

    if (x->serves)
        return SHARE_SLICE_NS;
    ns = share_may_run(x->vm, now);
    return x->fresh && ns > SHARE_WAKE_NS ? SHARE_WAKE_NS : ns;
}

static void run(struct share_cpus *s, struct share_vcpu *x, uint32_t cpu, uint64_t ns, uint64_t now)
{
    struct share_queue *q = &s->queue[cpu];
    uint64_t waited = now > x->since ? now - x->since : 0;

    q->runs = x;
    q->deadline = deadline_of(x);
    x->ready_ns += waited;
    if (!x->serves)
        x->vm->ready_ns += waited;
    x->cpu = cpu;
    x->state = SHARE_RUNS;
    x->since = now;
    x->brief = x->fresh;
    x->fresh = false;
    x->granted = ns;
    share_grant(s, x->vm, ns, now);
}

struct share_vcpu *share_pick(struct share_cpus *s, uint32_t cpu, uint64_t now, uint64_t *until)
{
    struct search f = {.s = s, .now = now, .cpu = cpu};
    struct best best;
    uint64_t ns;

    s->queue[cpu].claimed = false;
    s->release = UINT64_MAX;
    share_divide_if_due(s, now);
    f.virtual_now = share_virtual_now(s);
    best = find_best(&f);
    if (!best.x) {
        *until = s->release;
        return NULL;
    }
    ns = length_of_grant(best.x, now);
    *until = s->release < now + ns ? s->release : now + ns;
    dequeue(s, best.x);
    run(s, best.x, cpu, ns, now);
    return best.x;
}

/* A vCPU is counted among its VM's runnable ones, or not any more. */
static void count_runnable(struct share_cpus *s, struct share_vcpu *x, bool wants, uint64_t now)
{
    struct share_vm *vm = x->vm;

    if (x->serves)
        return;
    vm->runnable = wants ? vm->runnable + 1 : vm->runnable - 1;
    if (wants && !vm->active)
        share_join(s, vm, now);
    else if (!vm->runnable)
        share_leave(s, vm, now);
    s->stale = true;
}

void share_stop(struct share_cpus *s, struct share_vcpu *x, bool ready, uint64_t now)
{
    uint64_t ran = now > x->since ? now - x->since : 0;

    assert(s->queue[x->cpu].runs == x);
    s->queue[x->cpu].runs = NULL;
    x->ran_ns += ran;
    x->since += ran;
    share_settle(s, x->vm, x->granted, ran, now);
    x->state = ready ? SHARE_READY : SHARE_SLEEPS;
    if (ready)
        enqueue(s, x, x->cpu);
    else
        count_runnable(s, x, false, now);
}

bool share_should_stop(const struct share_cpus *s, uint32_t cpu, uint64_t now)
{
    const struct share_vcpu *x = s->queue[cpu].runs;

    if (!x)
        return true;
    return now >= x->since + x->granted || s->queue[cpu].claimed;
}

/* --- waking ---------------------------------------------------------------------------------- */

static uint32_t first_allowed(const struct share_cpus *s, const struct share_vcpu *x)
{
    if (x->mask & BIT(x->cpu) && x->cpu < s->count)
        return x->cpu;
    return (uint32_t)__builtin_ctzll(x->mask);
}

static bool is_idle(const struct share_queue *q)
{
    return !q->runs && !q->claimed;
}

/* An idle CPU; if there is none, the one whose work has the last deadline. What serves is left
 * alone. */
static uint32_t weakest(const struct share_cpus *s, const struct share_vcpu *x)
{
    uint32_t found = SHARE_NO_CPU;

    if (x->mask & BIT(x->cpu) && is_idle(&s->queue[x->cpu]))
        return x->cpu;
    for (uint32_t i = 0; i < s->count; i++) {
        const struct share_queue *q = &s->queue[i];

        if (!(x->mask & BIT(i)))
            continue;
        if (is_idle(q))
            return i;
        if (!q->runs || q->claimed || q->runs->serves)
            continue;
        if (found == SHARE_NO_CPU || share_is_before(s->queue[found].deadline, q->deadline))
            found = i;
    }
    return found;
}

/* May x take that CPU from what runs there? */
static bool may_take(struct share_cpus *s, struct share_vcpu *x, uint32_t cpu, uint64_t now)
{
    const struct share_queue *q = &s->queue[cpu];

    if (is_idle(q) || x->serves)
        return true;
    if (x->vm->terms.limit && !share_may_run(x->vm, now))
        return false;
    if (share_is_due(x->vm, now))
        return true;
    if (share_is_before(share_virtual_now(s), x->vm->v))
        return false;
    return !q->runs->brief ||
           share_is_before(deadline_of(x), q->deadline);
}

uint32_t share_wake(struct share_cpus *s, struct share_vcpu *x, uint64_t now)
{
    uint32_t cpu;

    assert(x->state == SHARE_SLEEPS);
    x->state = SHARE_READY;
    x->since = now;
    x->fresh = true;
    count_runnable(s, x, true, now);
    cpu = weakest(s, x);
    if (cpu == SHARE_NO_CPU || !may_take(s, x, cpu, now)) {
        enqueue(s, x, first_allowed(s, x));
        return SHARE_NO_CPU;
    }
    enqueue(s, x, cpu);
    s->queue[cpu].claimed = true;
    return cpu;
}

/* For an idle CPU, somebody who is ready elsewhere and may run on it. */
static bool has_work(struct share_cpus *s, uint32_t cpu, uint64_t now)
{
    struct search f = {.s = s, .now = now, .cpu = cpu};
    struct best best = {0};

    for (uint32_t i = 0; i < s->count && !best.x; i++)
        look_through(&f, &s->queue[i], &best);
    return best.x != NULL;
}

uint32_t share_spread(struct share_cpus *s, uint64_t now)
{
    for (uint32_t i = 0; s->ready && i < s->count; i++)
        if (is_idle(&s->queue[i]) && has_work(s, i, now)) {
            s->queue[i].claimed = true;
            return i;
        }
    return SHARE_NO_CPU;
}

/* --- directed yield -------------------------------------------------------------------------- */

/* Whoever of the VM has waited longest for a CPU: if x waits for a lock, its holder is likely among
 * those. */
static struct share_vcpu *longest_waiting(const struct share_vcpu *x)
{
    struct share_vcpu *found = NULL;

    for (struct share_vcpu *y = x->vm->vcpus; y; y = y->sibling)
        if (y->state == SHARE_READY && !y->serves && y->mask & BIT(x->cpu) &&
            (!found || y->since < found->since))
            found = y;
    return found;
}

struct share_vcpu *share_yield(struct share_cpus *s, struct share_vcpu *x, uint64_t now,
                               uint64_t *until)
{
    struct share_vcpu *y = longest_waiting(x);
    uint32_t cpu = x->cpu;

    *until = x->since + x->granted;
    if (!y || *until <= now)
        return x;
    share_stop(s, x, true, now);
    dequeue(s, y);
    run(s, y, cpu, *until - now, now); /* the rest of the slice is handed on */
    return y;
}

struct share_vcpu *share_give_way(struct share_cpus *s, struct share_vcpu *x, uint64_t now,
                                  uint64_t *until)
{
    uint32_t cpu = x->cpu;
    struct share_vcpu *y;

    share_stop(s, x, true, now);
    dequeue(s, x);
    y = share_pick(s, cpu, now, until);
    enqueue(s, x, cpu);
    return y ? y : share_pick(s, cpu, now, until);
}

/* --- who there is ---------------------------------------------------------------------------- */

void share_vcpu_add(struct share_cpus *s, struct share_vm *vm, struct share_vcpu *x, uint64_t mask,
                    bool serves)
{
    if (s->count < SHARE_CPUS)
        mask &= BIT(s->count) - 1;
    *x = (struct share_vcpu){.vm = vm, .mask = mask, .serves = serves, .sibling = vm->vcpus};
    x->cpu = (uint32_t)__builtin_ctzll(mask);
    vm->vcpus = x;
    if (!serves)
        vm->vcpu_count++;
}

void share_vcpu_remove(struct share_cpus *s, struct share_vcpu *x)
{
    struct share_vcpu **p = &x->vm->vcpus;

    (void)s;
    assert(x->state == SHARE_SLEEPS);
    while (*p != x)
        p = &(*p)->sibling;
    *p = x->sibling;
    if (!x->serves)
        x->vm->vcpu_count--;
}
