#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""Lines of code in the bare-metal image, by layer: of the sources of the objects that are linked, and of the headers
that these include (the compiler's own aside), without blank lines and comments.

  native-size.py OBJECT...

Prints a table. The last line is what runs privileged beside the machine and processor that it shares with the hosted
program: core, share, engines, home.
"""
import os
import re
import sys

LAYERS = ["include", "isa", "core", "x86", "device", "machine", "share", "engine", "engine/svm", "engine/vmx", "native"]
PRIVILEGED = ["core", "share", "engine", "engine/svm", "engine/vmx", "native"]
GOAL = 12000
# A comment, or what may look as if it had one
TOKEN = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def lines_of(path):
    def keep(match):
        text = match.group(0)
        return text if text[0] in "\"'" else "\n" * text.count("\n")

    with open(path) as f:
        return sum(bool(line.strip()) for line in TOKEN.sub(keep, f.read()).splitlines())


def sources_of(an_object):
    """All that its depfile names, but for what is not ours."""
    with open(re.sub(r"\.o$", ".d", an_object)) as f:
        rule = f.read().replace("\\\n", " ").split("\n")[0]
    return {os.path.normpath(p) for p in rule.split(":", 1)[1].split() if not os.path.isabs(p)}


def layer_of(path):
    folder = os.path.dirname(path)
    return folder if folder in LAYERS else path.split("/")[0]


def main():
    sources = set().union(*map(sources_of, sys.argv[1:]))
    files, lines = dict.fromkeys(LAYERS, 0), dict.fromkeys(LAYERS, 0)
    for path in sources:
        files[layer_of(path)] += 1
        lines[layer_of(path)] += lines_of(path)
    for layer in LAYERS:
        print(f"{layer:<12} {files[layer]:4} files {lines[layer]:6} lines")
    print(f"{'all':<12} {sum(files.values()):4} files {sum(lines.values()):6} lines")
    privileged = sum(lines[layer] for layer in PRIVILEGED)
    print(f"{' + '.join(PRIVILEGED)}: {privileged} lines; the goal is {GOAL} at most")


if __name__ == "__main__":
    main()
