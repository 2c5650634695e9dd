/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Unit tests of core/: formatting, guest memory, bus, clock and timers, state, locks, rest. */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "core/bus.h"
#include "core/err.h"
#include "core/fmt.h"
#include "core/guest_mem.h"
#include "core/mem.h"
#include "core/state.h"
#include "core/vm.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/unit.h"

static void test_fmt(void)
{
    char b[64];
    CHECK_EQ(fmt(b, sizeof(b), "%d %5u|%-5d|%05d", -7, 42u, 3, -12), 20);
    CHECK_STR(b, "-7    42|3    |-0012");
}

static void test_fmt_forms(void)
{
    char b[64];
    fmt(b, sizeof(b), "%x %#lx %08X %llx", 0xABu, 0x10UL, 0xBEEFu, ~0ULL);
    CHECK_STR(b, "ab 0x10 0000BEEF ffffffffffffffff");
    fmt(b, sizeof(b), "%s|%.2s|%4s|%-4s|%c%%", "abc", "abc", "x", "y", 'z');
    CHECK_STR(b, "abc|ab|   x|y   |z%");
    fmt(b, sizeof(b), "%hhu %hd %zu %.4x %*d", 300, 70000, (size_t)9, 0x1fu, 3, 5);
    CHECK_STR(b, "44 4464 9 001f   5");
    CHECK_EQ(fmt(b, 4, "abcdef"), 6);
    CHECK_STR(b, "abc");
    fmt(b, sizeof(b), "%ld", INT64_MIN);
    CHECK_STR(b, "-9223372036854775808");
}

static uint8_t *pages(size_t n)
{
    return aligned_alloc(4096, n * 4096);
}

static void test_guest_mem(void)
{
    struct guest_mem m = {0};
    uint8_t *ram = pages(4), *rom = pages(1), buf[8192];
    memset(ram, 1, 4 * 4096);
    memset(rom, 2, 4096);
    CHECK_EQ(guest_mem_add(&m, gpa(0x1000), 0x2000, ram, true), OK);
    CHECK_EQ(guest_mem_add(&m, gpa(0x3000), 0x1000, rom, false), OK);
    CHECK_EQ(guest_mem_add(&m, gpa(0x2000), 0x1000, ram, true), (uint64_t)ERR_EXISTS);
    CHECK_EQ(guest_mem_add(&m, gpa(0x0), 0x1001, ram, true), (uint64_t)ERR_INVALID);
    CHECK_EQ(guest_mem_add(&m, gpa(~0xFFFull), 0x2000, ram, true), (uint64_t)ERR_INVALID);
    CHECK_EQ(guest_mem_add(&m, gpa(0x0), 0x2000, ram, true), (uint64_t)ERR_EXISTS);
    CHECK(guest_mem_ptr(&m, gpa(0x2FFF), 1) == ram + 0x1FFF);
    CHECK(guest_mem_ptr(&m, gpa(0x1000), 0x2000) == ram);
    CHECK(guest_mem_ptr(&m, gpa(0x2FFF), 2) == NULL);
    CHECK(guest_mem_ptr(&m, gpa(0x1000), 0) == NULL);
    CHECK(guest_mem_ptr(&m, gpa(0x1000), ~0ull) == NULL);
    CHECK_EQ(guest_mem_read(&m, gpa(0x2FFF), buf, 2), OK);
    CHECK(buf[0] == 1 && buf[1] == 2);
    CHECK_EQ(guest_mem_write(&m, gpa(0x2FFF), "xy", 2), (uint64_t)ERR_RANGE);
    CHECK_EQ(ram[0x1FFF], 1);
    CHECK_EQ(guest_mem_write(&m, gpa(0x2FFF), "x", 1), OK);
    CHECK_EQ(ram[0x1FFF], 'x');
    CHECK_EQ(guest_mem_read(&m, gpa(0x3FFF), buf, 2), (uint64_t)ERR_RANGE);
    CHECK_EQ(guest_mem_read(&m, gpa(~0ull), buf, 2), (uint64_t)ERR_RANGE);
    free(ram);
    free(rom);
}

