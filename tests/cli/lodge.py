# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""What the command line tests share: running lodge as a user does, with pipes or on a terminal.

A test program defines functions test_* and ends with main(). Each is a test: it prints "ok NAME" or
"not ok NAME" after what went wrong; the exit status is 0 only if all passed, and any ran.

    PROGRAM [BUILD] [NAME...]    BUILD: the directory that lodge is in (default build, or $LODGE
                                 names the file); NAME: only these tests

The guest (guest.S) is assembled into a directory that is removed at the end.
"""
import atexit
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BUILD = sys.argv.pop(1) if os.path.isdir("".join(sys.argv[1:2])) else os.path.join(TOP, "build")
LODGE = os.path.abspath(os.environ.get("LODGE", os.path.join(BUILD, "lodge")))
# What a run is given with -e. Not auto: it takes what it finds here.
UNDER_TEST = os.environ.get("LODGE_ENGINE", "soft")
SLOWER = float(os.environ.get("LODGE_SLOWER", "1"))  # as in the rig (docs/rig.md)
LIMIT = 20 * SLOWER  # seconds that anything may take here

# Exit statuses, as docs/cli.md has them.
OK, USAGE, GUEST_DIED, OPERATOR, ENGINE, HOST = 0, 2, 4, 6, 8, 10

_work = None


def work_dir():
    """A directory for this test program, removed when it ends."""
    global _work
    if _work is None:
        _work = tempfile.mkdtemp(prefix="lodge-cli-")
        atexit.register(shutil.rmtree, _work, True)
    return _work


def path(name):
    return os.path.join(work_dir(), name)


def write(name, content):
    """A file in the work directory; its path."""
    with open(path(name), "wb") as f:
        f.write(content if isinstance(content, bytes) else content.encode())
    return path(name)


def guest():
    """The path of the test guest, assembled when it is first asked for; $LODGE_CLI_GUEST if given."""
    if "LODGE_CLI_GUEST" in os.environ:
        return os.path.abspath(os.environ["LODGE_CLI_GUEST"])
    out = path("guest.elf")
    if not os.path.exists(out):
        cc = os.environ.get("CC", "gcc")
        subprocess.run([cc, "-m32", "-c", "-I", os.path.join(TOP, "include"), "-o", path("guest.o"),
                        os.path.join(HERE, "guest.S")], check=True)
        subprocess.run(["ld", "-m", "elf_i386", "-N", "-Ttext=0x100000", "-o", out,
                        path("guest.o")], check=True, stderr=subprocess.DEVNULL)
    return out


class Result:
    def __init__(self, status, out, err, seconds):
        self.status, self.out, self.err, self.seconds = status, out, err, seconds

    def __repr__(self):
        return f"status {self.status}, {self.seconds:.2f} s\n  out: {self.out!r}\n  err: {self.err!r}"


def run(*args, keys=b"", **kwargs):
    """Runs lodge with pipes and waits for its end."""
    began = time.monotonic()
    p = subprocess.run([LODGE, *args], input=keys, capture_output=True, timeout=LIMIT, **kwargs)
    return Result(p.returncode, p.stdout.decode(errors="replace"),
                  p.stderr.decode(errors="replace"), time.monotonic() - began)


def with_engine(program, *args):
    """A command line, under the engine that is tested if it runs a guest."""
    return [program, *args[:1], *(["-e", UNDER_TEST] if args[:1] == ("run",) else []), *args[1:]]


def run_guest(keys, *args, **kwargs):
    """Runs the test guest, which finds `keys` on its serial port."""
    return run("run", "-e", UNDER_TEST, "-k", guest(), "-m", "16M", *args, keys=keys, **kwargs)


def talk(keys, *args):
    """Runs the test guest and types each key when it has said that it is ready (again)."""
    p = background("run", "-k", guest(), "-m", "16M", *args, stdin=subprocess.PIPE)
    out = b""
    for key in keys:
        out += read_until(p, b"ready\r\n")
        p.stdin.write(bytes([key]))
        p.stdin.flush()
    rest, err = p.communicate(timeout=LIMIT)
    return Result(p.returncode, (out + rest).decode(), err.decode(), 0)


def run_as_nobody(*args, keys=b"", program=LODGE, **kwargs):
    """Runs lodge as a user who owns nothing (we are root). A copy: nobody may not get as far as the
    checkout."""
    copy = path(os.path.basename(program))
    if not os.path.exists(copy):
        shutil.copy(program, copy)
        os.chmod(copy, 0o755)
    os.chmod(work_dir(), 0o711)
    p = subprocess.run([copy, *args], input=keys, capture_output=True, timeout=LIMIT, user=65534,
                       group=65534, extra_groups=[], **kwargs)
    return Result(p.returncode, p.stdout.decode(), p.stderr.decode(), 0)


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def check_status(result, status):
    check(result.status == status, f"expected status {status}: {result}")


def check_refused(result, status, pattern, hint=True):
    """Ended with this status and a message of one line, which matches and says what to do."""
    check_status(result, status)
    lines = result.err.splitlines()
    check(len(lines) == 1, f"expected one line: {result}")
    check(lines[0].startswith("lodge: "), f"expected 'lodge: ...': {result}")
    check(re.search(pattern, lines[0]), f"expected {pattern!r}: {result}")
    check("(" in lines[0] or not hint, f"expected a hint in parentheses: {result}")
    check(result.out == "", f"expected nothing on standard output: {result}")


def wait_for(condition, what, seconds=LIMIT):
    """Polls until condition() gives something true; returns it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s: {what}")


