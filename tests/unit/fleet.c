/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The fleet file: what it takes, and the exact line that it answers to what it does not (docs/config.md, "Fleets").
 * Every bad input of the table is also tried cut off after each byte. What fits a machine, at the edges.
 */
#include <stdlib.h>
#include <string.h>

#include "machine/fleet.h"
#include "tests/lib/unit.h"

static struct fleet_vm vms[FLEET_VMS];
static struct fleet fleet;

static int parse_into(uint32_t capacity, const char *text, size_t size, char *message)
{
    /* A copy of exactly that size, so that the sanitizer sees a byte read too many. */
    char *copy = malloc(size ? size : 1);
    memcpy(copy, text, size);
    memset(vms, 0xA5, sizeof(vms));
    fleet = (struct fleet){.vm = vms, .capacity = capacity, .count = 9, .memory = 9, .cpus = 9};
    memset(message, 'x', CONFIG_MESSAGE);
    message[0] = 0;
    int err = fleet_parse(&fleet, "f.toml", copy, size, message);
    free(copy);
    return err;
}

static int parse(const char *text, char *message)
{
    return parse_into(FLEET_VMS, text, strlen(text), message);
}

static void must_parse(const char *text)
{
    char message[CONFIG_MESSAGE];
    CHECK_EQ(parse(text, message), OK);
    CHECK_STR(message, "");
}

static void test_one(void)
{
    must_parse("[[vm]]\nname = 'a'\nkernel = 'k'\n");
    CHECK_EQ(fleet.count, 1);
    CHECK_EQ(fleet.memory, 0);
    CHECK_EQ(fleet.cpus, 0);
    CHECK_STR(vms[0].config.name, "a");
    CHECK_STR(vms[0].config.kernel, "k");
    CHECK_STR(vms[0].config.level, "v3");
    CHECK_STR(vms[0].config.engine, "auto");
    CHECK_STR(vms[0].restore, "");
    CHECK_EQ(vms[0].config.memory, 512u << 20);
    CHECK_EQ(vms[0].config.vcpus, 1);
    CHECK_EQ(vms[0].weight, 100);
    CHECK_EQ(vms[0].reservation, 0);
    CHECK_EQ(vms[0].limit, 0);
    CHECK_EQ(vms[0].credit, 0);
    CHECK_EQ(vms[0].cpus, UINT64_MAX);
    CHECK_STR(vms[0].tenant, "");
    CHECK(vms[0].autostart);
    CHECK_EQ(vms[0].line, 1);
}

static void test_several(void)
{
    must_parse("# The machine\n"
               "[machine]\n"
               "memory = '8G'\n"
               "cpus = 4\n"
               "\n"
               "[[ vm ]] # first\r\n"
               "name = \"web\"\n"
               "kernel = 'a b/vmlinuz'\n"
               "initrd = \"i\\u00e9\"\n"
               "append = 'console=ttyS0'\n"
               "memory.size = '1G'\n"
               "vcpus = 2\n"
               "level = 'v2'\n"
               "exit_port = true\n"
               "engine = 'auto'\n"
               "[vm.cpu]\n"
               "weight = 10000\n"
               "reservation = 200\n"
               "limit = 200\n"
               "credit = 60000\n"
               "pin = '1-2'\n"
               "portable = true\n"
               "[[vm]]\n"
               "name = 'second'\n"
               "tenant = 'A.b_c-9'\n"
               "cpu.weight = 1\n"
               "cpu.count = 3\n"
               "autostart = false\n"
               "kernel = 'a b/vmlinuz'\n"
               "[[vm]]\n"
               "restore = './fleet'\n"
               "name = 'third'\n"
               "[vm.memory]\n");
    CHECK_EQ(fleet.count, 3);
    CHECK_EQ(fleet.memory, 8ull << 30);
    CHECK_EQ(fleet.cpus, 4);
    CHECK_STR(vms[0].config.initrd, "i\xC3\xA9");
    CHECK_STR(vms[0].config.append, "console=ttyS0");
    CHECK_STR(vms[0].config.level, "v2");
    CHECK(vms[0].config.exit_port && vms[0].config.portable);
    CHECK_EQ(vms[0].config.memory, 1ull << 30);
    CHECK_EQ(vms[0].config.vcpus, 2);
    CHECK_EQ(vms[0].weight, 10000);
    CHECK_EQ(vms[0].reservation, 200);
    CHECK_EQ(vms[0].limit, 200);
    CHECK_EQ(vms[0].credit, 60000);
    CHECK_EQ(vms[0].cpus, 6);
    CHECK_STR(vms[0].tenant, "");
    CHECK_EQ(vms[0].line, 6);
    CHECK_STR(vms[1].config.name, "second");
    CHECK_EQ(vms[1].weight, 1);
    CHECK_EQ(vms[1].config.vcpus, 3);
    CHECK(!vms[1].autostart);
    CHECK_STR(vms[1].config.append, ""); /* nothing of the VM before */
    CHECK_STR(vms[1].config.level, "v3");
    CHECK_EQ(vms[1].credit, 0);
    CHECK_EQ(vms[1].cpus, UINT64_MAX);
    CHECK_STR(vms[1].tenant, "A.b_c-9");
    CHECK_STR(vms[2].restore, "./fleet");
    CHECK_EQ(vms[2].line, 30);
    CHECK(vms[2].autostart);
}

