/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What isa/ops.h says about each operation, as functions. A value out of range counts as INVALID,
 * so that a damaged struct insn still prints.
 */
#include "isa/insn.h"

static const struct {
    const char *name;
    uint8_t group;
    uint8_t feature;
} insn_ops[INSN_OP_COUNT] = {
#define X(name_, group_, feature_)                                                                 \
    [INSN_##name_] = {#name_, INSN_GROUP_##group_, INSN_FEATURE_##feature_},
    INSN_OPS(X)
#undef X
};

static unsigned int known(enum insn_op op)
{
    return (unsigned int)op < INSN_OP_COUNT ? (unsigned int)op : INSN_INVALID;
}

const char *insn_op_name(enum insn_op op)
{
    return insn_ops[known(op)].name;
}

enum insn_feature insn_op_feature(enum insn_op op)
{
    return (enum insn_feature)insn_ops[known(op)].feature;
}

enum insn_group insn_op_group(enum insn_op op)
{
    return (enum insn_group)insn_ops[known(op)].group;
}
