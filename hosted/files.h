/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Files of the operator's: configuration as a whole, kernels and initrds in pieces. See files.c. */
#ifndef LODGE_HOSTED_FILES_H
#define LODGE_HOSTED_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "core/types.h"
#include "hosted/ram.h"
#include "machine/config.h"

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

/* All n bytes at that offset: NULL, or why not, in a few words. In the sandbox, too. */
const char *file_read_exactly(int fd, uint64_t offset, uint8_t *p, size_t n);
const char *file_write_exactly(int fd, uint64_t offset, const uint8_t *p, size_t n);

/* The directory that a file of that name is in. */
const char *file_directory(const char *path, char directory[CONFIG_PATH]);
/* A file has got this name: that is on the disk when the directory is. Some file systems cannot sync one. */
void file_sync_directory(const char *path);
/* A device or a pipe of that name, or a link to one, is nothing that a file may take the place of. */
bool file_may_be_replaced(const char *path);

/* A regular file that stays open. */
struct file_kept {
    int fd;
    struct stat stat;      /* as it was opened */
    const char *failure;   /* why it could not be read, NULL: it could */
    const struct ram *ram; /* where it is loaded to; the caller's to set */
};

/* The same errors. */
int must_check file_keep(struct file_kept *out, const struct file_request *r, char *message,
                         size_t message_size);
/* Takes one that is open already, if it is a regular file: else ERR_INVALID. */
int must_check file_adopt(struct file_kept *out, int fd);
/* struct boot_file.read, of a struct file_kept. A file that has changed since it was opened is not
 * read: ERR_IO. */
int file_kept_read(void *file, uint64_t offset, void *to, size_t n);
/* struct boot_file.load: the same, to an address in file->ram, which may be hidden if it is shared. Any thread, in the
 * sandbox. */
int file_kept_load(void *file, uint64_t offset, void *to, size_t n);
/* Whether it still is as it was opened, and has bytes as far as this. */
bool file_kept_reaches(const struct file_kept *f, uint64_t end);

#endif
