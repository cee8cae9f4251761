"""Nothing is ever sent: looked at from a fresh process without pytest in it, for which NNCF would switch itself off."""

from __future__ import annotations

import subprocess
import sys

WATCH = """
import socket, sys
sent = []
real = socket.getaddrinfo
def no_network(*arguments, **options):
    sent.append(arguments)
    raise OSError("no network in this test")
socket.getaddrinfo = no_network
socket.socket.connect = lambda *a: no_network(*a)
"""

USE = """
from edgebuild.quantisers.nncf import _import_nncf
nncf = _import_nncf()
import openvino
from openvino.tools import ovc
from nncf.telemetry.wrapper import telemetry
telemetry.start_session("nncf")
telemetry.send_event("nncf", "a", "b", force_send=True)
ovc.telemetry.send_event("ov", "a", "b")
telemetry.end_session("nncf")
import time
time.sleep(0.5)
print("sent:", sent, "package:", sys.modules["openvino_telemetry"])
"""


def _run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_nncf_and_openvino_cannot_send() -> None:
    assert "sent: [] package: None" in _run(WATCH + USE)


BEFORE = """
from types import SimpleNamespace
from openvino_telemetry.utils.sender import TelemetrySender
from edgebuild.quantisers.nncf import forbid_telemetry
import time
backend = SimpleNamespace(send=lambda message: sent.append(message))
TelemetrySender().send(backend, "control")
time.sleep(0.2)
forbid_telemetry()
TelemetrySender().send(backend, "real")
time.sleep(0.2)
print("sent:", sent)
"""


def test_even_if_the_package_was_imported_before() -> None:
    assert "sent: ['control']" in _run(WATCH + BEFORE)
