/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* A frozen VM, as its process hands it to those who save or fork it: see frozen.c. */
#ifndef LODGE_HOSTED_FROZEN_H
#define LODGE_HOSTED_FROZEN_H

#include "hosted/ram.h"
#include "hosted/saved_file.h"

enum {
    FROZEN_FILES = 1 + RAM_LAYERS + 2, /* descriptors at most: the description, the layers, kernel and initrd */
    FROZEN_MAX = 32 << 20,         /* bytes of a description */
};

/* What is to be described: the VM at rest, its memory frozen. */
struct frozen_source {
    struct saved_source vm; /* without runs and sums */
    const char *engine;
    bool interpret;
    const struct ram *ram;
    int kernel, initrd; /* what a reset boots, -1: there is none */
};

/* Makes the description and puts all descriptors into files[FROZEN_FILES]: the first is the caller's to
 * close, the others are whose they were. Their number, or 0: no memory. In the sandbox. */
uint32_t frozen_describe(const struct frozen_source *s, int files[FROZEN_FILES]);

/* What was received. */
struct frozen {
    struct saved saved;
    char engine[8];
    bool interpret;
    uint32_t opened, layers, extents;
    int layer[RAM_LAYERS + 2]; /* to read only; kernel and initrd behind the layers */
    int kernel, initrd;        /* two of these, -1: there is none */
    bool is_memory[RAM_LAYERS];
    const uint8_t *extent_bytes; /* frozen_extent */
    uint8_t *bytes;
    uint32_t ranges; /* of frozen_view */
    struct saved_range *range;
};

/* Takes the descriptors, whatever comes of it, and checks what they say: nothing of it is trusted.
 * ERR_CORRUPT, ERR_NO_MEMORY, ERR_IO, and a message[SAVED_MESSAGE]. */
int must_check frozen_take(struct frozen *f, const int *files, uint32_t count, char *message);
struct ram_extent frozen_extent(const struct frozen *f, uint32_t n);
/* Maps its memory copy-on-write over RAM, which is private, zero and f->saved.config.memory bytes, and which gets the
 * layers. Once. */
int must_check frozen_map(struct frozen *f, struct ram *ram, char *message);
/* Its memory to look at: f->saved.config.memory bytes, of which nothing outside of f->range[] is to be touched. NULL
 * and a message: no memory. */
const uint8_t *frozen_view(struct frozen *f, char *message);
void frozen_close(struct frozen *f);

#endif
