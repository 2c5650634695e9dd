/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The proof of isolation: no frame that one VM can reach belongs to another, or to the hypervisor.
 *
 * Two sources are held against each other that know nothing of each other: the processors' nested tables, walked as the
 * hardware walks them (hw_engine.walk), and the frame allocator's map of owners (frames.c). Every frame under every leaf must be owned by that
 * VM, and every page of tables by the hypervisor. It is done for all VMs whenever one is made (a table that one VM's making spoilt is another's), and costs
 * some ms for each GiB.
 */
#include "native/isolation.h"

#include "core/fmt.h"
#include "core/vm.h"
#include "native/engine.h"
#include "native/fleet.h"
#include "native/frames.h"
#include "native/guest.h"

struct check {
    const struct guest *guest;
    char *message;
    size_t size;
    int err;
};

static void complain(struct check *c, const char *what, uint64_t gpa, uint64_t physical)
{
    if (c->err)
        return;
    c->err = ERR_CORRUPT;
    (void)fmt(c->message, c->size, "isolation is broken: %s at %#llx of VM %s is frame %#llx, whose owner is %u", what,
              (unsigned long long)gpa, c->guest->vm->name, (unsigned long long)physical, frames_owner(physical));
}

static void visit(void *owner, uint64_t gpa, uint64_t physical, uint64_t size, bool leaf, bool writable)
{
    struct check *c = owner;
    uint32_t wanted = leaf ? FRAME_GUEST + c->guest->number : FRAME_OWN;

    (void)writable; /* ROM is the hypervisor's copy for that VM alone, in its RAM's frames */
    for (uint64_t at = 0; at < size && !c->err; at += PAGE_SIZE) {
        if (frames_owner(physical + at) != wanted)
            complain(c, leaf ? "a page" : "a page of tables", gpa + at, physical + at);
    }
}

int isolation_check(char *message, size_t size)
{
    struct check c = {.message = message, .size = size};

    for (uint32_t i = 0; i < fleet_guests() && !c.err; i++) {
        c.guest = fleet_guest(i);
        if (c.guest->ram && c.guest->vm->engine)
            engine_found()->walk(c.guest->vm, visit, &c);
    }
    return c.err;
}
