/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The operator's console (operator.c), and its commands (command.c). */
#ifndef LODGE_NATIVE_OPERATOR_H
#define LODGE_NATIVE_OPERATOR_H

#include "core/types.h"
#include "native/log.h"

struct guest;

/* Its thread. Once. */
void operator_start(void);
/* A guest's console has more: if it is the one that is looked at, it is shown. Any thread, with the board lock held. */
void operator_guest_said(const struct guest *g);
/* The machine's power button. In an interrupt's handler. */
void operator_power_button(void);
/* Lines of the log, around what the operator is writing; none while a guest's console is shown. */
extern const struct log_sink operator_sink;

/* --- for commands: on the operator's thread --- */

/* One line or several to the operator. */
void operator_say(const char *format, ...) printf_like(1, 2);
void operator_write(const char *bytes, size_t size);
/* From now on keys go to that guest, and what it says comes here, until Ctrl-]. */
void operator_attach(struct guest *g);

/* From now on draw() is called once in so many ns, and lines of the log are held back, until q, Ctrl-C or Ctrl-] is pressed. */
void operator_redraw(void (*draw)(void), uint64_t period_ns);

/* While something else than text goes over the line, lines of the log are held back; they come when it is let go. */
void operator_hold(void);
void operator_let_go(void);
/* What came over the line, from whoever is at its other end: waits for it until the deadline (seam_time_ns), or until the operator is
 * wanted elsewhere. How many bytes; 0: none came. */
size_t operator_read(char *bytes, size_t size, uint64_t deadline_ns);
/* The power button was pressed: the command that runs is to come to its end. */
bool operator_is_wanted(void);

/* Sends a VM as a file (save.c): for the command save. */
void save_vm(struct guest *g);
/* Commands about shares (usage.c); ns: what each VM ran, by its number, overhead included. */
void usage_say(const char *rest);
void usage_top(const char *rest);
void usage_set(struct guest *g, const char *rest);
/* Does that reservation, on those CPUs (as the fleet file counts them), fit beside those of VMs that are not off? False: it was said that not. */
bool usage_fits(const struct guest *g, uint32_t reservation, uint64_t pin);
void usage_cpu_ns(uint64_t ns[]);
/* As the command poweroff does. */
void command_power_off(void);
/* Obeys a line; and the nth word that may stand behind `text`, for completion. */
void command_run(const char *line);
bool command_word(const char *text, uint32_t n, char *word, size_t size);
/* The next word of *text, cut off if it has no room, and *text behind it. False: there is none. */
bool command_next_word(const char **text, char *word, size_t size);

#endif
