/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The command lines of what becomes a VM's process, `lodge run`, `restore` and `fork`, and of `image`: options by a
 * const table that says which are whose. With `run` they stand over a VM's file over the defaults; the others' VMs have
 * their definitions already. What `-h` prints is in help.c.
 *
 * The file may stand anywhere among the options and options win, so the arguments are walked twice
 * by the same code: first to find the file and every mistake in form, then to apply values. Values
 * are read by the readers that the file uses (parse_size, vm_config_check), so that both say and
 * mean the same. Nothing comes from the environment.
 *
 * Paths in a file are relative to that file's directory, so that a VM's directory can be moved and
 * its file named from anywhere; paths on the command line are relative to where the user stands.
 */
#include "hosted/options.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "hosted/files.h"

enum { CONFIG_FILE_MAX = 1 << 20 };

/* Whose option it is. */
enum {
    RUN = 1 << OPTIONS_RUN,
    RESTORE = 1 << OPTIONS_RESTORE,
    FORK = 1 << OPTIONS_FORK,
    IMAGE = 1 << OPTIONS_IMAGE,
    ALL = RUN | RESTORE | FORK, /* whatever becomes a VM's process */
};

static const char *const command_names[] = {"run", "restore", "fork", "image"};

struct option {
    uint8_t commands;
    char letter; /* 0: none */
    const char *name;
    bool takes_value;
    /* Both may be given for one option: value is NULL if it takes none. Returns NULL, or what is
     * wrong with the value ("what (what to do)"). */
    const char *(*apply)(struct run_options *o, const char *value);
};

static const char *copy_value(char *dst, size_t size, const char *value)
{
    return str_copy(dst, size, value) < size ? NULL : "is too long (shorten it)";
}

static const char *apply_kernel(struct run_options *o, const char *value)
{
    return copy_value(o->config.kernel, sizeof(o->config.kernel), value);
}

static const char *apply_initrd(struct run_options *o, const char *value)
{
    return copy_value(o->config.initrd, sizeof(o->config.initrd), value);
}

static const char *apply_append(struct run_options *o, const char *value)
{
    return copy_value(o->config.append, sizeof(o->config.append), value);
}

static const char *apply_name(struct run_options *o, const char *value)
{
    return copy_value(o->config.name, sizeof(o->config.name), value);
}

static const char *apply_level(struct run_options *o, const char *value)
{
    return copy_value(o->config.level, sizeof(o->config.level), value);
}

static const char *apply_engine(struct run_options *o, const char *value)
{
    return copy_value(o->config.engine, sizeof(o->config.engine), value);
}

static const char *apply_memory(struct run_options *o, const char *value)
{
    return parse_size(value, strlen(value), &o->config.memory) == OK
               ? NULL
               : "is not a size (write it as 512M or 2G)";
}

static const char *apply_cpus(struct run_options *o, const char *value)
{
    size_t digits = strspn(value, "0123456789");

    if (digits == 0 || value[digits] || digits > 9)
        return "is not a number of vCPUs (give 1 to 16)";
    o->config.vcpus = (uint32_t)strtoul(value, NULL, 10);
    return NULL;
}

static const char *apply_translator(struct run_options *o, const char *value)
{
    if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
        return "is neither (give on or off)";
    o->config.interpret = value[1] == 'f';
    o->has_translator = true;
    return NULL;
}

static const char *apply_exit_port(struct run_options *o, const char *value)
{
    (void)value;
    o->config.exit_port = true;
    return NULL;
}

static const char *apply_portable(struct run_options *o, const char *value)
{
    (void)value;
    o->config.portable = true;
    return NULL;
}

static const char *apply_no_reboot(struct run_options *o, const char *value)
{
    (void)value;
    o->no_reboot = true;
    return NULL;
}

static const char *apply_perf_map(struct run_options *o, const char *value)
{
    (void)value;
    o->perf_map = true;
    return NULL;
}

static const char *apply_stats(struct run_options *o, const char *value)
{
    (void)value;
    o->stats = true;
    return NULL;
}

static const char *apply_no_sandbox(struct run_options *o, const char *value)
{
    (void)value;
    o->no_sandbox = true;
    return NULL;
}

static const char *apply_verbose(struct run_options *o, const char *value)
{
    (void)value;
    if (o->log_level < SEAM_LOG_DEBUG)
        o->log_level++;
    return NULL;
}

static const char *apply_detach(struct run_options *o, const char *value)
{
    (void)value;
    o->detach = true;
    return NULL;
}

static const char *apply_paused(struct run_options *o, const char *value)
{
    (void)value;
    o->paused = true;
    return NULL;
}

