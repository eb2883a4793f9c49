"""How random images are planned and made. What is used by tests is pool.py, which has them made once.

A chain is planned first, from a random number generator alone: a list of commands, which qemu-img and
qemu-io then run in a folder of its own. So it can be made again, and printed when something differs.
"""
import json
import random
import shlex

from sidebyside import QEMU_IMG, QEMU_IO, Done

KIB, MIB = 1 << 10, 1 << 20
MAKE_NOISE = "import random; open('noise', 'wb').write(random.Random(1).randbytes(65536))"
NOISE = random.Random(1).randbytes(65536)


class Plan:
    """The commands that make one chain, and what to look at afterwards."""

    def __init__(self, rng):
        self.rng = rng
        self.commands = [["python3", "-c", MAKE_NOISE]]
        self.images = []                 # (name, virtual size, snapshots)
        self.refused = None              # what QEMU could not do
        self.layers = rng.choices([1, 2, 3, 4, 5], [8, 4, 3, 2, 2])[0]
        backing = None
        for i in range(self.layers):
            backing = Layer(self, i, backing).make()
            self.images.append(backing)

    def do(self, *command):
        self.commands.append([str(c) for c in command])

    def chance(self, percent):
        return self.rng.random() * 100 < percent


class Layer:
    def __init__(self, plan, number, backing):
        self.plan, self.rng, self.chance = plan, plan.rng, plan.chance
        self.backing = backing
        self.format = "raw" if not backing and self.chance(25) else "qcow2"
        self.name = f"layer{number}.{self.format}"
        self.size = self.choose_size()
        self.cluster = 1
        self.snapshots = []
        self.compress_allowed = self.bitmaps_allowed = self.growth_allowed = self.lazy = False
        self.max_snapshots = 0

    def choose_size(self):
        size = int(2 ** self.rng.uniform(16, 23)) // 512 * 512
        if self.backing and self.chance(50):
            return self.backing.size
        if self.chance(25):
            size = size // (64 * KIB) * 64 * KIB
        return size

    def make(self):
        if self.format == "raw":
            self.make_raw()
        else:
            self.make_qcow2()
        return self

    def make_raw(self):
        self.plan.do("qemu-img", "create", "-q", "-f", "raw", self.name, self.size)
        self.write_some()
        if self.chance(30):      # a length that is no multiple of 512 is rounded up
            length = self.size - self.rng.randrange(512)
            self.plan.do("truncate", "-s", length, self.name)

    def make_qcow2(self):
        self.plan.do("qemu-img", "create", "-q", "-f", "qcow2", *self.options(), self.name, self.size)
        if not self.chance(90):
            return
        self.write_some()
        if self.growth_allowed and self.chance(10):
            self.size += self.rng.randrange(1, 2000) * 512
            self.plan.do("qemu-img", "resize", "-q", self.name, self.size)
        wanted = self.rng.choices([0, 1, 2, 3], [6, 2, 1, 1])[0]
        for i in range(min(wanted, self.max_snapshots)):
            self.snapshot(i)
            self.write_some()
        self.add_bitmaps(self.rng.choices([0, 1, 3], [8, 1, 1])[0] if self.bitmaps_allowed else 0)
        if self.lazy and self.chance(30):
            self.write_some(die=True)

    def add_bitmaps(self, count):
        for i in range(count):
            granularity = 1 << self.rng.randrange(9, 20)
            self.plan.do("qemu-img", "bitmap", "--add", "-g", granularity, self.name, f"bitmap{i}")
            if self.chance(60):
                self.write_some()

    def snapshot(self, i):
        self.plan.do("qemu-img", "snapshot", "-q", "-c", f"snapshot {i}", self.name)
        self.snapshots.append(f"snapshot {i}")
        if self.chance(15) and self.max_snapshots > 1:      # needs one more reference for a while
            self.plan.do("qemu-img", "snapshot", "-q", "-a", self.rng.choice(self.snapshots), self.name)
        if self.chance(15):
            gone = self.rng.choice(self.snapshots)
            self.snapshots.remove(gone)
            self.plan.do("qemu-img", "snapshot", "-q", "-d", gone, self.name)

    # ---- options of qcow2 ----

    def options(self):
        rng, chance = self.rng, self.chance
        new = chance(85)
        bits = rng.choices(range(9, 22), [3, 3, 3, 5, 3, 3, 5, 5, 2, 1, 1, 1, 1])[0]
        self.cluster = 1 << bits
        extended = new and bits >= 14 and chance(40)
        refcount_bits = rng.choice([1, 2, 4, 8, 16, 32, 64]) if new and chance(40) else 16
        data_file = new and chance(15)
        raw_data = data_file and not self.backing and chance(50)
        self.lazy = new and chance(20)
        options = {"compat": "1.1" if new else "0.10", "cluster_size": self.cluster}
        if new:
            options["refcount_bits"] = refcount_bits
            options["lazy_refcounts"] = "on" if self.lazy else "off"
            options["extended_l2"] = "on" if extended else "off"
            options["compression_type"] = rng.choice(["zlib", "zstd"])
        if chance(30) and (extended or not self.backing):
            options["preallocation"] = rng.choice(["metadata", "falloc", "full"])
        if data_file:
            options["data_file"] = self.name.replace("qcow2", "data")
            options["data_file_raw"] = "on" if raw_data else "off"
        self.bitmaps_allowed = new
        self.growth_allowed = not raw_data and (new or not self.backing)
        # compressed clusters share a host cluster, which must be counted for each and each snapshot
        self.compress_allowed = not data_file and (refcount_bits > 4 or chance(50))
        few = refcount_bits <= 4 and self.compress_allowed
        self.max_snapshots = 0 if data_file or few else min(3, refcount_bits // 2)
        words = ["-o", ",".join(f"{k}={v}" for k, v in options.items())]
        return words + (["-F", self.backing.format, "-b", self.backing_name()] if self.backing else [])

    def backing_name(self):
        name = self.backing.name
        kind = self.rng.choices(["plain", "file:", "json:", "./"], [80, 5, 10, 5])[0]
        if kind == "json:":
            return "json:" + json.dumps({"driver": self.backing.format,
                                         "file": {"driver": "file", "filename": name}})
        return name if kind == "plain" else kind + name

    # ---- contents ----

    def write_some(self, die=False):
        """One qemu-io process; with DIE it is killed, which leaves a lazy image's dirty bit set."""
        operations = [self.operation() for _ in range(int(2 ** self.rng.uniform(0, 5)))]
        if self.chance(60):     # QEMU only takes a compressed write where nothing is yet
            operations.sort(key=lambda o: not o.startswith("write -c"))
        words = [x for o in operations for x in ("-c", o)]
        if die:
            words += ["-c", "flush", "-c", "sigraise 9"]
        self.plan.do("qemu-io", "-t", "unsafe", "-d", "unmap", "-f", self.format, *words, self.name)

    def operation(self):
        kind = self.rng.choices(["write", "write -z", "write -z -u", "discard", "write -c"],
                                [8, 2, 2, 2, 6 if self.compress_allowed else 0])[0]
        offset, length = self.place(kind)
        if kind in ("write", "write -c"):
            noise = self.chance(30)
            kind += " -s noise" if noise else f" -P {self.rng.randrange(1, 256)}"
        return f"{kind} {offset} {length}"

    def place(self, kind):
        unit = self.cluster
        offset = self.rng.randrange(self.size)
        length = int(2 ** self.rng.uniform(0, 18))
        if kind == "write -c" or self.chance(50):
            offset = offset // unit * unit
            length = (length + unit - 1) // unit * unit
        length = min(length, self.size - offset)
        if kind == "discard":                # qemu-io takes whole sectors here
            offset, length = offset // 512 * 512, (length + 511) // 512 * 512
        return offset, length


# ---- carrying it out ----

def build(plan, folder):
    """Returns a complaint, or None. Leaves in plan.images those that were made.

    QEMU cannot do everything that was asked of it: it breaks images of 512-byte clusters when compressed
    clusters are written over, notices and marks them as corrupt; it cannot resize within a compressed
    cluster. The chain ends above such an image then, and it is counted: plan.refused says why.
    """
    tools = {"qemu-img": QEMU_IMG, "qemu-io": QEMU_IO}
    (folder / "noise").write_bytes(NOISE)       # what the first command does
    for command in plan.commands[1:]:
        done = Done([tools.get(command[0], command[0]), *command[1:]], folder)
        said = done.out + done.err
        refused = said.count("write failed: Input/output error")
        corrupt = "Marking image as corrupt" in said
        if not corrupt and refused and refused <= sum(c.startswith("write -c") for c in command):
            continue            # a compressed write onto something: the image is as good as before
        if corrupt or refused or done.code != (-9 if "sigraise 9" in command else 0):
            plan.refused = f"{shlex.join(command)[:200]}: {said.strip()[:200]}"
            broken = [n for n, image in enumerate(plan.images) if image.name in command]
            if not broken:
                return f"this command failed ({done.code}): {shlex.join(command)}\n{said}"
            del plan.images[broken[-1]:]
            return None
    return None
