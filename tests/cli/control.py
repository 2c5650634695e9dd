#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""The control socket: VMs with a name, asked from outside, in order and out of it."""
from lodge import (LODGE, OK, OPERATOR, SLOWER, USAGE, Terminal, background, check, check_refused, check_status,
                   check_within_a_second, guest, main, path, read_until, run, run_as_nobody, wait_for, with_engine)
import json
import os
import re
import select
import signal
import socket
import stat
import subprocess
import threading
import time

RUNTIME = path("runtime")
os.makedirs(RUNTIME)
os.environ["XDG_RUNTIME_DIR"] = RUNTIME
SOCKETS = os.path.join(RUNTIME, "lodge")


def start(name, *args):
    """A VM in the background, ready for keys; its output is a pipe."""
    p = background("run", "-k", guest(), "-m", "16M", "--name", name, *args, stdin=subprocess.PIPE)
    read_until(p, b"ready\r\n")
    return p


def say(p, key):
    p.stdin.write(key)
    p.stdin.flush()


def ask(p, key):
    """Types a key; the guest's answer to it."""
    say(p, key)
    return read_until(p, b">")


def end(p, name):
    check_status(run("kill", name), OK)
    check(p.wait(timeout=20 * SLOWER) == OPERATOR, "the VM's status")


def connect(name):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(10 * SLOWER)
    s.connect(os.path.join(SOCKETS, name + ".sock"))
    return s


def request(s, text):
    s.send(text)
    return s.recv(65536)


class Gather(threading.Thread):
    """Reads a program's output to its end."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.file, self.bytes = process.stdout, b""
        self.start()

    def run(self):
        while more := os.read(self.file.fileno(), 65536):
            self.bytes = (self.bytes + more)[-65536:]

    def tail(self):
        self.join(20 * SLOWER)
        return self.bytes[-1000:]


def test_where_it_is():
    p = start("here")
    directory, sock = os.stat(SOCKETS), os.stat(os.path.join(SOCKETS, "here.sock"))
    check(stat.S_IMODE(directory.st_mode) == 0o700, oct(directory.st_mode))
    check(stat.S_ISSOCK(sock.st_mode) and stat.S_IMODE(sock.st_mode) == 0o600, oct(sock.st_mode))
    end(p, "here")
    check(os.listdir(SOCKETS) == [], "its socket is still there")


def test_no_name_no_socket():
    p = background("run", "-k", guest(), "-m", "16M", stdin=subprocess.PIPE)
    read_until(p, b"ready\r\n")
    check(os.listdir(SOCKETS) == [], os.listdir(SOCKETS))
    say(p, b"o")
    check(p.wait(timeout=20 * SLOWER) == OK, "power-off")


def test_a_name_only_once():
    p = start("one")
    check_refused(run(*with_engine("run", "-k", guest())[:1], "-e", "soft", "-k", guest(), "-m", "16M", "--name", "one"),
                  USAGE, "a VM with the name 'one' runs already")
    end(p, "one")
    p = start("one")  # again, now that it has gone
    end(p, "one")


def test_a_socket_that_was_left():
    """After SIGKILL nobody listens on it: it is in nobody's way, and gone when somebody looks."""
    p = start("left")
    p.kill()
    p.wait()
    check(os.listdir(SOCKETS) == ["left.sock"], os.listdir(SOCKETS))
    result = run("ps")
    check_status(result, OK)
    check("left" not in result.out, result)
    check(os.listdir(SOCKETS) == [], os.listdir(SOCKETS))
    p = start("left")
    p.kill()
    p.wait()
    p = start("left")
    end(p, "left")


def test_a_directory_that_is_not_ours():
    os.chmod(SOCKETS, 0o755)
    try:
        check_refused(run("run", "-e", "soft", "-k", guest(), "-m", "16M", "--name", "x"), 10,
                      "cannot make a control socket")
    finally:
        os.chmod(SOCKETS, 0o700)


def test_without_a_directory():
    """Who has none runs without."""
    environment = {k: v for k, v in os.environ.items() if k != "XDG_RUNTIME_DIR"}
    if os.geteuid() == 0:
        result = run_as_nobody("run", "-e", "soft", "-k", guest(), "-m", "16M", "--name", "x", keys=b"o",
                               env=environment)
        check_status(result, OK)
        check_refused(run_as_nobody("ps", env=environment), 10, "XDG_RUNTIME_DIR is not set")


