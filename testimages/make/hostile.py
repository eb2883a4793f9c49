"""hostile/: images as an attacker would build them, beyond the plain limits of limits.py."""

import struct

from make.limits import CHECK, MAP, OK, OPEN, READ
from make.synth import COMPRESSED, COPIED, ZERO, Synth, backing_format, deflate
from make.tools import DATA_FILE, KIB, MIB, noise, text

# Where a bad L1 entry is found: at open, with the L1 table. A lazier reader would say refuse-map.
L1_ENTRY = MAP

NOT_A_FILE = r"(protocol|driver|not allowed|not supported|unsupported|unknown|refus|policy|only).*"


def overlaps(case):
    def one(name, how, pattern, image):
        case("hostile/overlap-" + name, how, pattern, "metadata does not overlap", image)

    image = Synth()
    image.set("refcount_table_offset", image.l1)
    one("refcount-table-on-l1", OPEN, r"overlap|ref(erence )?count table.*L1|L1.*ref(erence )?count table", image)
    image = Synth()
    image.set("l1_table_offset", image.table)
    one("l1-on-refcount-table", OPEN, r"overlap|ref(erence )?count table.*L1|L1.*ref(erence )?count table", image)
    image = Synth()
    image.snapshots([{"l1": image.snapshot_l1(), "l1_size": 1}])
    image.set("snapshots_offset", image.l1)
    one("snapshot-table-on-l1", OPEN, r"overlap|snapshot.*", image)
    image = Synth()
    image.snapshots([{"l1": image.l1, "l1_size": 1}])
    one("snapshot-l1-on-l1", OPEN, r"overlap|snapshot.*L1", image)
    for label, place in (("l1", "l1"), ("refcount-table", "table")):
        image = Synth()
        image.u64(image.l1, getattr(image, place) | COPIED)
        one("l2-on-" + label, L1_ENTRY, r"L2.*(overlap|0x[0-9a-f]+)|overlap", image)
    image = Synth()
    image.u64(image.l1, image.block | COPIED)
    one("l2-on-refcount-block", CHECK, r"overlap|ref(erence )?count", image)
    image = Synth(size=4 * MIB)
    image.u64(image.l1 + 8, image.l2 | COPIED)
    one("l2-shared", CHECK, r"L2.*(twice|shared|same|more than once|overlap|reference)|overlap", image)
    for label, place in (("l1", "l1"), ("l2", "l2"), ("refcount-table", "table"), ("refcount-block", "block")):
        image = Synth()
        image.l2_entry(1, getattr(image, place) | COPIED)
        one("data-on-" + label, CHECK, r"overlap|ref(erence )?count", image)
    image = Synth()
    image.l2_entry(1, image.data[0] | COPIED)
    one("data-shared", CHECK, r"ref(erence )?count|overlap|cluster", image)
    image = Synth()
    image.u64(image.table, image.table)
    one("refcount-block-on-table", CHECK, r"overlap|ref(erence )?count", image)
    image = Synth()
    image.u64(image.table, image.l2)
    one("refcount-block-on-l2", CHECK, r"overlap|ref(erence )?count", image)


