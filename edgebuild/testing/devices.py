"""What every transport promises: see ``edgebuild.devices.transport``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from edgebuild.devices.transport import MAX_LINE_BYTES, Channel, Device
from edgebuild.errors import DeviceError
from edgebuild.testing import require

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WAIT_S = 20.0
ECHO = "import sys\nfor line in sys.stdin:\n    print(line.strip()[::-1], flush=True)\n    break\n"
SLEEP = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
PARENT = (
    "import os, subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, flush=True)\n"
)
ALIVE = (
    "import sys\n"
    "try: state = open('/proc/%s/stat' % sys.argv[1]).read().rpartition(')')[2].split()[0]\n"
    "except OSError: state = 'gone'\n"
    "print('no' if state in ('Z', 'X', 'gone') else 'yes', flush=True)\n"
)


def check_device(device: Device, scratch: Path) -> None:
    """Raise ``ContractBroken`` for the first promise of a transport that ``device`` breaks. Takes a few seconds."""
    require(
        isinstance(device, Device),
        "a device has id, root, python, capabilities, detached, on_host, open, put, get, remove and close",
    )
    require(bool(device.id and device.root and device.python), "id, root and python are not empty")
    _check_files(device, scratch)
    _check_talk(device)
    _check_timeout(device)
    _check_output_bounds(device)
    _check_exit(device)
    _check_kill(device, SLEEP, "kill ends a program that never would")
    _check_kill(device, PARENT, "kill ends what the program left running behind it")
    _check_kill(device, PARENT + "time.sleep(600)\n", "kill ends what the program started")


def _check_files(device: Device, scratch: Path) -> None:
    source, back = scratch / "source", scratch / "back"
    source.write_bytes(bytes(range(256)) * 100)
    remote = device.put(source, "contract/file")
    require(remote.startswith(device.root), "put places files under the root")
    require(device.put(source, "contract/file") == remote, "put of the same name gives the same path")
    device.get(remote, back)
    require(back.read_bytes() == source.read_bytes(), "get returns the bytes that were put")
    _refuses(lambda: device.put(source, "../escape"), "put refuses a name that leaves the root")
    device.remove(f"{device.root}/contract")
    device.remove(f"{device.root}/contract")
    _refuses(lambda: device.get(remote, back), "get of a removed file is a DeviceError")
    require(back.read_bytes() == source.read_bytes(), "a failed get leaves the destination as it was")


def _check_talk(device: Device) -> None:
    channel = _python(device, ECHO)
    try:
        channel.send("hello")
        require(channel.receive(WAIT_S) == "olleh", "what is sent arrives, what is written comes back")
        require(channel.receive(WAIT_S) is None, "the end of the output is None")
        require(channel.wait(WAIT_S) == 0, "a program that ends well has status 0")
    finally:
        channel.kill()
        channel.kill()


def _check_timeout(device: Device) -> None:
    channel = _python(device, SLEEP)
    try:
        require(bool(channel.receive(WAIT_S)), "the program speaks")
        for what, call in (("receive", lambda: channel.receive(0.1)), ("wait", lambda: channel.wait(0.1))):
            try:
                call()
            except TimeoutError:
                continue
            require(False, f"{what} raises TimeoutError when its time is over")
    finally:
        channel.kill()


def _check_output_bounds(device: Device) -> None:
    channel = _python(device, f"import sys; sys.stdout.write('x' * {MAX_LINE_BYTES + (1 << 20)})")
    try:
        _refuses(lambda: channel.receive(WAIT_S), "an endless line is a DeviceError")
    finally:
        channel.kill()
    noise = "import sys; sys.stderr.write('noise\\n' * 500000); sys.stderr.write('the end'); print('done', flush=True)"
    channel = _python(device, noise)
    try:
        require(channel.receive(WAIT_S) == "done", "much error output doesn't block the program")
        require(channel.wait(WAIT_S) == 0, "much error output doesn't change the status")
        channel.kill()
        tail = channel.stderr_tail()
        require(tail.endswith("the end") and len(tail) < 1 << 20, "stderr_tail is the bounded end of it")
    finally:
        channel.kill()


def _check_exit(device: Device) -> None:
    for code, status in (("raise SystemExit(7)", 7), ("import os, signal; os.kill(os.getpid(), 15)", -15)):
        channel = _python(device, code)
        try:
            require(channel.wait(WAIT_S) == status, f"the status of `{code}` is {status}")
        finally:
            channel.kill()
    _refuses(lambda: device.open(["/nowhere/python"], {}).wait(WAIT_S), "a program that isn't there is a DeviceError")
    channel = device.open([device.python, "-c", "import os; print(os.environ['EDGEBUILD_X'])"], {"EDGEBUILD_X": "a b"})
    try:
        require(channel.receive(WAIT_S) == "a b", "env reaches the program as it is")
    finally:
        channel.kill()


def _check_kill(device: Device, program: str, promise: str) -> None:
    channel = _python(device, program)
    pid = ""
    try:
        pid = channel.receive(WAIT_S) or ""
    finally:
        channel.kill()
    deadline = time.monotonic() + WAIT_S
    while _alive(device, pid):
        require(time.monotonic() < deadline, promise)


def _alive(device: Device, pid: str) -> bool:
    channel = device.open([device.python, "-c", ALIVE, pid], {})
    try:
        return channel.receive(WAIT_S) == "yes"
    finally:
        channel.kill()


def _python(device: Device, program: str) -> Channel:
    return device.open([device.python, "-c", program], {})


def _refuses(call: Callable[[], object], promise: str) -> None:
    try:
        call()
    except DeviceError:
        return
    require(False, promise)
