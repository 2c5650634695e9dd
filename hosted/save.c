/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * `lodge save`, `restore` and `fork` (docs/saved.md). The first is a client that writes a file; the others become a
 * VM's process.
 *
 * While a file is written memory is read that the VM's process may have mapped from a file of its own (it was
 * restored): if that is cut off there is SIGBUS, which ends this program. What it was writing has no name
 * (saved_file.c), so nothing is left.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/mem.h"
#include "hosted/commands.h"
#include "hosted/detach.h"
#include "hosted/frozen.h"
#include "hosted/log.h"
#include "hosted/saved_file.h"
#include "hosted/vm_process.h"

static enum lodge_status status_of(int err)
{
    return err == ERR_NO_MEMORY || err == ERR_IO || err == ERR_PERMISSION ? STATUS_HOST : STATUS_USAGE;
}

/* Asks the VM for itself, frozen. The connection, to be kept for as long as what comes is used; -1: it has been said
 * why not. */
static int ask_for_frozen(const char *name, const char *request)
{
    int fd = command_connect(name);

    return fd >= 0 && command_request(fd, name, request) ? fd : -1;
}

/* Waits for it. False: it has been said why not. */
static bool take_frozen(int fd, const char *name, struct frozen *f)
{
    char message[SAVED_MESSAGE];
    int files[CONTROL_FILES];
    uint32_t count;

    if (!command_answer(fd, name, NULL, 0, files, &count))
        return false;
    if (frozen_take(f, files, count, message) == OK)
        return true;
    say("%s: %s", name, message);
    return false;
}

/* --- save ----------------------------------------------------------------------------------------
 */

static void on_sigbus(int signal)
{
    static const char text[] = "lodge: the VM's memory was cut off meanwhile, or the file that it was restored from: nothing was saved\n";

    (void)signal;
    (void)!write(STDERR_FILENO, text, sizeof(text) - 1);
    _exit(STATUS_HOST);
}

static int write_file(struct frozen *f, const char *path, char *message)
{
    struct saved_image image = {.config = &f->saved.config,
                                .level = &f->saved.level,
                                .tsc_khz = f->saved.tsc_khz,
                                .machine = f->saved.machine,
                                .machine_size = f->saved.machine_size,
                                .gap = SAVED_FILE_GAP};

    image.ram = frozen_view(f, message);
    if (!image.ram)
        return ERR_NO_MEMORY;
    image.range = f->range;
    image.ranges = f->ranges;
    return saved_file_write(path, &image, message);
}

enum lodge_status command_save(int argc, char **argv)
{
    char message[SAVED_MESSAGE];
    struct frozen f;
    int fd, err;

    if (argc != 2 || argv[0][0] == '-' || argv[1][0] == '-') {
        say("usage: lodge save NAME FILE (see 'lodge ps' for names)");
        return STATUS_USAGE;
    }
    fd = ask_for_frozen(argv[0], "freeze");
    if (fd < 0 || !take_frozen(fd, argv[0], &f))
        return STATUS_OPERATOR;
    signal(SIGBUS, on_sigbus);
    err = write_file(&f, argv[1], message);
    if (err)
        say("%s", message);
    close(fd);
    frozen_close(&f);
    return err ? status_of(err) : STATUS_OK;
}

/* --- restore -------------------------------------------------------------------------------------
 */

/* Parses; true: there is more to do. */
static bool parse(struct run_options *o, enum options_command command, int argc, char **argv, const char *help,
                  enum lodge_status *status)
{
    char message[OPTIONS_MESSAGE];
    int err = options_parse_saved(o, command, argc, argv, message);

    *status = err ? STATUS_USAGE : STATUS_OK;
    if (err)
        say("%s", message);
    else if (o->help)
        fputs(help, stdout);
    return !err && !o->help;
}

enum lodge_status command_restore(int argc, char **argv)
{
    static struct saved_file file;
    static struct restore_origin origin;
    char message[SAVED_MESSAGE];
    struct detached d;
    struct run_options o;
    enum lodge_status status;
    int tell = -1, err;

    if (!parse(&o, OPTIONS_RESTORE, argc, argv, options_restore_help, &status))
        return status;
    err = saved_file_open(&file, o.saved, message);
    if (err) {
        say("%s", message);
        return status_of(err);
    }
    origin = (struct restore_origin){.saved = &file.saved, .file = &file};
    if (o.detach && !detach_fork(&d, &tell)) {
        if (d.pid >= 0)
            return detach_wait(&d);
        say("cannot make a process: %s (raise 'ulimit -u')", strerror(errno));
        return STATUS_HOST;
    }
    return vm_process_run(&o, &origin, tell);
}

