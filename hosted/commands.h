/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Subcommands that speak to running VMs, or are not about one: see commands.c, attach.c, save.c and image.c. Arguments are those after the
 * subcommand's name. */
#ifndef LODGE_HOSTED_COMMANDS_H
#define LODGE_HOSTED_COMMANDS_H

#include "hosted/control_socket.h"
#include "hosted/status.h"

enum lodge_status command_ps(int argc, char **argv);
enum lodge_status command_pause(int argc, char **argv);
enum lodge_status command_resume(int argc, char **argv);
enum lodge_status command_reset(int argc, char **argv);
enum lodge_status command_stop(int argc, char **argv);
enum lodge_status command_kill(int argc, char **argv);
enum lodge_status command_inspect(int argc, char **argv);
enum lodge_status command_console(int argc, char **argv);
enum lodge_status command_save(int argc, char **argv);
enum lodge_status command_restore(int argc, char **argv);
enum lodge_status command_fork(int argc, char **argv);
enum lodge_status command_image(int argc, char **argv);

/* --- what they share (commands.c) --- */

/* A connection to the VM of that name; -1: it has been said why not. */
int command_connect(const char *name);
/* Asks. Waits for the answer. Both. False: it has been said that it was refused, or did not come. Text behind the
 * first line is put into text[size] if there is one to put it into; descriptors as control_receive does. */
bool command_request(int fd, const char *name, const char *request);
bool command_answer(int fd, const char *name, char *text, size_t size, int *files, uint32_t *count);
bool command_ask(int fd, const char *name, const char *request, char *text, size_t size, int *files,
                 uint32_t *count);

#endif
