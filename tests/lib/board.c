/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* See the header. */
#include "tests/lib/board.h"

#include <stdlib.h>
#include <string.h>

#include "core/err.h"
#include "core/mem.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/unit.h"

static struct board *board_of(struct vm *vm)
{
    return container_of(vm, struct board, vm);
}

static int record_message(struct vm *vm, const struct apic_message *m)
{
    struct board *b = board_of(vm);
    b->last_message = *m;
    b->messages++;
    return b->send_result;
}

void board_init(struct board *b)
{
    if (b->vm.name[0] != '\0')
        while (b->vm.clock.queue)
            vm_timer_cancel(&b->vm, b->vm.clock.queue);
    memset(b, 0, sizeof(*b));
    vm_init(&b->vm, "board");
    b->apic_bus.send = record_message;
    b->vm.apic_bus = &b->apic_bus;
    vm_clock_start(&b->vm);
}

static void set_line(void *owner, unsigned int number, bool level)
{
    struct board *b = owner;
    lock_assert_held(&b->vm.board_lock);
    b->edges[number] += level && !b->level[number] ? 1 : 0;
    b->level[number] = level;
}

struct irq_line board_line(struct board *b, unsigned int number)
{
    return (struct irq_line){set_line, b, number};
}

uint64_t board_in(struct board *b, uint16_t port, uint8_t size)
{
    uint64_t v;
    bus_read(&b->vm.port_bus, port, size, &v);
    return v;
}

void board_out(struct board *b, uint16_t port, uint8_t size, uint64_t value)
{
    bus_write(&b->vm.port_bus, port, size, value);
}

uint64_t board_read(struct board *b, uint64_t address, uint8_t size)
{
    uint64_t v;
    bus_read(&b->vm.mmio_bus, address, size, &v);
    return v;
}

void board_write(struct board *b, uint64_t address, uint8_t size, uint64_t value)
{
    bus_write(&b->vm.mmio_bus, address, size, value);
}

static const struct state_section *section(const struct board *b)
{
    if (b->vm.state.count != 1) {
        fprintf(stderr, "board: %u sections registered\n", b->vm.state.count);
        abort();
    }
    return &b->vm.state.section[0];
}

size_t board_save(struct board *b, uint8_t *buf)
{
    struct state_writer w = {buf, BOARD_STATE, 0};
    section(b)->ops->save(section(b)->object, &w);
    CHECK(w.used <= BOARD_STATE);
    return w.used;
}

static struct state_reader reader(const struct board *b, const uint8_t *buf, size_t size)
{
    return (struct state_reader){.buf = buf, .size = size, .version = section(b)->ops->version};
}

int board_check(struct board *b, const uint8_t *buf, size_t size)
{
    struct state_reader r = reader(b, buf, size);
    int err = section(b)->ops->check(section(b)->object, &r);
    return err != OK ? err : state_get_end(&r);
}

void board_load(struct board *b, const uint8_t *buf, size_t size)
{
    struct state_reader r = reader(b, buf, size);
    CHECK_EQ(section(b)->ops->load(section(b)->object, &r), OK);
    CHECK_EQ(state_get_end(&r), OK);
}

void board_check_refuses(struct board *b, const struct board_bad_state *rows, size_t count)
{
    uint8_t good[BOARD_STATE], bad[BOARD_STATE];
    size_t size = board_save(b, good);
    CHECK_EQ(board_check(b, good, size), OK);
    for (size_t i = 0; i < count; i++) {
        unit_context("row %zu", i);
        memcpy(bad, good, size);
        CHECK(rows[i].at + rows[i].size <= size);
        memcpy(bad + rows[i].at, &rows[i].value, rows[i].size);
        CHECK_EQ(board_check(b, bad, size), (uint64_t)ERR_CORRUPT);
    }
    unit_context(NULL);
    for (size_t n = 0; n < size; n++)
        CHECK_EQ(board_check(b, good, n), (uint64_t)ERR_TRUNCATED);
    CHECK(board_check(b, good, size + 1) != OK);
}

uint64_t board_random(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void poke(const struct board_fuzz *f)
{
    static const uint8_t sizes[] = {1, 1, 2, 4, 8, 1, 2, 4};
    uint64_t r = board_random(), v;
    uint8_t size = sizes[r & 7];
    uint64_t address = f->base + (r >> 8) % (f->size + 4) - 2;
    if ((r >> 4 & 3) != 0)
        bus_write(f->bus, address, size, board_random() >> (r >> 48 & 31));
    else
        bus_read(f->bus, address, size, &v);
    if ((r >> 6 & 3) == 0)
        fake_seam_advance((r >> 32) % (f->step_ns + 1));
    if (f->more)
        f->more();
}

static void round_trip(struct board *b, const uint8_t *fresh)
{
    uint8_t first[BOARD_STATE], second[BOARD_STATE];
    size_t size = board_save(b, first);
    CHECK_EQ(board_check(b, first, size), OK);
    board_load(b, fresh, size);
    board_load(b, first, size);
    CHECK_EQ(board_save(b, second), size);
    CHECK(memcmp(first, second, size) == 0);
}

static void damaged(struct board *b, const struct board_fuzz *f, const uint8_t *good, size_t size)
{
    uint8_t bad[BOARD_STATE];
    for (size_t i = 0; i < size * 16; i++) {
        memcpy(bad, good, size);
        bad[i / 16] ^= (uint8_t)(1u << (i / 2 % 8));
        if (i % 2 != 0)
            bad[board_random() % size] ^= (uint8_t)board_random();
        if (board_check(b, bad, size) != OK)
            continue;
        board_load(b, bad, size);
        for (unsigned int j = 0; j < 8; j++)
            poke(f);
    }
    board_load(b, good, size);
}

void board_fuzz(struct board *b, const struct board_fuzz *f)
{
    uint8_t fresh[BOARD_STATE], good[BOARD_STATE];
    size_t size = board_save(b, fresh);
    for (unsigned int i = 0; i < f->rounds; i++) {
        unit_context("round %u", i);
        poke(f);
        if (i % 16 == 0)
            round_trip(b, fresh);
        if (i % (f->rounds / 4 + 1) == f->rounds / 4) {
            board_save(b, good);
            damaged(b, f, good, size);
        }
    }
    unit_context(NULL);
}
