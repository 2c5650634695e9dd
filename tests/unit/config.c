/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The configuration reader: what it takes, and the exact line that it answers to what it does not
 * (docs/config.md). Every bad input of the table is also tried cut off after each byte.
 */
#include <stdlib.h>
#include <string.h>

#include "machine/config.h"
#include "tests/lib/unit.h"

static int parse(struct vm_config *c, const char *text, size_t size, char *message)
{
    /* A copy of exactly that size, so that the sanitizer sees a byte read too many. */
    char *copy = malloc(size ? size : 1);
    memcpy(copy, text, size);
    vm_config_defaults(c);
    memset(message, 'x', CONFIG_MESSAGE);
    message[0] = 0;
    int err = vm_config_parse(c, "vm.toml", copy, size, message);
    free(copy);
    return err;
}

static void test_defaults(void)
{
    struct vm_config c;
    char message[CONFIG_MESSAGE];
    CHECK_EQ(parse(&c, "", 0, message), OK);
    CHECK_STR(c.name, "lodge");
    CHECK_STR(c.level, "v3");
    CHECK_STR(c.engine, "auto");
    CHECK_EQ(c.memory, 512u << 20);
    CHECK_EQ(c.vcpus, 1);
    CHECK_EQ(c.tsc_khz, 0);
    CHECK(!c.exit_port);
    CHECK(!c.portable);
    CHECK_EQ(vm_config_check(&c, message), ERR_INVALID);
    CHECK_STR(message, "no kernel given (-k KERNEL, or kernel = \"FILE\" in a file)");
}

static void test_all_keys(void)
{
    static const char text[] = "# A VM\r\n"
                               "name = 'build-1'  # literal\n"
                               "kernel = \"/boot/vm\\u006Cinuz \\\"1\\\"\"\n"
                               "initrd = 'C:\\dir'\n"
                               "append = \"console=ttyS0\\t\xC3\xA9\\U0001F600\"\n"
                               "engine=\"soft\"\n"
                               "exit_port\t=\ttrue\n"
                               "tsc_khz = 2_000_000\n"
                               "\n"
                               "[memory] # long form\n"
                               "size = \"2g\"\r\n"
                               "[ cpu ]\n"
                               "count = 0x1_0\n"
                               "level = \"v2\"\n"
                               "portable = true";
    struct vm_config c;
    char message[CONFIG_MESSAGE];
    CHECK_EQ(parse(&c, text, sizeof(text) - 1, message), OK);
    CHECK_STR(message, "");
    CHECK_STR(c.name, "build-1");
    CHECK_STR(c.kernel, "/boot/vmlinuz \"1\"");
    CHECK_STR(c.initrd, "C:\\dir");
    CHECK_STR(c.append, "console=ttyS0\t\xC3\xA9\xF0\x9F\x98\x80");
    CHECK_STR(c.engine, "soft");
    CHECK(c.exit_port);
    CHECK(c.portable);
    CHECK_EQ(c.tsc_khz, 2000000);
    CHECK_EQ(c.memory, 2ull << 30);
    CHECK_EQ(c.vcpus, 16);
    CHECK_STR(c.level, "v2");
    CHECK_EQ(vm_config_check(&c, message), OK);
}

static void test_forms(void)
{
    static const struct {
        const char *text;
        uint64_t memory;
        uint32_t vcpus;
    } good[] = {
        /* table */
        {"memory = 268435456\nvcpus = 0b11", 256u << 20, 3},
        {"memory = \"262144K\"\nvcpus = 0o17", 256u << 20, 15},
        {"memory.size = \"128G\"\ncpu.count = +4", 1ull << 37, 4},
        {"memory . size = \"4M\"\n cpu . count = 4", 4ull << 20, 4},
        {"vcpus = 2 # two\r\n\r\n   \r\nmemory='8m'\r\n", 8u << 20, 2},
        {"level = 'v2'\n[cpu]\ncount = 2\n[memory]\nsize = 0x200000\n", 2u << 20, 2},
    };
    for (size_t n = 0; n < sizeof(good) / sizeof(good[0]); n++) {
        struct vm_config c;
        char message[CONFIG_MESSAGE];
        unit_context("case %zu", n);
        CHECK_EQ(parse(&c, good[n].text, strlen(good[n].text), message), OK);
        CHECK_EQ(c.memory, good[n].memory);
        CHECK_EQ(c.vcpus, good[n].vcpus);
    }
    unit_context(NULL);
}

