#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""The command line itself: subcommands, options, their values, and the file that they override."""
from lodge import (OK, OPERATOR, USAGE, LODGE, check, check_refused, check_status, guest, main, path,
                   run, run_guest, write)
import os
import re
import shutil
import subprocess


def test_no_command():
    check_refused(run(), USAGE, "no command given .*lodge help")


def test_unknown_command():
    check_refused(run("ruin"), USAGE, "unknown command 'ruin' .*lodge help")


def test_help():
    for args in (["help"], ["--help"], ["-h"]):
        r = run(*args)
        check_status(r, OK)
        check(r.err == "" and "doctor" in r.out and "run" in r.out, r)


def test_help_run():
    texts = [run(*args).out for args in (["help", "run"], ["run", "--help"], ["run", "-h"])]
    check(texts[0] == texts[1] == texts[2] and "--append" in texts[0], texts)


def test_help_of_nothing():
    check_refused(run("help", "me"), USAGE, "no more help")


def test_version():
    r = run("version")
    check_status(r, OK)
    check(r.out.startswith("lodge ") and r.out == run("--version").out, r)


def test_output_that_cannot_be_written():
    for args in (["version"], ["help"], ["doctor"], ["run", "--help"]):
        with open("/dev/full", "wb") as full:
            p = subprocess.run([LODGE, *args], stdout=full, stderr=subprocess.PIPE)
        check(p.returncode == OPERATOR and b"No space left" in p.stderr, p)


def test_messages_are_one_plain_line():
    check_refused(run("run", "-k", "a\nb\x1b[31mc"), USAGE, r"'a\?b\?\[31mc'")
    write("vm.toml", 'kernel = "/\\u001b[2J"\n')
    check_refused(run("run", path("vm.toml")), USAGE, r"'/\?\[2J'")


def test_arguments_where_none_belong():
    check_refused(run("version", "x"), USAGE, "no arguments")
    check_refused(run("doctor", "-v"), USAGE, "no arguments")


def test_unknown_options():
    for option in ("--kernal", "--", "-z", "-vz", "--memory-size=5", "--Kernel"):
        if option != "--":
            check_refused(run("run", option), USAGE, "unknown option .*lodge help run")


def test_missing_value():
    for option in ("-k", "--kernel", "-m", "--append", "-c", "--cpu", "-vk"):
        check_refused(run("run", option), USAGE, "needs a value")


def test_value_where_none_belongs():
    check_refused(run("run", "--stats=yes"), USAGE, "'--stats' takes no value")


def test_bad_sizes():
    for size in ("", "x", "12X", "-5", "5.5G", "0x100", "99999999999999999999", "512 M", "M"):
        check_refused(run("run", "-k", "x", "-m", size), USAGE, "is not a size|memory")


def test_memory_out_of_bounds():
    for size in ("0", "1", "4K", "1M", "1000T", "16777215T"):
        check_refused(run("run", "-k", "x", "-m", size), USAGE, "memory")


def test_vcpus_out_of_bounds():
    for count in ("0", "17", "1000", "4294967297", "-1", "2x", "", "1e1", "99999999999999999999"):
        check_refused(run("run", "-k", "x", "-c", count), USAGE, "vCPU|vcpu")


def test_unknown_level_and_engine():
    check_refused(run("run", "-k", "x", "--cpu", "v9"), USAGE, "level")
    check_refused(run("run", "-k", "x", "-e", "warp"), USAGE, "engine")


def test_no_kernel():
    check_refused(run("run"), USAGE, "kernel")


def test_two_files():
    check_refused(run("run", "a.toml", "b.toml"), USAGE, "two files")


def test_too_long_values():
    check_refused(run("run", "-k", "x", "--append", "a" * 5000), USAGE, "too long")
    check_refused(run("run", "-k", "x" * 5000), USAGE, "too long")


def test_forms_of_options():
    for form in (["-k", guest()], ["-k" + guest()], ["--kernel", guest()],
                 ["--kernel=" + guest()]):
        r = run("run", *form, "-m16M", keys=b"o")
        check_status(r, OK)
        check("ready" in r.out, r)


def test_file():
    write("vm.toml", f'kernel = "{guest()}"\nmemory = "16M"\nname = "from-file"\nexit_port = true\n')
    r = run("run", path("vm.toml"), keys=b"x")
    check_status(r, 43)


def test_options_override_file():
    write("vm.toml", 'kernel = "/nonexistent"\nmemory = "16M"\nname = "from-file"\n')
    for args in ([path("vm.toml"), "-k", guest(), "--name", "mine"],
                 ["--name", "mine", "-k", guest(), path("vm.toml")]):
        r = run("run", *args, keys=b"t")
        check("lodge: mine: " in r.err and "from-file" not in r.err, r)


def test_paths_in_file_are_relative_to_it():
    guest()
    write("vm.toml", 'kernel = "guest.elf"\nmemory = "16M"\n')
    check_status(run("run", path("vm.toml"), keys=b"o", cwd="/"), OK)
    check_status(run("run", "vm.toml", keys=b"o", cwd=path("")), OK)
    check_status(run("run", "./vm.toml", keys=b"o", cwd=path("")), OK)