/* The machine may come behind its VMs, and in dotted form. */
static void test_machine_forms(void)
{
    must_parse("[[vm]]\nname='a'\nkernel='k'\n[machine]\ncpus = 64\n");
    CHECK_EQ(fleet.cpus, 64);
    must_parse("machine.memory = 69206016\nmachine.cpus = 1\n[[vm]]\nname='a'\nkernel='k'");
    CHECK_EQ(fleet.memory, 69206016);
    CHECK_EQ(fleet.cpus, 1);
    CHECK(!fleet_shares_cores(&fleet));
    must_parse("[machine]\nsmt = 'shared'\n[[vm]]\nname='a'\nkernel='k'");
    CHECK(fleet_shares_cores(&fleet));
    must_parse("[machine]\nsmt = 'off'\n[[vm]]\nname='a'\nkernel='k'");
    CHECK(!fleet_shares_cores(&fleet));
}

#define VM "[[vm]]\nname = 'a'\nkernel = 'k'\n"

#define LONG "123456789012345678901234567890123456789012345678901234567890123" /* 63 bytes */
#define PIN_NUMBER(at) \
    "4: 'cpu.pin' is no list of CPUs: a number is missing at byte " at " (as in cpu.pin = \"0,2-3\")"
#define PIN_END(at) \
    "4: 'cpu.pin' is no list of CPUs: a comma or the end is missing at byte " at " (as in cpu.pin = \"0,2-3\")"

static void test_pins(void)
{
    static const struct {
        const char *list, *text; /* text: as it is said; NULL: the same */
        uint64_t cpus;
    } pin[] = {
        /* table */
        {"0", NULL, 1},
        {"63", NULL, UINT64_C(1) << 63},
        {"0-3", NULL, 15},
        {"0,2,4-5", NULL, 0x35},
        {"5,0", "0,5", 0x21},
        {"2-2", "2", 4},
        {"1,1,0-2", "0-2", 7},
        {"0-1,1-2", "0-2", 7},
        {"007,0000000000000000000000000000008", "7-8", 0x180},
        {"62-63", NULL, UINT64_C(3) << 62},
        {"0-63", NULL, UINT64_MAX},
        {"0-1,3-4,6-7,9-10,12-13,15-16,18-19,21-22,24-25,27-28,30-31,33-34,36-37,39-40,42-43,45-46,48-49,51-52,54-55,"
         "57-58,60-61,63",
         NULL, UINT64_C(0xB6DB6DB6DB6DB6DB)},
    };
    char text[256], list[FLEET_CPUS_TEXT];

    for (size_t n = 0; n < ARRAY_SIZE(pin); n++) {
        unit_context("case %zu", n);
        snprintf(text, sizeof(text), VM "cpu.pin = '%s'\n[machine]\ncpus = 64\n", pin[n].list);
        must_parse(text);
        CHECK_EQ(vms[0].cpus, pin[n].cpus);
        memset(list, 'x', sizeof(list));
        fleet_cpus_text(vms[0].cpus, list);
        CHECK_STR(list, pin[n].text ? pin[n].text : pin[n].list);
    }
    unit_context(NULL);
    must_parse("machine.cpus = 4\n" VM "cpu.pin = '3'\n");
    must_parse("machine.cpus = 1\n" VM); /* not pinned: no matter what there is */
    must_parse(VM "tenant = '" LONG "'\n");
    CHECK_STR(vms[0].tenant, LONG);
    fleet_cpus_text(0, list);
    CHECK_STR(list, "");
}

struct bad {
    const char *text;
    const char *message; /* what follows "f.toml:" */
};

