"""The runner itself, on this Python and on 3.8: its protocol, its end, its memory, and what it reads of a machine."""

from __future__ import annotations

import json
import os
import py_compile
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from edgebuild.backends.table import TABLE
from edgebuild.core.values import digest_bytes, digest_json
from edgebuild.devices.bundle import RUNNER, build_bundle
from edgebuild.devices.client import PROTOCOL, RunnerClient
from edgebuild.devices.local import LocalDevice
from edgebuild.devices.runner.energy import find_sensor
from edgebuild.devices.runner.environment import BOUNDS, Snapshot, compare, page_cache
from edgebuild.devices.runner.machine import Machine
from edgebuild.errors import DeviceError, UsageError
from tests import needs

FILES = {backend.name: backend.device_file for backend in TABLE}


def python38() -> str:
    """Return a real Python 3.8, or skip."""
    needs.skip_without(needs.python_need("3.8"))
    return str(needs.python("3.8"))


def client(root: Path, python: str = sys.executable) -> RunnerClient:
    return RunnerClient(LocalDevice(root / "device", python), FILES)


def test_probe_tells_this_machine(tmp_path: Path) -> None:
    facts = client(tmp_path).call("probe", {}, time_limit_s=60.0)
    assert facts["arch"] == os.uname().machine
    assert facts["cores"] == os.cpu_count()
    assert set(facts["runtime"]) == set(FILES)
    assert facts["runtime"]["onnxruntime"] != "unknown"
    assert None not in facts.values()


def test_probe_on_python_38(tmp_path: Path) -> None:
    facts = client(tmp_path, python38()).call("probe", {}, time_limit_s=60.0)
    assert facts["python"].startswith("3.8.")
    assert facts["runtime"] == dict.fromkeys(FILES, "unknown")


def test_every_file_that_is_sent_compiles_on_python_38(tmp_path: Path) -> None:
    bundle = tmp_path / "runner.pyz"
    bundle.write_bytes(build_bundle(FILES))
    zipfile.ZipFile(bundle).extractall(tmp_path / "out")
    code = "import compileall, sys; sys.exit(not compileall.compile_dir(sys.argv[1], quiet=1))"
    done = subprocess.run([python38(), "-c", code, str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_staging_on_python_38_links_and_moves_nothing_twice(tmp_path: Path) -> None:
    here = client(tmp_path, python38())
    folders = []
    for name in ("a", "b"):
        folder = tmp_path / name
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "same").write_bytes(b"same bytes")
        (folder / "own").write_text(name)
        folders.append(here.put_folder(folder))
    assert folders[0] != folders[1]
    first, second = (Path(folder) / "deep" / "same" for folder in folders)
    assert first.read_bytes() == b"same bytes"
    assert first.stat().st_ino == second.stat().st_ino
    assert here.put_folder(tmp_path / "a") == folders[0]
    (tmp_path / "a" / "own").write_text("changed")
    assert here.put_folder(tmp_path / "a") not in folders


def test_a_file_damaged_on_the_disk_is_sent_again(tmp_path: Path) -> None:
    here = client(tmp_path)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "file").write_bytes(b"right")
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"wrong")
    here.device.put(wrong, f"blobs/{digest_bytes(b'right')}")
    assert (Path(here.put_folder(folder)) / "file").read_bytes() == b"right"


def test_a_file_that_is_damaged_on_every_way_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = client(tmp_path)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "file").write_bytes(b"right")
    put = here.device.put

    def harm(source: Path, name: str) -> str:
        remote = put(source, name)
        if name.startswith("blobs/"):
            Path(remote).chmod(0o644)
            Path(remote).write_bytes(b"wrong")
        return remote

    monkeypatch.setattr(here.device, "put", harm)
    with pytest.raises(DeviceError, match="The file file was damaged on its way to local"):
        here.put_folder(folder)


def test_paths_that_leave_their_folder_are_refused(tmp_path: Path) -> None:
    entry = {"path": "../../x", "sha256": "0" * 64, "size_bytes": 1}
    with pytest.raises(UsageError, match="would leave its folder"):
        client(tmp_path).call("stage", {"digest": digest_json([entry]), "files": [entry]}, time_limit_s=30.0)
    with pytest.raises(UsageError, match="'abc' is not the digest of these files"):
        client(tmp_path).call("stage", {"digest": "abc", "files": []}, time_limit_s=30.0)


