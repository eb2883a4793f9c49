"""What every recipe uses: guest data, qemu-img and qemu-io, and patching of qcow2 headers."""

import hashlib
import os
import re
import shutil
import struct
import subprocess
import tempfile

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
SNAPSHOT_DATE = 1700000000

BACKING_FORMAT = 0xE2792ACA
FEATURE_NAMES = 0x6803F857
BITMAPS = 0x23852875
CRYPTO = 0x0537BE77
DATA_FILE = 0x44415441

FIELDS = {  # name: (offset, struct format)
    "magic": (0, ">I"), "version": (4, ">I"),
    "backing_file_offset": (8, ">Q"), "backing_file_size": (16, ">I"),
    "cluster_bits": (20, ">I"), "size": (24, ">Q"), "crypt_method": (32, ">I"),
    "l1_size": (36, ">I"), "l1_table_offset": (40, ">Q"),
    "refcount_table_offset": (48, ">Q"), "refcount_table_clusters": (56, ">I"),
    "nb_snapshots": (60, ">I"), "snapshots_offset": (64, ">Q"),
    "incompatible": (72, ">Q"), "compatible": (80, ">Q"), "autoclear": (88, ">Q"),
    "refcount_order": (96, ">I"), "header_length": (100, ">I"), "compression_type": (104, ">B"),
}


def noise(seed, offset, length):
    """Incompressible bytes that depend on the seed and on the guest offset, so no two sectors agree."""
    first, last = offset // 512, (offset + length + 511) // 512
    whole = b"".join(hashlib.shake_128(b"%s:%d" % (seed.encode(), s)).digest(512)
                     for s in range(first, last))
    return whole[offset - first * 512:][:length]


def text(seed, offset, length):
    """The same, but compressible: each sector repeats a short line that names seed and sector."""
    first, last = offset // 512, (offset + length + 511) // 512
    whole = b"".join((b"%-16.16s sector %08d" % (seed.encode(), s)).ljust(31).ljust(32, b"\n") * 16
                     for s in range(first, last))
    return whole[offset - first * 512:][:length]


def size_of(number):
    """4096, "4k", "1M" -> bytes."""
    if isinstance(number, int):
        return number
    digits, unit = re.fullmatch(r"(\d+)([kKMGT]?)", number).groups()
    return int(digits) << {"": 0, "k": 10, "K": 10, "M": 20, "G": 30, "T": 40}[unit]


