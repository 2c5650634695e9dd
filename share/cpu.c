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
 * the others. Who is, is found when the set of active VMs has changed, on average at most once in
 * SHARE_DIVIDE_NS for each of them.
 *
 * Capped VMs, whose share is all that they can use or may, cannot make up for what they miss. So who is
 * behind goes first; and whose share is all that its vCPUs can use ("whole"), goes first unless it has run
 * ahead, and is driven from its CPU last.
 *
 * Slices. Over a second, a slice more or less is 1 % of a VM that has a tenth of a CPU. So who weighs
 * less than the average of who wants to run is granted less at a time, in proportion, but not less
 * than SHARE_SLICE_MIN_NS; its deadlines are as much earlier. Equals have whole slices, however many
 * they are.
 *
 * Now and V. As grants are charged beforehand, V is ahead of the present: by what the grants that
 * run have left. Who comes or goes, and whose phi changes, is measured by the V of the present.
 *
 * Sleep. Who goes to sleep owing something (it ran ahead) works it off, in its absence, at the rate at which
 * the others gain by that; who is owed something keeps it, at most a slice. So sleeping just before being
 * charged gains nothing. What all owe has to add up to nothing after who went as before, so others' accounts
 * change: who is owed by one that leaves, is owed less by as much as it gains by the absence; what one is owed
 * that leaves, others do not owe any more until it is back, by their weights. Capped ones have the same whoever comes
 * or goes, and so keep what they are owed. If that were not so, one that sleeps and wakes often would take, by
 * rounds, from one vCPU whose share is nearly a CPU.
 *
 * Reservation. phi gives it on average, as of the last division; so that nothing is lost by what
 * happens in between, it is counted, too: who has wanted to run and is a slice short of it goes
 * before all but those who are whole, and soon before those, too.
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
 * What is proven by simulation (tests/unit/share_cpu.c, share_machines.c), over millions of steps: over any time, who
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
 * order of coming, on its VM's account; unless that has had more than its part already, by more
 * than a slice: then it comes last. All of a VM of which the operator wants something (share_vm_urge) goes first, too.
 *
 * Locking: the caller's, around everything. Accounts are in cpu_account.c.
 */
#include "core/assert.h"
#include "share/cpu_private.h"

/* An earlier deadline elsewhere is worth cold caches from there on; of two vCPUs of one VM, having
 * waited so much longer. */
enum { MARGIN_NS = SHARE_SLICE_NS / 4, TURN_NS = 2 * SHARE_SLICE_NS };

/* --- queues ---------------------------------------------------------------------------------- */

static always_inline void enqueue(struct share_cpus *s, struct share_vcpu *x, uint32_t cpu)
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

static always_inline void dequeue(struct share_cpus *s, struct share_vcpu *x)
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

/* A CPU has, or has not, somebody who runs there, or is about to. */
static always_inline void set_idle(struct share_cpus *s, uint32_t cpu, bool idle)
{
    if (idle)
        s->idle |= BIT(cpu);
    else
        s->idle &= ~BIT(cpu);
}

static void claim(struct share_cpus *s, uint32_t cpu)
{
    s->queue[cpu].claimed = true;
    set_idle(s, cpu, false);
}

/* --- the best one ---------------------------------------------------------------------------- */

/* Rights, the strongest first; of two with the same ones, the earlier deadline counts. */
enum {
    SERVES = 1 << 6,
    OVERDUE = 1 << 5,  /* it is so far behind its reservation that not even those of the next kind may come first */
    WHOLE = 1 << 4,    /* it should never wait, and has not run ahead */
    RESERVED = 1 << 3, /* it is behind its reservation by more than may be */
    DUE = 1 << 2,      /* behind its share */
    ELIGIBLE = 1 << 1, /* it has not had more than its part */
    FRESH = 1 << 0,    /* it has just woken */
    LAST = -1,         /* it serves, beyond its VM's part */
    NOBODY = -2,
};

struct best {
    struct share_vcpu *x; /* NULL: nobody */
    uint64_t deadline;
    int32_t rights; /* NOBODY: x is NULL */
};

struct search {
    struct share_cpus *s;
    uint64_t now, virtual_now;
    uint32_t cpu; /* for whom */
};

static always_inline uint64_t deadline_of(const struct share_vcpu *x)
{
    const struct share_vm *vm = x->vm;

    return vm->v + (x->fresh ? vm->fresh_request : vm->request);
}

/* Held by its limit? Then it is noted when it will not be. */
static bool is_held(struct search *f, struct share_vm *vm)
{
    uint64_t at;

    if (vm->urgent || share_may_run(vm, f->now))
        return false;
    at = share_released_at(vm);
    if (at < f->s->release)
        f->s->release = at;
    return true;
}