struct bad {
    const char *text;
    const char *message; /* what follows "vm.toml:" */
};

static const struct bad bad_keys[] = {
    /* table */
    {"memroy = 1", "1: unknown key 'memroy' (the nearest known one is 'memory')"},
    {"\n\nkernal = 'x'", "3: unknown key 'kernal' (the nearest known one is 'kernel')"},
    {"[cpu]\nlevle = 'v3'", "2: unknown key 'cpu.levle' (the nearest known one is 'cpu.level')"},
    {"[cpus]\n", "1: unknown key 'cpus' (the nearest known one is 'vcpus')"},
    {"cpu = 3", "1: 'cpu' is a table, not a key (open it with [cpu])"},
    {"cpu.weight = 1", "1: 'cpu.weight' is reserved for a later version of Lodge (remove it)"},
    {"cpu.credit = 1", "1: 'cpu.credit' is reserved for a later version of Lodge (remove it)"},
    {"cpu.pin = '0'", "1: 'cpu.pin' is reserved for a later version of Lodge (remove it)"},
    {"tenant = 'x'", "1: 'tenant' is reserved for a later version of Lodge (remove it)"},
    {"[disk.root]\n", "1: 'disk.root' is reserved for a later version of Lodge (remove it)"},
    {"diskette = 1", "1: unknown key 'diskette' (the nearest known one is 'kernel')"},
    {"[[vm]]", "1: [[vm]] makes this a fleet, and one VM is wanted here (a fleet is for 'lodge "
               "image')"},
    {"[[vm]", "1: the name of an array's table ends with ]]"},
    {"[[vm] ]", "1: the name of an array's table ends with ]]"},
    {"[ [vm]]", "1: expected a key here (letters, digits, _ and -)"},
    {"name = 'a'\nname = 'a'", "2: 'name' was already given as 'name' in line 1"},
    {"memory = 4194304\nmemory.size = 1",
     "2: 'memory.size' was already given as 'memory' in line 1"},
    {"level = 'v2'\n[cpu]\nlevel = 'v2'", "3: 'cpu.level' was already given as 'level' in line 1"},
    {"memory = 4194304\n[memory]", "2: 'memory' was already given a value in line 1"},
    {"[cpu]\n[cpu]", "2: [cpu] was already opened in line 1"},
    {"cpu.count = 1\n[cpu]", "2: [cpu] was already opened in line 1"},
    {"[name]", "1: 'name' is not a table (as in name = \"debian\")"},
    {"[cpu]\n[memory]\ncpu.count = 1",
     "3: unknown key 'memory.cpu.count' (the nearest known one is 'cpu.count')"},
    {"= 1", "1: expected a key here (letters, digits, _ and -)"},
    {"name", "1: expected '=' after 'name'"},
    {"name 'x'", "1: expected '=' after 'name'"},
    {"cpu. = 1", "1: expected a key here (letters, digits, _ and -)"},
    {".cpu = 1", "1: expected a key here (letters, digits, _ and -)"},
    {"'name' = 'x'", "1: quoted keys are not supported"},
    {"[]", "1: expected a key here (letters, digits, _ and -)"},
    {"[cpu", "1: a table's name ends with ]"},
    {"[cpu] x", "1: unexpected text after the end of 'cpu' (one key per line; comments start with "
                "#)"},
    {"a2345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012"
     "345678901 = 1",
     "1: key is longer than 95 bytes"},
};