static const struct bad bad[] = {
    /* table */
    {"", "1: the fleet has no VMs (add [[vm]] with a name and a kernel)"},
    {"[machine]\ncpus = 2", "2: the fleet has no VMs (add [[vm]] with a name and a kernel)"},
    {"[[vm]]", "1: this VM has no name (add name = \"...\" to it)"},
    {"\n[[vm]]\nkernel = 'k'\n" VM, "2: this VM has no name (add name = \"...\" to it)"},
    {"[[vm]]\nname = ''", "2: the name is empty (give one, or leave 'name' out)"},
    {"[[vm]]\nname = 'a'", "1: VM 'a' has no kernel (add kernel = \"FILE\", or restore = \"FILE\")"},
    {"[[vm]]\nname = 'a'\nkernel = ''", "3: VM 'a' has no kernel (add kernel = \"FILE\", or restore = \"FILE\")"},
    {VM VM, "5: there is a VM 'a' already, in line 1 (give this one another name)"},
    {VM "[[vm]]\nname='b'\nkernel='k'\n" VM, "8: there is a VM 'a' already, in line 1 (give this one another name)"},
    {"[[vm]]\nname = 'a'\nname = 'b'", "3: 'name' was already given as 'name' in line 2"},
    {VM "memroy = 1", "4: unknown key 'memroy' (the nearest known one is 'memory')"},
    {VM "cpu.wieght = 1", "4: unknown key 'cpu.wieght' (the nearest known one is 'cpu.weight')"},
    {VM "[vm.cpu]\nlimitt = 1", "5: unknown key 'cpu.limitt' (the nearest known one is 'cpu.limit')"},
    {VM "autostat = 1", "4: unknown key 'autostat' (the nearest known one is 'autostart')"},
    {VM "machine.cpus = 1", "4: unknown key 'machine.cpus' (the nearest known one is 'vcpus')"},
    {VM "cpu = 1", "4: 'cpu' is a table, not a key (open it with [vm.cpu])"},
    {VM "[vm.name]", "4: 'name' is not a table (as in name = \"debian\")"},
    {VM "[vm.cpu]\n[vm.cpu]", "5: [vm.cpu] was already opened in line 4"},
    {VM "cpu.weight = 1\n[vm.cpu]", "5: [vm.cpu] was already opened in line 4"},
    {VM "vcpus = 1\n[vm.cpu]\ncount = 1", "6: 'cpu.count' was already given as 'vcpus' in line 4"},
    {VM "memory = 4194304\n[vm.memory]", "5: 'memory' was already given a value in line 4"},
    {VM "disk.root = 'x'", "4: 'disk.root' is reserved for a later version of Lodge (remove it)"},
    {"tenant = 'x'", "1: 'tenant' is of no VM (put it behind the [[vm]] that it is of)"},
    {"tenant.x = 1", "1: 'tenant.x' is reserved for a later version of Lodge (remove it)"},
    {VM "memory.weight = 1", "4: 'memory.weight' is reserved for a later version of Lodge (remove it)"},
    {VM "[cpu]", "4: [cpu] is of no VM (write [vm.cpu], behind the [[vm]] that it is of)"},
    {"[memory]", "1: [memory] is of no VM (write [vm.memory], behind the [[vm]] that it is of)"},
    {"[vm.cpu]", "1: [vm.cpu] is of no VM (put it behind the [[vm]] that it is of)"},
    {"[vm]\nname = 'a'", "1: a VM begins with two brackets (write [[vm]])"},
    {"vm.name = 'a'", "1: 'vm.name' is of no VM (put it behind the [[vm]] that it is of)"},
    {"name = 'a'", "1: 'name' is of no VM (put it behind the [[vm]] that it is of)"},
    {"cpu.weight = 1", "1: 'cpu.weight' is of no VM (put it behind the [[vm]] that it is of)"},
    {"[[vms]]", "1: [[vms]] is not known (VMs are [[vm]])"},
    {VM "[[vm.cpu]]", "4: [[vm.cpu]] is not known (VMs are [[vm]])"},
    {"[[vm]", "1: the name of an array's table ends with ]]"},
    {"[[vm]] x", "1: unexpected text after the end of 'vm' (one key per line; comments start with #)"},
    {"[machine]\n[machine]", "2: [machine] was already opened in line 1"},
    {"[machines]", "1: unknown key 'machines' (the nearest known one is 'machine.smt')"},
    {"machine = 1", "1: 'machine' is a table, not a key (open it with [machine])"},
    {"machine.cpu = 1", "1: unknown key 'machine.cpu' (the nearest known one is 'machine.cpus')"},
    {"machine.cpus = 0", "1: a machine with 0 CPUs is out of range (1 to 64)"},
    {"machine.cpus = 65", "1: a machine with 65 CPUs is out of range (1 to 64)"},
    {"machine.cpus = -1", "1: 'machine.cpus' is out of range (as in machine.cpus = 4)"},
    {"machine.smt = 'on'", "1: smt is 'on' (off: one thread of each core runs VMs; shared: all do, and VMs may learn of "
                           "each other's secrets)"},
    {"machine.smt = 'sharedd'",
     "1: smt is 'sharedd' (off: one thread of each core runs VMs; shared: all do, and VMs may learn of each other's "
     "secrets)"},
    {"machine.smt = true", "1: 'machine.smt' wants a string (as in machine.smt = \"off\")"},
    {"machine.memory = 0", "1: a machine with 0 bytes of memory is out of range (66M to 64T)"},
    {"machine.memory = '65T'", "1: a machine with 71468255805440 bytes of memory is out of range (66M to 64T)"},
    {VM "cpu.weight = 0", "4: a weight of 0 is out of range (1 to 10000)"},
    {VM "cpu.weight = 10001", "4: a weight of 10001 is out of range (1 to 10000)"},
    {VM "cpu.weight = '1'", "4: 'cpu.weight' wants an integer (as in cpu.weight = 100)"},
    {VM "cpu.reservation = 1601", "4: a reservation of 1601 is out of range (percent of one CPU, 0 to 1600)"},
    {VM "cpu.limit = 1601", "4: a limit of 1601 is out of range (percent of one CPU, 1 to 1600, or 0 for none)"},
    {VM "cpu.limit = -1", "4: 'cpu.limit' is out of range (as in cpu.limit = 150)"},
    {VM "cpu.reservation = 101", "4: VM 'a' cannot use its reservation of 101 % of a CPU with 1 vCPUs (at most 100)"},
    {VM "cpu.limit = 49\ncpu.reservation = 50",
     "5: VM 'a' has a limit of 49 % of a CPU, less than its reservation of 50 % (raise it)"},
    {VM "cpu.credit = 60001", "4: a credit of 60001 is out of range (milliseconds of CPU time, 0 to 60000)"},
    {VM "cpu.credit = -1", "4: 'cpu.credit' is out of range (as in cpu.credit = 5000)"},
    {VM "cpu.credit = '5s'", "4: 'cpu.credit' wants an integer (as in cpu.credit = 5000)"},
    {VM "tenant = ''", "4: the tenant is empty (give one, or leave 'tenant' out)"},
    {VM "tenant = 'a b'", "4: the tenant may have letters, digits, '.', '_' and '-' only, and starts with a letter or digit"},
    {VM "tenant = '-a'", "4: the tenant may have letters, digits, '.', '_' and '-' only, and starts with a letter or digit"},
    {VM "tenant = '" LONG "x'", "4: 'tenant' is longer than 63 bytes (64)"},
    {VM "tenant = 1", "4: 'tenant' wants a string (as in tenant = \"acme\")"},
    {VM "[vm.tenant]", "4: 'tenant' is not a table (as in tenant = \"acme\")"},
    {VM "cpu.pin = 1", "4: 'cpu.pin' wants a string (as in cpu.pin = \"0,2-3\")"},
    {VM "cpu.pin = ''", "4: 'cpu.pin' names no CPU (as in cpu.pin = \"0,2-3\"; without it, it is all)"},
    {VM "cpu.pin = ','", PIN_NUMBER("1")},
    {VM "cpu.pin = '0,'", PIN_NUMBER("3")},
    {VM "cpu.pin = ',0'", PIN_NUMBER("1")},
    {VM "cpu.pin = '0,,1'", PIN_NUMBER("3")},
    {VM "cpu.pin = ' 0'", PIN_NUMBER("1")},
    {VM "cpu.pin = '0, 1'", PIN_NUMBER("3")},
    {VM "cpu.pin = '-1'", PIN_NUMBER("1")},
    {VM "cpu.pin = '1-'", PIN_NUMBER("3")},
    {VM "cpu.pin = '1--2'", PIN_NUMBER("3")},
    {VM "cpu.pin = 'all'", PIN_NUMBER("1")},
    {VM "cpu.pin = '+1'", PIN_NUMBER("1")},
    {VM "cpu.pin = '\xC2\xB2'", PIN_NUMBER("1")},
    {VM "cpu.pin = '0 '", PIN_END("2")},
    {VM "cpu.pin = '0 ,1'", PIN_END("2")},
    {VM "cpu.pin = '0-3:1/2'", PIN_END("4")},
    {VM "cpu.pin = '1-2-3'", PIN_END("4")},
    {VM "cpu.pin = '0x1'", PIN_END("2")},
    {VM "cpu.pin = '1;2'", PIN_END("2")},
    {VM "cpu.pin = '3-1'", "4: 'cpu.pin' has a range that descends, 3-1 (write 1-3)"},
    {VM "cpu.pin = '0,2,63-0'", "4: 'cpu.pin' has a range that descends, 63-0 (write 0-63)"},
    {VM "cpu.pin = '64'", "4: 'cpu.pin' has a CPU that is out of range (0 to 63)"},
    {VM "cpu.pin = '0-64'", "4: 'cpu.pin' has a CPU that is out of range (0 to 63)"},
    {VM "cpu.pin = '4294967296'", "4: 'cpu.pin' has a CPU that is out of range (0 to 63)"},
    {VM "cpu.pin = '99999999999999999999999999999999999999'", "4: 'cpu.pin' has a CPU that is out of range (0 to 63)"},
    {VM "cpu.pin = '0'\ncpu.pin = '1'", "5: 'cpu.pin' was already given as 'cpu.pin' in line 4"},
    {"machine.cpus = 2\n" VM "cpu.pin = '1-2,4'",
     "2: VM 'a' is pinned to CPU 2,4, and a machine of 2 CPUs has 0 to 1 (see cpu.pin)"},
    {VM "cpu.pin = '0'\n[[vm]]\nname='b'\nrestore='s'\ncpu.pin='63'\n[machine]\ncpus = 63",
     "5: VM 'b' is pinned to CPU 63, and a machine of 63 CPUs has 0 to 62 (see cpu.pin)"},
    {VM "vcpus = 4\ncpu.reservation = 201\ncpu.pin = '0,2'",
     "5: VM 'a' cannot use its reservation of 201 % of a CPU, pinned to 0,2 (at most 200)"},
    {VM "autostart = 1", "4: 'autostart' wants true or false (without quotes)"},
    {VM "engine = 'soft'", "4: a fleet's engine is what its machine's processor has (remove this line)"},
    {VM "restore = 's'\nvcpus = 1", "5: this VM is restored, and has what it was saved with (remove this line)"},
    {VM "append = 'x'\nrestore = 's'", "4: this VM is restored, and has what it was saved with (remove this line)"},
    {VM "restore = 's'\n[vm.memory]\nsize = '2M'",
     "6: this VM is restored, and has what it was saved with (remove this line)"},
    {"[[vm]]\nname = 'a'\nrestore = 's'\ninitrd = 'i'",
     "4: an initrd without a kernel (a reset would boot both: give both or neither)"},
    {"[[vm]]\nname = 'a'\nkernel = \"it's\"",
     "3: the path of 'kernel' has a quote or backslash, which a boot loader cannot hand on (rename it, or write it as "
     "./NAME)"},
    {VM "initrd = 'a\\b'",
     "4: the path of 'initrd' has a quote or backslash, which a boot loader cannot hand on (rename it, or write it as "
     "./NAME)"},
    {VM "initrd = '\"'",
     "4: the path of 'initrd' has a quote or backslash, which a boot loader cannot hand on (rename it, or write it as "
     "./NAME)"},
    {VM "initrd = \"a\\nb\"", "4: the path of 'initrd' has a control character (rename it, or write it as ./NAME)"},
    {VM "restore = 'fleet'",
     "4: the path of 'restore' is what the fleet file itself is called in an image (rename it, or "
     "write it as ./NAME)"},
    {VM "memory = 0", "4: memory of 0 bytes is too small (at least 2M)"},
    {VM "\xFF", "4: byte 0xff is not valid UTF-8 (save the file as UTF-8)"},
};

