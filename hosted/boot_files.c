/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Kernel and initrd. Large ones are not in RAM when the guest begins, but for the kernel's first
 * part: the rest comes piece by piece when the guest first touches it, or anybody for it. So a VM
 * begins soon however large they are, and an initrd that a guest never looks at costs nothing. What
 * has not come is hidden (ram.c): KVM cannot give it to a guest either. Engines that look up guest
 * RAM by themselves (engine.h: brings_late_memory is not set) have all of it at once.
 *
 * That it comes late changes nothing about what it is: a file that has changed since the VM was
 * started is as little taken as at a reset (files.c), and the VM ends. A file that is shorter than
 * its size says is refused at the beginning all the same, by a look at the last byte.
 *
 * Pieces are brought by whoever needs them, one thread at a time, with late_lock, which is a leaf:
 * a vCPU's thread in the middle of an instruction, or one with a device's lock.
 */
#include "hosted/boot_files.h"

#include <stdio.h>
#include <string.h>

#include "core/err.h"

/* A fork boots what its original does. What cannot be used is left out: a reset is the end then. */
static void adopt_originals(struct home *h, const struct frozen *f)
{
    if (f->kernel < 0 || file_adopt(&h->kernel, f->kernel) != OK) {
        h->kernel.fd = -1;
        return;
    }
    if (f->initrd >= 0 && file_adopt(&h->initrd, f->initrd) != OK)
        h->kernel.fd = h->initrd.fd = -1;
}

int boot_files_open(struct home *h, char *message)
{
    const struct vm_config *c = &h->options.config;
    const char *too_large = "use a smaller one, or more memory with -m";
    struct file_request kernel = {"kernel", c->kernel, c->memory, too_large};
    struct file_request initrd = {"initrd", c->initrd, c->memory, too_large};
    int err = OK;

    h->kernel.fd = h->initrd.fd = -1;
    if (c->kernel[0])
        err = file_keep(&h->kernel, &kernel, message, OPTIONS_MESSAGE);
    if (!err && c->initrd[0])
        err = file_keep(&h->initrd, &initrd, message, OPTIONS_MESSAGE);
    if (h->origin && h->origin->frozen)
        adopt_originals(h, h->origin->frozen);
    h->kernel.ram = h->initrd.ram = &h->ram;
    return err == ERR_PERMISSION ? ERR_INVALID : err; /* the user's to mend, not the host's */
}

/* Which file cannot be read, and why; false: both can. */
static bool tell_failure(const struct home *h, char *message)
{
    const struct vm_config *c = &h->options.config;
    const char *failure = h->kernel.failure ? h->kernel.failure : h->initrd.failure;

    if (failure)
        snprintf(message, OPTIONS_MESSAGE,
                 "cannot read %s '%s': %s (try again, or copy it to a disk first)",
                 h->kernel.failure ? "kernel" : "initrd", h->kernel.failure ? c->kernel : c->initrd,
                 failure);
    return failure != NULL;
}

/* --- what comes late ---------------------------------------------------------------------------
 */

static bool bring_piece(struct home *h, const struct guest_mem_piece *p)
{
    uint8_t *to = guest_mem_host(&h->vm.mem, gpa(p->base));

    if (file_kept_load(p->file, p->offset, to, p->size) != OK)
        return false;
    return ram_show(to, p->size);
}

/* guest_mem_late.bring. Bits go when the piece can be used. */
static bool bring(struct guest_mem_late *late, uint32_t pieces)
{
    struct home *h = container_of(late, struct home, late);
    char message[OPTIONS_MESSAGE] = "no memory for the VM's kernel or initrd";
    bool ok, first = false;

    pthread_mutex_lock(&h->late_lock);
    for (uint32_t i = 0; i < GUEST_MEM_LATE && !h->late_failed; i++) {
        if (!(pieces & atomic_load(&late->missing) & UINT32_C(1) << i))
            continue;
        if (bring_piece(h, &late->piece[i]))
            atomic_fetch_and(&late->missing, ~(UINT32_C(1) << i));
        else
            first = h->late_failed = true;
    }
    ok = !h->late_failed;
    if (first)
        (void)tell_failure(h, message);
    pthread_mutex_unlock(&h->late_lock);
    if (first) {
        say("%s%s", h->who, message);
        vm_stop(&h->vm, VM_STOP_ENGINE, 0, "what it boots from cannot be read any more");
    }
    return ok;
}

/* struct boot_file.hide */
static bool hide(void *file, uint64_t offset, void *to, size_t n)
{
    const struct file_kept *f = file;

    return f->ram->fd >= 0 && file_kept_reaches(f, offset + n) && ram_hide(to, n);
}

void boot_files_forget(struct home *h)
{
    uint32_t missing = atomic_load(&h->late.missing);

    for (uint32_t i = 0; i < GUEST_MEM_LATE; i++) {
        const struct guest_mem_piece *p = &h->late.piece[i];

        if (missing >> i & 1)
            (void)ram_show(guest_mem_host(&h->vm.mem, gpa(p->base)), p->size);
    }
    atomic_store(&h->late.missing, 0);
}

/* --- booting -----------------------------------------------------------------------------------
 */

static struct boot_file boot_file_of(struct file_kept *f, bool late)
{
    return (struct boot_file){.size = (size_t)f->stat.st_size,
                              .read = file_kept_read,
                              .load = file_kept_load,
                              .hide = late ? hide : NULL,
                              .owner = f};
}

int boot_files_boot(struct home *h, char *message)
{
    bool late = h->engine->brings_late_memory;
    struct boot_files files = {boot_file_of(&h->kernel, late), boot_file_of(&h->initrd, late)};
    char why[PC_MESSAGE];
    int err;

    h->late.bring = bring;
    h->vm.mem.late = late ? &h->late : NULL;
    err = pc_boot(&h->vm, &files, why);
    if (err && !tell_failure(h, message))
        snprintf(message, OPTIONS_MESSAGE, "cannot boot '%s': %s",
                 h->options.config.kernel[0] ? h->options.config.kernel : "the original's kernel", why);
    return err;
}
