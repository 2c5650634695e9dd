/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The operator's terminal: raw while the guest has it, put back whatever happens. See terminal.c.
 */
#ifndef LODGE_HOSTED_TERMINAL_H
#define LODGE_HOSTED_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>

struct ram;

/* Remembers the modes of standard input's terminal and installs the handlers of fatal signals.
 * ram: guest RAM, which stays, so that a host that runs out of memory, or a saved VM's file that was cut off, is told
 * from a bug; NULL: there is none. Main thread, before other threads start. */
void terminal_prepare(const struct ram *ram);
/* A signal stack for the calling thread, so that a handler runs even when its own has overflowed.
 */
void terminal_thread_prepare(void);
/* Raw mode, if standard input is a terminal and we are not in its background. True: it is raw now.
 */
bool terminal_set_raw(void);
bool terminal_is_raw(void);
/* We were stopped, perhaps by SIGSTOP, which nobody sees, and a shell has set its own modes: raw
 * again in the foreground; in the background the terminal is no longer ours to put back. */
void terminal_continue(void);
/* Puts the modes back. Async-signal-safe; does nothing when they are. */
void terminal_restore(void);

#endif
