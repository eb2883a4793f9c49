"""QEMU's programs, loaded once and run many times: what served.c says.

    import served
    out, err, code = served.run(command, cwd, limit)    # bytes; as subprocess.run would have it

Each thread has servers of its own, since one answers one request at a time. A program that cannot be
served (another C library, a script that calls it elsewhere) is started anew each time.
"""
import os
import pathlib
import socket
import struct
import subprocess
import threading

BUILD = pathlib.Path(os.environ.get("BUILD") or pathlib.Path(__file__).resolve().parents[2] / "build").resolve()
PRELOAD = BUILD / "tests/interop/served.so"
LONGEST = 60000         # of a request, in bytes
WORDS = 4000
START = 30              # seconds
per_thread = threading.local()
hopeless = set()        # programs that cannot be served


class Server:
    def __init__(self, program):
        self.socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self.child = subprocess.Popen(
                [program, "serve-tests", str(other.fileno())], pass_fds=[other.fileno()], cwd="/",
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=dict(os.environ, LD_PRELOAD=str(PRELOAD)))
        self.files = [os.memfd_create(name) for name in ("stdout", "stderr")]
        self.socket.settimeout(START)
        try:
            self.good = self.socket.recv(16) == b"ready"
        except OSError:
            self.good = False
        if not self.good:
            self.end()

    def end(self):
        self.child.kill()       # and with it what it runs
        self.child.wait()

    def __del__(self):
        self.socket.close()
        for file in self.files:
            os.close(file)
        self.end()

    def ask(self, request, limit):
        """The status; None: not in time."""
        for file in self.files:
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
        self.socket.settimeout(limit)
        try:
            socket.send_fds(self.socket, [request], self.files)
            answer = self.socket.recv(16)
        except TimeoutError:
            return None
        if len(answer) != 4:
            raise RuntimeError(f"the server of {self.child.args[0]} ended")
        return os.waitstatus_to_exitcode(struct.unpack("=i", answer)[0])

    def said(self):
        for file in self.files:
            with open(file, "rb", closefd=False) as f:
                f.seek(0)
                yield f.read()


def server(program):
    """This thread's, or None."""
    servers = per_thread.__dict__
    if program in hopeless:
        return None
    if program not in servers:
        servers[program] = Server(program)
    if not servers[program].good:
        hopeless.add(program)
        return None
    return servers[program]


def run(command, cwd, limit):
    request = b"".join(os.fsencode(w) + b"\0" for w in [cwd or os.getcwd(), *command])
    serving = server(command[0]) if len(request) < LONGEST and len(command) < WORDS else None
    if not serving:
        done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit,
                              check=False)
        return done.stdout, done.stderr, done.returncode
    status = serving.ask(request, limit)
    if status is None:
        serving.end()
        del per_thread.__dict__[command[0]]
        raise subprocess.TimeoutExpired(command, limit)
    return (*serving.said(), status)
