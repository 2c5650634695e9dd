/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * How interrupts get to KVM's local APICs, and how devices exchange events with a guest without a
 * vCPU's thread.
 *
 * A message (I/O APIC, MSI) goes by KVM_SIGNAL_MSI, from any thread, with any lock held: the kernel
 * posts it and kicks. Of a level-triggered one the I/O APIC must hear the end (EOI); KVM tells
 * about those vectors that its routing table has as level-triggered. So the table has an entry for
 * each of the last such messages: a change of a redirection entry needs no call into the engine,
 * and what is left over from an old one costs an exit that nobody listens to. The table is looked
 * up before each such message, and changes about as often as guests write redirection entries. When
 * it is full, the message that was not sent for longest makes room. A message whose EOI is still to
 * come is among the latest of as many as the I/O APIC has inputs, unless a guest rewrites
 * redirection entries by the dozen while it handles one; the table has twice as many entries for
 * that.
 *
 * Messages that eventfds send (irqfd) have entries in the same table, after those. Writes that
 * become events (ioeventfd) need none.
 *
 * The 8259's interrupts go the other way: the vCPU's own thread fetches the vector (run.c). It goes
 * in as an interrupt whose delivery has begun, the form in which state is moved, and not by
 * KVM_INTERRUPT: what KVM takes by that lies where nobody can see or clear it until the next entry
 * comes about, and a vCPU that rests before would lose it, or carry it into its life after a reset.
 */
#include "core/err.h"
#include "engine/kvm/kvm_private.h"

/* In the form of an MSI (SDM 3A 10.11), with the destination's upper bits where KVM expects them
 * with 32-bit ids. */
static struct kvm_route route_of(const struct apic_message *m)
{
    return (struct kvm_route){
        .address = UINT64_C(0xFEE00000) | (uint64_t)(m->destination & 0xFF) << 12 |
                   (m->logical ? 1u << 2 : 0) | (uint64_t)(m->destination & ~0xFFu) << 32,
        .data = m->vector | (uint32_t)m->delivery << 8 | (m->deassert ? 0 : 1u << 14) |
                (m->level ? 1u << 15 : 0),
        .used = true,
        .event = -1,
    };
}

/* Gives KVM the table; with route_lock held. */
static int set_routes(struct kvm_vm *kvm)
{
    union { /* the entries follow their head */
        struct kvm_irq_routing head;
        uint8_t room[sizeof(struct kvm_irq_routing) +
                     KVM_ROUTES * sizeof(struct kvm_irq_routing_entry)];
    } table = {.room = {0}};

    for (uint32_t i = 0; i < KVM_ROUTES; i++) {
        const struct kvm_route *r = &kvm->route[i];
        struct kvm_irq_routing_entry *e = &table.head.entries[table.head.nr];

        if (!r->used)
            continue;
        e->gsi = i;
        e->type = KVM_IRQ_ROUTING_MSI;
        e->u.msi.address_lo = (uint32_t)r->address;
        e->u.msi.address_hi = (uint32_t)(r->address >> 32);
        e->u.msi.data = r->data;
        table.head.nr++;
    }
    return kvm_ioctl(kvm->fd, KVM_SET_GSI_ROUTING, &table);
}

static bool is_same(const struct kvm_route *a, const struct kvm_route *b)
{
    return a->used && a->address == b->address && a->data == b->data;
}

/* The message's entry, else a free one, else the one whose message was sent longest ago. */
static uint32_t find_level(const struct kvm_vm *kvm, const struct kvm_route *route)
{
    uint32_t best = 0;

    for (uint32_t at = 0; at < KVM_LEVEL_ROUTES && kvm->route[best].used; at++) {
        if (is_same(&kvm->route[at], route))
            return at;
        if (!kvm->route[at].used || kvm->route[at].sent < kvm->route[best].sent)
            best = at;
    }
    return best;
}

/* If KVM has no memory for the table (what else can go wrong), this EOI is not seen, and the next
 * such message tries again. */
static int watch_eoi_of(struct kvm_vm *kvm, struct kvm_route route)
{
    struct kvm_route *entry;
    int result = 0;

    lock_take(&kvm->route_lock);
    entry = &kvm->route[find_level(kvm, &route)];
    if (!is_same(entry, &route)) {
        struct kvm_route before = *entry;

        *entry = route;
        result = set_routes(kvm);
        if (result < 0)
            *entry = before;
    }
    if (result >= 0)
        entry->sent = ++kvm->level_sent;
    lock_release(&kvm->route_lock);
    return result;
}

int kvm_send_message(struct vm *vm, const struct apic_message *m)
{
    struct kvm_vm *kvm = kvm_vm_of(vm);
    struct kvm_route route = route_of(m);
    struct kvm_msi msi = {
        .address_lo = (uint32_t)route.address,
        .address_hi = (uint32_t)(route.address >> 32),
        .data = route.data,
    };

    if (m->level && watch_eoi_of(kvm, route) < 0)
        vm_log(vm, SEAM_LOG_ERROR, "KVM has no memory to report the end of an interrupt");
    return kvm_ioctl(kvm->fd, KVM_SIGNAL_MSI, &msi) > 0 ? OK : ERR_NOT_FOUND;
}