static void test_bad(void)
{
    char message[CONFIG_MESSAGE], want[CONFIG_MESSAGE];
    for (size_t n = 0; n < ARRAY_SIZE(bad); n++) {
        size_t size = strlen(bad[n].text);
        unit_context("case %zu: %s", n, bad[n].text);
        CHECK_EQ(parse(bad[n].text, message), ERR_INVALID);
        snprintf(want, sizeof(want), "f.toml:%s", bad[n].message);
        CHECK_STR(message, want);
        while (size-- > 0) {
            int err = parse_into(FLEET_VMS, bad[n].text, size, message);
            CHECK(err == OK || err == ERR_INVALID);
            CHECK((err == OK) == (message[0] == 0));
            CHECK(strchr(message, '\n') == NULL);
        }
    }
    unit_context(NULL);
}

/* As many as there is room for, and not one more: what lies behind the array stays as it was. */
static void test_too_many(void)
{
    static char text[FLEET_VMS * 64];
    char message[CONFIG_MESSAGE];
    size_t used = 0;
    for (uint32_t n = 0; n < FLEET_VMS; n++)
        used += (size_t)snprintf(text + used, sizeof(text) - used, "[[vm]]\nname='v%u'\nkernel='k'\n", n);
    CHECK_EQ(parse_into(FLEET_VMS, text, used, message), OK);
    CHECK_EQ(fleet.count, FLEET_VMS);
    CHECK_STR(vms[FLEET_VMS - 1].config.name, "v255");
    CHECK_EQ(parse_into(FLEET_VMS - 1, text, used, message), ERR_INVALID);
    CHECK_STR(message, "f.toml:766: more than 255 VMs (make a second fleet)");
    CHECK_EQ((unsigned char)vms[FLEET_VMS - 1].config.name[0], 0xA5);
    CHECK_EQ(parse_into(0, text, used, message), ERR_INVALID);
    CHECK_STR(message, "f.toml:1: more than 0 VMs (make a second fleet)");
}

