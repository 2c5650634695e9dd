#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""Who gets the processor on the bare machine, seen by what its own meter says and what guests see (guests/bench/shares.c).

  shares.py BUILD [NAME...]

Prints "ok NAME: figures" or "not ok NAME" for each test. Without names: those of the short form; LODGE_NIGHTLY: all. Time
is QEMU's count of instructions (-icount), so that figures do not depend on what else the machine does.
"""
import os
import re
import sys
import time

import shares_line
from shares_line import DEBIAN, START, cpu, difference, parts
from suite import again, check, chosen, long, run, test

BUILD = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else sys.exit(__doc__)
SWITCH_MOST = 1000 # instructions


def vm(name, append="", **keys):
    return shares_line.vm(BUILD, name, append, **keys)


def Fleet(vms, **more): # noqa: N802
    return shares_line.Fleet(BUILD, vms, **more)


# --- weights -------------------------------------------------------------------------------------


def weights(cpus, *weights, seconds=1):
    """Percent that the furthest from its share is off, of that share."""
    with Fleet([vm(f"v{i}", weight=w, vcpus=cpus) for i, w in enumerate(weights)], cpus=cpus) as f:
        u = f.window(seconds)
    worst = 0
    for (name, part), w in zip(parts(u).items(), weights):
        share = 100 * w / sum(weights)
        worst = max(worst, 100 * abs(part - share) / share)
    check(worst <= 1, f"weights {weights} on {cpus} CPUs: {parts(u)}")
    return f"{worst:.2f} %"


@test
def test_weights():
    cases = ((1, (100, 200, 400, 800)), (2, (100, 1000)))
    return ", ".join(f"{':'.join(map(str, w))} on {n} CPU{'s' * (n > 1)} within {weights(n, *w)}" for n, w in cases)


@long
def test_all_weights():
    cases = [(n, w) for n in (1, 2) for w in ((100, 100), (200, 100), (1000, 100), (100, 200, 400, 800))]
    return ", ".join(f"{':'.join(map(str, w))} on {n} within {weights(n, *w)}" for n, w in cases)


# --- reservation, limit, credit ------------------------------------------------------------------


GREEDY = [vm(f"greedy{i}", weight=1000) for i in range(3)]


@test
def test_reservation_and_limit():
    """40 % reserved at a weight of almost nothing; 10 % allowed at a weight that would give 15."""
    with Fleet([vm("small", weight=1, reservation=40), vm("held", weight=1000, limit=10), *GREEDY]) as f:
        u = f.window(1)
        small, held = (100 * cpu(u.vm[name]) / u.now for name in ("small", "held"))
        check(39.6 <= small <= 41, f"{small} % of 40 % reserved")
        for name, v in u.vm.items():
            check(v.overhead <= 0.03 * v.guest, f"{name} has no use of what it pays for: {v}")
        check(9.5 <= held <= 10.4, f"{held} % of 10 % allowed") # and a slice
        said = f.set("held", "cpu.limit=0")
        check(said == "cpu.weight=1000 cpu.reservation=0 cpu.limit=0 cpu.credit=0", said)
        u = f.window(1)
        freed = 100 * cpu(u.vm["held"]) / u.now
        check(abs(freed - 15) <= 0.6, f"{freed} % without the limit: a fourth of what is not reserved")
    return f"{small:.2f} % of 40 reserved, {held:.2f} % of 10 allowed, {freed:.2f} % of 15 without"


@long
def test_nearly_all_reserved():
    """In parts of any size, beside two of great weight that have the rest, as little as it is."""
    wanted = {"most": 93, "some": 5, "bit": 1, "greedy0": 0.5, "greedy1": 0.5}
    with Fleet([vm("most", weight=1, reservation=93), vm("some", weight=100, reservation=5), vm("bit", weight=100, reservation=1),
                *GREEDY[:2]]) as f:
        u = f.window(2)
    got = {name: 100 * cpu(v) / u.now for name, v in u.vm.items()}
    check(all(abs(got[name] - wanted[name]) <= 0.25 for name in wanted), str(got))
    return ", ".join(f"{name} {p:.2f} %" for name, p in got.items())


@test
def test_operator_is_heard():
    """All of the CPU but what a VM may have of it, 1 %, is reserved: that is paused, goes on and is ended, each within a quarter of a second."""
    with Fleet([vm("held", limit=1), vm("a", reservation=50), vm("b", reservation=49)]) as f:
        f.window(0.3)
        took = []
        for order, state in (("pause", "paused"), ("resume", "running"), ("kill", "off")):
            began = f.usage().now
            f.command(f"{order} held", rb"lodge> ", START)
            for _ in range(50):
                if f.command("ps", rb"\nheld +(\w+)", START).group(1).decode() == state:
                    break
            took.append(f.usage().now - began)
    check(max(took) <= 0.25, f"{took} s")
    return "pause, resume, kill and ps: " + ", ".join(f"{1000 * t:.0f}" for t in took) + " ms"


@long
def test_limit_on_an_idle_machine():
    with Fleet([vm("held", limit=30)]) as f:
        u = f.window(1)
    part = 100 * cpu(u.vm["held"]) / u.now
    check(29.5 <= part <= 30.4, f"{part} %")
    return f"{part:.2f} % of 30"


@long
def test_credit():
    """Among four of equal weight: 300 ms saved up while it was idle, spent at four times the weight, then its share again,
    in steps of 100 ms; saved up once more, and no more than that."""
    greedy = [vm(f"greedy{i}") for i in range(3)]
    with Fleet([vm("bursts", "on=1000000 off=1500000", credit=300), *greedy]) as f:
        shares, last = [], f.usage()
        while len(shares) < 70:
            now = f.usage()
            if now.now - last.now >= 0.1:
                shares.append(100 * cpu(difference(last, now).vm["bursts"]) / (now.now - last.now))
                last = now
            time.sleep(0.05)
    # In a second of wanting all it has 4 / 7 until 300 ms above a fourth are gone, 0.93 s: it never gets so far.
    high = [p for p in shares if p > 52]
    low = [p for p in shares if p < 2]
    check(len(high) >= 10 and len(low) >= 20, f"no bursts or no rest: {shares}")
    check(max(shares) <= 59, f"more than 4 / 7: {shares}")
    return f"{len(high)} tenths of a second with at most {max(shares):.1f} % (4 / 7 is 57.1), {len(low)} idle"


# --- the others ----------------------------------------------------------------------------------


def wake_ups(cpus, work, count):
    with Fleet([vm("interactive", f"wake=10000 work={work} count={count}"), *(vm(f"v{i}") for i in range(8))], cpus=cpus) as f:
        text = f.command("console interactive", rb"shares: wake [^\r\n]* ns", 300).group().decode()
    p50, p99, most = map(int, re.search(r"p50 (\d+) p99 (\d+) max (\d+)", text).groups())
    check(p99 <= 200000, text)
    return f"p50 {p50 / 1000:.1f} p99 {p99 / 1000:.1f} max {most / 1000:.1f} us on {cpus}"


@test
def test_wakes_among_eight_that_compute():
    """1 ms of work each time, of a CPU that has half of QEMU's instructions if there are two."""
    return wake_ups(1, 200000, 150) + ", " + wake_ups(2, 100000, 150)