/* --- fork ----------------------------------------------------------------------------------------
 */

/* The name of a copy: the next one of that kind that no VM has. *number is the last that was tried. */
static bool name_copy(char name[VM_NAME_SIZE], const char *base, uint32_t *number)
{
    char message[CONTROL_MESSAGE];
    int fd;

    do {
        if (snprintf(name, VM_NAME_SIZE, "%s-%u", base, ++*number) >= VM_NAME_SIZE)
            return false;
        fd = control_connect(name, 1, message);
        if (fd >= 0)
            close(fd);
    } while (fd >= 0);
    return true;
}

enum { NUMBER = 5 /* digits of a copy's number, at most */ };
enum { BATCH = 32 /* copies that begin at once: each has a descriptor here */ };

struct copies {
    struct run_options options;
    int original; /* the connection to it, which it sends itself over; -1: it has come */
    struct frozen frozen;
    struct restore_origin origin;
    bool is_named; /* the only one has a name of its own */
    char base[VM_NAME_SIZE];
    uint32_t number;
    uint32_t count; /* of those that are beginning */
    struct detached started[BATCH];
    char name[BATCH][VM_NAME_SIZE];
};

static bool take_original(struct copies *c)
{
    if (!take_frozen(c->original, c->options.saved, &c->frozen))
        return false;
    close(c->original);
    c->original = -1;
    c->origin = (struct restore_origin){.saved = &c->frozen.saved, .frozen = &c->frozen};
    return true;
}

/* In the copy's process: nothing of the others is left there, and it does not return. */
static _Noreturn void become_copy(struct copies *c, int tell)
{
    if (c->original >= 0 && !take_original(c))
        exit(STATUS_OPERATOR);
    for (uint32_t n = 0; n < c->count; n++)
        close(c->started[n].ready);
    memcpy(c->options.config.name, c->name[c->count], VM_NAME_SIZE);
    exit((int)vm_process_run(&c->options, &c->origin, tell));
}

static bool start_copy(struct copies *c)
{
    char *name = c->name[c->count];
    int tell;

    if (c->is_named) {
        memcpy(name, c->base, sizeof(c->base));
    } else if (!name_copy(name, c->base, &c->number)) {
        say("the name '%s-%u' is too long (give a shorter --name)", c->base, c->number);
        return false;
    }
    if (detach_fork(&c->started[c->count], &tell))
        become_copy(c, tell);
    if (c->started[c->count].pid >= 0) {
        c->count++;
        return true;
    }
    say("cannot make a process: %s (raise 'ulimit -u' or 'ulimit -n')", strerror(errno));
    return false;
}

/* Until all that are beginning run. */
static enum lodge_status wait_for_copies(struct copies *c)
{
    enum lodge_status status = STATUS_OK, one;

    for (uint32_t n = 0; n < c->count; n++) {
        one = detach_wait(&c->started[n]);
        if (one == STATUS_OK)
            puts(c->name[n]);
        else
            status = one;
    }
    c->count = 0;
    return status;
}

static enum lodge_status start_copies(struct copies *c)
{
    enum lodge_status status = STATUS_OK;
    bool going = true;

    for (uint32_t left = c->options.copies; left > 0 && going && status == STATUS_OK;) {
        for (; left > 0 && c->count < BATCH && (going = start_copy(c)); left--)
            continue;
        status = wait_for_copies(c);
    }
    return status == STATUS_OK && !going ? STATUS_HOST : status;
}

/* A single copy takes what it is made of by itself: its process is made while the original is being frozen. */
enum lodge_status command_fork(int argc, char **argv)
{
    static struct copies c;
    struct vm_config defaults;
    enum lodge_status status;
    const char *base;

    if (!parse(&c.options, OPTIONS_FORK, argc, argv, options_fork_help, &status))
        return status;
    vm_config_defaults(&defaults);
    base = c.options.config.name;
    c.is_named = strcmp(base, defaults.name) != 0 && c.options.copies == 1;
    (void)str_copy(c.base, sizeof(c.base), strcmp(base, defaults.name) == 0 ? c.options.saved : base);
    if (!c.is_named && strlen(c.base) + 1 + NUMBER > VM_NAME_SIZE - 1) {
        say("the name '%s' is too long to be numbered (give a shorter --name)", c.base);
        return STATUS_USAGE;
    }
    c.original = ask_for_frozen(c.options.saved, "fork");
    if (c.original < 0 || (c.options.copies > 1 && !take_original(&c)))
        return STATUS_OPERATOR;
    return start_copies(&c);
}