/* --- what fits ---------------------------------------------------------------------------------- */

static void expect_fit(const struct fleet_room *room, const char *want)
{
    char message[CONFIG_MESSAGE] = "";
    CHECK_EQ(fleet_fits(&fleet, room, message), want[0] ? ERR_RANGE : OK);
    CHECK_STR(message, want);
}

static void test_memory(void)
{
    uint64_t own = FLEET_OWN_MEMORY + 3 * FLEET_VM_MEMORY; /* 76 MiB */
    must_parse("[[vm]]\nname='a'\nkernel='k'\nmemory='512M'\n"
               "[[vm]]\nname='b'\nkernel='k'\nmemory='1G'\n"
               "[[vm]]\nname='c'\nkernel='k'\nmemory='1G'\nautostart=false\n");
    struct fleet_room room = {0};
    expect_fit(&room, "");
    room.memory = MIB(1536) + own;
    expect_fit(&room, "");
    room.memory--;
    expect_fit(&room,
               "the VMs that start by themselves have 1536 MiB of memory; with Lodge's own 76 MiB and the image's "
               "files of 0 MiB that is 1612 MiB, and the machine has 1612 MiB (give them less, or autostart = "
               "false)");
    room.memory = MIB(1536) + own + 5;
    room.files = 5;
    expect_fit(&room, "");
    room.files = 6;
    expect_fit(&room,
               "the VMs that start by themselves have 1536 MiB of memory; with Lodge's own 76 MiB and the image's "
               "files of 1 MiB that is 1613 MiB, and the machine has 1613 MiB (give them less, or autostart = "
               "false)");
    room.files = UINT64_MAX;
    expect_fit(&room,
               "VM 'a' has 512 MiB of memory; with Lodge's own 76 MiB and the image's files of 17592186044416 MiB "
               "that is 17592186044416 MiB, and the machine has 1613 MiB (give it less)");
    room.files = 0;
    vms[2].config.memory = GIB(256);
    expect_fit(&room, "VM 'c' has 262144 MiB of memory; with Lodge's own 76 MiB and the image's files of 0 MiB that is "
                      "262220 MiB, and the machine has 1613 MiB (give it less)");
}

