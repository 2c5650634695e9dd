/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Subcommands that speak to a running VM over its control socket (control.c has the other end). Answers come from a
 * process that runs a guest: they are bounded, and what is printed of them is made plain.
 */
#include "hosted/commands.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/mem.h"
#include "core/seam.h"
#include "hosted/log.h"
#include "hosted/seam.h"
#include "machine/config.h"

enum {
    PATIENCE_S = 30,  /* for an answer; a freeze moves all of a guest's memory in the worst case */
    STOP_S = 60,      /* for a guest to power off, by default */
    STOP_FORCE_S = 20, /* the same, if it is ended then */
    END_S = 15,       /* for a VM that was told to end */
    STOP_MAX_S = 86400,
};

/* --- asking --------------------------------------------------------------------------------------
 */

int command_connect(const char *name)
{
    struct vm_config c;
    char message[CONFIG_MESSAGE]; /* not shorter than CONTROL_MESSAGE */
    int fd = -1;

    vm_config_defaults(&c);
    if (str_copy(c.name, sizeof(c.name), name) >= sizeof(c.name))
        snprintf(message, sizeof(message), "'%.64s...' is too long a name (see 'lodge ps')", name);
    else if (vm_config_check_values(&c, message) == OK) /* it becomes part of a path */
        fd = control_connect(name, PATIENCE_S, message);
    if (fd < 0)
        say("%s", message);
    return fd;
}

/* Text of another process: printable, or blank. UTF-8 stays, but for its control characters (U+0080 to U+009F). */
static void make_plain(char *text)
{
    for (unsigned char before = 0; *text; before = (unsigned char)*text++) {
        unsigned char c = (unsigned char)*text;
        bool control = (c < 0x20 && c != '\n' && c != '\t') || c == 0x7F;

        if (control || (c >= 0x80 && c < 0xA0 && (before < 0x80 || before == 0xC2)))
            *text = ' ';
    }
}

static bool no_answer(const char *name, bool ended)
{
    say("%.64s: no answer (%s)", name, ended || errno == EPIPE || errno == ECONNRESET ? "it has ended" : "try again");
    return false;
}

bool command_request(int fd, const char *name, const char *request)
{
    return control_send(fd, request, strlen(request), NULL, 0) || no_answer(name, false);
}

bool command_answer(int fd, const char *name, char *text, size_t size, int *files, uint32_t *count)
{
    static char answer[CONTROL_ANSWER + 1];
    int none[CONTROL_FILES];
    uint32_t no_count;
    ssize_t n = control_receive(fd, answer, CONTROL_ANSWER, files ? files : none, count ? count : &no_count);

    if (n <= 0)
        return no_answer(name, n == 0);
    answer[n] = '\0';
    make_plain(answer);
    if (strncmp(answer, "ok", 2) != 0) {
        say("%.64s: %.400s", name, strncmp(answer, "error ", 6) == 0 ? answer + 6 : answer);
        return false;
    }
    if (text)
        snprintf(text, size, "%s", answer[2] == '\n' ? answer + 3 : "");
    return true;
}

bool command_ask(int fd, const char *name, const char *request, char *text, size_t size, int *files,
                 uint32_t *count)
{
    return command_request(fd, name, request) && command_answer(fd, name, text, size, files, count);
}

/* One name, nothing else: NULL, and it has been said. */
static const char *only_name(const char *command, int argc, char **argv)
{
    if (argc == 1 && argv[0][0] != '-')
        return argv[0];
    say("'lodge %s' takes the name of a VM (see 'lodge ps')", command);
    return NULL;
}

/* Sends one request to the VM that the only argument names. */
static enum lodge_status simple(const char *command, const char *request, int argc, char **argv)
{
    const char *name = only_name(command, argc, argv);
    int fd = name ? command_connect(name) : -1;
    bool done = fd >= 0 && command_ask(fd, name, request, NULL, 0, NULL, NULL);

