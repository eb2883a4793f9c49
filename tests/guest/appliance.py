"""What the tests share that start libguestfs's appliance, as an ordinary user."""
import fcntl
import hashlib
import io
import json
import os
import pathlib
import pty
import select
import subprocess
import tarfile
import termios
import time
import unittest

import disks
import user

QEMU_IMG = os.environ.get("QEMU_IMG") or "qemu-img"
QEMU_IO = os.environ.get("QEMU_IO") or "qemu-io"
LIMIT = 280

# A /dev of one's own: some devices are the machine's, some cannot be opened, some are plain files. In
# a chroot whose / is no mount, nothing but /dev can be kept from being mounted for everybody.
OWN_DEV = """
real=$1 closed=$2 plain=$3; shift 3
mount --make-rprivate / 2>/dev/null || mount --make-rprivate /dev || exit 9
exec 3</dev && mount -t tmpfs none /dev || exit 9
for name in $real; do : >"/dev/$name" && mount -c --bind "/proc/self/fd/3/$name" "/dev/$name" || exit 9; done
for name in $closed; do : >"/dev/$name" && chmod 000 "/dev/$name"; done
for name in $plain; do : >"/dev/$name" && chmod 666 "/dev/$name"; done
ln -s /proc/self/fd /dev/fd
exec "$@" 3<&-
"""


def digest(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


# Is there for a while after QEMU has ended, as QEMU is while it writes; then says so.
LATE_QEMU = """#!/bin/sh
case "$*" in *-kernel*) ;; *) exec qemu-system-x86_64 "$@" ;; esac
qemu-system-x86_64 "$@" <&0 &
trap 'kill -TERM $!; wait $!; sleep 2; echo ended >"$0.ended"; exit 0' TERM
wait
"""


class Case(unittest.TestCase):
    maxDiff = None
    more = {}  # for the environment

    def setUp(self):
        self.disks = disks.folder()
        self.folder, self.prefix = user.ordinary(self)
        self.imgtool = str(self.folder / "imgtool")
        if not (self.folder / "imgtool-mount").exists():
            self.skipTest("imgtool-mount is not built: libguestfs is not installed")
        self.dir = self.folder / "mnt"
        self.as_user("mkdir", self.dir)

    def environment(self):
        env = dict(os.environ, HOME=str(self.folder), TMPDIR=str(self.folder), **self.more)
        for name in ("XDG_RUNTIME_DIR", "LIBGUESTFS_BACKEND", "LIBGUESTFS_BACKEND_SETTINGS"):
            env.pop(name, None)
        env.setdefault("LIBGUESTFS_CACHEDIR", "/var/tmp")  # one appliance for all tests, as people have it
        return env

    def as_user(self, *words, data=None, **more):
        return self.run_in(self.environment(), [*self.prefix, *words], input=data, **more)

    def run_in(self, env, words, **more):
        done = subprocess.run([*map(str, words)], cwd=self.folder, env=env, timeout=LIMIT, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
        return done.returncode, done.stdout, done.stderr.decode()

    def late_qemu(self):
        """From now on, the appliance takes its time to end. Returns the file that it leaves behind."""
        qemu = self.folder / "qemu-system-late"
        qemu.write_text(LATE_QEMU)
        qemu.chmod(0o755)
        self.more = {"LIBGUESTFS_HV": str(qemu)}
        return pathlib.Path(f"{qemu}.ended")

    def with_dev(self, *words, closed="", plain="", without="", **env):
        """As as_user, with a /dev in which some are CLOSED, PLAIN files, or not there."""
        real = [name for name in ("null", "zero", "full", "random", "urandom", "tty", "fuse")
                if name not in (*closed.split(), *plain.split(), *without.split())]
        own = ["unshare", "--mount", "--propagation=unchanged"] if os.geteuid() == 0 else [
            "unshare", "--mount", "--map-root-user"]
        # who was made root to mount becomes who it was
        less = self.prefix or ["unshare", "--user", f"--map-user={os.geteuid()}", f"--map-group={os.getegid()}"]
        return self.run_in({**self.environment(), **env},
                           [*own, "sh", "-c", OWN_DEV, "sh", " ".join(real), closed, plain, *less, *words])

    def on_terminal(self, *words, typed=()):
        """Runs WORDS with a terminal for its input and its messages. TYPED has pairs: when the first has
        appeared there, the second is typed. Returns exit status, output, and what the terminal showed."""
        master, slave = pty.openpty()
        child = subprocess.Popen([*self.prefix, *map(str, words)], cwd=self.folder, env=self.environment(),
                                 stdin=slave, stdout=subprocess.PIPE, stderr=slave, start_new_session=True,
                                 preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)
        shown, said, typed, until = b"", b"", list(typed), time.monotonic() + LIMIT
        sources = [master, child.stdout.fileno()]
        while sources and time.monotonic() < until:
            for fd in select.select(sources, [], [], 1)[0]:
                try:
                    data = os.read(fd, 65536)
                except OSError:  # nobody has the terminal open any more
                    data = b""
                if not data:
                    sources.remove(fd)
                elif fd == master:
                    shown += data
                else:
                    said += data
            if typed and typed[0][0] in shown:
                os.write(master, typed.pop(0)[1])
        child.stdout.close()
        os.close(master)
        if sources:
            child.kill()
        return child.wait(), said, shown.decode()

    def ok(self, *words, **more):
        """Its output. What it says of KVM, once, is no failure."""
        code, out, err = self.as_user(*words, **more)
        err = "".join(line for line in err.splitlines(True) if "KVM is there" not in line)
        self.assertEqual((code, err), (0, ""), words)
        return out

    def imgtool_ok(self, command, *words, **more):
        return self.ok(self.imgtool, command, *words, **more)

    def give(self, name, *words):
        """A disk of the tests, raw or as qcow2, that is the user's."""
        target, source = self.folder / name, self.disks / name.replace("qcow2", "raw")
        if name.endswith("raw"):
            subprocess.run(["cp", "--sparse=always", source, target], check=True)
        else:
            subprocess.run([QEMU_IMG, "convert", "-f", "raw", "-O", "qcow2", *words, source, target], check=True)
        os.chmod(target, 0o644)
        if self.prefix:
            os.chown(target, user.NOBODY, user.NOBODY)
        return target

    def key(self):
        path = self.folder / "key"
        self.ok("tee", path, data=disks.KEY.encode() + b"\n")
        return path

    def qemu_io_opens(self, image):
        code, out, err = self.as_user(QEMU_IO, "-f", "qcow2", "-c", "read 0 512", image)
        return code == 0, err

    def sound(self, image):
        self.ok(self.imgtool, "check", "-q", image)
        self.ok(QEMU_IMG, "check", "-q", image)

    def contents(self, archive):
        found = {}
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                if member.isfile():
                    found[os.path.normpath(member.name)] = tar.extractfile(member).read()
        return found

    def same_files(self, archive, more=None):
        found = self.contents(archive)
        found.pop("bin/ls", None)
        self.assertEqual(found, {**disks.files(), **(more or {})})

    def records(self):
        """Of this test: root sees everybody's."""
        found = json.loads(self.imgtool_ok("mount", "--list", "--output=json"))
        return [r for r in found if r["directory"].startswith(str(self.folder))]

    def appliances(self):
        """QEMU's processes that have a file of this test's folder open."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            except OSError:
                continue
            if str(self.folder).encode() in words and b"qemu-system" in words:
                found.append(int(entry.name))
        return found