/* Whatever numbers there are: sums do not wrap. */
static void test_memory_overflow(void)
{
    struct fleet_room room = {.memory = UINT64_MAX - 1, .files = 1};
    char message[CONFIG_MESSAGE];
    must_parse(VM "[[vm]]\nname='b'\nkernel='k'");
    vms[0].config.memory = vms[1].config.memory = UINT64_C(1) << 63;
    CHECK_EQ(fleet_fits(&fleet, &room, message), ERR_RANGE);
    vms[1].config.memory = MIB(2);
    CHECK_EQ(fleet_fits(&fleet, &room, message), OK);
}

static void test_cpus(void)
{
    struct fleet_room room = {.cpus = 2};
    must_parse("[[vm]]\nname='a'\nkernel='k'\ncpu.reservation=100\n"
               "[[vm]]\nname='b'\nkernel='k'\ncpu.reservation=100\n"
               "[[vm]]\nname='c'\nkernel='k'\ncpu.reservation=200\nvcpus=2\nautostart=false\n");
    expect_fit(&room, "");
    vms[1].reservation = 101;
    expect_fit(&room,
               "the VMs that start by themselves have reserved 201 % of a CPU, and a machine of 2 CPUs has 200 % "
               "(reserve less, or autostart = false)");
    room.cpus = 0;
    expect_fit(&room, "");
    room.cpus = 1;
    expect_fit(&room, "VM 'b' has reserved 101 % of a CPU, and a machine of 1 CPUs has 100 % (reserve less)");
    vms[1].reservation = 0;
    expect_fit(&room, "VM 'c' has reserved 200 % of a CPU, and a machine of 1 CPUs has 100 % (reserve less)");
}

