"""A pool of random images that tests share: made once a run, by the first test that asks for it.

    import pool
    for image in pool.images(300):  # the first 300 or so (whole chains); makes the pool if need be
        image.name, image.format    # "layer2.qcow2", "qcow2" or "raw"
        image.folder                # where it and the layers below it lie: never to be written
        image.size                  # of the disk, at most 8 MiB and some sectors
        image.snapshots             # the names of its internal snapshots
        image.below                 # the Image it is based on, or None
        image.title                 # for messages; says how to get this image again
        image.made_by()             # the commands that made the chain, a line each
        image.flat()                # a raw file with the disk as qemu-img convert reads it, made once a run;
        image.flat("snapshot 1")    # None where qemu-img cannot read all of it. Never to be written.
        image.copy_to(folder)       # a new folder, in which the image can be changed

    pool.copy_image(folder, name, target)   # the same for any image
    pool.copy_file(path, target)            # keeps holes

Chains of one to five layers whose disks differ in size, with all cluster sizes, both versions, all
refcount widths, extended L2 entries, zlib, zstd, data files, preallocation, lazy refcounts (some left
dirty), snapshots, bitmaps, zero clusters, compressed clusters; random_images.py says how often.

tests/run gives all tests of a run the same folder (POOL) and removes it afterwards; a test that is
started by hand makes a pool of its own below TMPDIR, or uses the POOL it is given.

  POOL_SEED=n   the seed of the pool, printed by the test that makes it (default: from the clock)
  POOL_CHAIN=n  only this chain of it
"""
import errno
import fcntl
import json
import os
import pathlib
import random
import shlex
import shutil
import time

import random_images
from sidebyside import IMGTOOL, QEMU_IMG, SANITIZED, TMPDIR, Done, in_parallel

COUNT = 150 if SANITIZED else 500       # images in the pool, at least
POOL = pathlib.Path(os.environ.get("POOL") or TMPDIR / "pool")


class Image:
    def __init__(self, chain, described, below):
        self.chain, self.below = chain, below
        self.name, self.format = described["name"], described["format"]
        self.size, self.snapshots = described["size"], described["snapshots"]
        self.folder = POOL / f"chain{chain['number']}"
        self.title = (f"{self.name} of chain {chain['number']} (again: POOL_SEED={chain['seed']} "
                      f"POOL_CHAIN={chain['number']})")

    def made_by(self):
        return "\n".join("    " + shlex.join(c) for c in self.chain["commands"])

    def copy_to(self, target):
        return copy_image(self.folder, self.name, target)

    def flat(self, snapshot=None):
        name = self.name + (f".{self.snapshots.index(snapshot)}" if snapshot else "")
        path, lost = (POOL / "flat" / f"{self.chain['number']}-{name}{end}" for end in ("", ".lost"))
        if path.exists() or lost.exists():
            return path if path.exists() else None
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{random.randrange(1 << 32)}")
        chosen = ["-l", f"snapshot.name={snapshot}"] if snapshot else []
        done = Done([QEMU_IMG, "convert", *chosen, "-f", self.format, "-O", "raw", self.name, temporary],
                    self.folder)
        if "error while reading at byte" in done.err:   # QEMU loses compressed clusters of snapshots
            temporary.unlink()
            lost.touch()
            return None
        done.ok()
        temporary.rename(path)
        return path


def images(count=COUNT):
    """The pool, or as many chains from its beginning as hold COUNT images."""
    found = []
    for chain in chains():
        if len(found) >= count:
            break
        below = None
        for described in chain["images"]:
            below = Image(chain, described, below)
            found.append(below)
    return found


def refused():
    """What QEMU could not make, a line each; the chains end below that."""
    return [f"chain {c['number']} ends early: {c['refused']}" for c in chains() if c["refused"]]


def chains():
    """The pool's list of contents; made together with it, under a lock that the others wait for."""
    POOL.mkdir(parents=True, exist_ok=True)
    contents = POOL / "contents.json"
    with open(POOL / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not contents.exists():
            start = time.monotonic()
            made = make()
            contents.write_text(json.dumps(made))
            print(f"POOL_SEED={made[0]['seed']}: made {sum(len(c['images']) for c in made)} images in "
                  f"{time.monotonic() - start:.1f} s", flush=True)
    made = json.loads(contents.read_text())
    wrong = [c["wrong"] for c in made if c["wrong"]]
    if wrong:
        raise RuntimeError(f"POOL_SEED={made[0]['seed']}: {wrong[0]}")
    return made


def make():
    seed = os.environ.get("POOL_SEED") or str(int(time.time()))
    (POOL / "flat").mkdir(exist_ok=True)
    if os.environ.get("POOL_CHAIN"):
        return [make_chain(seed, int(os.environ["POOL_CHAIN"]))]
    made = []
    while sum(len(c["images"]) for c in made) < COUNT:
        numbers = range(len(made), len(made) + 20)
        made += in_parallel(lambda n: make_chain(seed, n), numbers)
    return made


def make_chain(seed, number):
    plan = random_images.Plan(random.Random(f"{seed}/{number}"))
    folder = POOL / f"chain{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    wrong = random_images.build(plan, folder)
    settle(folder)
    return {"seed": seed, "number": number, "commands": plan.commands, "refused": plan.refused, "wrong": wrong,
            "images": [{"name": i.name, "format": i.format, "size": i.size, "snapshots": i.snapshots}
                       for i in plan.images]}


def settle(folder):
    """Puts fresh copies in place of the files. What was allocated but not written counts as a hole or as
    data depending on what the host has in its page cache, so that reading would change the map."""
    for path in folder.iterdir():
        copy_file(path, folder / "copy")
        (folder / "copy").rename(path)


def copy_image(folder, name, target):
    """A folder like FOLDER in which the image NAME and its data file can be changed: the rest are links."""
    target.mkdir(parents=True)
    for entry in folder.iterdir():
        (target / entry.name).symlink_to(entry.resolve())
    for changed in (name, data_file(folder, name)):
        if changed:
            own_folder(target, pathlib.PurePath(changed).parent)
            place = target / changed
            place.unlink(missing_ok=True)
            copy_file(folder / changed, place)
    return target


def own_folder(target, inner):
    """Makes TARGET/INNER a folder of links where it is a link to a folder."""
    place = target / inner
    if place.is_symlink():
        source = place.resolve()
        place.unlink()
        place.mkdir()
        for entry in source.iterdir():
            (place / entry.name).symlink_to(entry)


def data_file(folder, name):
    if (folder / name).suffix != ".qcow2":
        return None
    described = json.loads(Done([IMGTOOL, "info", "-U", "--output=json", name], folder).ok())
    return described.get("format-specific", {}).get("data", {}).get("data-file")


def copy_file(source, target):
    with open(source, "rb") as a, open(target, "wb") as b:
        end = os.fstat(a.fileno()).st_size
        at = 0
        while at < end:
            try:
                at = os.lseek(a.fileno(), at, os.SEEK_DATA)
            except OSError:     # ENXIO: only a hole is left
                break
            hole = os.lseek(a.fileno(), at, os.SEEK_HOLE)
            while at < hole:
                at += copy_range(a.fileno(), b.fileno(), hole - at, at)
        b.truncate(end)


def copy_range(source, target, length, at):
    try:
        return os.copy_file_range(source, target, length, at, at)
    except OSError as e:
        if e.errno != errno.EXDEV:      # to memory, from a disk
            raise
        return os.pwrite(target, os.pread(source, min(length, 1 << 20), at), at)