def test_an_unknown_operation_and_backend_are_told(tmp_path: Path) -> None:
    here = client(tmp_path)
    with pytest.raises(UsageError, match="no operation 'fly'"):
        here.call("fly", {}, time_limit_s=30.0)
    with pytest.raises(UsageError, match="without the backend 'abacus'"):
        here.call("compile", {"backend": "abacus", "model": "cas/0/model.onnx", "out": "work/0"}, time_limit_s=30.0)


SLOW = """
import time
def version(): time.sleep({seconds}); return "1"
"""


def started(tmp_path: Path, seconds: float, limit_s: float) -> subprocess.Popen[bytes]:
    """Start a runner by hand whose probe takes a while."""
    device_file = tmp_path / "device.py"
    device_file.write_text(SLOW.format(seconds=seconds))
    bundle = tmp_path / "runner.pyz"
    bundle.write_bytes(build_bundle({"slow": device_file}))
    process = subprocess.Popen([sys.executable, "-B", str(bundle)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    request = {
        "protocol": PROTOCOL,
        "op": "probe",
        "root": str(tmp_path),
        "backends": ["slow"],
        "time_limit_s": limit_s,
    }
    assert process.stdin is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    return process


def test_it_ends_when_its_caller_is_gone(tmp_path: Path) -> None:
    process = started(tmp_path, seconds=600, limit_s=600)
    assert process.stdin is not None
    assert process.stdout is not None
    time.sleep(0.5)
    process.stdin.close()
    assert process.wait(timeout=20) == 3
    process.stdout.close()


def test_it_ends_at_its_own_limit_though_nobody_ends_it(tmp_path: Path) -> None:
    process = started(tmp_path, seconds=600, limit_s=0.5)
    assert process.wait(timeout=20) == -14
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()


def test_what_a_runtime_prints_does_not_reach_the_protocol(tmp_path: Path) -> None:
    device_file = tmp_path / "device.py"
    noise = "print('noise')\n    os.system('echo more noise')"
    device_file.write_text(f"import os\ndef version():\n    {noise}\n    return '1'\n")
    here = RunnerClient(LocalDevice(tmp_path / "device"), {"noisy": device_file})
    assert here.call("probe", {}, time_limit_s=60.0)["runtime"] == {"noisy": "1"}


def test_a_request_of_another_protocol_is_refused(tmp_path: Path) -> None:
    bundle = tmp_path / "runner.pyz"
    bundle.write_bytes(build_bundle({}))
    for request in (b'{"protocol": 99, "op": "probe"}\n', b"nonsense\n", b""):
        done = subprocess.run([sys.executable, "-B", str(bundle)], input=request, capture_output=True, timeout=30)
        assert "error" in json.loads(done.stdout)


def test_device_files_compile_here(tmp_path: Path) -> None:
    for path in (*RUNNER.glob("*.py"), *FILES.values()):
        assert py_compile.compile(str(path), cfile=str(tmp_path / "x.pyc"), doraise=True)


def machine(root: Path, files: dict[str, str]) -> Machine:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Machine(str(root))


CPU = "sys/devices/system/cpu/cpu0/cpufreq"
QUIET = {
    "proc/vmstat": "pswpin 5\npswpout 7\n",
    "proc/stat": "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 1 1 1\n",
    "proc/loadavg": "0.10 0.2 0.3 1/100 42\n",
    f"{CPU}/scaling_min_freq": "2000000\n",
    f"{CPU}/scaling_max_freq": "2000000\n",
    f"{CPU}/scaling_cur_freq": "2000000\n",
    f"{CPU}/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
    "sys/class/thermal/thermal_zone0/temp": "45500\n",
    "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp\n",
}
LOOSE = {**BOUNDS, "waiting_ratio": 1e9, "clock_step_s": 1.0}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"proc/vmstat": "pswpin 9\n"}, "memory was swapped in (4 pages, at most 0)"),
        ({"proc/stat": "cpu  150 0 150 1600 0 0 0 100 0 0\n"}, "0.1 of the CPU time was stolen by the host"),
        ({f"{CPU}/scaling_cur_freq": "1900000\n"}, "cpu0 ran below 0.98 of its pinned frequency"),
        (
            {"sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "4\n"},
            "1 throttle counters or alarms changed",
        ),
    ],
)
def test_what_disturbs_a_launch_is_its_reason(tmp_path: Path, change: dict[str, str], reason: str | None) -> None:
    before = Snapshot(machine(tmp_path, QUIET))
    after_machine = machine(tmp_path, change)
    facts, reasons = compare(after_machine, before, Snapshot(after_machine), LOOSE, spread=0.06)
    assert len(reasons) == (reason is not None)
    assert reason is None or reasons[0].startswith(reason)
    values = {fact["name"]: fact["value"] for fact in facts}
    assert (values["governor"], values["hottest_before_c"]) == ("performance", "45.5")


