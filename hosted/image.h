/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What `lodge image` makes an image of: see image.c for the whole, image_files.c and image_make.c for its halves. */
#ifndef LODGE_HOSTED_IMAGE_H
#define LODGE_HOSTED_IMAGE_H

#include "hosted/files.h"
#include "hosted/options.h"
#include "hosted/status.h"
#include "machine/fleet.h"

enum {
    IMAGE_MODULES = 3 * FLEET_VMS,                 /* a kernel, an initrd, a saved VM each */
    IMAGE_MESSAGE = OPTIONS_MESSAGE + CONFIG_PATH, /* with a fleet's file and line before it */
};

/* GRUB loads everything below 4 GiB, between what the firmware and devices have there. */
#define IMAGE_FILES_MAX GIB(3)

/* A file that the fleet names. */
struct image_module {
    const char *path; /* as the fleet gives it: its command line */
    bool is_saved;
    struct file_kept file;
};

struct image {
    const struct run_options *options;
    struct file_bytes text; /* of the fleet file */
    struct fleet fleet;
    struct fleet_vm vm[FLEET_VMS];
    char native_path[CONFIG_PATH];
    struct file_kept native;
    struct image_module module[IMAGE_MODULES];
    uint32_t modules;
    uint64_t files; /* bytes of all modules */
    bool has_saved;
    uint64_t size; /* of what was made */
};

/* Reads the fleet and opens and checks all that it names (image_files.c). Both: OK, or an error of core/err.h and one
 * line in message[IMAGE_MESSAGE]. image_close in any case. */
int must_check image_open(struct image *i, const struct run_options *o, char *message);
/* Makes the file, whole or not at all (image_make.c). */
int must_check image_make(struct image *i, char *message);
void image_close(struct image *i);

#endif
