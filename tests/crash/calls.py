"""The states that a power failure can leave of a command, out of the calls that calls.c remembers.

What was flushed is on disk; of the rest, any part may be.
"""
import hashlib
import itertools
import os
import pathlib
import subprocess

BUILD = pathlib.Path(os.environ.get("BUILD") or pathlib.Path(__file__).resolve().parents[2] / "build").resolve()
QEMU_IMG = os.environ.get("QEMU_IMG") or "qemu-img"
CALLS = BUILD / "tests/crash/calls.so"

SUBSETS_UP_TO = 8  # calls that are not on disk yet
CHANGES, NAMES = ("write", "truncate", "zero"), ("name", "rename", "unname")


def run(*command, cwd, code=0, env=None):
    done = subprocess.run(command, cwd=cwd, timeout=60, check=False, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    if code is not None and done.returncode != code:
        raise AssertionError(f"{command}: {done.returncode}: {done.stdout}{done.stderr}")
    return done


def preloaded(**more):
    env = {**os.environ, "LD_PRELOAD": str(CALLS), **more}
    env["ASAN_OPTIONS"] = env.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0:detect_leaks=0"
    return env


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink()}


def inodes(folder):
    return {p.stat().st_ino: str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}


def guest(folder, image):
    """What qemu-img reads, without any help."""
    raw = folder / "guest.raw"
    run(QEMU_IMG, "convert", "-f", "qcow2", "-O", "raw", image, raw, cwd=folder)
    digest = hashlib.sha256(raw.read_bytes()).hexdigest()
    raw.unlink()
    return digest


# ---- what a power failure leaves ----

class Log:
    """The calls of a run. A file is its inode; NAMES: those that the files had before."""

    def __init__(self, top, text, drop=None, names=None):
        self.top = top
        self.names = inodes(top) if names is None else names
        self.calls = []
        flushes = 0
        for line in text.splitlines():
            kind, _, rest = line.partition(" ")
            if kind.startswith("flush"):
                flushes += 1
                if flushes - 1 == drop:
                    continue
            if kind == "write":
                inode, offset, data = rest.split(" ")
                data, offset = bytes.fromhex(data), int(offset)
                for at in range(0, len(data), 512):  # a disk may have any of the sectors
                    self.calls.append((kind, int(inode), offset + at, data[at:at + 512]))
            elif kind == "name":
                inode, _, path = rest.partition(" ")
                self.calls.append((kind, int(inode), self.relative(path)))
            elif kind == "rename":
                self.calls.append((kind, *map(self.relative, rest.split("\t"))))
            elif kind in ("unname", "flush-folder"):
                self.calls.append((kind, self.relative(rest)))
            elif kind in ("flush", "truncate", "zero", "forget"):
                self.calls.append((kind, *map(int, rest.split(" "))))
            else:
                self.calls.append((kind,))
        self.flushes = flushes
        self.resolve_renames()

    def relative(self, path):
        return os.path.relpath(os.path.join(self.top, path), self.top)

    def resolve_renames(self):
        """Which file it was: ("rename", inode, new name, old name)."""
        now = {name: inode for inode, name in self.names.items()}
        for i, call in enumerate(self.calls):
            if call[0] == "name":
                now[call[2]] = call[1]
            elif call[0] == "unname":
                now.pop(call[1], None)
            elif call[0] == "rename":
                now[call[2]] = inode = now.pop(call[1])
                self.calls[i] = ("rename", inode, call[2], call[1])

    def durable(self, count):
        """Of the first COUNT calls: those that are on disk for sure, and those that may be."""
        sure, open_ = set(), []
        for i, call in enumerate(self.calls[:count]):
            if call[0] == "flush":
                sure |= {k for k in open_ if self.calls[k][0] in CHANGES and self.calls[k][1] == call[1]}
            elif call[0] == "flush-folder":
                sure |= {k for k in open_ if self.calls[k][0] in NAMES and
                         os.path.relpath(os.path.dirname(self.calls[k][2 if len(self.calls[k]) > 2 else 1]) or ".") ==
                         os.path.relpath(call[1])}
            elif call[0] != "forget":
                open_.append(i)
            open_ = [k for k in open_ if k not in sure]
        return sure, open_

    def choices(self, ended):
        """Sets of calls that landed, with the power failing after any of them or, ENDED, after all."""
        for count in range(len(self.calls) if ended else 0, len(self.calls) + 1):
            sure, open_ = self.durable(count)
            # sectors of a file without a name do not matter
            named = {self.calls[k][1] for k in [*open_, *sure] if self.calls[k][0] in ("name", "rename")}
            some = [k for k in open_ if self.calls[k][0] not in CHANGES or self.calls[k][1] in self.names or
                    self.calls[k][1] in named]
            if len(some) <= SUBSETS_UP_TO:
                parts = itertools.chain.from_iterable(itertools.combinations(some, n) for n in range(len(some) + 1))
            else:
                parts = [some[:n] for n in range(len(some) + 1)] + [some[:n] + some[n + 1:] for n in range(len(some))]
            for part in parts:
                yield frozenset(sure) | frozenset(part)

    def state(self, start, landed):
        data = {inode: bytearray(start[name]) for inode, name in self.names.items() if name in start}
        names = {name: inode for inode, name in self.names.items() if name in start}
        for i in sorted(landed):
            call = self.calls[i]
            kind, file = call[0], data.setdefault(call[1], bytearray()) if len(call) > 2 else None
            if kind == "write":
                file.extend(bytes(max(0, call[2] - len(file))))
                file[call[2]:call[2] + len(call[3])] = call[3]
            elif kind == "truncate":
                file.extend(bytes(max(0, call[2] - len(file))))
                del file[call[2]:]
            elif kind == "zero":
                end = min(call[2] + call[3], len(file))
                file[call[2]:end] = bytes(max(0, end - call[2]))
            elif kind in ("name", "rename"):
                names[call[2]] = call[1]
                if kind == "rename" and names.get(call[3]) == call[1]:
                    del names[call[3]]
            elif kind == "unname":
                names.pop(call[1], None)
        return {name: bytes(data[inode]) for name, inode in names.items()}

    def states(self, start, ended=False):
        seen = set()
        for landed in self.choices(ended):
            files = self.state(start, landed)
            key = hashlib.sha256(repr(sorted((n, hashlib.sha256(d).digest()) for n, d in files.items())).encode())
            if key.digest() not in seen:
                seen.add(key.digest())
                yield files
