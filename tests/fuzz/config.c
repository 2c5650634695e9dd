/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * libFuzzer target: the configuration reader. Whatever the text, the answer is OK, or ERR_INVALID
 * with one line that names the file and a line number of the text; and the same text gives the same
 * answer. Run it with -max_len=8192.
 */
#include <stdlib.h>
#include <string.h>

#include "machine/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool x)
{
    if (!x)
        abort();
}

/* "f:LINE: text" without control characters. */
static void require_message(const char *message, const char *text, size_t size)
{
    unsigned long lines = 1;
    char *end;
    for (size_t n = 0; n < size; n++)
        lines += text[n] == '\n';
    require(strncmp(message, "f:", 2) == 0);
    unsigned long line = strtoul(message + 2, &end, 10);
    require(line >= 1 && line <= lines);
    require(strncmp(end, ": ", 2) == 0 && end[2] != 0);
    require(memchr(message, 0, CONFIG_MESSAGE) != NULL);
    for (const char *p = message; *p; p++)
        require(*p >= ' ' && *p <= '~');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct vm_config first, second;
    static char message[CONFIG_MESSAGE], again[CONFIG_MESSAGE];
    const char *text = (const char *)data;
    vm_config_defaults(&first);
    memset(message, 0, sizeof(message));
    int err = vm_config_parse(&first, "f", text, size, message);
    require(err == OK || err == ERR_INVALID);
    require((err == OK) == (message[0] == 0));
    if (err != OK)
        require_message(message, text, size);
    else
        require(vm_config_check(&first, again) == OK || again[0] != 0);

    vm_config_defaults(&second);
    memset(again, 0, sizeof(again));
    require(vm_config_parse(&second, "f", text, size, again) == err);
    require(strcmp(message, again) == 0);
    require(memcmp(&first, &second, sizeof(first)) == 0);
    return 0;
}
