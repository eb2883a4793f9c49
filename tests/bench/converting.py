"""convert beside qemu-img, on a Debian root file system made here; a target is removed before each run,
since replacing a file waits for the disk and a new one does not (in both programs)."""
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

import alone

WANTED_BYTES = 650 << 20
PARTS = ("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/share")


def make_tree(folder):
    """Copies of this host's programs, libraries and documents, until there are enough of them."""
    total = 0
    for part in PARTS:
        for entry in sorted(os.scandir(part), key=lambda e: e.name):
            if total > WANTED_BYTES:
                return
            if entry.is_symlink():
                continue
            target = folder / part.strip("/")
            target.mkdir(parents=True, exist_ok=True)
            size = int(subprocess.run(["du", "-sb", entry.path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                      check=False).stdout.split()[0])
            if size > WANTED_BYTES // 4:
                continue
            subprocess.run(["cp", "-a", entry.path, target], check=False, stderr=subprocess.DEVNULL)
            total += size


def make_root(folder):
    """A raw image with an ext4 file system in it."""
    path = folder / "root.raw"
    with tempfile.TemporaryDirectory(dir=folder) as tree:
        make_tree(pathlib.Path(tree))
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, str(path), "2G"], check=True,
                       stderr=subprocess.DEVNULL)
    holes = folder / "holes.raw"
    subprocess.run(["cp", "--sparse=always", path, holes], check=True)
    holes.rename(path)
    return str(path)


def medians(commands, target, runs):
    def once(command):
        pathlib.Path(target).unlink(missing_ok=True)
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start
    return alone.medians(once, commands, runs)


class Bench:
    def __init__(self, tools, folder, runs, row, seconds, mib, usage):
        self.imgtool, self.qemu_img = tools
        self.folder, self.runs = folder, runs
        self.row, self.seconds, self.mib, self.usage = row, seconds, mib, usage
        self.target = str(folder / "target")

    def compare(self, what, source, wanted, *options, ours=()):
        words = ["convert", *options, source, self.target]
        commands = [[self.imgtool, words[0], *ours, *words[1:]], [self.qemu_img, *words]]
        self.row(what, *medians(commands, self.target, self.runs), self.seconds, wanted)
        self.row("    memory", self.usage(commands[0])[0], self.usage(commands[1])[0], self.mib)

    def size(self, what, source, *options, ours=()):
        sizes = []
        for tool, more in ((self.imgtool, ours), (self.qemu_img, ())):
            subprocess.run([tool, "convert", *more, *options, source, self.target], check=True)
            sizes.append(os.stat(self.target).st_size)
        self.row(what, *sizes, self.mib, ratio=sizes[0] / sizes[1])

    def limit(self, source):
        """The same bytes by cp, and by two threads that only copy."""
        command = [self.imgtool, "convert", "-O", "raw", source, self.target]
        plain = ["cp", "--reflink=never", "--sparse=never", source, self.target]
        copiers = ["sh", "-c", 'half=$(($(stat -c %s "$0") / 2097152)); '
                   'dd status=none conv=notrunc bs=1M count=$half if="$0" of="$1" & '
                   'dd status=none conv=notrunc bs=1M skip=$half seek=$half if="$0" of="$1"; wait',
                   source, self.target]
        for what, other in (("    limit: cp of the file", plain), ("    limit: two copiers", copiers)):
            mine, limit = medians([command, other], self.target, self.runs)
            self.row(what, mine, limit, self.seconds)

    def all(self):
        raw = make_root(self.folder)
        image = {}
        for name, options in (("plain", []), ("zlib", ["-c"]), ("zstd", ["-c", "-o", "compression_type=zstd"])):
            image[name] = str(self.folder / f"{name}.qcow2")
            subprocess.run([self.qemu_img, "convert", "-O", "qcow2", *options, raw, image[name]], check=True)
        dense = str(self.folder / "dense.raw")
        subprocess.run([self.qemu_img, "convert", "-O", "raw", image["plain"], dense], check=True)
        self.compare("convert, qcow2 to raw", image["plain"], "1.3x", "-O", "raw")
        self.compare("convert, raw to qcow2", raw, "1.3x", "-O", "qcow2")
        self.limit(dense)
        self.compare("convert, zlib to raw", image["zlib"], "2.5x", "-O", "raw")
        self.compare("convert, zstd to raw", image["zstd"], "2x", "-O", "raw")
        self.compare("convert, raw to zlib", raw, "4x", "-O", "qcow2", "-c")
        self.size("    size", raw, "-O", "qcow2", "-c")
        fast = ("-o", "compression_level=1")
        self.compare("convert, raw to zlib, level 1", raw, "10x", "-O", "qcow2", "-c", ours=fast)
        self.size("    size", raw, "-O", "qcow2", "-c", ours=fast)
        zstd = ("-O", "qcow2", "-c", "-o", "compression_type=zstd")
        self.compare("convert, raw to zstd", raw, "1.5x", *zstd)
        self.size("    size", raw, *zstd)
        for tebibytes in (1, 8, 64):
            empty = str(self.folder / "empty.qcow2")
            subprocess.run([self.qemu_img, "create", "-q", "-f", "qcow2", empty, f"{tebibytes}T"], check=True)
            self.compare(f"convert, {tebibytes} TiB empty to qcow2", empty, "5x", "-O", "qcow2")
            if tebibytes == 8:
                self.compare("convert, 8 TiB empty to raw", empty, "5x", "-O", "raw")
        self.shared(image["plain"])

    def shared(self, image):
        """On an XFS of its own, where data is shared instead of copied."""
        device, folder = self.folder / "xfs.img", self.folder / "xfs"
        with open(device, "wb") as f:
            f.truncate(4 << 30)
        folder.mkdir()
        made = shutil.which("mkfs.xfs") and not subprocess.run(["mkfs.xfs", "-q", device], check=False).returncode
        if not made or subprocess.run(["mount", "-o", "loop", device, folder], check=False).returncode:
            print("no XFS can be mounted here")
            return
        try:
            shutil.copy(image, folder / "plain.qcow2")
            self.target = str(folder / "target")
            self.compare("convert on XFS, qcow2 to raw", str(folder / "plain.qcow2"), "10x", "-O", "raw")
        finally:
            subprocess.run(["umount", folder], check=True)
