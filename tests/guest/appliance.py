"""What the tests share that start libguestfs's appliance, as an ordinary user."""
import hashlib
import io
import json
import os
import pathlib
import subprocess
import tarfile
import unittest

import disks
import user

QEMU_IMG = os.environ.get("QEMU_IMG") or "qemu-img"
QEMU_IO = os.environ.get("QEMU_IO") or "qemu-io"
LIMIT = 280


def digest(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


class Case(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.disks = disks.folder()
        self.folder, self.prefix = user.ordinary(self)
        self.imgtool = str(self.folder / "imgtool")
        if not (self.folder / "imgtool-mount").exists():
            self.skipTest("imgtool-mount is not built: libguestfs is not installed")
        self.dir = self.folder / "mnt"
        self.as_user("mkdir", self.dir)

    def as_user(self, *words, data=None, **more):
        env = dict(os.environ, HOME=str(self.folder), TMPDIR=str(self.folder))
        for name in ("XDG_RUNTIME_DIR", "LIBGUESTFS_BACKEND", "LIBGUESTFS_BACKEND_SETTINGS"):
            env.pop(name, None)
        done = subprocess.run([*self.prefix, *map(str, words)], cwd=self.folder, env=env, input=data,
                              timeout=LIMIT, check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              **more)
        return done.returncode, done.stdout, done.stderr.decode()

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
        return json.loads(self.imgtool_ok("mount", "--list", "--output=json"))

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
