/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What goes into an image: the fleet file, Lodge for the bare machine, and the files that the fleet names, each
 * opened once, under the path that the fleet gives it. Kernels and initrds are held against their VM's memory, as when
 * hosted; of saved VMs head and metadata are checked, and their definition is what the fleet is judged by. Their pages
 * are held against their checksums when they are copied (image_make.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/err.h"
#include "core/mem.h"
#include "hosted/image.h"
#include "hosted/saved_file.h"

enum {
    NATIVE_MAX = 64 << 20,
    HEADER_WITHIN = 32768, /* Multiboot 2 specification, 3.1.1: of the file, 8-byte aligned */
    HEADER_MAGIC = 0xE85250D6,
    HEADER_SIZE = 16, /* magic, architecture, length, checksum: 3.1.2 */
};

/* --- Lodge itself ------------------------------------------------------------------------------
 */

/* The four words of a header, of i386 (which is how a 64-bit image is entered). */
static bool is_header(const uint8_t *p)
{
    uint32_t sum = load_u32(p) + load_u32(p + 4) + load_u32(p + 8) + load_u32(p + 12);

    return load_u32(p) == HEADER_MAGIC && load_u32(p + 4) == 0 && sum == 0;
}

static bool has_header(struct file_kept *f)
{
    static uint8_t head[HEADER_WITHIN];
    size_t size = f->stat.st_size < HEADER_WITHIN ? (size_t)f->stat.st_size : HEADER_WITHIN;

    if (size < HEADER_SIZE || file_read_exactly(f->fd, 0, head, size))
        return false;
    if (memcmp(head, "\177ELF\2\1", 6) != 0)
        return false;
    for (size_t at = 0; at + HEADER_SIZE <= size; at += 8) {
        if (is_header(head + at))
            return true;
    }
    return false;
}

/* Beside this program, if it was not said. */
static bool find_native(struct image *i)
{
    static const char name[] = "lodge-native";
    char program[CONFIG_PATH];
    ssize_t n;
    char *slash;

    if (i->options->native[0]) {
        (void)str_copy(i->native_path, sizeof(i->native_path), i->options->native);
        return true;
    }
    n = readlink("/proc/self/exe", program, sizeof(program) - 1);
    if (n <= 0 || n > CONFIG_PATH - 32)
        return false;
    program[n] = '\0';
    slash = strrchr(program, '/');
    snprintf(i->native_path, sizeof(i->native_path), "%.*s/%s", (int)(slash - program), program, name);
    return true;
}

static int open_native(struct image *i, char *message)
{
    struct file_request r = {"Lodge for the bare machine", i->native_path, NATIVE_MAX, "is it lodge-native?"};
    int err;

    if (!find_native(i)) {
        snprintf(message, IMAGE_MESSAGE, "cannot say where this program is (give --native FILE)");
        return ERR_INVALID;
    }
    if (!i->options->native[0] && access(i->native_path, F_OK) != 0) {
        snprintf(message, IMAGE_MESSAGE, "there is no '%s' (build it with 'make native', or give --native FILE)",
                 i->native_path);
        return ERR_INVALID;
    }
    err = file_keep(&i->native, &r, message, IMAGE_MESSAGE);
    if (!err && !has_header(&i->native)) {
        snprintf(message, IMAGE_MESSAGE,
                 "'%s' is not Lodge for the bare machine (give the file that 'make native' builds)", i->native_path);
        err = ERR_INVALID;
    }
    return err;
}

/* --- what the fleet names ----------------------------------------------------------------------
 */

/* One file of a VM. */
struct named {
    const struct fleet_vm *vm;
    const char *what, *path; /* as the fleet gives it */
    uint64_t max;
    const char *too_large;
    bool is_saved;
};

/* Puts the fleet's file and the VM's line before a message. */
static int place(const struct image *i, const struct fleet_vm *v, int err, char *message)
{
    char why[IMAGE_MESSAGE];

    if (err) {
        snprintf(why, sizeof(why), "%s", message);
        snprintf(message, IMAGE_MESSAGE, "%.512s:%u: %.1400s", i->options->saved, v->line, why);
    }
    return err;
}

static struct image_module *find_module(struct image *i, const char *path)
{
    for (uint32_t n = 0; n < i->modules; n++) {
        if (strcmp(i->module[n].path, path) == 0)
            return &i->module[n];
    }
    return NULL;
}

/* The same file may be several VMs'. */
static int open_module(struct image *i, const struct named *n, const char *path, char *message)
{
    struct image_module *m = find_module(i, n->path);
    struct file_request r = {n->what, path, n->max, n->too_large};
    int err;

    if (m && (uint64_t)m->file.stat.st_size <= n->max) {
        m->is_saved |= n->is_saved;
        return OK;
    }
    m = &i->module[i->modules];
    err = file_keep(&m->file, &r, message, OPTIONS_MESSAGE);
    if (err)
        return err;
    i->modules++;
    m->path = n->path;
    m->is_saved = n->is_saved;
    i->files += (uint64_t)m->file.stat.st_size;
    return OK;
}

static int add(struct image *i, const struct named *n, char *message)
{
    char path[CONFIG_PATH];
    int err;

    if (!n->path[0])
        return OK;
    (void)str_copy(path, sizeof(path), n->path);
    err = options_path_beside(path, i->options->saved, n->what, message);
    if (!err)
        err = open_module(i, n, path, message);
    return err;
}

/* The VM is what was saved: read before the rest is judged. */
static int adopt(struct image *i, struct fleet_vm *v, char *message)
{
    struct saved_file s;
    char path[CONFIG_PATH];
    int err;

    (void)str_copy(path, sizeof(path), v->restore);
    err = options_path_beside(path, i->options->saved, "saved VM", message);
    if (!err)
        err = saved_file_open(&s, path, message);
    if (err)
        return err;
    err = fleet_vm_adopt(v, &s.saved.config, message);
    saved_file_close(&s);
    i->has_saved = true;
    return err;
}

static int add_vm(struct image *i, struct fleet_vm *v, char *message)
{
    static const char smaller[] = "use a smaller one, or give the VM more memory", grub[] = "GRUB cannot load it";
    struct named saved = {v, "saved VM", v->restore, IMAGE_FILES_MAX, grub, true};
    struct named kernel = {v, "kernel", v->config.kernel, 0, smaller, false};
    struct named initrd = {v, "initrd", v->config.initrd, 0, smaller, false};
    int err = OK;

    if (v->restore[0])
        err = adopt(i, v, message);
    if (!err)
        err = add(i, &saved, message);
    kernel.max = initrd.max = v->config.memory;
    if (!err)
        err = add(i, &kernel, message);
    return err ? err : add(i, &initrd, message);
}

static int add_vms(struct image *i, char *message)
{
    for (uint32_t n = 0; n < i->fleet.count; n++) {
        struct fleet_vm *v = &i->fleet.vm[n];
        int err = add_vm(i, v, message);

        if (err)
            return place(i, v, err, message);
    }
    return OK;
}

/* --- the whole ---------------------------------------------------------------------------------
 */

static int check_size(const struct image *i, char *message)
{
    const struct fleet *f = &i->fleet;
    struct fleet_room room = {f->memory, i->files, f->cpus};
    char why[CONFIG_MESSAGE];
    int err = fleet_fits(f, &room, why);

    if (err) {
        snprintf(message, IMAGE_MESSAGE, "%.512s: %s", i->options->saved, why);
    } else if (i->files > IMAGE_FILES_MAX) {
        snprintf(message, IMAGE_MESSAGE,
                 "%.512s: its files have %llu MiB in all, and GRUB loads at most %llu MiB (use smaller ones)",
                 i->options->saved, (unsigned long long)(i->files >> 20), (unsigned long long)(IMAGE_FILES_MAX >> 20));
        err = ERR_RANGE;
    }
    return err;
}

static bool is_same_file(const struct file_kept *f, const struct stat *st)
{
    return f->stat.st_dev == st->st_dev && f->stat.st_ino == st->st_ino;
}

/* Does the image's name belong to what it is made of, or to what is no file? */
static int check_output(const struct image *i, char *message)
{
    const char *output = i->options->output;
    struct stat st, fleet;
    bool same;

    if (!file_may_be_replaced(output)) {
        snprintf(message, IMAGE_MESSAGE,
                 "cannot write '%.300s': there is something that is no file (give another name, and copy it there)",
                 output);
        return ERR_INVALID;
    }
    if (stat(output, &st) != 0)
        return OK;
    same = is_same_file(&i->native, &st) ||
           (stat(i->options->saved, &fleet) == 0 && fleet.st_dev == st.st_dev && fleet.st_ino == st.st_ino);
    for (uint32_t n = 0; n < i->modules; n++)
        same |= is_same_file(&i->module[n].file, &st);
    if (!same)
        return OK;
    snprintf(message, IMAGE_MESSAGE,
             "the image cannot take the place of '%.300s', which is part of it (give another name)", output);
    return ERR_INVALID;
}

int image_open(struct image *i, const struct run_options *o, char *message)
{
    struct file_request r = {"fleet file", o->saved, FLEET_FILE_MAX, "is it a FLEET.toml?"};
    int err;

    i->options = o;
    i->native.fd = -1;
    i->fleet = (struct fleet){.vm = i->vm, .capacity = FLEET_VMS};
    err = file_read(&i->text, &r, message, IMAGE_MESSAGE);
    if (!err)
        err = fleet_parse(&i->fleet, o->saved, (const char *)i->text.bytes, i->text.size, message);
    if (!err)
        err = add_vms(i, message);
    if (!err)
        err = check_size(i, message);
    if (!err)
        err = open_native(i, message);
    if (!err)
        err = check_output(i, message);
    return err == ERR_PERMISSION ? ERR_INVALID : err; /* the user's to mend, not the host's */
}

void image_close(struct image *i)
{
    for (uint32_t n = 0; n < i->modules; n++)
        close(i->module[n].file.fd);
    if (i->native.fd >= 0)
        close(i->native.fd);
    if (i->text.bytes)
        file_free(&i->text);
}