/* Reservations of those that may only run on some CPUs. */
static void test_pinned(void)
{
    struct fleet_room room = {.cpus = 0};
    must_parse("[[vm]]\nname='a'\nkernel='k'\ncpu.reservation=60\ncpu.pin='1'\n"
               "[[vm]]\nname='b'\nkernel='k'\ncpu.reservation=40\ncpu.pin='1'\n"
               "[[vm]]\nname='c'\nkernel='k'\ncpu.reservation=100\ncpu.pin='1-2'\n"
               "[[vm]]\nname='d'\nkernel='k'\ncpu.reservation=100\n"
               "[[vm]]\nname='e'\nkernel='k'\ncpu.reservation=100\ncpu.pin='1'\nautostart=false\n");
    expect_fit(&room, "");
    vms[1].reservation = 41;
    expect_fit(&room,
               "the VMs that start by themselves and are pinned within CPUs 1 have reserved 101 % of a CPU, and these have "
               "100 % (reserve less, or pin them elsewhere)");
    vms[1].cpus = 4; /* no set of one is too small, but the pair */
    expect_fit(&room,
               "the VMs that start by themselves and are pinned within CPUs 1-2 have reserved 201 % of a CPU, and these "
               "have 200 % (reserve less, or pin them elsewhere)");
    vms[2].cpus = 14;
    expect_fit(&room, "");
    room.cpus = 4;
    vms[1].reservation = 40;
    expect_fit(&room, "");
    room.cpus = 2; /* all together, before */
    expect_fit(&room,
               "the VMs that start by themselves have reserved 300 % of a CPU, and a machine of 2 CPUs has 200 % (reserve "
               "less, or autostart = false)");
    room.cpus = 0;
    vms[4].reservation = 101; /* on fewer CPUs than its file says, and by itself */
    expect_fit(&room, "VM 'e' cannot use its reservation of 101 % of a CPU, pinned to 1 (at most 100)");
}

static void test_adopt(void)
{
    struct vm_config saved;
    char message[CONFIG_MESSAGE] = "";
    must_parse("[[vm]]\nname='mine'\nrestore='s'\nkernel='k'\ncpu.reservation=150\n");
    vm_config_defaults(&saved);
    strcpy(saved.name, "theirs");
    strcpy(saved.append, "quiet");
    strcpy(saved.level, "v2");
    saved.memory = MIB(64);
    saved.vcpus = 2;
    saved.exit_port = true;
    CHECK_EQ(fleet_vm_adopt(&vms[0], &saved, message), OK);
    CHECK_STR(vms[0].config.name, "mine");
    CHECK_STR(vms[0].config.kernel, "k");
    CHECK_STR(vms[0].config.append, "quiet");
    CHECK_STR(vms[0].config.level, "v2");
    CHECK_EQ(vms[0].config.memory, MIB(64));
    CHECK_EQ(vms[0].config.vcpus, 2);
    CHECK(vms[0].config.exit_port);
    saved.vcpus = 1;
    CHECK_EQ(fleet_vm_adopt(&vms[0], &saved, message), ERR_INVALID);
    CHECK_STR(message, "VM 'mine' cannot use its reservation of 150 % of a CPU with 1 vCPUs (at most 100)");
    saved.vcpus = 2;
    vms[0].cpus = 8;
    CHECK_EQ(fleet_vm_adopt(&vms[0], &saved, message), ERR_INVALID);
    CHECK_STR(message, "VM 'mine' cannot use its reservation of 150 % of a CPU, pinned to 3 (at most 100)");
}

static void test_modules(void)
{
    static const struct {
        const char *line, *path;
        bool same;
    } module[] = {
        {"a", "a", true},
        {"a b", "a b", true},
        {"\"a b\"", "a b", true},
        {"\"a b", "a b", false},
        {"a b\"", "a b", false},
        {"\"a b\" c", "a b", false},
        {"a", "b", false},
        {"a", "ab", false},
        {"ab", "a", false},
        {"", "", true},
        {"\"\"", "", false},
        {"", "a", false},
        {"fleet", "./fleet", false},
    };
    for (size_t n = 0; n < ARRAY_SIZE(module); n++) {
        unit_context("case %zu", n);
        CHECK_EQ(fleet_module_is(module[n].line, module[n].path), module[n].same);
    }
    unit_context(NULL);
}

/* --- leaving out --------------------------------------------------------------------------------- */

/* What is wrong is taken out until the rest is right: how often, and which VMs are left. */
static unsigned int salvage(const char *text, char names[64])
{
    char message[CONFIG_MESSAGE], copy[512];
    unsigned int out = 0;

    memset(copy, 0, sizeof(copy));
    strcpy(copy, text);
    names[0] = 0;
    while (parse(copy, message) != OK) {
        if (!fleet_leave_out(copy, strlen(copy), fleet.bad_line))
            return out + 100;
        CHECK_EQ(strlen(copy), strlen(text));
        out++;
    }
    for (uint32_t i = 0; i < fleet.count; i++)
        strcat(names, vms[i].config.name);
    return out;
}

#define B "[[vm]]\nname = 'b'\nkernel = 'k'\n"
#define C "  [[vm]] # c\nname = 'c'\nkernel = 'k'\n[vm.cpu]\nweight = 5\n"