/* A microsecond is nothing: who has had exactly its part is not to wait for a slice because something was rounded. */
static always_inline bool is_eligible(const struct share_vm *vm, int64_t behind)
{
    return behind >= -(int64_t)(vm->quantum >> 10);
}

/* This counts, and so is asked always. */
static int32_t rights_of_reserved(struct share_vm *vm, uint64_t now)
{
    int64_t owed = share_owed_of_reserve(vm, now);

    return owed < SHARE_SLICE_NS ? 0 : owed < SHARE_SLICE_NS + SHARE_SLICE_NS / 2 ? RESERVED : OVERDUE;
}

static always_inline int32_t rights_of(struct share_vcpu *x, uint64_t now, uint64_t virtual_now)
{
    struct share_vm *vm = x->vm;
    int64_t behind = (int64_t)(virtual_now - vm->v);
    int32_t rights = x->fresh;

    if (is_eligible(vm, behind))
        rights |= ELIGIBLE;
    if (unlikely(vm->terms.reservation))
        rights |= rights_of_reserved(vm, now);
    if (behind >= vm->far)
        rights |= vm->whole ? WHOLE : DUE;
    return rights;
}

/* Serving goes first while its VM has not had more than its part by more than a slice: a guest that keeps its timers busy without end does
 * not take what is reserved for others. After that it waits until nobody else wants to run, or its VM's absence has made up for it. */
static bool may_serve(const struct share_vm *vm, uint64_t now, uint64_t virtual_now)
{
    if (vm->urgent)
        return true;
    if (vm->active)
        return !share_is_before(virtual_now + vm->quantum, vm->v);
    return share_lag_after_sleep(vm, now) >= -SHARE_SLICE_NS;
}

static always_inline bool is_better(const struct best *a, const struct best *b)
{
    if (a->rights != b->rights)
        return a->rights > b->rights;
    return share_is_before(a->deadline, b->deadline); /* of those that serve, all the same */
}

/* Who came first to its queue comes first of equals. */
static always_inline void look_through(struct search *f, const struct share_queue *q, struct best *best)
{
    const uint64_t here = BIT(f->cpu), now = f->now, virtual_now = f->virtual_now;
    struct best found = *best;

    for (struct share_vcpu *x = q->first; x; x = x->next) {
        struct best b = {.x = x, .rights = SERVES};

        if (unlikely(!(x->mask & here)))
            continue;
        if (unlikely(x->serves)) {
            if (!may_serve(x->vm, now, virtual_now))
                b.rights = LAST;
        } else if (likely(!x->vm->urgent)) {
            if (unlikely(x->vm->terms.limit) && is_held(f, x->vm))
                continue;
            b.rights = rights_of(x, now, virtual_now);
            b.deadline = deadline_of(x);
        }
        if (is_better(&b, &found))
            found = b;
    }
    *best = found;
}

/* How much of virtual time passes in MARGIN_NS, all CPUs busy. */
static uint64_t margin(const struct share_cpus *s)
{
    return s->phi ? (uint64_t)share_to_virtual(MARGIN_NS, s->phi) * s->online : 0;
}

static __attribute__((noinline)) struct best compare_with_others(struct search *f, struct best own)
{
    struct share_cpus *s = f->s;
    struct best other = {.rights = NOBODY};

    for (uint32_t i = 0; i < s->count; i++)
        if (i != f->cpu && s->queue[i].count)
            look_through(f, &s->queue[i], &other);
    if (!own.x || !other.x)
        return own.x ? own : other;
    if (own.x->vm == other.x->vm && !((own.rights | other.rights) & SERVES))
        return other.x->since + TURN_NS < own.x->since ? other : own;
    if (own.rights == other.rights)
        other.deadline += margin(s);
    return is_better(&other, &own) ? other : own;
}

static always_inline struct best find_best(struct search *f)
{
    struct best own = {.rights = NOBODY};

    look_through(f, &f->s->queue[f->cpu], &own);
    return f->s->ready == f->s->queue[f->cpu].count ? own : compare_with_others(f, own);
}

/* --- who runs -------------------------------------------------------------------------------- */

static always_inline uint64_t length_of_grant(struct share_vcpu *x, uint64_t now)
{
    uint64_t ns;

    if (x->serves || x->vm->urgent)
        return SHARE_SLICE_NS;
    ns = likely(!x->vm->terms.limit) ? x->vm->slice : share_may_run(x->vm, now);
    return x->fresh && ns > SHARE_WAKE_NS ? SHARE_WAKE_NS : ns;
}