/* Whether an interrupt may go in: KVM before 5.15 says so too when an exception is about to be
 * delivered. Fills *v. */
static bool has_room(const struct kvm_vcpu *k, struct kvm_vcpu_events *v)
{
    return kvm_ioctl(k->fd, KVM_GET_VCPU_EVENTS, v) >= 0 && !v->exception.injected &&
           !v->exception.pending && !v->nmi.injected && !v->interrupt.injected;
}

/* An event that is being delivered does not end a halt by itself. */
static bool end_halt(const struct kvm_vcpu *k, struct kvm_mp_state mp)
{
    if (mp.mp_state == KVM_MP_STATE_RUNNABLE)
        return true;
    mp.mp_state = KVM_MP_STATE_RUNNABLE;
    return kvm_ioctl(k->fd, KVM_SET_MP_STATE, &mp) >= 0;
}

/* Running or halted, that is, not waiting for a SIPI. KVM takes a pending INIT when it is asked, so
 * this comes before all else. */
static bool takes_interrupts(const struct kvm_vcpu *k, struct kvm_mp_state *mp)
{
    return kvm_ioctl(k->fd, KVM_GET_MP_STATE, mp) >= 0 &&
           (mp->mp_state == KVM_MP_STATE_RUNNABLE || mp->mp_state == KVM_MP_STATE_HALTED);
}

/* NMIs that are pending are left where they are. */
void kvm_give_extint(const struct x86_cpu *cpu)
{
    struct kvm_vcpu *k = kvm_vcpu_of(cpu);
    struct apic_bus *bus = cpu->vcpu.vm->apic_bus;
    struct kvm_vcpu_events v = {0};
    struct kvm_mp_state mp;
    int vector;

    if (!takes_interrupts(k, &mp) || !has_room(k, &v))
        return;
    vector = bus->ack_extint(bus->pic);
    if (vector < 0 || !end_halt(k, mp))
        return;
    v.interrupt.injected = 1;
    v.interrupt.nr = (uint8_t)vector;
    v.interrupt.soft = 0;
    v.flags &= KVM_VCPUEVENT_VALID_PAYLOAD;
    k->run->s.regs.events = v;
    k->run->kvm_dirty_regs |= KVM_SYNC_X86_EVENTS;
}

/* --- eventfds ----------------------------------------------------------------------------------
 */

static int bind(struct kvm_vm *kvm, int event, uint32_t route, bool on)
{
    struct kvm_irqfd irqfd = {
        .fd = (uint32_t)event, .gsi = route, .flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN};
    int result = kvm_ioctl(kvm->fd, KVM_IRQFD, &irqfd);

    return result < 0 ? kvm_err(result) : OK;
}

/* The descriptor's entry, or with event -1 a free one; KVM_ROUTES: there is none. */
static uint32_t find_event(const struct kvm_vm *kvm, int event)
{
    uint32_t at = KVM_LEVEL_ROUTES;

    while (at < KVM_ROUTES && (event < 0 ? kvm->route[at].used
                                         : !kvm->route[at].used || kvm->route[at].event != event))
        at++;
    return at;
}

static int set_event(struct kvm_vm *kvm, int event, struct kvm_route route)
{
    uint32_t at = find_event(kvm, event);
    bool is_new = at == KVM_ROUTES;
    int result;

    if (is_new)
        at = find_event(kvm, -1);
    if (at == KVM_ROUTES)
        return ERR_NO_MEMORY;
    route.event = event;
    kvm->route[at] = route;
    result = set_routes(kvm);
    result = result < 0 ? kvm_err(result) : is_new ? bind(kvm, event, at, true) : OK;
    if (result != OK && is_new) {
        kvm->route[at].used = false;
        (void)set_routes(kvm);
    }
    return result;
}

static int interrupt(struct vm *vm, int event, const struct apic_message *m)
{
    struct kvm_vm *kvm = kvm_vm_of(vm);
    int err;

    if (event < 0 || m->level)
        return ERR_INVALID;
    lock_take(&kvm->route_lock);
    err = set_event(kvm, event, route_of(m));
    lock_release(&kvm->route_lock);
    return err;
}

static int interrupt_off(struct vm *vm, int event)
{
    struct kvm_vm *kvm = kvm_vm_of(vm);
    uint32_t at;
    int err = ERR_NOT_FOUND;

    if (event < 0)
        return ERR_INVALID;
    lock_take(&kvm->route_lock);
    at = find_event(kvm, event);
    if (at != KVM_ROUTES) {
        err = bind(kvm, event, at, false);
        kvm->route[at].used = false;
        (void)set_routes(kvm);
    }
    lock_release(&kvm->route_lock);
    return err;
}

static int notify(struct vm *vm, int event, bool port, uint64_t address, uint32_t size, bool on)
{
    struct kvm_ioeventfd e = {
        .addr = address,
        .len = size,
        .fd = event,
        .flags = (port ? KVM_IOEVENTFD_FLAG_PIO : 0) | (on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
    };
    int result = kvm_ioctl(kvm_vm_of(vm)->fd, KVM_IOEVENTFD, &e);

    return result < 0 ? kvm_err(result) : OK;
}

const struct engine_event_ops kvm_event_ops = {
    .interrupt = interrupt,
    .interrupt_off = interrupt_off,
    .notify = notify,
};