static const struct bad bad_values[] = {
    /* table */
    {"name = ", "1: 'name' has no value"},
    {"name = # x", "1: 'name' has no value"},
    {"name = x", "1: value of 'name' is not a string, an integer, true or false (strings stand in "
                 "quotes)"},
    {"name = 1", "1: 'name' wants a string (as in name = \"debian\")"},
    {"name = \"a", "1: string does not end on its line (close it with \")"},
    {"name = 'a\n'", "1: string does not end on its line (close it with ')"},
    {"name = \"\"\"a\"\"\"", "1: multi-line strings are not supported (write it on one line)"},
    {"name = 'a' 'b'", "1: unexpected text after the end of 'name' (one key per line; comments "
                       "start with #)"},
    {"name = \"\\q\"",
     "1: unknown escape after \\ (there are \\b \\t \\n \\f \\r \\\" \\\\ \\uXXXX "
     "\\UXXXXXXXX; write \\\\ for a backslash)"},
    {"name = \"\\u12\"", "1: \\u needs 4 hexadecimal digits"},
    {"name = \"\\U1234\"", "1: \\U needs 8 hexadecimal digits"},
    {"name = \"\\u0000\"", "1: NUL is not allowed in a string"},
    {"name = \"\\uD800\"", "1: escape is not a Unicode character (U+D800)"},
    {"name = \"\\U00110000\"", "1: escape is not a Unicode character (U+110000)"},
    {"name = \"\x80\"", "1: byte 0x80 is not valid UTF-8 (save the file as UTF-8)"},
    {"name = \"\xC0\xAF\"", "1: byte 0xc0 is not valid UTF-8 (save the file as UTF-8)"},
    {"name = \"\xED\xA0\x80\"", "1: byte 0xed is not valid UTF-8 (save the file as UTF-8)"},
    {"name = \"\xE0\x9F\xBF\"", "1: byte 0xe0 is not valid UTF-8 (save the file as UTF-8)"},
    {"name = \"\xF4\x90\x80\x80\"", "1: byte 0xf4 is not valid UTF-8 (save the file as UTF-8)"},
    {"# \xFF", "1: byte 0xff is not valid UTF-8 (save the file as UTF-8)"},
    {"name = '\x01'", "1: control character 0x01 (write it as \\u0001 in a string)"},
    {"\xEF\xBB\xBFname = 'a'", "1: the file starts with a byte-order mark (save it without)"},
    {"name = 'a'\rengine = 'b'", "1: carriage return without line feed"},
    {"vcpus = 1.5", "1: floating-point numbers are not supported"},
    {"vcpus = 1e3", "1: 'e' is not a digit of a number in base 10"},
    {"vcpus = inf", "1: floating-point numbers are not supported"},
    {"vcpus = 1979-05-27", "1: dates and times are not supported"},
    {"vcpus = 07", "1: a decimal number has no leading zeros (octal is written 0o17)"},
    {"vcpus = 1__0", "1: an underscore must stand between two digits"},
    {"vcpus = 1_", "1: an underscore must stand between two digits"},
    {"vcpus = 0x_1", "1: an underscore must stand between two digits"},
    {"vcpus = 0x", "1: a number needs at least one digit"},
    {"vcpus = -", "1: a number needs at least one digit"},
    {"vcpus = -0x1", "1: a number in base 16 has no sign"},
    {"vcpus = 0o8", "1: '8' is not a digit of a number in base 8"},
    {"vcpus = 9223372036854775808", "1: integer does not fit 64 bits"},
    {"vcpus = 99999999999999999999999", "1: integer does not fit 64 bits"},
    {"vcpus = -1", "1: 'vcpus' is out of range (as in vcpus = 2)"},
    {"vcpus = 4294967296", "1: 'vcpus' is out of range (as in vcpus = 2)"},
    {"vcpus = '2'", "1: 'vcpus' wants an integer (as in vcpus = 2)"},
    {"vcpus = true", "1: 'vcpus' wants an integer (as in vcpus = 2)"},
    {"exit_port = 1", "1: 'exit_port' wants true or false (without quotes)"},
    {"vcpus = [1]", "1: arrays are not supported"},
    {"cpu = {count = 1}", "1: inline tables are not supported (use [table] or dotted keys)"},
    {"memory = '12Q'", "1: 'memory' wants a size: bytes, or a number with K, M, G or T in quotes "
                       "(as in memory = \"512M\")"},
    {"memory = -1", "1: 'memory' wants a size: bytes, or a number with K, M, G or T in quotes (as "
                    "in memory = \"512M\")"},
    {"\nmemory = 0", "2: memory of 0 bytes is too small (at least 2M)"},
    {"[memory]\nsize = '1T'", "2: memory of 1099511627776 bytes is too large (at most 256G)"},
    {"vcpus = 1\n\nlevel = 'v9'", "3: unknown CPU level 'v9' (there are v2, v3 and host)"},
    {"cpu.count = 17", "1: 17 vCPUs are not possible (1 to 16)"},
    {"engine = 'qemu'", "1: unknown engine 'qemu' (there are auto, kvm and soft)"},
    {"engine = \"a\\u00e9b\\tc\"", "1: unknown engine 'a??b?c' (there are auto, kvm and soft)"},
    {"name = 'a b'", "1: the name may have letters, digits, '.', '_' and '-' only, and starts "
                     "with a letter or digit"},
    {"tsc_khz = 1", "1: tsc_khz of 1 is out of range (0, or 100000 to 10000000)"},
    {"level = '1234567890123456'", "1: 'level' is longer than 15 bytes (16)"},
};

