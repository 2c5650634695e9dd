/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The operator's keys: every way through the state machine, as (typed, actions, bytes sent). */
#include "hosted/keys.h"

#include <string.h>

#include "tests/lib/unit.h"

#define BRACKET "\x1D"
#define CTRL_A  "\x01"

static const char letters[] = {
    [KEYS_NOTHING] = '.', [KEYS_SEND] = 's', [KEYS_MENU] = 'm',
    [KEYS_LEAVE] = 'l',   [KEYS_HELP] = 'h', [KEYS_QUIT] = 'q',
    [KEYS_RESET] = 'r',   [KEYS_DUMP] = 'd', [KEYS_POWER] = 'p',
};

static const struct {
    const char *typed, *actions, *sent;
} cases[] = {
    {"ab", "ss", "ab"},
    {"\x03\x1A\x1B[A", "sssss", "\x03\x1A\x1B[A"},
    {BRACKET "q", "mq", ""},
    {BRACKET "r", "mr", ""},
    {BRACKET "d", "md", ""},
    {BRACKET "p", "mp", ""},
    {BRACKET "h", "mh", ""},
    {BRACKET "?", "mh", ""},
    {BRACKET BRACKET "x", "mss", BRACKET "x"},
    {BRACKET "zq", "mls", "q"},
    {BRACKET "\r", "ml", ""},
    {CTRL_A "x", ".q", ""},
    {CTRL_A CTRL_A "x", ".ss", CTRL_A "x"},
    {CTRL_A "a", ".s", CTRL_A},
    {CTRL_A "ls", ".ss", CTRL_A "ls"},
    {CTRL_A BRACKET "q", ".ss", CTRL_A BRACKET "q"},
    {BRACKET CTRL_A "x", "mls", "x"},
};

static void test_keys(void)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct keys k = {.state = KEYS_PLAIN};
        char actions[16] = "", sent[16] = "";
        size_t n = 0, s = 0;

        unit_context("case %zu", i);
        for (const char *p = cases[i].typed; *p; p++) {
            enum keys_action a = keys_feed(&k, (uint8_t)*p);

            actions[n++] = letters[a];
            CHECK(a == KEYS_SEND || k.out_count == 0);
            memcpy(sent + s, k.out, k.out_count);
            s += k.out_count;
        }
        CHECK_STR(actions, cases[i].actions);
        CHECK_STR(sent, cases[i].sent);
    }
}

/* Whatever is typed, at most two keys are held back or eaten in a row. */
static void test_all_pairs(void)
{
    for (unsigned int a = 0; a < 256; a++) {
        for (unsigned int b = 0; b < 256; b++) {
            struct keys k = {.state = KEYS_PLAIN};

            (void)keys_feed(&k, (uint8_t)a);
            (void)keys_feed(&k, (uint8_t)b);
            CHECK(k.state == KEYS_PLAIN || b == 0x1D || b == 0x01);
        }
    }
}

int main(void)
{
    UNIT_RUN(test_keys);
    UNIT_RUN(test_all_pairs);
    return unit_done();
}
