/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Formatting without libc: the subset of printf that Lodge uses. */
#ifndef LODGE_CORE_FMT_H
#define LODGE_CORE_FMT_H

#include <stdarg.h>

#include "core/types.h"

/*
 * %d %u %x %X %c %s %p %%, length modifiers hh h l ll z, flags 0 - #, width and precision (also *).
 * Writes at most size bytes with the terminator; returns the length that the whole text has.
 */
size_t fmt(char *buf, size_t size, const char *format, ...) printf_like(3, 4);
size_t fmt_v(char *buf, size_t size, const char *format, va_list ap) printf_like(3, 0);

#endif
