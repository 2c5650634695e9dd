/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Guest RAM: see ram.c, and ram_layers.c for what it is when it has been frozen. */
#ifndef LODGE_HOSTED_RAM_H
#define LODGE_HOSTED_RAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/types.h"

enum { RAM_LAYERS = 16, RAM_EXTENTS = 16384 };

/* What a part of RAM is mapped from, copy-on-write. All in bytes and whole pages; `at` counts from the begin
 * of RAM. */
struct ram_extent {
    uint64_t at, size;
    uint64_t offset; /* in the layer's file */
    uint32_t layer;
};

/* Something that nobody changes any more: a memfd that was RAM, or a saved VM's file. */
struct ram_layer {
    int fd;        /* -1: there is none */
    bool is_memory; /* a memfd: what of it is not needed any more can be given back */
    bool is_shared; /* another VM may have it, for ever */
    uint64_t file_size; /* of a file, as it was opened */
    uint32_t lent;  /* so many are reading it */
    uint64_t id;    /* of all layers that this RAM has ever had: 1, 2, ... */
};

struct ram {
    uint8_t *base; /* of one mapping, whose address stays */
    uint64_t size;
    int fd; /* the memfd that all of it is a shared mapping of; -1: it is private, over layers */
    uint32_t merged; /* ram_begin_move: layers (a bit each) that end with this move, since they or extents run short */
    int pagemap;    /* /proc/self/pagemap, -1: there is none */
    bool is_searched; /* by the kernel: ram_pages.c */
    int statm;      /* /proc/self/statm, likewise */
    uint64_t own;   /* pages of the whole process that are its own, when memory was last frozen */
    uint32_t extents;
    struct ram_extent *extent; /* [RAM_EXTENTS], by `at`, not overlapping; what none covers was zero */
    struct ram_layer layer[RAM_LAYERS];
    uint64_t layers_made;
};

/* Zero-filled memory that the host backs page by page as it is touched: shared, or private over no layer
 * (for who will map something there). ERR_NO_MEMORY and a message; also when it is more than the host has at all. */
int must_check ram_create(struct ram *ram, uint64_t size, bool shared, char *message, size_t message_size);
/* Opens what freezing looks at, before the sandbox, for RAM that may be frozen more than once. */
void ram_watch(struct ram *ram);
/* All zero again, pages given back to the host. Nothing is hidden. Works in the sandbox. False: it cannot be
 * done, and what RAM contains is not known. */
bool must_check ram_zero(struct ram *ram);
/* Whole pages that nobody reaches through the mapping, and reaches again. What is written to the
 * memfd is there afterwards. False: the host does not do it, and it is as it was. In the sandbox. */
bool ram_hide(void *at, uint64_t size);
bool ram_show(void *at, uint64_t size);
/* The host's physical memory and swap, and what of the former is free now. */
void ram_of_host(uint64_t *total, uint64_t *available);

/* Is a file that something is mapped from shorter than it was? Async-signal-safe, in the sandbox. */
bool ram_was_cut(const struct ram *ram);

/* --- ram_layers.c: all with the VM at rest, or not running yet; in the sandbox. Errors: ERR_NO_MEMORY --- */

/* Takes a file as a layer, which is closed with it. Its number, or an error (the file is still the caller's). */
int must_check ram_add_layer(struct ram *ram, int fd, bool is_memory, uint32_t *layer);
/* Maps a part of private RAM from a layer. */
int must_check ram_map(struct ram *ram, const struct ram_extent *e);
/* Takes what is mapped of a piece of shared RAM away from the processors, which get it again when they touch it: what
 * ram_freeze_shared does with all of it, and takes longest. The guest may run. */
void ram_unmap_piece(const struct ram *ram, uint64_t piece);
/* Shared RAM becomes private, over its memfd. On error it is as it was. */
int must_check ram_freeze_shared(struct ram *ram);
/* What of private RAM has been written since it was mapped is moved into a new layer, piece by piece, and
 * is private over that afterwards. ram_pieces pieces, each of which may be moved as often as one likes. */
int must_check ram_begin_move(struct ram *ram, uint32_t *layer);
int must_check ram_move_piece(struct ram *ram, uint32_t layer, uint64_t piece);
int must_check ram_move_all(struct ram *ram, uint32_t layer);
uint64_t ram_pieces(const struct ram *ram);
/* About how many bytes there are to move, after ram_begin_move: what the process has got of its own since the last
 * time; all, if layers are merged. */
uint64_t ram_to_move(const struct ram *ram);
/* Layers that nothing is mapped from any more are closed. */
void ram_end_move(struct ram *ram);
/* Gives back what layers hold of a piece that has been written since. At any time, the guest may run. */
void ram_tidy_piece(struct ram *ram, uint64_t piece);
/* Is there anything that could be given back? */
bool ram_can_be_tidied(const struct ram *ram);
/* Before another VM gets the layers: nobody can write to them any more, for ever. False: that cannot be. And: can
 * nobody write to that memfd any more? */
bool must_check ram_share_layers(struct ram *ram);
bool ram_is_sealed(int fd);
/* All layers are closed and forgotten; what is mapped stays so. */
void ram_drop_layers(struct ram *ram);

#endif
