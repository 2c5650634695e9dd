/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A guest's life, on a thread of its own: made when somebody wants it started, run until it stops, booted again after a
 * reset, taken apart; and again.
 *
 * Orders are bits that anybody sets and this thread takes. So whatever the operator wants, in whatever order, and whatever the guest
 * does meanwhile, there is one thread that does one thing after the other. The state is for those who look.
 *
 * That thread is on the VM's account, as its vCPUs are: making a VM, zeroing its memory after a reset, taking it apart is work
 * like any other, with the VM's share, its limit and its reservation. While vCPUs run, and it only waits for orders, it serves
 * (share/cpu.h). What the operator orders of a VM that exists is urgent (share_vm_urge), so that no share of the VM's, however small, and no
 * limit keeps it from coming to rest or to its end.
 *
 * A pause is a rest of the VM with its clock stopped, which this thread holds until it is told to go on.
 */
#include "native/guest.h"

#include "core/fmt.h"
#include "core/seam.h"
#include "native/engine.h"
#include "native/fleet.h"
#include "native/log.h"
#include "native/thread.h"

static void set_state(struct guest *g, enum guest_state state)
{
    atomic_store(&g->state, state);
    atomic_fetch_add(&g->said, 1);
    seam_wake(&g->said, true);
}

bool guest_wait_state(struct guest *g, enum guest_state state, uint64_t deadline_ns)
{
    for (;;) {
        uint32_t seen = atomic_load(&g->said);

        if (guest_state(g) == state)
            return true;
        if (seam_time_ns() >= deadline_ns)
            return false;
        seam_wait(&g->said, seen, deadline_ns);
    }
}

void guest_order(struct guest *g, uint32_t orders)
{
    atomic_fetch_or(&g->orders, orders);
    if (orders & ~(uint32_t)GUEST_ORDER_START) /* to begin is work like any other */
        scheduler_urge(&g->account, true);
    atomic_fetch_add(&g->stopped, 1);
    seam_wake(&g->stopped, true);
}

static uint32_t take_orders(struct guest *g)
{
    return atomic_exchange(&g->orders, 0);
}

bool guest_press_power(struct guest *g)
{
    bool pressed;

    lock_take(&g->lock);
    pressed = g->exists && guest_state(g) == GUEST_RUNS;
    if (pressed)
        pc_power_button(g->vm);
    lock_release(&g->lock);
    return pressed;
}

/* --- running ------------------------------------------------------------------------------------- */

static void vcpu_thread(void *arg)
{
    const struct guest_vcpu *v = arg;

    pc_run_vcpu(v->guest->vm, v->id);
}

static int start_vcpu(struct guest *g, uint32_t id)
{
    char name[THREAD_NAME];
    int err;

    g->vcpu[id] = (struct guest_vcpu){.guest = g, .id = id};
    (void)fmt(name, sizeof(name), "%.32s vCPU %u", g->vm->name, id);
    lock_take(&g->lock); /* no guest_pin passes by */
    err = thread_create_for(&g->vcpu_thread[id], &g->account, fleet_cpus(g->pin), false, name, vcpu_thread, &g->vcpu[id]);
    lock_release(&g->lock);
    return err;
}

static int start_vcpus(struct guest *g)
{
    for (uint32_t id = 0; id < g->vm->vcpu_count; id++) {
        if (start_vcpu(g, id) != OK) {
            vm_stop(g->vm, VM_STOP_NO_MEMORY, 0, "no memory for the thread of vCPU %u", id);
            return ERR_NO_MEMORY;
        }
    }
    return OK;
}

static void join_vcpus(struct guest *g)
{
    for (uint32_t id = 0; id < g->vm->vcpu_count; id++) {
        struct thread *t = g->vcpu_thread[id];

        if (!t)
            continue;
        lock_take(&g->lock); /* nobody looks at it any more */
        g->vcpu_thread[id] = NULL;
        lock_release(&g->lock);
        thread_join(t);
    }
}