static always_inline void run(struct share_cpus *s, struct share_vcpu *x, uint32_t cpu, uint64_t ns, uint64_t now,
                              uint64_t virtual_now)
{
    struct share_queue *q = &s->queue[cpu];
    uint64_t waited = share_elapsed(now, x->since);

    q->runs = x;
    set_idle(s, cpu, false);
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
    share_grant(s, x->vm, ns, now, virtual_now);
}

static always_inline struct share_vcpu *pick(struct share_cpus *s, uint32_t cpu, uint64_t now,
                                             uint64_t *until)
{
    struct search f = {.s = s, .now = now, .cpu = cpu};
    struct best best;
    uint64_t ns;

    s->queue[cpu].claimed = false;
    s->release = UINT64_MAX;
    share_divide_if_due(s, now, SHARE_WENT);
    f.virtual_now = share_virtual_now(s);
    best = find_best(&f);
    if (!best.x) {
        set_idle(s, cpu, true);
        *until = s->release;
        return NULL;
    }
    ns = length_of_grant(best.x, now);
    *until = s->release < now + ns ? s->release : now + ns;
    s->queue[cpu].until = *until;
    dequeue(s, best.x);
    run(s, best.x, cpu, ns, now, f.virtual_now);
    return best.x;
}

/* A vCPU is counted among its VM's runnable ones, or not any more. */
static void count_runnable(struct share_cpus *s, struct share_vcpu *x, bool wants, uint64_t now)
{
    struct share_vm *vm = x->vm;

    if (x->serves)
        return;
    s->stale = true;
    vm->runnable = wants ? vm->runnable + 1 : vm->runnable - 1;
    if (wants && !vm->active)
        share_join(s, vm, now);
    else if (!vm->runnable)
        share_leave(s, vm, now);
}

static always_inline void stop(struct share_cpus *s, struct share_vcpu *x, bool ready, uint64_t now)
{
    uint64_t ran = share_elapsed(now, x->since);

    assert(s->queue[x->cpu].runs == x);
    s->queue[x->cpu].runs = NULL;
    x->ran_ns += ran;
    share_settle(s, x->vm, x->since, x->granted, ran, now);
    x->since += ran;
    x->state = ready ? SHARE_READY : SHARE_SLEEPS;
    if (ready)
        enqueue(s, x, x->cpu);
    else
        count_runnable(s, x, false, now);
}

struct share_vcpu *share_pick(struct share_cpus *s, uint32_t cpu, uint64_t now, uint64_t *until)
{
    return pick(s, cpu, now, until);
}

void share_stop(struct share_cpus *s, struct share_vcpu *x, bool ready, uint64_t now)
{
    stop(s, x, ready, now);
    if (likely(!s->queue[x->cpu].claimed))
        set_idle(s, x->cpu, true);
}

/* In one, since this is the path of each switch: stop, pick and all that they do are put in line here. */
struct share_vcpu *share_next(struct share_cpus *s, struct share_vcpu *x, uint64_t now, uint64_t *until)
{
    uint32_t cpu = x->cpu;

    stop(s, x, true, now);
    return pick(s, cpu, now, until);
}

/* --- waking ---------------------------------------------------------------------------------- */

static uint32_t first_allowed(const struct share_cpus *s, const struct share_vcpu *x)
{
    if (x->mask & BIT(x->cpu) && x->cpu < s->count)
        return x->cpu;
    return (uint32_t)__builtin_ctzll(x->mask);
}

/* Is what runs on a a better one to be driven out than what runs on b? */
static bool is_weaker(const struct share_queue *a, const struct share_queue *b)
{
    if (a->runs->vm->whole != b->runs->vm->whole)
        return b->runs->vm->whole;
    return share_is_before(b->deadline, a->deadline);
}

/* An idle CPU; if there is none, the one whose work has the last deadline, but rather not one whose VM
 * could not make up for it. What serves is left alone. */
static uint32_t weakest(const struct share_cpus *s, const struct share_vcpu *x)
{
    uint32_t found = SHARE_NO_CPU;

    if (x->mask & BIT(x->cpu) & s->idle)
        return x->cpu;
    if (x->mask & s->idle)
        return (uint32_t)__builtin_ctzll(x->mask & s->idle);
    for (uint32_t i = 0; i < s->count; i++) {
        const struct share_queue *q = &s->queue[i];

        if (!(x->mask & BIT(i)))
            continue;
        if (!q->runs || q->claimed || q->runs->serves)
            continue;
        if (found == SHARE_NO_CPU || is_weaker(q, &s->queue[found]))
            found = i;
    }
    return found;
}

