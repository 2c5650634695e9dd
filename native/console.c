/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Where serial port, screen, log, interrupts and clock are brought together. The serial port comes first, before
 * there is memory, and is polled by whoever writes until its interrupt is routed; a port whose interrupt cannot be
 * routed goes on so.
 *
 * The power button's handler takes the event back, or its level-triggered line would not fall, and tells the operator's
 * thread.
 *
 * No state, no locks.
 */
#include "native/console.h"

#include "native/apic.h"
#include "native/clock.h"
#include "native/cpu.h"
#include "native/frames.h"
#include "native/log.h"
#include "native/main.h"
#include "native/operator.h"
#include "native/power.h"
#include "native/random.h"
#include "native/screen.h"
#include "native/serial.h"
#include "native/trap.h"

void home_console(void)
{
    if (serial_init())
        log_add_sink(&operator_sink);
}

static struct screen_mode mode_of(const struct boot_screen *s)
{
    struct screen_mode m = {
        .width = s->width,
        .height = s->height,
        .pitch = s->pitch,
        .depth = s->bits,
        .red = {s->red.position, s->red.size},
        .green = {s->green.position, s->green.size},
        .blue = {s->blue.position, s->blue.size},
    };

    if (s->type == BOOT_SCREEN_RGB)
        m.kind = SCREEN_PIXELS;
    else if (s->type == BOOT_SCREEN_TEXT)
        m.kind = SCREEN_TEXT;
    return m;
}

void console_screen(const struct boot_info *b)
{
    struct screen_mode m = mode_of(&b->screen);
    size_t size = screen_size(&m);

    if (size == 0) {
        if (b->screen.type == BOOT_SCREEN_NONE)
            log_line("screen: none");
        else
            log_line("screen: of no use: kind %u, %u by %u, %u bits", b->screen.type, m.width, m.height, m.depth);
        return;
    }
    if (screen_init(&m, map_device(b->screen.address, size, true)) != OK) {
        log_line("screen: its memory cannot be mapped");
        return;
    }
    log_add_sink(&screen_sink);
    log_line("screen: %s, %u by %u", m.kind == SCREEN_TEXT ? "text" : "pixels", m.width, m.height);
}

static void serial_vector(void)
{
    random_event();
    serial_interrupt();
}

static void acpi_vector(void)
{
    if (power_button_pressed())
        operator_power_button();
}

void console_interrupts(const struct acpi *a)
{
    log_set_clock(clock_ns);
    trap_set_handler(VECTOR_SERIAL, serial_vector);
    if (io_apic_route(a, SERIAL_IRQ, VECTOR_SERIAL) == OK)
        serial_enable_interrupts();
    else
        log_line("serial port: its interrupt cannot be routed; it is polled");
    trap_set_handler(VECTOR_ACPI, acpi_vector);
    if (a->has_power_button && a->sci < 16 && io_apic_route(a, (uint8_t)a->sci, VECTOR_ACPI) == OK)
        (void)power_button_enable();
}
