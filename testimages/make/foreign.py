"""valid/foreign/: tiny images of other formats, for recognition. They hold random identifiers, so existing ones stay."""

import os
import struct

from make.tools import noise, patch

SECRET = "secret,id=key,data=imgtool"


def make(w):
    def known(name):
        if os.path.exists(w.path("foreign/" + name)):
            w.made.append("foreign/" + name)
            return True
        return False

    for fmt, name, opts in (
            ("qed", "image.qed", "cluster_size=4096,table_size=1"),
            ("vmdk", "sparse.vmdk", "subformat=monolithicSparse"),
            ("vmdk", "stream.vmdk", "subformat=streamOptimized"),
            ("vmdk", "flat.vmdk", "subformat=monolithicFlat"),
            ("vdi", "image.vdi", ""), ("vpc", "dynamic.vhd", ""), ("vpc", "fixed.vhd", "subformat=fixed"),
            ("vhdx", "image.vhdx", ""), ("qcow", "version1.qcow", ""), ("parallels", "image.parallels", ""),
            ("luks", "image.luks", "iter-time=10,cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=plain64,key-secret=key")):
        if known(name):
            continue
        w.create("foreign/" + name, "64k", opts, fmt=fmt, extra=("--object", SECRET) if fmt == "luks" else ())
        if name == "flat.vmdk":
            w.made.append("foreign/flat-flat.vmdk")
        if fmt in ("vhdx", "parallels"):        # both mostly empty space; recognised by the start
            os.truncate(w.path("foreign/" + name), 320 << 10 if fmt == "vhdx" else 4096)

    w.raw("foreign/image.iso", 40 << 10)
    for sector, kind in ((16, 1), (17, 255)):
        patch(w.path("foreign/image.iso"), sector * 2048, struct.pack("B5sB", kind, b"CD001", 1))
    w.raw("foreign/gpt.raw", 64 << 10)
    protective = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, 127)
    patch(w.path("foreign/gpt.raw"), 446, protective + bytes(48) + b"\x55\xaa")
    patch(w.path("foreign/gpt.raw"), 512, b"EFI PART" + struct.pack("<III", 0x10000, 92, 0))
    for name, start in (("archive.gz", b"\x1f\x8b\x08\0"), ("archive.xz", b"\xfd7zXZ\0"), ("archive.zip", b"PK\3\4"),
                        ("archive.zst", b"\x28\xb5\x2f\xfd"), ("program.elf", b"\x7fELF\2\1\1"), ("notes", b"just text\n")):
        w.raw("foreign/" + name, 4096, (noise, name, 0, 4096))
        patch(w.path("foreign/" + name), 0, start)
