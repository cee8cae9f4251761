"""What a user installs is exactly the package and its data, and it works without a checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "edgebuild"
#: Everything in the package that isn't Python. A new kind of file is added here on purpose, or not shipped.
DATA = {
    "edgebuild/py.typed",
    "edgebuild/catalogue/edgebuild.schema.json",
    "edgebuild/devices/emulator/count.c",
    "edgebuild/reporting/report.css",
}
METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
WHERE_THINGS_ARE = """
import json
from pathlib import Path
import edgebuild
from edgebuild.catalogue.profiles import load_profiles
from edgebuild.catalogue.shipped import shipped_folder
from edgebuild.catalogue.targets import load_targets
print(json.dumps({
    "package": edgebuild.__file__,
    "data": str(shipped_folder("targets").parent),
    "targets": sorted(load_targets(None)),
    "profiles": sorted(load_profiles(None)),
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _relative(paths: list[Path]) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in paths}


def test_the_wheel_holds_the_package_its_data_and_nothing_else(names: set[str]) -> None:
    code = _relative(list(PACKAGE.rglob("*.py")))
    pages = _relative(list(PACKAGE.rglob("README.md")))
    shipped = {
        f"edgebuild/_data/{path}" for path in _relative([*ROOT.glob("targets/*.toml"), *ROOT.glob("profiles/*.toml")])
    }
    metadata = {f"edgebuild-0.1.0.dist-info/{name}" for name in METADATA}
    farm = _relative([file for kind in ("html", "css", "js", "svg") for file in PACKAGE.glob(f"farm/**/*.{kind}")])
    assert names == code | pages | farm | DATA | shipped | metadata


def test_what_is_sent_to_a_board_is_inside(names: set[str]) -> None:
    for module in ("__init__", "__main__", "measure", "evaluate", "feeding", "memory", "energy", "environment"):
        assert f"edgebuild/devices/runner/{module}.py" in names
    for module in ("ort/device", "ov/device", "trt/device/__init__"):
        assert f"edgebuild/backends/{module}.py" in names


def test_targets_and_profiles_lie_in_the_package_only(names: set[str]) -> None:
    assert {"edgebuild/_data/targets/this-machine.toml", "edgebuild/_data/profiles/x86-onnx.toml"} <= names
    assert {name.split("/")[0] for name in names} == {"edgebuild", "edgebuild-0.1.0.dist-info"}


def test_an_installed_wheel_finds_its_data_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, *install], check=True, timeout=120)
    answer = subprocess.run(
        [sys.executable, "-c", WHERE_THINGS_ARE],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(answer.stdout) == {
        "package": str(site / "edgebuild" / "__init__.py"),
        "data": str(site / "edgebuild" / "_data"),
        "targets": sorted(path.stem for path in ROOT.glob("targets/*.toml")),
        "profiles": sorted(path.stem for path in ROOT.glob("profiles/*.toml")),
    }