void guest_pin(struct guest *g, uint64_t pin)
{
    lock_take(&g->lock);
    g->pin = pin;
    for (uint32_t id = 0; id < VM_MAX_VCPUS; id++) {
        if (g->vcpu_thread[id])
            scheduler_pin(g->vcpu_thread[id], fleet_cpus(pin));
    }
    lock_release(&g->lock);
}

/* What was wanted is done, but for an end, which lasts until it is off. An order that came meanwhile is as urgent. */
static void calm_down(struct guest *g)
{
    scheduler_urge(&g->account, g->ends);
    if (atomic_load(&g->orders) & ~(uint32_t)GUEST_ORDER_START)
        scheduler_urge(&g->account, true);
}

/* Nothing has happened and nobody wants anything: waits. What is wanted. */
static uint32_t wait_for_orders(struct guest *g, bool until_stopped)
{
    for (;;) {
        uint32_t seen = atomic_load(&g->stopped), orders = take_orders(g);

        if (orders || (until_stopped && vm_is_stopped(g->vm)))
            return orders;
        calm_down(g);
        seam_wait(&g->stopped, seen, UINT64_MAX);
    }
}

static void obey(struct guest *g, uint32_t orders)
{
    g->ends |= (orders & GUEST_ORDER_KILL) != 0; /* also if it has just asked for a reset, which is then the reason of its stop */
    if (orders & GUEST_ORDER_KILL)
        vm_stop(g->vm, VM_STOP_USER, 0, "the operator ended it");
    else if (orders & GUEST_ORDER_RESET)
        vm_stop(g->vm, VM_STOP_RESET, 0, "the operator asked for a reset");
}

/* With all vCPUs at rest, until it goes on or ends. */
static void hold(struct guest *g)
{
    uint32_t orders = 0;

    pc_stop_clock(g->vm);
    if (pc_fetch_vcpus(g->vm) != OK)
        vm_stop(g->vm, VM_STOP_ENGINE, 0, "the engine does not give the vCPUs' state for a pause");
    set_state(g, GUEST_PAUSED);
    while (!vm_is_stopped(g->vm) && !(orders & GUEST_ORDER_RESUME)) {
        orders = wait_for_orders(g, true);
        obey(g, orders);
    }
    /* However long it was, the wall clock is the machine's. */
    g->vm->clock.wall_base = seam_wall_time_ns() - vm_clock_ns(g->vm);
    if (!vm_is_stopped(g->vm) && pc_hand_over_vcpus(g->vm) != OK)
        vm_stop(g->vm, VM_STOP_ENGINE, 0, "the engine does not take the vCPUs' state after a pause");
    pc_start_clock(g->vm);
    set_state(g, GUEST_RUNS);
}

static void watch(struct guest *g)
{
    while (!vm_is_stopped(g->vm)) {
        uint32_t orders = wait_for_orders(g, true);

        obey(g, orders);
        if ((orders & GUEST_ORDER_PAUSE) && !(orders & GUEST_ORDER_RESUME) && !vm_is_stopped(g->vm)) {
            vm_rest_begin(g->vm, NULL);
            if (!vm_is_stopped(g->vm))
                hold(g);
            vm_rest_end(g->vm, NULL);
        }
    }
}

static void note_end(struct guest *g)
{
    static const char *const what[] = {
        [VM_STOP_POWEROFF] = "powered off",
        [VM_STOP_RESET] = "was reset",
        [VM_STOP_EXIT_PORT] = "wrote the exit port",
        [VM_STOP_TRIPLE_FAULT] = "died of a triple fault",
        [VM_STOP_GUEST_ERROR] = "did what this machine cannot go on from",
        [VM_STOP_ENGINE] = "was ended, since the engine failed",
        [VM_STOP_NO_MEMORY] = "was ended for want of memory",
        [VM_STOP_MEMORY_LOST] = "was ended, since its memory is not what was saved",
        [VM_STOP_USER] = "was ended",
    };
    uint32_t reason = atomic_load(&g->vm->stop_reason);
    const char *text = reason < ARRAY_SIZE(what) && what[reason] ? what[reason] : "ended";

    lock_take(&g->lock);
    if (reason == VM_STOP_EXIT_PORT)
        (void)fmt(g->ended, sizeof(g->ended), "%s: status %u", text, g->vm->stop_status);
    else
        (void)fmt(g->ended, sizeof(g->ended), "%s%s%s", text, g->vm->stop_text[0] ? ": " : "", g->vm->stop_text);
    lock_release(&g->lock);
    if (g->ends || guest_may_log(g))
        log_line("%s %s", g->vm->name, g->ended);
}

