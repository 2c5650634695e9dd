/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Whole files in memory: kernels, initrds, configuration. See files.c. */
#ifndef LODGE_HOSTED_FILES_H
#define LODGE_HOSTED_FILES_H

#include <stddef.h>
#include <stdint.h>

#include "core/types.h"

struct file_bytes {
    uint8_t *bytes; /* pages of our own, read-only; NULL when empty */
    size_t size;
};

/* What to read, and how messages speak of it. */
struct file_request {
    const char *what; /* "kernel" */
    const char *path;
    uint64_t max;          /* bytes; an empty file is refused too */
    const char *too_large; /* what to do about a larger one: "use a smaller one" */
};

/* Reads all of a regular file. On error ERR_INVALID, ERR_PERMISSION, ERR_NO_MEMORY or ERR_IO, and
 * one line in message. */
int must_check file_read(struct file_bytes *out, const struct file_request *r, char *message,
                         size_t message_size);
void file_free(struct file_bytes *f);

#endif