@long
def test_wakes_long():
    return wake_ups(1, 200000, 2000) + ", " + wake_ups(2, 100000, 2000)


def switches(f):
    return sum(map(int, re.findall(r"(\d+) switches", f.command("info", rb"(?s)\nLodge .*switches\r?\n", 60).group().decode())))


@test
def test_switch_cost():
    """All that the hypervisor does from one guest's last instruction to another's first, in instructions."""
    with Fleet([vm(f"v{i}") for i in range(2)]) as f:
        before, a = switches(f), f.usage()
        f.window(1)
        b, after = f.usage(), switches(f)
    spent = sum(u.overhead for u in difference(a, b).vm.values()) * 1e9 / (after - before)
    check(spent <= SWITCH_MOST, f"{spent:.0f} instructions for a switch")
    return f"{spent:.0f} instructions"


@test
def test_meter_adds_up():
    """All CPUs' time, to the rounding of what is printed; tenants are the sum of their VMs; memory is what is held."""
    vms = [vm("a", tenant="acme"), vm("b", "on=3000 off=2000", tenant="acme"), vm("c", "rest=1"), vm("d", pin="1", vcpus=2)]
    with Fleet(vms, cpus=2) as f:
        u = f.usage()
        w = f.window(0.5)
    for one in (u, w):
        check(abs(one.together - one.cpus * one.now) <= 0.001 * one.now, f"{one.together} of {one.cpus} x {one.now}")
        total = one.before + one.own + one.idle + sum(map(cpu, one.vm.values()))
        check(abs(total - one.together) <= 0.0001, f"{total}, not {one.together}")
        for i in range(4):
            check(abs(one.tenant["acme"][i] - one.vm["a"][i] - one.vm["b"][i]) < 0.002, f"tenant: {one}")
    check(all(abs(v.memory - 4 * w.now) < 0.01 for v in w.vm.values()), f"4 MiB each: {w}")
    check(cpu(w.vm["d"]) <= w.now and cpu(w.vm["c"]) < 0.001 * w.now, f"{w}")
    return f"{u.together:.6f} of {u.cpus} x {u.now:.6f} s"


