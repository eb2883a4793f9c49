"""Images damaged at random, by a seed: bits, bytes and entries of their metadata."""
import struct


def metadata(data):
    """The places of an image's metadata: [(start, length)], by following the tables once."""
    bits, = struct.unpack_from(">I", data, 20)
    l1_size, l1, table, clusters, snapshots, snapshot_table = struct.unpack_from(">IQQIIQ", data, 36)
    size = 1 << bits
    places = [(24, 80), (l1, l1_size * 8), (table, 64)]
    if snapshots:
        places.append((snapshot_table, 200 * snapshots))
    for start, count, mask in ((l1, l1_size, 0x00fffffffffffe00), (table, 8, ~0x1ff & (1 << 64) - 1)):
        for i in range(min(count, 64)):
            if start + i * 8 + 8 <= len(data):
                place = struct.unpack_from(">Q", data, start + i * 8)[0] & mask
                places += [(place, 128), (place, size)] if place else []
    return [(a, n) for a, n in places if n and a < len(data)]


def damage(rng, source, target):
    data = bytearray(source.read_bytes())
    places = metadata(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        start, length = rng.choice(places)
        at = min(start + rng.randrange(length), len(data) - 1)
        how = rng.randrange(4)
        if how == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            data[at] = rng.randrange(256)
        elif how == 2:
            data[at & ~7:(at & ~7) + 8] = bytes(8)
        else:       # an entry of another place
            other = rng.choice(places)[0] & ~7
            data[at & ~7:(at & ~7) + 8] = data[other:other + 8]
    if rng.random() < 0.05:
        del data[rng.randrange(512, len(data)):]
    target.write_bytes(data)
