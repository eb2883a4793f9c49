"""Guests' disks for the tests: made once, by libguestfs and sfdisk, and then shared.

folder() is where they are; the first test that asks makes them, in two starts of libguestfs's
appliance, with what virt-filesystems says about them beside. They lie in the build directory, and
are made anew when this file changes. files() is what lies in the guests.
"""
import csv
import fcntl
import hashlib
import io
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tarfile

SRCDIR = pathlib.Path(os.environ.get("SRCDIR") or pathlib.Path(__file__).resolve().parents[2])
BUILD = pathlib.Path(os.environ.get("BUILD") or SRCDIR / "build").resolve()
PLACE = BUILD / "tests/guest"
if (BUILD.parent / "sources").is_file():  # a build inside the main one: build/asan
    PLACE = BUILD.parent / "tests/guest"
KEY = "a secret that is no secret"
MIB = 1 << 20

# Size in MiB, and the partition table for sfdisk.
TABLES = {
    "mbr.raw": (620, "label: dos\nlabel-id: 0x1db30d00\nunit: sectors\n"
                     "start=2048, size=65536, type=83, bootable\n"
                     "start=67584, size=32768, type=82\n"
                     "start=100352, size=655360, type=83\n"
                     "start=755712, size=395264, type=5\n"
                     "start=757760, size=65536, type=c\n"
                     "start=952320, size=32768, type=83\n"),
    "gpt.raw": (500, "label: gpt\nunit: sectors\n"
                     "start=2048, size=81920, type=U, name=\"EFI system\"\n"
                     "start=83968, size=409600, type=L, name=\"snow \u2603\"\n"
                     "start=493568, size=131072, type=V\n"
                     "start=624640, size=65536, type=L, name=crypt\n"),
    "md.raw": (100, "label: gpt\nunit: sectors\nstart=2048, size=32768, type=R\n"
                    "start=34816, size=32768, type=R\nstart=67584, size=65536, type=R\n"
                    "start=133120, size=65536, type=R\n"),
    "os.raw": (100, "label: dos\nunit: sectors\nstart=2048, size=65536, type=83\n"
                    "start=67584, size=131072, type=83\n"),
    "whole.raw": (48, None),
    "none.raw": (16, None),
}
DEVICES = {name: "/dev/sd" + letter for name, letter in zip(TABLES, "abcdef")}

TEXTS = {
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\n'
                      'VERSION_ID="12"\nVERSION="12 (bookworm)"\nID=debian\n',
    "etc/debian_version": "12.9\n",
    "etc/hostname": "guest.example\n",
    "etc/fstab": "/dev/vg0/root / ext4 defaults 0 1\nLABEL=BOOT /boot ext4 defaults 0 2\n",
    "var/lib/dpkg/status": "Package: imgtool-guest\nStatus: install ok installed\nVersion: 1.2-3\n"
                           "Architecture: amd64\nMaintainer: Nobody <nobody@example.org>\n"
                           "Description: a package that only this list has\n\n",
    "home/user/with space": "a name with a space\n",
    "home/user/\u2603": "snow\n",
    "home/user/empty": "",
    "boot/vmlinuz-none": "no kernel\n",
}
FOLDERS = ("bin", "boot", "etc", "home", "home/user", "sbin", "usr", "var", "var/lib", "var/lib/dpkg")


def files():
    """The guest's files by their paths, without the slash in front."""
    found = {name: text.encode() for name, text in TEXTS.items()}
    found["home/user/random"] = random.Random(5).randbytes(5 * MIB + 123)
    return found


