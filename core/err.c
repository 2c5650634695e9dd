/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Names of the error values, for messages. */
#include "core/err.h"

#include "core/types.h"

static const char *const names[] = {
    [-OK] = "no error",
    [-ERR_INVALID] = "invalid value",
    [-ERR_NO_MEMORY] = "out of memory",
    [-ERR_RANGE] = "out of range",
    [-ERR_NOT_FOUND] = "not found",
    [-ERR_EXISTS] = "already there",
    [-ERR_UNSUPPORTED] = "not supported",
    [-ERR_TRUNCATED] = "truncated",
    [-ERR_VERSION] = "wrong version",
    [-ERR_CORRUPT] = "damaged",
    [-ERR_IO] = "input/output error",
    [-ERR_STOPPED] = "stopped",
    [-ERR_PERMISSION] = "permission denied",
    [-ERR_BUSY] = "busy",
};

const char *err_name(int err)
{
    if (err > 0 || err <= -(int)ARRAY_SIZE(names))
        return "unknown error";
    return names[-err];
}
