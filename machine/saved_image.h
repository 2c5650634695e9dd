/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A VM at rest, or a picture of it, as the bytes of a saved VM's file (docs/saved.md): what is in RAM is found out, and
 * every byte of the file can be had from then on, without the file being anywhere as a whole. (saved_image.c)
 */
#ifndef LODGE_MACHINE_SAVED_IMAGE_H
#define LODGE_MACHINE_SAVED_IMAGE_H

#include "machine/saved.h"

/* A part of RAM. */
struct saved_range {
    uint64_t at, size;
};

/* What is to be saved: RAM and what saved_source has, but for what is found out about RAM. */
struct saved_image {
    const struct vm_config *config;
    const struct x86_level *level;
    uint32_t tsc_khz;
    const uint8_t *machine;
    size_t machine_size;
    const uint8_t *ram; /* config->memory bytes that nobody changes */
    const struct saved_range *range; /* the parts that may be other than zero, rising; no others are looked at */
    uint32_t ranges;
    uint32_t gap; /* so many zero pages between two that are not end a run: each run costs a mapping, each page its place */
    void (*poll)(void); /* called now and then during long work; NULL: nobody asks */
};

/* The file to be. */
struct saved_writing {
    struct saved_source source;
    const uint8_t *ram;
    const uint8_t *packed; /* NULL, or a copy of all runs one behind the other, as in the file: taken instead of RAM */
    struct saved_run *run; /* [source.runs] */
    uint32_t *sums;
    uint64_t pieces; /* sums[pieces] */
    uint8_t head[SAVED_HEAD];
    uint8_t *metadata;
    size_t metadata_size;
    uint64_t pages; /* where they begin in the file */
    uint64_t file_size;
};

/* Looks through RAM and makes head and metadata. ERR_NO_MEMORY: nothing is left. */
int must_check saved_writing_begin(struct saved_writing *w, const struct saved_image *i);
/* The n bytes of the file from `offset` on, which lie inside it. */
void saved_writing_read(const struct saved_writing *w, uint64_t offset, void *to, size_t n);
void saved_writing_end(struct saved_writing *w);

#endif