def test_neighbours_disturb_where_the_samples_show_it(tmp_path: Path) -> None:
    stolen = {"proc/stat": "cpu  150 0 150 1600 0 0 0 100 0 0\n"}
    before = Snapshot(machine(tmp_path, QUIET))
    after = Snapshot(machine(tmp_path, stolen))
    facts, reasons = compare(machine(tmp_path, stolen), before, after, LOOSE, spread=0.05)
    assert reasons == []
    assert {"name": "steal_ratio", "value": "0.1"} in facts
    swapped = machine(tmp_path, {"proc/vmstat": "pswpin 9\n"})
    assert len(compare(swapped, before, Snapshot(swapped), LOOSE, spread=0.0)[1]) == 1


def test_a_machine_that_tells_nothing_is_unknown_and_not_invalid(tmp_path: Path) -> None:
    empty = machine(tmp_path, {})
    facts, reasons = compare(empty, Snapshot(empty), Snapshot(empty), LOOSE, spread=0.0)
    assert reasons == []
    values = {fact["name"]: fact["value"] for fact in facts}
    assert {values[n] for n in ("governor", "steal_ratio", "swap_in_pages", "throttle_changes")} == {"unknown"}


def test_page_cache_says_only_what_it_knows() -> None:
    assert page_cache(10, 10, 1000) == "warm"
    assert page_cache(10, 2000, 1000) == "cold"
    assert page_cache(10, 500, 1000) == "unknown"
    assert page_cache(None, 500, 1000) == "unknown"


def test_energy_counter_that_wraps_loses_nothing(tmp_path: Path) -> None:
    folder = "sys/class/powercap/intel-rapl:0"
    files = {f"{folder}/energy_uj": "9000000", f"{folder}/max_energy_range_uj": "10000000"}
    files[f"{folder}/name"] = "package-0"
    sensor = find_sensor(machine(tmp_path, files))
    assert sensor is not None
    assert (sensor.kind, sensor.rail, sensor.joules()) == ("powercap", "package-0", 0.0)
    machine(tmp_path, {f"{folder}/energy_uj": "500000"})
    assert sensor.joules() == pytest.approx(1.5)


def test_a_jetson_rail_is_integrated_over_time(tmp_path: Path) -> None:
    folder = "sys/class/hwmon/hwmon3"
    files = {f"{folder}/name": "ina3221"}
    for channel, label in ((1, "VDD_CPU"), (2, "VDD_IN")):
        files |= {f"{folder}/in{channel}_label": label, f"{folder}/in{channel}_input": "5000"}
        files |= {f"{folder}/curr{channel}_input": "2000"}
    sensor = find_sensor(machine(tmp_path, files))
    assert sensor is not None
    assert (sensor.kind, sensor.rail) == ("ina3221", "VDD_IN")
    start, first = time.monotonic(), sensor.joules()
    time.sleep(0.05)
    joules = sensor.joules() - first
    assert 0.5 * 10 * 0.05 < joules < 1.5 * 10 * (time.monotonic() - start)


def test_no_sensor_is_unknown_and_loads_nothing(tmp_path: Path) -> None:
    if find_sensor(Machine()) is not None:
        pytest.skip("this machine has a power sensor")
    answer: dict[str, Any] = client(tmp_path).call("energy", {"artifact": "cas/nothing"}, time_limit_s=30.0)
    assert answer == {"sensor": "unknown"}


def test_a_full_disk_of_the_device_is_no_candidates_fault() -> None:
    code = "from edgebuild.devices.runner.protocol import Wire; Wire().fail(OSError(28, 'No space left on device'))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout)["error"]["kind"] == "full"
