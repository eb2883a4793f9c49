"""Measuring on a machine that does other things, too: with BENCH_ALONE=1, commands that take at most two
seconds go before all others, where that is allowed (SCHED_FIFO), both programs alike; longer ones would keep
the machine from all else for minutes, and are disturbed less. Not how anybody runs them: qemu-img's threads
hand over to each other sooner then, and it reads compressed images 1.6 times as fast as it otherwise does."""
import contextlib
import os
import statistics

LONGEST = 2


def allowed():
    if os.environ.get("BENCH_ALONE") != "1":
        return False
    try:
        with first(0):
            pass
    except PermissionError:
        return False
    return True


@contextlib.contextmanager
def first(seconds):
    """What is started in here goes first, if SECONDS, what it took before, are few."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    if seconds <= LONGEST:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def medians(run, commands, turns):
    """RUN does a command once and says how long it took; they take turns, so that a busy moment meets them all."""
    times = [[run(c)] for c in commands]
    with first(max(t[0] for t in times)) if allowed() else contextlib.nullcontext():
        for _ in range(turns):
            for command, measured in zip(commands, times):
                measured.append(run(command))
    return [statistics.median(t[1:]) for t in times]
