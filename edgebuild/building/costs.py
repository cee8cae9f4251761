"""What one piece of work is expected to take, for a plan: estimates, never evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.building.layer_times import untimed
from edgebuild.building.ways import way_of
from edgebuild.core.objective import OBJECTIVES
from edgebuild.planning.inputs import UnitCosts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgebuild.building.context import Options
    from edgebuild.catalogue.project import Project
    from edgebuild.core.capabilities import Capabilities

#: What a small CPU does in a second, and what a frame costs in addition to its arithmetic.
ASSUMED_MACS_PER_S = 50e9
ASSUMED_FRAME_S = 0.0002
ASSUMED_MACS = 10_000_000
ASSUMED_FRAMES = 5_000
#: What the cross-check of one candidate computes, in frames of the optimised model: 32 frames, drawn eight times over,
#: unoptimised, which is taken to be five times as long.
UNOPTIMISED_FRAMES = 32 * 9 * 5
#: What a step of a recipe takes in addition to its training. A sample of the training counts as the arithmetic of four
#: inferences: forwards, twice that backwards, and what the teacher answers.
ASSUMED_COMPRESS_S = 10.0
ASSUMED_TRAIN_FRAMES = 50_000
TRAINING_INFERENCES = 4


def unit_costs(
    project: Project, options: Options, macs: int | None, frames: Mapping[str, int], can: Capabilities
) -> tuple[UnitCosts, tuple[str, ...]]:
    """Return the costs, and what a plan says of them. ``frames`` holds the size of each split that was read already."""
    objective = OBJECTIVES[project.build.objective]
    arithmetic_s = (macs or ASSUMED_MACS) / ASSUMED_MACS_PER_S
    frame_s = ASSUMED_FRAME_S + arithmetic_s
    validation, test = frames.get("validation", ASSUMED_FRAMES), frames.get("test", ASSUMED_FRAMES)
    layer_s = 2 * options.layers.launches * options.layers.launch_s
    costs = UnitCosts(
        compress_s=ASSUMED_COMPRESS_S,
        time_layer_s=0.0 if untimed(objective, can) else layer_s,
        train_sample_s=TRAINING_INFERENCES * arithmetic_s,
        prepare_s=5.0 + 2 * frame_s * validation,
        quantise_s=2.0 + 400 * frame_s,
        compile_s=1.0,
        evaluate_s=1.0 + frame_s * validation,
        evaluate_test_s=1.0 + 2 * frame_s * test,
        crosscheck_s=1.0 + UNOPTIMISED_FRAMES * frame_s,
        screen_launch_s=options.screen.launch_s,
        certify_launch_s=options.certify.launch_s,
        certify_launches=options.certify.launches,
        certify_sessions=1 + (objective.concurrent or project.limits.throughput_per_s is not None),
    )
    return way_of(can).expect(costs, macs)
