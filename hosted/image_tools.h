/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* GRUB's program that makes an image, found and run: see image_tools.c. */
#ifndef LODGE_HOSTED_IMAGE_TOOLS_H
#define LODGE_HOSTED_IMAGE_TOOLS_H

#include "hosted/image.h"
#include "hosted/scratch.h"

struct image_tools {
    char program[CONFIG_PATH]; /* grub-mkrescue, absolute */
};

/* ERR_UNSUPPORTED and a message[IMAGE_MESSAGE]: something is not installed. */
int must_check image_tools_find(struct image_tools *t, char *message);
/* Makes `image` of `tree`, both in the directory. ERR_IO, ERR_NO_MEMORY and a message. */
int must_check image_tools_run(const struct image_tools *t, const struct scratch *s, char *message);

#endif
