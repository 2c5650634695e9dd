/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Where control sockets are, and messages on them: see control_socket.c. */
#ifndef LODGE_HOSTED_CONTROL_SOCKET_H
#define LODGE_HOSTED_CONTROL_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/un.h>

#include "core/types.h"

enum {
    CONTROL_REQUEST = 64,       /* bytes of a request at most */
    CONTROL_ANSWER = 60 << 10,  /* of an answer */
    CONTROL_FILES = 32,         /* descriptors in a message */
    CONTROL_MESSAGE = 256,      /* of what went wrong */
    CONTROL_DIRECTORY = sizeof(((struct sockaddr_un *)0)->sun_path),
};

/* The directory of this user's control sockets: false, if there is none for this user. */
bool control_directory(char directory[CONTROL_DIRECTORY]);
/* That of a VM's socket. False: it is too long for a socket. */
bool control_address(struct sockaddr_un *a, const char *name);

/* Listens on the VM's socket, making the directory if need be. The descriptor, or -1 and a message; an empty one,
 * if this user has no directory for it. ERR_EXISTS in *err: a VM of that name runs. */
int control_listen(const char *name, int *err, char message[CONTROL_MESSAGE]);

/* A connection to a VM, or -1 and a message. A socket that nobody listens on any more is removed. */
int control_connect(const char *name, char message[CONTROL_MESSAGE]);

/* One message, with descriptors. True: it went. */
bool control_send(int fd, const void *bytes, size_t size, const int *files, uint32_t count);
/* The next one: its size, 0: the other side has gone, -1: error. Descriptors are put into files[CONTROL_FILES],
 * *count of them. */
ssize_t control_receive(int fd, void *bytes, size_t size, int *files, uint32_t *count);

#endif
