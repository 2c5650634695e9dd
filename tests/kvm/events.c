/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What back ends will use of the engine, on the real KVM: eventfds that send interrupts, writes of a
 * guest that become events instead of exits, and which pages a guest has written.
 */
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/err.h"
#include "engine/kvm/kvm_private.h"
#include "isa/x86.h"
#include "tests/kvm/vm_env.h"
#include "tests/lib/unit.h"
#include "x86/lapic_private.h"

enum {
    MEMORY = 32 << 20,
    CODE = 0x1000,
    PAGE = 5, /* that the guest writes; code is in another */
    PORT = 0x5000,
    WORDS = MEMORY / 4096 / 64,
    FIRST = 0x41, /* vectors */
    SECOND = 0x52,
    PATIENCE_MS = 2000,
    TRIES = 50,
};

static struct vm_shape shape;
static struct vm_env env;

static struct vm *vm(void)
{
    return vm_env_vm(&env);
}

static const struct engine_event_ops *events(void)
{
    return engine_kvm.events;
}

/* In real mode, with its local APIC on. */
static void make(void)
{
    static const uint8_t code[] = {
        0xC6, 0x06, 0x00, PAGE << 4, 0x01, /* movb $1, PAGE */
        0xBA, 0x00, PORT >> 8,             /* mov $PORT, %dx */
        0xB0, 0x07, 0xEE,                  /* mov $7, %al; out %al, %dx */
        0xB0, 0x00, 0xE6, 0xF4, 0xF4,      /* exit port; hlt */
    };
    struct x86_cpu *cpu;

    vm_env_create(&env, &shape, &engine_kvm);
    memcpy(shape.ram + CODE, code, sizeof(code));
    cpu = pc_cpu(vm(), 0);
    x86_cpu_reset(cpu);
    cpu->seg[SEG_CS].base = 0;
    cpu->seg[SEG_CS].selector = 0;
    cpu->rip = CODE;
    lapic_mmio_write(cpu, LAPIC_SVR, 0x1FF);
    x86_update_mode(cpu);
    CHECK_EQ(pc_hand_over_vcpus(vm()), OK);
    pc_start_clock(vm());
}

static void unmake(void)
{
    vm_env_destroy(&env);
}

static void run(void)
{
    pc_run_vcpu(vm(), 0);
    CHECK_EQ(atomic_load(&vm()->stop_reason), VM_STOP_EXIT_PORT);
}

static bool is_requested(uint8_t vector)
{
    CHECK_EQ(pc_fetch_vcpus(vm()), OK);
    return lapic_reg(pc_cpu(vm(), 0)->lapic, LAPIC_IRR + vector / 32u * 16) >> vector % 32 & 1;
}

/* KVM may take an event on a thread of its own. */
static bool becomes_requested(uint8_t vector)
{
    for (int i = 0; i < TRIES; i++) {
        if (is_requested(vector))
            return true;
        usleep(PATIENCE_MS * 1000 / TRIES);
    }
    return false;
}

static void signal_event(int event)
{
    const uint64_t one = 1;

    CHECK_EQ(write(event, &one, sizeof(one)), (ssize_t)sizeof(one));
}

static void test_interrupts(void)
{
    struct apic_message m = {.delivery = APIC_FIXED, .vector = FIRST};
    int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    make();
    CHECK_EQ(events()->interrupt_off(vm(), event), ERR_NOT_FOUND);
    CHECK_EQ(events()->interrupt(vm(), event, &m), OK);
    CHECK(!is_requested(FIRST));
    signal_event(event);
    CHECK(becomes_requested(FIRST));
    m.vector = SECOND; /* the same descriptor, another message */
    CHECK_EQ(events()->interrupt(vm(), event, &m), OK);
    CHECK(!is_requested(SECOND));
    signal_event(event);
    CHECK(becomes_requested(SECOND));
    m.vector = SECOND + 1;
    CHECK_EQ(events()->interrupt(vm(), event, &m), OK);
    CHECK_EQ(events()->interrupt_off(vm(), event), OK);
    signal_event(event);
    usleep(PATIENCE_MS * 1000 / 20);
    CHECK(!is_requested(SECOND + 1));
    m.level = true;
    CHECK_EQ(events()->interrupt(vm(), event, &m), ERR_INVALID);
    unmake();
    close(event);
}

