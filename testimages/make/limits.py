"""hostile/limit-*: for each limit on a header field one image exactly at it, and one just past it."""

import struct

from make.synth import COPIED, Synth, backing_format, feature_names
from make.tools import BACKING_FORMAT, BITMAPS, CRYPTO, DATA_FILE, FEATURE_NAMES, MIB

OK, OPEN, MAP, READ, CHECK = "open-ok", "refuse-open", "refuse-map", "refuse-read", "refuse-check"
INT64_MAX = 2 ** 63 - 1


def damaged(**fields):
    image = Synth()
    for field, value in fields.items():
        image.set(field, value)
    return image


def header(case):
    def one(name, how, pattern, limit, image, options=""):
        case("hostile/limit-" + name, how, pattern, limit, image, options)

    one("magic", OPEN, r"not.*qcow2|magic", "magic QFI\\xfb", damaged(magic=0x514649FA), "-f qcow2")
    one("version-2", OK, "", "version 2 or 3", Synth(version=2))
    one("version-3", OK, "", "version 2 or 3", Synth())
    for version in (0, 1, 4, 0xFFFFFFFF):
        one("version-%d" % version, OPEN, r"version.*%d" % version, "version 2 or 3", damaged(version=version), "-f qcow2")

    one("cluster-bits-9", OK, "", "cluster_bits 9..21", Synth(bits=9))
    for bits in (0, 8, 22, 63, 0xFFFFFFFF):
        one("cluster-bits-%d" % bits, OPEN, r"cluster.*(bits|size).*%d" % bits, "cluster_bits 9..21 (CVE-2014-0143)",
            damaged(cluster_bits=bits))

    for length in (104, 112, 512):
        one("header-length-%d" % length, OK, "", "header_length 104..cluster size, multiple of 8",
            Synth(bits=9, header_length=length))
    for length in (0, 96, 103, 105, 520, 0xFFFFFFF8):
        image = Synth(bits=9)
        image.set("header_length", length)
        one("header-length-%d" % length, OPEN, r"header.*(length|short|size|exceeds|multiple)",
            "header_length 104..cluster size, multiple of 8", image)

    one("l1-covers-size", OK, "", "active L1 covers the virtual size", Synth(size=2 * MIB, l1_entries=1))
    one("l1-covers-too-little", OPEN, r"L1.*(too small|size|cover)", "active L1 covers the virtual size",
        Synth(size=2 * MIB + 1, l1_entries=1))
    one("l1-empty-size-0", OK, "", "active L1 covers the virtual size", Synth(size=0))
    one("l1-empty-size-512", OPEN, r"L1.*(too small|size|cover|entr)", "active L1 covers the virtual size", damaged(l1_size=0))
    one("l1-larger-than-needed", OK, "", "active L1 covers the virtual size", Synth(l1_entries=200))
    one("l1-32m-plus-8", OPEN, r"L1.*(large|4194305|32 ?MiB|limit|33554440)", "active L1 at most 32 MiB (CVE-2014-0143)",
        damaged(l1_size=32 * MIB // 8 + 1))
    one("l1-2g-entries", OPEN, r"L1.*(large|2147483648|limit|17179869184)", "active L1 at most 32 MiB", damaged(l1_size=1 << 31))
    one("l1-all-ones", OPEN, r"L1.*(large|4294967295|limit|size)", "active L1 at most 32 MiB", damaged(l1_size=0xFFFFFFFF))
    for label, size in (("2p63", 1 << 63), ("2p64-1", (1 << 64) - 1), ("2p63-1", INT64_MAX), ("2p63-512", (1 << 63) - 512)):
        one("size-" + label, OPEN, r"(size|L1|large|big).*", "virtual size against L1 and INT64_MAX (CVE-2014-0144)", damaged(size=size))

    one("refcount-clusters-0", OPEN, r"refcount table|reference count table", "refcount table at least one cluster",
        damaged(refcount_table_clusters=0))
    one("refcount-8m-plus", OPEN, r"ref(erence )?count table.*(large|2049|limit|8 ?MiB|8392704)",
        "refcount table at most 8 MiB (CVE-2014-0147)", damaged(refcount_table_clusters=8 * MIB // 4096 + 1))
    one("refcount-all-ones", OPEN, r"ref(erence )?count table.*", "refcount table at most 8 MiB", damaged(refcount_table_clusters=0xFFFFFFFF))
    for order, how in ((0, OK), (6, OK), (7, OPEN), (64, OPEN), (0xFFFFFFFF, OPEN)):
        image = Synth(order=order if how == OK else 4)
        image.set("refcount_order", order)
        one("refcount-order-%d" % order, how, r"ref(erence )?count.*(order|width|bits)", "refcount_order at most 6", image)

    one("crypt-3", OPEN, r"(encrypt|crypt).*3", "crypt_method 0..2", damaged(crypt_method=3))
    one("crypt-all-ones", OPEN, r"(encrypt|crypt).*(4294967295|0xffffffff|-1)", "crypt_method 0..2", damaged(crypt_method=0xFFFFFFFF))
    one("luks-no-extension", OPEN, r"(crypt|luks).*(header|extension|missing)|missing.*(crypt|luks)",
        "LUKS needs its extension", damaged(crypt_method=2))
    image = Synth(extensions=[(CRYPTO, struct.pack(">QQ", 4096, 4096))])
    one("luks-extension-plain-image", OPEN, r"(crypt|luks)", "encryption extension only with LUKS", image)
    for label, offset, length, size in (("unaligned", 0x5001, 4096, 16), ("outside", 1 << 40, 4096, 16),
                                        ("wraps", 2 ** 64 - 4096, 8192, 16), ("short", 0x5000, 4096, 15)):
        image = Synth(extensions=[(CRYPTO, struct.pack(">QQ", offset, length)[:size])])
        image.set("crypt_method", 2)
        one("luks-extension-" + label, OPEN, r"(crypt|luks).*", "encryption header: 16 bytes, aligned, inside the file", image)

    for bits, how in ((14, OK), (13, OPEN), (9, OPEN)):
        one("extl2-bits-%d" % bits, how, r"(sub)?cluster.*size|extended.*L2", "extended L2 needs clusters of 16 KiB",
            Synth(bits=bits, extended=True))


def features(case):
    names = feature_names((0, 0, "dirty bit"), (0, 5, "time travel"), (0, 63, "very last bit"), (1, 5, "wrong kind"))

    def one(name, how, pattern, image):
        case("hostile/limit-" + name, how, pattern, "unknown incompatible bits are refused, by name", image)

    for bit, word in ((5, "time travel"), (63, "very last bit")):
        image = Synth(extensions=[(FEATURE_NAMES, names)])
        image.set("incompatible", 1 << bit)
        one("incompatible-%d-named" % bit, OPEN, word, image)
        image = Synth()
        image.set("incompatible", 1 << bit)
        one("incompatible-%d-nameless" % bit, OPEN, r"(feature|incompatible|bit).*(%d|%x)" % (bit, 1 << bit), image)
    image = Synth(extensions=[(FEATURE_NAMES, b"\0\5" + b"X" * 46 + b"\0\6" + b"Y" * 45)])
    image.set("incompatible", 3 << 5)
    one("incompatible-name-unterminated", OPEN, r"feature|incompatible|X{46}", image)
    image = Synth(extensions=[(FEATURE_NAMES, b"\0\5\x1b[2J\x1b]0;owned\7".ljust(48, b"\0"))])
    image.set("incompatible", 1 << 5)
    one("incompatible-name-escape", OPEN, r"^[^\x1b\x07]*$", image)

    def compression(name, how, kind, bit, length=112):
        image = Synth(header_length=length)
        if length > 104:
            image.set("compression_type", kind)
        image.set("incompatible", 8 * bit)
        case("hostile/limit-compression-" + name, how, r"compression.*(type|bit)",
             "compression type 0 or 1, bit 3 set exactly when not 0", image)

    compression("deflate", OK, 0, 0)
    compression("zstd", OK, 1, 1)
    compression("2", OPEN, 2, 1)
    compression("255", OPEN, 255, 1)
    compression("zstd-without-bit", OPEN, 1, 0)
    compression("deflate-with-bit", OPEN, 0, 1)
    compression("bit-in-104-byte-header", OPEN, 0, 1, 104)


def backing(case):
    def one(name, how, pattern, image, limit="backing name at most 1023 bytes, inside the first cluster"):
        case("hostile/limit-backing-" + name, how, pattern, limit, image)

    raw = [backing_format("raw")]
    one("name-1023", OK, "", Synth(backing="./" * 507 + "/tiny.raw", extensions=raw))
    one("name-1024", OPEN, r"backing.*(name|long|length).*", Synth(backing="./" * 508 + "tiny.raw", extensions=raw))
    image = Synth(backing="tiny.raw", extensions=raw)
    image.set("backing_file_size", 0xFFFFFFFF)
    one("name-4g", OPEN, r"backing.*(name|long|length)", image)
    image = Synth(bits=9, backing="tiny.raw", extensions=raw)
    image.put(512 - 8, b"tiny.raw")
    image.set("backing_file_offset", 512 - 8)
    one("ends-with-cluster", OK, "", image)
    image = Synth(bits=9, backing="tiny.raw", extensions=raw)
    image.put(512 - 7, b"tiny.ra")
    image.set("backing_file_offset", 512 - 7)
    one("leaves-cluster", OPEN, r"backing.*(name|long|cluster|outside|offset)", image)
    for label, offset in (("second-cluster", 4097), ("outside", 1 << 40), ("all-ones", 2 ** 64 - 1)):
        image = Synth(backing="tiny.raw", extensions=raw)
        image.set("backing_file_offset", offset)
        one(label, OPEN, r"backing.*(offset|name|cluster)", image)
    image = Synth(backing="tiny.raw", extensions=raw)
    image.set("backing_file_offset", 24)
    one("in-header", OPEN, r"backing.*(offset|name|header|overlap)", image)

    limit = "backing format at most 15 bytes"
    one("format-15", MAP, r"(unknown|format|driver).*fifteen-letters", Synth(backing="tiny.raw", extensions=[backing_format("fifteen-letters")]), limit)
    one("format-16", OPEN, r"(backing )?format.*(16|long|large|length)", Synth(backing="tiny.raw", extensions=[backing_format("sixteen-letters!")]), limit)


def extensions(case):
    def one(name, how, pattern, image, limit="header extensions inside the area before the backing name"):
        case("hostile/limit-extension-" + name, how, pattern, limit, image)

    unknown = 0x1BADB002
    filling = [(unknown, b"x" * (512 - 112 - 8))]
    one("fills-cluster", OK, "", Synth(bits=9, extensions=filling))
    image = Synth(bits=9, extensions=filling)
    image.u32(116, 512 - 112 - 7)
    one("leaves-cluster", OPEN, r"extension.*(large|long|length|beyond|outside|past)", image)
    for label, length in (("2g", 0x80000000), ("all-ones", 0xFFFFFFFF), ("all-ones-7", 0xFFFFFFF9)):
        image = Synth(extensions=[(unknown, b"short")])
        image.u32(116, length)
        one(label, OPEN, r"extension.*(large|long|length|beyond|outside|past)", image)
    image = Synth(backing="tiny.raw", extensions=[backing_format("raw"), (unknown, b"x" * 16)])
    image.u32(image.extension_at(unknown) - 4, 16 + 9)
    one("into-backing-name", OPEN, r"extension.*(large|long|length|beyond|outside|past|overlap)", image)
    image = Synth(bits=9, extensions=[(unknown, b"x" * (512 - 112 - 16))])
    one("end-fills-cluster", OK, "", image)
    image = Synth(bits=9, header_length=112, extensions=[(unknown, b"x" * (512 - 112 - 16))])
    image.put(504, struct.pack(">II", unknown, 4))
    one("last-header-no-data", OPEN, r"extension.*(large|long|length|beyond|outside|past)", image)
    one("twice", MAP, r"not in qcow2 format",
        Synth(backing="tiny.raw", extensions=[backing_format("raw"), backing_format("qcow2")]),
        "an extension twice: the last one counts, as in QEMU")


def tables(case):
    """The three tables that the header places."""
    places = (("refcount", "refcount_table_offset", r"ref(erence )?count table"), ("l1", "l1_table_offset", r"L1"),
              ("snapshot", "snapshots_offset", r"snapshot"))
    for word, field, pattern in places:
        for label, offset, how, why in (
                ("unaligned", 0x3200, r".*(offset|aligned|invalid|0x3200|12800)", "tables are cluster-aligned"),
                ("zero", 0, r".*(offset|overlap|header|invalid|zero|missing)", "tables do not overlap the header"),
                ("outside", 1 << 40, r".*(outside|past|beyond|end|read|offset)", "tables are inside the file"),
                ("int64-max", INT64_MAX & ~0xFFF, r".*(offset|large|invalid|outside|past|beyond|end)",
                 "offset + length at most INT64_MAX"),
                ("wraps", 2 ** 64 - 4096, r".*(offset|large|invalid|outside|past|beyond|end)",
                 "offset + length at most INT64_MAX")):
            image = Synth()
            if word == "snapshot":
                image.snapshots([{"l1": image.snapshot_l1(), "l1_size": 1}])
            image.set(field, offset)
            case("hostile/limit-%s-table-%s" % (word, label), OPEN, pattern + how, why, image)


def snapshots(case):
    def one(name, how, pattern, image, limit):
        case("hostile/limit-snapshot-" + name, how, pattern, limit, image)

    def with_snapshots(*entries, **keywords):
        image = Synth(**keywords)
        l1 = image.snapshot_l1()
        image.snapshots([dict({"l1": l1, "l1_size": 1}, **entry) for entry in entries])
        return image

    def padded(size):
        return struct.pack(">QQQ", 0, 16 * 4096, 2 ** 64 - 1).ljust(size, b"x")

    limit = "snapshots at most 65,536"
    one("one", OK, "", with_snapshots({}), limit)
    for count, pattern in ((65536, r"snapshot.*"), (65537, r"snapshot.*(65537|large|many|limit)"), (0xFFFFFFFF, r"snapshot.*(4294967295|large|many|limit)")):
        image = with_snapshots({})
        image.set("nb_snapshots", count)
        one("count-%d" % count, OPEN, pattern, image, limit + " (CVE-2014-0145)")
    limit = "snapshot extra data at most 1,024 bytes"
    one("extra-1024", OK, "", with_snapshots({"extra": padded(1024)}), limit)
    one("extra-1025", OPEN, r"snapshot.*(extra).*", with_snapshots({"extra": padded(1025)}), limit)
    one("extra-4g", OPEN, r"snapshot.*(extra).*", with_snapshots({"extra_size": 0xFFFFFFFF}), limit)
    limit = "the snapshot table is inside the file"
    one("name-past-end", OPEN, r"snapshot.*(name|end|read|outside|past|truncated)", with_snapshots({"name_size": 65535}), limit)
    one("id-past-end", OPEN, r"snapshot.*(id|end|read|outside|past|truncated)", with_snapshots({"id_size": 65535}), limit)
    image = with_snapshots({})
    image.set("nb_snapshots", 500)
    one("unterminated", OPEN, r"snapshot.*(end|read|outside|past|truncated|L1|table)", image, limit)
    limit = "snapshot L1: aligned, inside the file, at most 32 MiB, covers the snapshot's size"
    for label, entry, pattern in (
            ("unaligned", {"l1": 0x3200}, r"(aligned|offset|invalid)"),
            ("outside", {"l1": 1 << 40}, r"(outside|past|beyond|end|offset)"),
            ("zero", {"l1": 0}, r"(overlap|header|offset|invalid|zero)"),
            ("wraps", {"l1": 2 ** 64 - 4096}, r"(outside|past|beyond|end|offset|large)"),
            ("32m-plus-8", {"l1_size": 4194305}, r"(large|size|limit|4194305|outside|past|end)"),
            ("4g-entries", {"l1_size": 0xFFFFFFFF}, r"(large|size|limit|4294967295|outside|past|end)"),
            ("too-small", {"l1_size": 0}, r"(small|cover|size|entr)")):
        one("l1-" + label, OPEN, r"snapshot.*" + pattern, with_snapshots(entry), limit)


def bitmaps(case):
    def one(name, how, pattern, image, limit):
        case("hostile/limit-bitmap-" + name, how, pattern, limit, image)

    def extension(**change):
        """A sound image with one bitmap, then the extension's fields changed."""
        image = Synth()
        image.bitmap_directory([{}])
        at = image.extension_at(BITMAPS)
        for field, value in change.items():
            offset, form = {"length": (-4, ">I"), "count": (0, ">I"), "reserved": (4, ">I"),
                            "size": (8, ">Q"), "offset": (16, ">Q")}[field]
            image.put(at + offset, struct.pack(form, value))
        return image

    limit = "bitmaps extension: 24 bytes, reserved 0, 1..65,535 bitmaps, aligned"
    word = r"bitmap.*"
    one("one", OK, "", extension(), limit)
    for label, change, pattern in (
            ("length-23", {"length": 23}, r"(length|size|23)"), ("length-32", {"length": 32}, r"(length|size|32)"),
            ("reserved", {"reserved": 1}, r"reserved"), ("count-0", {"count": 0}, r"(0|zero|no |count)"),
            ("count-65536", {"count": 65536}, r"65536"), ("count-2", {"count": 2}, r"(less|fewer|count|number|2|end)"),
            ("directory-unaligned", {"offset": 0x5200}, r"(offset|aligned)"),
            ("directory-outside", {"offset": 1 << 40}, r"(offset|outside|past|beyond|end|read)"),
            ("directory-wraps", {"offset": 2 ** 64 - 4096}, r"(offset|outside|past|beyond|end|read)"),
            ("directory-on-header", {"offset": 0}, r"(offset|overlap|header|broken|directory)"),
            ("directory-size-0", {"size": 0}, r"(size|zero|0)"),
            ("directory-size-31", {"size": 31}, r"(size|broken|end|entry|31)"),
            ("directory-size-40", {"size": 40}, r"(size|broken|end|entry|more|count)"),
            ("directory-size-67107841", {"size": 67107841}, r"(67107841|size|large)")):
        one(label, OPEN, word + pattern, extension(**change), limit)

    limit = "a bitmap: table, granularity 2^9..2^31, name 1..1,023 bytes, type 1, flags at most 3"
    for label, how, entry, pattern in (
            ("granularity-9", OK, {"bits": 9}, ""), ("granularity-31", OK, {"bits": 31}, ""),
            ("granularity-8", OPEN, {"bits": 8}, r"granularity.*"), ("granularity-32", OPEN, {"bits": 32}, r"granularity.*"),
            ("name-1023", OK, {"name": b"n" * 1023}, ""), ("name-1024", OPEN, {"name": b"n" * 1024}, r"name.*"),
            ("name-0", OPEN, {"name": b""}, r"name.*"), ("name-past-directory", OPEN, {"name_size": 1000}, r"(name|directory|end|size)"),
            ("type-0", OPEN, {"type": 0}, r"type.*0"), ("type-2", OPEN, {"type": 2}, r"type.*2"),
            ("flags-3", OK, {"flags": 3}, ""), ("flags-4", OPEN, {"flags": 4}, r"(flag|extra).*"),
            ("flags-high", OPEN, {"flags": 1 << 31}, r"flag.*"),
            ("extra-data", OPEN, {"extra": b"whatever"}, r"extra.*"), ("extra-4g", OPEN, {"extra_size": 0xFFFFFFFF}, r"(extra|directory|end)"),
            ("table-size-0", OPEN, {"table_size": 0}, r"table.*"),
            ("table-zero", OPEN, {"table": 0}, r"table.*"), ("table-unaligned", OPEN, {"table": 0x5200}, r"table.*(aligned|offset)"),
            ("table-outside", OPEN, {"table": 1 << 40}, r"table.*(outside|past|beyond|end|offset)"),
            ("table-0x8000001", OPEN, {"table_size": 0x8000001}, r"table.*"),
            ("table-512m-plus", OPEN, {"table_size": 512 * MIB // 4096 + 1}, r"table.*"),
            ("table-on-l1", OPEN, {"table": 0x3000}, r"(table|overlap).*")):
        image = Synth(size=64 * 4096)
        image.bitmap_directory([entry])
        one(label, how, word + pattern if how != OK else "", image, limit)
    image = Synth(size=2 * MIB)
    image.bitmap_directory([{"bits": 9}] * 2)
    one("same-name-differs", OK, "", image, limit)
    image = Synth()
    image.bitmap_directory([{"name": b"same"}, {"name": b"same"}])
    one("same-name", OPEN, word + r"(name|twice|duplicate|unique|same)", image, "bitmap names are unique")
    image = Synth(bits=9, size=10 * MIB)
    image.bitmap_directory([{"bits": 9}])
    one("table-too-small", OPEN, word, image, "a bitmap's table covers the virtual size (10 MiB / 512 bytes need 2,560 bytes)")
    image = Synth()
    image.set("autoclear", 1)
    one("bit-without-extension", OK, "", image, "autoclear bit 0 without bitmaps: the specification calls it an error, QEMU opens it")
    for label, value in (("reserved", 0x5000 | 1 << 1), ("high", 1 << 60), ("unaligned", 0x5200), ("outside", 1 << 40),
                         ("ones-and-offset", 0x5000 | 1)):
        image = Synth()
        image.bitmap_directory([{}])
        image.u64(struct.unpack_from(">Q", image.bytes, image.directory)[0], value)
        one("entry-" + label, CHECK, word + r"(entry|table|offset|aligned|reserved)", image, "bitmap table entries: seen by check")


def data_files(case):
    def one(name, how, pattern, limit, image):
        case("hostile/limit-data-file-" + name, how, pattern, limit, image)

    def external(name=b"tiny.data", autoclear=0, **keywords):
        extensions = [(DATA_FILE, name)] if name is not None else []
        image = Synth(data=0, extensions=extensions + keywords.pop("more", []), **keywords)
        image.set("incompatible", 4)
        image.set("autoclear", autoclear)
        image.l2_entry(0, 0 | COPIED)
        image.l2_entry(2, 2 * 4096 | COPIED)
        return image

    one("sound", OK, "", "data file: offsets equal guest offsets", external())
    one("raw", OK, "", "the raw bit needs a data file", external(autoclear=2))
    one("nameless", MAP, r"data.file", "bit 2 needs a name", external(None))
    one("empty-name", MAP, r"data.file", "bit 2 needs a name", external(b""))
    image = Synth()
    image.set("autoclear", 2)
    one("raw-without-file", OPEN, r"data.file", "the raw bit needs a data file", image)
    one("raw-with-backing", OPEN, r"data.file.*backing|backing.*data.file|raw.*backing", "the raw bit forbids a backing file",
        external(autoclear=2, backing="tiny.raw", more=[backing_format("raw")]))
    image = Synth(extensions=[(DATA_FILE, b"tiny.data")])
    one("name-without-bit", OK, "", "a data file name without its bit is ignored", image)
    image = external()
    image.l2_entry(2, 4096 | COPIED)
    one("offset-not-guest", MAP, r"(data.file|offset|guest).*", "data file: offsets equal guest offsets", image)
    image = external()
    image.l2_entry(2, 1 << 62)
    one("compressed", MAP, r"compressed.*", "no compressed clusters with a data file", image)
    image = external()
    image.snapshots([{"l1": image.alloc(1), "l1_size": 1}])
    one("snapshot", CHECK, r"snapshot.*data.file|data.file.*snapshot", "no internal snapshots with a data file", image)


def make(case):
    for recipe in (header, features, backing, extensions, tables, snapshots, bitmaps, data_files):
        recipe(case)
