/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Files that a VM is made from. The configuration is read into memory of our own. Kernel and initrd,
 * which are large, are not: what is loaded of them goes from the file to the guest's RAM, by way of a
 * buffer that stays in the processor's cache, since reading into RAM's mapping takes a page fault for
 * each page (and sendfile, which spares the buffer, is refused by some file systems).
 * They are kept open for as long as the VM, since a reset boots from them again and by then the
 * sandbox lets nobody open a file. So a file that is replaced (as package managers do it) is booted
 * from as it was; one that is written to while a VM has it is not booted from any more, as nobody
 * could say what it would be.
 *
 * Nothing is mapped: a file that somebody truncates while it is mapped kills its reader with SIGBUS,
 * and one that somebody rewrites changes under a loader that has checked it.
 *
 * O_NONBLOCK is for FIFOs, which would otherwise block until a writer comes; what is not a regular
 * file is refused. /dev/stdin and process substitution are refused with it, and say so. So are
 * files of /proc and /sys, whose size says nothing: how much to read must be known before it is
 * read.
 */
#include "hosted/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/err.h"
#include "hosted/seam.h"

enum { LOAD_BUFFER = 32 << 10 };

static const char *kind_of(mode_t mode)
{
    if (S_ISDIR(mode))
        return "a directory";
    if (S_ISFIFO(mode))
        return "a pipe";
    if (S_ISSOCK(mode))
        return "a socket";
    if (S_ISCHR(mode) || S_ISBLK(mode))
        return "a device";
    return "not a regular file";
}

/* Files of /proc have no size and may have bytes all the same, or an error. */
static bool has_bytes(int fd)
{
    uint8_t byte;

    return read(fd, &byte, 1) != 0;
}

/* Opens it and looks what it is: OK, or an error and a message. */
static int open_checked(const struct file_request *r, int *fd, struct stat *st, char *message,
                        size_t n)
{
    *fd = open(r->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    /* ENXIO: a socket, which cannot be opened but can be named. */
    if (*fd >= 0 ? fstat(*fd, st) != 0 : errno != ENXIO || stat(r->path, st) != 0) {
        bool denied = errno == EACCES || errno == EPERM;
        bool limit = errno == EMFILE || errno == ENFILE;

        snprintf(message, n, "cannot read %s '%s': %s (%s)", r->what, r->path, strerror(errno),
                 limit    ? seam_errno_hint(errno)
                 : denied ? "check its permissions"
                          : "check its path");
        return limit ? ERR_NO_MEMORY : denied ? ERR_PERMISSION : ERR_INVALID;
    }
    if (!S_ISREG(st->st_mode))
        snprintf(message, n, "%s '%s' is %s (give a regular file)", r->what, r->path,
                 kind_of(st->st_mode));
    else if (st->st_size == 0 && has_bytes(*fd))
        snprintf(message, n, "%s '%s' does not say how long it is (copy it to a disk first)",
                 r->what, r->path);
    else if (st->st_size == 0)
        snprintf(message, n, "%s '%s' is empty (give a complete file)", r->what, r->path);
    else if ((uint64_t)st->st_size > r->max)
        snprintf(message, n, "%s '%s' is too large: %llu bytes, at most %llu fit (%s)", r->what,
                 r->path, (unsigned long long)st->st_size, (unsigned long long)r->max,
                 r->too_large);
    else
        return OK;
    return ERR_INVALID;
}

/* All n bytes: NULL, or why not. */
const char *file_read_exactly(int fd, uint64_t offset, uint8_t *p, size_t n)
{
    while (n) {
        ssize_t done = pread(fd, p, n, (off_t)offset);

        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return strerror(errno);
        if (done == 0)
            return "it has fewer bytes than its size says";
        p += done;
        offset += (uint64_t)done;
        n -= (size_t)done;
    }
    return NULL;
}

/* Memory of our own with the file's size bytes. */
static int read_into_memory(struct file_bytes *out, const struct file_request *r, int fd,
                            size_t size, char *message, size_t message_size)
{
    const char *failure;
    uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED) {
        snprintf(message, message_size, "no memory for %s '%s', %llu bytes (free some)", r->what,
                 r->path, (unsigned long long)size);
        return ERR_NO_MEMORY;
    }
    failure = file_read_exactly(fd, 0, p, size);
    if (failure) {
        snprintf(message, message_size,
                 "cannot read %s '%s': %s (try again, or copy it to a disk first)", r->what,
                 r->path, failure);
        munmap(p, size);
        return ERR_IO;
    }
    (void)mprotect(p, size, PROT_READ);
    *out = (struct file_bytes){p, size};
    return OK;
}

