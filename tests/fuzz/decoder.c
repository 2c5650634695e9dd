/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * libFuzzer target: the instruction decoder. The first byte is the mode, the rest are instructions,
 * decoded one after another. Whatever the bytes are, the decoder must
 *  - read no byte beyond those given (each try has a buffer of its own size, for ASan to watch);
 *  - say the same for the instruction's own bytes as for the whole buffer, and SHORT for fewer;
 *  - leave every field that handlers index with in its range.
 */
#include "isa/insn.h"

#include <stdlib.h>
#include <string.h>

enum { ENOUGH = 2 * INSN_MAX_LENGTH }; /* bytes that a decoder is offered at once */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

static bool is_register_or_none(uint8_t n)
{
    return n < 16 || n == INSN_NO_REG;
}

static void check_fields(const struct insn *i, enum insn_mode mode)
{
    require(i->length >= 1 && i->length <= INSN_MAX_LENGTH);
    require(i->op < INSN_OP_COUNT && i->form <= INSN_FORM_IMM && i->feature < INSN_FEATURE_COUNT);
    require(insn_op_group((enum insn_op)i->op) < INSN_GROUP_COUNT);
    require(insn_op_name((enum insn_op)i->op) != NULL);
    require(i->seg < SEG_COUNT && i->scale <= 3 && i->map <= 3);
    require(is_register_or_none(i->base) && is_register_or_none(i->index));
    require(i->reg < 20 && i->rm < 20 && i->vvvv < 16);
    require((i->reg < 16 && i->rm < 16) || i->opsize == 1 || i->srcsize == 1);
    if (i->op == INSN_INVALID)
        return;
    require(i->opsize == 1 || i->opsize == 2 || i->opsize == 4 || i->opsize == 8);
    require(i->srcsize == 1 || i->srcsize == 2 || i->srcsize == 4 || i->srcsize == 8);
    require(i->addrsize == 2 || i->addrsize == 4 || i->addrsize == 8);
    if (mode != INSN_MODE_64) {
        require(!(i->flags & (INSN_REX | INSN_RIPREL)) && i->opsize < 8 && i->addrsize < 8);
        require((i->reg & 8) == 0 && (i->rm & 8) == 0 && (i->vvvv & 8) == 0);
    }
    if (i->flags & INSN_LOCK)
        require(i->flags & INSN_MEM);
}

static int decode_copy(struct insn *i, const uint8_t *data, size_t size, enum insn_mode mode)
{
    uint8_t *copy = malloc(size ? size : 1);
    require(copy != NULL);
    memcpy(copy, data, size);
    int status = insn_decode(i, copy, size, mode);
    free(copy);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    enum insn_mode mode = (enum insn_mode)(data[0] % 3);
    for (size_t at = 1; at < size;) {
        struct insn i, again;
        size_t rest = size - at < ENOUGH ? size - at : ENOUGH;
        int status = decode_copy(&i, data + at, rest, mode);
        require(status == INSN_DECODE_OK || status == INSN_DECODE_SHORT ||
                status == INSN_DECODE_TOO_LONG);
        require(status != INSN_DECODE_SHORT || rest < INSN_MAX_LENGTH);
        if (status != INSN_DECODE_OK) {
            at++;
            continue;
        }
        check_fields(&i, mode);
        require(i.length <= rest);
        require(decode_copy(&again, data + at, i.length, mode) == INSN_DECODE_OK);
        require(memcmp(&i, &again, sizeof(i)) == 0);
        require(decode_copy(&again, data + at, i.length - 1, mode) == INSN_DECODE_SHORT);
        at += i.length;
    }
    return 0;
}
