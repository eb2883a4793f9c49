"""An ordinary user, whoever runs the tests; GUEST_USER=root: the superuser, when that is who runs them."""
import os
import pathlib
import shutil
import tempfile

from disks import BUILD

NOBODY = 65534


def ordinary(case):
    """A folder of an ordinary user, with imgtool in it, and the words that make one of root."""
    place = pathlib.Path(tempfile.mkdtemp(prefix="imgtool-user-", dir="/var/tmp"))
    case.addCleanup(shutil.rmtree, place)
    for program in ("imgtool", "imgtool-mount"):
        if (BUILD / program).exists():
            shutil.copy(BUILD / program, place)
    if os.geteuid() != 0 or os.environ.get("GUEST_USER") == "root":
        return place, []
    os.chown(place, NOBODY, NOBODY)
    return place, ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all"]
