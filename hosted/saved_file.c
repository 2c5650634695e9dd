/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A saved VM as a file: what machine/saved_image.c makes of a VM.
 *
 * Writing. The file is written under another name beside the one that it shall have, as large as it will be from
 * the start, pages that are zero left out as holes, synced, and renamed. Whatever goes wrong on the way leaves no
 * file, and the old one if there was one. The name is not secret, the contents are: mode 0600.
 *
 * Reading. Runs are mapped privately, so pages come when they are touched, and what the guest writes is its
 * own. The file must not be written to from then on, which nothing can keep its owner from: a page that changes
 * before the guest first touches it is the guest's bad luck, or noticed by its checksum, and one that is not
 * there any more is SIGBUS.
 */
#include "hosted/saved_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/mem.h"
#include "core/seam.h"
#include "hosted/files.h"
#include "hosted/seam.h"

enum { TEMPORARY = 6 /* letters that tell temporary files apart */ };

static int fail(char *message, int err, const char *what, const char *path)
{
    int error = errno;

    snprintf(message, SAVED_MESSAGE, "cannot %s '%.300s': %s", what, path, strerror(error));
    if (error == ENOMEM)
        return ERR_NO_MEMORY;
    return error == EACCES || error == EPERM || error == EROFS ? ERR_PERMISSION : err;
}

/* --- writing ------------------------------------------------------------------------------------
 */

/* A run's pages that are not zero, as many at once as follow each other. */
static bool write_run(int fd, const struct saved_run *r, const uint8_t *ram)
{
    uint64_t from = 0, at = 0;

    while (at < r->size) {
        while (at < r->size && page_is_zero(ram + r->ram + at))
            at += PAGE_SIZE;
        from = at;
        while (at < r->size && !page_is_zero(ram + r->ram + at))
            at += PAGE_SIZE;
        if (file_write_exactly(fd, r->file + from, ram + r->ram + from, at - from))
            return false;
    }
    return true;
}

static bool write_all(int fd, const struct saved_writing *w)
{
    if (ftruncate(fd, (off_t)w->file_size) != 0)
        return false;
    for (uint32_t k = 0; k < w->source.runs; k++) {
        if (!write_run(fd, &w->run[k], w->ram))
            return false;
    }
    return !file_write_exactly(fd, SAVED_HEAD, w->metadata, w->metadata_size) &&
           !file_write_exactly(fd, 0, w->head, SAVED_HEAD) && fsync(fd) == 0;
}

/* A file beside the one that it shall become: without a name where the file system can do that, so that
 * nothing is left of it whatever ends this program; else other[] is its name. */
static int open_temporary(const char *path, char other[CONFIG_PATH])
{
    char directory[CONFIG_PATH];
    int fd = open(file_directory(path, directory), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    return fd >= 0 ? fd : mkostemp(other, O_CLOEXEC); /* mode 0600 */
}

/* Gives a file without a name its own, if nothing has that, else that of a temporary one: other[], of whose end something
 * is made that no file has. */
static bool give_name(int fd, const char *path, char other[CONFIG_PATH])
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz012345";
    char self[64], *end = other + strlen(other) - TEMPORARY;
    uint8_t random[TEMPORARY];

    snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
    if (linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0) {
        (void)str_copy(other, CONFIG_PATH, path);
        return true;
    }
    do {
        seam_random(random, sizeof(random));
        for (unsigned int i = 0; i < TEMPORARY; i++)
            end[i] = letters[random[i] % 32];
        if (linkat(AT_FDCWD, self, AT_FDCWD, other, AT_SYMLINK_FOLLOW) == 0)
            return true;
    } while (errno == EEXIST);
    return false;
}

static bool has_no_name(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && st.st_nlink == 0;
}

static int write_and_rename(const char *path, const struct saved_writing *w, char *message)
{
    char other[CONFIG_PATH];
    int fd, err;

    if ((size_t)snprintf(other, sizeof(other), "%s.XXXXXX", path) >= sizeof(other)) {
        errno = ENAMETOOLONG;
        return fail(message, ERR_INVALID, "write", path);
    }
    fd = open_temporary(path, other);
    if (fd < 0)
        return fail(message, ERR_INVALID, "write", path);
    if (!write_all(fd, w) || (has_no_name(fd) && !give_name(fd, path, other)) || rename(other, path) != 0) {
        err = fail(message, ERR_IO, "write", path);
        if (!has_no_name(fd))
            (void)unlink(other);
        close(fd);
        return err;
    }
    close(fd);
    file_sync_directory(path);
    return OK;
}

int saved_file_write(const char *path, const struct saved_image *image, char *message)
{
    struct saved_writing w;
    int err;

    if (!file_may_be_replaced(path)) {
        snprintf(message, SAVED_MESSAGE, "cannot write '%.300s': there is something that is no file (give another name)",
                 path);
        return ERR_INVALID;
    }
    err = saved_writing_begin(&w, image);
    if (err) {
        errno = ENOMEM;
        return fail(message, err, "save to", path);
    }
    err = write_and_rename(path, &w, message);
    saved_writing_end(&w);
    return err;
}

