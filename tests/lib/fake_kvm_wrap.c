/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The fake KVM in the place of open and ioctl, for programs that are linked with --wrap for both.
 */
#include <stdarg.h>
#include <sys/types.h>

#include "tests/lib/fake_kvm.h"

int __real_open(const char *path, int flags, ...);
int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);

int __wrap_open(const char *path, int flags, ...)
{
    va_list ap;
    mode_t mode;
    int result;

    va_start(ap, flags);
    mode = va_arg(ap, mode_t); /* garbage where there is none: then nobody looks at it */
    va_end(ap);
    return fake_kvm_open(path, &result) ? result : __real_open(path, flags, mode);
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    void *argument;
    int result;

    va_start(ap, request);
    argument = va_arg(ap, void *);
    va_end(ap);
    request &= UINT32_MAX; /* some C libraries take an int */
    return fake_kvm_ioctl(fd, request, argument, &result) ? result
                                                          : __real_ioctl(fd, request, argument);
}
