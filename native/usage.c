/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The operator's commands about shares: usage, top, set. On the operator's thread.
 *
 * usage is for accounts: everything since the machine began to run, in seconds to the microsecond, of each VM and each tenant; its last
 * lines say where the rest of the machine's time went, and that it adds up. top is for looking: parts of the last second, the busiest first.
 */
#include "core/fmt.h"
#include "core/mem.h"
#include "core/seam.h"
#include "native/cpu.h"
#include "native/fleet.h"
#include "native/meter.h"
#include "native/operator.h"

enum { US = 1000, MS = 1000000, S = 1000000000, PAGES_OF_MIB = 256, TOP_VMS = 18 };

/* Readings, of the last second and now; only the operator's thread uses them. */
static struct meter_reading readings[2];
static uint32_t newest;

/* --- usage --------------------------------------------------------------------------------------- */

static const char *tenant_of(const struct guest *g)
{
    return g->definition->tenant[0] ? g->definition->tenant : "-";
}

#define TIME     "%6llu.%06llu"
#define TIME_OF(ns) (unsigned long long)((ns) / S), (unsigned long long)((ns) % S / US)

static void say_use(const char *name, const char *tenant, const struct meter_use *u)
{
    uint64_t mib_ms = (u->page_s * 1000 + u->page_ns / MS) / PAGES_OF_MIB; /* rounded once: tenants are the sum of their VMs */

    operator_say("%-20s %-16s " TIME " " TIME " " TIME " %10llu.%03llu", name, tenant, TIME_OF(u->guest_ns),
                 TIME_OF(u->overhead_ns), TIME_OF(u->steal_ns), (unsigned long long)(mib_ms / 1000),
                 (unsigned long long)(mib_ms % 1000));
}

/* Is it the first one of its tenant? */
static bool begins_tenant(uint32_t i)
{
    const char *tenant = fleet_guest(i)->definition->tenant;

    if (!tenant[0])
        return false;
    for (uint32_t k = 0; k < i; k++) {
        if (str_equal(fleet_guest(k)->definition->tenant, tenant))
            return false;
    }
    return true;
}

static void say_tenant(const struct meter_reading *r, uint32_t first)
{
    const char *tenant = fleet_guest(first)->definition->tenant;
    struct meter_use sum = {0};

    for (uint32_t i = first; i < fleet_guests(); i++) {
        if (str_equal(fleet_guest(i)->definition->tenant, tenant))
            meter_add(&sum, &r->vm[i]);
    }
    say_use("(all of)", tenant, &sum);
}

static uint32_t scheduling_cpus(void)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < cpu_count; i++)
        n += cpu_table[i]->idle != NULL;
    return n;
}

static void say_rest(const struct meter_reading *r)
{
    const struct scheduler_use *all = &r->all;
    uint64_t sum = all->before_ns + all->idle_ns + all->own_ns;
    uint32_t cpus = scheduling_cpus();

    for (uint32_t i = 0; i < fleet_guests(); i++)
        sum += meter_ran(&r->vm[i]);
    operator_say("for no VM: starting up " TIME ", Lodge itself " TIME ", idle " TIME, TIME_OF(all->before_ns),
                 TIME_OF(all->own_ns), TIME_OF(all->idle_ns));
    operator_say("together " TIME " of %u CPU%s x " TIME, TIME_OF(sum), cpus, cpus == 1 ? "" : "s", TIME_OF(all->now));
}

void usage_say(const char *rest)
{
    struct meter_reading *r = &readings[newest];

    (void)rest;
    meter_read(r);
    operator_say("%-20s %-16s %13s %13s %13s %14s", "NAME", "TENANT", "GUEST/s", "OVERHEAD/s", "STEAL/s", "MEM/MiB*s");
    for (uint32_t i = 0; i < fleet_guests(); i++)
        say_use(fleet_guest(i)->definition->config.name, tenant_of(fleet_guest(i)), &r->vm[i]);
    for (uint32_t i = 0; i < fleet_guests(); i++) {
        if (begins_tenant(i))
            say_tenant(r, i);
    }
    say_rest(r);
}