    if (fd >= 0)
        close(fd);
    return done ? STATUS_OK : name ? STATUS_OPERATOR : STATUS_USAGE;
}

enum lodge_status command_pause(int argc, char **argv)
{
    return simple("pause", "pause", argc, argv);
}

enum lodge_status command_resume(int argc, char **argv)
{
    return simple("resume", "resume", argc, argv);
}

enum lodge_status command_reset(int argc, char **argv)
{
    return simple("reset", "reset", argc, argv);
}

/* --- ending --------------------------------------------------------------------------------------
 */

/* The connection ends with the VM. */
static bool ends_within(int fd, unsigned int seconds)
{
    uint64_t end = seam_time_ns() + (uint64_t)seconds * 1000000000, now;
    char byte;

    while ((now = seam_time_ns()) < end) {
        struct pollfd p = {.fd = fd, .events = POLLIN};

        if (poll(&p, 1, (int)((end - now) / 1000000) + 1) > 0 && read(fd, &byte, 1) <= 0)
            return true;
    }
    return false;
}

/* Also removes its socket, by trying to connect. The kernel closes a process's descriptors in no order that one could rely
 * on, so somebody may still listen for a moment; longer, if it is another VM of that name. */
static enum lodge_status has_ended(const char *name)
{
    char message[CONTROL_MESSAGE];

    for (int tries = 0; tries < 50; tries++) {
        int fd = control_connect(name, 1, message);
        struct pollfd p = {.fd = fd, .events = POLLIN};

        if (fd < 0)
            break;
        (void)poll(&p, 1, 10);
        close(fd);
    }
    return STATUS_OK;
}

static enum lodge_status kill_it(int fd, const char *name)
{
    if (!command_ask(fd, name, "quit", NULL, 0, NULL, NULL))
        return STATUS_OPERATOR;
    if (ends_within(fd, END_S))
        return has_ended(name);
    say("%s does not end (a bug of Lodge: please report it; 'lodge ps' says its process)", name);
    return STATUS_ENGINE;
}

enum lodge_status command_kill(int argc, char **argv)
{
    const char *name = only_name("kill", argc, argv);
    int fd = name ? command_connect(name) : -1;

    if (fd < 0)
        return name ? STATUS_OPERATOR : STATUS_USAGE;
    return kill_it(fd, name);
}

struct stop_options {
    const char *name;
    bool force;
    unsigned int seconds; /* 0: the default */
};

static bool parse_seconds(const char *text, unsigned int *seconds)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);

    *seconds = (unsigned int)n;
    return text[0] >= '0' && text[0] <= '9' && !*end && n >= 1 && n <= STOP_MAX_S;
}

static bool parse_stop(struct stop_options *o, int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--force") == 0)
            o->force = true;
        else if (strcmp(argv[i], "--timeout") == 0 && i + 1 < argc && parse_seconds(argv[i + 1], &o->seconds))
            i++;
        else if (argv[i][0] != '-' && !o->name)
            o->name = argv[i];
        else
            return false;
    }
    return o->name != NULL;
}

enum lodge_status command_stop(int argc, char **argv)
{
    struct stop_options o = {0};
    int fd;

    if (!parse_stop(&o, argc, argv)) {
        say("usage: lodge stop [--force] [--timeout SECONDS] NAME (see 'lodge ps')");
        return STATUS_USAGE;
    }
    if (o.seconds == 0)
        o.seconds = o.force ? STOP_FORCE_S : STOP_S;
    fd = command_connect(o.name);
    if (fd < 0)
        return STATUS_OPERATOR;
    if (command_ask(fd, o.name, "power", NULL, 0, NULL, NULL)) {
        if (ends_within(fd, o.seconds))
            return has_ended(o.name);
        if (!o.force) {
            say("%s has not powered off within %u s, and runs on (use --force, or 'lodge kill')", o.name, o.seconds);
            return STATUS_OPERATOR;
        }
    } else if (!o.force) {
        return STATUS_OPERATOR;
    }
    return kill_it(fd, o.name);
}

