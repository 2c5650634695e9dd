/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What a running VM says about itself: `lodge ps` and `lodge inspect`. */
#ifndef LODGE_HOSTED_INSPECT_H
#define LODGE_HOSTED_INSPECT_H

#include <stddef.h>

struct home;

/* One line for `lodge ps`, fields separated by tabs: see inspect.c. Main thread. */
void inspect_line(const struct home *h, char *text, size_t size);
/* JSON (RFC 8259), one object, cut to nothing but "{}" should it not fit. Main thread. */
void inspect_json(const struct home *h, char *text, size_t size);

#endif