int file_read(struct file_bytes *out, const struct file_request *r, char *message,
              size_t message_size)
{
    struct stat st;
    int fd;
    int err = open_checked(r, &fd, &st, message, message_size);

    if (!err)
        err = read_into_memory(out, r, fd, (size_t)st.st_size, message, message_size);
    if (fd >= 0)
        close(fd);
    return err;
}

int file_keep(struct file_kept *out, const struct file_request *r, char *message,
              size_t message_size)
{
    int err = open_checked(r, &out->fd, &out->stat, message, message_size);

    out->failure = NULL;
    out->ram = NULL;
    if (err && out->fd >= 0)
        close(out->fd);
    return err;
}

int file_adopt(struct file_kept *out, int fd)
{
    *out = (struct file_kept){.fd = fd};
    return fstat(fd, &out->stat) == 0 && S_ISREG(out->stat.st_mode) && out->stat.st_size > 0 ? OK : ERR_INVALID;
}

static bool is_same(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

/* The system call itself: the C library's fstat() is one that takes paths, too. */
static bool has_changed(const struct file_kept *f)
{
    struct stat now;

    return syscall(SYS_fstat, f->fd, &now) != 0 || now.st_size != f->stat.st_size ||
           !is_same(&now.st_mtim, &f->stat.st_mtim);
}

int file_kept_read(void *file, uint64_t offset, void *to, size_t n)
{
    struct file_kept *f = file;

    f->failure = has_changed(f) ? "it has changed since the VM was started"
                                : file_read_exactly(f->fd, offset, to, n);
    return f->failure ? ERR_IO : OK;
}

const char *file_write_exactly(int fd, uint64_t offset, const uint8_t *p, size_t n)
{
    while (n) {
        ssize_t done = pwrite(fd, p, n, (off_t)offset);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? strerror(errno) : "no memory for it";
        p += done;
        offset += (uint64_t)done;
        n -= (size_t)done;
    }
    return NULL;
}

/* --- names -------------------------------------------------------------------------------------
 */

const char *file_directory(const char *path, char directory[CONFIG_PATH])
{
    const char *slash = strrchr(path, '/');
    int length = slash ? (int)(slash - path) : 0;

    snprintf(directory, CONFIG_PATH, "%.*s%s", length, path, slash == path ? "/" : slash ? "" : ".");
    return directory;
}

void file_sync_directory(const char *path)
{
    char directory[CONFIG_PATH];
    int fd = open(file_directory(path, directory), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
}

bool file_may_be_replaced(const char *path)
{
    struct stat st;

    return stat(path, &st) != 0 || S_ISREG(st.st_mode);
}

/* --- what is kept ------------------------------------------------------------------------------
 */

static const char *load_exactly(const struct file_kept *f, uint64_t offset, uint64_t ram_offset,
                                size_t n)
{
    uint8_t buffer[LOAD_BUFFER];
    const char *failure = NULL;

    for (size_t at = 0; at < n && !failure; at += sizeof(buffer)) {
        size_t part = n - at < sizeof(buffer) ? n - at : sizeof(buffer);

        failure = file_read_exactly(f->fd, offset + at, buffer, part);
        if (!failure && f->ram->fd >= 0)
            failure = file_write_exactly(f->ram->fd, ram_offset + at, buffer, part);
        else if (!failure)
            memcpy(f->ram->base + ram_offset + at, buffer, part);
    }
    return failure;
}

int file_kept_load(void *file, uint64_t offset, void *to, size_t n)
{
    struct file_kept *f = file;
    uint64_t ram_offset = (uint64_t)((uint8_t *)to - f->ram->base);

    f->failure = load_exactly(f, offset, ram_offset, n);
    if (has_changed(f)) /* only now: also while it was being copied */
        f->failure = "it has changed since the VM was started";
    return f->failure ? ERR_IO : OK;
}

bool file_kept_reaches(const struct file_kept *f, uint64_t end)
{
    uint8_t byte;

    return !has_changed(f) && file_read_exactly(f->fd, end - 1, &byte, 1) == NULL;
}

void file_free(struct file_bytes *f)
{
    if (f->bytes)
        munmap(f->bytes, f->size);
    *f = (struct file_bytes){NULL, 0};
}
