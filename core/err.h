/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The one set of error values below the homes. Functions that can fail return int: 0 or one of
 * these. errno exists only in hosted/ and engine/kvm/ and is converted there. */
#ifndef LODGE_CORE_ERR_H
#define LODGE_CORE_ERR_H

enum lodge_err {
    OK = 0,
    ERR_INVALID = -1,     /* an argument, file or field has a value that is not allowed */
    ERR_NO_MEMORY = -2,   /* the host is short of memory, or a fixed table is full */
    ERR_RANGE = -3,       /* an address or length lies outside of what there is */
    ERR_NOT_FOUND = -4,   /* nothing there under that name or address */
    ERR_EXISTS = -5,      /* overlaps or repeats what is already there */
    ERR_UNSUPPORTED = -6, /* this engine, host or build cannot do it */
    ERR_TRUNCATED = -7,   /* input ended before it was complete */
    ERR_VERSION = -8,     /* a format of another version */
    ERR_CORRUPT = -9,     /* a checksum or an unreachable state: refuse to load */
    ERR_IO = -10,         /* a back end failed */
    ERR_STOPPED = -11,    /* the VM has stopped or is about to */
    ERR_PERMISSION = -12, /* the host does not let us */
    ERR_BUSY = -13,       /* in use; may work later */
};

/* A short lower-case phrase for messages ("out of memory"); never NULL. */
const char *err_name(int err);

#endif
