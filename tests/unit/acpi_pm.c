/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Unit tests of ACPI fixed hardware, the exit port, and the ports that need no device. */
#include "core/err.h"
#include "device/acpi_pm.h"
#include "device/exit_port.h"
#include "device/pc_ports.h"
#include "lodge/ports.h"
#include "tests/lib/board.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/unit.h"

#define SECOND 1000000000ull

enum {
    STATUS = LODGE_PORT_ACPI_PM1_EVENT,
    ENABLE = STATUS + 2,
    CONTROL = LODGE_PORT_ACPI_PM1_CONTROL,
    TIMER = LODGE_PORT_ACPI_PM_TIMER,
    GPE = LODGE_PORT_ACPI_GPE0,
    SCI = LODGE_IRQ_SCI,
};

static struct board b;
static struct acpi_pm pm;

static void setup(void)
{
    board_init(&b);
    CHECK_EQ(acpi_pm_create(&pm, &b.vm, board_line(&b, SCI)), OK);
}

static void test_registers(void)
{
    setup();
    CHECK_EQ(board_in(&b, STATUS, 2), 0);
    CHECK_EQ(board_in(&b, ENABLE, 2), 0);
    CHECK_EQ(board_in(&b, CONTROL, 2), 1); /* ACPI mode, always */
    board_out(&b, ENABLE, 2, 0xFFFF);
    CHECK_EQ(board_in(&b, ENABLE, 2), 0x0521);
    CHECK_EQ(board_in(&b, STATUS, 4), 0x05210000);
    board_out(&b, ENABLE + 1, 1, 0);
    CHECK_EQ(board_in(&b, ENABLE, 2), 0x0021);
    board_out(&b, STATUS, 2, 0xFFFF);
    CHECK_EQ(board_in(&b, STATUS, 2), 0);
    board_out(&b, CONTROL, 2, 0x1C06);
    CHECK_EQ(board_in(&b, CONTROL, 2), 0x1C01);
    CHECK(!vm_is_stopped(&b.vm));
}

static void test_power_off(void)
{
    for (unsigned int type = 0; type < 8; type++) {
        unit_context("type %u", type);
        setup();
        board_out(&b, CONTROL, 2, type << 10);
        CHECK(!vm_is_stopped(&b.vm));
        board_out(&b, CONTROL, 2, type << 10 | 1 << 13);
        CHECK_EQ(b.vm.stop_reason, type == ACPI_PM_SLP_TYP_S5 ? VM_STOP_POWEROFF : VM_RUNNING);
        CHECK_EQ(board_in(&b, CONTROL, 2), type << 10 | 1);
    }
}

static void test_power_button(void)
{
    setup();
    acpi_pm_power_button(&pm);
    CHECK_EQ(board_in(&b, STATUS, 2), 0x100);
    CHECK(!b.level[SCI]);
    board_out(&b, ENABLE, 2, 0x100);
    CHECK(b.level[SCI]);
    board_out(&b, STATUS, 2, 0x021);
    CHECK(b.level[SCI]);
    board_out(&b, STATUS, 2, 0x100);
    CHECK(!b.level[SCI]);
    CHECK_EQ(board_in(&b, STATUS, 2), 0);
}

static void test_new_identity(void)
{
    setup();
    CHECK_EQ(board_in(&b, GPE, 2), 0);
    acpi_pm_new_identity(&pm);
    CHECK_EQ(board_in(&b, GPE, 2), 1);
    CHECK(!b.level[SCI]);
    board_out(&b, GPE + 1, 1, 0xFE);
    CHECK_EQ(board_in(&b, GPE, 2), 1);
    board_out(&b, GPE + 1, 1, 0xFF);
    CHECK_EQ(board_in(&b, GPE, 2), 0x101);
    CHECK(b.level[SCI]);
    board_out(&b, GPE, 1, 0xFE);
    CHECK(b.level[SCI]);
    acpi_pm_power_button(&pm);
    board_out(&b, ENABLE, 2, 0x100);
    board_out(&b, GPE, 1, 1);
    CHECK(b.level[SCI]); /* for the other */
    board_out(&b, STATUS, 2, 0x100);
    CHECK(!b.level[SCI]);
    acpi_pm_new_identity(&pm);
    CHECK(b.level[SCI]);
    lock_take(&b.vm.board_lock);
    acpi_pm_reset(&pm);
    lock_release(&b.vm.board_lock);
    CHECK(!b.level[SCI]);
    CHECK_EQ(board_in(&b, GPE, 2), 0);
}

/* A VM that is saved before its guest has taken the event, or enabled it, has it still. */
static void test_identity_is_saved(void)
{
    for (unsigned int n = 0; n < 4; n++) {
        uint8_t state[BOARD_STATE];
        unit_context("status %u, enable %u", n & 1, n >> 1);
        setup();
        if (n & 1)
            acpi_pm_new_identity(&pm);
        board_out(&b, GPE + 1, 1, n >> 1);
        size_t size = board_save(&b, state);
        setup();
        CHECK_EQ(board_check(&b, state, size), OK);
        board_load(&b, state, size);
        CHECK_EQ(board_in(&b, GPE, 2), (n & 1) | (n >> 1) << 8);
        CHECK_EQ(b.level[SCI], n == 3);
    }
    unit_context(NULL);
}

