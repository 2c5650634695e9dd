#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""How a run ends: statuses, messages, resets, signals, lost and slow readers."""
from lodge import (GUEST_DIED, LODGE, OK, OPERATOR, UNDER_TEST, background, check, check_status,
                   check_within_a_second, guest,
                   main, read_until, run_as_nobody, run_guest, talk)
import os
import re
import signal
import subprocess
import time


def test_power_off():
    r = run_guest(b"o")
    check_status(r, OK)
    check(r.out == "clean\r\nready\r\n" and r.err == "", r)


def test_exit_port():
    check_status(run_guest(b"x", "--exit-port"), 43)


def test_exit_port_not_offered():
    p = background("run", "-k", guest(), "-m", "16M", stdin=subprocess.PIPE)
    p.stdin.write(b"x")
    p.stdin.flush()
    read_until(p, b"ready")
    time.sleep(0.3)
    check(p.poll() is None, "a port that is not there ended the run")
    p.terminate()
    p.communicate(timeout=20)


def test_triple_fault():
    r = run_guest(b"t")
    check_status(r, GUEST_DIED)
    check(re.search(r"lodge: the guest died of a triple fault", r.err), r)
    where = "RIP 0x1[0-9a-f]{5}, 32-bit protected mode, CPL 0"
    if UNDER_TEST == "kvm":  # on AMD's processors KVM has reset the vCPU by then
        where += "|RIP 0xfff0, real mode, CPL 0"
    check(re.search(rf"vCPU 0: ({where}); .*the last: ", r.err), r)
    check('last console line: "ready"' in r.err, r)
    check("--cpu" in r.err, r)


def test_last_words_are_plain():
    r = run_guest(b"u")
    check_status(r, GUEST_DIED)
    check('last console line: "last words"' in r.err and "\x1b" not in r.err, r)
    check("\x1b[31mlast words" in r.out, r)


def test_verbose_shows_registers():
    r = run_guest(b"t", "-v")
    check_status(r, GUEST_DIED)
    check(len(r.err.splitlines()) > 8 and f"engine {UNDER_TEST}: " in r.err, r)


def test_reboot():
    r = talk(b"rro")
    check_status(r, OK)
    check(r.out == "clean\r\nready\r\n" * 3, r)


def test_reboot_with_several_vcpus():
    r = talk(b"rro", "-c", "4")
    check_status(r, OK)
    check(r.out == "clean\r\nready\r\n" * 3, r)


def test_no_reboot():
    r = run_guest(b"ro", "--no-reboot")
    check_status(r, OK)
    check(r.out.count("ready") == 1, r)


def test_stats():
    r = talk(b"ro", "--stats", "-c", "2")
    check_status(r, OK)
    check(f"engine {UNDER_TEST}" in r.err and "1 resets" in r.err and "vcpu1" in r.err, r)


def test_no_sandbox():
    check_status(talk(b"ro", "--no-sandbox"), OK)


def test_input_from_pipe_is_binary_clean():
    """Nothing is a menu key where there is no terminal, and nothing is lost on a slow guest."""
    keys = bytes(b for b in range(1, 256) if bytes([b]) not in b"ortxshfudmknpqwb" and b != 0)
    p = subprocess.run([LODGE, "run", "-e", UNDER_TEST, "-k", guest(), "-m", "16M"], input=b"d" + keys * 3 + b"o",
                       capture_output=True, timeout=60)
    check(p.returncode == OK, p)
    want = b"".join(b"<" + bytes([b]) + b">" for b in keys) * 3
    check(p.stdout == b"clean\r\nready\r\n" + want, p.stdout)


def test_input_ends():
    p = background("run", "-k", guest(), "-m", "16M")
    read_until(p, b"ready")
    time.sleep(0.3)
    check(p.poll() is None, "the end of input ended the run")
    p.terminate()
    p.communicate(timeout=20)


def test_closed_standard_input():
    p = subprocess.run(["sh", "-c", '"$0" run -k "$1" -m 16M --append x <&- & '
                        'sleep 1; kill $!; wait $!', LODGE, guest()],
                       capture_output=True, timeout=20)
    check(p.returncode == 143 and b"ready" in p.stdout, p)


def stop(sig, status, key, *args):
    check_within_a_second(lambda: seconds_to_stop(sig, status, key, *args))


def seconds_to_stop(sig, status, key, *args):
    p = background("run", "-k", guest(), "-m", "16M", *args, stdin=subprocess.PIPE)
    p.stdin.write(key)
    p.stdin.flush()
    read_until(p, b"ready")
    time.sleep(0.2)
    began = time.monotonic()
    p.send_signal(sig)
    out, err = p.communicate(timeout=20)
    took = time.monotonic() - began
    check(p.returncode == status, f"expected {status}: {p.returncode} {err}")
    check(err == b"", err)
    return took