void usage_cpu_ns(uint64_t ns[])
{
    struct meter_reading *r = &readings[newest];

    meter_read(r);
    for (uint32_t i = 0; i < fleet_guests(); i++)
        ns[i] = meter_ran(&r->vm[i]);
}

/* --- top ----------------------------------------------------------------------------------------- */

/* In tenths of a percent of one CPU. */
static uint32_t part(uint64_t ns, uint64_t of)
{
    return of ? (uint32_t)(ns / US * 1000 / (of / US + 1)) : 0;
}

#define PART     "%4u.%u"
#define PART_OF(p) (p) / 10, (p) % 10

/* One line of the screen; what stood there before goes. */
static void line(const char *format, ...) printf_like(1, 2);

static void line(const char *format, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, format);
    (void)fmt_v(text, sizeof(text), format, ap);
    va_end(ap);
    operator_say("%s\x1B[K", text);
}

static void say_vm(uint32_t i, const struct meter_use *u, uint64_t ns)
{
    struct guest *g = fleet_guest(i);
    const struct share_terms *t = &g->account.share.terms;

    line("%-20s " PART " " PART " " PART " %6llu %7u %4u %5u %7llu", g->definition->config.name, PART_OF(part(u->guest_ns, ns)),
         PART_OF(part(u->overhead_ns, ns)), PART_OF(part(u->steal_ns, ns)), (unsigned long long)(g->memory.pages / PAGES_OF_MIB),
         t->weight, t->reservation, t->limit, (unsigned long long)(t->burst_ns / MS));
}

/* Those that used most, at most TOP_VMS of them. */
static void say_busiest(const struct meter_reading *before, const struct meter_reading *after)
{
    static struct meter_use used[FLEET_VMS]; /* the operator's thread only */
    bool said[FLEET_VMS] = {false};
    uint32_t count = fleet_guests();

    for (uint32_t i = 0; i < count; i++)
        used[i] = meter_between(&before->vm[i], &after->vm[i]);
    for (uint32_t n = 0; n < TOP_VMS && n < count; n++) {
        uint32_t best = FLEET_VMS;

        for (uint32_t i = 0; i < count; i++) {
            if (!said[i] && (best == FLEET_VMS || meter_ran(&used[i]) > meter_ran(&used[best])))
                best = i;
        }
        said[best] = true;
        say_vm(best, &used[best], after->all.now - before->all.now);
    }
}

static void draw_top(void)
{
    const struct meter_reading *before = &readings[newest];
    struct meter_reading *after;
    uint64_t ns, up;

    newest ^= 1;
    after = &readings[newest];
    meter_read(after);
    ns = after->all.now - before->all.now;
    up = after->all.now / S;
    operator_write("\x1B[H", 3);
    line("up %llu s, %u CPUs; idle " PART " %%, Lodge itself " PART " %%; q ends", (unsigned long long)up, scheduling_cpus(),
         PART_OF(part(meter_passed(before->all.idle_ns, after->all.idle_ns), ns)), PART_OF(part(meter_passed(before->all.own_ns, after->all.own_ns), ns)));
    line("%-20s %6s %6s %6s %6s %7s %4s %5s %7s", "NAME", "GUEST%", "OVER%", "STEAL%", "MiB", "weight", "res%", "limit",
         "credit");
    say_busiest(before, after);
    operator_write("\x1B[J", 3);
}

void usage_top(const char *rest)
{
    (void)rest;
    meter_read(&readings[newest]);
    operator_write("\x1B[2J", 4);
    operator_redraw(draw_top, S);
}

/* --- set ----------------------------------------------------------------------------------------- */

enum { SET_TEXT = 512, SET_WORD = 160, PERCENT = 100 };

static struct fleet_vm changed; /* too large for a stack; the operator's thread only */

/* Words as they are typed, cpu.weight=200 cpu.pin=0-1, into lines of a fleet file. False: they have no room. */
static bool write_lines(const char *rest, char *text, size_t *size)
{
    char word[SET_WORD];

    *size = 0;
    while (command_next_word(&rest, word, sizeof(word))) {
        bool quoted = str_len(word) > 8 && memcmp(word, "cpu.pin=", 8) == 0 && word[8] != '"';

        if (str_len(word) == sizeof(word) - 1 || *size + SET_WORD + 4 > SET_TEXT)
            return false;
        *size += quoted ? fmt(text + *size, SET_TEXT - *size, "cpu.pin=\"%s\"\n", word + 8)
                        : fmt(text + *size, SET_TEXT - *size, "%s\n", word);
    }
    return true;
}

