/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* A saved VM as a file of this host: see saved_file.c, docs/saved.md and machine/saved.h. */
#ifndef LODGE_HOSTED_SAVED_FILE_H
#define LODGE_HOSTED_SAVED_FILE_H

#include "hosted/ram.h"
#include "machine/saved.h"
#include "machine/saved_image.h"

/* saved_image.gap, pages: few mappings, and yet no more blocks on the disk, since there they are holes. */
enum { SAVED_FILE_GAP = 32 };

/* Writes it to `path`, whole or not at all: what was there before stays until then. On error
 * ERR_INVALID, ERR_NO_MEMORY, ERR_PERMISSION or ERR_IO, and one line in message[SAVED_MESSAGE]. */
int must_check saved_file_write(const char *path, const struct saved_image *image, char *message);

struct saved_file {
    int fd;
    uint8_t *metadata;
    struct saved_head head;
    struct saved saved;
};

/* Opens and checks head and metadata. The same errors, and those of saved_get_metadata. */
int must_check saved_file_open(struct saved_file *f, const char *path, char *message);
/* Maps the pages copy-on-write over RAM, which is private, zero and f->saved.config.memory bytes. */
int must_check saved_file_map(const struct saved_file *f, struct ram *ram, char *message);
/* Holds a part of the pages against its checksums: *piece counts, from 0 to f->saved.pieces. Reads the file,
 * not RAM, into buffer[SAVED_PIECE]. ERR_CORRUPT and a message: it is damaged. In the sandbox. */
int must_check saved_file_verify(const struct saved_file *f, uint64_t *piece, uint64_t pieces, uint8_t *buffer,
                                 char *message);
void saved_file_close(struct saved_file *f);

#endif