static const char *apply_verify(struct run_options *o, const char *value)
{
    (void)value;
    o->verify = true;
    return NULL;
}

static const char *apply_copies(struct run_options *o, const char *value)
{
    size_t digits = strspn(value, "0123456789");

    o->copies = digits > 0 && digits < 5 && !value[digits] ? (uint32_t)strtoul(value, NULL, 10) : 0;
    return o->copies >= 1 && o->copies <= OPTIONS_COPIES ? NULL : "is not a number of copies (give 1 to 1000)";
}

static const char *apply_output(struct run_options *o, const char *value)
{
    return value[0] ? copy_value(o->output, sizeof(o->output), value) : "is no name of a file (give one)";
}

static const char *apply_native(struct run_options *o, const char *value)
{
    return value[0] ? copy_value(o->native, sizeof(o->native), value) : "is no name of a file (give one)";
}

static const char *apply_help(struct run_options *o, const char *value)
{
    (void)value;
    o->help = true;
    return NULL;
}

static const struct option options[] = {
    /* table */
    {RUN | RESTORE, 'k', "kernel", true, apply_kernel},
    {RUN | RESTORE, 'i', "initrd", true, apply_initrd},
    {RUN, 0, "append", true, apply_append},
    {RUN, 'm', "memory", true, apply_memory},
    {RUN, 'c', "cpus", true, apply_cpus},
    {RUN, 0, "cpu", true, apply_level},
    {RUN, 0, "portable", false, apply_portable},
    {ALL, 'e', "engine", true, apply_engine},
    {ALL, 0, "translator", true, apply_translator},
    {ALL, 0, "name", true, apply_name},
    {FORK, 'n', "copies", true, apply_copies},
    {RUN, 0, "exit-port", false, apply_exit_port},
    {ALL, 0, "no-reboot", false, apply_no_reboot},
    {RESTORE, 0, "verify", false, apply_verify},
    {ALL, 0, "paused", false, apply_paused},
    {RUN | RESTORE, 'd', "detach", false, apply_detach},
    {RUN | RESTORE, 0, "stats", false, apply_stats},
    {RUN | RESTORE, 0, "perf-map", false, apply_perf_map},
    {ALL, 0, "no-sandbox", false, apply_no_sandbox},
    {ALL, 'v', "verbose", false, apply_verbose},
    {IMAGE, 'o', "output", true, apply_output},
    {IMAGE, 0, "native", true, apply_native},
    {ALL | IMAGE, 'h', "help", false, apply_help},
};

/* One walk over the arguments. */
struct walk {
    struct run_options *o;
    int argc;
    char **argv;
    int at;
    bool apply;
    enum options_command command;
    const char *file; /* or the name of a VM */
    char *message;
};

static int fail(const struct walk *w, const char *format, ...) printf_like(2, 3);
static int fail(const struct walk *w, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    vsnprintf(w->message, OPTIONS_MESSAGE, format, ap);
    va_end(ap);
    return ERR_INVALID;
}

static const char *command_name(const struct walk *w)
{
    return command_names[w->command];
}

static bool is_of_command(const struct walk *w, const struct option *opt)
{
    return opt->commands >> w->command & 1;
}

/* An option was recognised. `shown` is how the user wrote it; `value` what came attached. */
static int take_option(struct walk *w, const struct option *opt, const char *shown,
                       const char *value)
{
    const char *wrong;

    if (!opt->takes_value && value)
        return fail(w, "option '--%s' takes no value (leave '=%s' out)", opt->name, value);
    if (opt->takes_value && !value) {
        if (w->at + 1 >= w->argc)
            return fail(w, "option '%s' needs a value (see 'lodge help %s')", shown, command_name(w));
        value = w->argv[++w->at];
    }
    if (!w->apply && opt->apply != apply_help)
        return OK;
    wrong = opt->apply(w->o, value);
    return wrong ? fail(w, "%s '%.64s' %s", shown, value, wrong) : OK;
}

static int take_long(struct walk *w, const char *arg)
{
    const char *equals = strchr(arg, '=');
    size_t n = equals ? (size_t)(equals - arg) : strlen(arg);
    char shown[32];

    for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
        if (!is_of_command(w, &options[i]) || strlen(options[i].name) != n ||
            memcmp(options[i].name, arg, n) != 0)
            continue;
        snprintf(shown, sizeof(shown), "--%s", options[i].name);
        return take_option(w, &options[i], shown, equals ? equals + 1 : NULL);
    }
    return fail(w, "unknown option '--%.64s' (see 'lodge help %s')", arg, command_name(w));
}

