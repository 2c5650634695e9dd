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

/* Listens on the VM's socket, making the directory if need be. The descriptor, or -1 and a message; with OK
 * in *err, and no message, if this user has no directory for it, or with one, if it cannot be used. ERR_EXISTS: a VM of
 * that name runs. */
int control_listen(const char *name, int *err, char message[CONTROL_MESSAGE]);

/* A connection to a VM, or -1 and a message. What is asked on it is waited for so many seconds. A socket that nobody
 * listens on any more is removed. */
int control_connect(const char *name, unsigned int patience_s, char message[CONTROL_MESSAGE]);
/* The process at the other end of such a connection, 0: not known. */
int control_peer(int fd);

/* One message, with descriptors. True: it went. */
bool control_send(int fd, const void *bytes, size_t size, const int *files, uint32_t count);
/* The next one: its size, 0: the other side has gone, -1: error. Descriptors are put into files[CONTROL_FILES],
 * *count of them. */
ssize_t control_receive(int fd, void *bytes, size_t size, int *files, uint32_t *count);

#endif