static void test_leave_out(void)
{
    static const struct {
        const char *text, *names;
        unsigned int out;
    } cases[] = {
        /* table */
        {VM B C, "abc", 0},
        {VM "vcpus = 99\n" B C, "bc", 1},
        {VM B "memroy = 1\n" C, "ac", 1},
        {VM B C "wieght = 1\n", "ab", 1},
        {VM B "[vm.cpu]\nlimit = 9999\n" C, "ac", 1},
        {VM VM C, "ac", 1},
        {VM "[[vm]]\nname = 'x'\n" C, "ac", 1},
        {VM "[[vm]]\nkernel = 'x'\n" B "= 1\n" C, "ac", 2},
        {"[machine]\ncpus = 0\n" VM, "a", 1},
        {"[machine]\ncpus = 0\nsmt = 'shared'\n" VM, "a", 1},
        {VM "[machine]\ncpus = 0\n" B, "ab", 1},
        {"machine.cpus = 0\nmachine.smt = 'shared'\n" VM, "a", 1},
        {"nonsense\n\x01\n" VM, "a", 2},
        {"[vm.cpu]\n" VM, "a", 1},
        {"[[vms]]\nname = 'x'\n" VM, "a", 1},
        {VM "append = '[[vm]]\n" B, "b", 1},
        {"", "", 100},
        {"[machine]", "", 101},
        {"[[vm]]\nname = 'a'\n", "", 101},
    };
    char names[64];

    for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        CHECK_EQ(salvage(cases[i].text, names), cases[i].out);
        CHECK_STR(names, cases[i].names);
    }
    CHECK_EQ(salvage("[machine]\ncpus = 0\nsmt = 'shared'\n" VM, names), 1);
    CHECK(!fleet_shares_cores(&fleet)); /* what was said beside it counts no more */
}

/* --- shares that change ---------------------------------------------------------------------- */

static void test_set(void)
{
    static const struct {
        const char *text, *message;
    } refused[] = {
        {"cpu.weight = 0", "set:1: a weight of 0 is out of range (1 to 10000)"},
        {"cpu.weight = 1\ncpu.weight = 2", NULL},
        {"cpu.reservation = 101", "VM 'a' cannot use its reservation of 101 % of a CPU with 1 vCPUs (at most 100)"},
        {"cpu.limit = 10\ncpu.reservation = 20", NULL},
        {"cpu.pin = \"1-0\"", NULL},
        {"cpu.credit = 60001", NULL},
        {"cpu.colour = 1", NULL},
        {"memory = \"1G\"", NULL},
        {"autostart = true", NULL},
        {"[[vm]]", "set:1: only keys, as in cpu.weight=200"},
        {"[cpu]", "set:1: only keys, as in cpu.weight=200"},
        {"cpu.weight", NULL},
        {"\xFF", NULL},
    };
    static const char good[] = "cpu.weight=200\ncpu.limit=90\ncpu.pin=\"0,2-3\"\n";
    char message[CONFIG_MESSAGE];
    struct fleet_vm v;

    CHECK_EQ(parse("[[vm]]\nname = \"a\"\nkernel = \"k\"\ncpu.credit = 7\n", message), OK);
    v = vms[0];
    CHECK_EQ(fleet_vm_set(&v, good, sizeof(good) - 1, message), OK);
    CHECK_EQ(v.weight, 200);
    CHECK_EQ(v.limit, 90);
    CHECK_EQ(v.credit, 7);
    CHECK_EQ(v.cpus, 13);
    CHECK_EQ(fleet_vm_set(&v, "cpu.weight=3", 12, message), OK);
    CHECK_EQ(v.cpus, 13);
    CHECK_EQ(v.weight, 3);
    for (size_t n = 0; n < ARRAY_SIZE(refused); n++) {
        unit_context("%s", refused[n].text);
        v = vms[0];
        CHECK_EQ(fleet_vm_set(&v, refused[n].text, strlen(refused[n].text), message), ERR_INVALID);
        CHECK(message[0] != 0);
        if (refused[n].message)
            CHECK_STR(message, refused[n].message);
    }
    unit_context(NULL);
}

int main(void)
{
    UNIT_RUN(test_one);
    UNIT_RUN(test_several);
    UNIT_RUN(test_machine_forms);
    UNIT_RUN(test_pins);
    UNIT_RUN(test_bad);
    UNIT_RUN(test_too_many);
    UNIT_RUN(test_memory);
    UNIT_RUN(test_memory_overflow);
    UNIT_RUN(test_cpus);
    UNIT_RUN(test_pinned);
    UNIT_RUN(test_adopt);
    UNIT_RUN(test_modules);
    UNIT_RUN(test_leave_out);
    UNIT_RUN(test_set);
    return unit_done();
}
