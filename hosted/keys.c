/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The operator's keys. The terminal is the guest's, byte for byte, but for two prefixes: Ctrl-]
 * opens a menu of one key (as telnet does), and Ctrl-a x quits (as QEMU and screen users expect).
 * Shells use Ctrl-a themselves: Ctrl-a twice, or Ctrl-a a, sends one; Ctrl-a and any other key
 * sends both, so that nothing that was typed is lost.
 *
 * A pure state machine: what an action does is in console.c. It is used on terminals only; bytes
 * from a pipe or a file reach the guest as they are.
 */
#include "hosted/keys.h"

#include <stddef.h>

enum { CTRL_A = 0x01, CTRL_BRACKET = 0x1D };

const char keys_menu_text[] =
    "q quit, r reset, p power button, d dump registers, Ctrl-] send it, h help";
const char keys_help_text[] =
    "Ctrl-] and then\n"
    "  q       quit: ends the VM at once\n"
    "  r       reset: as the reset button of a machine\n"
    "  p       presses the power button: the guest may shut down in order\n"
    "  d       dumps the registers of all vCPUs\n"
    "  Ctrl-]  sends Ctrl-] to the guest\n"
    "  h       this help\n"
    "Ctrl-a x quits too; Ctrl-a Ctrl-a sends Ctrl-a to the guest.";

static const struct {
    uint8_t key;
    enum keys_action action;
} menu[] = {
    {'q', KEYS_QUIT}, {'r', KEYS_RESET}, {'p', KEYS_POWER},
    {'d', KEYS_DUMP}, {'h', KEYS_HELP},  {'?', KEYS_HELP},
};

static enum keys_action send_one(struct keys *k, uint8_t key)
{
    k->out[0] = key;
    k->out_count = 1;
    return KEYS_SEND;
}

static enum keys_action feed_menu(struct keys *k, uint8_t key)
{
    k->state = KEYS_PLAIN;
    if (key == CTRL_BRACKET)
        return send_one(k, key);
    for (size_t i = 0; i < sizeof(menu) / sizeof(menu[0]); i++) {
        if (menu[i].key == key)
            return menu[i].action;
    }
    return KEYS_LEAVE;
}

static enum keys_action feed_after_ctrl_a(struct keys *k, uint8_t key)
{
    k->state = KEYS_PLAIN;
    if (key == 'x')
        return KEYS_QUIT;
    if (key == CTRL_A || key == 'a')
        return send_one(k, CTRL_A);
    k->out[0] = CTRL_A;
    k->out[1] = key;
    k->out_count = 2;
    return KEYS_SEND;
}

enum keys_action keys_feed(struct keys *k, uint8_t key)
{
    k->out_count = 0;
    if (k->state == KEYS_IN_MENU)
        return feed_menu(k, key);
    if (k->state == KEYS_AFTER_CTRL_A)
        return feed_after_ctrl_a(k, key);
    if (key == CTRL_BRACKET) {
        k->state = KEYS_IN_MENU;
        return KEYS_MENU;
    }
    if (key == CTRL_A) {
        k->state = KEYS_AFTER_CTRL_A;
        return KEYS_NOTHING;
    }
    return send_one(k, key);
}