static void check_bad(const struct bad *list, size_t count)
{
    for (size_t n = 0; n < count; n++) {
        struct vm_config c;
        char message[CONFIG_MESSAGE], want[CONFIG_MESSAGE];
        size_t size = strlen(list[n].text);
        unit_context("case %zu: %s", n, list[n].text);
        CHECK_EQ(parse(&c, list[n].text, size, message), ERR_INVALID);
        snprintf(want, sizeof(want), "vm.toml:%s", list[n].message);
        CHECK_STR(message, want);
        while (size-- > 0) {
            int err = parse(&c, list[n].text, size, message);
            CHECK(err == OK || err == ERR_INVALID);
            CHECK((err == OK) == (message[0] == 0));
            CHECK(strchr(message, '\n') == NULL);
        }
    }
    unit_context(NULL);
}

static void test_bad_keys(void)
{
    check_bad(bad_keys, sizeof(bad_keys) / sizeof(bad_keys[0]));
}

static void test_bad_values(void)
{
    check_bad(bad_values, sizeof(bad_values) / sizeof(bad_values[0]));
}

static void test_nul_bytes(void)
{
    static const char *const text[] = {"name = '\0'", "# \0", "\0", "name\0 = 1", "name = 'x'\0"};
    static const size_t size[] = {10, 3, 1, 9, 11};
    for (size_t n = 0; n < 5; n++) {
        struct vm_config c;
        char message[CONFIG_MESSAGE];
        unit_context("case %zu", n);
        CHECK_EQ(parse(&c, text[n], size[n], message), ERR_INVALID);
        CHECK(n == 3 || strstr(message, "NUL byte: this is not a text file"));
    }
    unit_context(NULL);
}

static void test_string_lengths(void)
{
    static char text[8192];
    struct vm_config c;
    char message[CONFIG_MESSAGE];
    for (size_t length = CONFIG_APPEND - 2; length<5000; length += length> 2050 ? 501 : 1) {
        int n = snprintf(text, sizeof(text), "append = \"%0*d\"", (int)length, 7);
        int err = parse(&c, text, (size_t)n, message);
        CHECK_EQ(err, length < CONFIG_APPEND ? OK : ERR_INVALID);
        if (err == OK)
            CHECK_EQ(strlen(c.append), length);
        else
            CHECK(strstr(message, "longer than") != NULL);
    }
}

