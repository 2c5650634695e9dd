/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A guest's serial port. What it says goes into a ring of its own, of which the oldest is lost: nobody need look, a guest
 * cannot fill anything, and it is never mixed with another's. The operator's console reads from where it likes.
 *
 * Locking: the ring has a spin lock, since vCPUs write (with the board lock) and others read at the same time.
 */
#include "core/seam.h"
#include "native/frames.h"
#include "native/guest.h"
#include "native/log.h"
#include "native/operator.h"

int guest_console_init(struct guest *g)
{
    void *memory = frames_alloc(GUEST_CONSOLE_PAGES, FRAME_OWN);

    if (!memory)
        return ERR_NO_MEMORY;
    ring_init(&g->console, memory, GUEST_CONSOLE_PAGES * PAGE_SIZE);
    return OK;
}

static void console_write(void *owner, const uint8_t *bytes, size_t size)
{
    struct guest *g = owner;

    spin_lock(&g->console_lock);
    ring_write(&g->console, bytes, size);
    spin_unlock(&g->console_lock);
    operator_guest_said(g);
}

const struct console_ops guest_console_ops = {.write = console_write};

size_t guest_console_read(struct guest *g, uint64_t *position, void *buf, size_t size, uint64_t *missed)
{
    size_t n;

    spin_lock(&g->console_lock);
    n = ring_read(&g->console, position, buf, size, missed);
    spin_unlock(&g->console_lock);
    return n;
}

uint64_t guest_console_back(struct guest *g, size_t back)
{
    uint64_t begin, end;

    spin_lock(&g->console_lock);
    begin = ring_begin(&g->console);
    end = g->console.end;
    spin_unlock(&g->console_lock);
    return end - begin > back ? end - back : begin;
}

/* No guest can fill the log, also not by resets: so many lines in a period, then none. May it have one more? */
bool guest_may_log(struct guest *g)
{
    enum { LINES = 20 };
    static const uint64_t period_ns = 10000000000;
    uint64_t now = seam_time_ns(), until = atomic_load(&g->log_until);
    uint32_t left;

    if (now >= until && atomic_compare_exchange_strong(&g->log_until, &until, now + period_ns))
        atomic_store(&g->log_left, LINES);
    left = atomic_load(&g->log_left);
    do {
        if (left == 0)
            return false;
    } while (!atomic_compare_exchange_weak(&g->log_left, &left, left - 1));
    if (left == 1)
        log_line("%s: more of this is not said for some seconds", g->vm->name);
    return true;
}

/* What the core says of a VM. */
void seam_log(const struct vm *vm, enum seam_log_level level, const char *line, size_t length)
{
    struct guest *g = vm ? vm->home : NULL;

    if (level <= SEAM_LOG_WARNING && (!g || guest_may_log(g)))
        log_line("%s%s%.*s", vm ? vm->name : "", vm ? ": " : "", (int)length, line);
}

size_t guest_console_input(struct guest *g, const uint8_t *bytes, size_t size)
{
    size_t taken = 0;

    lock_take(&g->lock);
    if (g->exists)
        taken = pc_console_input(g->vm, bytes, size);
    lock_release(&g->lock);
    return taken;
}
