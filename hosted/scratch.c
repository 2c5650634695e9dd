/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A directory for what is being made, of which nothing is left: not after an error, a signal, nor SIGKILL, which
 * no handler sees. So there is no handler. A process of its own, the keeper, makes the directory and waits at a
 * socket for the end of its user, which the kernel tells it whatever it was; then it ends the processes that were
 * working there, and removes it. The orderly end goes the same way, and waits for it.
 *
 * The keeper is in a session of its own and ignores what a terminal sends to all of a job. It keeps standard error,
 * so that who reads the command's output to its end also waits for it.
 *
 * The directory is nobody else's (0700): names in it are not fought over.
 */
#include "hosted/scratch.h"

#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/err.h"
#include "hosted/files.h"

enum { DEPTH = 16, TRIES = 100, TRY_MS = 20 };

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path) == 0 ? 0 : -1;
}

/* Who was working there may still be ending, and write: as often as it takes, within reason. */
static void remove_all(const char *path)
{
    static const struct timespec pause = {.tv_nsec = TRY_MS * 1000000L};

    for (int n = 0; n < TRIES; n++) {
        if (nftw(path, remove_one, DEPTH, FTW_DEPTH | FTW_PHYS) == 0 || errno == ENOENT)
            return;
        (void)nanosleep(&pause, NULL);
    }
}

static void ignore_signals(void)
{
    static const int all[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGTSTP, SIGTTOU, SIGUSR1, SIGUSR2};

    for (size_t n = 0; n < ARRAY_SIZE(all); n++)
        signal(all[n], SIG_IGN);
}

/* What the keeper answers: the directory, or why there is none. */
struct answer {
    int error;
    char path[CONFIG_PATH];
};

static struct answer make_directory(const char *beside)
{
    struct answer a = {0};
    char directory[CONFIG_PATH], wanted[CONFIG_PATH + 16], *real;

    snprintf(wanted, sizeof(wanted), "%s/.lodge-XXXXXX", file_directory(beside, directory));
    if (!mkdtemp(wanted)) {
        a.error = errno;
        return a;
    }
    real = realpath(wanted, NULL);
    /* Room for names in it. */
    if (!real || (size_t)snprintf(a.path, sizeof(a.path), "%s", real) >= sizeof(a.path) - 64) {
        a.error = real ? ENAMETOOLONG : errno;
        (void)rmdir(wanted);
    }
    free(real);
    return a;
}

/* The keeper. Does not return. */
static void keep(int user, const char *beside)
{
    struct answer a;
    pid_t group = 0, next;
    ssize_t n;

    (void)setsid();
    ignore_signals();
    a = make_directory(beside);
    (void)send(user, &a, sizeof(a), MSG_NOSIGNAL);
    while ((n = recv(user, &next, sizeof(next), 0)) == sizeof(next) || (n < 0 && errno == EINTR))
        group = n > 0 ? next : group;
    if (group > 0)
        (void)kill(-group, SIGKILL);
    if (a.error == 0)
        remove_all(a.path);
    _exit(0);
}

static int fail(int fd, int error)
{
    if (fd >= 0)
        close(fd);
    errno = error;
    return error == ENOMEM || error == EAGAIN || error == EMFILE || error == ENFILE ? ERR_NO_MEMORY
           : error == EACCES || error == EPERM || error == EROFS                    ? ERR_PERMISSION
                                                                                    : ERR_INVALID;
}

int scratch_open(struct scratch *s, const char *beside)
{
    struct answer a = {.error = EIO};
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return fail(-1, errno);
    s->pid = fork();
    if (s->pid == 0) {
        close(ends[0]);
        keep(ends[1], beside);
    }
    close(ends[1]);
    if (s->pid < 0)
        return fail(ends[0], errno);
    s->keeper = ends[0];
    if (recv(s->keeper, &a, sizeof(a), 0) == sizeof(a) && a.error == 0) {
        memcpy(s->path, a.path, sizeof(s->path));
        return OK;
    }
    scratch_close(s);
    return fail(-1, a.error);
}

void scratch_set_group(const struct scratch *s, pid_t group)
{
    (void)send(s->keeper, &group, sizeof(group), MSG_NOSIGNAL);
}

void scratch_close(struct scratch *s)
{
    close(s->keeper);
    while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
}
