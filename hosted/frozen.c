/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A frozen VM on its way from its process to the one that saves or forks it (docs/saved.md).
 *
 * It is descriptors: a memfd with a description, and the layers of memory. The description is sections: those of
 * machine/saved.c, and `layers`:
 *
 *   engine's name (8 bytes), interpret (bool), are there kernel and initrd (bool each), which come behind the layers;
 *   layers (u32), for each: is it a memfd (bool);
 *   extents (u32), for each: at, size, offset (u64), layer (u32)
 *
 * Whoever sends it is a process that runs a guest, and so may be the guest's: what is received is checked like a
 * file. Memory that a VM is made of must be sealed, so that nobody can write to it any more: not its original, nor
 * any other of its copies. Whatever came is opened anew, to read only, before any use.
 */
#include "hosted/frozen.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/mem.h"
#include "hosted/files.h"
#include "hosted/seam.h"

enum { VERSION = 1, EXTENT_SIZE = 28, ENGINE_SIZE = 8, RANGES_MAX = 1 << 20 };

/* --- describing ----------------------------------------------------------------------------------
 */

static void put_layers(const struct frozen_source *s, const uint32_t *number, uint32_t layers,
                       struct state_writer *w)
{
    size_t begin = state_begin_section(w, "layers", 0, VERSION);
    char engine[ENGINE_SIZE] = "";

    snprintf(engine, sizeof(engine), "%s", s->engine);
    state_put_bytes(w, engine, sizeof(engine));
    state_put_bool(w, s->interpret);
    state_put_bool(w, s->kernel >= 0);
    state_put_bool(w, s->initrd >= 0);
    state_put_u32(w, layers);
    for (uint32_t i = 0; i < RAM_LAYERS; i++) {
        if (s->ram->layer[i].fd >= 0)
            state_put_bool(w, s->ram->layer[i].is_memory);
    }
    state_put_u32(w, s->ram->extents);
    for (uint32_t i = 0; i < s->ram->extents; i++) {
        const struct ram_extent *e = &s->ram->extent[i];

        state_put_u64(w, e->at);
        state_put_u64(w, e->size);
        state_put_u64(w, e->offset);
        state_put_u32(w, number[e->layer]);
    }
    state_end_section(w, begin);
}

/* A memfd of these bytes, -1: no memory. */
static int memory_file(const uint8_t *bytes, size_t size)
{
    int fd = memfd_create("lodge-frozen", MFD_CLOEXEC);

    if (fd >= 0 && file_write_exactly(fd, 0, bytes, size)) {
        close(fd);
        return -1;
    }
    return fd;
}

uint32_t frozen_describe(const struct frozen_source *s, int files[FROZEN_FILES])
{
    uint32_t number[RAM_LAYERS] = {0}, layers = 0, count;
    struct state_writer w = {0};

    for (uint32_t i = 0; i < RAM_LAYERS; i++) {
        if (s->ram->layer[i].fd < 0)
            continue;
        number[i] = layers++;
        files[layers] = s->ram->layer[i].fd;
    }
    for (int pass = 0; pass < 2; pass++) {
        w.used = 0;
        saved_put_vm(&s->vm, &w);
        put_layers(s, number, layers, &w);
        if (pass == 0) {
            w.size = w.used;
            w.buf = malloc(w.size);
            if (!w.buf)
                return 0;
        }
    }
    files[0] = memory_file(w.buf, w.used);
    free(w.buf);
    count = 1 + layers;
    if (s->kernel >= 0)
        files[count++] = s->kernel;
    if (s->initrd >= 0)
        files[count++] = s->initrd;
    return files[0] < 0 ? 0 : count;
}

/* --- receiving -----------------------------------------------------------------------------------
 */

static int fail(char *message, int err, const char *what)
{
    snprintf(message, SAVED_MESSAGE, "cannot take over the VM: %s", what);
    return err;
}

static int not_understood(char *message)
{
    return fail(message, ERR_CORRUPT, "what its process says of it makes no sense (is it of this version?)");
}