@test
def test_operator():
    """What top draws, and what set refuses."""
    with Fleet([vm("a", weight=300), vm("b", "rest=1")], cpus=2) as f:
        f.send("top\r")
        for _ in range(2):
            f.expect(rb"up \d+ s, 2 CPUs; idle +[\d.]+ %, Lodge itself +[\d.]+ %; q ends", START)
            f.expect(rb"\na +(9\d|100)\.\d +[\d.]+ +[\d.]+ +4 +300 +0 +0 +0\r?\nb +0\.\d", START)
        f.send("q")
        f.expect(rb"lodge> ")
        for words, answer in {
            "cpu.weight=0": "set:1: a weight of 0 is out of range (1 to 10000): nothing is changed",
            "cpu.weight=lots": None,
            "cpu.colour=1": None,
            "weight=1": None,
            "cpu.reservation=150": "VM 'a' cannot use its reservation of 150 % of a CPU with 1 vCPUs (at most 100): nothing is changed",
            "cpu.weight=1 cpu.limit=20 cpu.reservation=30": None,
        }.items():
            said = f.set("a", words)
            check("nothing is changed" in said and (answer is None or said == answer), f"{words}: {said}")
        check(f.set("a", "") == "cpu.weight=300 cpu.reservation=0 cpu.limit=0 cpu.credit=0", "what was refused was done")
        check(f.set("a", "cpu.pin=0,5") == "there are CPUs 0 to 1: nothing is changed", "a CPU that is not there")
        check(f.set("a", "x" * 170) == "that is too long: nothing is changed", "a long word")
        f.command("set nobody cpu.weight=1", rb"there is no VM 'nobody'")
        said = f.set("a", "cpu.pin=1 cpu.weight=50 cpu.credit=1000")
        check(said == "cpu.weight=50 cpu.reservation=0 cpu.limit=0 cpu.credit=1000 cpu.pin=1", said)
        check("cpu.pin=1" in f.set("b", "cpu.pin=1 cpu.reservation=60"), "b is not pinned")
        said = f.set("a", "cpu.reservation=60")
        check(said == "reservations together would be 120 % of a CPU, and there are 100 %: nothing is changed", said)
        said = f.set("a", "cpu.reservation=60 cpu.pin=0")
        check(said == "cpu.weight=50 cpu.reservation=60 cpu.limit=0 cpu.credit=1000 cpu.pin=0", said)


@long
def test_many():
    """128 guests that compute get as much done as one for each CPU."""
    work = []
    for count in (2, 128):
        with Fleet([vm(f"v{i}") for i in range(count)], cpus=2, memory=1536) as f:
            u = f.window(1)
            work.append(sum(v.guest for v in u.vm.values()) / u.now)
    check(work[1] >= 0.97 * work[0], f"{work}")
    return f"{100 * work[1] / work[0]:.2f} % of {work[0]:.3f} CPUs"


@long
def test_idle_debian():
    with Fleet([DEBIAN.format(BUILD)], memory=512) as f:
        f.command("console debian", rb"This is a Debian kernel", 600)
        f.send("\x1d")
        f.expect(rb"lodge> ")
        f.window(5)
        u = f.window(10)
    part = 100 * cpu(u.vm["debian"]) / u.now
    check(part < 0.2, f"{part} %")
    return f"{part:.3f} % of a CPU"


@long
@again
def test_steal():
    """What Linux says in /proc/stat, where top has it from, is what the meter says: among ten that want all they can get."""
    greedy = [f"greedy{i}" for i in range(9)]
    with Fleet([DEBIAN.format(BUILD), *(vm(name, limit=1) for name in greedy)], memory=512) as f:
        f.command("console debian", rb"This is a Debian kernel", 900)
        f.send("\x1d")
        f.expect(rb"lodge> ")
        for name in greedy:
            f.set(name, "cpu.limit=0")
        f.command("console debian", rb"comes back")
        f.send("while :; do :; done &\r")
        f.send("cat /proc/stat | head -1; grep -c . /proc/version\r")
        stats = []
        f.expect(rb"\ncpu +[\d ]+\r?\n1\r", 300)
        f.send("\x1d")
        for n in range(2):
            f.expect(rb"lodge> ")
            f.command("console debian", rb"comes back") # and says what was said before
            f.send(f"head -1 /proc/stat; echo $((41+{n}))\r")
            guest = int(f.expect(rb"(?s).*\ncpu +((?:\d+ +){9}\d+)\r?\n%d\r" % (41 + n), 300).group(1).split()[7]) / 100
            f.send("\x1d")
            f.expect(rb"lodge> ")
            stats.append((guest, f.usage().vm["debian"].steal))
            if len(stats) < 2:
                f.window(40)
    guest, meter = (stats[1][i] - stats[0][i] for i in (0, 1))
    check(abs(guest - meter) <= 0.001 * meter + 0.02, f"{guest} s in the guest, {meter} s metered") # and two jiffies
    return f"{guest:.2f} s in the guest, {meter:.4f} s metered"


run(chosen(sys.argv[2:]))
