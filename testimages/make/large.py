"""large/: limits that only a big file can reach. Sparse, made at test time in a second or two, never committed."""

import os
import struct

from make.limits import OK, OPEN
from make.synth import COPIED, Synth, backing_format
from make.tools import BITMAPS, GIB, KIB, MIB, SNAPSHOT_DATE, noise


class Sparse:
    """A sound small image, and pieces to be written far behind it."""

    def __init__(self, image, length=0, pieces=()):
        self.image, self.length, self.pieces = image, length, pieces

    def save(self, path):
        self.image.save(path)
        with open(path, "r+b") as f:
            for offset, data in self.pieces:
                f.seek(offset)
                f.write(data)
            f.truncate(max(self.length, os.path.getsize(path), f.seek(0, 2)))


def level1(case):
    for label, entries, how in (("32m", 4194304, OK), ("32m-plus", 4194305, OPEN)):
        image = Synth(size=4194304 * 2 * MIB, l1_entries=1)
        image.set("l1_size", entries)
        image.set("l1_table_offset", MIB)
        case("large/l1-%s.qcow2" % label, how, r"L1.*(large|4194305|limit|33554440)", "active L1 at most 32 MiB",
             Sparse(image, MIB + 33 * MIB, [(MIB, struct.pack(">Q", image.l2 | COPIED))]))
    for label, extra, how in (("2e", 0, OK), ("2e-plus", 512, OPEN)):
        image = Synth(bits=21, size=2 * MIB, data=0)
        image.set("size", (1 << 61) + extra)
        image.set("l1_size", 4194304)
        image.set("l1_table_offset", 16 * MIB)
        case("large/size-%s.qcow2" % label, how, r"L1.*(small|cover|size)", "32 MiB of L1 cover 2 EiB with 2 MiB clusters",
             Sparse(image, 48 * MIB, [(16 * MIB, struct.pack(">Q", image.l2 | COPIED))]))
    case("large/cluster-bits-21.qcow2", OK, "", "cluster_bits 9..21", Sparse(Synth(bits=21, size=8 * MIB, data=0)))


def refcounts(case):
    for label, clusters, how in (("8m", 2048, OK), ("8m-plus", 2049, OPEN)):
        image = Synth()
        image.set("refcount_table_offset", MIB)
        image.set("refcount_table_clusters", clusters)
        case("large/refcount-table-%s.qcow2" % label, how, r"ref(erence )?count table.*(large|2049|limit|8392704)",
             "refcount table at most 8 MiB", Sparse(image, 10 * MIB, [(MIB, struct.pack(">Q", image.block))]))


def entry(number, ident, name, extra=b""):
    extra = struct.pack(">QQQ", 0, 0, 2 ** 64 - 1) + extra
    head = struct.pack(">QIHHIIQII", 0, 0, len(ident), len(name), SNAPSHOT_DATE + number, 0, 0, 0, len(extra))
    return head + extra + ident + name


def snapshots(case):
    for count, how in ((65536, OK), (65537, OPEN)):
        table = b"".join(entry(n, b"%07d" % n, b"s") for n in range(count))
        image = Synth()
        image.set("nb_snapshots", count)
        image.set("snapshots_offset", MIB)
        case("large/snapshots-%d.qcow2" % count, how, r"snapshot.*(65537|large|many|limit)",
             "snapshots at most 65,536 (of an empty disk: no L1)", Sparse(image, pieces=[(MIB, table)]))
    for label, more, how in (("64m", 0, OK), ("64m-plus", 1, OPEN)):
        long = [entry(n, b"%07d" % n + b"i" * 65528, b"n" * 65535, b"x" * 1000) for n in range(507)]
        table = b"".join(e + b"\0" * (-len(e) % 8) for e in long)
        table += entry(507, b"%07d" % 507 + b"i" * 57917, b"n" * (64 * MIB - len(table) - 64 - 57924 + more))
        assert len(table) == 64 * MIB + more
        image = Synth()
        image.set("nb_snapshots", 508)
        image.set("snapshots_offset", MIB)
        case("large/snapshot-table-%s.qcow2" % label, how, r"snapshot.*(large|big|size|limit|67108865)",
             "snapshot table at most 64 MiB", Sparse(image, pieces=[(MIB, table)]))


def bitmaps(case):
    """The directory limit is 65,535 entries of 1,024 bytes. A table of 0x8000000 entries is out of reach: 512 MiB come first."""
    for label, count, how in (("max", 65535, OK), ("plus", 65536, OPEN)):
        tables, directory = MIB, 64 * MIB
        blob = b"".join(struct.pack(">QIIBBHI", tables + n * 512, 1, 2, 1, 16, 1000, 0) + (b"%06d" % n).ljust(1000, b"b")
                        for n in range(count))
        image = Synth(bits=9, extensions=[(BITMAPS, struct.pack(">IIQQ", count, 0, len(blob), directory))])
        image.set("autoclear", 1)
        case("large/bitmaps-%s.qcow2" % label, how, r"bitmap.*(65536|many|limit|67108864)",
             "at most 65,535 bitmaps, directory at most 67,107,840 bytes", Sparse(image, pieces=[(directory, blob)]))
    for label, entries, how in (("512m", 256, OK), ("512m-plus", 257, OPEN)):
        image = Synth(bits=21, size=2048 * GIB, data=0)
        image.bitmap_directory([{"table_size": entries, "bits": 9}])
        case("large/bitmap-table-%s.qcow2" % label, how, r"bitmap.*(large|table|size|limit|257)",
             "a bitmap at most 512 MiB", Sparse(image))


def others(case):
    for number in range(101):
        if number == 0:
            case("large/chain-100/0.raw", OK, "", "a chain of 100 overlays", noise("chain", 0, 64 * KIB), "-f raw")
            continue
        below = ("%d.qcow2" % (number - 1), "qcow2") if number > 1 else ("0.raw", "raw")
        image = Synth(bits=9, size=64 * KIB, data=0, backing=below[0], extensions=[backing_format(below[1])])
        image.guest(number % 64, "layer %d" % number)
        case("large/chain-100/%d.qcow2" % number, OK, "", "a chain of 100 overlays", image)
    case("large/sparse-64g.raw", OK, "", "a sparse raw file", Sparse(Synth(data=0), 64 * GIB, [(0, b"\0" * 4096)]), "-f raw")


def make(case):
    for recipe in (level1, refcounts, snapshots, bitmaps, others):
        recipe(case)
