"""What the tests of image locks share: programs that hold images, and which bytes they lock."""
import hashlib
import os
import re
import shutil
import subprocess
import time

from sidebyside import BUILD, LIMIT, QEMU_IMG, QEMU_IO, TMPDIR, Done

DAEMON = shutil.which("qemu-storage-daemon")
HOLDER = str(BUILD / "tests/interop/holder")
TEMPLATE = TMPDIR / "template"
MODES = {"reader": ["-r"], "writer": [], "sharer": ["-U", "-r"]}

# What is held, and the image that is looked at then: itself, or one that uses it or is used by it.
STATES = {
    "a qcow2 image": ("plain.qcow2", "plain.qcow2"),
    "a raw image": ("plain.raw", "plain.raw"),
    "the qcow2 base of an overlay": ("base.qcow2", "over.qcow2"),
    "the raw base of an overlay": ("base.raw", "rawover.qcow2"),
    "an external data file": ("data.raw", "data.qcow2"),
    "an overlay on qcow2": ("over.qcow2", "over.qcow2"),
    "an overlay on qcow2, the base being looked at": ("over.qcow2", "base.qcow2"),
    "an overlay on raw, the base being looked at": ("rawover.qcow2", "base.raw"),
    "an image with a data file": ("data.qcow2", "data.qcow2"),
    "an image with a data file, that file being looked at": ("data.qcow2", "data.raw"),
}
# Each chain, top first, as it is held in the second part.
CHAINS = [["plain.qcow2"], ["plain.raw"], ["over.qcow2", "base.qcow2"], ["rawover.qcow2", "base.raw"],
          ["data.qcow2", "data.raw"], ["third.qcow2", "over.qcow2", "base.qcow2"]]

REFUSAL = re.compile(r'Failed to get (?:shared )?"[a-z ]+" lock\n'
                     r"Is another process using the image \[([^]]+)\]\?\n$")


def format_of(name):
    return "qcow2" if name.endswith(".qcow2") else "raw"


def make_template():
    TEMPLATE.mkdir()

    def create(*arguments):
        Done([QEMU_IMG, "create", "-q", *arguments], TEMPLATE).ok()
    for name in ("plain.qcow2", "plain.raw", "base.qcow2", "base.raw"):
        create("-f", format_of(name), name, "1M")
    create("-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "over.qcow2")
    create("-f", "qcow2", "-b", "over.qcow2", "-F", "qcow2", "third.qcow2")
    create("-f", "qcow2", "-b", "base.raw", "-F", "raw", "rawover.qcow2")
    create("-f", "qcow2", "-o", "data_file=data.raw", "data.qcow2", "1M")
    for name in ("plain.qcow2", "plain.raw", "base.qcow2", "base.raw", "data.qcow2"):
        Done([QEMU_IO, "-f", format_of(name), "-c", "write -P 7 64k 64k", name], TEMPLATE).ok()


def checksum(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- programs that hold an image ----

class Held:
    """A running program that has an image open."""

    def __init__(self, command, cwd, ready):
        self.child = subprocess.Popen(command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT)
        self.pid = self.child.pid
        try:
            ready(self.child)
        except BaseException:
            self.__exit__()
            raise
        with open(f"/proc/{self.pid}/comm", encoding="utf-8") as f:
            self.name = f.read().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.stdin.close()
        if self.child.args[0] == DAEMON:    # the others stop at the end of their input
            self.child.terminate()
        said = self.child.stdout.read().decode()
        self.child.stdout.close()
        if self.child.wait(LIMIT):
            raise RuntimeError(f"{self.child.args} ended with {self.child.returncode}: {said}")

    def locks(self, path):
        """What /proc says of the locks of each open file of this program that is PATH."""
        wanted, found = os.stat(path), []
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            st = os.stat(f"/proc/{self.pid}/fd/{fd}")
            if (st.st_dev, st.st_ino) != (wanted.st_dev, wanted.st_ino):
                continue
            with open(f"/proc/{self.pid}/fdinfo/{fd}", encoding="utf-8") as f:
                found.append(f.read())
        return found

    def bytes_of(self, path):
        """The bytes of a file that this program has locked, once for each open file."""
        return sorted(locked_bytes(text) for text in self.locks(path))

    def place(self, path):
        """How the kernel calls a file on which this program has locks: device and inode."""
        return re.search(r"(?m)^lock:.* (\S+) \d+ \d+$", "".join(self.locks(path))).group(1)


def locked_bytes(text):
    """The bytes that these lines of /proc name, all of them read locks that belong to open files."""
    found = set()
    for kind, how, start, end in re.findall(
            r"(?m)^(?:lock:\s*)?\d+: (\w+)\s+\w+\s+(\w+) -?\d+ \S+ (\d+) (\w+)$", text):
        assert (kind, how) == ("OFDLCK", "READ") and end != "EOF", text
        found |= set(range(int(start), int(end) + 1))
    return sorted(found)


def locked_by_all(place):
    """The bytes of a file that anybody has locked, as /proc/locks has it."""
    with open("/proc/locks", encoding="utf-8") as f:
        return locked_bytes("".join(line for line in f if place in line.split()))


def says(text):
    """Waits until the program has said TEXT."""
    def wait(child):
        said = b""
        while text not in said:
            more = os.read(child.stdout.fileno(), 4096)
            if not more:
                raise RuntimeError(f"{child.args} ended: {said.decode()}")
            said += more
    return wait


def qemu_io(mode, name, folder):
    return Held([QEMU_IO, *MODES[mode], "-f", format_of(name), name], folder, says(b"qemu-io> "))


def daemon(name, folder):
    """A machine's disk, as qemu-storage-daemon offers it to be written."""
    pid_file = folder / "daemon.pid"

    def wait(child):
        deadline = time.monotonic() + LIMIT
        while not pid_file.exists():
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{child.args} failed: {child.stdout.read().decode()}")
            time.sleep(.005)
    return Held([DAEMON, "--blockdev", "driver=" + format_of(name) + ",node-name=n,file.driver=file,"
                 "file.filename=" + name, "--nbd-server", "addr.type=unix,addr.path=daemon.sock",
                 "--export", "type=nbd,id=e,node-name=n,writable=on", "--pidfile", str(pid_file)],
                folder, wait)


def imgtool_holds(options, name, folder):
    return Held([HOLDER, *options, "-f", format_of(name), name], folder, says(b"open\n"))
