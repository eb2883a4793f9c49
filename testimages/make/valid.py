"""valid/: images that every reader must open, made by qemu-img and qemu-io."""

import os
import struct

from make.tools import (BACKING_FORMAT, BITMAPS, FEATURE_NAMES, GIB, KIB, MIB, TIB, Header, noise,
                        patch, peek, poke, snapshot_entries, text)

SECRET = "secret,id=key,data=imgtool"


def mixture(cluster, size, v2=False):
    """A bit of everything: whole clusters, parts of them, zeroes of both kinds, holes, the last cluster."""
    if cluster == 2 * MIB:
        return [(text, "one", cluster, cluster, "-c"), "write -z -u %d %d" % (3 * cluster, cluster)]
    if cluster >= 128 * KIB:      # each cluster that holds data costs its whole size: few of them
        return [(noise, "one", cluster // 2, "64k"), "write -z -u %d %d" % (3 * cluster, cluster)]
    few = min(cluster, 64 * KIB)
    last = (size - 1) // cluster * cluster
    commands = [
        (noise, "one", 0, few),
        (noise, "two", cluster + cluster // 2, few),                     # the middle of 1 to the middle of 2
        (noise, "three", 4 * cluster + 512 % cluster, min(cluster // 2, few)),
        (text, "four", 7 * cluster, few),
        (noise, "end", last, min(size - last, few) // 512 * 512 or 512),
    ]
    if not v2:
        commands += ["write -z %d %d" % (7 * cluster, cluster),         # zero, its host cluster kept
                     "write -z -u %d %d" % (9 * cluster, cluster),      # zero, no host cluster
                     "discard %d %d" % (cluster, cluster)]
    return commands


def cluster_sizes(w):
    for bits in range(9, 22):
        cluster = 1 << bits
        size = (80 if bits < 16 else 20) * cluster
        name = "cluster-%d.qcow2" % cluster
        w.create(name, size, "cluster_size=%d" % cluster)
        w.io(name, *mixture(cluster, size))
    for cluster in (512, 4096, 16384):
        name = "v2-cluster-%d.qcow2" % cluster
        w.create(name, 20 * cluster, "compat=0.10,cluster_size=%d" % cluster)
        w.io(name, *mixture(cluster, 20 * cluster, v2=True))


def refcount_widths(w):
    for bits in (1, 2, 4, 8, 16, 32, 64):
        name = "refcount-%d.qcow2" % bits
        w.create(name, "2M", "cluster_size=4096,refcount_bits=%d" % bits)
        w.io(name, *mixture(4096, 2 * MIB))
        if bits > 1:
            w.snapshot(name, "first")
            w.io(name, (noise, "after", 4096, 8192))
    # 64 bits and 512 bytes: 64 counts a block, 64 blocks a table, so 2 MiB of file make the table move
    w.create("refcount-table-grown.qcow2", "2200k", "cluster_size=512,refcount_bits=64")
    w.io("refcount-table-grown.qcow2", (text, "grown", 0, "2100k"))


def odd_sizes(w):
    for label, size in (("0", 0), ("512", 512), ("1000", 1000), ("one-cluster", 4096), ("one-byte-short", 4095),
                        ("sector-short", 4096 - 512), ("sector-long", 4096 + 512), ("odd", 3 * MIB + 1234)):
        name = "size-%s.qcow2" % label
        w.create(name, size, "cluster_size=4k")
        if size:
            rounded = -(-size // 512) * 512
            w.io(name, (noise, "size", 0, min(rounded, 2048)), (noise, "end", rounded - 512, 512))
        poke(w.path(name), "size", size)        # qemu-img rounds up to a sector; the format need not
    w.create("v2-size-odd.qcow2", 100 * KIB + 512, "compat=0.10,cluster_size=4k")
    w.io("v2-size-odd.qcow2", (noise, "v2", 96 * KIB, 4 * KIB + 512))


def zero_clusters(w):
    w.create("zero-clusters.qcow2", "1M", "cluster_size=4k")
    w.io("zero-clusters.qcow2", (noise, "z", 0, "350k"), "write -z 8k 64k", "write -z -u 100k 64k",
         "write -z 600k 100k", "discard 300k 20k", "write -z 1k 512", (noise, "again", "24k", "4k"))
    w.create("zero-all.qcow2", "8M", "cluster_size=64k")
    w.io("zero-all.qcow2", "write -z -u 0 8M")
    w.create("v2-zeroes.qcow2", "256k", "compat=0.10,cluster_size=4k")
    w.io("v2-zeroes.qcow2", (noise, "z", 0, "64k"), "write -z 8k 16k", "discard 32k 8k")


def preallocation(w):
    for mode in ("metadata", "falloc", "full"):
        for prefix, compat in (("", "1.1"), ("v2-", "0.10")):
            name = "%sprealloc-%s.qcow2" % (prefix, mode)
            w.create(name, "64k", "compat=%s,cluster_size=4k,preallocation=%s" % (compat, mode))
            w.io(name, (noise, mode, "10k", "20k"))


def extended_l2(w):
    w.create("extl2-base.raw", "768k", fmt="raw")
    w.io("extl2-base.raw", (noise, "base", 0, "768k"), fmt="raw")
    for cluster in (16 * KIB, 32 * KIB):
        for backing in (None, "extl2-base.raw"):
            sub, name = cluster // 32, "extl2-%dk%s.qcow2" % (cluster // KIB, "-backed" if backing else "")
            w.create(name, "1M", "extended_l2=on,cluster_size=%d" % cluster, backing, "raw" if backing else None)
            w.io(name,
                 (noise, "a", 0, cluster),                                # whole
                 (noise, "b", cluster + 3 * sub, 5 * sub),                # some subclusters
                 "write -z %d %d" % (cluster + 12 * sub, 4 * sub),        # zero and unallocated in one cluster
                 (noise, "c", 2 * cluster + 31 * sub, 2 * sub),           # across a cluster boundary
                 "write -z %d %d" % (4 * cluster, cluster),
                 "write -z %d %d" % (5 * cluster + 8 * sub, 8 * sub),     # zero only, no host cluster
                 (noise, "d", 6 * cluster, cluster),
                 "write -z %d %d" % (6 * cluster + 2 * sub, sub),
                 "discard %d %d" % (6 * cluster + 6 * sub, 2 * sub),
                 (noise, "e", 8 * cluster + sub // 2, max(sub // 4, 512)))
            for index in range(0, 32, 2):                                 # every other subcluster
                w.io(name, (noise, "f", 10 * cluster + index * sub, sub))
            w.io(name, *["write -z %d %d" % (10 * cluster + i * sub, sub) for i in range(1, 32, 4)])
    w.create("extl2-prealloc.qcow2", "256k", "extended_l2=on,cluster_size=16k,preallocation=metadata")
    w.io("extl2-prealloc.qcow2", (noise, "p", "17k", "512"))
    w.create("extl2-snapshot.qcow2", "512k", "extended_l2=on,cluster_size=16k")
    w.io("extl2-snapshot.qcow2", (noise, "s", "1k", "3k"), (noise, "s", "40k", "16k"))
    w.snapshot("extl2-snapshot.qcow2", "sub")
    w.io("extl2-snapshot.qcow2", (noise, "t", "2k", "4k"), "write -z 40k 2k")


def compressed(w):
    source = w.raw("source", MIB, (text, "compress", 0, 300 * KIB), (noise, "compress", 300 * KIB, 40 * KIB),
                   (text, "tail", 700 * KIB, 324 * KIB), keep=False)
    for kind in ("zlib", "zstd"):
        for cluster in (512, 4096, 65536):
            if kind == "zstd" and cluster == 512:
                continue
            w.convert(source, "%s-%d.qcow2" % (kind, cluster), "-c",
                      opts="cluster_size=%d,compression_type=%s" % (cluster, kind))
        name = "%s-mixed.qcow2" % kind
        w.create(name, "1M", "cluster_size=16k,compression_type=%s" % kind)
        w.io(name, *[(text if i % 3 else noise, "mix", i * 16 * KIB, 16 * KIB, *["-c"] * (i % 2))
                     for i in range(20)],
             "write -z -u 160k 16k")
        name = "%s-overwritten.qcow2" % kind
        w.convert(source, name, "-c", opts="cluster_size=16k,compression_type=%s" % kind)
        w.io(name, (noise, "over", "70k", "4k"), (noise, "over", "190k", "10k"), "write -z 256k 64k",
             "discard 0 64k", (text, "over", "512k", "16k", "-c"))
        w.convert(source, "extl2-%s.qcow2" % kind, "-c",
                  opts="extended_l2=on,cluster_size=16k,compression_type=%s" % kind)
        w.io("extl2-%s.qcow2" % kind, (noise, "part", "20k", "1k"), "write -z 48k 512")
    noisy = w.raw("noisy", 256 * KIB, (noise, "noisy", 0, 256 * KIB), keep=False)
    w.convert(noisy, "zlib-incompressible.qcow2", "-c", opts="cluster_size=4k")
    w.convert(source, "v2-zlib.qcow2", "-c", opts="compat=0.10,cluster_size=4k")
    short = w.raw("short", 150 * KIB + 512, (text, "short", 0, 150 * KIB + 512), keep=False)
    w.convert(short, "zlib-short-tail.qcow2", "-c")
    w.convert(short, "zstd-short-tail.qcow2", "-c", opts="compression_type=zstd")


def data_files(w):
    for name, opts in (("data-file.qcow2", ""), ("data-file-raw.qcow2", ",data_file_raw=on")):
        data = w.start(name.replace(".qcow2", ".data"))
        w.create(name, "160k", "cluster_size=16k,data_file=%s%s" % (data, opts))
        w.io(name, (noise, "data", 0, "20k"), (noise, "data", "100k", "33k"), "write -z 64k 16k", "write -z -u 112k 16k")
    data = w.start("data-file-extl2.data")
    w.create("data-file-extl2.qcow2", "256k", "cluster_size=16k,extended_l2=on,data_file=%s" % data)
    w.io("data-file-extl2.qcow2", (noise, "sub", "18k", "1k"), "write -z 20k 1k", (noise, "sub", "64k", "16k"))
    data = w.start("sub/guest.data")
    w.create("data-file-subfolder.qcow2", "128k", "cluster_size=64k,data_file=%s" % data)
    w.io("data-file-subfolder.qcow2", (noise, "far", "70k", "8k"))
    data = w.start("data-file-backed.data")
    w.create("data-file-backed.qcow2", "256k", "cluster_size=16k,data_file=%s" % data, "extl2-base.raw", "raw")
    w.io("data-file-backed.qcow2", (noise, "over", "17k", "40k"), "write -z 128k 64k")


def snapshots(w):
    for prefix, compat in (("", "1.1"), ("v2-", "0.10")):
        name = prefix + "snapshots.qcow2"
        w.create(name, "1M", "compat=%s,cluster_size=4k" % compat)
        w.snapshot(name, "empty")
        w.io(name, (noise, "s1", 0, "60k"))
        w.snapshot(name, "one")
        w.io(name, (noise, "s2", "30k", "50k"), "discard 0 8k")
        w.snapshot(name, "two")
        w.io(name, (noise, "s3", "600k", "9k"))
    w.create("snapshots-sizes.qcow2", "512k", "cluster_size=4k")
    for tag, size in (("small", "512k"), ("large", "5M"), ("middle", "1M")):
        w.img("resize", "-q", "-f", "qcow2", "--shrink", "snapshots-sizes.qcow2", size)
        w.io("snapshots-sizes.qcow2", (noise, tag, "500k", "12k"))
        if tag == "large":
            w.io("snapshots-sizes.qcow2", (noise, tag, "4090k", "12k"))
        w.snapshot("snapshots-sizes.qcow2", tag)
    source = w.raw("shared", 256 * KIB, (text, "shared", 0, 256 * KIB), keep=False)
    w.convert(source, "snapshots-compressed.qcow2", "-c", opts="cluster_size=4k")
    w.snapshot("snapshots-compressed.qcow2", "shared")
    w.io("snapshots-compressed.qcow2", (noise, "new", "9k", "20k"))
    w.snapshot("snapshots-compressed.qcow2", "both")
    w.create("snapshots-backed.qcow2", "1M", "cluster_size=16k", "extl2-base.raw", "raw")
    w.io("snapshots-backed.qcow2", (noise, "b", "20k", "20k"), "write -z 128k 64k")
    w.snapshot("snapshots-backed.qcow2", "over-base")
    w.create("snapshots-many.qcow2", "64k", "cluster_size=512")
    for number in range(40):
        w.io("snapshots-many.qcow2", (noise, "many", number * 1024, 512))
        w.snapshot("snapshots-many.qcow2", "number %d, ünïcode" % number)
    w.create("snapshots-vmstate.qcow2", "256k", "cluster_size=4k")
    w.io("snapshots-vmstate.qcow2", (noise, "disk", 0, "16k"), (noise, "state", 0, "20k", "-b"))
    w.snapshot("snapshots-vmstate.qcow2", "running")
    entry = snapshot_entries(w.path("snapshots-vmstate.qcow2"))[0]
    patch(w.path("snapshots-vmstate.qcow2"), entry + 24, struct.pack(">QI", 5 * 10 ** 9, 20 * KIB))
    patch(w.path("snapshots-vmstate.qcow2"), entry + 40, struct.pack(">Q", 20 * KIB))


def bitmaps(w):
    w.create("bitmaps.qcow2", "4M", "cluster_size=4k")
    for tag, extra in (("enabled", ()), ("fine", ("-g", "512")), ("coarse", ("-g", "2M")), ("disabled", ("--disable",))):
        w.img("bitmap", "--add", *extra, "bitmaps.qcow2", tag)
    w.io("bitmaps.qcow2", (noise, "dirty", "100k", "40k"), (noise, "dirty", "3M", "2k"))
    w.create("bitmaps-in-use.qcow2", "1M", "cluster_size=16k")
    w.img("bitmap", "--add", "bitmaps-in-use.qcow2", "stale")
    w.img("bitmap", "--add", "--disable", "bitmaps-in-use.qcow2", "good")
    path = w.path("bitmaps-in-use.qcow2")
    directory, = struct.unpack(">Q", Header(path).extension(BITMAPS)[16:24])
    flags, = peek(path, directory + 12, ">I")
    patch(path, directory + 12, struct.pack(">I", flags | 1))
    w.create("bitmaps-backed.qcow2", "768k", "cluster_size=16k", "extl2-base.raw", "raw")
    w.img("bitmap", "--add", "-g", "64k", "bitmaps-backed.qcow2", "incremental")
    w.io("bitmaps-backed.qcow2", (noise, "inc", "64k", "5k"))
    w.snapshot("bitmaps-backed.qcow2", "snap")
    w.create("bitmaps-autoclear-off.qcow2", "1M", "cluster_size=4k")
    w.img("bitmap", "--add", "bitmaps-autoclear-off.qcow2", "doubtful")
    poke(w.path("bitmaps-autoclear-off.qcow2"), "autoclear", 0)
    w.create("bitmaps-long-name.qcow2", "1M", "cluster_size=4k")
    w.img("bitmap", "--add", "bitmaps-long-name.qcow2", "n" * 1023)


def chains(w):
    w.raw("chain/base.raw", 512 * KIB, (noise, "base", 0, 256 * KIB), (text, "base", 300 * KIB, 200 * KIB))
    previous, fmt = "base.raw", "raw"
    for name, size, writes in (
            ("updated", "16M", [(noise, "updated", "64k", "70k"), (noise, "updated", "5M", "64k")]),
            ("kernel", "16M", [(noise, "kernel", "100k", "64k"), (noise, "kernel", "9M", "10k"), "write -z 256k 64k"]),
            ("test", "16M", [(noise, "test", "4k", "4k"), (noise, "test", "5130k", "100k"), "write -z -u 9M 64k"])):
        w.create("chain/%s.qcow2" % name, size, "", previous, fmt)
        w.io("chain/%s.qcow2" % name, *writes)
        previous, fmt = name + ".qcow2", "qcow2"

    # five layers of all lengths and cluster sizes; 2 is compressed, 3 is shorter, 4 longer than what is below
    w.raw("depth5/0.raw", 300 * KIB, (noise, "d0", 0, 300 * KIB))
    w.create("depth5/1.qcow2", "600k", "cluster_size=4k", "0.raw", "raw")
    w.io("depth5/1.qcow2", (noise, "d1", "10k", "30k"), (noise, "d1", "500k", "100k"), "write -z 100k 8k")
    w.create("depth5/2.qcow2", "600k", "cluster_size=64k,compression_type=zstd", "1.qcow2", "qcow2")
    w.io("depth5/2.qcow2", (text, "d2", "64k", "64k", "-c"), (text, "d2", "512k", "64k", "-c"))
    w.create("depth5/3.qcow2", "250k", "cluster_size=512", "2.qcow2", "qcow2")
    w.io("depth5/3.qcow2", (noise, "d3", "70k", "3k"), "write -z 200k 10k")
    w.create("depth5/4.qcow2", "1M", "cluster_size=16k,extended_l2=on", "3.qcow2", "qcow2")
    w.io("depth5/4.qcow2", (noise, "d4", "71k", "1k"), (noise, "d4", "800k", "20k"), "write -z 201k 512")

    w.raw("base.raw", 128 * KIB, (noise, "plain base", 0, 128 * KIB))
    w.create("base.qcow2", "256k", "cluster_size=4k")
    w.io("base.qcow2", (noise, "base", "4k", "100k"), "write -z 64k 16k")
    w.create("sub/base.qcow2", "256k", "cluster_size=4k", "../base.raw", "raw")
    w.io("sub/base.qcow2", (noise, "sub", "100k", "100k"))
    overlay = [(noise, "overlay", "16k", "6k"), "write -z 96k 8k"]
    for name, size, base, fmt in (
            ("backed-raw", "128k", "base.raw", "raw"),
            ("backed-raw-shorter", "50k", "base.raw", "raw"),
            ("backed-raw-longer", "1M", "base.raw", "raw"),
            ("backed-qcow2", "256k", "base.qcow2", "qcow2"),
            ("backed-qcow2-shorter", "100k", "base.qcow2", "qcow2"),
            ("backed-qcow2-longer", "2M", "base.qcow2", "qcow2"),
            ("backed-subfolder", "256k", "sub/base.qcow2", "qcow2"),
            ("backed-zlib", "1M", "zlib-4096.qcow2", "qcow2"),
            ("backed-extl2", "1M", "extl2-16k.qcow2", "qcow2"),
            ("backed-data-file", "512k", "data-file.qcow2", "qcow2")):
        w.create(name + ".qcow2", size, "cluster_size=4k", base, fmt)
        w.io(name + ".qcow2", *overlay[:1 if "shorter" in name else 2])
    w.create("v2-backed.qcow2", "256k", "compat=0.10,cluster_size=4k", "base.qcow2", "qcow2")
    w.io("v2-backed.qcow2", *overlay)
    # relative names in these two count from the current folder, not from the image: use them from within valid/
    w.create("backed-json.qcow2", "256k", "cluster_size=4k",
             'json:{"driver":"qcow2","file":{"driver":"file","filename":"base.qcow2"}}', "qcow2")
    w.io("backed-json.qcow2", *overlay)
    w.create("backed-file-prefix.qcow2", "128k", "cluster_size=4k", "file:base.raw", "raw")
    w.io("backed-file-prefix.qcow2", *overlay)
    for version, compat in ((2, "0.10"), (3, "1.1")):
        name = "backed-no-format-v%d.qcow2" % version
        w.create(name, "256k", "compat=%s,cluster_size=4k" % compat, "base.qcow2", "qcow2")
        w.io(name, *overlay)
        header = Header(w.path(name))
        header.drop(BACKING_FORMAT)
        header.save()
    w.create("backed-name-1023.qcow2", "128k", "cluster_size=4k", "./" * 507 + "/base.raw", "raw")
    w.io("backed-name-1023.qcow2", *overlay)


def headers(w):
    """Headers that qemu-img does not write itself, but must read: patched."""
    def fresh(name, opts=""):
        w.create(name, "256k", "cluster_size=4k" + opts)
        w.io(name, (noise, name, "8k", "20k"))
        return Header(w.path(name))

    for length in (104, 112, 120, 4096 - 512):
        header = fresh("header-%d.qcow2" % length)
        header["header_length"] = length
        header.save()
    header = fresh("header-no-feature-names.qcow2")
    header.drop(FEATURE_NAMES)
    header.save()
    header = fresh("header-unknown-extension.qcow2")
    header.extensions.insert(0, (0x12345678, b"any seventeen...."))
    header.extensions.append((0xDEADBEEF, b""))
    header.save()
    for kind, bits in (("compatible", 1 << 63 | 1 << 5), ("autoclear", 1 << 40 | 1 << 2)):
        header = fresh("header-unknown-%s.qcow2" % kind)
        header[kind] = bits
        header.save()
    header = fresh("corrupt-bit.qcow2")
    header["incompatible"] = 2
    header.save()
    header = fresh("dirty-bit.qcow2", ",lazy_refcounts=on")
    header["incompatible"] = 1
    header.save()
    fresh("lazy-refcounts.qcow2", ",lazy_refcounts=on")
    # killed in the middle: the dirty bit is set, the refcounts on disk are behind
    w.create("dirty-killed.qcow2", "256k", "cluster_size=4k,lazy_refcounts=on")
    w.io("dirty-killed.qcow2", (noise, "killed", "8k", "20k"), "flush", "abort", may_fail=True)

    header = fresh("refcount-table-moved.qcow2")
    path, cluster = w.path("refcount-table-moved.qcow2"), header.cluster_size
    end = -(-os.path.getsize(path) // cluster) * cluster
    patch(path, end, header_bytes(path, header["refcount_table_offset"], cluster))
    poke(path, "refcount_table_offset", end)
    w.run("QEMU_IMG", "check", "-q", "-r", "all", "refcount-table-moved.qcow2", may_fail=True)

    w.create("l2-reversed.qcow2", "256k", "cluster_size=512")
    for offset in range(224 * KIB, -1, -32 * KIB):      # one L2 table maps 32 KiB
        w.io("l2-reversed.qcow2", (noise, "reversed", offset + 1024, 1536))


def header_bytes(path, offset, length):
    with open(path, "rb") as f:
        f.seek(offset)
        return f.read(length)


def huge(w):
    w.create("huge-64t.qcow2", 64 * TIB, "cluster_size=64k")
    w.create("huge-1t.qcow2", TIB, "cluster_size=64k")
    w.io("huge-1t.qcow2", (noise, "huge", 0, "4k"), (noise, "huge", 300 * GIB + 12 * KIB, "70k"),
         (noise, "huge", TIB - 64 * KIB, "64k"), "write -z %d 10M" % (700 * GIB))
    w.create("huge-1t-backed.qcow2", TIB, "cluster_size=64k", "base.raw", "raw")
    w.io("huge-1t-backed.qcow2", (noise, "huge", 512 * GIB, "64k"), "write -z 64k 64k")


def encrypted(w):
    """The password is "imgtool". The LUKS ones hold random salts, so an existing file is left alone."""
    for name, opts in (
            ("aes.qcow2", "encrypt.format=aes"),
            ("v2-aes.qcow2", "compat=0.10,encrypt.format=aes"),
            ("luks.qcow2", "encrypt.format=luks,encrypt.iter-time=10"),
            ("luks-aes128-cbc.qcow2", "encrypt.format=luks,encrypt.iter-time=10,encrypt.cipher-alg=aes-128,"
             "encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256")):
        if "luks" in name and os.path.exists(w.path(name)):
            w.made.append(name)
            continue
        w.create(name, "256k", "cluster_size=4k,encrypt.key-secret=key," + opts, extra=("--object", SECRET))
        w.io(name, (noise, "secret", "4k", "20k"), (text, "secret", "100k", "3k"), "write -z 12k 4k",
             image_opts="driver=qcow2,encrypt.key-secret=key,file.filename=" + name, objects=(SECRET,))


def partition_table(size):
    """An MBR with one Linux partition from sector 64 to the end."""
    entry = struct.pack("<B3sB3sII", 0x80, b"\1\1\0", 0x83, b"\xfe\xff\xff", 64, size // 512 - 64)
    return entry.rjust(446 + 16, b"\0").ljust(510, b"\0") + b"\x55\xaa"


def raw_images(w):
    w.raw("empty.raw", 0)
    w.raw("odd-1000.raw", 1000, (noise, "odd", 0, 1000))
    w.raw("holes.raw", 300 * KIB, (noise, "holes", "64k", "64k"), (noise, "holes", 200 * KIB + 100, 5000))
    w.raw("zeroes.raw", "256k")
    w.raw("mbr.raw", "256k", (noise, "mbr", "32k", "64k"))
    patch(w.path("mbr.raw"), 0, partition_table(256 * KIB))
    w.raw("text.raw", 12345, (text, "text", 0, 12345))


def newer(w):
    """What newer versions write differently, or only they can do."""
    w.new = True
    source = w.raw("newer", MIB, (text, "newer", 0, 300 * KIB), (noise, "newer", 500 * KIB, 100 * KIB), keep=False)
    w.create("new-plain.qcow2", "2M", "cluster_size=4k")
    w.io("new-plain.qcow2", *mixture(4096, 2 * MIB))
    w.create("new-extl2.qcow2", "1M", "cluster_size=16k,extended_l2=on", "extl2-base.raw", "raw")
    w.io("new-extl2.qcow2", *mixture(16 * KIB, MIB))
    for kind in ("zlib", "zstd"):
        w.convert(source, "new-%s.qcow2" % kind, "-c", opts="cluster_size=16k,compression_type=%s" % kind)
        w.io("new-%s.qcow2" % kind, (noise, "part", "20k", "4k"), (text, "again", "320k", "16k", "-c"))
    data = w.start("new-data-file-raw.data")
    w.create("new-data-file-raw.qcow2", "128k", "cluster_size=16k,data_file_raw=on,data_file=" + data)
    w.io("new-data-file-raw.qcow2", (noise, "data", "10k", "30k"), "write -z 64k 32k", "discard 16k 16k")
    # discarded clusters keep their place in the file
    for name, opts in (("new-no-unref.qcow2", ""), ("new-no-unref-extl2.qcow2", ",extended_l2=on")):
        w.create(name, "512k", "cluster_size=16k" + opts)
        w.io(name, (noise, "kept", 0, "128k"), "discard 16k 32k", "discard 80k 4k", "write -z -u 96k 16k",
             image_opts="driver=qcow2,discard-no-unref=on,discard=unmap,file.filename=" + name)
    name = "new-rebased-compressed.qcow2"       # the order of its compressed clusters varies: an existing one stays
    if os.path.exists(w.path(name)):
        w.made.append(name)
    else:
        w.create(name, "256k", "cluster_size=4k,compression_type=zstd", "base.qcow2", "qcow2")
        w.io(name, (text, "top", "16k", "8k", "-c"))
        w.img("rebase", "-c", "-f", "qcow2", "-F", "raw", "-b", "base.raw", name)
    w.create("new-snapshots.qcow2", "1M", "cluster_size=4k")
    w.io("new-snapshots.qcow2", (noise, "n1", 0, "60k"))
    w.snapshot("new-snapshots.qcow2", "one")
    w.img("bitmap", "--add", "new-snapshots.qcow2", "since one")
    w.io("new-snapshots.qcow2", (noise, "n2", "30k", "50k"), "discard 0 8k")
    w.img("resize", "-q", "-f", "qcow2", "new-snapshots.qcow2", "1500k")
    w.snapshot("new-snapshots.qcow2", "two")
    w.convert("bitmaps.qcow2", "new-bitmaps.qcow2", "--bitmaps", opts="cluster_size=16k", source_format="qcow2")
    w.new = False


RECIPES = [cluster_sizes, refcount_widths, odd_sizes, zero_clusters, preallocation, extended_l2, compressed,
           data_files, snapshots, bitmaps, chains, headers, huge, encrypted, raw_images]


def make(w):
    for recipe in RECIPES:
        recipe(w)
    if w.has_new:
        newer(w)
    else:
        print("QEMU_IMG_NEW and QEMU_IO_NEW are not set: valid/new-* are left as they are")
