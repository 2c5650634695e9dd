/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The engines of the hosted home, best first. `auto` takes the first that works on this host and
 * runs the wanted level; what was found is said by `lodge doctor` and `lodge run -v`.
 *
 * kvm does not exist yet. Its row looks at /dev/kvm all the same and says what is there, so that
 * doctor's answer is of use already; it opens the device, asks for the API version and closes it.
 * (A device that opens proves little: the engine will run a probe guest, see docs/architecture.md.)
 */
#include "hosted/engines.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int look_at_kvm(const struct x86_level *level, char *why, size_t size)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int version;

    (void)level;
    if (fd < 0) {
        snprintf(why, size, "this version of Lodge has no kvm engine yet (/dev/kvm: %s)",
                 strerror(errno));
        return ERR_UNSUPPORTED;
    }
    version = ioctl(fd, KVM_GET_API_VERSION, 0);
    close(fd);
    snprintf(why, size,
             "this version of Lodge has no kvm engine yet (/dev/kvm opens, API version %d)",
             version);
    return ERR_UNSUPPORTED;
}

static int look_at_soft(const struct x86_level *level, char *why, size_t size)
{
    int err = engine_soft.probe(level, why, size);

    if (!err)
        snprintf(why, size,
                 "needs no hardware virtualization, and this processor has all of "
                 "level %s",
                 level->name);
    return err;
}

const struct engine_row engine_rows[] = {
    {"kvm", NULL, look_at_kvm},
    {"soft", &engine_soft, look_at_soft},
    {NULL, NULL, NULL},
};

int engines_choose(const char *name, const struct x86_level *level, const struct engine **out,
                   char *why)
{
    bool any = strcmp(name, "auto") == 0;

    snprintf(why, ENGINES_WHY, "there is no engine '%s'", name);
    for (const struct engine_row *r = engine_rows; r->name; r++) {
        if (!any && strcmp(name, r->name) != 0)
            continue;
        if (r->look(level, why, ENGINES_WHY) == OK && r->engine) {
            *out = r->engine;
            return OK;
        }
    }
    return ERR_UNSUPPORTED;
}