def tree():
    """The same as a tar archive."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in FOLDERS:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, data in files().items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("home/user/link")
        link.type, link.linkname = tarfile.SYMTYPE, "random"
        tar.addfile(link)
        tar.add("/bin/true", "bin/ls")  # inspection asks a program for the architecture
    return archive.getvalue()


def luks(disk, start, size):
    """Encrypts a partition, with a key that is quickly tried."""
    volume = pathlib.Path("volume")
    with open(volume, "wb") as file:
        file.truncate(size * 512)
    tool("cryptsetup", "luksFormat", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations",
         "1000", "--batch-mode", "--key-file", "-", str(volume), text=KEY)
    with open(disk, "r+b") as file:
        file.seek(start * 512)
        file.write(volume.read_bytes())
    volume.unlink()


def tool(*words, text=""):
    env = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
    subprocess.run(words, input=text.encode(), env=env, check=True, stdout=subprocess.DEVNULL)


def partition(folder):
    for name, (size, table) in TABLES.items():
        with open(folder / name, "wb") as disk:
            disk.truncate(size * MIB)
        if table:
            tool("sfdisk", "-q", "--no-reread", "--no-tell-kernel", str(folder / name), text=table)
    luks(folder / "gpt.raw", 624640, 65536)
    luks(folder / "os.raw", 67584, 131072)


def start(folder, readonly=False):
    import guestfs
    g = guestfs.GuestFS(python_return_dict=True)
    g.set_backend("direct")
    if not kvm_works():
        g.set_backend_setting("force_tcg", "1")
    for name in TABLES:
        g.add_drive_opts(str(folder / name), format="raw", readonly=readonly)
    g.launch()
    return g


def kvm_works():
    """Does a virtual machine start with it? The device alone says nothing."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    done = subprocess.run(["qemu-system-x86_64", "-accel", "kvm", "-cpu", "max", "-S", "-display", "none", "-nodefaults",
                           "-monitor", "stdio"], input=b"quit\n", stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, timeout=60, check=False)
    return done.returncode == 0


def fill_mbr(g, disk):
    g.mkfs("ext4", disk + "1", label="ROOT")
    g.mkswap(disk + "2", label="SWAP", uuid="8d4f1f3e-93e5-4a8e-b6c3-2c4b3f1f0a01")
    g.mkfs("xfs", disk + "3", label="DATA")
    g.mkfs("vfat", disk + "5", label="DOSDISK")


def fill_gpt(g, disk, random_file):
    g.mkfs("vfat", disk + "1", label="EFI")
    g.mkfs_btrfs([disk + "2"], label="POOL")
    g.mount(disk + "2", "/")
    g.btrfs_subvolume_create("/home")
    g.btrfs_subvolume_create("/home/deep")
    g.write("/home/deep/file", random_file)
    g.mkdir_p("/plain/folder")
    g.btrfs_subvolume_snapshot("/home", "/plain/folder/snow \u2603", ro=True)
    g.umount("/")
    g.pvcreate(disk + "3")
    g.vgcreate("vg1", [disk + "3"])
    g.lvcreate("root", "vg1", 24)
    g.lvcreate("swap", "vg1", 12)
    g.mkfs("ext4", "/dev/vg1/root", label="LVROOT")
    g.mkswap("/dev/vg1/swap", label="LVSWAP")
    g.cryptsetup_open(disk + "4", KEY, "alone")
    g.mkfs("ext4", "/dev/mapper/alone", label="SECRET")
    g.cryptsetup_close("/dev/mapper/alone")


def fill_os(g, disk):
    """A guest that looks like Debian: its root in LVM in LUKS."""
    g.mkfs("ext4", disk + "1", label="BOOT")
    g.cryptsetup_open(disk + "2", KEY, "guest")
    g.pvcreate("/dev/mapper/guest")
    g.vgcreate("vg0", ["/dev/mapper/guest"])
    g.lvcreate("root", "vg0", 40)
    g.mkfs("ext4", "/dev/vg0/root")
    g.mount("/dev/vg0/root", "/")
    g.mkdir("/boot")
    g.mount(disk + "1", "/boot")
    with open("tree.tar", "wb") as archive:
        archive.write(tree())
    g.tar_in("tree.tar", "/")
    os.unlink("tree.tar")
    g.umount_all()
    g.vg_activate(False, ["vg0"])
    g.cryptsetup_close("/dev/mapper/guest")