def test_ps():
    check_status(run("ps"), OK)
    a, b = start("a"), start("b", "-m", "32M")
    lines = run("ps").out.splitlines()
    check(len(lines) == 3 and lines[0].startswith("NAME"), lines)
    fields = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    check(int(fields["a"][0]) == a.pid and fields["b"][4] == "32", fields)
    check(fields["a"][1] == "running" and fields["a"][3] == "1", fields)
    end(a, "a")
    check([x.split()[0] for x in run("ps").out.splitlines()[1:]] == ["b"], "b alone")
    end(b, "b")


def test_inspect():
    p = start("look", "--append", 'a "b" \\c\tä')
    got = json.loads(run("inspect", "--json", "look").out)
    check(got == {**got, **json.loads(run("inspect", "look").out), "clock_ns": got["clock_ns"],
                  "cpu_ns": got["cpu_ns"], "vcpus": got["vcpus"]}, "the same without --json")
    check(got["name"] == "look" and got["pid"] == p.pid and got["state"] == "running", got)
    check(got["append"] == 'a "b" \\c\tä' and got["kernel"] == guest(), got)
    check(got["memory_bytes"] == 16 << 20 and len(got["vcpus"]) == 1 and got["vcpus"][0]["exits"] > 0, got)
    check(got["clock_ns"] > 0 and got["cpu_ns"] > 0 and got["memory_layers"] == [], got)
    end(p, "look")


def clock(name):
    return json.loads(run("inspect", name).out)["clock_ns"]


def test_pause_and_resume():
    p = start("rest")
    check(ask(p, b"n") == b"<0>", "counts")
    check_status(run("pause", "rest"), OK)
    check("paused" in run("ps").out, "ps says so")
    before = clock("rest")
    say(p, b"n")
    check(not select.select([p.stdout], [], [], 0.5)[0], "it answers while it is paused")
    check(clock("rest") == before, "its clock goes on")
    check_refused(run("pause", "rest"), OPERATOR, "it is paused already", hint=False)
    check_refused(run("stop", "rest"), OPERATOR, "it is paused", hint=False)
    check_status(run("resume", "rest"), OK)
    check(read_until(p, b">") == b"<1>", "goes on")
    check(clock("rest") - before < 400e6 * SLOWER + 200e6, "the pause was no time for it")
    check_refused(run("resume", "rest"), OPERATOR, "it is not paused", hint=False)
    end(p, "rest")


def test_ends_while_paused():
    for how in ("kill", "stop --force", "signal"):
        p = start("pausing")
        check_status(run("pause", "pausing"), OK)
        if how == "signal":
            p.send_signal(signal.SIGTERM)
        else:
            check_status(run(*how.split(), "pausing"), OK)
        check(p.wait(timeout=20 * SLOWER) == (143 if how == "signal" else OPERATOR), how)


def test_begins_paused():
    p = background("run", "-k", guest(), "-m", "16M", "--name", "later", "--paused", stdin=subprocess.PIPE)
    wait_for(lambda: "paused" in run("ps").out, "paused")
    check(not select.select([p.stdout], [], [], 0.3)[0], "it has run")
    check(clock("later") == 0, "its clock stands")
    check_status(run("resume", "later"), OK)
    read_until(p, b"ready\r\n")
    end(p, "later")


def test_stop_with_the_power_button():
    p = start("button")
    say(p, b"b")
    check_status(run("stop", "button"), OK)
    check(p.wait(timeout=20 * SLOWER) == OK, "powered off")


def test_stop_of_a_guest_that_does_not():
    p = start("deaf")
    check_refused(run("stop", "--timeout", "1", "deaf"), OPERATOR, "has not powered off within 1 s")
    check(ask(p, b"n") == b"<0>", "runs on")
    check_status(run("stop", "--force", "--timeout", "1", "deaf"), OK)
    check(p.wait(timeout=20 * SLOWER) == OPERATOR, "was ended")


def test_kill_within_a_second():
    def attempt():
        p = start("dies")
        say(p, b"s")  # interrupts off, for ever
        result = run("kill", "dies")
        check_status(result, OK)
        check(p.wait(timeout=20 * SLOWER) == OPERATOR, "its status")
        return result.seconds
    check_within_a_second(attempt)


