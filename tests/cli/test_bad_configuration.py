"""What is wrong with the command or with edgebuild.toml is told before anything is read, made or measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .example import TABLES, refused, run, toml, write_project

if TYPE_CHECKING:
    from pathlib import Path

EXPLAINED = "Every key is explained in docs/edgebuild-toml.md."

TABLE_PROBLEMS: dict[str, tuple[dict[str, str | None], tuple[str, ...]]] = {
    "unknown key": (
        {"build": 'objectiv = "latency"\ntargets = ["quick"]'},
        ('[build].objectiv: unknown key; did you mean "objective"?',),
    ),
    "unknown table": ({"buget": "points = 1.0"}, ('[buget]: unknown key; did you mean "budget"?',)),
    "wrong type": ({"budget": 'points = "two"'}, ('[budget].points: must be a number, got "two"',)),
    "unknown metric": (
        {"metric": 'name = "acuracy"'},
        ('[metric].name: unknown metric "acuracy"; did you mean "accuracy"?',),
    ),
    "missing table": ({"data": None}, ("[data]: is missing",)),
    "two kinds of budget": (
        {"budget": "points = 2.0\nfloor = 0.9"},
        ("[budget]: needs exactly one of `points`, `relative`, `floor` or `agreement`, got points and floor",),
    ),
    "a pickled checkpoint": (
        {"model": 'factory = "net:build"\nweights = "net.pt"'},
        (
            "[model].weights: must be a .safetensors file; edgebuild never loads a pickled checkpoint "
            '(`edgebuild init <checkpoint>` shows how to convert one), got "net.pt"',
        ),
    ),
    "several at once": (
        {
            "model": 'onxn = "model.onnx"',
            "[inputs]": 'name = "image"\nshape = ["batch", 0]\ndtype = "flot32"',
            "budget": "points = -1",
            "build": 'objective = "latancy"\ntargets = ["quick"]',
        },
        (
            '[model].onxn: unknown key; did you mean "onnx"?',
            "[[inputs]]#1.shape#2: must be a size of at least 1, or the name of a dynamic axis, got 0",
            '[[inputs]]#1.dtype: must be "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", '
            '"uint16", "uint32", "uint64" or "bool", got "flot32"; did you mean "float32"?',
            "[budget].points: must be greater than 0, got -1",
            '[build].objective: must be "latency", "throughput", "size" or "memory", got "latancy"; '
            'did you mean "latency"?',
        ),
    ),
}


@pytest.mark.parametrize("name", TABLE_PROBLEMS)
def test_every_problem_of_the_file_is_told_at_once(name: str, tmp_path: Path) -> None:
    tables, problems = TABLE_PROBLEMS[name]
    write_project(tmp_path, tables)
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    message = f"edgebuild.toml: {count}\n" + "\n".join(f"  - {problem}" for problem in problems)
    refused(
        tmp_path, "plan" if name == "unknown metric" else "build", code=2, message=message, hint=EXPLAINED, driver=False
    )
    assert not (tmp_path / ".edgebuild").exists()


def test_files_that_are_not_there_are_told_with_everything_else(project: Path) -> None:
    (project / "edgebuild.toml").write_text(
        toml({"model": 'onnx = "gone.onnx"', "data": TABLES["data"].replace("data:test", "gone.npz")})
    )
    message = (
        "edgebuild.toml: 2 problems\n"
        f"  - [model].onnx: there is no file {project}/gone.onnx\n"
        f"  - [data].test: there is no file {project}/gone.npz"
    )
    refused(project, "build", code=2, message=message, hint=EXPLAINED, driver=False)


def test_no_project(tmp_path: Path) -> None:
    refused(
        tmp_path,
        "build",
        code=2,
        message="edgebuild.toml: 1 problem\n  - the file doesn't exist",
        hint="`edgebuild init` writes a commented edgebuild.toml.",
        driver=False,
    )


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "edgebuild.toml").mkdir()
    refused(
        tmp_path,
        "build",
        code=2,
        message="edgebuild.toml: 1 problem\n  - the file can't be read: it is a folder, not a file",
        hint="It must be a readable TOML file.",
        driver=False,
    )


def test_a_target_that_does_not_exist(project: Path) -> None:
    for command in ("plan", "build"):
        refused(
            project,
            command,
            "--target",
            "quikc",
            code=2,
            message='Unknown target "quikc"; did you mean "quick"?',
            hint="`edgebuild targets` lists the targets.",
            driver=False,
        )


def test_a_profile_that_does_not_exist(project: Path) -> None:
    (project / "targets" / "quick.toml").write_text('title = "Mine"\nprofiles = ["qiuck"]\n')
    refused(
        project,
        "plan",
        code=2,
        message='target "quick": 1 problem\n  - profiles: unknown profile "qiuck"; did you mean "quick"?',
        hint="Is it the right device for this target?",
        driver=False,
    )


def test_a_board_that_is_not_this_machine(project: Path) -> None:
    ended = run("build", "--target", "jetson-thor", cwd=project, driver=False)
    assert ended.code == 6
    assert ended.err.startswith("edgebuild: No device is enrolled for jetson-thor, and this machine doesn't match it: ")
    assert "--no-measure compiles without one" in ended.err


@pytest.mark.parametrize("target", ["raspberry-pi-5", "jetson-thor"])
def test_a_target_without_a_device_is_planned_from_its_facts(target: str, project: Path) -> None:
    ended = run("plan", "--target", target, cwd=project, driver=False)
    said = " ".join(ended.out.split())
    assert ended.code == 0, ended
    assert f"Plan for {target}: " in said
    assert "/int8-" in said
    assert "Note: planned from the target's facts: no device is enrolled." in said
    assert not (project / ".edgebuild" / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (
            ("--budget", "two-ish"),
            "can't read the budget 'two-ish'",
            'write "2 points" (0.02 on [0, 1]), "1%" (of the original\'s metric), "floor 0.9" or "agreement 98%"',
        ),
        (
            ("--budget", "0 points"),
            "a budget of '0 points' is out of range",
            'write "2 points" (0.02 on [0, 1]), "1%" (of the original\'s metric), "floor 0.9" or "agreement 98%"',
        ),
        (("--time", "soon"), "can't read the time 'soon'", "write 90s, 10m or 2h"),
        (("--time", "-5m"), "can't read the time '-5m'", "write 90s, 10m or 2h"),
        (("--time", "nan"), "can't read the time 'nan'", "write 90s, 10m or 2h"),
        (("--tiem", "5m"), "No such option: --tiem", "`edgebuild --help` lists commands and options."),
    ],
)
def test_garbage_options(arguments: tuple[str, ...], message: str, hint: str, project: Path) -> None:
    ended = run("build", *arguments, cwd=project, driver=False)
    assert ended.err.startswith(f"edgebuild: {message}")
    assert ended.err.endswith(f"  how to fix it: {hint}\n")
    assert ended.code == 2
    assert not (project / ".edgebuild" / "store" / "entries").exists() or not any(
        (project / ".edgebuild" / "store" / "entries").iterdir()
    )


def test_a_pickled_checkpoint_is_never_loaded(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    ended = run("init", "net.pt", cwd=tmp_path, driver=False)
    assert ended.code == 0
    assert ended.out.startswith("net.pt is a pickled file: loading it can run code that someone hid in it")
    assert "save_model(model, 'net.safetensors')" in ended.out
    assert "Then `edgebuild init model:build`" in ended.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pt"]


def test_init_overwrites_nothing(project: Path) -> None:
    before = (project / "edgebuild.toml").read_bytes()
    refused(
        project,
        "init",
        "model.onnx",
        code=2,
        message="edgebuild.toml exists already.",
        hint="Remove it first, or name another folder with --project.",
        driver=False,
    )
    assert (project / "edgebuild.toml").read_bytes() == before


def test_init_of_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    refused(
        tmp_path,
        "init",
        "notes.txt",
        code=2,
        message="'notes.txt' is neither an .onnx file, nor a factory, nor a checkpoint.",
        hint="Give FILE.onnx, or package.module:function.",
        driver=False,
    )
    assert not (tmp_path / "edgebuild.toml").exists()


def test_init_of_weights_without_their_model(tmp_path: Path) -> None:
    refused(
        tmp_path,
        "init",
        "net.safetensors",
        code=2,
        message="'net.safetensors' holds weights only: the model is what a factory of yours returns.",
        hint='Give package.module:function, and name the file in edgebuild.toml: weights = "net.safetensors".',
        driver=False,
    )
    assert not (tmp_path / "edgebuild.toml").exists()


def test_what_was_never_built_can_not_be_shown(project: Path) -> None:
    for command in (("report",), ("explain", "quick"), ("doctor", "--against", "2026")):
        refused(
            project,
            *command,
            code=2,
            message=". has no builds yet.",
            hint="`edgebuild build` makes one.",
            driver=False,
        )
