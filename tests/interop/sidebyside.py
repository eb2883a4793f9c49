"""What the side-by-side tests share: running imgtool and qemu-img on the same image and comparing.

QEMU_IMG may be of any version from 7.2 on. imgtool says what version 10 says; where an older one says
less, the difference is taken out of imgtool's answer here, each with its reason, and nowhere else.
"""
import concurrent.futures
import difflib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import served

SRCDIR = pathlib.Path(os.environ.get("SRCDIR") or pathlib.Path(__file__).resolve().parents[2])
BUILD = pathlib.Path(os.environ.get("BUILD") or SRCDIR / "build").resolve()
IMGTOOL = os.environ.get("IMGTOOL") or str(BUILD / "imgtool")
QEMU_IMG = os.environ.get("QEMU_IMG") or "qemu-img"
QEMU_IO = os.environ.get("QEMU_IO") or "qemu-io"
READCHECK = str(BUILD / "tests/interop/readcheck")
TMPDIR = pathlib.Path(os.environ.get("TMPDIR") or "/tmp")
SANITIZED = "-fsanitize" in (BUILD / "flags").read_text()
LIMIT = 120  # seconds; only against a hang

COMMANDS = [["info"], ["info", "--output=json"], ["info", "--backing-chain"],
            ["info", "--backing-chain", "--output=json"], ["map"], ["map", "--output=json"]]


class Done:
    """How a command ended. Bytes that are not UTF-8 survive as surrogates."""

    def __init__(self, command, cwd):
        self.command = command
        if command[0] in (QEMU_IMG, QEMU_IO):
            out, err, self.code = served.run(command, cwd, LIMIT)
        else:
            done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True,
                                  timeout=LIMIT, check=False)
            out, err, self.code = done.stdout, done.stderr, done.returncode
        self.out = out.decode("utf-8", "surrogateescape")
        self.err = err.decode("utf-8", "surrogateescape")

    def ok(self):
        """The output; an exception when the command failed, for what a test needs to go on."""
        if self.code:
            raise RuntimeError(f"{self.command} ended with {self.code}: {self.err}")
        return self.out


def need_qemu(*tools):
    """Skip the whole test where QEMU's tools are missing."""
    for tool in tools or (QEMU_IMG,):
        if not shutil.which(tool):
            print(f"{tool} is not installed")
            sys.exit(77)


def qemu_version():
    text = Done([QEMU_IMG, "--version"], None).ok()
    return tuple(int(n) for n in re.search(r"version (\d+)\.(\d+)", text).groups())


def in_parallel(function, items, workers=None):
    """The results of FUNCTION for ITEMS, in their order."""
    with concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count() or 2) as pool:
        return list(pool.map(function, items))


class Normaliser:
    """Brings imgtool's answer and that of a qemu-img of VERSION to a common form."""

    def __init__(self, version):
        self.version = version

    def json(self, command, text):
        try:
            value = json.loads(text)
        except ValueError:
            return text
        for entry in value if isinstance(value, list) else [value]:
            if command[0] == "map" and self.version < (8, 2):
                entry.pop("compressed", None)       # new in 8.2
            if command[0] == "info":
                self.json_layer(entry)
        return value

    def json_layer(self, layer):
        if self.version < (8, 0):
            layer.pop("children", None)             # new in 8.0
        specific = layer.get("format-specific", {}).get("data", {})
        if self.version < (9, 0):                   # new in 9.0
            specific.get("encrypt", {}).pop("detached-header", None)

    def text(self, command, text):
        if command[0] != "info":
            return text
        if self.version < (8, 0):
            text = re.sub(r"(?m)^Child node .*\n(?:    .*\n)+", "", text)
        if self.version < (9, 0):
            text = re.sub(r"(?m)^        detached header: .*\n", "", text)
            text = self.snapshot_list(text)
        return text

    @staticmethod
    def snapshot_list(text):
        """Until 9.0 the columns were of other widths, the clock had two digits for the hours, and a
        counter that was never written was shown as 0."""
        def row(match):
            return " ".join(match.group(0).split())
        text = re.sub(r"(?m)^ID +TAG.*$", "ID TAG", text)
        text = re.sub(r"(?m)^.* \d{4}-\d\d-\d\d \d\d:\d\d:\d\d +\d+:\d\d:\d\d\.\d{3} .*$", row, text)
        text = re.sub(r"(?m) 0*(\d\d+:\d\d:\d\d\.\d{3}) (?:0|--)$", r" \1 0", text)
        return text

    def answer(self, done):
        """All that two programs must agree on."""
        is_json = "--output=json" in done.command
        command = done.command[1:]
        out = self.json(command, done.out) if is_json else self.text(command, done.out)
        return done.code, out, program_free(done.err) if done.code else ""


def program_free(stderr):
    """Standard error without the programs' names."""
    stderr = re.sub(r"(on the image file to fix\.)(?=.)", r"\1\n", stderr)     # QEMU leaves this end out
    return re.sub(r"(?m)^[^ :]*(?:imgtool|qemu-img|qimg\d*)\b", "PROGRAM", stderr)


def without_disk_size(answer):
    code, out, err = answer
    if isinstance(out, str):
        return code, re.sub(r"(?m)^ *disk size: .*\n", "", out), err

    def strip(value):
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if k != "actual-size"}
        return [strip(v) for v in value] if isinstance(value, list) else value
    return code, strip(out), err


def compare(normaliser, command, arguments, cwd):
    """Runs COMMAND ARGUMENTS with both programs. Returns complaints: none when they agree."""
    for _ in range(3):
        theirs = Done([QEMU_IMG, *command, *arguments], cwd)
        ours = Done([IMGTOOL, *command, *arguments], cwd)
        mine, other = normaliser.answer(ours), normaliser.answer(theirs)
        if mine == other or without_disk_size(mine) != without_disk_size(other):
            break
        os.sync()  # the host file system allocated between the two runs
    called = " ".join([*command, *arguments])
    complaints = []
    if mine != other:
        complaints.append(f"{called}:\n{difference(other, mine)}")
    if not ours.code and not theirs.code:
        # imgtool says everything that qemu-img does, and warns of one thing more
        said = program_free(re.sub(r"(?m)^imgtool: warning: '.*' names no format for .*\n", "", ours.err))
        if said.rstrip() != program_free(theirs.err).rstrip():
            complaints.append(f"{called}: says {ours.err!r}, qemu-img {theirs.err!r}")
    return complaints


def difference(theirs, mine):
    """For people: the lines that only one side has."""
    def lines(answer):
        code, out, err = answer
        if not isinstance(out, str):
            out = json.dumps(out, indent=1, sort_keys=True)
        return [f"exit code {code}", *out.splitlines(), *err.splitlines()]
    a, b = lines(theirs), lines(mine)
    found = [x for x in difflib.unified_diff(a, b, "qemu-img", "imgtool", n=1, lineterm="")]
    return "\n".join(f"    {x}" for x in found[:40])


def readcheck(arguments, cwd):
    """Runs readcheck; returns complaints."""
    done = Done([READCHECK, *arguments], cwd)
    if done.code == 0 and not done.err:
        return []
    said = done.err.strip() or f"ended with {done.code} and said nothing"
    return [f"readcheck {' '.join(map(str, arguments))}: {said}"]
