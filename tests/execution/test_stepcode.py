from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import edgebuild
from edgebuild.execution import stepcode
from edgebuild.execution.stepcode import NEUTRAL, bare_source, code_digest, discover_steps, step_name

from . import step_lock
from .golden_keys import example

if TYPE_CHECKING:
    from edgebuild.core.steps import Step

PLAIN = """
x = 1
def f(a):
    s = "# no comment"
    return (a,
            s)
"""

DRESSED = '''"""A module.

With é and more."""
# why

x = 1  # one

def f(a):
    """Says é."""  # and a comment

    s = "# no comment"
    return (a,
            # in between
            s)
'''


def test_comments_docstrings_and_blank_lines_do_not_count() -> None:
    assert bare_source(DRESSED) == bare_source(PLAIN)


@pytest.mark.parametrize("change", [("x = 1", "x = 2"), ("# no comment", "# no  comment"), ("(a", "(a, a")])
def test_any_code_counts(change: tuple[str, str]) -> None:
    assert bare_source(PLAIN.replace(*change)) != bare_source(PLAIN)


STEP = """
from typing import ClassVar
from edgebuild.core.steps import RunsOn, Step

class Prune(Step):
    kind: ClassVar[str] = "prune"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    amount: float
    def run(self, inputs, out_dir, ctx):
        from plant.sub.helper import work
        work()

class NotAStep:
    kind = "no"
"""


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with one step, which uses a helper of its own folder and one from elsewhere."""
    for name, text in {
        "plant/__init__.py": "",
        "plant/far.py": "y = 1",
        "plant/sub/__init__.py": "",
        "plant/sub/step.py": STEP,
        "plant/sub/helper.py": "from plant import far\ndef work(): return 1",
        "plant/sub/device.py": "raise RuntimeError('only for boards')",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "plant"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path / "plant"


def found(plant: Path) -> list[type[Any]]:
    return discover_steps(importlib.import_module("plant"), lambda name: name.endswith(".device"))


def test_steps_are_discovered_once_each(plant: Path) -> None:
    assert [step.__name__ for step in found(plant)] == ["Prune"]


def test_the_digest_covers_all_that_the_step_imports_from_its_package(plant: Path) -> None:
    (step,) = found(plant)
    before = code_digest(step)
    (plant / "sub" / "helper.py").write_text("from plant import far\ndef work(): return 1  # one")
    assert code_digest(step) == before
    (plant / "far.py").write_text("y = 2")
    assert (after := code_digest(step)) != before
    (plant / "sub" / "helper.py").write_text("from plant import far\ndef work(): return 2")
    assert code_digest(step) not in {before, after}


def test_what_is_imported_for_its_types_alone_does_not_count(plant: Path) -> None:
    (step,) = found(plant)
    (plant / "types.py").write_text("class A: ...")
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from plant.types import A\n"
    (plant / "sub" / "helper.py").write_text(text)
    before = code_digest(step)
    (plant / "types.py").write_text("class A:\n    x = 1")
    assert code_digest(step) == before
    (plant / "sub" / "helper.py").write_text(f"{text}else:\n    from plant.types import A")
    other = code_digest(step)
    (plant / "types.py").write_text("class A: ...")
    assert code_digest(step) != other


#: A file that decides what a step in another folder makes, a change in it, and the step.
DECIDING = [
    (
        "judging/intervals.py",
        "_normal_quantile((1 + level) / 2)",
        "_normal_quantile((1 + level) / 3)",
        "building.judge.JudgeOutputs",
    ),
    ("backends/ort/device.py", "VERIFY_TOLERANCE = ", "VERIFY_TOLERANCE = 10 * ", "backends.ort.host.OptimizeOnnx"),
    ("models/qdq.py", "import ", "import string\nimport ", "crosscheck.steps.CompareWithGraph"),
    ("training/loop.py", "import ", "import string\nimport ", "techniques.distilling.distil.Distil"),
    ("devices/runner/feeding.py", "import ", "import string\nimport ", "models.steps.MaterialiseData"),
]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, whose files are what code digests are taken of."""
    here = Path(edgebuild.__file__).parent
    copy = shutil.copytree(here, tmp_path / "edgebuild", ignore=shutil.ignore_patterns("__pycache__"))
    source_of = stepcode.source_of

    def copied(name: str) -> Path | None:
        path = source_of(name)
        return path and copy / path.relative_to(here)

    monkeypatch.setattr(stepcode, "source_of", copied)
    return copy


@pytest.mark.parametrize(("file", "old", "new", "step"), DECIDING, ids=lambda value: value if "/" in value else "")
def test_a_change_in_another_folder_is_noticed_until_a_version_is_raised(
    file: str, old: str, new: str, step: str, tree: Path
) -> None:
    name = f"edgebuild.{step}"
    (made,) = [each for each in step_lock.steps() if step_name(each) == name]
    assert code_digest(made) == locked()[name]["code"], "as it is"
    text = (tree / file).read_text()
    assert old in text
    (tree / file).write_text(text.replace(old, new, 1))
    changed = {"version": made.version, "code": code_digest(made)}
    assert "raise its version" in str(complaint(name, locked()[name], changed))
    assert "has a new version" in str(complaint(name, locked()[name], {**changed, "version": made.version + 1}))


def test_what_is_neutral_is_there_and_has_a_reason() -> None:
    for name, reason in NEUTRAL.items():
        assert stepcode.source_of(name) is not None, name
        assert reason.strip()


def locked() -> dict[str, dict[str, Any]]:
    data: dict[str, dict[str, Any]] = json.loads(step_lock.LOCK.read_text())
    return data


def complaint(name: str, old: dict[str, Any] | None, new: dict[str, Any] | None) -> str | None:
    """What a difference between lock file and code means for the one who made it."""
    if old == new:
        return None
    if old is None or new is None:
        return f"{name} is new or gone: run `make step-lock`"
    if old["version"] == new["version"]:
        return f"the code of {name} changed: raise its version if what it makes changed, then run `make step-lock`"
    if old["code"] == new["code"]:
        return f"{name} has another version but the same code: put the version back"
    return f"{name} changed and has a new version: run `make step-lock`"


def test_each_kind_of_difference_is_told() -> None:
    one = {"version": 1, "code": "a"}
    assert complaint("s", one, dict(one)) is None
    assert "new or gone" in str(complaint("s", None, one))
    assert "raise its version" in str(complaint("s", one, {"version": 1, "code": "b"}))
    assert "put the version back" in str(complaint("s", one, {"version": 2, "code": "a"}))
    assert "has a new version" in str(complaint("s", one, {"version": 2, "code": "b"}))


def test_every_step_is_as_the_lock_file_says() -> None:
    old, new = locked(), step_lock.current()
    complaints = [complaint(name, old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys())]
    assert [text for text in complaints if text] == []


@pytest.mark.parametrize("step", step_lock.steps(), ids=lambda step: step.__name__)
def test_every_field_is_in_the_key_or_shapes_nothing(step: type[Step]) -> None:
    fields = set(step.model_fields)
    assert step.unkeyed <= fields, "unkeyed names a field that doesn't exist"
    keyed = set(example(step).key_fields())
    # The key of what it exports for a technique holds the technique's own key.
    assert keyed == ({"batch", "technique"} if step.kind == "export-layer-pairs" else fields - step.unkeyed)
