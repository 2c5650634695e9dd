/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The screen's letters: ASCII from space to tilde. (screen_font.c) */
#ifndef LODGE_NATIVE_SCREEN_FONT_H
#define LODGE_NATIVE_SCREEN_FONT_H

#include "core/types.h"

enum { FONT_WIDTH = 8, FONT_HEIGHT = 16, FONT_FIRST = ' ', FONT_LAST = '~' };

/* The pixels of a row (0 .. FONT_HEIGHT - 1) of a letter, the leftmost in bit 7. */
uint8_t font_row(char letter, unsigned int row);

#endif
