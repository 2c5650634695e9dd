/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The command line of `lodge run`: see options.c. */
#ifndef LODGE_HOSTED_OPTIONS_H
#define LODGE_HOSTED_OPTIONS_H

#include <stdbool.h>

#include "core/seam.h"
#include "machine/config.h"

struct run_options {
    struct vm_config config;
    bool help;       /* -h: nothing else counts */
    bool stats;      /* engine's counters at the end */
    bool perf_map;   /* generated code is named for perf */
    bool no_reboot;  /* a guest's reboot ends the run */
    bool no_sandbox; /* debugging only */
    enum seam_log_level log_level;
};

enum { OPTIONS_MESSAGE = CONFIG_PATH + CONFIG_MESSAGE + 64 };

/* argv[0 .. argc) after "run". Reads the VM's file if one is named and lays the options over it,
 * then checks the whole. On error: ERR_INVALID and one line in message[OPTIONS_MESSAGE]. */
int must_check options_parse_run(struct run_options *o, int argc, char **argv, char *message);

/* What `lodge help run` prints. */
extern const char options_run_help[];

#endif
