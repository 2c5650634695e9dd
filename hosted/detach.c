/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A VM in the background, as daemons are made, but that who started it learns how it went: the program that the
 * user called stays until the VM is about to run, and then ends with 0; or until its process has ended, and
 * then ends with its status. Until it runs it says what is wrong on the user's standard error.
 */
#include "hosted/detach.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

bool detach_fork(struct detached *d, int *tell)
{
    int ends[2];

    d->pid = -1;
    if (pipe2(ends, O_CLOEXEC) != 0)
        return false;
    d->pid = fork();
    if (d->pid == 0) {
        close(ends[0]);
        *tell = ends[1];
        (void)setsid();
        return true;
    }
    close(ends[1]);
    d->ready = ends[0];
    if (d->pid < 0)
        close(ends[0]);
    return false;
}

enum lodge_status detach_wait(const struct detached *d)
{
    char byte;
    ssize_t n;
    int status;

    do {
        n = read(d->ready, &byte, 1);
    } while (n < 0 && errno == EINTR);
    close(d->ready);
    if (n == 1)
        return STATUS_OK;
    while (waitpid(d->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return WIFEXITED(status) ? (enum lodge_status)WEXITSTATUS(status) : STATUS_ENGINE;
}

bool detach_leave(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    struct stat st;

    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0)
        return false;
    if (fstat(STDERR_FILENO, &st) != 0 || !S_ISREG(st.st_mode))
        (void)dup2(null, STDERR_FILENO);
    close(null);
    return true;
}

void detach_done(int tell)
{
    (void)!write(tell, "", 1);
    close(tell);
}
