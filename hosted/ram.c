/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Guest RAM begins as a memfd, mapped shared: who saves or forks the VM is given that, and RAM becomes a private
 * mapping of it (ram_layers.c). A VM that is restored or forked begins with private memory. Pages are
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
#include "hosted/ram_pages.h"

#include <errno.h>
#include <fcntl.h>
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

/* The mapping, MAP_FAILED and errno: not to be had. */
static void *map(struct ram *ram, uint64_t size, bool shared)
{
    if (!shared)
        return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ram->fd = memfd_create("lodge-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (ram->fd < 0 || ftruncate(ram->fd, (off_t)size) != 0)
        return MAP_FAILED;
    return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, ram->fd, 0);
}

/* The list of extents: as large as it may get, since what is not used is not backed. */
static struct ram_extent *alloc_extents(void)
{
    void *p = mmap(NULL, RAM_EXTENTS * sizeof(struct ram_extent), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

int ram_create(struct ram *ram, uint64_t size, bool shared, char *message, size_t message_size)
{
    unsigned long long mib = size >> 20;
    uint64_t total, available;
    void *base;

    *ram = (struct ram){.size = size, .fd = -1, .pagemap = -1, .statm = -1};
    for (uint32_t i = 0; i < RAM_LAYERS; i++)
        ram->layer[i].fd = -1;
    ram_of_host(&total, &available);
    if (size > total) {
        snprintf(message, message_size,
                 "%llu MiB of memory are more than this host has, %llu MiB with swap (use less -m)",
                 mib, (unsigned long long)total >> 20);
        return ERR_NO_MEMORY;
    }
    base = map(ram, size, shared);
    if (base != MAP_FAILED)
        ram->extent = alloc_extents();
    if (base == MAP_FAILED || !ram->extent) {
        snprintf(message, message_size, "cannot get %llu MiB of memory: %s (%s%s)", mib,
                 strerror(errno), errno == EMFILE || errno == ENFILE ? "" : "use less -m, or ",
                 seam_errno_hint(errno));
        if (ram->fd >= 0)
            close(ram->fd);
        return ERR_NO_MEMORY;
    }
    (void)madvise(base, size, MADV_DONTDUMP);
    ram->base = base;
    return OK;
}

void ram_watch(struct ram *ram)
{
    ram->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    ram->is_searched = ram->pagemap >= 0 && ram_can_search(ram);
    ram->statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
}

bool ram_zero(struct ram *ram)
{
    if (ram->fd >= 0) {
        if (madvise(ram->base, ram->size, MADV_REMOVE) != 0) /* punches a hole into the memfd */
            memset(ram->base, 0, ram->size);
        return true;
    }
    if (mmap(ram->base, ram->size, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED)
        return false;
    ram_drop_layers(ram);
    return true;
}

bool ram_hide(void *at, uint64_t size)
{
    return mprotect(at, size, PROT_NONE) == 0;
}

bool ram_show(void *at, uint64_t size)
{
    return mprotect(at, size, PROT_READ | PROT_WRITE) == 0;
}