def test_paths_in_file_and_links():
    """docs/cli.md: the directory is that of the name that was given, links and all."""
    os.makedirs(path("vms/real"))
    os.makedirs(path("vms/other"))
    shutil.copy(guest(), path("vms/real/mine.elf"))
    write("vms/real/vm.toml", 'kernel = "mine.elf"\nmemory = "16M"\n')
    os.symlink("../real/vm.toml", path("vms/other/vm.toml"))
    os.symlink("real", path("vms/link"))
    check_status(run("run", "real/vm.toml", keys=b"o", cwd=path("vms")), OK)
    check_status(run("run", "link/vm.toml", keys=b"o", cwd=path("vms")), OK)
    check_status(run("run", "other/../real/vm.toml", keys=b"o", cwd=path("vms")), OK)
    check_refused(run("run", "other/vm.toml", cwd=path("vms")), USAGE,
                  "cannot read kernel 'other/mine.elf': No such file")
    os.symlink("../real/mine.elf", path("vms/other/mine.elf"))
    check_status(run("run", "other/vm.toml", keys=b"o", cwd=path("vms")), OK)
    check_status(run("run", path("vms/other/vm.toml"), keys=b"o", cwd="/"), OK)
    check_status(run("run", "-k", "real/mine.elf", "other/vm.toml", keys=b"o", cwd=path("vms")), OK)


def test_paths_in_file_of_all_kinds():
    os.makedirs(path("up/down"))
    for kernel in (guest(), "../../guest.elf", "./../.././guest.elf"):
        write("up/down/vm.toml", f'kernel = "{kernel}"\nmemory = "16M"\n')
        check_status(run("run", "up/down/vm.toml", keys=b"o", cwd=path("")), OK)
        check_status(run("run", "vm.toml", keys=b"o", cwd=path("up/down")), OK)
    write("up/initrd", "x" * 5000)
    write("up/down/vm.toml", 'kernel = "../../guest.elf"\ninitrd = "../initrd"\nmemory = "16M"\n')
    check_status(run("run", "up/down/vm.toml", keys=b"o", cwd=path("")), OK)
    write("up/down/vm.toml", 'kernel = "../../guest.elf"\ninitrd = "initrd"\nmemory = "16M"\n')
    check_refused(run("run", "up/down/vm.toml", cwd=path("")), USAGE,
                  "cannot read initrd 'up/down/initrd'")
    write("up/down/vm.toml", 'kernel = "~/vmlinuz"\n')
    check_refused(run("run", "up/down/vm.toml", cwd=path("")), USAGE, "'up/down/~/vmlinuz'")
    write("up/down/vm.toml", f'kernel = "{"x/" * 500}"\n')
    check_refused(run("run", "./" * 20 + "up/down/vm.toml", cwd=path("")), USAGE,
                  "path of the kernel is too long .*shorten")


def test_paths_on_command_line_are_relative_to_user():
    guest()
    check_status(run("run", "-m16M", "-k", "guest.elf", keys=b"o", cwd=path("")), OK)


def test_bad_names():
    for name in ("a\x1b[31mb", "a\nb", "", "../x", "a b", "x" * 100):
        check_refused(run("run", "-k", guest(), "--name", name), USAGE, "name", hint=False)


def test_bad_toml():
    cases = {
        'kernel = "x': 1,
        'kernel = "x"\nkernel = "y"': 2,
        'kernel = "x"\n\nmemroy = "1G"': 3,
        'memory = 12parsecs': 1,
        'memory = true': 1,
        '[cpu\ncount = 1': 1,
        '= 5': 1,
        'vcpus = "two"': 1,
        '\x00': 1,
        'kernel = "\\q"': 1,
    }
    for text, line in cases.items():
        write("bad.toml", text)
        check_refused(run("run", path("bad.toml")), USAGE, rf"bad\.toml:{line}: ", hint=False)


def test_nearest_key():
    write("bad.toml", 'kernal = "x"')
    check_refused(run("run", path("bad.toml")), USAGE, "kernal.*kernel")


def test_file_that_is_no_toml():
    write("binary.toml", bytes(range(256)) * 100)
    check_refused(run("run", path("binary.toml")), USAGE, "binary.toml:1", hint=False)
    write("empty.toml", "")
    check_refused(run("run", path("empty.toml")), USAGE, "empty")
    write("huge.toml", b"#" * (2 << 20))
    check_refused(run("run", path("huge.toml")), USAGE, "too large")
    check_refused(run("run", path("")), USAGE, "a directory")
    check_refused(run("run", path("missing.toml")), USAGE, "No such file")


def test_doctor():
    r = run("doctor")
    check_status(r, OK)
    for word in ("processor", "level", "/dev/kvm", "memory", "sandbox", "engine", "auto"):
        check(word in r.out, f"{word}: {r}")
    kvm = re.search(r"^engine +kvm: (yes|no): .+$", r.out, re.M)
    check(kvm, r)
    check(f"auto         takes {'kvm' if kvm[1] == 'yes' else 'soft'}: " in r.out, r)


def translated(*args):
    """Does the test guest run translated code, by --stats?"""
    r = run("run", "-e", "soft", "--stats", *args, "-k", guest(), "-m", "16M", keys=b"o")
    check_status(r, OK)
    check("instructions" in r.err + r.out, r)
    return "translator" in r.err + r.out


def test_translator():
    check(not translated("--translator=off"), "off: only the interpreter")
    check(translated("--translator=on") == translated(), "on is the default")
    with open("/proc/cpuinfo") as f:
        check(translated() == ("bmi2" in f.read().split()), "on, where the processor has BMI2")
    for value in ("", "yes", "On", "off ", "0"):
        check_refused(run("run", f"--translator={value}", "-k", guest()), USAGE,
                      "give on or off")


def test_closed_standard_descriptors():
    for script in ('exec "$0" version <&-', 'exec "$0" version 2>&-', 'exec "$0" version >&-'):
        p = subprocess.run(["sh", "-c", script, LODGE], capture_output=True, timeout=20)
        check(p.returncode == 0, f"{script}: {p}")


def test_environment_means_nothing():
    r = run_guest(b"o", env={"LODGE": "x", "HOME": "/nonexistent", "TERM": "\x1b[31m" * 50})
    check_status(r, OK)


if __name__ == "__main__":
    main()
