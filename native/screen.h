/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The machine's screen, as the firmware or the loader has set it up: a frame buffer or VGA's text, a sink of the
 * log. (screen.c) */
#ifndef LODGE_NATIVE_SCREEN_H
#define LODGE_NATIVE_SCREEN_H

#include "core/err.h"
#include "core/types.h"
#include "native/log.h"

enum screen_kind { SCREEN_NONE, SCREEN_TEXT, SCREEN_PIXELS };

/* A colour's place in a pixel: bits from the lowest. */
struct screen_colour {
    uint8_t at, size;
};

/* As Multiboot 2 says it (3.6.12, framebuffer info), checked here. */
struct screen_mode {
    enum screen_kind kind;
    uint32_t width, height; /* pixels, or letters */
    uint32_t pitch;         /* bytes from row to row; text: 0 means 2 * width */
    uint8_t depth;          /* bits of a pixel: 15, 16, 24, 32 */
    struct screen_colour red, green, blue;
};

/* Bytes of memory that it takes, from its address on: what has to be mapped (map_device, write-combining). 0: such
 * a mode cannot be used. */
size_t screen_size(const struct screen_mode *m);

/* memory: screen_size bytes; clears the screen. NULL, or a mode that cannot be used: what is written is discarded,
 * ERR_UNSUPPORTED. Once. */
int screen_init(const struct screen_mode *m, void *memory);

/* Letters, ends of lines, tabs, backspaces; the rest is shown as question marks. Any CPU. */
void screen_write(const char *bytes, size_t size);

extern const struct log_sink screen_sink;

#endif
