/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The making of an image. In a directory beside the result (scratch.c): `tree`, what shall be in the image, then
 * `image`, which grub-mkrescue makes of it, synced and renamed to the result. So whatever goes wrong leaves no
 * file, and the old one if there was one.
 *
 *     tree/boot/grub/grub.cfg     serial and screen, and one entry, at once
 *     tree/lodge/lodge-native     Lodge for the bare machine
 *     tree/lodge/fleet            the fleet file, as it is: command line "fleet"
 *     tree/lodge/1, 2, ...        the files that it names: command line, their path as the fleet gives it
 *
 * Files in the image have numbers for names: what an operator calls a file never is a name in a file system of ISO
 * 9660, nor an argument of a program. It is in grub.cfg once, as a module's command line, between single quotes, where
 * GRUB's scripts know no special character but the closing one (GRUB manual, "Quoting"); fleet_parse has refused that
 * one.
 * --nounzip: else GRUB unpacks initrds on the way.
 *
 * The programs get no environment but PATH and our directory (image_tools.c), so that nobody's start-up files count.
 */
#include "hosted/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/err.h"
#include "hosted/image_tools.h"
#include "hosted/saved_file.h"
#include "hosted/scratch.h"

enum { COPY_BUFFER = 1 << 20, IN_SCRATCH = CONFIG_PATH + 64 };

struct making {
    struct image *image;
    struct image_tools tools;
    struct scratch scratch;
    char *message;
};

static int fail(struct making *m, int err, const char *format, ...) printf_like(3, 4);
static int fail(struct making *m, int err, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    vsnprintf(m->message, IMAGE_MESSAGE, format, ap);
    va_end(ap);
    return err;
}

/* Something of ours could not be written: why, in a few words. */
static int not_written(struct making *m, const char *why)
{
    return fail(m, ERR_IO, "cannot write '%.300s': %s (free some room, or give -o a name elsewhere)",
                m->image->options->output, why);
}

/* --- the tree ----------------------------------------------------------------------------------
 */

static int create(const struct making *m, const char *name, char path[IN_SCRATCH])
{
    snprintf(path, IN_SCRATCH, "%s/%s", m->scratch.path, name);
    return open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
}

/* The file as it was when it was opened; NULL, or why not. *reading: it is the file that is at fault. */
static const char *copy_bytes(const struct file_kept *from, int to, bool *reading)
{
    static uint8_t buffer[COPY_BUFFER];
    uint64_t size = (uint64_t)from->stat.st_size;

    for (uint64_t at = 0; at < size; at += sizeof(buffer)) {
        size_t n = size - at < sizeof(buffer) ? (size_t)(size - at) : sizeof(buffer);
        const char *failure = file_read_exactly(from->fd, at, buffer, n);

        *reading = failure != NULL;
        if (!failure)
            failure = file_write_exactly(to, at, buffer, n);
        if (failure)
            return failure;
    }
    *reading = true;
    return file_kept_reaches(from, size) ? NULL : "it has changed since it was looked at";
}

static int copy_file(struct making *m, const char *what, const struct file_kept *from, const char *name)
{
    char path[IN_SCRATCH];
    int to = create(m, name, path);
    bool reading = false;
    const char *failure = to >= 0 ? copy_bytes(from, to, &reading) : strerror(errno);

    if (to >= 0)
        close(to);
    if (!failure)
        return OK;
    return reading ? fail(m, ERR_IO, "cannot read '%.300s': %s (try again)", what, failure) : not_written(m, failure);
}

static int write_text(struct making *m, const char *name, const void *text, size_t size)
{
    char path[IN_SCRATCH];
    int fd = create(m, name, path);
    const char *failure = fd >= 0 ? file_write_exactly(fd, 0, text, size) : strerror(errno);

    if (fd >= 0)
        close(fd);
    return failure ? not_written(m, failure) : OK;
}

/* The pages of a saved VM, against their checksums: of the copy, which nobody writes to. */
static int verify(struct making *m, const char *what, const char *name)
{
    static uint8_t buffer[SAVED_PIECE];
    struct saved_file s;
    char path[IN_SCRATCH];
    uint64_t piece = 0;
    int err;

    if (!__builtin_cpu_supports("sse4.2")) /* saved_crc32c; what restores it looks again */
        return OK;
    snprintf(path, sizeof(path), "%s/%s", m->scratch.path, name);
    err = saved_file_open(&s, path, m->message);
    if (!err) {
        err = saved_file_verify(&s, &piece, s.saved.pieces, buffer, m->message);
        saved_file_close(&s);
    }
    return err ? fail(m, ERR_CORRUPT, "'%.300s' is damaged (take another copy)", what) : OK;
}

