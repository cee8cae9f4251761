"""`targets` and `plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.catalogue.profiles import load_profiles
from edgebuild.catalogue.shipped import pick
from edgebuild.catalogue.targets import Target, load_targets
from edgebuild.cli.output import make_console

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgebuild.planning.plan import Plan


def show_targets(name: str | None, project: Path) -> None:
    """Print all targets, or one with its facts and where they are known from."""
    from rich.table import Table
    from rich.text import Text

    folder = project if project.is_dir() else project.parent
    targets, profiles, console = load_targets(folder), load_profiles(folder), make_console()
    if name is not None:
        _show_target(pick("targets", name, targets), console)
        return
    table = Table("Target", "What it is", "Profiles", "Builds here", box=None, pad_edge=False)
    for target in targets.values():
        ready = [p for p in target.profiles if p in profiles and profiles[p].device_work]
        cells = (target.name, target.title, ", ".join(target.profiles), "yes" if ready else "not yet")
        table.add_row(*map(Text, cells))
    console.print(table)
    console.print("\n`edgebuild targets NAME` shows a target's facts and their sources.")


def _show_target(target: Target, console: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    console.print(f"{target.name}: {target.title}\n")
    console.print(f"Profiles, in order of preference: {', '.join(target.profiles)}\n")
    table = Table("Fact", "Value", "Source", "Date", "Checked", box=None, pad_edge=False)
    for name in type(target.facts).model_fields:
        fact = getattr(target.facts, name)
        if fact is not None:
            value = ", ".join(fact.value) if isinstance(fact.value, tuple) else str(fact.value)
            table.add_row(*map(Text, (name, value, fact.source, fact.date, fact.verified)))
    console.print(table if table.row_count else "It has no facts of its own: everything is probed.")
    given = {k: v for k, v in target.limits.model_dump().items() if v is not None}
    if given:
        console.print(f"\nDefault limits: {', '.join(f'{k} = {v}' for k, v in given.items())}")


def show_plans(plans: Sequence[Plan]) -> None:
    """Print what would be tried."""

    console = make_console()
    for plan in plans:
        console.print(
            f"Plan for {plan.target}: the best {plan.objective} within {plan.budget}, about {minutes(plan.seconds)}.\n",
            markup=False,
        )
        for recipe in plan.recipes:
            console.print(f"Recipe {recipe.name}: {recipe.text}", highlight=False)
        _show_candidates(plan, console)
        for reason in dict.fromkeys(refusal.reason for refusal in plan.refused):
            what = [refusal.what for refusal in plan.refused if refusal.reason == reason]
            text = f"{what[0]}: {reason}" if len(what) == 1 else f"{reason}: {', '.join(what)}"
            console.print(f"Not tried: {text}")
        for note in plan.notes:
            console.print(f"Note: {note}")
        console.print("\nAbout how long:")
        for cost in plan.costs:
            console.print(f"  {cost.stage:28} {minutes(cost.seconds):>8}")


def _show_candidates(plan: Plan, console: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    longest = max(len(candidate.id) for candidate in plan.candidates)
    table = Table(box=None, pad_edge=False)
    # An id is what `explain` is asked with: it is never cut.
    table.add_column("Candidate", overflow="fold", no_wrap=True, min_width=longest)
    table.add_column("Runtime settings raced")
    for candidate in plan.candidates:
        labels = [" ".join(f"{k}={str(v).lower()}" for k, v in settings) for settings in candidate.settings]
        raced = "; ".join(labels) if candidate.raced else "not raced: judged on size and memory"
        table.add_row(*map(Text, (candidate.id + (" (baseline)" if candidate.baseline else ""), raced)))
    console.print(table)
    console.print()


def minutes(seconds: float) -> str:
    """Return a duration as people say it."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