static void test_timer(void)
{
    setup();
    uint64_t start = board_in(&b, TIMER, 4);
    fake_seam_advance(10 * SECOND);
    CHECK_EQ(board_in(&b, TIMER, 4) - start, 35795450);
    board_out(&b, TIMER, 4, 0);
    CHECK_EQ(board_in(&b, TIMER, 4) - start, 35795450);
    CHECK_EQ(board_in(&b, TIMER, 1), board_in(&b, TIMER, 4) & 0xFF);
    CHECK_EQ(board_in(&b, TIMER + 2, 2), board_in(&b, TIMER, 4) >> 16);
}

/* The top bit toggles every 2^31 / 3579545 s = 599.9 s. */
static void test_timer_event(void)
{
    setup();
    board_out(&b, ENABLE, 2, 1);
    fake_seam_advance(599 * SECOND);
    CHECK(!b.level[SCI]);
    fake_seam_advance(SECOND);
    CHECK(b.level[SCI]);
    CHECK_EQ(board_in(&b, STATUS, 2), 1);
    board_out(&b, STATUS, 2, 1);
    CHECK(!b.level[SCI]);
    fake_seam_advance(600 * SECOND);
    CHECK_EQ(b.edges[SCI], 2);
    CHECK_EQ(board_in(&b, TIMER, 4) >> 31, 0);
    board_out(&b, ENABLE, 2, 0);
    CHECK(!b.level[SCI]);
    board_out(&b, STATUS, 2, 1);
    fake_seam_advance(600 * SECOND); /* polled */
    CHECK_EQ(board_in(&b, STATUS, 2), 1);
    CHECK_EQ(b.edges[SCI], 2);
}

static void test_state_refused(void)
{
    static const struct board_bad_state rows[] = {
        {0, 2, 0x20}, {0, 2, 0x8000}, {2, 2, 0x02}, {2, 2, 0x0200}, {4, 1, 8}, {9, 1, 2}, {10, 1, 0x80}};
    setup();
    board_check_refuses(&b, rows, sizeof(rows) / sizeof(rows[0]));
}

static void more(void)
{
    if ((board_random() & 7) == 0)
        acpi_pm_power_button(&pm);
    if ((board_random() & 7) == 0)
        acpi_pm_new_identity(&pm);
}

static void test_fuzz(void)
{
    setup();
    struct board_fuzz f = {&b.vm.port_bus, STATUS, 14, 30000, more, 100 * SECOND};
    board_fuzz(&b, &f);
}

static void test_exit_port(void)
{
    /* table */
    static const struct {
        uint8_t size;
        uint64_t value;
        uint32_t status;
    } rows[] = {
        {1, 0, 1}, {1, 0x10, 0x21}, {1, 0xFF, 0xFF}, {2, 0x0103, 0x07}, {4, 0x80000005, 0x0B}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        unit_context("row %zu", i);
        board_init(&b);
        CHECK_EQ(exit_port_create(&b.vm), OK);
        CHECK_EQ(board_in(&b, LODGE_PORT_EXIT, 4), 0xFFFFFFFF);
        CHECK(!vm_is_stopped(&b.vm));
        board_out(&b, LODGE_PORT_EXIT, rows[i].size, rows[i].value);
        CHECK_EQ(b.vm.stop_reason, VM_STOP_EXIT_PORT);
        CHECK_EQ(b.vm.stop_status, rows[i].status);
    }
    unit_context(NULL);
    board_init(&b);
    CHECK_EQ(exit_port_create(&b.vm), OK);
    board_out(&b, LODGE_PORT_EXIT + 1, 1, 7);
    board_out(&b, LODGE_PORT_EXIT - 2, 2, 7);
    CHECK(!vm_is_stopped(&b.vm));
}

static void test_pc_ports(void)
{
    board_init(&b);
    CHECK_EQ(pc_ports_create(&b.vm), OK);
    static const uint16_t nothing[] = {0x80, 0xED, 0x60, 0x64, 0x81, 0x3F5, 0xC0};
    for (size_t i = 0; i < ARRAY_SIZE(nothing); i++) {
        board_out(&b, nothing[i], 1, 0x55);
        CHECK_EQ(board_in(&b, nothing[i], 1), 0xFF);
    }
    CHECK_EQ(board_in(&b, 0x92, 1), 2);
    board_out(&b, 0x92, 1, 0);
    CHECK_EQ(board_in(&b, 0x92, 1), 2);
    CHECK(!vm_is_stopped(&b.vm));
    board_out(&b, 0x92, 1, 3);
    CHECK_EQ(b.vm.stop_reason, VM_STOP_RESET);
}

int main(void)
{
    UNIT_RUN(test_registers);
    UNIT_RUN(test_power_off);
    UNIT_RUN(test_power_button);
    UNIT_RUN(test_new_identity);
    UNIT_RUN(test_identity_is_saved);
    UNIT_RUN(test_timer);
    UNIT_RUN(test_timer_event);
    UNIT_RUN(test_state_refused);
    UNIT_RUN(test_fuzz);
    UNIT_RUN(test_exit_port);
    UNIT_RUN(test_pc_ports);
    return unit_done();
}
