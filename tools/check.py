#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
"""Checks on the source and the objects that no compiler makes (docs/architecture.md says why).

  check.py source              include direction, headers alone, file and function tails
  check.py objects BUILD_DIR   undefined symbols and mutable file-scope state of the freestanding part

Prints "ok NAME" or "not ok NAME" with what is wrong, one line each; exit status 0 only if all hold.
"""
import os
import re
import subprocess
import sys

LAYERS = {  # folder: layers that it may include, itself always
    "include": set(),
    "isa": {"include"},
    "core": {"include", "isa"},
    "x86": {"include", "isa", "core"},
    "device": {"include", "isa", "core", "x86"},
    "engine": {"include", "isa", "core", "x86"},
    "share": {"include", "isa", "core", "x86"},
    "machine": {"include", "isa", "core", "x86", "device", "engine", "share"},
    "hosted": {"include", "isa", "core", "x86", "device", "engine", "share", "machine"},
    "native": {"include", "isa", "core", "x86", "device", "engine", "share", "machine"},
}
FREESTANDING = ["include", "isa", "core", "x86", "device", "share", "engine/soft", "machine"]
COMPILER_HEADERS = {
    "stdarg.h", "stdatomic.h", "stdbool.h", "stddef.h", "stdint.h", "stdnoreturn.h",
}
FILE_LIMIT, FUNCTION_LIMIT, FUNCTION_SOFT = 1000, 100, 60
# At most this share of functions may exceed the soft limit (style: 95th percentile at 45 to 75).
SOFT_SHARE = 0.05
TABLE_WAIVER = "/* table */"
# What the freestanding part may leave undefined: the seam, the four memory functions, and what the compiler puts in
# place of indirect branches (native/thunks.S).
ALLOWED_UNDEFINED = re.compile(r"^(seam_\w+|memcpy|memmove|memset|memcmp|_GLOBAL_OFFSET_TABLE_|"
                               r"__stack_chk_fail|__x86_indirect_thunk_\w+|__llvm_external_retpoline_\w+)$")

failures = 0


def report(name, problems):
    global failures
    for line in problems:
        print(f"  {line}")
    print(("not ok " if problems else "ok ") + name)
    failures += bool(problems)


def sources(folders, suffixes):
    for folder in folders:
        for root, _, files in os.walk(folder):
            for name in sorted(files):
                if name.endswith(suffixes):
                    yield os.path.join(root, name)


def layer_of(path):
    return path.split("/")[0]


def is_freestanding(path):
    return any(path.startswith(f + "/") for f in FREESTANDING) or path == "engine/engine.h"


def check_includes():
    problems = []
    for path in sources(LAYERS, (".c", ".h")):
        layer = layer_of(path)
        for number, line in enumerate(open(path), 1):
            match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
            if not match:
                continue
            kind, name = match.groups()
            if kind == "<" and not name.startswith("lodge/"):
                if is_freestanding(path) and name not in COMPILER_HEADERS:
                    problems.append(f"{path}:{number}: <{name}> in the freestanding part")
                continue
            target = "include" if name.startswith("lodge/") else layer_of(name)
            if target not in LAYERS or (target != layer and target not in LAYERS[layer]):
                problems.append(f"{path}:{number}: {layer} must not include {name}")
            if layer == target == "engine" and name.count("/") > 1: # not what they share
                own = "/".join(path.split("/")[:2])
                if not name.startswith(own + "/"):
                    problems.append(f"{path}:{number}: engines do not include each other")
    report("include direction", problems)


def include_graph():
    graph = {}
    for path in sources(LAYERS, (".h",)):
        graph[path] = [m.group(1) for m in re.finditer(r'#\s*include\s*"([^"]+)"', open(path).read())]
    return graph


def check_cycles():
    graph, problems, state = include_graph(), [], {}

    def visit(path, trail):
        if state.get(path) == "done" or path not in graph:
            return
        if state.get(path) == "open":
            problems.append(" -> ".join(trail[trail.index(path):] + [path]))
            return
        state[path] = "open"
        for target in graph[path]:
            visit(target, trail + [path])
        state[path] = "done"

    for path in graph:
        visit(path, [])
    report("no include cycles", problems)


def check_headers():
    problems = []
    include = subprocess.run(["gcc", "-print-file-name=include"], capture_output=True, text=True,
                             check=True).stdout.strip()
    for path in sources(LAYERS, (".h",)):
        flags = ["-ffreestanding", "-nostdinc", "-isystem", include] if is_freestanding(path) else \
            ["-D_GNU_SOURCE"]
        text = open(path).read()
        if not re.search(r"#ifndef (\w+)\n#define \1\n", text):
            problems.append(f"{path}: no include guard")
        run = subprocess.run(["gcc", "-std=gnu17", "-I.", "-Iinclude", "-Wall", "-Wextra", "-Werror",
                              "-fsyntax-only", *flags, "-x", "c", path], capture_output=True, text=True)
        if run.returncode:
            problems.append(f"{path}: does not compile alone: {run.stderr.splitlines()[:1]}")
    report("self-standing headers", problems)