def fill_md(g, disk):
    """A mirror, and stripes."""
    g.md_create("first", [disk + "1", disk + "2"], level="raid1")
    g.mkfs("ext4", "/dev/md/first", label="MIRROR")
    g.md_create("second", [disk + "3", disk + "4"], level="raid0")
    g.mkfs("ext4", "/dev/md/second", label="STRIPES")


def fill(folder):
    random_file = files()["home/user/random"]
    g = start(folder)
    fill_mbr(g, DEVICES["mbr.raw"])
    fill_gpt(g, DEVICES["gpt.raw"], random_file)
    fill_os(g, DEVICES["os.raw"])
    fill_md(g, DEVICES["md.raw"])
    disk = DEVICES["whole.raw"]
    g.mkfs("ext4", disk, label="WHOLE")
    g.mount(disk, "/")
    g.write("/file", random_file)
    g.umount_all()
    g.shutdown()
    g.close()


def asked(folder, names):
    """The rows of virt-filesystems about some of the disks."""
    env = dict(os.environ, LIBGUESTFS_BACKEND="direct")
    if not kvm_works():
        env["LIBGUESTFS_BACKEND_SETTINGS"] = "force_tcg"
    words = [w for name in names for w in ("--format=raw", "-a", str(folder / name))]
    said = subprocess.run(["virt-filesystems", *words, "--all", "--long", "--uuid", "--csv"], env=env,
                          stdout=subprocess.PIPE, check=True, encoding="utf-8")
    return list(csv.DictReader(io.StringIO(said.stdout)))


def in_order(rows):
    """Linux names disks in the order in which they answer. libguestfs 1.48 translates that back but in
    what it says of LVM, RAID and subvolumes: of these it then asks another disk."""
    gpt, md = DEVICES["gpt.raw"], DEVICES["md.raw"]
    for found in rows:
        name, parents = found["Name"], found["Parent"].split(",")
        if name.startswith("btrfsvol:"):
            right = name.startswith(f"btrfsvol:{gpt}2/") and found["Label"] == "POOL"
        elif name.startswith("/dev/md"):
            right = all(parent.startswith(md) for parent in parents)
        else:
            right = {"pv": name, "vg": parents[0]}.get(found["Type"], gpt + "3") == gpt + "3"
        if not right:
            return False
    return True


def ask_one_by_one(folder):
    """A start for each disk, which then has all the names there are."""
    for name, device in DEVICES.items():
        for found in asked(folder, [name]):
            for column in ("Name", "Parent"):
                found[column] = re.sub("/dev/sd[a-z]", device, found[column])
            yield found


def ask(folder):
    """What virt-filesystems says, into the file "truth": a line for all that it sees."""
    rows = asked(folder, TABLES)
    if not in_order(rows):
        rows = list(ask_one_by_one(folder))
    if not in_order(rows):
        raise SystemExit("virt-filesystems mistakes one disk for another, asked about one alone, too")
    with open(folder / "truth", "w", encoding="utf-8", newline="") as file:
        truth = csv.DictWriter(file, rows[0].keys())
        truth.writeheader()
        truth.writerows(rows)


def make(target):
    folder = pathlib.Path(str(target) + ".new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    here = os.getcwd()
    os.chdir(folder)
    try:
        partition(folder)
        # Debian's own Python has Debian's module, whichever one comes first in PATH.
        subprocess.run(["/usr/bin/python3", os.path.abspath(__file__), str(folder)], check=True)
        ask(folder)
    finally:
        os.chdir(here)
    folder.rename(target)


def folder():
    PLACE.mkdir(parents=True, exist_ok=True)
    mark = hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()[:12]
    target = PLACE / f"disks-{mark}"
    with open(PLACE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            for old in PLACE.glob("disks-*"):
                shutil.rmtree(old)
            make(target)
    return target


if __name__ == "__main__":
    if len(sys.argv) > 1:
        fill(pathlib.Path(sys.argv[1]))
    else:
        print(folder())
