/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Ports without a device behind them: POST code, I/O delay, system control port A. */
#include "device/pc_ports.h"

#include "core/err.h"
#include "tests/lib/board.h"
#include "tests/lib/unit.h"

enum { POST = 0x80, CONTROL_A = 0x92, DELAY = 0xED };

static struct board board;

static void begin(void)
{
    board_init(&board);
    CHECK_EQ(pc_ports_create(&board.vm), OK);
}

static uint32_t reason(void)
{
    return atomic_load(&board.vm.stop_reason);
}

static void test_delay(void)
{
    static const uint16_t ports[] = {POST, DELAY};
    begin();
    for (size_t n = 0; n < ARRAY_SIZE(ports); n++) {
        for (unsigned int value = 0; value < 256; value++)
            board_out(&board, ports[n], 1, value);
        CHECK_EQ(board_in(&board, ports[n], 1), 0xFF);
        CHECK_EQ(board_in(&board, ports[n], 2), 0xFFFF);
    }
    CHECK_EQ(reason(), VM_RUNNING);
}

/* A20 is always on and says so; bit 0 resets, whatever else is written. */
static void test_control_a(void)
{
    for (unsigned int value = 0; value < 256; value++) {
        unit_context("%#x", value);
        begin();
        CHECK_EQ(board_in(&board, CONTROL_A, 1), 2);
        board_out(&board, CONTROL_A, 1, value);
        CHECK_EQ(reason(), value & 1 ? VM_STOP_RESET : VM_RUNNING);
        CHECK_EQ(board_in(&board, CONTROL_A, 1), 2);
    }
    unit_context(NULL);
}

/* An access over several ports is one to each of them. */
static void test_wide(void)
{
    begin();
    CHECK_EQ(board_in(&board, CONTROL_A, 2), 0xFF02);
    CHECK_EQ(board_in(&board, CONTROL_A - 1, 2), 0x02FF);
    board_out(&board, CONTROL_A - 1, 2, 0x00FF);
    board_out(&board, CONTROL_A, 2, 0xFF02);
    CHECK_EQ(reason(), VM_RUNNING);
    board_out(&board, CONTROL_A - 1, 2, 0x0100);
    CHECK_EQ(reason(), VM_STOP_RESET);
}

static void test_occupied(void)
{
    begin();
    CHECK_EQ(pc_ports_create(&board.vm), ERR_EXISTS);
}

int main(void)
{
    UNIT_RUN(test_delay);
    UNIT_RUN(test_control_a);
    UNIT_RUN(test_wide);
    UNIT_RUN(test_occupied);
    return unit_done();
}
