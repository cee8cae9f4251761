"""What is freed while a large model is quantised goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, sys
from edgebuild.quantisers.own.memory import LARGE_BYTES, give_back_large_blocks

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

if "fixed" in sys.argv:
    give_back_large_blocks()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def block():
    at = libc.malloc(4 * LARGE_BYTES)
    libc.memset(at, 1, 4 * LARGE_BYTES)
    return at

libc.free(libc.malloc(31 * 2**20))  # from here on glibc keeps blocks up to that size
before = resident()
blocks = [(block(), libc.malloc(2**16)) for _ in range(16)]  # what stays lies between them in the heap
for at, _ in blocks:
    libc.free(at)
print((resident() - before) // LARGE_BYTES)
"""


def blocks_kept(*arguments: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], check=True, capture_output=True, text=True, timeout=60
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_blocks_that_are_freed_are_given_back() -> None:
    assert blocks_kept("fixed") == 0
    if platform.libc_ver()[0] == "glibc":
        assert blocks_kept() > 0, "glibc gives them back by itself: the call is no longer needed"