class Header:
    """The first cluster of a qcow2 file, taken apart: fields, extensions, backing name. save() writes it."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as f:
            self.raw = bytearray(f.read(2 * MIB))
        self.length = self["header_length"] if self["version"] >= 3 else 72
        self.backing = b""
        if self["backing_file_offset"]:
            start = self["backing_file_offset"]
            self.backing = bytes(self.raw[start:start + self["backing_file_size"]])
        self.extensions = []
        at = self.length
        while at + 8 <= self.cluster_size:
            kind, length = struct.unpack_from(">II", self.raw, at)
            if kind == 0:
                break
            self.extensions.append((kind, bytes(self.raw[at + 8:at + 8 + length])))
            at += 8 + (length + 7) // 8 * 8

    @property
    def cluster_size(self):
        return 1 << self["cluster_bits"]

    def __getitem__(self, field):
        offset, form = FIELDS[field]
        return struct.unpack_from(form, self.raw, offset)[0]

    def __setitem__(self, field, value):
        offset, form = FIELDS[field]
        struct.pack_into(form, self.raw, offset, value)

    def extension(self, kind):
        return next(data for k, data in self.extensions if k == kind)

    def drop(self, kind):
        self.extensions = [(k, d) for k, d in self.extensions if k != kind]

    def save(self):
        """Lays the extensions and the backing name out again behind header_length bytes of header."""
        new_length = self["header_length"] if self["version"] >= 3 else 72
        area = bytes(self.raw[:min(self.length, new_length)]).ljust(new_length, b"\0")
        for kind, data in self.extensions + [(0, b"")]:
            area += struct.pack(">II", kind, len(data)) + data + b"\0" * (-len(data) % 8)
        if self.backing:
            area = bytearray(area)
            struct.pack_into(">QI", area, 8, len(area), len(self.backing))
            area += self.backing
        assert len(area) <= self.cluster_size, "the header outgrows its cluster"
        self.length = new_length
        patch(self.path, 0, bytes(area).ljust(self.cluster_size, b"\0"))


def patch(path, offset, data):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(data)


def peek(path, offset, form):
    with open(path, "rb") as f:
        f.seek(offset)
        return struct.unpack(form, f.read(struct.calcsize(form)))


def poke(path, field, value):
    """Sets one header field of a qcow2 file."""
    offset, form = FIELDS[field]
    patch(path, offset, struct.pack(form, value))


def snapshot_entries(path):
    """Offsets of the entries in the snapshot table."""
    header, offsets = Header(path), []
    at = header["snapshots_offset"]
    for _ in range(header["nb_snapshots"]):
        offsets.append(at)
        id_len, name_len = peek(path, at + 12, ">HH")
        extra, = peek(path, at + 36, ">I")
        at += (40 + extra + id_len + name_len + 7) // 8 * 8
    return offsets


class Workshop:
    """A folder in which images are made by qemu-img and qemu-io."""

    def __init__(self, folder):
        self.folder = folder
        self.commands = {name: os.environ.get(name, default) for name, default in (
            ("QEMU_IMG", "qemu-img"), ("QEMU_IO", "qemu-io"),
            ("QEMU_IMG_NEW", ""), ("QEMU_IO_NEW", ""))}
        self.new = False        # True: the newer version makes the images
        self.made = []
        self.scratch = tempfile.mkdtemp(prefix="testimages-")
        os.makedirs(folder, exist_ok=True)

    @property
    def has_new(self):
        return bool(self.commands["QEMU_IMG_NEW"] and self.commands["QEMU_IO_NEW"])

    def close(self):
        shutil.rmtree(self.scratch)

    def path(self, name):
        return os.path.join(self.folder, name)

    def run(self, tool, *arguments, may_fail=False):
        command = self.commands[tool + "_NEW" if self.new else tool]
        done = subprocess.run([command, *map(str, arguments)], cwd=self.folder, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        # qemu-io prints "write failed" and the like, and some versions exit with 0 all the same
        if not may_fail and (done.returncode or re.search(r"failed|error|invalid", done.stdout, re.I)):
            raise RuntimeError(f"{tool} {' '.join(map(str, arguments))}\n{done.stdout}")
        return done.stdout

    def img(self, *arguments):
        return self.run("QEMU_IMG", *arguments)

    def start(self, name):
        """A clean start for one image file. Remembers its name."""
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        if os.path.exists(self.path(name)):
            os.unlink(self.path(name))
        if name not in self.made:
            self.made.append(name)
        return name

    def create(self, name, size=None, opts="", backing=None, backing_format=None, fmt="qcow2", extra=()):
        self.start(name)
        arguments = ["create", "-q", "-f", fmt, *extra]
        if opts:
            arguments += ["-o", opts]
        if backing is not None:
            arguments += ["-b", backing]
        if backing_format:
            arguments += ["-F", backing_format]
        arguments += [name] + ([] if size is None else [size_of(size)])
        for attempts_left in range(20, -1, -1):
            try:
                self.img(*arguments)
                break
            except RuntimeError as error:       # LUKS times its own key derivation, and 10 ms are few
                if "accurate CPU usage" not in str(error) or not attempts_left:
                    raise
        return name

    def io(self, name, *commands, fmt="qcow2", may_fail=False, image_opts=None, objects=()):
        """Runs qemu-io commands. A tuple (data, seed, offset, length[, flags]) writes guest data."""
        arguments = []
        for secret in objects:
            arguments += ["--object", secret]
        for command in commands:
            if not isinstance(command, str):
                maker, seed, offset, length, *flags = command
                offset, length = size_of(offset), size_of(length)
                pattern = os.path.join(self.scratch, "pattern%d" % len(arguments))
                with open(pattern, "wb") as f:
                    f.write(maker(seed, offset, length))
                command = "write %s -s %s %d %d" % (" ".join(flags), pattern, offset, length)
            arguments += ["-c", command]
        target = ["--image-opts", image_opts] if image_opts else ["-f", fmt, name]
        return self.run("QEMU_IO", *arguments, *target, may_fail=may_fail)

    def raw(self, name, size, *pieces, keep=True):
        """A raw file with pieces (data, seed, offset, length) in it, made without qemu."""
        if keep:
            self.start(name)
            path = self.path(name)
        else:
            path = os.path.join(self.scratch, name)
        with open(path, "wb") as f:
            f.truncate(size_of(size))
            for maker, seed, offset, length in pieces:
                offset, length = size_of(offset), size_of(length)
                f.seek(offset)
                f.write(maker(seed, offset, length))
        return path

    def convert(self, source, name, *extra, opts="", source_format="raw"):
        self.start(name)
        self.img("convert", "-q", "-m", "1", "-f", source_format, "-O", "qcow2", *extra,
                 *(["-o", opts] if opts else []), source, name)
        return name

    def snapshot(self, name, tag):
        """Takes an internal snapshot, and gives the table fixed dates, so that the bytes are the same each time."""
        self.img("snapshot", "-c", tag, name)
        for index, at in enumerate(snapshot_entries(self.path(name))):
            patch(self.path(name), at + 16, struct.pack(">II", SNAPSHOT_DATE + 60 * index, 0))
