/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The file of a saved VM, but for its pages: head and metadata, written and read. docs/saved.md
 * describes it. Pure: bytes in, bytes out; which file they are of, and how its pages come to RAM, is
 * the homes' affair. The same code reads saved VMs natively.
 */
#ifndef LODGE_MACHINE_SAVED_H
#define LODGE_MACHINE_SAVED_H

#include "core/err.h"
#include "core/state.h"
#include "machine/config.h"
#include "x86/level.h"

enum {
    SAVED_HEAD = 64,                   /* bytes; the metadata follows */
    SAVED_METADATA_MAX = 32 << 20,
    SAVED_RUNS_MAX = 16384,            /* each is a mapping of the host's, and what is between two another: 65,530 */
    SAVED_PIECE = 64 << 10,            /* of a run: what one checksum is of */
    SAVED_MESSAGE = 512,
};

/* Pages of RAM that lie in the file one behind the other. All in bytes, multiples of the page size;
 * `ram` counts without the hole below 4 GiB. */
struct saved_run {
    uint64_t ram, file, size;
};

/* What the head says. */
struct saved_head {
    uint64_t metadata_size; /* from SAVED_HEAD on */
    uint64_t pages;         /* where they begin */
    uint64_t file_size;
    uint32_t metadata_crc;
};

/* What the metadata says. Pointers into what was read. */
struct saved {
    struct vm_config config; /* no kernel, no initrd, engine "auto" */
    struct x86_level level;
    uint32_t tsc_khz;
    uint32_t runs;
    const uint8_t *run_bytes; /* saved_run_at */
    const uint8_t *sums;      /* saved_sum_at: of all pieces, in the order of runs */
    uint64_t pieces;
    const uint8_t *machine; /* for state_load_all */
    size_t machine_size;
};

/* What is to be saved. */
struct saved_source {
    const struct vm_config *config;
    const struct x86_level *level;
    uint32_t tsc_khz;
    uint32_t runs;
    const struct saved_run *run; /* in the order of both ram and file */
    const uint32_t *sums;        /* saved_pieces of each run */
    const uint8_t *machine; /* what state_save_all wrote, of the VM at rest with its state fetched */
    size_t machine_size;
};

static inline uint64_t saved_pieces(uint64_t size)
{
    return (size + SAVED_PIECE - 1) / SAVED_PIECE;
}

/* CRC-32C (RFC 3720 B.4), of pages: processors have an instruction for it (SSE4.2, which every level
 * needs of its host). Pass 0 first, the last result after; n is a multiple of 8. */
uint32_t saved_crc32c(uint32_t crc, const void *p, size_t n);

/* What a VM is but for its memory, in three sections: definition, level, machine. */
void saved_put_vm(const struct saved_source *s, struct state_writer *w);
/* Metadata: that, and memory; bytes needed are in w->used even when w is too small. Then the head, of that metadata. */
void saved_put_metadata(const struct saved_source *s, struct state_writer *w);
void saved_put_head(uint8_t head[SAVED_HEAD], const void *metadata, size_t size, uint64_t file_size);

/* Where pages begin behind so much metadata. */
uint64_t saved_pages_at(size_t metadata_size);

/*
 * Both refuse what is no saved VM of this version, or damaged, or says what cannot be: ERR_INVALID,
 * ERR_VERSION, ERR_TRUNCATED or ERR_CORRUPT, and one line in message[SAVED_MESSAGE]. The state sections
 * are looked at by state_load_all only.
 */
int must_check saved_get_head(struct saved_head *h, const uint8_t head[SAVED_HEAD], uint64_t file_size,
                              char *message);
int must_check saved_get_metadata(struct saved *s, const struct saved_head *h, const void *metadata,
                                  char *message);

/* The three sections of saved_put_vm, at the stream's place, where it is left behind them. The same errors. */
int must_check saved_get_vm(struct saved *s, struct state_reader *stream, char *message);

struct saved_run saved_run_at(const struct saved *s, uint32_t n);
uint32_t saved_sum_at(const struct saved *s, uint64_t n);

#endif