/* A home that brings 0xBB into RAM at twice its guest address. */
struct late_home {
    struct guest_mem_late late;
    const struct guest_mem *mem;
    uint32_t brought; /* pieces, in bits */
    bool fails;
};

static bool bring(struct guest_mem_late *late, uint32_t pieces)
{
    struct late_home *h = container_of(late, struct late_home, late);
    if (h->fails)
        return false;
    for (uint32_t i = 0; i < GUEST_MEM_LATE; i++)
        if (pieces >> i & 1)
            memset(guest_mem_host(h->mem, gpa(late->piece[i].base)), 0xBB, late->piece[i].size);
    CHECK_EQ(pieces & ~atomic_load(&late->missing), 0);
    CHECK_EQ(pieces & h->brought, 0);
    h->brought |= pieces;
    atomic_fetch_and(&late->missing, ~pieces);
    return true;
}

/* Whoever asks for a byte of a piece gets what the home has for it, and only that piece. */
static void test_late_mem(void)
{
    uint8_t *ram = memset(pages(8), 0, 8 * 4096), b = 1;
    struct guest_mem m = {0};
    struct late_home h = {.late = {.bring = bring}, .mem = &m};
    CHECK_EQ(guest_mem_add(&m, gpa(0), 0x8000, ram, true), OK);
    CHECK(!guest_mem_has_late_room(&m)); /* the home does not do it */
    m.late = &h.late;
    for (uint64_t i = 0; i < GUEST_MEM_LATE; i++) {
        CHECK(guest_mem_has_late_room(&m));
        guest_mem_add_late(&m, &(struct guest_mem_piece){.base = 0x1000 * (2 * i), .size = 0x1000});
    }
    CHECK(!guest_mem_has_late_room(&m));
    CHECK_EQ(guest_mem_read(&m, gpa(0x1000), &b, 1), OK); /* between two */
    CHECK(b == 0 && h.brought == 0);
    CHECK_EQ(guest_mem_read(&m, gpa(0x8000), &b, 1), (uint64_t)ERR_RANGE);
    CHECK_EQ(h.brought, 0);
    CHECK_EQ(guest_mem_write(&m, gpa(0x2FFF), "x", 1), OK); /* not over what was written */
    CHECK(h.brought == 2 && ram[0x2FFF] == 'x' && ram[0x2FFE] == 0xBB && ram[0x3000] == 0);
    h.fails = true;
    CHECK(guest_mem_ptr(&m, gpa(0x3FFF), 2) == NULL && !guest_mem_bring_next(&m));
    CHECK_EQ(guest_mem_read(&m, gpa(0x4FFF), &b, 1), (uint64_t)ERR_RANGE);
    CHECK(guest_mem_ptr(&m, gpa(0x2000), 0x2000) == ram + 0x2000);
    h.fails = false;
    CHECK(guest_mem_ptr(&m, gpa(0x3FFF), 2) == ram + 0x3FFF);
    CHECK_EQ(h.brought, 2 + 4);
    CHECK(guest_mem_bring_next(&m));
    CHECK_EQ(h.brought, 1 + 2 + 4);
    CHECK(guest_mem_bring_next(&m) && guest_mem_bring_next(&m));
    CHECK(h.brought == 15 && guest_mem_missing(&m) == 0);
    CHECK(guest_mem_has_late_room(&m));
    free(ram);
}

/* A device that remembers what it was asked. */
struct probe {
    unsigned int calls;
    struct bus_access last;
    uint64_t answer;
};

static void probe_access(void *device, struct bus_access *a)
{
    struct probe *p = device;
    p->calls++;
    p->last = *a;
    if (!a->write)
        a->value = p->answer >> (a->offset % 8 * 8);
}

static const struct bus_ops bytes_only = {"bytes", 1, 1, false, probe_access};
static const struct bus_ops words_only = {"words", 4, 4, false, probe_access};
static const struct bus_ops anything = {"anything", 1, 8, true, probe_access};

