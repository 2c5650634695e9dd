/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Control sockets: NAME.sock in $XDG_RUNTIME_DIR/lodge or, for root, in /run/lodge (docs/saved.md). Directory 0700,
 * socket 0600. They are of type SOCK_SEQPACKET, so that a message stays one, and carries its
 * descriptors.
 *
 * A VM's process cannot remove its socket: its sandbox lets it name no file. So a socket stays behind, on which
 * nobody listens, and whoever meets it removes it: the next VM of that name, or any command that
 * looks for VMs. Looking, removing and binding is done under a lock on the directory, or one of two that do so at once
 * would remove the other's new one.
 */
#include "hosted/control_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/err.h"
#include "hosted/seam.h"

enum { BACKLOG = 64, CONNECT_S = 10 };

bool control_directory(char directory[CONTROL_DIRECTORY])
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    int n = -1;

    if (runtime && runtime[0] == '/')
        n = snprintf(directory, CONTROL_DIRECTORY, "%s/lodge", runtime);
    else if (geteuid() == 0)
        n = snprintf(directory, CONTROL_DIRECTORY, "/run/lodge");
    return n > 0 && (size_t)n < CONTROL_DIRECTORY;
}

bool control_address(struct sockaddr_un *a, const char *name)
{
    char directory[CONTROL_DIRECTORY];
    int n;

    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (!control_directory(directory))
        return false;
    n = snprintf(a->sun_path, sizeof(a->sun_path), "%s/%s.sock", directory, name);
    return n > 0 && (size_t)n < sizeof(a->sun_path);
}

/* Opens the directory and takes its lock: -1 and errno. It must be ours alone. */
static int lock_directory(const char *directory, bool make)
{
    struct stat st;
    int fd;

    if (make && mkdir(directory, 0700) != 0 && errno != EEXIST)
        return -1;
    fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -1;
    if (fstat(fd, &st) == 0 && st.st_uid == geteuid() && !(st.st_mode & 077) && flock(fd, LOCK_EX) == 0)
        return fd;
    close(fd);
    errno = EPERM;
    return -1;
}

static int new_socket(int flags)
{
    return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | flags, 0);
}

/* With the lock held: does somebody listen there? What is left of one who does no more is removed. */
static bool is_alive(const struct sockaddr_un *a)
{
    int fd = new_socket(SOCK_NONBLOCK);
    bool alive = fd >= 0 && (connect(fd, (const struct sockaddr *)a, sizeof(*a)) == 0 || errno == EAGAIN);

    if (fd >= 0 && !alive && errno == ECONNREFUSED)
        (void)unlink(a->sun_path);
    if (fd >= 0)
        close(fd);
    return alive;
}

static int bind_and_listen(const struct sockaddr_un *a)
{
    int fd = new_socket(0);
    mode_t mask = umask(0177);
    bool done = fd >= 0 && bind(fd, (const struct sockaddr *)a, sizeof(*a)) == 0 && listen(fd, BACKLOG) == 0;
    int error = errno;

    umask(mask);
    if (done)
        return fd;
    if (fd >= 0)
        close(fd);
    errno = error;
    return -1;
}

int control_listen(const char *name, int *err, char message[CONTROL_MESSAGE])
{
    char directory[CONTROL_DIRECTORY];
    struct sockaddr_un a;
    int lock, fd = -1;

    message[0] = '\0';
    *err = OK;
    if (!control_directory(directory))
        return -1;
    if (!control_address(&a, name)) {
        *err = ERR_INVALID;
        snprintf(message, CONTROL_MESSAGE, "the path of a socket for '%.64s' is too long (shorten the name, or XDG_RUNTIME_DIR)",
                 name);
        return -1;
    }
    lock = lock_directory(directory, true);
    if (lock < 0 && (errno == ENOENT || errno == EACCES || errno == EROFS)) {
        snprintf(message, CONTROL_MESSAGE, "no control socket: '%.120s': %s", directory, strerror(errno));
        return -1;
    }
    if (lock >= 0 && is_alive(&a)) {
        *err = ERR_EXISTS;
        snprintf(message, CONTROL_MESSAGE, "a VM with the name '%.64s' runs already (give another --name)", name);
        close(lock);
        return -1;
    }
    if (lock >= 0)
        fd = bind_and_listen(&a);
    *err = fd < 0 ? ERR_PERMISSION : OK;
    if (fd < 0)
        snprintf(message, CONTROL_MESSAGE, "cannot make a control socket in '%.120s': %s (%s)", directory,
                 strerror(errno), errno == EPERM ? "is it yours alone?" : seam_errno_hint(errno));
    if (lock >= 0)
        close(lock);
    return fd;
}

/* A socket that nobody listens on is removed, unless somebody has just begun to. */
static void remove_dead(const struct sockaddr_un *a)
{
    char directory[CONTROL_DIRECTORY];
    int lock = control_directory(directory) ? lock_directory(directory, false) : -1;

    if (lock >= 0) {
        (void)is_alive(a);
        close(lock);
    }
}

int control_peer(int fd)
{
    struct ucred peer;
    socklen_t size = sizeof(peer);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : 0;
}

int control_connect(const char *name, unsigned int patience_s, char message[CONTROL_MESSAGE])
{
    struct sockaddr_un a;
    struct timeval connecting = {.tv_sec = patience_s < CONNECT_S ? patience_s : CONNECT_S};
    struct timeval patience = {.tv_sec = patience_s};
    int fd = new_socket(0), error;

    if (fd >= 0) /* all the room for clients may be taken */
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &connecting, sizeof(connecting));
    if (fd >= 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    if (fd >= 0 && control_address(&a, name) && connect(fd, (const struct sockaddr *)&a, sizeof(a)) == 0)
        return fd;
    error = errno;
    if (fd >= 0 && error == ECONNREFUSED)
        remove_dead(&a);
    if (fd >= 0 && error == EAGAIN)
        snprintf(message, CONTROL_MESSAGE, "VM '%.64s' has too many clients (try again)", name);
    else
        snprintf(message, CONTROL_MESSAGE, "no VM with the name '%.64s' runs (see 'lodge ps')", name);
    if (fd >= 0)
        close(fd);
    return -1;
}

/* --- messages ------------------------------------------------------------------------------------
 */

union files_message {
    struct cmsghdr head;
    uint8_t room[CMSG_SPACE(sizeof(int) * CONTROL_FILES)];
};

bool control_send(int fd, const void *bytes, size_t size, const int *files, uint32_t count)
{
    union files_message u = {.room = {0}};
    struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};

    if (count > CONTROL_FILES)
        return false;
    if (count > 0) {
        u.head = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        u.head.cmsg_len = (__typeof__(u.head.cmsg_len))CMSG_LEN(sizeof(int) * count); /* libcs differ */
        memcpy(CMSG_DATA(&u.head), files, sizeof(int) * count);
        m.msg_control = &u;
        m.msg_controllen = (__typeof__(m.msg_controllen))CMSG_SPACE(sizeof(int) * count);
    }
    return sendmsg(fd, &m, MSG_NOSIGNAL) == (ssize_t)size;
}

ssize_t control_receive(int fd, void *bytes, size_t size, int *files, uint32_t *count)
{
    union files_message u = {.room = {0}};
    struct iovec part = {.iov_base = bytes, .iov_len = size};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof(u)};
    struct cmsghdr *c;
    ssize_t n;

    *count = 0;
    do {
        n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    c = n >= 0 ? CMSG_FIRSTHDR(&m) : NULL; /* of other kinds nobody gets any who has not asked for them */
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
        *count = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(files, CMSG_DATA(c), sizeof(int) * *count);
    }
    return n;
}
