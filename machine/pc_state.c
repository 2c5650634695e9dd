/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The machine's own section of a saved state: what the saved machine was, and its clock. It is
 * registered first, so that it is loaded before any device looks at the clock; check refuses a
 * state that was saved from a machine of another shape.
 */
#include "core/mem.h"
#include "machine/board.h"
#include "x86/level.h"

enum { TSC_KHZ_MIN = 1000, TSC_KHZ_MAX = 100 * 1000 * 1000 };

struct fields {
    uint64_t memory;
    uint32_t vcpus;
    uint32_t tsc_khz;
    char level[16];
    uint64_t clock_ns;
    uint64_t wall_base;
};

static void pc_save(const void *object, struct state_writer *w)
{
    const struct pc *pc = object;
    state_put_u64(w, pc->memory);
    state_put_u32(w, pc->vm->vcpu_count);
    state_put_u32(w, pc->vm->tsc_khz);
    state_put_bytes(w, pc->level->name, sizeof(pc->level->name));
    state_put_u64(w, vm_clock_ns(pc->vm));
    state_put_u64(w, pc->vm->clock.wall_base);
}

static void get(struct fields *f, struct state_reader *r)
{
    f->memory = state_get_u64(r);
    f->vcpus = state_get_u32(r);
    f->tsc_khz = state_get_u32(r);
    state_get_bytes(r, f->level, sizeof(f->level));
    f->clock_ns = state_get_u64(r);
    f->wall_base = state_get_u64(r);
}

static int pc_check(const void *object, struct state_reader *r)
{
    const struct pc *pc = object;
    struct fields f = {0};
    get(&f, r);
    int err = state_get_end(r);
    if (err != OK)
        return err;
    if (f.memory != pc->memory || f.vcpus != pc->vm->vcpu_count ||
        memcmp(f.level, pc->level->name, sizeof(f.level)) != 0)
        return ERR_INVALID;
    /* The clock counts from 0 and never gets near its end (vm_timer deadlines rely on it). */
    if (f.tsc_khz < TSC_KHZ_MIN || f.tsc_khz > TSC_KHZ_MAX || f.clock_ns > INT64_MAX)
        return ERR_CORRUPT;
    return OK;
}

static int pc_load(void *object, struct state_reader *r)
{
    struct pc *pc = object;
    struct fields f = {0};
    get(&f, r);
    pc->vm->tsc_khz = f.tsc_khz;
    pc->vm->clock.wall_base = f.wall_base;
    vm_clock_set(pc->vm, f.clock_ns);
    return state_get_end(r);
}

const struct state_ops pc_state_ops = {
    .name = "pc",
    .version = 1,
    .save = pc_save,
    .check = pc_check,
    .load = pc_load,
};
