/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * One line for each piece of generated code: address, size, name. A file of this name in /tmp is what
 * perf looks for; so it must not have been there before, as a link least of all. Code that is written
 * over later has a second line.
 *
 * Each line is one write() of the vCPU's thread: they do not mix.
 */
#include "hosted/perf_map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/err.h"
#include "core/vm.h"

static int *map_file(void)
{
    static int fd = -1; /* one VM for each process */

    return &fd;
}

static void write_line(struct vm *vm, const void *code, size_t size, const char *name)
{
    char line[128];
    int n = snprintf(line, sizeof(line), "%lx %zx %s\n", (unsigned long)code, size, name);

    (void)vm;
    if (n > 0 && (size_t)n < sizeof(line))
        (void)!write(*map_file(), line, (size_t)n); /* a disk that is full costs names */
}

int perf_map_open(struct vm *vm, char *message, size_t size)
{
    char path[64];

    snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
    *map_file() = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (*map_file() < 0) {
        snprintf(message, size, "cannot make %s: %s (remove it, or leave --perf-map out)", path,
                 strerror(errno));
        return ERR_IO;
    }
    vm->note_code = write_line;
    return OK;
}
