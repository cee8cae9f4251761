"""Where each target's artifacts run: on this machine, on a device of the inventory, or nowhere (compiled only)."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from edgebuild.building.timebox import wait_until
from edgebuild.catalogue.profiles import load_profiles
from edgebuild.catalogue.resolve import resolve
from edgebuild.catalogue.shipped import pick
from edgebuild.catalogue.targets import load_targets
from edgebuild.core.capabilities import BOARD, COMPILE_ONLY, Capabilities, capabilities_of
from edgebuild.devices.hold import holding
from edgebuild.devices.probe import platform_of
from edgebuild.errors import ConfigError, EnvironmentGap, UsageError
from edgebuild.fleet.inventory import entry_of
from edgebuild.fleet.provider import attached

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from edgebuild.building.context import BuildContext, Options
    from edgebuild.catalogue.project import Project
    from edgebuild.fleet.inventory import DeviceEntry
    from edgebuild.fleet.provider import Attached, DeviceProvider


FROM_FACTS = (
    "planned from the target's facts: no device is enrolled. `edgebuild device add` enrols one, and "
    "`edgebuild build --no-measure` compiles without"
)


@dataclass(frozen=True, kw_only=True)
class KnownDevice:
    """What planning knows of a target's device: its readings, what it can be asked, and what to say of that.

    ``here`` says that it is this machine: what isn't installed here is missing. Elsewhere the readings decide.
    """

    probe: Mapping[str, str]
    can: Capabilities
    here: bool
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def open_targets(context: BuildContext, targets: Sequence[str]) -> Iterator[tuple[BuildContext, ...]]:
    """Yield one context per target, in order: the same project and store, with the target's own device.

    Raises ``EnvironmentGap`` for a target that this machine isn't and no device is known for, ``UsageError`` where
    several devices fit, or nothing is known of a target that isn't measured, ``DeviceError`` for one that doesn't
    answer.
    """
    with contextlib.ExitStack() as stack:
        reached: dict[str, Attached] = {}
        contexts = []
        for target in targets:
            entry = device_of(target, context.project, context.options, context.here, context.devices)
            if entry is not None and entry.name not in reached:
                device = context.devices.connect(entry)
                native = context.client.native_libraries
                reached[entry.name] = stack.enter_context(attached(device, context.backends, native_libraries=native))
            contexts.append(_at(context, target, reached[entry.name] if entry else None, entry))
        yield tuple(contexts)


def _at(context: BuildContext, target: str, at: Attached | None, entry: DeviceEntry | None) -> BuildContext:
    """The context at a target's device; steps on the host stay what they were. Without one: here, or nowhere."""
    if at is None or entry is None:
        executor = context.executor.on(context.executor.configuration, device=context.client)
        here = replace(context, target=target, executor=executor)
        return replace(here, can=COMPILE_ONLY, probe={}, device_name="none") if context.options.no_measure else here
    client = at.client
    hold = holding(client, context.progress, context.check, context.turn.lent, partial(wait_until, context.box))
    return replace(
        context,
        target=target,
        client=client,
        can=client.device.capabilities,
        device_name=client.device.id,
        probe=at.probe,
        executor=context.executor.on(platform_of(client, at.probe), device=client, hold=hold),
        pin_clocks=entry.pin_clocks,
    )


def device_of(
    target: str, project: Project, options: Options, here: Mapping[str, str], devices: DeviceProvider
) -> DeviceEntry | None:
    """Return the known device for a target, or None where this machine (probed as ``here``) is one itself."""
    if options.no_measure:
        check_facts(target, project)
        return None
    entry = enrolled(target, options, devices)
    if entry is None and (differs := not_this_machine(target, project, here)):
        raise EnvironmentGap(
            f"No device is enrolled for {target}, and this machine doesn't match it: {'; '.join(differs)}.",
            hint=f"`edgebuild device add NAME --target {target} --ssh user@host` enrols one, with --emulator instead "
            "of --ssh an emulated one, where the target can be; "
            "--no-measure compiles without one and proves nothing.",
        )
    return entry


def known_device(
    target: str, project: Project, options: Options, here: Mapping[str, str], devices: DeviceProvider
) -> KnownDevice:
    """Return what is known of a target's device without reaching it; a target without one is what its facts say."""
    from_facts = KnownDevice(probe={}, can=COMPILE_ONLY, here=False, notes=(FROM_FACTS,))
    if options.no_measure:
        check_facts(target, project)
        return from_facts
    entry = enrolled(target, options, devices)
    if entry is not None:
        return KnownDevice(probe=entry.facts, can=capabilities_of(entry.facts), here=False)
    if not_this_machine(target, project, here):
        return replace(from_facts, can=BOARD)
    return KnownDevice(probe=here, can=BOARD, here=True)


def check_facts(target: str, project: Project) -> None:
    """Raise ``UsageError`` where a target's file says nothing: without a device that is all that is known of it."""
    if pick("targets", target, load_targets(project.folder)).facts.arch is None:
        raise UsageError(
            f"--no-measure builds for what a target's facts say, and {target} has none: it is known by probing it.",
            hint="Leave --no-measure out, or name a target that states its architecture; `edgebuild targets` lists "
            "them.",
        )


def enrolled(target: str, options: Options, devices: DeviceProvider) -> DeviceEntry | None:
    """Return the known device for a target: the one asked for, else the only one that fits, if any."""
    if options.device is not None:
        entry = entry_of(options.device, devices.entries())
        if entry.target != target:
            raise UsageError(
                f"The device {entry.name} is a {entry.target}, not a {target}.",
                hint=f"Name --target {entry.target}, or leave --device out.",
            )
        return entry
    known = [entry for entry in devices.entries().values() if entry.target == target]
    # An emulator stands in only where there is no board.
    fitting = [entry for entry in known if entry.kind != "emulator"] or known
    if len(fitting) > 1:
        names = ", ".join(sorted(entry.name for entry in fitting))
        raise UsageError(f"There are {len(fitting)} devices of {target}: {names}.", hint="Choose one with --device.")
    return fitting[0] if fitting else None


def not_this_machine(target: str, project: Project, here: Mapping[str, str]) -> tuple[str, ...]:
    """Return what of a target this machine (probed as ``here``) contradicts; empty where it is one.

    Raises ``ConfigError`` for a target that doesn't exist or names profiles that don't.
    """
    wanted = pick("targets", target, load_targets(project.folder))
    known = load_profiles(project.folder)
    try:
        resolve(wanted, known, here)
    except ConfigError as error:
        if any(name not in known for name in wanted.profiles):
            raise
        return error.problems
    return ()
