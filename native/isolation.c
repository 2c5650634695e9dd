/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The proof of isolation: no frame that one VM can reach belongs to another, or to the hypervisor.
 *
 * Two sources are held against each other that know nothing of each other: the processors' nested tables, walked as the
 * hardware walks them (nested_walk), and the frame allocator's map of owners (frames.c). Every frame under every leaf must
 * be owned by that VM, and every page of tables by the hypervisor. A frame has one owner; so none is reached by two VMs,
 * and none that holds tables, our code or our data by any. Tables that are not ours are not looked into. No frame is
 * shared yet, not even to be read: that would be a leaf of an owner of its own.
 *
 * It is done for all VMs at once, as a change of one's tables may spoil another's: when a VM starts, and in the test build
 * after each change of tables (made, made anew, taken apart) and when a VM's frames are given back. It costs about a
 * millisecond for each GiB.
 *
 * Locking: a spin lock around each change of tables (hw_nested_begin) and each walk, above the frames'. Tables are registered
 * when they have been made, so a walk finds none half made, and none of a VM that has just ended.
 */
#include "native/isolation.h"

#include "core/assert.h"
#include "core/fmt.h"
#include "core/vm.h"
#include "engine/hw.h"
#include "engine/nested.h"
#include "native/frames.h"
#include "native/guest.h"
#include "native/panic.h"
#include "native/spin.h"

enum { MESSAGE = 256 };

static struct {
    struct spin lock;
    const struct nested *tables[FLEET_VMS]; /* by the VM's number; NULL: it has none */
    const struct guest *guest[FLEET_VMS];
} all;

/* --- walking ------------------------------------------------------------------------------------- */

struct check {
    const struct guest *guest;
    struct isolation *found;
    char *message;
    size_t size;
    int err;
};

static const char *owner_name(uint32_t owner)
{
    static const char *const names[] = {"no memory at all", "nobody's", "the hypervisor's", "a boot module's"};

    if (owner >= FRAME_GUEST && owner - FRAME_GUEST < FLEET_VMS && all.guest[owner - FRAME_GUEST])
        return all.guest[owner - FRAME_GUEST]->vm->name;
    return owner < ARRAY_SIZE(names) ? names[owner] : "a VM's that is no more";
}

static void complain(struct check *c, const char *what, uint64_t gpa, uint64_t physical)
{
    c->err = ERR_CORRUPT;
    c->found->broken = c->guest;
    (void)fmt(c->message, c->size, "isolation is broken: %s at 0x%llx of VM %s is frame 0x%llx, which is %s", what,
              (unsigned long long)gpa, c->guest->vm->name, (unsigned long long)physical,
              owner_name(frames_owner(physical)));
}

static bool visit(void *owner, uint64_t gpa, uint64_t physical, uint64_t size, bool leaf, bool writable)
{
    struct check *c = owner;
    uint64_t bad;

    if (c->err)
        return false;
    bad = frames_not_of(leaf ? FRAME_GUEST + c->guest->number : (uint32_t)FRAME_OWN, physical, size);
    if (bad != physical + size) {
        complain(c, leaf ? "a page" : "a page of tables", gpa + (bad - physical), bad);
        return false;
    }
    if (leaf)
        *(writable ? &c->found->writable : &c->found->read_only) += size >> PAGE_SHIFT;
    else
        c->found->tables++;
    return true;
}

static int walk_all(struct isolation *found, char *message, size_t size)
{
    struct check c = {.found = found, .message = message, .size = size};

    *found = (struct isolation){.vms = 0};
    for (uint32_t i = 0; i < FLEET_VMS && !c.err; i++) {
        if (!all.tables[i])
            continue;
        c.guest = all.guest[i];
        found->vms++;
        nested_walk(all.tables[i], visit, &c);
    }
    return c.err;
}

int isolation_check(struct isolation *found, char *message, size_t size)
{
    int err;

    spin_lock(&all.lock);
    err = walk_all(found, message, size);
    spin_unlock(&all.lock);
    return err;
}

/* --- changes ------------------------------------------------------------------------------------- */

/* With the lock held. */
static void prove(void)
{
    struct isolation found;
    char message[MESSAGE];

    if (isolation_always && walk_all(&found, message, sizeof(message)) != OK)
        panic_words("%s", message);
}

void isolation_changed(void)
{
    spin_lock(&all.lock);
    prove();
    spin_unlock(&all.lock);
}

void hw_nested_begin(void)
{
    spin_lock(&all.lock);
}

void hw_nested_end(const struct nested *n, const struct guest_mem *m)
{
    const struct vm *vm = (const struct vm *)(const void *)((const uint8_t *)m - offsetof(struct vm, mem));
    const struct guest *g = vm->home;

    assert(g->number < FLEET_VMS);
    all.tables[g->number] = n->root ? n : NULL;
    all.guest[g->number] = n->root ? g : NULL;
    prove();
    spin_unlock(&all.lock);
}

const struct nested *isolation_tables(uint32_t number)
{
    return all.tables[number];
}
