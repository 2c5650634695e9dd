/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * grub-mkrescue, and what it runs in turn: found in PATH before anything is made, so that what is missing is said by
 * name, and run in a process group of its own, in our directory, with names of ours only: relative ones, since mtools
 * gives names with a '$' or a backquote in them to a shell, and that directory is where the operator wants the image.
 * What it prints goes to a file; if it fails the line that says most is shown.
 */
#include "hosted/image_tools.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/err.h"

#define PACKAGES "Debian: apt install grub-common grub-pc-bin grub-efi-amd64-bin xorriso mtools"

enum { LOG_READ = 64 << 10, LINE = 200 };

static const char *search_path(void)
{
    const char *path = getenv("PATH");

    return path && path[0] ? path : "/usr/local/bin:/usr/bin:/bin";
}

/* By PATH, but only in absolute directories: not in whatever directory the user stands in. */
static bool find_program(const char *name, char found[CONFIG_PATH])
{
    const char *at = search_path();

    for (; *at; at += strspn(at, ":")) {
        size_t n = strcspn(at, ":");
        struct stat st;

        if (at[0] == '/' && snprintf(found, CONFIG_PATH, "%.*s/%s", (int)n, at, name) < CONFIG_PATH &&
            stat(found, &st) == 0 && S_ISREG(st.st_mode) && access(found, X_OK) == 0)
            return true;
        at += n;
    }
    return false;
}

/* GRUB's own files, beside its program (PREFIX/bin/grub-mkrescue, PREFIX/lib/grub/PLATFORM). An image without one of
 * the two is made without a word, and boots on some machines only. Unknown if there is no such directory: no. */
static bool lacks_platform(const char *program, const char *platform)
{
    char *real = realpath(program, NULL), path[CONFIG_PATH];
    bool lacks = false;
    struct stat st;
    int n = -1;

    for (int up = 0; real && up < 2; up++) {
        char *slash = strrchr(real, '/');

        if (slash)
            *slash = '\0';
    }
    if (real)
        n = snprintf(path, sizeof(path), "%s/lib/grub", real);
    if (n > 0 && n < CONFIG_PATH && stat(path, &st) == 0) {
        n = snprintf(path, sizeof(path), "%s/lib/grub/%s/moddep.lst", real, platform);
        lacks = n < CONFIG_PATH && stat(path, &st) != 0;
    }
    free(real);
    return lacks;
}

static int not_there(const char *what, char *message)
{
    snprintf(message, IMAGE_MESSAGE, "making an image needs %s, which is not installed (" PACKAGES ")", what);
    return ERR_UNSUPPORTED;
}

int image_tools_find(struct image_tools *t, char *message)
{
    static const char *const others[] = {"xorriso", "mformat", "mcopy"};
    char found[CONFIG_PATH];

    if (!find_program("grub-mkrescue", t->program) && !find_program("grub2-mkrescue", t->program))
        return not_there("grub-mkrescue", message);
    for (size_t n = 0; n < ARRAY_SIZE(others); n++) {
        if (!find_program(others[n], found))
            return not_there(others[n], message);
    }
    if (lacks_platform(t->program, "i386-pc"))
        return not_there("GRUB for BIOS (i386-pc)", message);
    if (lacks_platform(t->program, "x86_64-efi"))
        return not_there("GRUB for UEFI (x86_64-efi)", message);
    return OK;
}

/* --- running it --------------------------------------------------------------------------------
 */

/* How much a line of theirs says about why: 2, xorriso's and its libraries' own failures; 1, an error of somebody's. */
static int worth(const char *line)
{
    static const char *const failures[] = {" : SORRY : ", " : FAILURE : ", " : FATAL : "};

    for (size_t n = 0; n < ARRAY_SIZE(failures); n++) {
        if (strstr(line, failures[n]))
            return 2;
    }
    return strstr(line, "rror") ? 1 : 0;
}

/* Of what it printed, the line that says most: the first failure, of which others follow; else the last error, else the
 * last. */
static void find_reason(const char *log, char line[LINE])
{
    int best = 0;

    line[0] = '\0';
    for (const char *at = log; *at;) {
        size_t n = strcspn(at, "\n");
        char here[LINE];
        int w;

        snprintf(here, sizeof(here), "%.*s", (int)n, at);
        w = worth(here);
        if (here[strspn(here, " \t\r")] && w >= best && best < 2) {
            best = w;
            memcpy(line, here, sizeof(here));
        }
        at += n + (at[n] == '\n');
    }
}

