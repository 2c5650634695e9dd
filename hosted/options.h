/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The command lines of `lodge run`, `restore`, `fork` and `image`: see options.c. */
#ifndef LODGE_HOSTED_OPTIONS_H
#define LODGE_HOSTED_OPTIONS_H

#include <stdbool.h>

#include "core/seam.h"
#include "machine/config.h"

enum options_command { OPTIONS_RUN, OPTIONS_RESTORE, OPTIONS_FORK, OPTIONS_IMAGE };

enum { OPTIONS_COPIES = 1000 };

struct run_options {
    struct vm_config config;
    bool help;       /* -h: nothing else counts */
    bool stats;      /* engine's counters at the end */
    bool perf_map;   /* generated code is named for perf */
    bool no_reboot;  /* a guest's reboot ends the run */
    bool no_sandbox; /* debugging only */
    bool detach;     /* in the background, no terminal */
    bool paused;     /* at rest at first */
    bool verify;     /* restore: the whole file first */
    bool has_translator; /* --translator was given */
    uint32_t copies;     /* fork */
    char saved[CONFIG_PATH]; /* restore: the file; fork: the VM's name; image: the fleet */
    char output[CONFIG_PATH], native[CONFIG_PATH]; /* image */
    enum seam_log_level log_level;
};

enum { OPTIONS_MESSAGE = CONFIG_PATH + CONFIG_MESSAGE + 64 };

/* argv[0 .. argc) after "run". Reads the VM's file if one is named and lays the options over it,
 * then checks the whole. On error: ERR_INVALID and one line in message[OPTIONS_MESSAGE]. */
int must_check options_parse_run(struct run_options *o, int argc, char **argv, char *message);

/* The same for what has a definition already: the file or VM is in o->saved, and of o->config only what was
 * given is other than its default; or the fleet is there, and in o->output what shall be made. */
int must_check options_parse_saved(struct run_options *o, enum options_command command, int argc, char **argv,
                                   char *message);

/* A path in a file is relative to the file: path[CONFIG_PATH], which `file` gives for `what`, as it is opened.
 * ERR_INVALID and a message: it is too long. */
int must_check options_path_beside(char *path, const char *file, const char *what, char *message);

/* What `lodge help run` and the like print (help.c). */
extern const char options_run_help[], options_restore_help[], options_fork_help[], options_image_help[];

#endif
