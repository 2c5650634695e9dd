/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A VM that goes on where it was saved, under whatever engine and in whichever home: from a module that has the saved VM's file
 * (docs/saved.md). It is a file from outside: head and metadata are checked before anything is made, each piece of memory is held against its
 * checksum as it is copied, and machine/saved.c and the sections' own checks do the rest, all before the first guest instruction.
 */
#include "core/fmt.h"
#include "core/mem.h"
#include "core/seam.h"
#include "engine/hw.h"
#include "machine/saved.h"
#include "native/guest.h"

int guest_restore_read(const char *path, struct saved *saved, char message[GUEST_MESSAGE])
{
    size_t size;
    const uint8_t *file = guest_module(path, &size);
    struct saved_head head;
    int err;

    if (!file || size < SAVED_HEAD) {
        (void)fmt(message, GUEST_MESSAGE, "the saved VM '%s' is not in the image (make the image again)", path);
        return ERR_NOT_FOUND;
    }
    err = saved_get_head(&head, file, size, message);
    if (!err && head.metadata_size > size - SAVED_HEAD) {
        (void)fmt(message, GUEST_MESSAGE, "the saved VM '%s' is cut off", path);
        err = ERR_TRUNCATED;
    }
    return err ? err : saved_get_metadata(saved, &head, file + SAVED_HEAD, message);
}

/* One piece, which is copied and then held against its sum: what is checked is what the guest gets. */
static bool copy_piece(uint8_t *to, const uint8_t *from, size_t size, uint32_t sum)
{
    memcpy(to, from, size);
    hw_preempt_point();
    return saved_crc32c(0, to, size) == sum;
}

int guest_restore_memory(const struct guest *g, const struct saved *saved, char message[GUEST_MESSAGE])
{
    size_t size;
    const uint8_t *file = guest_module(g->definition->restore, &size);
    uint8_t *ram = g->ram;
    uint64_t piece = 0;

    for (uint32_t n = 0; n < saved->runs; n++) {
        struct saved_run r = saved_run_at(saved, n);

        if (r.file > size || r.size > size - r.file || r.ram > saved->config.memory ||
            r.size > saved->config.memory - r.ram)
            break;
        for (uint64_t at = 0; at < r.size; at += SAVED_PIECE) {
            size_t left = r.size - at < SAVED_PIECE ? r.size - at : SAVED_PIECE;

            if (!copy_piece(ram + r.ram + at, file + r.file + at, left, saved_sum_at(saved, piece++))) {
                (void)fmt(message, GUEST_MESSAGE, "the saved VM's memory is damaged (take another copy)");
                return ERR_CORRUPT;
            }
        }
    }
    if (piece == saved->pieces)
        return OK;
    (void)fmt(message, GUEST_MESSAGE, "the saved VM's file is cut off (take another copy)");
    return ERR_TRUNCATED;
}

int guest_restore_machine(struct guest *g, const struct saved *saved, char message[GUEST_MESSAGE])
{
    struct vm *vm = g->vm;
    int err = state_load_all(&vm->state, saved->machine, saved->machine_size);

    if (!err) {
        vm->clock.wall_base = seam_wall_time_ns() - vm_clock_ns(vm);
        err = pc_hand_over_vcpus(vm);
    }
    if (err)
        (void)fmt(message, GUEST_MESSAGE, "the saved state of processors and devices cannot be taken: %s", err_name(err));
    return err;
}
