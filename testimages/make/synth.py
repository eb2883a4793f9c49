"""Small qcow2 images built byte by byte, without qemu: the stuff that the damaged images are made of.

    image = Synth(bits=12, size=64 << 10)       # sound until a recipe breaks it
    image.set("l1_size", 0)                     # a header field
    image.u64(image.l2 + 8, 1 << 62)            # anything else
    image.save(path)

Layout: header, refcount table, refcount block, L1, one L2 table, then whatever is allocated.
"""

import struct
import zlib

from make.tools import BACKING_FORMAT, BITMAPS, FIELDS, SNAPSHOT_DATE, noise

COPIED, COMPRESSED, ZERO = 1 << 63, 1 << 62, 1

def deflate(data, window=-12):
    squeeze = zlib.compressobj(9, zlib.DEFLATED, window)
    return squeeze.compress(data) + squeeze.flush()


def feature_names(*features):
    return b"".join(struct.pack("BB46s", kind, bit, name.encode()) for kind, bit, name in features)


def backing_format(name):
    return BACKING_FORMAT, name.encode()


class Synth:
    def __init__(self, bits=12, size=None, version=3, order=4, header_length=112, extended=False,
                 backing=None, extensions=(), l1_entries=None, data=2, name="synth"):
        self.bits, self.cluster, self.extended = bits, 1 << bits, extended
        self.size = 16 * self.cluster if size is None else size
        self.version, self.order = version, order
        self.bytes = bytearray()
        self.counts = []
        self.squeezed_hosts = []
        self.entry = 16 if extended else 8
        per_l2 = self.cluster // self.entry
        clusters = -(-self.size // self.cluster)
        entries = -(-clusters // per_l2) if l1_entries is None else l1_entries

        self.alloc(1)
        self.table = self.alloc(1)
        self.block = self.alloc(1)
        self.l1 = self.alloc(max(1, -(-entries * 8 // self.cluster)))
        self.l2 = 0
        if not entries:
            self.counts[-1] = 0             # an empty L1 table occupies nothing
        if entries:
            self.l2 = self.alloc(1)
            self.u64(self.l1, self.l2 | COPIED)
        self.u64(self.table, self.block)

        for field, value in (("magic", 0x514649FB), ("version", version), ("cluster_bits", bits),
                             ("size", self.size), ("l1_size", entries), ("l1_table_offset", self.l1),
                             ("refcount_table_offset", self.table), ("refcount_table_clusters", 1)):
            self.set(field, value)
        if version >= 3:
            self.set("refcount_order", order)
            self.set("header_length", header_length)
            if extended:
                self.set("incompatible", 1 << 4)
        self.header_length = header_length if version >= 3 else 72
        self.backing = backing
        self.extensions = list(extensions)
        self.layout_header()
        self.data = [self.guest(index, name) for index in range(min(data, clusters))] if entries else []

    # --- bytes ---

    def put(self, offset, data):
        if len(self.bytes) < offset + len(data):
            self.bytes.extend(b"\0" * (offset + len(data) - len(self.bytes)))
        self.bytes[offset:offset + len(data)] = data

    def u64(self, offset, value):
        self.put(offset, struct.pack(">Q", value))

    def u32(self, offset, value):
        self.put(offset, struct.pack(">I", value))

    def get64(self, offset):
        return struct.unpack_from(">Q", self.bytes, offset)[0]

    def set(self, field, value):
        offset, form = FIELDS[field]
        self.put(offset, struct.pack(form, value))

    def alloc(self, count):
        offset = len(self.counts) * self.cluster
        self.counts += [1] * count
        self.put(offset, b"\0" * (count * self.cluster))
        return offset

    # --- header ---

    def layout_header(self):
        """Extensions and backing name. May be called again after a change of either."""
        at = self.header_length
        for kind, data in self.extensions:
            self.put(at, struct.pack(">II", kind, len(data)) + data + b"\0" * (-len(data) % 8))
            at += 8 + (len(data) + 7) // 8 * 8
        if at + 8 <= self.cluster:
            self.put(at, b"\0" * 8)
            at += 8
        self.extensions_end = at
        if self.backing is not None:
            name = self.backing if isinstance(self.backing, bytes) else self.backing.encode()
            self.put(at, name)
            self.set("backing_file_offset", at)
            self.set("backing_file_size", len(name))

    def extension_at(self, kind):
        """File offset of an extension's data."""
        at = self.header_length
        for k, data in self.extensions:
            if k == kind:
                return at + 8
            at += 8 + (len(data) + 7) // 8 * 8
        raise KeyError(kind)

    # --- guest clusters ---

    def l2_entry(self, index, value, bitmap=None):
        self.u64(self.l2 + index * self.entry, value)
        if self.extended:
            self.u64(self.l2 + index * self.entry + 8, 0 if bitmap is None else bitmap)

    def guest(self, index, name="synth"):
        """A data cluster; its host offset."""
        offset = self.alloc(1)
        self.put(offset, noise(name, index * self.cluster, self.cluster))
        self.l2_entry(index, offset | COPIED, 0xFFFFFFFF)
        return offset

    def squeezed(self, index, stream, sectors=None, shift=0, host=None):
        """A compressed cluster holding the given stream, shift bytes into a fresh host cluster."""
        if host is None:
            host = self.alloc(-(-(shift + max(len(stream), 1)) // self.cluster)) + shift
            self.put(host, stream)
        if sectors is None:
            sectors = (host % 512 + max(len(stream), 1) - 1) // 512
        self.squeezed_hosts.append((host, sectors))
        offset_bits = 62 - (self.bits - 8)
        self.l2_entry(index, COMPRESSED | sectors << offset_bits | host)
        return host

    # --- snapshots and bitmaps ---

    def snapshots(self, entries):
        """entries: dicts with any of id, name, l1, l1_size, extra, extra_size, id_size, name_size."""
        blob = b""
        for number, e in enumerate(entries, 1):
            extra = e.get("extra", struct.pack(">QQQ", 0, self.size, 2 ** 64 - 1))
            ident, name = e.get("id", b"%d" % number), e.get("name", b"snap %d" % number)
            blob += struct.pack(">QIHHIIQII", e.get("l1", 0), e.get("l1_size", 0), e.get("id_size", len(ident)),
                                e.get("name_size", len(name)), SNAPSHOT_DATE, 0, 0, 0, e.get("extra_size", len(extra)))
            blob += extra + ident + name
            blob += b"\0" * (-len(blob) % 8)
        self.snapshot_table = self.alloc(-(-len(blob) // self.cluster))
        self.put(self.snapshot_table, blob)
        self.set("snapshots_offset", self.snapshot_table)
        self.set("nb_snapshots", len(entries))

    def snapshot_l1(self):
        """A sound L1 table for a snapshot of the present state; its offset."""
        l1 = self.alloc(1)
        self.u64(l1, self.l2)
        for offset in [self.l2] + self.data:
            self.counts[offset // self.cluster] += 1
        for host, sectors in self.squeezed_hosts:
            for cluster in range(host // self.cluster, (host // 512 + sectors) * 512 // self.cluster + 1):
                self.counts[cluster] += 1
        self.u64(self.l1, self.l2)
        for index, offset in enumerate(self.data):
            self.l2_entry(index, offset, 0xFFFFFFFF)
        return l1

    def bitmap_directory(self, entries, count=None, size=None):
        """entries: dicts with any of table, table_size, flags, type, bits, name, name_size, extra, extra_size."""
        blob = b""
        for number, e in enumerate(entries):
            name, extra = e.get("name", b"bitmap%d" % number), e.get("extra", b"")
            table = e["table"] if "table" in e else self.alloc(1)
            blob += struct.pack(">QIIBBHI", table, e.get("table_size", 1), e.get("flags", 2), e.get("type", 1),
                                e.get("bits", 16), e.get("name_size", len(name)), e.get("extra_size", len(extra)))
            blob += extra + name
            blob += b"\0" * (-len(blob) % 8)
        self.directory = self.alloc(max(1, -(-len(blob) // self.cluster)))
        self.put(self.directory, blob)
        self.extensions.append((BITMAPS, struct.pack(">IIQQ", len(entries) if count is None else count, 0,
                                                     len(blob) if size is None else size, self.directory)))
        self.set("autoclear", 1)
        self.layout_header()

    # --- the end ---

    def write_refcounts(self):
        width = 1 << self.order
        for index, count in enumerate(self.counts):
            at = self.block + index * width // 8
            if width < 8:
                self.bytes[at] |= count << index * width % 8
            else:
                self.put(at, count.to_bytes(width // 8, "big"))

    def done(self):
        """Writes the refcounts. Damage to them comes after this call; save() then leaves them alone."""
        self.write_refcounts()
        self.counts_written = True
        return self

    counts_written = False

    def save(self, path):
        if not self.counts_written:
            self.write_refcounts()
        with open(path, "wb") as f:
            f.write(self.bytes)