/* As many as there is room for, and one. */
static void test_interrupts_without_end(void)
{
    const struct apic_message m = {.delivery = APIC_FIXED, .vector = FIRST};
    int event[KVM_EVENT_ROUTES + 1];

    make();
    for (uint32_t i = 0; i <= KVM_EVENT_ROUTES; i++) {
        event[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        CHECK_EQ(events()->interrupt(vm(), event[i], &m),
                 i < KVM_EVENT_ROUTES ? OK : ERR_NO_MEMORY);
    }
    CHECK_EQ(events()->interrupt_off(vm(), event[3]), OK);
    CHECK_EQ(events()->interrupt(vm(), event[KVM_EVENT_ROUTES], &m), OK);
    unmake();
    for (uint32_t i = 0; i <= KVM_EVENT_ROUTES; i++)
        close(event[i]);
}

/* How often the guest's write to PORT came as an event; the exit port's is the other exit. */
static void check_write(bool is_event)
{
    int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    uint64_t count = 0;

    make();
    CHECK_EQ(events()->notify(vm(), event, true, PORT, 1, true), OK);
    if (!is_event)
        CHECK_EQ(events()->notify(vm(), event, true, PORT, 1, false), OK);
    run();
    CHECK_EQ(read(event, &count, sizeof(count)), is_event ? (ssize_t)sizeof(count) : -1);
    CHECK_EQ(count, is_event);
    CHECK_EQ(vm()->vcpu[0]->exits[EXIT_PORT], is_event ? 1 : 2);
    unmake();
    close(event);
}

static void test_writes(void)
{
    check_write(true);
    check_write(false);
}

static bool is_dirty(const uint64_t *bitmap, uint32_t page)
{
    return bitmap[page / 64] >> page % 64 & 1;
}

static void test_dirty_pages(void)
{
    static uint64_t bitmap[WORDS];

    make();
    CHECK_EQ(engine_kvm.vm_dirty_fetch(vm(), 0, bitmap), ERR_INVALID); /* nothing is tracked */
    CHECK_EQ(engine_kvm.vm_dirty_track(vm(), true), OK);
    CHECK_EQ(engine_kvm.vm_dirty_fetch(vm(), 0, bitmap), OK);
    CHECK(!is_dirty(bitmap, PAGE));
    run();
    memset(bitmap, 0xFF, sizeof(bitmap)); /* what was there before is not kept */
    CHECK_EQ(engine_kvm.vm_dirty_fetch(vm(), 0, bitmap), OK);
    CHECK(is_dirty(bitmap, PAGE));
    CHECK(!is_dirty(bitmap, PAGE + 1));
    CHECK_EQ(engine_kvm.vm_dirty_fetch(vm(), 0, bitmap), OK);
    CHECK(!is_dirty(bitmap, PAGE)); /* it starts anew */
    CHECK_EQ(engine_kvm.vm_dirty_fetch(vm(), 9, bitmap), ERR_INVALID);
    CHECK_EQ(engine_kvm.vm_dirty_track(vm(), false), OK);
    CHECK_EQ(engine_kvm.vm_dirty_fetch(vm(), 0, bitmap), ERR_INVALID);
    unmake();
}

int main(void)
{
    vm_shape_init(&shape, 1, MEMORY, &engine_kvm);
    UNIT_RUN(test_interrupts);
    UNIT_RUN(test_interrupts_without_end);
    UNIT_RUN(test_writes);
    UNIT_RUN(test_dirty_pages);
    return unit_done();
}
