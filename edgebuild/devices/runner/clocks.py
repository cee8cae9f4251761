"""Pins the clocks of a Jetson for as long as somebody wants it, and puts them back however that ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time

from .protocol import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

    from .protocol import Fields, Wire

TOOL = "jetson_clocks"
TOOL_LIMIT_S = 60
#: Waits until this process is gone, whatever ended it: the pipe on its input closes then.
GUARD = 'trap "" HUP INT TERM; cat >/dev/null; exec "$@"'


def pin(request: Fields, wire: Wire) -> Fields:
    """Pin all clocks to their most in this power mode, say so, and keep them until stdin closes.

    Raises ``Problem`` where there is no ``jetson_clocks`` or no right to use it. What was before is stored first, and
    restored by a process of its own, which outlives a kill of this one.
    """
    command = command_of(os.geteuid())
    stored = os.path.join(request["root"], "clocks.stock")
    with contextlib.suppress(OSError):
        os.remove(stored)
    _run([*command, "--store", stored])
    guard = subprocess.Popen(
        ["sh", "-c", GUARD, "sh", *command, "--restore", stored],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _run(command)
    wire.event(event="pinned", guard=guard.pid)
    while True:
        time.sleep(3600)


def command_of(user: int) -> List[str]:
    """Return how the tool is called by a user: root directly, others through sudo without a password."""
    tool = shutil.which(TOOL)
    if tool is None:
        raise Problem(
            "environment",
            "The device has no %s, so its clocks can't be pinned." % TOOL,
            "Leave pin_clocks out of the device's entry in devices.toml.",
        )
    return [tool] if user == 0 else ["sudo", "-n", tool]


def _run(command: List[str]) -> None:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TOOL_LIMIT_S, check=False)
        said, status = (done.stderr or done.stdout).decode("utf-8", "replace").strip()[-300:], done.returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        said, status = str(error), 1
    if status != 0:
        raise Problem(
            "environment",
            "The device's clocks can't be pinned: %s says %r." % (" ".join(command), said),
            "Let this user run it by sudo without a password, or leave pin_clocks out of devices.toml.",
        )