static void test_bus_shapes(void)
{
    struct bus b = {0};
    struct probe p = {.answer = 0x8877665544332211}, w = {.answer = 0xDDCCBBAA};
    uint64_t v;
    CHECK_EQ(bus_add(&b, 0x100, 8, &bytes_only, &p, NULL), OK);
    CHECK_EQ(bus_add(&b, 0x200, 8, &words_only, &w, NULL), OK);
    CHECK_EQ(bus_add(&b, 0x1FF, 2, &bytes_only, &p, NULL), (uint64_t)ERR_EXISTS);
    CHECK_EQ(bus_add(&b, 0x107, 1, &bytes_only, &p, NULL), (uint64_t)ERR_EXISTS);
    CHECK_EQ(bus_add(&b, ~0ull, 2, &bytes_only, &p, NULL), (uint64_t)ERR_INVALID);
    CHECK(bus_read(&b, 0x100, 4, &v));
    CHECK_EQ(v, 0x44332211);
    CHECK_EQ(p.calls, 4);
    CHECK(bus_read(&b, 0x106, 4, &v)); /* two bytes of it, two of nothing */
    CHECK_EQ(v, 0xFFFF8877);
    CHECK(!bus_read(&b, 0x300, 8, &v));
    CHECK_EQ(v, ~0ull);
    CHECK(!bus_read(&b, ~0ull, 8, &v));
    CHECK(bus_read(&b, 0x201, 1, &v));
    CHECK_EQ(v, 0xBB);
    CHECK(bus_read(&b, 0x202, 2, &v));
    CHECK_EQ(v, 0xDDCC);
    w.calls = 0;
    CHECK(bus_write(&b, 0x202, 2, 0x1234)); /* narrower than it takes: dropped */
    CHECK_EQ(w.calls, 0);
    CHECK(bus_write(&b, 0x200, 8, 0x1122334455667788));
    CHECK_EQ(w.calls, 2);
    CHECK_EQ(w.last.value, 0x11223344);
    CHECK_EQ(w.last.offset, 4);
    CHECK_EQ(bus_move(&b, 0x200, 0x104), (uint64_t)ERR_EXISTS);
    CHECK(bus_read(&b, 0x200, 4, &v));
    CHECK_EQ(bus_move(&b, 0x200, 0x400), OK);
    CHECK(!bus_read(&b, 0x200, 4, &v));
    CHECK(bus_read(&b, 0x400, 4, &v));
}

/* Whatever is asked of the bus, a device sees only what its table allows. */
static void test_bus_gate(void)
{
    static const struct bus_ops *const shapes[] = {&bytes_only, &words_only, &anything};
    static const uint8_t sizes[] = {1, 2, 4, 8};
    for (size_t s = 0; s < ARRAY_SIZE(shapes); s++) {
        struct bus b = {0};
        struct probe p = {0};
        CHECK_EQ(bus_add(&b, 0x1003, 13, shapes[s], &p, NULL), OK);
        for (uint64_t at = 0xFF0; at < 0x1020; at++)
            for (size_t z = 0; z < ARRAY_SIZE(sizes); z++)
                for (int write = 0; write < 2; write++) {
                    uint64_t v = 0;
                    p.last = (struct bus_access){.size = shapes[s]->min_size};
                    if (write)
                        bus_write(&b, at, sizes[z], ~0ull);
                    else
                        bus_read(&b, at, sizes[z], &v);
                    CHECK(p.last.size >= shapes[s]->min_size && p.last.size <= shapes[s]->max_size);
                    CHECK(p.last.offset + p.last.size <= 13);
                    CHECK(shapes[s]->unaligned || p.last.offset % p.last.size == 0);
                }
        CHECK(p.calls > 0);
    }
}

static unsigned int fired[3];

static void fire0(void *owner)
{
    (void)owner;
    fired[0]++;
}

struct periodic {
    struct vm *vm;
    struct vm_timer timer;
    unsigned int count;
};

static void fire_periodic(void *owner)
{
    struct periodic *p = owner;
    p->count++;
    vm_timer_set(p->vm, &p->timer, vm_clock_ns(p->vm) + 10);
}

