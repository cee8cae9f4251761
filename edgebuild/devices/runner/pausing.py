"""Holds a process still while it isn't its turn: none of its threads runs then, those that spin included.

A keeper, forked before a runtime is loaded, stands between the host and the process that measures. What ends a turn it
passes on once that process is stopped (SIGSTOP); what the host says continues it. Whatever becomes of the keeper or of
the host, no stopped process is left: the kernel continues it as soon as its input ends, and then it ends.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import time

#: A process is stopped when its threads have taken notice, which takes microseconds; longer than this isn't waited.
STOP_S = 0.1


def start_keeper(out: int, silence_s: float, limit_s: float) -> int:
    """Fork the keeper of this process, which must have one thread only; return where a line that ends a turn goes.

    From here on stdin holds what the host says, empty lines left out, and ends when nobody waits for this process.
    ``out`` is the way to the host; ``silence_s`` and ``limit_s`` are those of ``protocol``.
    """
    commands, to_worker = os.pipe()
    from_worker, turns = os.pipe()
    worker = os.getpid()
    if os.fork() == 0:
        try:
            os.close(commands)
            os.close(turns)
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            _keep(worker, to_worker, from_worker, out, silence_s)
        finally:
            os._exit(0)
    os.close(to_worker)
    os.close(from_worker)
    os.dup2(commands, 0)
    os.close(commands)
    # The kernel sends this signal when the pipe is written to and when it ends, whatever ended the keeper.
    fcntl.fcntl(0, fcntl.F_SETOWN, worker)
    fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGCONT)
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    return turns


def _keep(worker: int, to_worker: int, from_worker: int, out: int, silence_s: float) -> None:
    """Pass on what both sides say, until the host is away or the worker has ended."""
    rest = b""
    heard_s = time.monotonic()
    while True:
        left_s = max(0.0, heard_s + silence_s - time.monotonic()) if silence_s else None
        ready = select.select([0, from_worker], [], [], left_s)[0]
        if from_worker in ready:
            line = os.read(from_worker, select.PIPE_BUF)
            if not line or os.getppid() != worker:
                return
            _stop(worker)
            _write(out, line)
        if 0 in ready:
            heard_s = time.monotonic()
            chunk = os.read(0, 4096)
            if not chunk:
                return
            *whole, rest = (rest + chunk).split(b"\n")
            for each in filter(None, whole):
                _write(to_worker, each + b"\n")
                os.kill(worker, signal.SIGCONT)
        if not ready:
            return


def _stop(worker: int) -> None:
    os.kill(worker, signal.SIGSTOP)
    until_s = time.monotonic() + STOP_S
    while not _is_stopped(worker) and time.monotonic() < until_s:
        time.sleep(1e-4)


def _is_stopped(worker: int) -> bool:
    with open("/proc/%d/stat" % worker, "rb") as file:
        return file.read().rpartition(b")")[2].split()[0] == b"T"  # the state follows the name (proc(5))


def _write(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
