"""corrupt/: images damaged as accidents would: cut, zeroed, overwritten, mangled in transfer, stale refcounts."""

import random

from make.limits import CHECK, MAP, OK, OPEN, READ
from make.hostile import L1_ENTRY
from make.synth import COMPRESSED, COPIED, Synth, deflate
from make.tools import KIB, MIB, noise, text


def full():
    """One of everything, to be cut and mangled."""
    image = Synth(size=MIB, data=6)
    image.squeezed(6, deflate(text("squeezed", 0, 4096)))
    image.l2_entry(7, 1)
    image.snapshots([{"l1": image.snapshot_l1(), "l1_size": 1}])
    image.bitmap_directory([{}])
    return image.done()


def truncated(case):
    header = r"(header|short|truncated|small|read|magic|not.*qcow2|empty|size)"
    for length in (0, 1, 4, 71, 72, 103):
        image = full()
        del image.bytes[length:]
        case("corrupt/header-%d-bytes.qcow2" % length, OPEN, header, "a file shorter than its header", image, "-f qcow2")
    image = Synth(version=2)
    del image.bytes[71:]
    case("corrupt/header-v2-71-bytes.qcow2", OPEN, header, "a file shorter than its header", image, "-f qcow2")
    image = Synth(version=2)
    del image.bytes[72:]
    case("corrupt/header-v2-72-bytes.qcow2", OPEN, r".*(table|outside|past|end|read|truncated)", "tables are inside the file", image)
    for length in (104, 112, 512, 4096):
        image = full()
        del image.bytes[length:]
        case("corrupt/cut-at-%d.qcow2" % length, OPEN, r"(table|outside|past|beyond|end|read|truncated|short)", "tables are inside the file", image)
    for label, how, place, pattern in (
            ("refcount-table", OPEN, lambda i: i.table + 100, r"ref(erence )?count table"),
            ("refcount-block", OPEN, lambda i: i.block + 100, r"L1.*(outside|past|beyond|end)|table"),
            ("l1", OPEN, lambda i: i.l1 + 4, r"L1|snapshot|table"),
            ("l2", OPEN, lambda i: i.l2 + 100, r"L2|snapshot|table|past|end"),
            ("snapshot-table", OPEN, lambda i: i.snapshot_table + 50, r"snapshot"),
            ("bitmap-directory", OPEN, lambda i: i.directory + 10, r"bitmap")):
        image = full()
        del image.bytes[place(image):]
        case("corrupt/cut-in-%s.qcow2" % label, how, pattern, "tables are inside the file", image)
    image = Synth()
    del image.bytes[image.data[1] + 100:]
    case("corrupt/cut-in-last-data.qcow2", OK, "", "the last data cluster may end early: the rest reads as zeroes", image)
    image = Synth()
    del image.bytes[image.data[1]:]
    case("corrupt/cut-before-data.qcow2", MAP, r"(outside|past|beyond|end)", "clusters are inside the file", image)
    image = Synth(data=0)
    stream = deflate(noise("cut", 0, 4096))
    host = image.squeezed(0, stream)
    del image.bytes[host + len(stream):]
    case("corrupt/compressed-ends-with-file.qcow2", OK, "", "the last sector of compressed data may be cut after the stream", image)
    image = Synth(data=0)
    host = image.squeezed(0, stream)
    del image.bytes[host + 1000:]
    case("corrupt/compressed-cut.qcow2", READ, r"(decompress|compress|deflate|inflate|corrupt|past|end).*", "compressed data cut by the end of the file", image)


def zeroed(case):
    """Clusters that were lost: a download with holes, a file system repaired."""
    for label, how, place, size, pattern, limit in (
            ("header", OPEN, lambda i: 0, 512, r"not.*qcow2|magic", "magic QFI\\xfb"),
            ("refcount-table", CHECK, lambda i: i.table, 4096, r"ref(erence )?count", "refcounts match the references"),
            ("refcount-block", CHECK, lambda i: i.block, 4096, r"ref(erence )?count", "refcounts match the references"),
            ("l1", CHECK, lambda i: i.l1, 4096, r"leak|ref(erence )?count", "refcounts match the references"),
            ("l2", CHECK, lambda i: i.l2, 4096, r"leak|ref(erence )?count", "refcounts match the references"),
            ("snapshot-table", OPEN, lambda i: i.snapshot_table, 4096, r"snapshot", "snapshot L1 covers the snapshot's size"),
            ("bitmap-directory", OPEN, lambda i: i.directory, 4096, r"bitmap", "a bitmap has a table")):
        image = full()
        image.put(place(image), b"\0" * size)
        case("corrupt/zeroed-%s.qcow2" % label, how, pattern, limit, image, "-f qcow2" if label == "header" else "")
    image = full()
    image.bytes[:] = b"\0" * len(image.bytes)
    case("corrupt/all-zeroes.qcow2", OPEN, r"not.*qcow2|magic", "magic QFI\\xfb", image, "-f qcow2")


