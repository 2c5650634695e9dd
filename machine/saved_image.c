/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * From RAM to the bytes of a saved VM's file (saved_image.h). RAM is looked through once for pages that are not zero, which makes the list
 * of runs; a gap of fewer than image->gap pages does not end one. With more runs than a file may have, larger gaps do not either, until it
 * fits. Then each run's checksums are made, and with them head and metadata.
 */
#include "machine/saved_image.h"

#include "core/mem.h"
#include "core/seam.h"

enum { POLL_EVERY = 4 << 20 /* bytes of RAM */ };

static size_t pages_of(uint64_t bytes)
{
    return (size_t)((bytes + PAGE_SIZE - 1) >> PAGE_SHIFT);
}

static void poll(const struct saved_image *i, uint64_t at)
{
    if (i->poll && at % POLL_EVERY == 0)
        i->poll();
}

/* What find_runs has found so far. `file` is left to set_places. */
struct finding {
    struct saved_run *run; /* [SAVED_RUNS_MAX] */
    uint32_t runs;
    uint64_t gap; /* pages: as many or more between two end a run */
};

/* False: there are too many. */
static bool find_runs_in(struct finding *f, const struct saved_image *i, const struct saved_range *r)
{
    for (uint64_t at = r->at; at < r->at + r->size; at += PAGE_SIZE) {
        struct saved_run *last = f->runs > 0 ? &f->run[f->runs - 1] : NULL;

        poll(i, at);
        if (page_is_zero(i->ram + at))
            continue;
        if (last && at - (last->ram + last->size) < f->gap << PAGE_SHIFT) {
            last->size = at + PAGE_SIZE - last->ram;
        } else {
            if (f->runs == SAVED_RUNS_MAX)
                return false;
            f->run[f->runs++] = (struct saved_run){.ram = at, .size = PAGE_SIZE};
        }
    }
    return true;
}

static bool find_runs(struct finding *f, const struct saved_image *i)
{
    f->runs = 0;
    for (uint32_t n = 0; n < i->ranges; n++) {
        if (!find_runs_in(f, i, &i->range[n]))
            return false;
    }
    return true;
}

static bool sum_up(struct saved_writing *w, const struct saved_image *i)
{
    uint64_t n = 0;

    for (uint32_t k = 0; k < w->source.runs; k++)
        w->pieces += saved_pieces(w->run[k].size);
    w->sums = seam_pages_alloc(pages_of((w->pieces + 1) * sizeof(*w->sums)));
    if (!w->sums)
        return false;
    for (uint32_t k = 0; k < w->source.runs; k++) {
        const struct saved_run *r = &w->run[k];

        for (uint64_t at = 0; at < r->size; at += SAVED_PIECE) {
            uint64_t size = r->size - at < SAVED_PIECE ? r->size - at : SAVED_PIECE;

            poll(i, n * SAVED_PIECE);
            w->sums[n++] = saved_crc32c(0, w->ram + r->ram + at, size);
        }
    }
    return true;
}

/* Runs one behind the other, where pages begin. */
static void set_places(struct saved_writing *w)
{
    w->pages = w->file_size = saved_pages_at(w->metadata_size);
    for (uint32_t k = 0; k < w->source.runs; k++) {
        w->run[k].file = w->file_size;
        w->file_size += w->run[k].size;
    }
}

static bool make_metadata(struct saved_writing *w)
{
    struct state_writer size = {0}, out;

    saved_put_metadata(&w->source, &size); /* for its size, which does not depend on where runs are */
    w->metadata_size = size.used;
    set_places(w);
    w->metadata = seam_pages_alloc(pages_of(size.used));
    if (!w->metadata)
        return false;
    out = (struct state_writer){.buf = w->metadata, .size = size.used};
    saved_put_metadata(&w->source, &out);
    saved_put_head(w->head, w->metadata, w->metadata_size, w->file_size);
    return true;
}

int saved_writing_begin(struct saved_writing *w, const struct saved_image *i)
{
    struct finding f = {.gap = i->gap};

    *w = (struct saved_writing){.source = {.config = i->config,
                                           .level = i->level,
                                           .tsc_khz = i->tsc_khz,
                                           .machine = i->machine,
                                           .machine_size = i->machine_size},
                                .ram = i->ram};
    f.run = w->run = seam_pages_alloc(pages_of(SAVED_RUNS_MAX * sizeof(*w->run)));
    if (!w->run)
        return ERR_NO_MEMORY;
    while (!find_runs(&f, i))
        f.gap *= 2;
    w->source.runs = f.runs;
    w->source.run = w->run;
    if (sum_up(w, i)) {
        w->source.sums = w->sums;
        if (make_metadata(w))
            return OK;
    }
    saved_writing_end(w);
    return ERR_NO_MEMORY;
}

/* The run that has that byte of the file, which lies behind where pages begin. */
static const struct saved_run *run_with(const struct saved_writing *w, uint64_t offset)
{
    uint32_t low = 0, high = w->source.runs - 1;

    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2;

        if (w->run[middle].file <= offset)
            low = middle;
        else
            high = middle - 1;
    }
    return &w->run[low];
}

/* Where that byte is, and how many follow it there; NULL: they are zero. */
static const uint8_t *place(const struct saved_writing *w, uint64_t offset, uint64_t *size)
{
    const struct saved_run *r;

    if (offset < SAVED_HEAD) {
        *size = SAVED_HEAD - offset;
        return w->head + offset;
    }
    if (offset - SAVED_HEAD < w->metadata_size) {
        *size = w->metadata_size - (offset - SAVED_HEAD);
        return w->metadata + (offset - SAVED_HEAD);
    }
    if (offset < w->pages) {
        *size = w->pages - offset;
        return NULL;
    }
    if (w->packed) {
        *size = w->file_size - offset;
        return w->packed + (offset - w->pages);
    }
    r = run_with(w, offset);
    *size = r->size - (offset - r->file);
    return w->ram + r->ram + (offset - r->file);
}

void saved_writing_read(const struct saved_writing *w, uint64_t offset, void *to, size_t n)
{
    uint8_t *bytes = to;

    while (n > 0) {
        uint64_t size;
        const uint8_t *from = place(w, offset, &size);

        if (size > n)
            size = n;
        if (from)
            memcpy(bytes, from, (size_t)size);
        else
            memset(bytes, 0, (size_t)size);
        bytes += size;
        offset += size;
        n -= (size_t)size;
    }
}

void saved_writing_end(struct saved_writing *w)
{
    seam_pages_free(w->run, pages_of(SAVED_RUNS_MAX * sizeof(*w->run)));
    seam_pages_free(w->sums, pages_of((w->pieces + 1) * sizeof(*w->sums)));
    seam_pages_free(w->metadata, pages_of(w->metadata_size));
    *w = (struct saved_writing){0};
}