static void test_clock(void)
{
    static struct vm vm;
    struct vm_timer t;
    struct periodic p = {.vm = &vm};
    vm_init(&vm, "clock");
    CHECK_EQ(vm_clock_ns(&vm), 0);
    fake_seam_advance(5);
    CHECK_EQ(vm_clock_ns(&vm), 0);
    vm_clock_start(&vm);
    fake_seam_advance(5);
    CHECK_EQ(vm_clock_ns(&vm), 5);
    vm_timer_init(&t, fire0, NULL);
    vm_timer_set(&vm, &t, 20);
    fake_seam_advance(14);
    CHECK_EQ(fired[0], 0);
    fake_seam_advance(1);
    CHECK_EQ(fired[0], 1);
    vm_timer_set(&vm, &t, 30);
    vm_clock_stop(&vm);
    fake_seam_advance(100);
    CHECK_EQ(vm_clock_ns(&vm), 20);
    CHECK_EQ(fired[0], 1);
    vm_clock_start(&vm);
    fake_seam_advance(10);
    CHECK_EQ(fired[0], 2);
    vm_timer_set(&vm, &t, 40);
    vm_timer_cancel(&vm, &t);
    fake_seam_advance(100);
    CHECK_EQ(fired[0], 2);
    vm_timer_init(&p.timer, fire_periodic, &p);
    vm_timer_set(&vm, &p.timer, vm_clock_ns(&vm) + 10);
    fake_seam_advance(100);
    CHECK_EQ(p.count, 10);
    vm_timer_cancel(&vm, &p.timer);
}

static void test_scale(void)
{
    CHECK_EQ(scale_u64(1000, 3, 2), 1500);
    CHECK_EQ(scale_u64(~0ull, 1000, 1000), ~0ull);
    CHECK_EQ(scale_u64(~0ull, 2, 1), ~0ull);
    CHECK_EQ(scale_u64(1, 1, 0), ~0ull);
    CHECK_EQ(scale_u64(123456789012345, 2600000, 1000000), 320987651432097);
}

struct thing {
    uint32_t value;
};

static void thing_save(const void *object, struct state_writer *w)
{
    state_put_u32(w, ((const struct thing *)object)->value);
}

static int thing_check(const void *object, struct state_reader *r)
{
    (void)object;
    return state_get_u32(r) <= 100 ? OK : ERR_CORRUPT;
}

static int thing_load(void *object, struct state_reader *r)
{
    ((struct thing *)object)->value = state_get_u32(r);
    return OK;
}

static const struct state_ops thing_ops = {"thing", 1, thing_save, thing_check, thing_load};

static void test_state(void)
{
    struct state_registry s = {0};
    struct thing a = {7}, b = {9};
    uint8_t buf[256];
    CHECK_EQ(state_register(&s, &thing_ops, &a, 0), OK);
    CHECK_EQ(state_register(&s, &thing_ops, &b, 1), OK);
    CHECK_EQ(state_register(&s, &thing_ops, &b, 1), (uint64_t)ERR_EXISTS);
    struct state_writer w = {buf, sizeof(buf), 0};
    state_save_all(&s, &w);
    CHECK_EQ(w.used, 2 * 36);
    struct state_writer small = {buf + 200, 3, 0};
    state_save_all(&s, &small);
    CHECK_EQ(small.used, 2 * 36);
    a.value = b.value = 0;
    CHECK_EQ(state_load_all(&s, buf, w.used), OK);
    CHECK(a.value == 7 && b.value == 9);
    /* every single-bit flip and every truncation is refused and changes nothing */
    for (size_t bit = 0; bit < w.used * 8; bit++) {
        buf[bit / 8] ^= (uint8_t)(1 << (bit % 8));
        a.value = 1;
        CHECK(state_load_all(&s, buf, w.used) != OK);
        CHECK_EQ(a.value, 1);
        buf[bit / 8] ^= (uint8_t)(1 << (bit % 8));
    }
    for (size_t n = 0; n < w.used; n++)
        CHECK(state_load_all(&s, buf, n) != OK);
    a.value = 101; /* unreachable: check refuses, and the other section is not loaded either */
    w.used = 0;
    state_save_all(&s, &w);
    b.value = 33;
    CHECK_EQ(state_load_all(&s, buf, w.used), (uint64_t)ERR_CORRUPT);
    CHECK_EQ(b.value, 33);
    memcpy(buf + 36, buf, 36); /* the same section twice */
    CHECK(state_load_all(&s, buf, 72) != OK);
}