def overwritten(case):
    log = (b"Nov 20 16:00:00 host kernel: something quite different happened here\n" * 60)[:4096]
    for label, how, place, pattern in (
            ("header", OPEN, lambda i: 0, r"not.*qcow2|magic"), ("l1", L1_ENTRY, lambda i: i.l1, r"L1|L2|snapshot"),
            ("l2", MAP, lambda i: i.l2, r"L2|aligned|reserved|outside|past|end|compressed"),
            ("refcount-table", CHECK, lambda i: i.table, r"ref(erence )?count"), ("refcount-block", CHECK, lambda i: i.block, r"ref(erence )?count"),
            ("snapshot-table", OPEN, lambda i: i.snapshot_table, r"snapshot"), ("bitmap-directory", OPEN, lambda i: i.directory, r"bitmap"),
            ("compressed", READ, lambda i: i.snapshot_table - 2 * 4096, r"(decompress|compress|deflate|inflate|corrupt)")):
        image = full()
        image.put(place(image), log)
        case("corrupt/log-over-%s.qcow2" % label, how, pattern, "a log file was written over the " + label, image,
             "-f qcow2" if label == "header" else "")
    image = full()
    rng = random.Random(1)
    for _ in range(512):
        image.bytes[image.l2 + rng.randrange(4096)] ^= 1 << rng.randrange(8)
    case("corrupt/bit-flips-l2.qcow2", MAP, r"L2|aligned|reserved|outside|past|end|compressed", "bits flipped in the L2 table", image)
    image = full()
    image.bytes[23] ^= 0x40
    case("corrupt/bit-flip-cluster-bits.qcow2", OPEN, r"cluster.*(bits|size).*76", "cluster_bits 9..21", image)
    image = full()
    image.bytes[44] ^= 0x10
    case("corrupt/bit-flip-l1-offset.qcow2", OPEN, r"L1.*(outside|past|beyond|end|offset)", "tables are inside the file", image)


def mangled(case):
    """Wrong copies."""
    image = full()
    image.bytes = bytearray(bytes(image.bytes).replace(b"\n", b"\r\n"))
    case("corrupt/text-mode.qcow2", OPEN, r".*", "copied in text mode: every line feed got a carriage return", image)
    image = full()
    for at in range(0, 104, 4):
        image.bytes[at:at + 4] = image.bytes[at:at + 4][::-1]
    case("corrupt/byte-swapped-header.qcow2", OPEN, r"not.*qcow2|magic", "magic QFI\\xfb", image, "-f qcow2")
    image = full()
    image.bytes[0:0] = b"\0" * 512
    case("corrupt/shifted-by-a-sector.qcow2", OPEN, r"not.*qcow2|magic", "magic QFI\\xfb", image, "-f qcow2")
    image = full()
    a, b = image.l2, image.data[0]
    image.bytes[a:a + 4096], image.bytes[b:b + 4096] = image.bytes[b:b + 4096], image.bytes[a:a + 4096]
    case("corrupt/clusters-swapped.qcow2", MAP, r"L2|aligned|reserved|outside|past|end|compressed", "an L2 table swapped with data", image)
    image = full()
    image.bytes += noise("trailing", 0, 1000)
    case("corrupt/trailing-garbage.qcow2", OK, "", "bytes after the last cluster are no error", image)
    image = full()
    image.bytes += bytes(image.bytes)
    case("corrupt/twice.qcow2", OK, "", "the file, and itself again behind it", image)


def refcounts(case):
    """Sound for reading, wrong for writing."""
    for label, count, pattern in (("leak", None, r"leak"), ("too-high", 2, r"leak|ref(erence )?count"), ("too-low", 0, r"ref(erence )?count")):
        image = Synth()
        if count is None:
            image.alloc(2)
        else:
            image.counts[image.data[1] // 4096] = count
        case("corrupt/refcount-%s.qcow2" % label, CHECK, pattern, "refcounts match the references", image)
    image = Synth()
    image.counts[image.l2 // 4096] = 0
    case("corrupt/refcount-l2-free.qcow2", CHECK, r"ref(erence )?count", "refcounts match the references", image)
    image = Synth()
    image.counts[0] = 0
    case("corrupt/refcount-header-free.qcow2", CHECK, r"ref(erence )?count", "refcounts match the references", image)
    image = Synth()
    image.u64(image.l1, image.l2)
    case("corrupt/copied-missing-l1.qcow2", CHECK, r"copied|ref(erence )?count", "bit 63 means refcount 1", image)
    image = Synth()
    l1 = image.snapshot_l1()
    image.snapshots([{"l1": l1, "l1_size": 1}])
    image.u64(image.l1, image.l2 | COPIED)
    image.l2_entry(0, image.data[0] | COPIED)
    case("corrupt/copied-despite-snapshot.qcow2", CHECK, r"copied|ref(erence )?count", "bit 63 means refcount 1", image)
    image = Synth()
    image.set("incompatible", 1)
    image.counts[image.data[0] // 4096] = 0
    case("corrupt/dirty-stale-refcounts.qcow2", CHECK, r"ref(erence )?count", "dirty bit: refcounts may be behind", image)


def make(case):
    for recipe in (truncated, zeroed, overwritten, mangled, refcounts):
        recipe(case)
