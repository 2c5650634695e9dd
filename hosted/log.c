/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Lodge's own messages, on standard error. Until the guest runs they are written directly. From
 * then on they go through a bounded stream like the guest's output, because they come from any
 * thread with any lock held, and a stopped reader of standard error must not stop the machine.
 *
 * seam_log is what the machine and its devices use; most of what they report is something that the
 * guest did, so each VM has a token bucket: LOG_BURST lines at once, LOG_PER_SECOND after that, and
 * a count of what was left out. say() is for the home's own messages and has no limit.
 *
 * File-scope state: where messages go is one thing per process.
 */
#include "hosted/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/vm.h"
#include "hosted/home.h"
#include "hosted/terminal.h"

static _Atomic(struct outstream *) log_stream;

void log_use_stream(struct outstream *s)
{
    atomic_store(&log_stream, s);
}

static void put(const char *text, size_t n)
{
    struct outstream *s = atomic_load(&log_stream);

    if (s) {
        outstream_put(s, text, n);
        return;
    }
    while (n) {
        ssize_t done = write(STDERR_FILENO, text, n);

        if (done <= 0)
            return;
        text += done;
        n -= (size_t)done;
    }
}

void log_write(const char *text, size_t n)
{
    while (n && terminal_is_raw()) {
        const char *end = memchr(text, '\n', n);
        size_t line = end ? (size_t)(end - text) : n;

        put(text, line);
        if (end) {
            put("\r\n", 2);
            line++;
        }
        text += line;
        n -= line;
    }
    put(text, n);
}

/* One line, whatever it quotes (file names, a definition's strings): control characters would break
 * it, or reach the operator's terminal. */
void say(const char *format, ...)
{
    char line[4000];
    va_list ap;

    va_start(ap, format);
    vsnprintf(line, sizeof(line), format, ap);
    va_end(ap);
    for (char *p = line; *p; p++) {
        if ((unsigned char)*p < ' ' || *p == 0x7F)
            *p = '?';
    }
    say_raw("lodge: %s\n", line);
}

void say_raw(const char *format, ...)
{
    char buf[4096];
    va_list ap;
    int n;

    va_start(ap, format);
    n = vsnprintf(buf, sizeof(buf), format, ap);
    va_end(ap);
    if (n > 0)
        log_write(buf, (size_t)n < sizeof(buf) ? (size_t)n : sizeof(buf) - 1);
}

void log_limit_init(struct log_limit *l)
{
    *l = (struct log_limit){.tokens = LOG_BURST};
    pthread_mutex_init(&l->lock, NULL);
}

bool log_limit_take(struct log_limit *l, uint64_t now_ns, uint64_t *suppressed)
{
    static const uint64_t interval = 1000000000 / LOG_PER_SECOND;
    uint64_t new_tokens;
    bool allowed;

    pthread_mutex_lock(&l->lock);
    if (now_ns < l->refilled_ns) /* another thread looked at its clock later and came first */
        now_ns = l->refilled_ns;
    new_tokens = (now_ns - l->refilled_ns) / interval;
    if (new_tokens >= LOG_BURST - l->tokens) {
        l->tokens = LOG_BURST;
        l->refilled_ns = now_ns;
    } else {
        l->tokens += (uint32_t)new_tokens;
        l->refilled_ns += new_tokens * interval;
    }
    allowed = l->tokens > 0;
    *suppressed = 0;
    if (allowed) {
        l->tokens--;
        *suppressed = l->suppressed;
        l->suppressed = 0;
    } else {
        l->suppressed++;
    }
    pthread_mutex_unlock(&l->lock);
    return allowed;
}

void seam_log(const struct vm *vm, enum seam_log_level level, const char *line, size_t length)
{
    static const char *const names[] = {"error: ", "warning: ", "", "debug: "};
    struct home *h = vm ? vm->home : NULL;
    uint64_t suppressed = 0;
    int n = length < 1024 ? (int)length : 1024;

    if (level > (h ? h->options.log_level : SEAM_LOG_WARNING))
        return;
    if (h && !log_limit_take(&h->log_limit, seam_time_ns(), &suppressed))
        return;
    if (suppressed)
        say("%llu messages left out", (unsigned long long)suppressed);
    say("%s%.*s", names[level], n, line);
}
