/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * RAM that has been frozen (docs/saved.md, "Frozen memory").
 *
 * Such RAM is mapped privately from layers: files that nobody changes any more, which may be handed to others.
 * What the guest writes is the kernel's copy of the page, ours alone. A list of extents says which part is
 * mapped from where; what no extent covers was zero. It is a list of mappings, with another between two, and the
 * host allows 65,530, so it is bounded, and everything here that would make many small ones makes fewer larger ones instead.
 *
 * Shared RAM is frozen by mapping it privately over its own memfd, in place: one system call for each extent.
 * That takes the longer the more of it is mapped (0.15 us for each page), so all of it is unmapped before, while the guest
 * runs, and at the rest only what it has touched again is. Parts of the memfd that hold nothing, and are large, are mapped from nothing instead:
 * through a private mapping, the first write there would take a page for the memfd as well.
 *
 * Private RAM is frozen by moving the pages that are the guest's own (ram_pages.c) into a new memfd, which is then mapped
 * over them. That is done in pieces, with the VM at rest for each, so that only what was
 * written since is left for the last rest; or, where there is little to move, all of it there. Pages between two that lie close together are moved with them. When
 * layers run short, what is mapped from all but the largest is moved as well, and when extents do, what is mapped from any, so that
 * those layers end.
 *
 * Layers that another VM gets are sealed before (fcntl(2), F_ADD_SEALS): from then on nobody can write to them, this process
 * included, whatever its guest may have made of it.
 *
 * A page of a layer that the guest has written since is held twice. If nobody else has the layer it is given
 * back, by punching a hole there: by ram_move_piece where it maps something else, by ram_tidy_piece now and then. A
 * hole does not touch private copies (the kernel unmaps no copied pages for it).
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/err.h"
#include "core/mem.h"
#include "hosted/files.h"
#include "hosted/ram_pages.h"

enum {
    GAP = 16,    /* pages that are moved with their neighbours */
    PIECE = 2 << 20,
    PIECES_MAX = 8192,
    FREEZE_RANGES = 4096,
    FREEZE_HOLE = 2 << 20, /* a smaller one is not worth an extent */
};

/* --- layers ------------------------------------------------------------------------------------
 */

/* The system call itself: the C library's fstat() is one that takes paths, too. */
static uint64_t size_of_file(int fd)
{
    struct stat st;

    return syscall(SYS_fstat, fd, &st) == 0 ? (uint64_t)st.st_size : 0;
}

bool ram_was_cut(const struct ram *ram)
{
    for (uint32_t i = 0; i < RAM_LAYERS; i++) {
        const struct ram_layer *l = &ram->layer[i];

        if (l->fd >= 0 && !l->is_memory && size_of_file(l->fd) < l->file_size)
            return true;
    }
    return false;
}

int ram_add_layer(struct ram *ram, int fd, bool is_memory, uint32_t *layer)
{
    for (uint32_t i = 0; i < RAM_LAYERS; i++) {
        if (ram->layer[i].fd >= 0)
            continue;
        ram->layer[i] = (struct ram_layer){.fd = fd, .is_memory = is_memory, .id = ++ram->layers_made, .file_size = size_of_file(fd)};
        *layer = i;
        return OK;
    }
    return ERR_NO_MEMORY;
}

static void close_layer(struct ram_layer *l)
{
    if (l->fd >= 0)
        close(l->fd);
    *l = (struct ram_layer){.fd = -1};
}

void ram_drop_layers(struct ram *ram)
{
    for (uint32_t i = 0; i < RAM_LAYERS; i++)
        close_layer(&ram->layer[i]);
    ram->extents = 0;
}

static bool is_ours_alone(const struct ram_layer *l)
{
    return l->fd >= 0 && l->is_memory && !l->is_shared && l->lent == 0;
}

/* Best effort: what is not given back is only held twice. */
static void give_back(const struct ram *ram, const struct ram_extent *e, uint64_t from, uint64_t to)
{
    const struct ram_layer *l = &ram->layer[e->layer];

    if (is_ours_alone(l))
        (void)fallocate(l->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(e->offset + (from - e->at)),
                        (off_t)(to - from));
}

/* --- extents -----------------------------------------------------------------------------------
 */

