/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The exit port: which status a value gives, what stops the VM and what does not. */
#include "device/exit_port.h"

#include "core/err.h"
#include "lodge/ports.h"
#include "tests/lib/board.h"
#include "tests/lib/unit.h"

static struct board board;

static void begin(void)
{
    board_init(&board);
    CHECK_EQ(exit_port_create(&board.vm), OK);
}

static uint32_t reason(void)
{
    return atomic_load(&board.vm.stop_reason);
}

static void test_status(void)
{
    static const struct {
        uint8_t size;
        uint32_t value, status;
    } rows[] = {
        /* table */
        {1, 0, 1},     {1, 1, 3},     {1, 0x2A, 0x55},       {1, 0x7F, 0xFF},
        {1, 0x80, 1},  {2, 0, 1},     {2, 0x1234, 0x69},     {4, 5, 11},
        {4, 0x100, 1}, {1, 255, 255}, {4, 0xFFFFFFFF, 0xFF},
    };
    for (size_t n = 0; n < ARRAY_SIZE(rows); n++) {
        unit_context("row %zu", n);
        begin();
        board_out(&board, LODGE_PORT_EXIT, rows[n].size, rows[n].value);
        CHECK_EQ(reason(), VM_STOP_EXIT_PORT);
        CHECK_EQ(board.vm.stop_status, rows[n].status);
    }
    unit_context(NULL);
    CHECK_STR(board.vm.stop_text, "the guest wrote 0xffffffff to the exit port");
}

static void test_first_wins(void)
{
    begin();
    board_out(&board, LODGE_PORT_EXIT, 1, 3);
    board_out(&board, LODGE_PORT_EXIT, 1, 9);
    CHECK_EQ(board.vm.stop_status, 7);
}

static void test_others(void)
{
    begin();
    for (uint16_t port = LODGE_PORT_EXIT - 4; port < LODGE_PORT_EXIT + 8; port++) {
        CHECK_EQ(board_in(&board, port, 1), 0xFF);
        if (port != LODGE_PORT_EXIT)
            board_out(&board, port, 1, 1);
    }
    CHECK_EQ(board_in(&board, LODGE_PORT_EXIT, 2), 0xFFFF);
    CHECK_EQ(board_in(&board, LODGE_PORT_EXIT, 4), 0xFFFFFFFF);
    board_out(&board, LODGE_PORT_EXIT + 2, 2, 1);
    CHECK_EQ(reason(), VM_RUNNING);
    CHECK_EQ(exit_port_create(&board.vm), ERR_EXISTS);
}

int main(void)
{
    UNIT_RUN(test_status);
    UNIT_RUN(test_first_wins);
    UNIT_RUN(test_others);
    return unit_done();
}
