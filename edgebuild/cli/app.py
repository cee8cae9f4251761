"""The commands. Each reads its options, calls the library, and prints; nothing heavy is imported at the top."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path  # noqa: TC003 - typer reads it when the program runs
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgebuild.cli.answering import answer
from edgebuild.cli.devices import app as devices_app
from edgebuild.cli.farming import app as farm_app
from edgebuild.cli.options import HERE, AnyDeviceOption, JsonOption, NativeOption, OnFarmOption, ProjectOption
from edgebuild.cli.releases import app as releases_app
from edgebuild.cli.releases import install_release

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.building.context import Options
    from edgebuild.catalogue.project import Project
    from edgebuild.cli.answering import Answer

app = typer.Typer(
    name="edgebuild",
    help="Builds the fastest model artifact that is proven, on the device, to stay inside an accuracy budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
store_app = typer.Typer(no_args_is_help=True, help="The store of finished steps.")
app.add_typer(store_app, name="store")
app.add_typer(devices_app, name="device")
app.add_typer(releases_app, name="release")
app.add_typer(farm_app, name="farm")
app.command("install")(install_release)

TargetsOption = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads it when the program runs
    typer.Option("--target", "-t", help="Target to build for; repeatable. Default: [build].targets of the project."),
]
BudgetOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help='How much worse than the original it may be: "2 points", "1%", "floor 0.9", "agreement 98%". '
        "Default: the project's budget."
    ),
]
TimeOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--time",
        help="A time box for the whole build, such as 90s, 10m or 2h. What doesn't fit is left out. Default: none.",
    ),
]
RecipesOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--recipe", help='Recipe to try; repeatable. "none": only the original. Default: every recipe of the project.'
    ),
]
DeviceOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Device of the inventory, where a target has several. Default: the only one."),
]
BuildOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--build", help="A build's id, or the start of it. Default: the newest build."),
]
MAX_THREADS = 4096
#: An exabyte: more than any disk, and still a whole number of bytes.
MAX_QUOTA_GB = 1e9


def _show_version(asked: bool) -> None:
    if asked:
        from edgebuild import __version__

        print(f"edgebuild {__version__}")
        raise typer.Exit


@app.callback()
def edgebuild(
    version: Annotated[
        # Eager: answered before a command is missed.
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Builds the fastest model artifact that is proven, on the device, to stay inside an accuracy budget."""
    del version


@app.command()
def init(
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            help="An ONNX file, a factory `package.module:function`, or a pickled checkpoint (prints how to convert "
            "it)."
        ),
    ] = None,
    project: ProjectOption = HERE,
    json: JsonOption = False,
) -> None:
    """Write a commented edgebuild.toml from an ONNX file or a factory."""
    from edgebuild.cli.starting import write_starter

    answer(lambda: write_starter(model, project), as_json=json)


@app.command()
def targets(
    name: Annotated[Optional[str], typer.Argument(help="Show one target with its facts. Default: list all.")] = None,  # noqa: UP045
    project: ProjectOption = HERE,
    json: JsonOption = False,
) -> None:
    """Show what can be built for, with facts and their sources."""
    from edgebuild.cli import listing

    answer(lambda: listing.targets(name, project), as_json=json)


@app.command()
def doctor(
    against: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A build's id: report what differs on this machine now. Default: report this machine only."),
    ] = None,
    project: ProjectOption = HERE,
    json: JsonOption = False,
) -> None:
    """Check this machine: backends, versions, ISA features, clocks, sensors, permissions."""
    from edgebuild.cli.doctor import examine

    answer(lambda: examine(against, project), as_json=json)


@app.command()
def plan(
    target: TargetsOption = None,
    budget: BudgetOption = None,
    recipe: RecipesOption = None,
    time: TimeOption = None,
    device: DeviceOption = None,
    farm: OnFarmOption = None,
    project: ProjectOption = HERE,
    json: JsonOption = False,
) -> None:
    """Show what would be tried, what is refused and why, and about how long it takes. Writes nothing."""
    from edgebuild.cli.building import run_plan

    options = replace(_options(target, budget, recipe, time), device=device)
    answer(lambda: run_plan(_load(project), options, farm), as_json=json)


@app.command()
def build(
    target: TargetsOption = None,
    budget: BudgetOption = None,
    recipe: RecipesOption = None,
    time: TimeOption = None,
    remeasure: Annotated[bool, typer.Option(help="Don't reuse measurements of earlier builds.")] = False,
    reread: Annotated[
        bool, typer.Option("--reread", help="Read data and model in spite of declared versions.")
    ] = False,
    device: DeviceOption = None,
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="Compile what this machine can without a device; proves nothing.")
    ] = False,
    farm: OnFarmOption = None,
    project: ProjectOption = HERE,
    json: JsonOption = False,
) -> None:
    """Build: compress, compile, evaluate, measure, choose. Goes on where an interrupted build was."""
    from edgebuild.cli.building import run_build

    for name, given in (("--device", device), ("--farm", farm)):
        if given is not None and no_measure:
            from edgebuild.errors import UsageError

            raise UsageError(f"{name} and --no-measure exclude each other.", hint="Leave one of them out.")
    options = replace(
        _options(target, budget, recipe, time, remeasure), reread=reread, device=device, no_measure=no_measure
    )
    answer(lambda: run_build(_load(project), options, farm), as_json=json)