def check_within_a_second(attempt):
    """attempt() gives the seconds that something took. Three tries: on a machine that is busy with
    something else, one may take longer for no fault of ours."""
    took = []
    while len(took) < 3:
        took.append(attempt())
        if took[-1] < SLOWER:
            return
    raise AssertionError(f"took {took} seconds")


class Terminal:
    """lodge on a terminal of its own, as the leader of its session."""

    def __init__(self, *args, program=LODGE, controlling=True):
        self.output = b""
        self.master, self.slave = pty.openpty()
        self.modes_before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(with_engine(program, *args), stdin=self.slave, stdout=self.slave,
                                        stderr=self.slave, start_new_session=True,
                                        preexec_fn=self._control if controlling else None)

    @staticmethod
    def _control():
        import fcntl
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def modes(self):
        return termios.tcgetattr(self.slave)

    def is_raw(self):
        return not self.modes()[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def type(self, keys):
        os.write(self.master, keys)

    def read_some(self, seconds):
        ready, _, _ = select.select([self.master], [], [], seconds)
        if ready:
            self.output += os.read(self.master, 65536)
        return bool(ready)

    def expect(self, text, seconds=LIMIT):
        """Waits for the text in what comes after the last expect; forgets everything up to it."""
        end = time.monotonic() + seconds
        while text not in self.output:
            check(time.monotonic() < end, f"expected {text!r}, have {self.output[-400:]!r}")
            self.read_some(0.1)
        before, _, self.output = self.output.partition(text)
        return before

    def wait(self):
        """The exit status, once it has ended; reads what it prints meanwhile."""
        end = time.monotonic() + LIMIT
        while self.process.poll() is None:
            check(time.monotonic() < end, f"did not end; have {self.output[-400:]!r}")
            self.read_some(0.02)
        while self.read_some(0):
            pass
        return self.process.returncode

    def check_end(self, status):
        """Ended with this status, and the terminal is as it was."""
        got = self.wait()
        check(got == status, f"expected status {status}, got {got}: {self.output!r}")
        check(self.modes() == self.modes_before, "the terminal's modes are not as they were")


def background(*args, **kwargs):
    """lodge in the background, its output in a pipe; the caller waits for its end."""
    p = subprocess.Popen(with_engine(LODGE, *args), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         **{"stdin": subprocess.DEVNULL, **kwargs})
    atexit.register(p.kill)  # of a test that failed; does nothing to one that has been waited for
    return p


def read_until(p, text):
    """Reads what a process in the background prints, up to and with the text."""
    got = b""
    end = time.monotonic() + LIMIT
    while text not in got:
        check(time.monotonic() < end, f"expected {text!r}, have {got!r}")
        if select.select([p.stdout], [], [], 0.1)[0]:
            piece = os.read(p.stdout.fileno(), 65536)
            if not piece:
                check(False, f"expected {text!r}, ended with {got!r}: {p.wait(LIMIT)}, {p.stderr and p.stderr.read()}")
            got += piece
    return got


def main():
    module = sys.modules["__main__"]
    wanted = sys.argv[1:]
    ran = failed = 0
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs have it ignored
    for name, test in list(vars(module).items()):
        if not name.startswith("test_") or (wanted and name not in wanted):
            continue
        ran += 1
        try:
            test()
            print(f"ok {name}", flush=True)
        except Exception:  # whatever it is, the other tests are run
            failed += 1
            traceback.print_exc(file=sys.stdout)
            print(f"not ok {name}", flush=True)
    sys.exit(1 if failed or not ran else 0)
