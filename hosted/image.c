/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * `lodge image`: from a fleet file to what a machine boots.
 *
 * Everything that can be wrong is looked for before anything is made: the fleet by itself (machine/fleet.c), each file
 * that it names (image_files.c), whether it fits the machine. What is opened for that stays open, and the image is made
 * of it: a file that somebody replaces meanwhile goes into the image as it was checked, and one that somebody writes to
 * is noticed. Then the image is made in a directory that is gone at the end, whatever happens, and gets its name when
 * it is whole and on the disk (image_make.c).
 */
#include "hosted/image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/err.h"
#include "hosted/commands.h"
#include "hosted/log.h"

static enum lodge_status status_of(int err)
{
    return err == ERR_NO_MEMORY || err == ERR_IO || err == ERR_PERMISSION || err == ERR_UNSUPPORTED ? STATUS_HOST
                                                                                                    : STATUS_USAGE;
}

static void say_what_was_made(const struct image *i)
{
    const struct fleet *f = &i->fleet;
    uint64_t memory = 0;
    uint32_t started = 0;

    for (uint32_t n = 0; n < f->count; n++) {
        memory += f->vm[n].autostart ? f->vm[n].config.memory : 0;
        started += f->vm[n].autostart;
    }
    printf("%s: %llu MiB, with %u files of %llu MiB; %u VMs, of which %u start by themselves with %llu MiB of memory\n",
           i->options->output, (unsigned long long)(i->size >> 20), i->modules, (unsigned long long)(i->files >> 20),
           f->count, started, (unsigned long long)(memory >> 20));
}

static int make(const struct run_options *o, char *message)
{
    struct image *i = calloc(1, sizeof(*i));
    int err;

    if (!i) {
        snprintf(message, IMAGE_MESSAGE, "no memory (free some)");
        return ERR_NO_MEMORY;
    }
    err = image_open(i, o, message);
    if (!err)
        err = image_make(i, message);
    if (!err)
        say_what_was_made(i);
    image_close(i);
    free(i);
    return err;
}

enum lodge_status command_image(int argc, char **argv)
{
    static struct run_options o;
    char message[IMAGE_MESSAGE];
    int err = options_parse_saved(&o, OPTIONS_IMAGE, argc, argv, message);

    if (!err && o.help) {
        fputs(options_image_help, stdout);
        return STATUS_OK;
    }
    if (!err)
        err = make(&o, message);
    if (!err)
        return STATUS_OK;
    say("%s", message);
    return status_of(err);
}
