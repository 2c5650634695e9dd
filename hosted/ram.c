/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Guest RAM is a memfd, mapped shared: clones and saving will want a name for its pages. Pages are
 * backed when they are first touched, so what all VMs of a host are promised may exceed what it
 * has. One VM alone may not: more than physical memory and swap together is refused, since such a
 * guest could only die half-way. A host that runs out later is SIGBUS in terminal.c, or its OOM
 * killer.
 *
 * What is loaded from files is written to the memfd (files.c), not through the mapping: that would be
 * a page fault for each page, and each page would be zeroed first.
 *
 * It is left out of core dumps: it is the tenant's, and large.
 */
#include "hosted/ram.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "core/err.h"
#include "hosted/seam.h"

void ram_of_host(uint64_t *total, uint64_t *available)
{
    struct sysinfo si;

    *total = *available = 0;
    if (sysinfo(&si) != 0)
        return;
    *total = ((uint64_t)si.totalram + si.totalswap) * si.mem_unit;
    *available = ((uint64_t)si.freeram + si.bufferram) * si.mem_unit;
}

int ram_create(struct ram *ram, uint64_t size, char *message, size_t message_size)
{
    unsigned long long mib = size >> 20;
    uint64_t total, available;
    void *base = MAP_FAILED;
    int fd;

    ram_of_host(&total, &available);
    if (size > total) {
        snprintf(message, message_size,
                 "%llu MiB of memory are more than this host has, %llu MiB with swap (use less -m)",
                 mib, (unsigned long long)total >> 20);
        return ERR_NO_MEMORY;
    }
    fd = memfd_create("lodge-ram", MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, (off_t)size) == 0)
        base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED) {
        snprintf(message, message_size, "cannot get %llu MiB of memory: %s (%s%s)", mib,
                 strerror(errno), errno == EMFILE || errno == ENFILE ? "" : "use less -m, or ",
                 seam_errno_hint(errno));
        if (fd >= 0)
            close(fd);
        return ERR_NO_MEMORY;
    }
    (void)madvise(base, size, MADV_DONTDUMP);
    *ram = (struct ram){base, size, fd};
    return OK;
}

void ram_zero(const struct ram *ram)
{
    if (madvise(ram->base, ram->size, MADV_REMOVE) != 0) /* punches a hole into the memfd */
        memset(ram->base, 0, ram->size);
}

bool ram_hide(void *at, uint64_t size)
{
    return mprotect(at, size, PROT_NONE) == 0;
}

bool ram_show(void *at, uint64_t size)
{
    return mprotect(at, size, PROT_READ | PROT_WRITE) == 0;
}
