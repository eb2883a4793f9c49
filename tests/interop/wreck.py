"""Images wrecked at random, by a seed, with a map of their metadata at hand: an entry that names
another table, a refcount of any value, a field of the header or of a snapshot, an offset behind the
end of the file, a file that is cut; one or several of these in an image.

Run as a program: wreck.py SEED COUNT FOLDER [BASE...] leaves COUNT such images in FOLDER."""
import pathlib
import random
import struct
import sys

COPIED, COMPRESSED = 1 << 63, 1 << 62
OFFSETS = 0x00fffffffffffe00
HEADER = [(8, 8), (16, 4), (24, 8), (32, 4), (36, 4), (40, 8), (48, 8), (56, 4), (60, 4), (64, 8), (72, 8),
          (80, 8), (88, 8), (96, 4), (100, 4), (104, 1)]
SNAPSHOT = [(0, 8), (8, 4), (12, 2), (14, 2), (16, 4), (20, 4), (24, 4), (28, 4), (32, 4), (36, 4), (40, 8), (48, 8)]


class Layout:
    """Where an image's metadata lie: lists of the offsets of entries, and the clusters of tables."""

    def __init__(self, data):
        self.data = data
        self.bits = self.get(20, 4)
        self.size = 1 << self.bits
        self.version = self.get(4, 4)
        self.extended = self.version > 2 and bool(self.get(72, 8) & 16)
        self.order = self.get(96, 4) if self.version > 2 else 4
        self.l1, self.l2, self.reftable, self.tables, self.data_clusters = [], [], [], {0}, set()
        self.snapshots, self.bitmaps, self.blocks = [], [], []
        self.bitmap_clusters = set()    # of tables and bits
        self.walk_l1(self.get(40, 8), self.get(36, 4))
        self.walk_snapshots()
        self.walk_refcounts()
        self.walk_bitmaps()
        self.tables.discard(None)

    def get(self, at, n):
        return int.from_bytes(self.data[at:at + n], "big")

    def inside(self, at):
        return 0 < at < len(self.data) and not at % self.size

    def walk_l1(self, offset, entries):
        self.tables.add(offset)
        step = 16 if self.extended else 8
        for at in range(offset, min(offset + 8 * entries, len(self.data) - 7), 8):
            self.l1.append(at)
            table = self.get(at, 8) & OFFSETS
            if not self.inside(table) or table in self.tables:
                continue
            self.tables.add(table)
            for entry in range(table, min(table + self.size, len(self.data) - 7), step):
                value = self.get(entry, 8)
                if value or entry < table + 8 * step:
                    self.l2.append(entry)
                if value and not value & COMPRESSED:
                    self.data_clusters.add(value & OFFSETS)

    def walk_snapshots(self):
        at = self.get(64, 8)
        for _ in range(min(self.get(60, 4), 50)):
            self.tables.add(at & ~(self.size - 1))
            self.snapshots.append(at)
            self.walk_l1(self.get(at, 8), min(self.get(at + 8, 4), 1000))
            at += 40 + self.get(at + 36, 4) + self.get(at + 12, 2) + self.get(at + 14, 2)
            at = at + 7 & ~7

    def walk_refcounts(self):
        offset, clusters = self.get(48, 8), self.get(56, 4)
        self.tables.add(offset)
        for at in range(offset, min(offset + clusters * self.size, len(self.data) - 7), 8):
            block = self.get(at, 8) & ~511
            if block or len(self.reftable) < 4:
                self.reftable.append(at)
            if self.inside(block):
                self.tables.add(block)
                self.blocks.append(((at - offset) // 8, block))

    def walk_bitmaps(self):
        at = self.get(100, 4) if self.version > 2 else 72
        while at + 8 <= min(len(self.data), self.size):
            kind, length = struct.unpack_from(">II", self.data, at)
            if kind == 0x23852875:
                self.directory(self.get(at + 24, 8), self.get(at + 8, 4))
            if not kind:
                break
            at += 8 + (length + 7 & ~7)

    def directory(self, at, count):
        self.tables.add(at)
        for _ in range(min(count, 20)):
            table = self.get(at, 8)
            self.bitmaps += [at, at + 8, at + 16]
            self.tables.add(table)
            entries = range(table, min(table + 8 * min(self.get(at + 8, 4), 20), len(self.data) - 7), 8)
            self.bitmaps += entries
            self.bitmap_clusters |= {table, *(self.get(x, 8) & OFFSETS for x in entries)}
            at += 24 + self.get(at + 20, 4) + self.get(at + 18, 2) + 7 & ~7


class Wreck:
    def __init__(self, rng, data):
        self.rng, self.data = rng, bytearray(data)
        self.layout = Layout(bytes(data))

    def put(self, at, value, n=8):
        if at + n <= len(self.data):
            self.data[at:at + n] = (value & (1 << 8 * n) - 1).to_bytes(n, "big")

    def get(self, at, n=8):
        return int.from_bytes(self.data[at:at + n], "big")

    def any_place(self):
        """An offset for an entry: of other metadata, of data, unaligned, behind the end."""
        m, rng = self.layout, self.rng
        how = rng.randrange(8)
        if how < 3:
            return rng.choice(sorted(m.tables))
        if how < 5 and m.data_clusters:
            return rng.choice(sorted(m.data_clusters))
        if how == 5:
            return len(self.data) + rng.choice([0, 0, 1, 2, 3, 9, 40, 1000, 1 << 20]) * m.size & ~(m.size - 1)
        if how == 6:
            return rng.randrange(len(self.data)) & ~rng.choice([511, 511, 7, m.size - 1])
        return rng.choice([rng.getrandbits(56) & ~511, rng.getrandbits(40) & ~(m.size - 1),
                           rng.randrange(len(self.data)) & ~(m.size - 1)])

    def table_entry(self):
        m, rng = self.layout, self.rng
        kinds = [k for k in (m.l1, m.l2, m.l2, m.reftable) if k]
        at = rng.choice(rng.choice(kinds))
        value, how = self.get(at), rng.randrange(10)
        if how < 4:
            value = self.any_place() | rng.choice([0, COPIED, COPIED, value & COPIED])
        elif how == 4:
            value ^= COPIED
        elif how == 5:
            value ^= 1 << rng.randrange(64)
        elif how == 6:
            value ^= rng.choice([1, 1, 2, 1 << 56, 1 << 61])
        elif how == 7:
            value = COMPRESSED | self.any_place() | rng.randrange(8) << 62 - (m.bits - 8)
        elif how == 8:
            value = rng.choice([0, COPIED, 1, COPIED | 1])
        else:
            value = self.get(rng.choice(rng.choice(kinds)))
        self.put(at, value)

    def subclusters(self):
        m, rng = self.layout, self.rng
        if not m.extended or not m.l2:
            return self.table_entry()
        at = rng.choice(m.l2) + 8
        return self.put(at, rng.choice([0, rng.getrandbits(64), self.get(at) ^ 1 << rng.randrange(64), 0xffffffff,
                                        0xffffffff << 32, (1 << 64) - 1]))

    def refcount(self):
        m, rng = self.layout, self.rng
        if not m.blocks:
            return self.table_entry()
        width, (_, block) = 1 << m.order, rng.choice(m.blocks)
        per_block = m.size * 8 // width
        cluster = rng.randrange(min(per_block, len(self.data) // m.size + 3))
        value = rng.choice([0, 0, 1, 2, 2, 3, (1 << width) - 1, rng.getrandbits(width)]) & (1 << width) - 1
        if width >= 8:
            self.put(block + cluster * width // 8, value, width // 8)
        elif block + cluster * width // 8 < len(self.data):
            at, shift = block + cluster * width // 8, cluster * width % 8
            self.data[at] = self.data[at] & ~((1 << width) - 1 << shift) & 255 | value << shift

    def header(self):
        rng = self.rng
        at, n = rng.choice(HEADER[2:])
        how = rng.randrange(4)
        value = self.get(at, n)
        if how == 0:
            value ^= 1 << rng.randrange(8 * n)
        elif how == 1:
            value += rng.choice([-1, 1, 1, self.layout.size])
        elif how == 2:
            value = rng.choice([0, 1, 2, 3, self.any_place()])
        else:
            at, n, value = 79, 1, self.data[79] ^ rng.choice([1, 2, 3])
        self.put(at, value, n)

    def snapshot(self):
        m, rng = self.layout, self.rng
        if not m.snapshots:
            return self.header()
        at, n = rng.choice(SNAPSHOT)
        at += rng.choice(m.snapshots)
        value = self.get(at, n)
        return self.put(at, rng.choice([value ^ 1 << rng.randrange(8 * n), self.any_place(), rng.randrange(64),
                                        value + 1]), n)

    def bitmap(self):
        m, rng = self.layout, self.rng
        if not m.bitmaps:
            return self.table_entry()
        at = rng.choice(m.bitmaps)
        value = self.get(at)
        return self.put(at, rng.choice([value ^ 1 << rng.randrange(64), self.any_place(), 0, 1, value | 1]))

    def noise(self):
        m, rng = self.layout, self.rng
        at = rng.choice(sorted(m.tables)) + rng.randrange(rng.choice([16, 128, m.size]))
        if at < len(self.data) and at >= 24:
            self.data[at] = rng.choice([self.data[at] ^ 1 << rng.randrange(8), rng.randrange(256), 0, 255])

    def wide_noise(self):
        """A sector of a table, lost or replaced."""
        at = self.rng.choice(sorted(self.layout.tables)) & ~511
        other = self.rng.randrange(len(self.data)) & ~511
        if 512 <= at and at + 512 <= len(self.data):
            self.data[at:at + 512] = self.rng.choice([bytes(512), self.data[other:other + 512].ljust(512, b"\0")])

    def cut(self):
        size = self.rng.randrange(512, len(self.data) + 1)
        del self.data[self.rng.choice([size, size & ~511, size & ~(self.layout.size - 1) or 512]):]

    def longer(self):
        self.data += bytes(self.rng.choice([512, self.layout.size, 5 * self.layout.size, 100]))

    def one(self):
        self.rng.choice([self.table_entry] * 8 + [self.refcount] * 4 + [self.noise] * 3 +
                        [self.subclusters, self.header, self.snapshot, self.bitmap, self.wide_noise] +
                        [self.subclusters, self.snapshot] + ([self.cut, self.longer] if self.rng.random() < .5 else [])
                        )()


def wreck(rng, data):
    w = Wreck(rng, data)
    for _ in range(rng.choice([1, 1, 1, 2, 2, 3, 5, 9])):
        w.one()
    return bytes(w.data)


def main(seed, count, folder, *bases):
    top = pathlib.Path(__file__).resolve().parents[2] / "testimages/valid"
    bases = [pathlib.Path(b) for b in bases] or [p for p in sorted(top.glob("*.qcow2")) if p.stat().st_size < 1 << 19]
    contents = [b.read_bytes() for b in bases]
    for i in range(int(count)):
        rng = random.Random(f"{seed}/{i}")
        (pathlib.Path(folder) / f"{seed}-{i}.qcow2").write_bytes(wreck(rng, rng.choice(contents)))


if __name__ == "__main__":
    main(*sys.argv[1:])
