/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What it means that KVM cannot be had, in a sentence for the one who has to do something about it:
 * what is wrong, a colon, what to do. Who is told: the caller of a probe (`lodge doctor`, `auto`),
 * or of pc_create, by vm->engine_why.
 *
 * Permission is looked at closely, for it is what most users meet first: the group that would let
 * them in is named, and where mode and groups would do, it is something else that forbids it
 * (a container's device rules, a security module).
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/err.h"
#include "core/fmt.h"
#include "engine/kvm/kvm_private.h"

#define DEVICE "/dev/kvm"

int kvm_err(int negative_errno)
{
    switch (-negative_errno) {
    case ENOMEM:
    case EMFILE:
    case ENFILE:
        return ERR_NO_MEMORY;
    case EACCES:
    case EPERM:
        return ERR_PERMISSION;
    case EBUSY: /* another hypervisor has the processor's virtualization */
        return ERR_BUSY;
    default:
        return ERR_UNSUPPORTED;
    }
}

static bool is_in_group(gid_t gid)
{
    gid_t groups[256];
    int count = getgroups((int)ARRAY_SIZE(groups), groups);

    for (int i = 0; i < count; i++)
        if (groups[i] == gid)
            return true;
    return getegid() == gid;
}

static void explain_permission(char *why, size_t size)
{
    const struct group *g;
    struct stat st;

    if (stat(DEVICE, &st) != 0) {
        (void)fmt(why, size, "%s may not be opened: ask who keeps this host for its use", DEVICE);
        return;
    }
    if (geteuid() == 0 || geteuid() == st.st_uid || is_in_group(st.st_gid) ||
        st.st_mode & S_IWOTH) {
        (void)fmt(why, size,
                  "%s may not be opened, though its mode allows it: give this container or service "
                  "the device (docker: --device %s), or see the host's security module",
                  DEVICE, DEVICE);
        return;
    }
    if (!(st.st_mode & S_IWGRP)) {
        (void)fmt(
            why, size,
            "%s may be opened by its owner only, user %u, and by no group: 'chgrp kvm %s' and "
            "'chmod 660 %s', then join group kvm",
            DEVICE, (unsigned int)st.st_uid, DEVICE, DEVICE);
        return;
    }
    g = getgrgid(st.st_gid);
    (void)fmt(
        why, size,
        "%s may not be opened by this user: join group %s ('usermod -aG %s NAME', then log in "
        "anew)",
        DEVICE, g ? g->gr_name : "kvm", g ? g->gr_name : "kvm");
}

/* The error numbers that mean the same wherever they come from. */
static const char *common(int error)
{
    switch (error) {
    case EBUSY:
        return "another hypervisor (VirtualBox, VMware, Xen?) holds the processor's "
               "virtualization: "
               "end its VMs, or unload its module";
    case ENOMEM:
    case ENOSPC:
        return "the host has no memory left for a VM: free some";
    case EMFILE:
        return "too many files are open: raise 'ulimit -n'";
    case ENFILE:
        return "this host has too many files open: close some";
    default:
        return NULL;
    }
}

int kvm_trouble(char *why, size_t size, const char *what, int negative_errno)
{
    int error = -negative_errno;
    const char *known = common(error);

    if (known)
        (void)fmt(why, size, "%s", known);
    else
        (void)fmt(why, size, "KVM does not %s here: %s: see the host's kernel log", what,
                  strerror(error));
    return kvm_err(negative_errno);
}

int kvm_open(char *why, size_t size)
{
    int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
    int error = errno;

    if (fd >= 0)
        return fd;
    switch (error) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
        (void)fmt(
            why, size,
            "there is no %s: the processor has no VT-x or AMD-V, firmware or a hypervisor below "
            "hides it, or the module is not loaded ('modprobe kvm_intel' or 'kvm_amd')",
            DEVICE);
        break;
    case EACCES:
    case EPERM:
        explain_permission(why, size);
        break;
    default:
        (void)kvm_trouble(why, size, "open its device", -error);
    }
    return -error;
}