static void read_reason(const struct scratch *s, char line[LINE])
{
    static char log[LOG_READ + 1];
    char path[CONFIG_PATH + 8];
    int fd;
    ssize_t n = -1;
    off_t size;

    snprintf(path, sizeof(path), "%s/log", s->path);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        size = lseek(fd, 0, SEEK_END);
        n = pread(fd, log, LOG_READ, size > LOG_READ ? size - LOG_READ : 0);
        close(fd);
    }
    log[n > 0 ? n : 0] = '\0';
    find_reason(log, line);
}

/* Where it works, what it reads and writes, and that it is a group of its own. False: no memory. */
static bool set_up(posix_spawn_file_actions_t *files, posix_spawnattr_t *attributes, const struct scratch *s)
{
    sigset_t none, defaults;

    sigemptyset(&none);
    sigfillset(&defaults);
    sigdelset(&defaults, SIGXFSZ); /* stays ignored: a file size limit is an error value, which is said */
    return posix_spawn_file_actions_addchdir_np(files, s->path) == 0 &&
           posix_spawn_file_actions_addopen(files, STDIN_FILENO, "/dev/null", O_RDONLY, 0) == 0 &&
           posix_spawn_file_actions_addopen(files, STDOUT_FILENO, "log", O_WRONLY | O_CREAT | O_APPEND, 0600) == 0 &&
           posix_spawn_file_actions_adddup2(files, STDOUT_FILENO, STDERR_FILENO) == 0 &&
           posix_spawnattr_setflags(attributes,
                                    POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF) == 0 &&
           posix_spawnattr_setpgroup(attributes, 0) == 0 && posix_spawnattr_setsigmask(attributes, &none) == 0 &&
           posix_spawnattr_setsigdefault(attributes, &defaults) == 0;
}

static int spawn(const struct image_tools *t, const struct scratch *s, pid_t *pid)
{
    static char output[] = "-o", image[] = "image", tree[] = "tree", volume[] = "-volid", label[] = "LODGE";
    /* Within GRUB's own file, so that it can say why it does not load Lodge where nothing may be added to it: under Secure Boot,
     * signed by somebody. */
    static char modules[] = "--modules=all_video echo multiboot2 normal serial sleep terminal test true";
    static char path[4096], temporary[] = "TMPDIR=.", home[] = "HOME=.", locale[] = "LC_ALL=C";
    char *arguments[] = {(char *)(uintptr_t)t->program, modules, output, image, tree, volume, label, NULL};
    char *environment[] = {path, temporary, home, locale, NULL};
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    int error;

    if (snprintf(path, sizeof(path), "PATH=%s", search_path()) >= (int)sizeof(path))
        return ENAMETOOLONG;
    if (posix_spawn_file_actions_init(&files) != 0)
        return ENOMEM;
    if (posix_spawnattr_init(&attributes) != 0) {
        posix_spawn_file_actions_destroy(&files);
        return ENOMEM;
    }
    error = set_up(&files, &attributes, s) ? posix_spawn(pid, t->program, &files, &attributes, arguments, environment)
                                           : ENOMEM;
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    return error;
}

static int judge(const struct image_tools *t, const struct scratch *s, int status, char *message)
{
    char line[LINE];

    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return OK;
    read_reason(s, line);
    if (WIFSIGNALED(status))
        snprintf(message, IMAGE_MESSAGE, "%.300s was ended by signal %d (try again)", t->program, WTERMSIG(status));
    else
        snprintf(message, IMAGE_MESSAGE, "%.300s could not make the image: %s (is there room beside it?)", t->program,
                 line[0] ? line : "it does not say why");
    return ERR_IO;
}

int image_tools_run(const struct image_tools *t, const struct scratch *s, char *message)
{
    pid_t pid;
    int status, error = spawn(t, s, &pid);

    if (error) {
        snprintf(message, IMAGE_MESSAGE, "cannot run %.300s: %s (is it a program?)", t->program, strerror(error));
        return error == ENOMEM || error == EAGAIN ? ERR_NO_MEMORY : ERR_IO;
    }
    scratch_set_group(s, pid);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    scratch_set_group(s, 0);
    return judge(t, s, status, message);
}
