/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * libFuzzer target: the metadata of saved VMs. The input is metadata whose checksums are made right
 * here, since whoever makes a file to harm has them right. What is accepted lies in RAM and in the file,
 * in order, and is text where it is text; what is refused has one line that says why. Run it with
 * -max_len=16384.
 */
#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "machine/saved.h"

enum { NAME_SIZE = STATE_NAME, LENGTH_AT = NAME_SIZE + 8, CRC_AT = NAME_SIZE + 12, FRAME = NAME_SIZE + 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool x)
{
    if (!x)
        abort();
}

/* As far as the frames make sense. */
static void make_checksums_right(uint8_t *metadata, size_t size)
{
    for (size_t at = 0; size - at >= FRAME;) {
        uint8_t *frame = metadata + at;
        uint32_t length = load_u32(frame + LENGTH_AT);
        if (length > size - at - FRAME)
            return;
        uint32_t crc = state_crc32(0, frame, CRC_AT);
        store_u32(frame + CRC_AT, state_crc32(crc, frame + FRAME, length));
        at += FRAME + length;
    }
}

static void require_right(const struct saved *s, const struct saved_head *h, const uint8_t *metadata)
{
    uint64_t ram = 0, file = h->pages, pieces = 0;
    char message[CONFIG_MESSAGE];
    for (uint32_t n = 0; n < s->runs; n++) {
        struct saved_run r = saved_run_at(s, n);
        require(r.size > 0 && r.ram >= ram && r.file == file && r.ram + r.size > r.ram);
        ram = r.ram + r.size;
        file = r.file + r.size;
        pieces += saved_pieces(r.size);
    }
    require(ram <= s->config.memory && file == h->file_size && pieces == s->pieces);
    for (uint64_t n = 0; n < s->pieces; n++)
        (void)saved_sum_at(s, n); /* ASan looks */
    require(s->machine >= metadata && s->machine + s->machine_size <= metadata + h->metadata_size);
    require(vm_config_check_values(&s->config, message) == OK);
    require(memchr(s->config.append, 0, sizeof(s->config.append)) != NULL);
    (void)x86_level_offers(x86_level_find("v3"), &s->level, message, sizeof(message));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct saved s;
    char message[SAVED_MESSAGE] = "";
    uint8_t head[SAVED_HEAD];
    struct saved_head h;
    uint64_t file_size;
    if (size < 8)
        return 0;
    size -= 8; /* the last say how large the file is */
    uint8_t *metadata = malloc(size + 1);
    require(metadata != NULL);
    memcpy(metadata, data, size);
    file_size = saved_pages_at(size) + (load_u64(data + size) & 0xFFFFFFFFFFFF);
    make_checksums_right(metadata, size);
    saved_put_head(head, metadata, size, file_size);
    require(saved_get_head(&h, head, file_size, message) == OK);
    int err = saved_get_metadata(&s, &h, metadata, message);
    require(err == OK || err == ERR_CORRUPT || err == ERR_VERSION);
    require((err == OK) == (message[0] == 0));
    if (err == OK)
        require_right(&s, &h, metadata);
    free(metadata);
    return 0;
}