/* --- looking -------------------------------------------------------------------------------------
 */

enum lodge_status command_inspect(int argc, char **argv)
{
    static char text[CONTROL_ANSWER + 1];
    bool json = argc > 0 && strcmp(argv[0], "--json") == 0;
    const char *name;
    int fd;

    if (!json && argc == 2 && strcmp(argv[1], "--json") == 0)
        argc = 1; /* JSON is the only form there is */
    name = only_name("inspect", argc - json, argv + json);
    fd = name ? command_connect(name) : -1;
    if (fd < 0)
        return name ? STATUS_OPERATOR : STATUS_USAGE;
    if (!command_ask(fd, name, "inspect", text, sizeof(text), NULL, NULL))
        return STATUS_OPERATOR;
    puts(text);
    return STATUS_OK;
}

/* One VM's line: pid, state, engine, vCPUs, memory, clock, processor time (inspect.c). */
static void print_vm(const char *name, char *line)
{
    make_plain(line);
    line[strcspn(line, "\n")] = '\0'; /* one line, whatever it says */

    char *field[7], *rest = line;
    unsigned int n = 0;

    while (n < ARRAY_SIZE(field) && (field[n] = strsep(&rest, "\t")))
        n++;
    if (n < ARRAY_SIZE(field))
        return;
    printf("%-20s %7s %-8s %-6s %5s %7llu %9.1f %9.1f\n", name, field[0], field[1], field[2], field[3],
           strtoull(field[4], NULL, 10) >> 20, (double)strtoull(field[5], NULL, 10) / 1e9,
           (double)strtoull(field[6], NULL, 10) / 1e9);
}

/* Those that have gone since the directory was read are passed over; one that does not answer soon is shown. */
static void ask_and_print(const char *name)
{
    char message[CONTROL_MESSAGE], answer[256] = "";
    int fd = control_connect(name, 1, message), files[CONTROL_FILES];
    uint32_t count = 0;
    ssize_t n = -1;

    if (fd < 0)
        return;
    if (control_send(fd, "status", 6, NULL, 0))
        n = control_receive(fd, answer, sizeof(answer) - 1, files, &count);
    for (uint32_t i = 0; i < count; i++)
        close(files[i]);
    if (n > 3 && strncmp(answer, "ok\n", 3) == 0)
        print_vm(name, answer + 3);
    else if (n < 0)
        printf("%-20s %7d no answer\n", name, control_peer(fd));
    close(fd);
}

/* NAME.sock: cuts the end off. */
static bool take_name(char *file)
{
    size_t n = strlen(file);

    if (n <= 5 || n - 5 >= VM_NAME_SIZE || strcmp(file + n - 5, ".sock") != 0)
        return false;
    file[n - 5] = '\0';
    return true;
}

static int is_socket(const struct dirent *d)
{
    return d->d_type == DT_SOCK;
}

enum lodge_status command_ps(int argc, char **argv)
{
    char directory[CONTROL_DIRECTORY];
    struct dirent **list = NULL;
    int count = 0;

    (void)argv;
    if (argc > 0) {
        say("'lodge ps' takes no arguments (leave them out)");
        return STATUS_USAGE;
    }
    if (!control_directory(directory)) {
        say("no place for control sockets: XDG_RUNTIME_DIR is not set, or too long (set it to a directory of your own)");
        return STATUS_HOST;
    }
    count = scandir(directory, &list, is_socket, alphasort); /* none: -1, and nothing to show */
    printf("%-20s %7s %-8s %-6s %5s %7s %9s %9s\n", "NAME", "PID", "STATE", "ENGINE", "VCPUS", "MEM/MiB", "UP/s",
           "CPU/s");
    for (int i = 0; i < count; i++) {
        if (take_name(list[i]->d_name))
            ask_and_print(list[i]->d_name);
        free(list[i]);
    }
    free(list);
    return STATUS_OK;
}