def test_reset():
    p = start("again")
    check(ask(p, b"n") == b"<0>", "counts")
    check_status(run("reset", "again"), OK)
    check(b"clean" in read_until(p, b"ready\r\n"), "zeroed memory")
    check(ask(p, b"n") == b"<0>", "counts from the beginning")
    end(p, "again")


def test_detached():
    """The program comes back when the guest runs, and the VM needs nothing of it."""
    result = run("run", "-e", "soft", "-k", guest(), "-m", "16M", "--name", "alone", "--detach")
    check_status(result, OK)
    check(result.out == "" and result.err == "", result)
    console = subprocess.Popen([LODGE, "console", "alone"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    check(read_until(console, b"ready\r\n").endswith(b"clean\r\nready\r\n"), "output before is shown")
    say(console, b"n")
    check(read_until(console, b">") == b"<0>", "keys")
    say(console, b"o")
    check(console.wait(timeout=20 * SLOWER) == OK, "ends with the VM")


def test_detached_that_cannot_run():
    check_refused(run("run", "-k", "/nowhere/k", "--name", "no", "-d"), USAGE, "/nowhere/k")
    check_refused(run("run", "-k", guest(), "-m", "1000000G", "--name", "no", "-d"), USAGE, "memory", hint=True)


def test_consoles():
    """Two at once beside the VM's own: all see all, each may type; one may go."""
    p = start("many")
    consoles = [subprocess.Popen([LODGE, "console", "many"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                for _ in range(2)]
    for c in consoles:
        read_until(c, b"ready\r\n")
    for n, one in enumerate([p, *consoles]):
        say(one, b"n")
        for other in [p, *consoles]:
            check(read_until(other, b">") == b"<%d>" % n, f"{n}: all see it")
    consoles[0].terminate()
    consoles[0].wait()
    say(consoles[1], b"n")
    check(read_until(p, b">") == b"<3>", "the other stays")
    end(p, "many")
    check(consoles[1].wait(timeout=20 * SLOWER) == OK, "a console ends with its VM")


def test_console_of_a_vm_that_ends():
    """It shows all that the VM's own output shows, to the last byte before the guest powers off, and of an endless flood."""
    for n in range(10):
        p = start("last")
        c = subprocess.Popen([LODGE, "console", "last"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        read_until(c, b"ready\r\n")
        own, attached = Gather(p), Gather(c)
        if n % 5:
            say(p, b"z" * 200 + b"o")
            check(p.wait(timeout=20 * SLOWER) == OK, "powered off")
        else:
            say(p, b"f")
            time.sleep(0.2)
            end(p, "last")
        check(c.wait(timeout=20 * SLOWER) == OK, "a console ends with its VM")
        check(own.tail() == attached.tail(), f"{n}: {own.tail()[-100:]} and {attached.tail()[-100:]}")


def test_console_on_a_terminal():
    p = start("tty")
    with Terminal("console", "tty") as t:
        t.expect(b"ready\r\n")
        wait_for(t.is_raw, "raw")
        t.type(b"n")
        t.expect(b"<0>")
        t.type(b"\x1d")
        t.expect(b"q leave")
        t.type(b"\x1d")  # sends it
        t.expect(b"<\x1d>")
        t.type(b"\x1dq")
        t.check_end(OK)

    with Terminal("console", "tty") as t:
        t.expect(b"ready\r\n")
        wait_for(t.is_raw, "raw")
        t.type(b"b\x1dp")
        t.expect(b"it has ended")
        t.check_end(OK)
    check(p.wait(timeout=20 * SLOWER) == OK, "powered off")


def test_a_console_that_reads_nothing():
    """It stops neither the guest nor the others, and is told what it missed."""
    p = start("flood")
    s = connect("flood")
    check(request(s, b"console") == b"ok", "attached")
    time.sleep(0.1)
    say(p, b"f")
    got = 0
    while got < 1 << 20:
        got += len(os.read(p.stdout.fileno(), 65536))
    lost = False
    end_at = time.monotonic() + 10 * SLOWER
    while not lost and time.monotonic() < end_at:
        lost = b"bytes of output were not kept" in s.recv(65536)
        os.read(p.stdout.fileno(), 65536)
    check(lost, "no notice")
    p.stdout.close()
    p.wait(timeout=20 * SLOWER)


def test_the_menu_of_a_paused_vm():
    with Terminal("run", "-k", guest(), "-m", "16M", "--name", "menu") as t:
        t.expect(b"ready")
        check_status(run("pause", "menu"), OK)
        t.type(b"\x1dd")  # dumps registers
        t.expect(b"gdtr", 20)
        check("paused" in run("ps").out, "still is")
        check_status(run("resume", "menu"), OK)
        t.type(b"n")
        t.expect(b"<0>")
        t.type(b"o")
        t.check_end(OK)


def test_requests_of_those_who_have_gone():
    """Nobody waits for the answer: it is not done later, when there is room again."""
    p = start("gone")
    waiting = [connect("gone") for _ in range(8)]
    late = connect("gone")
    late.send(b"pause")
    late.close()
    for s in waiting:
        s.close()
    check(ask(p, b"n") == b"<0>", "runs")
    check("running" in run("ps").out, "was paused by somebody who had gone")
    end(p, "gone")


def test_ps_does_not_wait_for_long():
    p, q = start("stuck"), start("well")
    p.send_signal(signal.SIGSTOP)
    result = run("ps")
    check(re.search(rf"stuck +{p.pid} no answer", result.out) and "running" in result.out, result)
    check(result.seconds < 5 * SLOWER, result.seconds)
    p.send_signal(signal.SIGCONT)
    end(p, "stuck")
    end(q, "well")


def test_console_signals():
    """Whatever ends a console, its terminal is as it was."""
    p = start("tty")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with Terminal("console", "tty") as t:
            t.expect(b"ready\r\n")
            wait_for(t.is_raw, "raw")
            t.process.send_signal(number)
            t.check_end(-number)
    end(p, "tty")


def test_a_background_needs_a_name():
    check_refused(run("run", "-e", "soft", "-k", guest(), "-m", "16M", "-d"), USAGE, "needs a name")


def test_hostile_clients():
    p = start("hard")
    clients = [connect("hard") for _ in range(8)]
    for text in (b"", b"\0", b"x" * 64, b"statusx", b"stat", b"freeze\0", b"pause resume", b"\xff" * 64, b"%n%s"):
        if text:
            check(request(clients[0], text).startswith(b"error "), text)
    clients[1].send(b"status" + b" " * 100000)  # cut off after the first few bytes
    check(clients[1].recv(65536).startswith(b"error"), "a long request")
    for _ in range(300):  # never reads what it asks for
        try:
            clients[2].send(b"inspect", socket.MSG_DONTWAIT)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            break
    for s in clients[3:6]:
        s.close()
    clients[6].send(b"freeze")
    clients[6].close()  # goes before it is answered
    check(ask(p, b"n") == b"<0>", "the guest runs")
    for s in (clients[0], clients[1], clients[2], clients[7]):
        s.close()
    for _ in range(50):
        s = connect("hard")
        socket.send_fds(s, [b"status"], [0, 1, 2])
        check(s.recv(65536).startswith(b"ok\n"), "with descriptors")
        s.close()
    check(len(os.listdir(f"/proc/{p.pid}/fd")) < 40, "no descriptor is kept")
    check(ask(p, b"n") == b"<1>", "the guest runs")
    end(p, "hard")


def test_many_clients():
    """More than there is room for: the others wait, and nobody is lost."""
    p = start("crowd")
    waiting = [connect("crowd") for _ in range(8)]
    more = [connect("crowd") for _ in range(4)]
    for s in more:
        s.send(b"status")
    for s in waiting:
        check(request(s, b"status").startswith(b"ok\n"), "status")
        s.close()
    for s in more:
        check(s.recv(65536).startswith(b"ok\n"), "answered later")
        s.close()
    end(p, "crowd")


def test_names_that_are_none():
    for name in ("nobody", "a" * 63):
        check_refused(run("pause", name), OPERATOR, "no VM with the name")
    for name in ("../x", "a/b", "", "a" * 64, "a b"):
        check_refused(run("kill", name), OPERATOR, "name", hint=False)
    for args in (("pause",), ("kill", "a", "b"), ("stop",), ("stop", "--timeout", "0", "a"), ("console",), ("save", "a"),
                 ("inspect",), ("restore",), ("fork",), ("fork", "-n", "0", "a"), ("fork", "a", "b"), ("ps", "x")):
        check_status(run(*args), USAGE)


if __name__ == "__main__":
    main()
