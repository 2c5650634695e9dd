/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The operator's keys among those meant for the guest: see keys.c. */
#ifndef LODGE_HOSTED_KEYS_H
#define LODGE_HOSTED_KEYS_H

#include <stdint.h>

enum keys_action {
    KEYS_NOTHING, /* swallowed */
    KEYS_SEND,    /* keys->out[0 .. out_count) goes to the guest */
    KEYS_MENU,    /* show the menu; the next key chooses */
    KEYS_LEAVE,   /* the menu was left without a choice */
    KEYS_HELP,
    KEYS_QUIT,
    KEYS_RESET,
    KEYS_DUMP,  /* registers */
    KEYS_POWER, /* power button */
};

enum keys_state { KEYS_PLAIN, KEYS_IN_MENU, KEYS_AFTER_CTRL_A };

struct keys {
    enum keys_state state;
    uint8_t out[2];
    unsigned int out_count;
};

/* One key typed. All zero is the state at the start. */
enum keys_action keys_feed(struct keys *k, uint8_t key);

/* The menu as one line. */
extern const char keys_menu_text[];
/* The same at length, lines separated by '\n'. */
extern const char keys_help_text[];

#endif