static void say_shares(const struct guest *g)
{
    const struct share_terms *t = &g->account.share.terms;
    char cpus[FLEET_CPUS_TEXT];

    fleet_cpus_text(g->pin, cpus);
    operator_say("cpu.weight=%u cpu.reservation=%u cpu.limit=%u cpu.credit=%llu%s%s", t->weight, t->reservation, t->limit,
                 (unsigned long long)(t->burst_ns / MS), g->pin == UINT64_MAX ? "" : " cpu.pin=",
                 g->pin == UINT64_MAX ? "" : cpus);
}

static void begin_with_what_is(const struct guest *g)
{
    const struct share_terms *t = &g->account.share.terms;

    changed = *g->definition;
    changed.weight = t->weight;
    changed.reservation = t->reservation;
    changed.limit = t->limit;
    changed.credit = (uint32_t)(t->burst_ns / MS);
    changed.cpus = g->pin;
}

/* CPUs of that mask that there are, in percent. */
static uint32_t percent_there(uint64_t pin)
{
    uint32_t percent = 0;

    for (uint32_t i = 0; i < cpu_working; i++)
        percent += pin >> i & 1 ? PERCENT : 0;
    return percent;
}

/* What all that are not off, and g with these terms, have reserved on those CPUs alone. */
static uint32_t reserved_within(uint64_t set, const struct guest *g, uint32_t reservation, uint64_t pin)
{
    uint32_t sum = pin & ~set ? 0 : reservation;

    for (uint32_t i = 0; i < fleet_guests(); i++) {
        const struct guest *other = fleet_guest(i);

        if (other != g && guest_state(other) != GUEST_OFF && !(other->pin & ~set))
            sum += other->account.share.terms.reservation;
    }
    return sum;
}

bool usage_fits(const struct guest *g, uint32_t reservation, uint64_t pin)
{
    for (uint32_t i = 0; reservation && i <= fleet_guests(); i++) {
        uint64_t set = i < fleet_guests() ? fleet_guest(i)->pin | pin : UINT64_MAX;
        uint32_t sum = reserved_within(set, g, reservation, pin);

        if (sum > percent_there(set)) {
            operator_say("reservations together would be %u %% of a CPU, and there are %u %%: nothing is changed", sum,
                         percent_there(set));
            return false;
        }
    }
    return true;
}

/* A share that is not raised is not refused for what others have. */
static bool may_apply(const struct guest *g)
{
    bool raised = changed.reservation > g->account.share.terms.reservation || (g->pin & ~changed.cpus);

    if (changed.cpus != UINT64_MAX && (changed.cpus & ~fleet_cpus_there())) {
        operator_say("there are CPUs 0 to %u: nothing is changed", cpu_working - 1);
        return false;
    }
    return !raised || guest_state(g) == GUEST_OFF || usage_fits(g, changed.reservation, changed.cpus);
}

static void apply(struct guest *g)
{
    struct share_terms terms = {.weight = changed.weight,
                                .reservation = changed.reservation,
                                .limit = changed.limit,
                                .burst_ns = (uint64_t)changed.credit * MS};

    scheduler_account_set(&g->account, &terms);
    if (changed.cpus != g->pin)
        guest_pin(g, changed.cpus);
}

void usage_set(struct guest *g, const char *rest)
{
    char text[SET_TEXT], message[CONFIG_MESSAGE];
    size_t size;

    if (!write_lines(rest, text, &size)) {
        operator_say("that is too long: nothing is changed");
        return;
    }
    begin_with_what_is(g);
    if (fleet_vm_set(&changed, text, size, message) != OK) {
        operator_say("%s: nothing is changed", message);
        return;
    }
    if (!may_apply(g))
        return;
    apply(g);
    say_shares(g);
}