/* Rest: two vCPU threads and an asker add to a plain counter that only rest protects. */
enum { REST_ROUNDS = 300 };
static struct vm rest_vm;
static struct vcpu rest_vcpu[2];
static uint64_t inside, counter;

static void *rest_thread(void *arg)
{
    struct vcpu *v = arg;
    vcpu_enter(v);
    while (!(vcpu_requests(v) & VCPU_REQ_STOP)) {
        if (vcpu_requests(v) & VCPU_REQ_REST)
            vcpu_rest(v);
        if (v->id == 1)
            vcpu_park(v, VCPU_REQ_INTR | VCPU_REQ_STOP | VCPU_REQ_REST, UINT64_MAX);
        if (v->id == 0 && counter % 3 == 0) {
            vm_rest_begin(&rest_vm, v);
            inside++;
            vm_rest_begin(&rest_vm, v); /* once more, as a device's handler does */
            counter++;
            vm_rest_end(&rest_vm, v);
            inside--;
            vm_rest_end(&rest_vm, v);
        }
    }
    vcpu_leave(v);
    return NULL;
}

static void test_rest(void)
{
    pthread_t t[2];
    fake_seam_real_time(true);
    vm_init(&rest_vm, "rest");
    for (uint32_t i = 0; i < 2; i++) {
        vcpu_init(&rest_vcpu[i], &rest_vm, i);
        rest_vm.vcpu[i] = &rest_vcpu[i];
    }
    rest_vm.vcpu_count = 2;
    for (size_t i = 0; i < 2; i++)
        pthread_create(&t[i], NULL, rest_thread, &rest_vcpu[i]);
    uint64_t mine = 0;
    for (int i = 0; i < REST_ROUNDS; i++) {
        vm_rest_begin(&rest_vm, NULL);
        CHECK_EQ(inside, 0);
        /* One that was about to leave may have said so for a moment; then it sees that rest is wanted (core/vcpu.c). */
        while (!atomic_load(&rest_vcpu[0].resting) || !atomic_load(&rest_vcpu[1].resting))
            sched_yield();
        counter++;
        mine++;
        vm_rest_end(&rest_vm, NULL);
        vcpu_request(&rest_vcpu[1], VCPU_REQ_INTR);
        (void)vcpu_take_requests(&rest_vcpu[1], VCPU_REQ_INTR);
    }
    vm_stop(&rest_vm, VM_STOP_USER, 3, "enough of %s", "it");
    vm_stop(&rest_vm, VM_STOP_RESET, 4, "too late");
    for (size_t i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    CHECK(counter >= mine && mine == REST_ROUNDS);
    CHECK_EQ(rest_vm.stop_reason, VM_STOP_USER);
    CHECK_EQ(rest_vm.stop_status, 3);
    CHECK_STR(rest_vm.stop_text, "enough of it");
    vm_clear_stop(&rest_vm);
    CHECK(!vm_is_stopped(&rest_vm));
    fake_seam_real_time(false);
}

/* A contended lock hands over to everybody and protects what it should. */
static struct lock shared_lock;
static uint64_t shared_count;

static void *lock_thread(void *arg)
{
    (void)arg;
    for (int i = 0; i < 20000; i++) {
        lock_take(&shared_lock);
        shared_count++;
        lock_release(&shared_lock);
    }
    return NULL;
}

static void test_lock(void)
{
    pthread_t t[3];
    lock_init(&shared_lock, LOCK_RANK_BOARD);
    for (size_t i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, lock_thread, NULL);
    for (size_t i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    CHECK_EQ(shared_count, 60000);
}

int main(void)
{
    UNIT_RUN(test_fmt);
    UNIT_RUN(test_fmt_forms);
    UNIT_RUN(test_guest_mem);
    UNIT_RUN(test_late_mem);
    UNIT_RUN(test_bus_shapes);
    UNIT_RUN(test_bus_gate);
    UNIT_RUN(test_clock);
    UNIT_RUN(test_scale);
    UNIT_RUN(test_state);
    UNIT_RUN(test_rest);
    UNIT_RUN(test_lock);
    return unit_done();
}