static int read_description(struct frozen *f, int fd, size_t *size, char *message)
{
    struct stat st;

    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size < 0 || st.st_size > FROZEN_MAX)
        return not_understood(message);
    *size = (size_t)st.st_size;
    f->bytes = malloc(*size + 1);
    if (!f->bytes)
        return fail(message, ERR_NO_MEMORY, "no memory (free some)");
    if (file_read_exactly(fd, 0, f->bytes, *size))
        return not_understood(message);
    return OK;
}

struct ram_extent frozen_extent(const struct frozen *f, uint32_t n)
{
    const uint8_t *p = f->extent_bytes + (size_t)n * EXTENT_SIZE;

    return (struct ram_extent){load_u64(p), load_u64(p + 8), load_u64(p + 16), load_u32(p + 24)};
}

static uint64_t file_size(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0 ? (uint64_t)st.st_size : 0;
}

/* Extents rise, do not overlap, and lie in RAM and in their layers. */
static bool extents_are_right(const struct frozen *f)
{
    uint64_t end = 0, memory = f->saved.config.memory, size[RAM_LAYERS] = {0};

    for (uint32_t i = 0; i < f->layers; i++)
        size[i] = (file_size(f->layer[i]) + PAGE_SIZE - 1) & PAGE_MASK;
    for (uint32_t n = 0; n < f->extents; n++) {
        struct ram_extent e = frozen_extent(f, n);

        if ((e.at | e.size | e.offset) & ~PAGE_MASK || e.size == 0 || e.at < end || e.at > memory ||
            e.size > memory - e.at || e.layer >= f->layers || e.offset > size[e.layer] ||
            e.size > size[e.layer] - e.offset)
            return false;
        end = e.at + e.size;
    }
    return true;
}

/* Of the files that came, kernel and initrd are the last. */
static bool get_layers(struct frozen *f, struct state_reader *r)
{
    bool kernel, initrd;

    state_get_bytes(r, f->engine, sizeof(f->engine));
    f->interpret = state_get_bool(r);
    kernel = state_get_bool(r);
    initrd = state_get_bool(r);
    f->layers = state_get_u32(r);
    if (f->engine[ENGINE_SIZE - 1] != '\0' || f->layers > RAM_LAYERS || f->layers + kernel + initrd != f->opened)
        return false;
    if (kernel)
        f->kernel = f->layer[f->layers];
    if (initrd)
        f->initrd = f->layer[f->opened - 1];
    for (uint32_t i = 0; i < f->layers; i++)
        f->is_memory[i] = state_get_bool(r);
    f->extents = state_get_u32(r);
    if (r->failed || f->extents > RAM_EXTENTS || (r->size - r->used) != (size_t)f->extents * EXTENT_SIZE)
        return false;
    f->extent_bytes = r->buf + r->used;
    return extents_are_right(f);
}

static int parse(struct frozen *f, size_t size, char *message)
{
    struct state_reader stream = {.buf = f->bytes, .size = size}, payload;
    struct state_header header;
    int err = saved_get_vm(&f->saved, &stream, message);

    if (err)
        return err;
    if (state_next_section(&stream, &header, &payload) != OK || strcmp(header.name, "layers") != 0 ||
        header.version != VERSION || stream.used != stream.size || !get_layers(f, &payload))
        return not_understood(message);
    return OK;
}

/* -1: it cannot be. */
static int open_to_read(int fd)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
}

static int take_files(struct frozen *f, const int *files, uint32_t count, char *message)
{
    for (uint32_t i = 0; i < count; i++) {
        f->layer[i] = open_to_read(files[i]);
        if (f->layer[i] < 0) {
            snprintf(message, SAVED_MESSAGE, "cannot take over the VM's memory: %s (%s)", strerror(errno),
                     seam_errno_hint(errno));
            return ERR_IO;
        }
        f->opened++;
    }
    return OK;
}