/* May x take that CPU from what runs there? */
static bool may_take(struct share_cpus *s, struct share_vcpu *x, uint32_t cpu, uint64_t now)
{
    const struct share_queue *q = &s->queue[cpu];

    if (s->idle & BIT(cpu) || x->serves)
        return true;
    if (x->vm->urgent)
        return true;
    if (x->vm->terms.limit && !share_may_run(x->vm, now))
        return false;
    if (rights_of_reserved(x->vm, now))
        return true;
    if (!is_eligible(x->vm, (int64_t)(share_virtual_now(s) - x->vm->v)))
        return false;
    return !q->runs->brief || share_is_before(deadline_of(x), q->deadline);
}

uint32_t share_wake(struct share_cpus *s, struct share_vcpu *x, uint64_t now)
{
    uint32_t cpu;

    assert(x->state == SHARE_SLEEPS);
    x->state = SHARE_READY;
    x->since = now;
    x->fresh = true;
    count_runnable(s, x, true, now);
    share_divide_if_due(s, now, SHARE_CAME); /* who is weakest may depend on it */
    cpu = weakest(s, x);
    if (cpu == SHARE_NO_CPU || !may_take(s, x, cpu, now)) {
        enqueue(s, x, first_allowed(s, x));
        return SHARE_NO_CPU;
    }
    enqueue(s, x, cpu);
    claim(s, cpu);
    return cpu;
}

/* For an idle CPU, somebody who is ready elsewhere and may run on it. */
static bool has_work(struct share_cpus *s, uint32_t cpu, uint64_t now)
{
    struct search f = {.s = s, .now = now, .cpu = cpu};
    struct best best = {.rights = NOBODY};

    for (uint32_t i = 0; i < s->count && !best.x; i++)
        look_through(&f, &s->queue[i], &best);
    return best.x != NULL;
}

uint32_t share_spread_somebody(struct share_cpus *s, uint64_t now)
{
    for (uint64_t left = s->idle; left; left &= left - 1) {
        uint32_t cpu = (uint32_t)__builtin_ctzll(left);

        if (has_work(s, cpu, now)) {
            claim(s, cpu);
            return cpu;
        }
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

    *until = s->queue[cpu].until;
    if (s->queue[cpu].claimed || *until <= now)
        return share_next(s, x, now, until);
    if (!y)
        return x;
    share_stop(s, x, true, now);
    dequeue(s, y);
    run(s, y, cpu, *until - now, now, share_virtual_now(s)); /* the rest of the slice is handed on */
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

static uint64_t within(const struct share_cpus *s, uint64_t mask)
{
    return s->count < SHARE_CPUS ? mask & (BIT(s->count) - 1) : mask;
}

void share_vcpu_add(struct share_cpus *s, struct share_vm *vm, struct share_vcpu *x, uint64_t mask,
                    bool serves)
{
    mask = within(s, mask);
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

void share_vcpu_serve(struct share_cpus *s, struct share_vcpu *x, bool serves, uint64_t now)
{
    assert(x->state == SHARE_RUNS);
    if (x->serves == serves)
        return;
    if (serves) {
        count_runnable(s, x, false, now);
        x->vm->vcpu_count--;
        x->serves = true;
    } else {
        x->serves = false;
        x->vm->vcpu_count++;
        count_runnable(s, x, true, now);
    }
}

uint32_t share_vcpu_pin(struct share_cpus *s, struct share_vcpu *x, uint64_t mask, uint64_t now)
{
    x->mask = within(s, mask);
    if (x->state == SHARE_SLEEPS || (x->state == SHARE_RUNS && x->mask & BIT(x->cpu)))
        return SHARE_NO_CPU;
    if (x->state == SHARE_RUNS) {
        claim(s, x->cpu);
        return x->cpu;
    }
    if (!(x->mask & BIT(x->cpu))) {
        dequeue(s, x);
        enqueue(s, x, first_allowed(s, x));
    }
    return share_spread(s, now);
}

void share_vm_urge(struct share_vm *vm, bool urgent)
{
    vm->urgent = urgent;
}

struct share_use share_use_of(const struct share_vm *vm, uint64_t now)
{
    struct share_use use = {.ran_ns = vm->ran_ns, .ready_ns = vm->ready_ns};

    for (const struct share_vcpu *x = vm->vcpus; x; x = x->sibling) {
        uint64_t since = share_elapsed(now, x->since);

        if (x->state == SHARE_RUNS)
            use.ran_ns += since;
        else if (x->state == SHARE_READY && !x->serves)
            use.ready_ns += since;
    }
    return use;
}