/* One boot of it, from where all is ready to where all vCPUs are out. True: it wants to be booted again. */
static bool run_once(struct guest *g)
{
    set_state(g, GUEST_RUNS);
    pc_start_clock(g->vm);
    if (g->restores)
        pc_new_identity(g->vm);
    g->restores = false;
    scheduler_serve(true); /* whatever share the VM has, orders are taken at once */
    if (start_vcpus(g) == OK)
        watch(g);
    scheduler_serve(false);
    set_state(g, GUEST_ENDS);
    join_vcpus(g);
    if (atomic_fetch_and(&g->orders, ~(uint32_t)GUEST_ORDER_KILL) & GUEST_ORDER_KILL)
        g->ends = true; /* it stopped before watch saw that */
    calm_down(g);
    pc_stop_clock(g->vm);
    note_end(g);
    return atomic_load(&g->vm->stop_reason) == VM_STOP_RESET && !g->ends;
}

static void say_start(const struct guest *g)
{
    const struct isolation *i = &g->isolation;

    log_line("%s starts: %llu MiB, %u vCPU%s, level %s", g->vm->name,
             (unsigned long long)(g->storage_config.memory >> 20), g->vm->vcpu_count, g->vm->vcpu_count == 1 ? "" : "s",
             g->level.name);
    log_line("isolation: with %s, %u VM%s reach%s %llu pages, each its own (%llu of them read-only), by %llu tables that none "
             "reaches",
             g->vm->name, i->vms, i->vms == 1 ? "" : "s", i->vms == 1 ? "es" : "",
             (unsigned long long)(i->writable + i->read_only), (unsigned long long)i->read_only,
             (unsigned long long)i->tables);
}

static void live(struct guest *g)
{
    set_state(g, GUEST_STARTS);
    g->ends = false;
    if (guest_build(g) != OK)
        return;
    lock_take(&g->lock);
    g->exists = true;
    lock_release(&g->lock);
    g->started_ns = seam_time_ns();
    say_start(g);
    while (run_once(g)) {
        g->resets++;
        vm_clear_stop(g->vm);
        if (guest_boot_again(g) != OK)
            break;
    }
    lock_take(&g->lock);
    g->exists = false;
    lock_release(&g->lock);
    guest_unbuild(g);
}

static void life(void *arg)
{
    struct guest *g = arg;

    for (;;) {
        uint32_t orders = wait_for_orders(g, false);

        if (orders & GUEST_ORDER_START)
            live(g);
        g->ends = false;
        set_state(g, GUEST_OFF);
    }
}

int guest_create(struct guest *g, const struct fleet_vm *definition, uint32_t number)
{
    char name[THREAD_NAME];
    struct share_terms terms;

    vm_init(&g->storage, definition->config.name);
    guest_init(g, &g->storage);
    g->definition = definition;
    g->number = number;
    g->restores = definition->restore[0] != '\0';
    lock_init(&g->lock, LOCK_RANK_HOME);
    g->pin = definition->cpus;
    terms = (struct share_terms){.weight = definition->weight,
                                 .reservation = definition->reservation,
                                 .limit = definition->limit,
                                 .burst_ns = (uint64_t)definition->credit * 1000000};
    scheduler_account_add(&g->account, &terms);
    if (guest_console_init(g) != OK)
        return ERR_NO_MEMORY;
    (void)fmt(name, sizeof(name), "%.40s", definition->config.name);
    return thread_create_for(&g->thread, &g->account, UINT64_MAX, false, name, life, g);
}