int frozen_take(struct frozen *f, const int *files, uint32_t count, char *message)
{
    size_t size = 0;
    int err;

    *f = (struct frozen){.kernel = -1, .initrd = -1};
    err = count < 1 || count > FROZEN_FILES ? not_understood(message)
                                            : read_description(f, files[0], &size, message);
    if (!err)
        err = take_files(f, files + 1, count - 1, message);
    if (!err)
        err = parse(f, size, message);
    for (uint32_t i = 0; i < count; i++)
        close(files[i]);
    if (err)
        frozen_close(f);
    return err;
}

int frozen_map(struct frozen *f, struct ram *ram, char *message)
{
    uint32_t layer[RAM_LAYERS];
    int err = OK;

    for (uint32_t i = 0; i < f->layers && !err; i++) {
        if (f->is_memory[i] && !ram_is_sealed(f->layer[i])) {
            snprintf(message, SAVED_MESSAGE, "cannot take over the VM's memory: its process could still write to it");
            return ERR_CORRUPT;
        }
        err = ram_add_layer(ram, f->layer[i], f->is_memory[i], &layer[i]);
        if (!err) {
            f->layer[i] = -1;
            ram->layer[layer[i]].is_shared = true;
        }
    }
    for (uint32_t n = 0; n < f->extents && !err; n++) {
        struct ram_extent e = frozen_extent(f, n);

        e.layer = layer[e.layer];
        err = ram_map(ram, &e);
    }
    if (err)
        snprintf(message, SAVED_MESSAGE, "cannot map the VM's memory: %s (%s)", strerror(errno),
                 seam_errno_hint(errno));
    return err;
}

/* --- looking at its memory -----------------------------------------------------------------------
 */

/* One more range, joined to the last if it follows it. False: no memory. */
static bool add_range(struct frozen *f, uint64_t at, uint64_t size)
{
    struct saved_range *last = f->ranges > 0 ? &f->range[f->ranges - 1] : NULL, *more;

    if (last && (at - (last->at + last->size) == 0 || f->ranges == RANGES_MAX)) {
        last->size = at + size - last->at;
        return true;
    }
    if ((f->ranges & (f->ranges - 1)) == 0) { /* full: there is room for the next power of two */
        more = realloc(f->range, sizeof(*more) * (f->ranges ? 2 * (size_t)f->ranges : 1));
        if (!more)
            return false;
        f->range = more;
    }
    f->range[f->ranges++] = (struct saved_range){at, size};
    return true;
}

/* Those parts of an extent that its file has: to read a hole of a memfd is to fill it. */
static bool add_ranges(struct frozen *f, const struct ram_extent *e)
{
    int fd = f->layer[e->layer];
    off_t at = (off_t)e->offset, end = (off_t)(e->offset + e->size);

    while (at < end) {
        off_t hole;

        at = lseek(fd, at, SEEK_DATA);
        if (at < 0 || at >= end)
            break;
        hole = lseek(fd, at, SEEK_HOLE);
        if (hole < 0 || hole > end)
            hole = end;
        at = (off_t)((uint64_t)at & PAGE_MASK);
        hole = (off_t)(((uint64_t)hole + PAGE_SIZE - 1) & PAGE_MASK);
        if (!add_range(f, e->at + ((uint64_t)at - e->offset), (uint64_t)(hole - at)))
            return false;
        at = hole;
    }
    return true;
}

const uint8_t *frozen_view(struct frozen *f, char *message)
{
    uint8_t *view = mmap(NULL, f->saved.config.memory, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    for (uint32_t n = 0; n < f->extents && view != MAP_FAILED; n++) {
        struct ram_extent e = frozen_extent(f, n);

        if (mmap(view + e.at, e.size, PROT_READ, MAP_SHARED | MAP_FIXED, f->layer[e.layer], (off_t)e.offset) ==
                MAP_FAILED ||
            !add_ranges(f, &e))
            view = MAP_FAILED;
    }
    if (view != MAP_FAILED)
        return view;
    (void)fail(message, ERR_NO_MEMORY, "no memory to look at it (free some)");
    return NULL;
}

void frozen_close(struct frozen *f)
{
    for (uint32_t i = 0; i < f->opened; i++) {
        if (f->layer[i] >= 0)
            close(f->layer[i]);
    }
    free(f->bytes);
    free(f->range);
    *f = (struct frozen){0};
}