def entries(case):
    """L1, L2 and refcount table entries."""
    def one(name, how, pattern, limit, image):
        case("hostile/entry-" + name, how, pattern, limit, image)

    for label, value, pattern, limit in (
            ("unaligned", lambda i: i.l2 + 512 | COPIED, r"(aligned|offset).*", "L1 entries are cluster-aligned"),
            ("reserved-low", lambda i: i.l2 | COPIED | 1 << 3, r"reserved", "reserved bits in L1 entries are 0"),
            ("reserved-high", lambda i: i.l2 | COPIED | 1 << 60, r"reserved", "reserved bits in L1 entries are 0"),
            ("outside", lambda i: 1 << 40 | COPIED, r"(outside|past|beyond|end)", "L2 tables are inside the file"),
            ("at-end", lambda i: len(i.bytes) | COPIED, r"(outside|past|beyond|end)", "L2 tables are inside the file"),
            ("2p55", lambda i: 1 << 55 | COPIED, r"(outside|past|beyond|end)", "L2 tables are inside the file")):
        image = Synth()
        image.u64(image.l1, value(image))
        one("l1-" + label, L1_ENTRY, r"^(?=.*L[12]).*" + pattern, limit, image)
    for label, how, value, pattern, limit in (
            ("unaligned", MAP, lambda i: i.data[0] + 512 | COPIED, r"(aligned|offset).*", "L2 entries are cluster-aligned"),
            ("reserved-low", MAP, lambda i: i.data[0] | COPIED | 1 << 8, r"reserved", "reserved bits in standard descriptors are 0"),
            ("reserved-high", MAP, lambda i: i.data[0] | COPIED | 1 << 57, r"reserved", "reserved bits in standard descriptors are 0"),
            ("outside", MAP, lambda i: 1 << 40 | COPIED, r"(outside|past|beyond|end)", "clusters are inside the file"),
            ("2p55", MAP, lambda i: 1 << 55 | COPIED, r"(outside|past|beyond|end)", "clusters are inside the file"),
            ("at-end", MAP, lambda i: len(i.bytes) | COPIED, r"(outside|past|beyond|end)", "clusters are inside the file"),
            ("zero-outside", CHECK, lambda i: 1 << 40 | COPIED | ZERO, r"(outside|past|beyond|end)", "preallocated zero clusters are inside the file"),
            ("zero-unaligned", MAP, lambda i: i.data[0] + 512 | COPIED | ZERO, r"(aligned|offset)", "preallocated zero clusters are aligned"),
            ("copied-only", CHECK, lambda i: COPIED, r"(offset|header|zero|copied)", "offset 0 with bit 63 only with a data file"),
            ("all-ones", MAP, lambda i: 2 ** 64 - 1, r".*", "an L2 entry of all ones: compressed, far outside the file"),
            ("compressed-outside", MAP, lambda i: COMPRESSED | 1 << 40, r"(compressed|outside|past|beyond|end)", "compressed clusters are inside the file"),
            ("compressed-at-end", MAP, lambda i: COMPRESSED | len(i.bytes), r"(compressed|outside|past|beyond|end)", "compressed clusters are inside the file"),
            ("compressed-high", MAP, lambda i: COMPRESSED | 1 << 57, r"(compressed|outside|past|beyond|end|reserved)",
             "offsets of compressed clusters have no bits past 55"),
            ("not-copied", CHECK, lambda i: i.data[0], r"(copied|ref(erence )?count)", "bit 63 means refcount 1")):
        image = Synth()
        image.l2_entry(0, value(image))
        one("l2-" + label, how, pattern, limit, image)
    image = Synth()
    image.put(image.l2, b"\xff" * 4096)
    one("l2-table-of-ones", MAP, r".*", "an L2 table of all ones", image)
    image = Synth(version=2)
    image.l2_entry(0, ZERO)
    one("l2-zero-in-v2", MAP, r"(zero|reserved|version)", "version 2 has no zero clusters", image)
    image = Synth()
    image.squeezed(0, deflate(text("copied", 0, 4096)))
    image.u64(image.l2, image.get64(image.l2) | COPIED)
    one("l2-compressed-copied", CHECK, r"(copied|compressed)", "bit 63 is 0 for compressed clusters", image)

    for label, entry, bitmap, how in (
            ("both-bits", None, 1 | 1 << 32, MAP), ("no-offset", 0, 1, MAP), ("zero-flag", ZERO, 0, MAP),
            ("no-offset-zero", 0, 1 << 32, OK), ("offset-nothing-allocated", None, 0, OK)):
        image = Synth(bits=14, extended=True, data=1)
        image.l2_entry(0, (image.data[0] | COPIED) if entry is None else entry, bitmap)
        image.counts[image.data[0] // image.cluster] = 1 if entry is None else 0
        one("extl2-" + label, how, r"(sub)?cluster|bitmap|reserved|L2", "extended L2: allocated and zero exclude each other, "
            "allocated needs an offset, bit 0 is reserved", image)
    image = Synth(bits=14, extended=True, data=1)
    image.squeezed(0, deflate(text("sub", 0, 16 * KIB)))
    image.u64(image.l2 + 8, 1)
    one("extl2-compressed-bitmap", CHECK, r"(compressed|bitmap|reserved)", "the bitmap of a compressed cluster is reserved", image)

    for label, value, pattern in (("unaligned", lambda i: i.block + 512, r"aligned|offset"), ("reserved", lambda i: i.block | 1, r"reserved|aligned|offset"),
                                  ("outside", lambda i: 1 << 40, r"outside|past|beyond|end|offset"),
                                  ("2p63", lambda i: 1 << 63, r"outside|past|beyond|end|offset|large")):
        image = Synth().done()
        image.u64(image.table, value(image))
        one("refcount-" + label, CHECK, r"ref(erence )?count.*(%s)" % pattern, "refcount table entries: aligned, inside the file; seen by check", image)
    image = Synth()
    l1 = image.snapshot_l1()
    image.snapshots([{"l1": l1, "l1_size": 1}])
    image.u64(l1, image.l2 + 512)
    one("snapshot-l1-unaligned", CHECK, r"(snapshot|L1|L2|aligned)", "L1 entries of snapshots: seen by check", image)


def squeezed(case):
    """Compressed data that lies."""
    def one(name, how, pattern, limit, image):
        case("hostile/compressed-" + name, how, pattern, limit, image)

    def image(stream, **keywords):
        synth = Synth(data=0)
        synth.squeezed(0, stream, **keywords)
        return synth

    word = r"(decompress|compress|deflate|inflate|corrupt|zstd).*"
    plain = text("plain", 0, 4096)
    limit = "compressed clusters give exactly one cluster"
    one("sound", OK, "", limit, image(deflate(plain)))
    one("wide-window", OK, "", "any window is read, QEMU writes 4 KiB", image(deflate(plain, -15)))
    one("trailing-bytes", OK, "", "bytes after the stream are no error", image(deflate(plain) + b"\xa5" * 700))
    one("unaligned", OK, "", "streams start anywhere", image(deflate(plain), shift=777))
    one("over-cluster-end", OK, "", "streams cross clusters", image(deflate(plain), shift=4096 - 20))
    one("garbage", READ, word, limit, image(b"\xa5" * 600))
    one("zeroes", READ, word, limit, image(b"\0" * 600))
    one("truncated", READ, word, limit, image(deflate(noise("cut", 0, 4096)), sectors=3))
    one("too-little", READ, word, limit, image(deflate(plain[:2000])))
    one("nothing", READ, word, limit, image(deflate(b"")))
    one("bomb", OK, "", "a stream that goes on is cut at one cluster (4 MiB of zeroes in 4 KiB)", image(deflate(bytes(5 * MIB))[:4096]))
    one("zlib-header", READ, word, "raw deflate, no zlib header", image(deflate(plain, 12)))
    synth = image(deflate(plain))
    synth.squeezed(1, b"x", host=5 * 4096, sectors=15)
    one("length-past-end", CHECK, r"ref(erence )?count|past|beyond|end", "a length past the end is clipped: the data decide", synth)
    synth = Synth(data=0)
    host = synth.squeezed(0, deflate(plain))
    for index in range(16):
        synth.squeezed(index, deflate(plain), host=host)
    one("all-on-one", CHECK, r"ref(erence )?count", "many entries on one compressed cluster", synth)

    def zstd(stream):
        synth = Synth(data=0)
        synth.set("incompatible", 8)
        synth.set("compression_type", 1)
        synth.squeezed(0, stream)
        return synth

    def frame(descriptor, body):
        return b"\x28\xb5\x2f\xfd" + descriptor + body

    def block(kind, size, data, last=1):
        return struct.pack("<I", size << 3 | kind << 1 | last)[:3] + data

    small = b"\x00\x10"                                  # no content size, window 4 KiB
    one("zstd-sound", OK, "", limit, zstd(frame(small, block(0, 2048, plain[:2048], 0) + block(1, 2048, b"Z"))))
    one("zstd-garbage", READ, word, limit, zstd(b"\xa5" * 600))
    one("zstd-truncated", READ, word, limit, zstd(frame(small, block(0, 3000, plain[:100]))))
    one("zstd-too-little", READ, word, limit, zstd(frame(small, block(1, 2048, b"Z"))))
    one("zstd-window-3t", READ, word, "a window of 3.75 TiB is never allocated", zstd(frame(b"\x00\xff", block(1, 4096, b"Z"))))
    one("zstd-dictionary", READ, word, "no dictionaries", zstd(frame(b"\x01\x10\x07", block(1, 4096, b"Z"))))
    one("zstd-size-lie", READ, word, "a content size of 2^63", zstd(frame(b"\xc0\x10" + struct.pack("<Q", 1 << 63), block(1, 4096, b"Z"))))
    one("zstd-skippable", READ, word, "a skippable frame is no data", zstd(b"\x50\x2a\x4d\x18" + struct.pack("<I", 500) + b"s" * 500))


def references(case):
    """Backing files and data files that point to where they should not."""
    def backed(name, how, pattern, limit, backing, fmt="qcow2"):
        case("hostile/backing-" + name, how, pattern, limit,
             Synth(bits=9 if len(backing) < 256 else 12, size=16 * KIB, backing=backing,
                   extensions=[backing_format(fmt)] if fmt else [], name=name))

    limit = "a chain has no loops"
    loop = r"(loop|cycle|itself|recurs|already|circular|refer)"
    backed("self", MAP, loop, limit, "backing-self.qcow2")
    backed("self-alias", MAP, loop, limit, "../hostile/./backing-self-alias.qcow2")
    backed("loop-1", MAP, loop, limit, "backing-loop-2.qcow2")
    backed("loop-2", MAP, loop, limit, "backing-loop-1.qcow2")
    backed("self-json", MAP, loop + r"|no such file", limit,
           'json:{"driver":"qcow2","file":{"driver":"file","filename":"backing-self-json.qcow2"}}')
    limit = "a backing file that is not there is named"
    backed("missing", MAP, r"not-here.qcow2.*no such file|no such file", limit, "not-here.qcow2")
    backed("missing-folder", MAP, r"no such file", limit, "no/such/folder/base.qcow2")
    backed("folder", MAP, r"(directory|regular|folder|not a )", "a folder is no image", "../hostile", "raw")
    limit = "a backing format is known, and right"
    backed("unknown-format", MAP, r"(unknown|unsupported|format|driver).*zfs9", limit, "tiny.raw", "zfs9")
    backed("wrong-format", MAP, r"(not.*qcow2|magic|tiny\.raw)", limit, "tiny.raw", "qcow2")
    backed("protocol-as-format", MAP, r"(unknown|unsupported|format|driver).*nbd", limit, "tiny.raw", "nbd")
    backed("hides-qcow2", OK, "", "a qcow2 file called raw is read as raw", "compressed-sound.qcow2", "raw")
    backed("bad-base", MAP, r"limit-cluster-bits-22.*cluster", "the bad layer is named", "limit-cluster-bits-22.qcow2")
    limit = "json: names are parsed strictly"
    for label, name in (("nonsense", "json:nonsense"), ("empty", "json:"), ("array", "json:[1,2]"), ("unterminated", 'json:{"driver":"qcow2"'),
                        ("no-file", 'json:{"driver":"qcow2"}'), ("deep", "json:" + '{"a":' * 200), ("deep-arrays", "json:" + "[" * 1000),
                        ("number", 'json:{"driver":7}'), ("twice", 'json:{"driver":"raw","driver":"qcow2","file.filename":"tiny.raw"}')):
        backed("json-" + label, MAP, r"(json|pars|invalid|driver|file)", limit, name)
    limit = "only files are opened"
    for label, name, word in (
            ("json-nbd", 'json:{"driver":"raw","file":{"driver":"nbd","host":"127.0.0.1","port":"1"}}', "nbd"),
            ("json-ssh", 'json:{"driver":"raw","file":{"driver":"ssh","host":"127.0.0.1","path":"/x","user":"x"}}', "ssh"),
            ("json-http", 'json:{"driver":"raw","file":{"driver":"http","url":"http://127.0.0.1:1/"}}', "http"),
            ("json-dotted", 'json:{"driver":"raw","file.driver":"nbd","file.host":"127.0.0.1"}', "nbd"),
            ("json-blkdebug", 'json:{"driver":"blkdebug","image":{"driver":"file","filename":"tiny.raw"}}', "blkdebug"),
            ("json-null", 'json:{"driver":"null-co","size":"1M"}', "null-co"),
            ("nbd", "nbd://127.0.0.1:1/export", "nbd"), ("nbd-unix", "nbd+unix:///x?socket=/none", "nbd"),
            ("ssh", "ssh://nobody@127.0.0.1:1/x", "ssh"), ("http", "http://127.0.0.1:1/x", "http"),
            ("fat", "fat:rw:/none", "fat"), ("rbd", "rbd:pool/image", "rbd"), ("unknown-protocol", "gopher://127.0.0.1/x", "gopher")):
        backed(label, MAP, r"(%s%s|%s.*)" % (NOT_A_FILE, word, word), limit, name, "raw")
    limit = "names are bytes of a file name, shown escaped"
    backed("nul-in-name", OPEN, r"(backing|name).*(nul|zero byte|control|invalid|character)", limit, b"tiny.raw\0/etc/passwd", "raw")
    backed("escape-in-name", MAP, r"^[^\x1b\x07]*no such file", limit, b"\x1b[2J\x1b]0;owned\x07.raw", "raw")
    backed("newline-in-name", MAP, r"unknown protocol.*a\\nbacking|no such file", limit, b"a\nbacking file: b", "raw")
    backed("not-utf8", MAP, r"no such file", limit, b"\xff\xfe\xc0\x80.raw", "raw")
    backed("absolute", MAP, r"(no such file|not allowed|policy)", "CVE-2015-5163: an absolute name (map may refuse by policy; no such file here)",
           "/nonexistent/secret.raw", "raw")
    backed("no-format", OK, "", "no backing format: raw is probed, and audited", "tiny.raw", None)

    def data_file(name, how, pattern, limit, target):
        image = Synth(data=0, extensions=[(DATA_FILE, target)])
        image.set("incompatible", 4)
        image.l2_entry(0, COPIED)
        case("hostile/data-file-" + name, how, pattern, limit, image)

    limit = "CVE-2024-32498, CVE-2024-4467: a data file is a plain file"
    data_file("missing", MAP, r"no such file", limit, b"not-here.data")
    data_file("absolute", MAP, r"(no such file|not allowed|policy)", limit, b"/nonexistent/secret")
    data_file("self", MAP, loop + r"|data.file", limit, b"data-file-self.qcow2")
    data_file("json", MAP, r"(json|driver|not allowed|policy|no such file|protocol).*", limit, b'json:{"driver":"file","filename":"/nonexistent/secret"}')
    data_file("json-nbd", MAP, r"(json|nbd|driver|not allowed|protocol).*", limit, b'json:{"driver":"nbd","host":"127.0.0.1","port":"1"}')
    data_file("nbd", MAP, r"(nbd|protocol|driver|not allowed).*", limit, b"nbd://127.0.0.1:1/x")
    data_file("nul-in-name", OPEN, r"data.file.*", limit, b"tiny.data\0x")
    data_file("name-2000", MAP, r"data.file.*(long|name|length)", "data file name at most 1023 bytes", b"d" * 2000)


def bounded(case):
    """Small files that ask for much work."""
    image = Synth(size=4096 * 2 * MIB, data=256)
    for index in range(0, 512):
        image.l2_entry(index, image.get64(image.l2 + index * 8) if index < 256 and index % 2 else 0)
    for index in range(4096):
        image.u64(image.l1 + index * 8, image.l2 | COPIED)
    del image.bytes[64 * KIB:]
    for index in range(0, 512):
        image.l2_entry(index, 0x2000 | COPIED if index % 2 else 0)
    case("hostile/bounded-l2-shared-by-4096.qcow2", CHECK, r"L2.*(twice|shared|same|more than once|overlap|reference)|overlap",
         "4,096 L1 entries on one L2 table: two million extents in 64 KiB", image)
    image = Synth(size=2 * MIB * 512 * 8, l1_entries=4096)
    image.l2_entry(511, ZERO)
    case("hostile/bounded-empty-8g.qcow2", OK, "", "a sparse L1 is cheap", image)
    image = Synth()
    image.set("l1_size", 32 * MIB // 8)
    case("hostile/bounded-l1-32m-tiny-file.qcow2", OPEN, r"L1.*(outside|past|beyond|end|large|read)", "a 32 MiB L1 that is not in the file", image)
    image = Synth()
    image.set("refcount_table_clusters", 8 * MIB // 4096)
    case("hostile/bounded-refcount-8m-tiny-file.qcow2", OPEN, r"ref(erence )?count table.*(outside|past|beyond|end|read)",
         "an 8 MiB refcount table that is not in the file", image)
    image = Synth()
    image.bitmap_directory([{}], count=65535, size=67107840)
    case("hostile/bounded-bitmaps-64m-tiny-file.qcow2", OPEN, r"bitmap.*(outside|past|beyond|end|read|broken|directory)",
         "a 64 MiB bitmap directory that is not in the file", image)
    image = Synth()
    image.snapshots([{"name": b"s", "extra": b""}] * 500)
    image.set("nb_snapshots", 65536)
    case("hostile/bounded-65536-snapshots-tiny-file.qcow2", OPEN, r"snapshot", "65,536 snapshots that are not in the file", image)
    image = Synth()
    image.bitmap_directory([{"table_size": 0x20000, "bits": 9}])
    case("hostile/bounded-bitmap-table-tiny-file.qcow2", OPEN, r"bitmap.*(outside|past|beyond|end|table)", "a 1 MiB bitmap table that is not in the file", image)


def polyglots(case):
    """Files that are two things at once, and raw files that look like something else."""
    image = Synth(bits=16, size=64 * KIB, data=0)
    image.put(0x8000, b"\1CD001\1")
    case("hostile/polyglot-iso.qcow2", OK, "", "audit: qcow2 and ISO9660 at once", image)
    image = Synth(data=0)
    image.put(510, b"\x55\xaa")
    case("hostile/polyglot-mbr.qcow2", OK, "", "audit: qcow2 and MBR at once", image)
    descriptor = (b'# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
                  b'RW 8 FLAT "/etc/passwd" 0\n')
    case("hostile/cve-2022-47951.vmdk", OPEN, r"vmdk", "CVE-2022-47951: a flat VMDK with an absolute extent", descriptor)
    mbr = bytearray(4096)
    mbr[446:462] = struct.pack("<B3sB3sII", 0x42, b"", 0x83, b"", 1, 7)
    mbr[510:512] = b"\x55\xaa"
    case("hostile/mbr-boot-flag.raw", OK, "", "audit: MBR boot flag other than 0x00 or 0x80", bytes(mbr))
    case("hostile/qcow2-as-raw.raw", OK, "", "CVE-2024-44082: a raw guest disk whose guest wrote a qcow2 header",
         Synth(backing="/nonexistent/secret.raw", extensions=[backing_format("raw")]), "-f raw")


def make(case):
    case("hostile/tiny.raw", OK, "", "a base for others", text("tiny base", 0, 16 * KIB))
    case("hostile/tiny.data", OK, "", "a data file for others", text("tiny data", 0, 64 * KIB))
    for recipe in (overlaps, entries, squeezed, references, bounded, polyglots):
        recipe(case)
