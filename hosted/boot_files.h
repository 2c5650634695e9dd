/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What the VM is booted from: kernel and initrd. See boot_files.c. */
#ifndef LODGE_HOSTED_BOOT_FILES_H
#define LODGE_HOSTED_BOOT_FILES_H

#include "hosted/home.h"

/* Opens them. All of these: OK, or an error and a message of OPTIONS_MESSAGE bytes. */
int must_check boot_files_open(struct home *h, char *message);
/* Boots the machine from them: RAM is zeroed, nothing of it is missing, no vCPU runs. */
int must_check boot_files_boot(struct home *h, char *message);
/* What of them is not in RAM yet need not come any more. No vCPU runs. */
void boot_files_forget(struct home *h);

#endif