def functions(lines):
    """Yields (first line, last line, head) of each function of a formatted file."""
    start = None
    for number, line in enumerate(lines, 1):
        if line.startswith("{"):
            start = number
        elif line.startswith("}") and start and line.rstrip() == "}":
            head = lines[max(0, start - 4):start - 1]
            yield start, number, "".join(head)
            start = None


def check_tails():
    problems, lengths = [], []
    folders = [f for f in LAYERS] + ["tests", "guests"]
    for path in sources(folders, (".c", ".h")):
        lines = open(path).readlines()
        text = "".join(lines)
        if len(lines) > FILE_LIMIT and TABLE_WAIVER not in text:
            problems.append(f"{path}: {len(lines)} lines (limit {FILE_LIMIT})")
        if "SPDX-License-Identifier: Apache-2.0" not in "".join(lines[:2]):
            problems.append(f"{path}: no licence line")
        for first, last, head in functions(lines):
            length = last - first + 1
            lengths.append(length)
            if length > FUNCTION_LIMIT and TABLE_WAIVER not in head:
                problems.append(f"{path}:{first}: function of {length} lines (limit {FUNCTION_LIMIT})")
    long = sum(1 for n in lengths if n > FUNCTION_SOFT)
    if lengths and long > SOFT_SHARE * len(lengths):
        problems.append(f"{long} of {len(lengths)} functions exceed {FUNCTION_SOFT} lines")
    report("file and function tails", problems)


def check_python():
    """A name that is not there is seen only by who runs that line."""
    said = subprocess.run(["pyflakes3", *sources(("tests", "tools", "guests"), (".py",))], capture_output=True, text=True)
    report("python programs", (said.stdout + said.stderr).splitlines())


def symbols(path):
    out = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
    for line in out.splitlines():
        parts = line.split()
        yield parts[-2], parts[-1]


def check_objects(build):
    for tree in ("hosted", "native"):
        objects = [p for f in FREESTANDING for p in sources([os.path.join(build, tree, f)], (".o",))]
        merged = os.path.join(build, tree, "free-check.o")
        if not objects:
            report(f"undefined symbols ({tree})", ["no objects: build first"])
            continue
        subprocess.run(["ld", "-r", "-o", merged, *objects], check=True)
        table = list(symbols(merged))
        report(f"undefined symbols ({tree})",
               [name for kind, name in table if kind == "U" and not ALLOWED_UNDEFINED.match(name)])
        report(f"no mutable file-scope state ({tree})",
               [name for kind, name in table if kind in "bBdDcC" and not name.startswith(".")
                and not is_relocated_constant(merged, name)])


# Instructions that not every x86-64 processor has, and the feature that they belong to.
FEATURE_OF = {"popcnt": "POPCNT", "lzcnt": "LZCNT", "tzcnt": "BMI1", "adcx": "ADX", "adox": "ADX",
              "movbe": "MOVBE", "rdrand": "RDRAND", "rdseed": "RDSEED", "cmpxchg16b": "CX16",
              "crc32b": "SSE42", "crc32w": "SSE42", "crc32l": "SSE42", "crc32q": "SSE42",
              "rdpid": "RDPID", "clwb": "CLWB", "clflushopt": "CLFLUSHOPT",
              **dict.fromkeys("andn bextr blsi blsmsk blsr".split(), "BMI1"),
              **dict.fromkeys("bzhi mulx pdep pext rorx sarx shlx shrx".split(), "BMI2")}


def check_native_features(build):
    """What handlers execute on the host, x86_level_missing must ask the host for."""
    rows = dict(re.findall(r"ROW\((\w+), (true|false),", open("x86/level.c").read()))
    merged = os.path.join(build, "hosted", "free-check.o")
    if not os.path.exists(merged):
        return  # check_objects has complained
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", merged], capture_output=True,
                          text=True, check=True).stdout
    used = {FEATURE_OF[m] for m in re.findall(r"\t([a-z0-9]+)\b", text) if m in FEATURE_OF}
    report("host instructions are asked for",
           [f"{f}: its instructions are executed by the host, its row in x86/level.c says not"
            for f in sorted(used) if rows.get(f) != "true"])


def is_relocated_constant(path, name):
    """Const tables with addresses land in .data.rel.ro: read-only once loaded."""
    out = subprocess.run(["objdump", "-t", path], capture_output=True, text=True, check=True).stdout
    return any(line.split()[-1] == name and ".data.rel.ro" in line for line in out.splitlines()
               if line.split())


def main():
    if sys.argv[1:2] == ["source"]:
        check_includes()
        check_cycles()
        check_headers()
        check_tails()
        check_python()
    elif len(sys.argv) == 3 and sys.argv[1] == "objects":
        check_objects(sys.argv[2])
        check_native_features(sys.argv[2])
    else:
        sys.exit(__doc__)
    sys.exit(1 if failures else 0)


main()