@app.command()
def bench(
    model: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(
            help="An ONNX file, an OpenVINO .xml, or a folder with an artifact.json; none with --replay.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Another one to compare with, interleaved in one session. Default: none."),
    ] = None,
    backend: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Runtime for an ONNX file: onnxruntime or openvino. Default: onnxruntime."),
    ] = None,
    shape: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Size of a dynamic axis, NAME=SIZE; repeatable. Default: 1."),
    ] = None,
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, max=MAX_THREADS, help="Threads of the runtime. Default: all cores."),
    ] = None,
    quick: Annotated[bool, typer.Option(help="The screen protocol: ranks, proves nothing.")] = False,
    device: AnyDeviceOption = None,
    target: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Let a farm measure on any device of this target; exit code 0, 3 slower, 4 inconclusive."),
    ] = None,
    farm: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="The farm's address, https://HOST:PORT; --device is one of its devices then. "
            "Default: $EDGEBUILD_FARM where --target or --replay is given."
        ),
    ] = None,
    replay: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Measure a record of a farm again, on its device and as it was measured; exit code 0 where both "
            "agree, 3 where they don't, 4 inconclusive. Default: none."
        ),
    ] = None,
    junit: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where a JUnit report of a farm's verdict goes. Default: none."),
    ] = None,
    native: NativeOption = False,
    json: JsonOption = False,
) -> None:
    """Measure any model on this machine, on a device, or on one of a farm; no project needed."""
    from edgebuild.cli.benching import require_one, run_benching

    sizes = tuple(shape or ())
    if replay is not None:
        from edgebuild.cli.farm_replaying import require_alone, run_farm_replay

        require_alone(model, against, backend, shape, threads, quick, device, target, native)
        answer(lambda: run_farm_replay(replay, farm=farm, junit=junit), as_json=json)
        return
    one = require_one(model)
    work: Callable[..., Answer] = run_benching
    if target is not None or farm is not None:
        from edgebuild.cli.farm_benching import run_farm_bench

        work = partial(run_farm_bench, farm=farm, target=target, junit=junit)
    elif junit is not None:
        from edgebuild.errors import UsageError

        raise UsageError(
            "--junit is for the verdict of a farm.", hint="Add --target or --replay, or leave --junit out."
        )
    measure = partial(work, one, against, backend=backend, shape=sizes, threads=threads)
    answer(lambda: measure(quick=quick, device=device, native=native), as_json=json)


@app.command()
def report(
    build: BuildOption = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output", "-o", help="Where to write the HTML file. Default: report.html in the build's folder."
        ),
    ] = None,
    project: ProjectOption = HERE,
    json: JsonOption = False,
) -> None:
    """Show a build's result and write it as one offline HTML file."""
    from edgebuild.cli import building

    answer(lambda: building.report(project, build, output), as_json=json)


@app.command()
def explain(
    candidate: Annotated[str, typer.Argument(help="A candidate's id or number in the report, or a part of the id.")],
    build: BuildOption = None,
    project: ProjectOption = HERE,
    json: JsonOption = False,
) -> None:
    """Say where each point of accuracy and each millisecond went, and why a step was rebuilt."""
    from edgebuild.cli.building import explanation

    answer(lambda: explanation(project, build, candidate), as_json=json)


@app.command()
def schema(
    command: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            help='A command, such as "farm list", or "error" for what is printed where one fails. Default: all.',
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of what a command prints with --json."""
    from edgebuild.cli.schemas import print_schema

    print_schema(" ".join(command or ()))


@app.command()
def mcp(
    allow_changes: Annotated[
        bool,
        typer.Option(
            "--allow-changes", help="Also tools that run the project's code (plan) or use the farm's devices."
        ),
    ] = False,
    project: ProjectOption = HERE,
) -> None:
    """Answer an agent (Model Context Protocol, on standard input and output): builds, and $EDGEBUILD_FARM."""
    from edgebuild.cli.agents import serve

    serve(project, changes=allow_changes)


@store_app.command("du")
def store_du(project: ProjectOption = HERE, json: JsonOption = False) -> None:
    """Show what the store holds."""
    from edgebuild.cli.storing import usage

    answer(lambda: usage(project), as_json=json)


@store_app.command("gc")
def store_gc(
    quota_gb: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Shrink the store to this size. Default: the project's quota."),
    ] = None,
    project: ProjectOption = HERE,
    json: JsonOption = False,
) -> None:
    """Remove what was used longest ago until the store fits its quota, and what killed builds left behind."""
    from edgebuild.cli.storing import collect_garbage
    from edgebuild.errors import UsageError

    if quota_gb is not None and not 0 <= quota_gb <= MAX_QUOTA_GB:
        raise UsageError(f"can't take the quota {quota_gb:g}", hint="give gigabytes, such as 20")
    answer(lambda: collect_garbage(project, quota_gb), as_json=json)


def _load(project: Path) -> Project:
    from edgebuild.building.projects import load_project

    return load_project(project)


def _options(
    target: list[str] | None, budget: str | None, recipe: list[str] | None, time: str | None, remeasure: bool = False
) -> Options:
    from edgebuild.building.context import Options

    return Options(
        targets=tuple(target or ()),
        budget=budget,
        recipes=tuple(recipe or ()),
        time_s=None if time is None else _seconds(time),
        remeasure=remeasure,
        command=shlex.join(["edgebuild", *sys.argv[1:]]),
    )


def _seconds(text: str) -> float:
    from edgebuild.errors import UsageError

    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], text[-1:]) if text[-1:] in units else (text, "s")
    try:
        value = float(number) * units[unit]
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise UsageError(f"can't read the time {text!r}", hint="write 90s, 10m or 2h")
    return value
