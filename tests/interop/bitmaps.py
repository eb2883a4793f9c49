"""Reading the bitmaps of a qcow2 file straight from its bytes, as the specification lays them out."""
import struct

EXT_END, EXT_BITMAPS = 0, 0x23852875
AUTOCLEAR_BITMAPS = 1
IN_USE, AUTO = 1, 2
ONES = "ones"


class Bitmap:
    def __init__(self, flags, granularity, bits, kinds):
        self.flags = flags
        self.granularity = granularity
        self.bits = bits        # an integer: bit n of it is bit n of the bitmap; None when in use
        self.kinds = kinds      # how each cluster of bits is stored: 0, "ones" or "data"

    def __eq__(self, other):
        return (self.flags, self.granularity, self.bits) == (other.flags, other.granularity, other.bits)

    def __repr__(self):
        count = "?" if self.bits is None else bin(self.bits).count("1")
        return f"<flags {self.flags} granularity {self.granularity}, {count} bits set>"


def find_extension(f):
    """Where the data of the bitmaps extension is; None without one."""
    f.seek(0)
    head = f.read(4096)
    version, backing = struct.unpack(">4xIQ", head[:16])
    at = struct.unpack(">I", head[100:104])[0] if version > 2 else 72
    end = backing or 1 << struct.unpack(">I", head[20:24])[0]
    while at + 8 <= end:
        f.seek(at)
        kind, length = struct.unpack(">II", f.read(8))
        if kind == EXT_END:
            return None
        if kind == EXT_BITMAPS:
            return at + 8
        at += 8 + (length + 7) // 8 * 8
    return None


def autoclear(f):
    f.seek(0)
    head = f.read(104)
    return struct.unpack(">Q", head[88:96])[0] if struct.unpack(">I", head[4:8])[0] > 2 else 0


def directory(f):
    """(offset of the entry, its fields, name) of each bitmap."""
    extension = find_extension(f)
    if extension is None:
        return []
    f.seek(extension)
    count, reserved, size, at = struct.unpack(">IIQQ", f.read(24))
    assert reserved == 0 and count > 0
    entries, end = [], at + size
    for _ in range(count):
        f.seek(at)
        fields = struct.unpack(">QIIBBHI", f.read(24))
        name_size, extra = fields[5:]
        assert extra == 0 and 1 <= name_size <= 1023
        name = f.read(name_size).decode("utf-8", "surrogateescape")
        padding = f.read(-name_size % 8)
        assert padding == bytes(len(padding)), "padding of the bitmap directory"
        entries.append((at, fields, name))
        at += 24 + (name_size + 7) // 8 * 8
    assert at == end, "size of the bitmap directory"
    return entries


def read_bits(f, table, entries, count, cluster):
    out, kinds = bytearray(), []
    for i in range(entries):
        f.seek(table + i * 8)
        entry = struct.unpack(">Q", f.read(8))[0]
        if entry & 0x00fffffffffffe00:
            assert not entry & 0xff000000000001ff and entry % cluster == 0
            f.seek(entry)
            out += f.read(cluster).ljust(cluster, b"\0")
        else:
            assert entry in (0, 1)
            out += (b"\xff" if entry else b"\0") * cluster
        kinds.append("data" if entry > 1 else ONES if entry else 0)
    bits = int.from_bytes(out, "little")
    if ONES != kinds[-1]:
        assert bits >> count == 0, "bits behind the end of the disk"
    return bits & (1 << count) - 1, kinds


def read_bitmaps(path):
    """Every bitmap of the image, by name, in the order of the directory."""
    found = {}
    with open(path, "rb") as f:
        head = f.read(32)
        cluster = 1 << struct.unpack(">I", head[20:24])[0]
        size = struct.unpack(">Q", head[24:32])[0]
        entries = directory(f)
        assert bool(entries) == bool(autoclear(f) & AUTOCLEAR_BITMAPS), "the autoclear bit"
        for _, (table, clusters, flags, kind, shift, _, _), name in entries:
            assert kind == 1 and table % cluster == 0
            bits, kinds = None, None
            if not flags & IN_USE:
                count = -(-size // (1 << shift))
                assert clusters == -(-count // (cluster * 8)), "size of a bitmap table"
                bits, kinds = read_bits(f, table, clusters, count, cluster)
            found[name] = Bitmap(flags, 1 << shift, bits, kinds)
    return found


def set_flags(path, name, flags):
    """As a program leaves them that was killed while it had the image open."""
    with open(path, "r+b") as f:
        for at, _, other in directory(f):
            if other == name:
                f.seek(at + 12)
                f.write(struct.pack(">I", flags))
                return
    raise KeyError(name)


def clear_autoclear(path):
    """As a program leaves it that knows no bitmaps."""
    with open(path, "r+b") as f:
        f.seek(88)
        f.write(bytes(8))
