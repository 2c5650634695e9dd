/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A plugin for QEMU's TCG that counts instructions, for tools/bench_native.py: all of them, those of the
 * hypervisor, those of these that fill memory, and VMRUNs; and writes the four down whenever the processor comes by
 * a mark. Idle time is not in them, and nothing in the machine can see that it is being counted.
 *
 *   -plugin count.so,out=FILE,own=LOW-HIGH,fill=LOW-HIGH,mark=NAME:ADDRESS,...
 *
 * own= and fill=: virtual addresses, in hex, of the hypervisor's code, and of its memset. mark=: an address in hex. Each
 * may be there several times. A line of FILE: NAME ALL OWN FILL VMRUNS, before the instruction at the mark is executed; at the end one with the name
 * "end". One processor, in one thread.
 *
 * QEMU's header is in no package of Debian's: what is needed of it is declared here (docs/devel/tcg-plugins.rst,
 * interface version 1).
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MARKS = 32, RANGES = 4, NAME = 32 };
enum { ADD_U64 = 0, NO_REGISTERS = 0 };
#define EXPORTED __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t i);
extern uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
extern size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*f)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *insn, int op, void *p, uint64_t n);
extern void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, void (*f)(unsigned int, void *),
                                                   int flags, void *owner);
extern void qemu_plugin_register_atexit_cb(plugin_id id, void (*f)(plugin_id, void *), void *owner);
EXPORTED int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv);

EXPORTED int qemu_plugin_version = 1;

static struct {
    FILE *out;
    uint64_t all, own, fill, vmruns;
    unsigned int ranges, marks;
    struct {
        uint64_t low, high;
        uint64_t *counter;
    } range[RANGES];
    struct mark {
        uint64_t address;
        char name[NAME];
    } mark[MARKS];
} state;

static void write_line(const char *name)
{
    fprintf(state.out, "%s %lu %lu %lu %lu\n", name, state.all, state.own, state.fill, state.vmruns);
}

static void on_mark(unsigned int cpu, void *owner)
{
    const struct mark *m = owner;

    (void)cpu;
    write_line(m->name);
}

static void on_end(plugin_id id, void *owner)
{
    (void)id;
    (void)owner;
    write_line("end");
    fclose(state.out);
}

static void add_when_run(struct qemu_plugin_insn *insn, uint64_t *counter)
{
    qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD_U64, counter, 1);
}

static void on_instruction(struct qemu_plugin_insn *insn)
{
    uint64_t at = qemu_plugin_insn_vaddr(insn);

    for (unsigned int i = 0; i < state.marks; i++) {
        if (state.mark[i].address == at)
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_mark, NO_REGISTERS, &state.mark[i]);
    }
    add_when_run(insn, &state.all);
    for (unsigned int i = 0; i < state.ranges; i++) {
        if (at >= state.range[i].low && at < state.range[i].high)
            add_when_run(insn, state.range[i].counter);
    }
    if (qemu_plugin_insn_size(insn) == 3 && memcmp(qemu_plugin_insn_data(insn), "\x0f\x01\xd8", 3) == 0)
        add_when_run(insn, &state.vmruns);
}

static void on_translation(plugin_id id, struct qemu_plugin_tb *tb)
{
    (void)id;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++)
        on_instruction(qemu_plugin_tb_get_insn(tb, i));
}

static int add_range(const char *text, uint64_t *counter)
{
    char *end;

    if (state.ranges == RANGES)
        return -1;
    state.range[state.ranges].counter = counter;
    state.range[state.ranges].low = strtoull(text, &end, 16);
    if (*end != '-')
        return -1;
    state.range[state.ranges++].high = strtoull(end + 1, &end, 16);
    return *end ? -1 : 0;
}

static int add_mark(const char *text)
{
    const char *colon = strchr(text, ':');
    char *end;

    if (state.marks == MARKS || !colon || colon - text >= NAME)
        return -1;
    memcpy(state.mark[state.marks].name, text, (size_t)(colon - text));
    state.mark[state.marks++].address = strtoull(colon + 1, &end, 16);
    return *end ? -1 : 0;
}

static int add_option(const char *option)
{
    if (strncmp(option, "own=", 4) == 0)
        return add_range(option + 4, &state.own);
    if (strncmp(option, "fill=", 5) == 0)
        return add_range(option + 5, &state.fill);
    if (strncmp(option, "mark=", 5) == 0)
        return add_mark(option + 5);
    if (strncmp(option, "out=", 4) == 0 && !state.out)
        state.out = fopen(option + 4, "w");
    return state.out ? 0 : -1;
}

int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (add_option(argv[i]) != 0) {
            fprintf(stderr, "count: what is this: %s\n", argv[i]);
            return -1;
        }
    }
    if (!state.out)
        return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, on_end, NULL);
    return 0;
}
