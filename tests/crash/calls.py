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
CHANGES = ("write", "truncate", "zero")


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
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def guest(folder, image):
    """What qemu-img reads, without any help."""
    raw = folder / "guest.raw"
    run(QEMU_IMG, "convert", "-f", "qcow2", "-O", "raw", image, raw, cwd=folder)
    digest = hashlib.sha256(raw.read_bytes()).hexdigest()
    raw.unlink()
    return digest


# ---- what a power failure leaves ----

class Log:
    """The calls of a run. A file is known by its inode until it has a name."""

    def __init__(self, top, text, drop=None):
        self.top = top
        self.names = {p.stat().st_ino: str(p.relative_to(top)) for p in top.rglob("*") if p.is_file()}
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
            elif kind == "unname":
                self.calls.append((kind, self.relative(rest)))
            elif kind in ("flush", "truncate", "zero"):
                self.calls.append((kind, *map(int, rest.split(" "))))
            else:
                self.calls.append((kind,))
        self.flushes = flushes

    def relative(self, path):
        return str(pathlib.Path(self.top, path).relative_to(self.top))

    def durable(self, count):
        """Of the first COUNT calls: those that are on disk for sure, and those that may be."""
        sure, open_ = set(), []
        for i, call in enumerate(self.calls[:count]):
            if call[0] == "flush":
                sure |= {k for k in open_ if self.calls[k][0] in CHANGES and self.calls[k][1] == call[1]}
            elif call[0] == "flush-folder":
                sure |= {k for k in open_ if self.calls[k][0] in ("name", "unname")}
            else:
                open_.append(i)
            open_ = [k for k in open_ if k not in sure]
        return sure, open_

    def choices(self, ended):
        """Sets of calls that landed, with the power failing after any of them or, ENDED, after all."""
        for count in range(len(self.calls) if ended else 0, len(self.calls) + 1):
            sure, open_ = self.durable(count)
            # sectors of a file without a name do not matter
            named = {self.calls[k][1] for k in open_ if self.calls[k][0] == "name"}
            some = [k for k in open_ if self.calls[k][0] != "write" or self.calls[k][1] in self.names or
                    self.calls[k][1] in named]
            if len(some) <= SUBSETS_UP_TO:
                parts = itertools.chain.from_iterable(itertools.combinations(some, n) for n in range(len(some) + 1))
            else:
                parts = [some[:n] for n in range(len(some) + 1)] + [some[:n] + some[n + 1:] for n in range(len(some))]
            for part in parts:
                yield frozenset(sure) | frozenset(part)

    def state(self, start, landed):
        files = {name: bytearray(data) for name, data in start.items()}
        nameless = {}
        for i in sorted(landed):
            call = self.calls[i]
            if call[0] == "write":
                name = self.names.get(call[1])
                data = files[name] if name else nameless.setdefault(call[1], bytearray())
                data.extend(bytes(max(0, call[2] - len(data))))
                data[call[2]:call[2] + len(call[3])] = call[3]
            elif call[0] == "truncate" and call[1] in self.names:
                data = files[self.names[call[1]]]
                data.extend(bytes(max(0, call[2] - len(data))))
                del data[call[2]:]
            elif call[0] == "zero" and call[1] in self.names:
                data = files[self.names[call[1]]]
                end = min(call[2] + call[3], len(data))
                data[call[2]:end] = bytes(max(0, end - call[2]))
            elif call[0] == "name":
                files[call[2]] = nameless.get(call[1], bytearray())
            elif call[0] == "unname":
                files.pop(call[1], None)
        return {name: bytes(data) for name, data in files.items()}

    def states(self, start, ended=False):
        seen = set()
        for landed in self.choices(ended):
            files = self.state(start, landed)
            key = hashlib.sha256(repr(sorted((n, hashlib.sha256(d).digest()) for n, d in files.items())).encode())
            if key.digest() not in seen:
                seen.add(key.digest())
                yield files