static int copy_modules(struct making *m)
{
    struct image *i = m->image;
    int err = copy_file(m, i->native_path, &i->native, "tree/lodge/lodge-native");

    if (!err)
        err = write_text(m, "tree/lodge/fleet", i->text.bytes, i->text.size);
    for (uint32_t n = 0; n < i->modules && !err; n++) {
        const struct image_module *module = &i->module[n];
        char name[32];

        snprintf(name, sizeof(name), "tree/lodge/%u", n + 1);
        err = copy_file(m, module->path, &module->file, name);
        if (!err && module->is_saved)
            err = verify(m, module->path, name);
    }
    return err;
}

/* With Secure Boot on, firmware does not start this GRUB, and one that it trusts does not load Lodge, which nobody has
 * signed: then the sentence is said. (It stays up for a minute.) */
static const char grub_head[] = "# Made by lodge image.\n"
                                "set timeout=0\n"
                                "set default=0\n"
                                "if serial --unit=0 --speed=115200; then\n"
                                "    terminal_input serial console\n"
                                "    terminal_output serial console\n"
                                "fi\n"
                                "insmod all_video\n"
                                "menuentry 'Lodge' {\n"
                                "    if multiboot2 /lodge/lodge-native; then true; else\n"
                                "        echo 'Lodge cannot be loaded. If Secure Boot is on, switch it off in the"
                                " firmware set-up: Lodge is not signed.'\n"
                                "        sleep --interruptible 60\n"
                                "    fi\n"
                                "    module2 --nounzip /lodge/fleet " FLEET_MODULE "\n";

static int write_grub_cfg(struct making *m)
{
    struct image *i = m->image;
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    bool whole;
    int err;

    if (!f)
        return fail(m, ERR_NO_MEMORY, "no memory (free some)");
    fputs(grub_head, f);
    for (uint32_t n = 0; n < i->modules; n++)
        fprintf(f, "    module2 --nounzip /lodge/%u '%s'\n", n + 1, i->module[n].path);
    fputs("}\n", f);
    whole = !ferror(f);
    whole &= fclose(f) == 0;
    if (whole)
        err = write_text(m, "tree/boot/grub/grub.cfg", text, size);
    else
        err = fail(m, ERR_NO_MEMORY, "no memory (free some)");
    free(text);
    return err;
}

static int make_tree(struct making *m)
{
    static const char *const directories[] = {"tree", "tree/boot", "tree/boot/grub", "tree/lodge"};
    int err;

    for (size_t n = 0; n < ARRAY_SIZE(directories); n++) {
        char path[IN_SCRATCH];

        snprintf(path, sizeof(path), "%s/%s", m->scratch.path, directories[n]);
        if (mkdir(path, 0700) != 0)
            return not_written(m, strerror(errno));
    }
    err = copy_modules(m);
    return err ? err : write_grub_cfg(m);
}

/* --- the result --------------------------------------------------------------------------------
 */

/* Its directory is on the same file system. With a saved VM it has all of a guest's memory: the owner's only. */
static int finish(struct making *m)
{
    struct image *i = m->image;
    char path[IN_SCRATCH];
    struct stat st;
    int fd, err = OK;

    snprintf(path, sizeof(path), "%s/image", m->scratch.path);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0 || (i->has_saved && fchmod(fd, 0600) != 0) || fsync(fd) != 0 ||
        rename(path, i->options->output) != 0)
        err = not_written(m, strerror(errno));
    else
        i->size = (uint64_t)st.st_size;
    if (fd >= 0)
        close(fd);
    if (!err)
        file_sync_directory(i->options->output);
    return err;
}

static int make_in_scratch(struct making *m)
{
    int err = make_tree(m);

    if (!err)
        err = image_tools_run(&m->tools, &m->scratch, m->message);
    return err ? err : finish(m);
}

int image_make(struct image *i, char *message)
{
    struct making m = {.image = i, .message = message};
    int err = image_tools_find(&m.tools, message);

    if (err)
        return err;
    err = scratch_open(&m.scratch, i->options->output);
    if (err)
        return fail(&m, err == ERR_PERMISSION ? ERR_INVALID : err, "cannot write '%.300s': %s (give -o another name)",
                    i->options->output, strerror(errno));
    err = make_in_scratch(&m);
    scratch_close(&m.scratch);
    return err;
}