/* A message is one line and ends within its buffer, whatever the file is called. */
static void test_long_file_name(void)
{
    char name[2000], message[CONFIG_MESSAGE];
    struct vm_config c;
    memset(name, 'd', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    vm_config_defaults(&c);
    CHECK_EQ(vm_config_parse(&c, name, "x = 1", 5, message), ERR_INVALID);
    CHECK(strlen(message) < CONFIG_MESSAGE);
    CHECK(strncmp(message, "...ddd", 6) == 0);
    CHECK(strstr(message, "ddd:1: unknown key 'x'") != NULL);
}

static void test_parse_size(void)
{
    static const struct {
        const char *text;
        int err;
        uint64_t bytes;
    } size[] = {
        /* table */
        {"0", OK, 0},
        {"1", OK, 1},
        {"65536K", OK, 64 << 20},
        {"512M", OK, 512 << 20},
        {"2G", OK, 2ull << 30},
        {"2g", OK, 2ull << 30},
        {"3T", OK, 3ull << 40},
        {"18446744073709551615", OK, UINT64_MAX},
        {"16777215T", OK, 16777215ull << 40},
        {"16777216T", ERR_INVALID, 0},
        {"18446744073709551616", ERR_INVALID, 0},
        {"18446744073709551615K", ERR_INVALID, 0},
        {"", ERR_INVALID, 0},
        {"M", ERR_INVALID, 0},
        {"-1", ERR_INVALID, 0},
        {" 1", ERR_INVALID, 0},
        {"1 M", ERR_INVALID, 0},
        {"1MB", ERR_INVALID, 0},
        {"1.5G", ERR_INVALID, 0},
        {"0x10", ERR_INVALID, 0},
    };
    for (size_t n = 0; n < sizeof(size) / sizeof(size[0]); n++) {
        uint64_t bytes = 0;
        unit_context("%s", size[n].text);
        CHECK_EQ(parse_size(size[n].text, strlen(size[n].text), &bytes), size[n].err);
        CHECK_EQ(bytes, size[n].bytes);
    }
    unit_context(NULL);
}

static void expect(const struct vm_config *c, const char *want)
{
    char message[CONFIG_MESSAGE] = "";
    CHECK_EQ(vm_config_check(c, message), want[0] ? ERR_INVALID : OK);
    CHECK_STR(message, want);
}

static void test_check(void)
{
    struct vm_config good, c;
    vm_config_defaults(&good);
    strcpy(good.kernel, "vmlinuz");
    expect(&good, "");

    c = good;
    c.vcpus = 0;
    expect(&c, "0 vCPUs are not possible (1 to 16)");
    c.vcpus = 1000;
    expect(&c, "1000 vCPUs are not possible (1 to 16)");
    c = good;
    c.memory = 0;
    expect(&c, "memory of 0 bytes is too small (at least 2M)");
    c.memory = 1ull << 60;
    expect(&c, "memory of 1152921504606846976 bytes is too large (at most 256G)");
    c.memory = (16 << 20) + 4096;
    expect(&c, "memory of 16781312 bytes is not a whole number of MiB (try 16M)");
    c = good;
    strcpy(c.level, "v9");
    expect(&c, "unknown CPU level 'v9' (there are v2, v3 and host)");
    strcpy(c.level, "host");
    expect(&c, "");
    c = good;
    strcpy(c.engine, "tcg");
    expect(&c, "unknown engine 'tcg' (there are auto, kvm and soft)");
    c = good;
    c.tsc_khz = 1;
    expect(&c, "tsc_khz of 1 is out of range (0, or 100000 to 10000000)");
    c = good;
    c.name[0] = 0;
    expect(&c, "the name is empty (give one, or leave 'name' out)");
    strcpy(c.name, "../x");
    expect(&c, "the name may have letters, digits, '.', '_' and '-' only, and starts with a letter "
               "or digit");
}

int main(void)
{
    UNIT_RUN(test_defaults);
    UNIT_RUN(test_all_keys);
    UNIT_RUN(test_forms);
    UNIT_RUN(test_bad_keys);
    UNIT_RUN(test_bad_values);
    UNIT_RUN(test_nul_bytes);
    UNIT_RUN(test_string_lengths);
    UNIT_RUN(test_long_file_name);
    UNIT_RUN(test_parse_size);
    UNIT_RUN(test_check);
    return unit_done();
}
