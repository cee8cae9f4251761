"""One cut of structured pruning: widths, and the proof that what is cut is what was meant.

Imports torch: import it inside functions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from edgebuild.errors import ModelError
from edgebuild.techniques.pruning.channel_groups import DependencyGroups
from edgebuild.techniques.pruning.importance import group_scores
from edgebuild.techniques.pruning.proof import require_proven, silencing
from edgebuild.techniques.skipping import is_skipped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgebuild.techniques.pruning.channel_groups import Group
    from edgebuild.techniques.pruning.parameters import PruneParameters
    from edgebuild.techniques.workspace import Workspace


class Cut(NamedTuple):
    """What became of one group; ``reason`` says why it was left alone."""

    name: str
    before: int
    after: int
    reason: str = ""


def cut(work: Workspace, p: PruneParameters, multiple: int, turn: int) -> list[Cut]:
    """Narrow the model once, the ``turn``-th of ``p.rounds`` times; the shares kept multiply up to ``p.keep``."""
    finder = DependencyGroups(work.module, work.examples)
    groups = finder.groups()
    done = [Cut(g.name, g.width, g.width, reason) for g in groups if (reason := _left_alone(g, p))]
    open_groups = [g for g in groups if not _left_alone(g, p)]
    scores = {g.name: score for g, score in zip(open_groups, group_scores(work, open_groups, p, turn), strict=True)}
    step = p.multiple or multiple
    share = p.keep ** (1 / p.rounds)
    least = p.least ** (1 / p.rounds)
    counts = _counts(scores, share, p.spread)
    accepted: list[tuple[Group, Sequence[int]]] = []
    for group in open_groups:
        work.ctx.check()
        width = _width(group, counts[group.name], least, step)
        if width >= group.width:
            why = f"its {group.width} channels can't be fewer in steps of {math.lcm(step, group.sections)}"
            done.append(Cut(group.name, group.width, group.width, why if group.width <= step else "all are needed"))
            continue
        lost = _lost(scores[group.name], width, group.sections)
        try:
            # With all that was accepted before: what is proven is the very net that comes out.
            cuts = [*accepted, (group, lost)]
            require_proven(work, group.name, finder.edits(cuts), silencing(finder.lost(cuts)))
        except ModelError as error:
            done.append(Cut(group.name, group.width, group.width, error.message))
            continue
        accepted.append((group, lost))
        done.append(Cut(group.name, group.width, width))
    work.apply(*finder.edits(accepted))
    return done


def _left_alone(group: Group, p: PruneParameters) -> str:
    if group.refusal:
        return group.refusal
    skipped = next((m.layer for m in group.members if m.side == "outputs" and is_skipped(m.layer, p.skip)), None)
    return f"{skipped!r} is to be skipped" if skipped else ""


def _counts(scores: Mapping[str, torch.Tensor], share: float, spread: str) -> dict[str, float]:
    """Return how many channels each group would keep, before steps and caps."""
    if spread == "uniform" or not scores:
        return {name: share * len(score) for name, score in scores.items()}
    # Scores of different layers are compared relative to their own mean.
    level = {name: score / score.mean().clamp_min(1e-30) for name, score in scores.items()}
    order = torch.cat(list(level.values())).argsort(descending=True, stable=True)
    owners = torch.cat([torch.full((len(score),), i) for i, score in enumerate(level.values())])
    kept = owners[order[: math.ceil(share * len(order))]]
    return {name: float((kept == i).sum()) for i, name in enumerate(level)}


def _width(group: Group, count: float, least: float, step: int) -> int:
    """Return a width on the steps, at least the cap; the group's own where no smaller one fits."""
    unit = math.lcm(step, group.sections)
    floor = math.ceil(least * group.width / unit) * unit
    return min(group.width, max(unit, floor, round(count / unit) * unit))


def _lost(score: torch.Tensor, width: int, sections: int) -> list[int]:
    """Return the least important channels, equally many of every section."""
    size = len(score) // sections
    each = size - width // sections
    found = []
    for start in range(0, len(score), size):
        order = score[start : start + size].argsort(stable=True)
        found += [start + int(i) for i in order[:each]]
    return sorted(found)
