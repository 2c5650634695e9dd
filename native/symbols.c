/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Names for backtraces. The image is linked twice: tools/native-symbols.py makes the table from the first one, which
 * is then added behind the code, so no function moves. Read-only, no lock; used in a panic.
 */
#include "native/symbols.h"

struct symbol {
    uint32_t offset, name; /* from image_start; from the first name */
};

/* Absent from the first link. */
extern const struct {
    uint32_t count, unused;
    struct symbol symbol[];
} symbol_table __attribute__((weak));

extern uint8_t image_start[], image_text_end[];

const char *symbol_of(uint64_t address, uint64_t *offset)
{
    uint64_t at = address - (uint64_t)image_start;
    uint32_t low = 0, high = &symbol_table ? symbol_table.count : 0;

    *offset = 0;
    if (high == 0 || address < (uint64_t)image_start || address >= (uint64_t)image_text_end)
        return "?";
    while (high - low > 1) { /* the last one that is not above */
        uint32_t middle = low + (high - low) / 2;

        if (symbol_table.symbol[middle].offset <= at)
            low = middle;
        else
            high = middle;
    }
    if (symbol_table.symbol[low].offset > at)
        return "?";
    *offset = at - symbol_table.symbol[low].offset;
    return (const char *)&symbol_table.symbol[symbol_table.count] + symbol_table.symbol[low].name;
}