/* --- reading ------------------------------------------------------------------------------------
 */

/* Puts the file's name before a message of machine/saved.c. */
static int name_file(int err, char *message, const char *path)
{
    char why[SAVED_MESSAGE];

    if (err) {
        snprintf(why, sizeof(why), "%s", message);
        snprintf(message, SAVED_MESSAGE, "'%.200s' cannot be restored: %.250s", path, why);
    }
    return err;
}

static int not_read(char *message, const char *path, const char *failure)
{
    snprintf(message, SAVED_MESSAGE, "cannot read '%.300s': %.100s (try again, or copy it to a disk first)", path,
             failure);
    return ERR_IO;
}

static int get_metadata(struct saved_file *f, const char *path, uint64_t size, char *message)
{
    uint8_t head[SAVED_HEAD];
    const char *failure;
    int err;

    if (size < SAVED_HEAD) {
        snprintf(message, SAVED_MESSAGE, "'%.300s' is cut off (take another copy)", path);
        return ERR_TRUNCATED;
    }
    failure = file_read_exactly(f->fd, 0, head, SAVED_HEAD);
    if (failure)
        return not_read(message, path, failure);
    err = saved_get_head(&f->head, head, size, message);
    if (err)
        return name_file(err, message, path);
    f->metadata = malloc(f->head.metadata_size + 1);
    if (!f->metadata) {
        errno = ENOMEM;
        return fail(message, ERR_NO_MEMORY, "read", path);
    }
    failure = file_read_exactly(f->fd, SAVED_HEAD, f->metadata, f->head.metadata_size);
    if (failure)
        return not_read(message, path, failure);
    return name_file(saved_get_metadata(&f->saved, &f->head, f->metadata, message), message, path);
}

int saved_file_open(struct saved_file *f, const char *path, char *message)
{
    struct stat st;
    int err;

    *f = (struct saved_file){.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
    if (f->fd < 0 || fstat(f->fd, &st) != 0) {
        err = fail(message, ERR_INVALID, "read", path);
    } else if (!S_ISREG(st.st_mode)) {
        snprintf(message, SAVED_MESSAGE, "'%.300s' is no file (give one that 'lodge save' has written)", path);
        err = ERR_INVALID;
    } else {
        err = get_metadata(f, path, (uint64_t)st.st_size, message);
    }
    if (err)
        saved_file_close(f);
    return err;
}

int saved_file_map(const struct saved_file *f, struct ram *ram, char *message)
{
    int fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 0), err = fd < 0 ? ERR_NO_MEMORY : OK;
    uint32_t layer;

    if (!err)
        err = ram_add_layer(ram, fd, false, &layer);
    for (uint32_t n = 0; n < f->saved.runs && !err; n++) {
        struct saved_run r = saved_run_at(&f->saved, n);
        struct ram_extent e = {.at = r.ram, .size = r.size, .offset = r.file, .layer = layer};

        err = ram_map(ram, &e);
    }
    if (err)
        snprintf(message, SAVED_MESSAGE, "cannot map a saved VM's memory: %s (%s)", strerror(errno),
                 seam_errno_hint(errno));
    return err;
}

static int verify_piece(const struct saved_file *f, uint64_t offset, uint64_t size, uint64_t piece,
                        uint8_t *bytes, char *message)
{
    const char *failure = file_read_exactly(f->fd, offset, bytes, size);

    if (!failure && saved_crc32c(0, bytes, size) == saved_sum_at(&f->saved, piece))
        return OK;
    if (failure)
        snprintf(message, SAVED_MESSAGE, "the saved VM's file cannot be read at byte %llu: %s",
                 (unsigned long long)offset, failure);
    else
        snprintf(message, SAVED_MESSAGE, "the saved VM's file is damaged at byte %llu (take another copy)",
                 (unsigned long long)offset);
    return ERR_CORRUPT;
}

int saved_file_verify(const struct saved_file *f, uint64_t *piece, uint64_t pieces, uint8_t *buffer,
                      char *message)
{
    uint64_t first = 0, end = *piece + pieces;
    int err = OK;

    for (uint32_t n = 0; n < f->saved.runs && *piece < end && !err; n++) {
        struct saved_run r = saved_run_at(&f->saved, n);

        for (; !err && *piece < end && *piece - first < saved_pieces(r.size); (*piece)++) {
            uint64_t at = (*piece - first) * SAVED_PIECE;

            err = verify_piece(f, r.file + at, r.size - at < SAVED_PIECE ? r.size - at : SAVED_PIECE, *piece,
                               buffer, message);
        }
        first += saved_pieces(r.size);
    }
    return err;
}

void saved_file_close(struct saved_file *f)
{
    if (f->fd >= 0)
        close(f->fd);
    free(f->metadata);
    *f = (struct saved_file){.fd = -1};
}