def test_sigterm():
    for key in (b"s", b"h", b"f", b"z"):
        stop(signal.SIGTERM, 143, key)
    stop(signal.SIGTERM, 143, b"s", "-c", "4")


def test_sigint():
    stop(signal.SIGINT, 130, b"s")
    stop(signal.SIGINT, 130, b"h", "-c", "2")


def test_sighup_and_sigquit():
    stop(signal.SIGHUP, 129, b"h")
    stop(signal.SIGQUIT, 131, b"s")


def test_ignored_signals_stay_ignored():
    p = background("run", "-k", guest(), "-m", "16M",
                   preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    read_until(p, b"ready")
    p.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    check(p.poll() is None, "nohup does not hold")
    p.terminate()
    p.communicate(timeout=20)
    check(p.returncode == 143, p.returncode)


def test_reader_goes_away():
    p = background("run", "-k", guest(), "-m", "16M", stdin=subprocess.PIPE)
    read_until(p, b"ready")
    p.stdout.close()
    p.stdin.write(b"f")
    p.stdin.flush()
    check(p.wait(timeout=20) == OPERATOR, p.returncode)
    check(b"standard output failed: Broken pipe" in p.stderr.read(), "no message")


def test_reader_stops_and_sigterm():
    """The pipe is full and nobody reads: the VM runs on, and ends within a second when told to."""
    check_within_a_second(seconds_to_stop_without_reader)


def seconds_to_stop_without_reader():
    p = background("run", "-k", guest(), "-m", "16M", stdin=subprocess.PIPE)
    read_until(p, b"ready")
    p.stdin.write(b"f")
    p.stdin.flush()
    time.sleep(1.5)
    check(p.poll() is None, "it did not run on")
    began = time.monotonic()
    p.terminate()
    status = p.wait(timeout=20)
    check(status == 143, status)
    return time.monotonic() - began


def test_full_disk():
    if not os.path.exists("/dev/full"):
        return
    with open("/dev/full", "wb") as full:
        p = subprocess.run([LODGE, "run", "-e", UNDER_TEST, "-k", guest(), "-m", "16M"], input=b"f", stdout=full,
                           stderr=subprocess.PIPE, timeout=20)
    check(p.returncode == OPERATOR and b"No space left" in p.stderr, p)


def test_no_child_processes():
    p = background("run", "-k", guest(), "-m", "16M")
    read_until(p, b"ready")
    children = open(f"/proc/{p.pid}/task/{p.pid}/children").read().split()
    p.terminate()
    p.communicate(timeout=20)
    check(children == [], children)


def status_of(pid):
    return dict(re.findall(r"^(\w+):\t(.*)$", open(f"/proc/{pid}/status").read(), re.M))


def test_privileges_are_dropped():
    inherited, other = os.pipe()
    p = background("run", "-k", guest(), "-m", "16M", "-c", "2", pass_fds=[inherited, other])
    read_until(p, b"ready")
    tasks = os.listdir(f"/proc/{p.pid}/task")
    for task in tasks:
        s = status_of(f"{p.pid}/task/{task}")
        check(s["Seccomp"] == "2" and s["NoNewPrivs"] == "1", f"{task}: {s}")
        check(int(s["CapEff"], 16) == int(s["CapPrm"], 16) == 0, f"{task}: {s}")
    check(len(tasks) >= 3, tasks)
    check(os.readlink(f"/proc/{p.pid}/cwd") == "/", "working directory")
    fds = {fd: os.readlink(f"/proc/{p.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{p.pid}/fd")}
    beyond = [v for n, v in fds.items() if int(n) > 2]
    of_files = ((os.path.basename(guest()), 1), ("memfd:lodge-ram", 1))
    of_engine = (("kvm-vm", 1), ("kvm-vcpu", 2)) if UNDER_TEST == "kvm" else ()
    for kind, count in (("timerfd", 1), ("eventfd", 1), ("signalfd", 1), ("/schedstat", 2), *of_files,
                        *of_engine):
        found = [v for v in beyond if kind in v]
        check(len(found) <= count, fds)
        beyond = [v for v in beyond if v not in found]
    check(not beyond, fds)
    core = [line for line in open(f"/proc/{p.pid}/limits") if "core file" in line]
    check(core[0].split()[4:6] == ["0", "0"], core)
    executable = [line for line in open(f"/proc/{p.pid}/maps") if re.search(r" .wx", line)]
    check(not executable, f"writable and executable: {executable}")
    p.terminate()
    p.communicate(timeout=20)


def test_ordinary_user():
    """Root and a user who owns nothing: as the one that we are, every other test runs."""
    if os.geteuid() != 0:
        check(os.stat(LODGE).st_mode & 0o6000 == 0, "lodge is set-user-ID or set-group-ID")
        return
    r = run_as_nobody("run", "-k", guest(), "-m", "16M", keys=b"o")
    check_status(r, OK)
    check(r.out.count("ready") == 1 and r.err == "", r)


if __name__ == "__main__":
    main()