/* "-k", "-kFILE", "-vv" */
static int take_letters(struct walk *w, const char *arg)
{
    for (; *arg; arg++) {
        const struct option *opt = NULL;
        char shown[3] = {'-', *arg, 0};
        int err;

        for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
            if (is_of_command(w, &options[i]) && options[i].letter == *arg)
                opt = &options[i];
        }
        if (!opt)
            return fail(w, "unknown option '%s' (see 'lodge help %s')", shown, command_name(w));
        err = take_option(w, opt, shown, opt->takes_value && arg[1] ? arg + 1 : NULL);
        if (err || opt->takes_value)
            return err;
    }
    return OK;
}

static int take_file(struct walk *w, const char *arg)
{
    if (w->file && w->file != arg && w->command == OPTIONS_FORK)
        return fail(w, "two VMs, '%.64s' and '%.64s' (give one)", w->file, arg);
    if (w->file && w->file != arg)
        return fail(w, "two files, '%.256s' and '%.256s' (give one; %s)", w->file, arg,
                    w->command == OPTIONS_IMAGE ? "the image's name goes after -o" : "a kernel goes after -k");
    w->file = arg;
    return OK;
}

static int walk_arguments(struct walk *w)
{
    bool only_files = false;
    int err = OK;

    for (w->at = 0; w->at < w->argc && !err; w->at++) {
        const char *arg = w->argv[w->at];

        if (only_files || arg[0] != '-' || !arg[1])
            err = take_file(w, arg);
        else if (strcmp(arg, "--") == 0)
            only_files = true;
        else if (arg[1] == '-')
            err = take_long(w, arg + 2);
        else
            err = take_letters(w, arg + 1);
    }
    return err;
}

int options_path_beside(char *path, const char *file, const char *what, char *message)
{
    const char *slash = strrchr(file, '/');
    char whole[CONFIG_PATH];
    int n;

    if (!path[0] || path[0] == '/' || !slash)
        return OK;
    n = snprintf(whole, sizeof(whole), "%.*s/%s", (int)(slash - file), file, path);
    if (n >= (int)sizeof(whole)) {
        snprintf(message, OPTIONS_MESSAGE, "%.256s: the path of the %s is too long (shorten it)",
                 file, what);
        return ERR_INVALID;
    }
    memcpy(path, whole, (size_t)n + 1);
    return OK;
}

static int read_vm_file(struct vm_config *c, const char *file, char *message)
{
    struct file_bytes f;
    struct file_request r = {"configuration file", file, CONFIG_FILE_MAX, "is it a VM.toml?"};
    int err = file_read(&f, &r, message, OPTIONS_MESSAGE);

    if (err)
        return err;
    err = vm_config_parse(c, file, (const char *)f.bytes, f.size, message);
    file_free(&f);
    if (!err)
        err = options_path_beside(c->kernel, file, "kernel", message);
    if (!err)
        err = options_path_beside(c->initrd, file, "initrd", message);
    return err;
}

int options_parse_run(struct run_options *o, int argc, char **argv, char *message)
{
    struct walk w = {.o = o, .argc = argc, .argv = argv, .message = message, .command = OPTIONS_RUN};
    int err;

    *o = (struct run_options){.log_level = SEAM_LOG_WARNING};
    vm_config_defaults(&o->config);
    err = walk_arguments(&w);
    if (err || o->help)
        return err;
    if (w.file)
        err = read_vm_file(&o->config, w.file, message);
    w.apply = true;
    if (!err)
        err = walk_arguments(&w);
    if (!err)
        err = vm_config_check(&o->config, message);
    return err;
}

int options_parse_saved(struct run_options *o, enum options_command command, int argc, char **argv, char *message)
{
    struct walk w = {.o = o, .argc = argc, .argv = argv, .message = message, .command = command, .apply = true};
    int err;

    *o = (struct run_options){.log_level = SEAM_LOG_WARNING, .copies = 1};
    vm_config_defaults(&o->config);
    err = walk_arguments(&w);
    if (err || o->help)
        return err;
    if (!w.file)
        return fail(&w, "no %s given (see 'lodge help %s')",
                    command == OPTIONS_FORK    ? "VM"
                    : command == OPTIONS_IMAGE ? "fleet"
                                               : "file",
                    command_name(&w));
    if (command == OPTIONS_IMAGE && !o->output[0])
        return fail(&w, "no name for the image given (add -o FILE.iso)");
    if (str_copy(o->saved, sizeof(o->saved), w.file) >= sizeof(o->saved))
        return fail(&w, "'%.256s' is too long a path (shorten it)", w.file);
    return vm_config_check_values(&o->config, message);
}
