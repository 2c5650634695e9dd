/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * `lodge`: subcommands by a const table. Each takes the arguments after its name and returns the
 * exit status (status.h). The process begins by closing whatever descriptors it inherited beyond
 * the standard three, and by seeing that those three are open, so that no file lands on them.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/types.h"
#include "hosted/commands.h"
#include "hosted/detach.h"
#include "hosted/doctor.h"
#include "hosted/log.h"
#include "hosted/options.h"
#include "hosted/status.h"
#include "hosted/vm_process.h"
#include "lodge/version.h"

struct command {
    const char *name;
    const char *summary;
    enum lodge_status (*run)(int argc, char **argv);
};

static enum lodge_status command_run(int argc, char **argv);
static enum lodge_status command_doctor(int argc, char **argv);
static enum lodge_status command_help(int argc, char **argv);
static enum lodge_status command_version(int argc, char **argv);

static const struct command commands[] = {
    {"run", "run a virtual machine on this terminal", command_run},
    {"ps", "list running virtual machines that have a name", command_ps},
    {"console", "attach this terminal to one", command_console},
    {"pause", "let one rest", command_pause},
    {"resume", "let it go on", command_resume},
    {"reset", "press its reset button", command_reset},
    {"stop", "press its power button, and wait for its end", command_stop},
    {"kill", "end it at once", command_kill},
    {"inspect", "all about it, as JSON", command_inspect},
    {"save", "write it to a file; it runs on", command_save},
    {"restore", "go on with one that was saved", command_restore},
    {"fork", "make copies of it that share its memory", command_fork},
    {"image", "make what a machine boots: Lodge, and a fleet of VMs", command_image},
    {"doctor", "say what this host offers and which engine is taken", command_doctor},
    {"help", "this text, or 'lodge help run', 'restore', 'fork' or 'image'", command_help},
    {"version", "the version of this program", command_version},
};

static const struct command *find_command(const char *name)
{
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        name = "help";
    if (strcmp(name, "--version") == 0)
        name = "version";
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

static enum lodge_status no_arguments(const char *name, int argc)
{
    if (argc == 0)
        return STATUS_OK;
    say("'lodge %s' takes no arguments (leave them out)", name);
    return STATUS_USAGE;
}

static enum lodge_status run_detached(const struct run_options *o)
{
    struct detached d;
    int tell;

    if (detach_fork(&d, &tell))
        return vm_process_run(o, NULL, tell);
    if (d.pid >= 0)
        return detach_wait(&d);
    say("cannot make a process: %s (raise 'ulimit -u')", strerror(errno));
    return STATUS_HOST;
}

static enum lodge_status command_run(int argc, char **argv)
{
    struct run_options o;
    char message[OPTIONS_MESSAGE];
    int err = options_parse_run(&o, argc, argv, message);

    if (err) {
        say("%s", message);
        return err == ERR_NO_MEMORY ? STATUS_HOST : STATUS_USAGE;
    }
    if (o.help) {
        fputs(options_run_help, stdout);
        return STATUS_OK;
    }
    return o.detach ? run_detached(&o) : vm_process_run(&o, NULL, -1);
}

static enum lodge_status command_doctor(int argc, char **argv)
{
    enum lodge_status status = no_arguments("doctor", argc);

    (void)argv;
    return status ? status : doctor_run();
}

static void print_commands(void)
{
    puts("usage: lodge COMMAND [ARGUMENT]...\n");
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        printf("  %-8s %s\n", commands[i].name, commands[i].summary);
}

static enum lodge_status command_help(int argc, char **argv)
{
    static const struct {
        const char *command, *text;
    } helps[] = {{"run", options_run_help}, {"restore", options_restore_help},
                 {"fork", options_fork_help}, {"image", options_image_help}};

    if (argc == 0) {
        print_commands();
        return STATUS_OK;
    }
    for (size_t i = 0; argc == 1 && i < ARRAY_SIZE(helps); i++) {
        if (strcmp(argv[0], helps[i].command) == 0) {
            fputs(helps[i].text, stdout);
            return STATUS_OK;
        }
    }
    say("there is no more help on '%.64s' (see 'lodge help' and 'lodge help run')", argv[0]);
    return STATUS_USAGE;
}

static enum lodge_status command_version(int argc, char **argv)
{
    enum lodge_status status = no_arguments("version", argc);

    (void)argv;
    if (status == STATUS_OK)
        puts("lodge " LODGE_VERSION);
    return status;
}

/* All from `first` on. In one call since Linux 5.9; not every C library has closefrom(). */
static void close_inherited(unsigned int first)
{
    if (syscall(SYS_close_range, first, ~0u, 0) == 0)
        return;
    for (long fd = (long)first; fd < sysconf(_SC_OPEN_MAX); fd++)
        close((int)fd);
}

/* False: a standard descriptor is closed and /dev/null cannot take its place. */
static bool prepare_descriptors(void)
{
    int fd;

    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    close_inherited(STDERR_FILENO + 1);
    return fd >= 0 || fcntl(STDERR_FILENO, F_GETFD) >= 0;
}

/* What a subcommand has printed (help, doctor) must have got there. */
static enum lodge_status finish_output(enum lodge_status status)
{
    bool failed = ferror(stdout);

    if ((fflush(stdout) == 0 && !failed) || status != STATUS_OK)
        return status;
    say("cannot write to standard output: %s", strerror(errno));
    return STATUS_OPERATOR;
}

int main(int argc, char **argv)
{
    const struct command *c;

    if (!prepare_descriptors())
        return STATUS_HOST;
    signal(SIGXFSZ, SIG_IGN); /* a file size limit ('ulimit -f') is an error value, EFBIG */
    if (argc < 2) {
        say("no command given (see 'lodge help')");
        return STATUS_USAGE;
    }
    c = find_command(argv[1]);
    if (!c) {
        say("unknown command '%.64s' (see 'lodge help')", argv[1]);
        return STATUS_USAGE;
    }
    return (int)finish_output(c->run(argc - 2, argv + 2));
}
