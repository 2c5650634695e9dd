/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Exit statuses of `lodge` (docs/cli.md is their manual). A guest's exit port always gives an odd
 * status, (v << 1) | 1, so Lodge's own are even: a test that ends with an odd status below 128 was
 * ended by its guest, never by Lodge. 128 + n: signal n ended it.
 */
#ifndef LODGE_HOSTED_STATUS_H
#define LODGE_HOSTED_STATUS_H

enum lodge_status {
    STATUS_OK = 0,         /* the guest powered off, or the subcommand did its job */
    STATUS_USAGE = 2,      /* command line, configuration file, kernel or initrd not acceptable */
    STATUS_GUEST_DIED = 4, /* triple fault, or the guest did what the machine cannot go on from */
    STATUS_OPERATOR = 6,   /* ended by the operator: quit, or standard output was closed */
    STATUS_ENGINE = 8,     /* the engine or Lodge itself could not go on */
    STATUS_HOST = 10,      /* the host lacks something: memory, a processor feature, a permission */
    STATUS_SIGNAL = 128,   /* + number of the signal */
};

#endif