static uint64_t end_of(const struct ram_extent *e)
{
    return e->at + e->size;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* The first that ends behind `at`; ram->extents: none does. */
static uint32_t find(const struct ram *ram, uint64_t at)
{
    uint32_t low = 0, high = ram->extents;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (end_of(&ram->extent[middle]) > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* What covers that page, NULL: nothing. */
static const struct ram_extent *covering(const struct ram *ram, uint64_t at)
{
    uint32_t i = find(ram, at);

    return i < ram->extents && ram->extent[i].at <= at ? &ram->extent[i] : NULL;
}

/* What of x lies in front of `at`, or behind it. */
static struct ram_extent part_before(const struct ram_extent *x, uint64_t at)
{
    return (struct ram_extent){x->at, at - x->at, x->offset, x->layer};
}

static struct ram_extent part_from(const struct ram_extent *x, uint64_t at)
{
    return (struct ram_extent){at, end_of(x) - at, x->offset + (at - x->at), x->layer};
}

static bool continues(const struct ram_extent *a, const struct ram_extent *b)
{
    return a->layer == b->layer && end_of(a) == b->at && a->offset + a->size == b->offset;
}

/* Replaces extents [first, end) by these. There is room. */
static void replace(struct ram *ram, uint32_t first, uint32_t end, const struct ram_extent *by, uint32_t count)
{
    memmove(&ram->extent[first + count], &ram->extent[end], (ram->extents - end) * sizeof(*by));
    memcpy(&ram->extent[first], by, count * sizeof(*by));
    ram->extents += count - (end - first);
}

/* *e takes the place of whatever was there. With `really`, otherwise it is only seen whether there is room. */
static bool put(struct ram *ram, const struct ram_extent *e, bool really)
{
    uint32_t first = find(ram, e->at), end = find(ram, end_of(e) - 1), count = 0;
    struct ram_extent by[3];

    if (end < ram->extents && ram->extent[end].at < end_of(e))
        end++;
    if (first < end && ram->extent[first].at < e->at)
        by[count++] = part_before(&ram->extent[first], e->at);
    by[count++] = *e;
    if (first < end && end_of(&ram->extent[end - 1]) > end_of(e))
        by[count++] = part_from(&ram->extent[end - 1], end_of(e));
    if (ram->extents - (end - first) + count > RAM_EXTENTS)
        return false;
    if (!really)
        return true;
    for (uint32_t i = first; i < end; i++) {
        const struct ram_extent *x = &ram->extent[i];

        if (x->layer != e->layer)
            give_back(ram, x, later(x->at, e->at), earlier(end_of(x), end_of(e)));
    }
    replace(ram, first, end, by, count);
    for (uint32_t i = first > 0 ? first - 1 : 0, n = 0; n < 3 && i + 1 < ram->extents; n++) {
        if (continues(&ram->extent[i], &ram->extent[i + 1])) {
            ram->extent[i].size += ram->extent[i + 1].size;
            replace(ram, i + 1, i + 2, by, 0);
        } else {
            i++;
        }
    }
    return true;
}

static bool map_private(const struct ram *ram, const struct ram_extent *e)
{
    void *at = mmap(ram->base + e->at, e->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
                    ram->layer[e->layer].fd, (off_t)e->offset);

    if (at == MAP_FAILED)
        return false;
    (void)madvise(at, e->size, MADV_DONTDUMP);
    return true;
}

int ram_map(struct ram *ram, const struct ram_extent *e)
{
    if (!put(ram, e, false) || !map_private(ram, e))
        return ERR_NO_MEMORY;
    (void)put(ram, e, true);
    return OK;
}

/* Pages in memory that are this process's own (proc(5), statm: resident without shared). 0: not known. */
static uint64_t own_pages(const struct ram *ram)
{
    unsigned long long resident, shared;
    char text[128] = "";

    if (pread(ram->statm, text, sizeof(text) - 1, 0) <= 0 || sscanf(text, "%*u %llu %llu", &resident, &shared) != 2)
        return 0;
    return resident > shared ? resident - shared : 0;
}

/* --- freezing shared RAM ------------------------------------------------------------------------
 */

/* The next part of the memfd from `from` on that has something, joined over holes that are too small; false: there
 * is none. *looks is how often one may still look. */
static bool next_range(const struct ram *ram, uint64_t from, uint32_t *looks, struct ram_extent *e)
{
    off_t begin = lseek(ram->fd, (off_t)from, SEEK_DATA);
    off_t end, next = begin;

    if (begin < 0 || (uint64_t)begin >= ram->size)
        return false;
    do {
        end = *looks ? lseek(ram->fd, next, SEEK_HOLE) : (off_t)ram->size;
        if (end < 0 || (uint64_t)end >= ram->size)
            end = next = (off_t)ram->size;
        else
            next = lseek(ram->fd, end, SEEK_DATA);
        *looks -= *looks > 0;
    } while (next > end && next - end < FREEZE_HOLE);
    *e = (struct ram_extent){.at = (uint64_t)begin & PAGE_MASK, .offset = (uint64_t)begin & PAGE_MASK};
    e->size = (((uint64_t)end + PAGE_SIZE - 1) & PAGE_MASK) - e->at;
    return true;
}

static bool map_nothing(const struct ram *ram, uint64_t from, uint64_t to)
{
    if (from == to)
        return true;
    if (mmap(ram->base + from, to - from, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED)
        return false;
    (void)madvise(ram->base + from, to - from, MADV_DONTDUMP);
    return true;
}

static int freeze_ranges(struct ram *ram, uint32_t layer)
{
    uint32_t looks = FREEZE_RANGES;
    struct ram_extent e;
    uint64_t at = 0;
    int err = OK;

    while (at < ram->size && !err && next_range(ram, at, &looks, &e)) {
        e.layer = layer;
        err = map_nothing(ram, at, e.at) ? ram_map(ram, &e) : ERR_NO_MEMORY;
        at = end_of(&e);
    }
    return !err && !map_nothing(ram, at, ram->size) ? ERR_NO_MEMORY : err;
}

int ram_freeze_shared(struct ram *ram)
{
    uint32_t layer;
    int err = ram_add_layer(ram, ram->fd, true, &layer);

    if (err)
        return err;
    err = freeze_ranges(ram, layer);
    if (!err) {
        ram->fd = -1;
        ram->own = own_pages(ram);
        return OK;
    }
    ram->extents = 0;
    ram->layer[layer] = (struct ram_layer){.fd = -1};
    if (mmap(ram->base, ram->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, ram->fd, 0) ==
        MAP_FAILED)
        return ERR_IO;
    (void)madvise(ram->base, ram->size, MADV_DONTDUMP);
    return err;
}

/* --- moving what is private ----------------------------------------------------------------------
 */

static uint64_t piece_size(const struct ram *ram)
{
    uint64_t size = PIECE;

    while (ram->size / size > PIECES_MAX)
        size *= 2;
    return size;
}

void ram_unmap_piece(const struct ram *ram, uint64_t piece)
{
    uint64_t at = piece * piece_size(ram);

    (void)madvise(ram->base + at, earlier(piece_size(ram), ram->size - at), MADV_DONTNEED);
}

uint64_t ram_to_move(const struct ram *ram)
{
    uint64_t own = own_pages(ram);

    if (own == 0 || ram->merged) /* all of it, for all we know */
        return ram->size;
    return own > ram->own ? (own - ram->own) * PAGE_SIZE : 0;
}

uint64_t ram_pieces(const struct ram *ram)
{
    return (ram->size + piece_size(ram) - 1) / piece_size(ram);
}

/* Pages between two that are moved: so many that no piece can make more than its part of the extents. */
static uint64_t gap_of(const struct ram *ram)
{
    uint64_t most = RAM_EXTENTS / 2 / ram_pieces(ram), gap = piece_size(ram) / PAGE_SIZE / most;

    return gap > GAP ? gap : GAP;
}

/* What is zero stays a hole. */
static bool copy_run(const struct ram *ram, int fd, uint64_t at, uint64_t end)
{
    while (at < end) {
        uint64_t from;

        while (at < end && page_is_zero(ram->base + at))
            at += PAGE_SIZE;
        from = at;
        while (at < end && !page_is_zero(ram->base + at))
            at += PAGE_SIZE;
        if (file_write_exactly(fd, from, ram->base + from, at - from))
            return false;
    }
    return true;
}

/* On ERR_IO what RAM contains is not known any more. */
static int move_run(struct ram *ram, uint32_t layer, uint64_t at, uint64_t end)
{
    struct ram_extent e = {.at = at, .size = end - at, .offset = at, .layer = layer};

    if (at == end)
        return OK;
    if (!put(ram, &e, false) || !copy_run(ram, ram->layer[layer].fd, at, end))
        return ERR_NO_MEMORY;
    if (!map_private(ram, &e))
        return ERR_IO;
    (void)put(ram, &e, true);
    return OK;
}

static int move_own(struct ram *ram, uint32_t layer, uint64_t at, uint64_t end)
{
    uint64_t from = at, to = at, gap = gap_of(ram) * PAGE_SIZE;
    struct ram_search search;
    struct ram_run run;
    int err = OK;

    ram_search_begin(&search, ram, at, end);
    while (!err && ram_search_next(&search, &run)) {
        for (; run.at < run.end && !err; run.at += PAGE_SIZE) {
            if (page_is_zero(ram->base + run.at) && !covering(ram, run.at))
                continue;
            if (run.at - to > gap || from == to) {
                err = move_run(ram, layer, from, to);
                from = run.at;
            }
            to = run.at + PAGE_SIZE;
        }
    }
    if (search.failed)
        return ERR_NO_MEMORY;
    return err ? err : move_run(ram, layer, from, to);
}

/* What is still mapped from layers that are to end. */
static int move_merged(struct ram *ram, uint32_t layer, uint64_t at, uint64_t end)
{
    int err = OK;

    while (at < end && !err) {
        const struct ram_extent *e = &ram->extent[find(ram, at)];
        uint64_t from, to;

        if (e == &ram->extent[ram->extents] || e->at >= end)
            break;
        from = later(e->at, at);
        to = earlier(end_of(e), end);
        if (ram->merged >> e->layer & 1)
            err = move_run(ram, layer, from, to);
        at = to;
    }
    return err;
}

int ram_move_piece(struct ram *ram, uint32_t layer, uint64_t piece)
{
    uint64_t at = piece * piece_size(ram), end = earlier(at + piece_size(ram), ram->size);
    int err = move_own(ram, layer, at, end);

    return err || !ram->merged ? err : move_merged(ram, layer, at, end);
}

int ram_move_all(struct ram *ram, uint32_t layer)
{
    int err = OK;

    if (!ram->merged)
        return move_own(ram, layer, 0, ram->size);
    for (uint64_t piece = 0; piece < ram_pieces(ram) && !err; piece++)
        err = ram_move_piece(ram, layer, piece);
    return err;
}

/* Which layers are to end, as bits. */
static uint32_t layers_to_merge(const struct ram *ram)
{
    uint64_t mapped[RAM_LAYERS] = {0};
    uint32_t used = 0, all = 0, largest = 0;

    for (uint32_t n = 0; n < ram->extents; n++)
        mapped[ram->extent[n].layer] += ram->extent[n].size;
    for (uint32_t i = 0; i < RAM_LAYERS; i++) {
        if (ram->layer[i].fd < 0)
            continue;
        used++;
        all |= UINT32_C(1) << i;
        if (mapped[i] > mapped[largest])
            largest = i;
    }
    if (ram->extents > RAM_EXTENTS / 2)
        return all;
    return used + 1 >= RAM_LAYERS ? all & ~(UINT32_C(1) << largest) : 0;
}

int ram_begin_move(struct ram *ram, uint32_t *layer)
{
    int fd, err;

    if (ram->pagemap < 0)
        return ERR_UNSUPPORTED;
    ram->merged = layers_to_merge(ram);
    fd = memfd_create("lodge-layer", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return ERR_NO_MEMORY;
    err = ftruncate(fd, (off_t)ram->size) == 0 ? ram_add_layer(ram, fd, true, layer) : ERR_NO_MEMORY;
    if (err)
        close(fd);
    return err;
}

bool ram_is_sealed(int fd)
{
    const int wanted = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    int seals = fcntl(fd, F_GET_SEALS);

    return seals >= 0 && (seals & wanted) == wanted;
}

bool ram_share_layers(struct ram *ram)
{
    for (uint32_t i = 0; i < RAM_LAYERS; i++) {
        struct ram_layer *l = &ram->layer[i];

        if (l->fd < 0)
            continue;
        if (l->is_memory && !l->is_shared &&
            fcntl(l->fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
            return false;
        l->is_shared = true;
    }
    return true;
}

void ram_end_move(struct ram *ram)
{
    bool is_used[RAM_LAYERS] = {false};

    for (uint32_t i = 0; i < ram->extents; i++)
        is_used[ram->extent[i].layer] = true;
    for (uint32_t i = 0; i < RAM_LAYERS; i++) {
        if (!is_used[i])
            close_layer(&ram->layer[i]);
    }
    ram->own = own_pages(ram);
}

/* --- giving back ---------------------------------------------------------------------------------
 */

bool ram_can_be_tidied(const struct ram *ram)
{
    for (uint32_t i = 0; i < RAM_LAYERS && ram->pagemap >= 0; i++) {
        if (is_ours_alone(&ram->layer[i]))
            return true;
    }
    return false;
}

static void give_back_run(const struct ram *ram, uint64_t from, uint64_t to)
{
    for (uint32_t i = find(ram, from); i < ram->extents && ram->extent[i].at < to; i++) {
        const struct ram_extent *e = &ram->extent[i];

        give_back(ram, e, later(from, e->at), earlier(to, end_of(e)));
    }
}

void ram_tidy_piece(struct ram *ram, uint64_t piece)
{
    uint64_t at = piece * piece_size(ram);
    struct ram_search search;
    struct ram_run run;

    ram_search_begin(&search, ram, at, earlier(at + piece_size(ram), ram->size));
    while (ram_search_next(&search, &run))
        give_back_run(ram, run.at, run.end);
}
