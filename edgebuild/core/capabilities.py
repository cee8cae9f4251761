"""What a build can ask of a target's device, and so what it can prove there."""

from __future__ import annotations

from edgebuild.core.values import Value


class Capabilities(Value):
    """``runs``: artifacts run there, and what they answer counts. ``times``: so do their latency and memory.

    ``why`` says why what can't be asked is unknown. Work may take ``patience`` times as long as on a board.
    """

    runs: bool = True
    times: bool = True
    why: str = "not measured"
    patience: float = 1.0


#: A board, or this machine.
BOARD = Capabilities()
#: Right results on an emulated CPU; how long they take, and the memory, are the emulator's.
EMULATED = Capabilities(
    times=False,
    why="the device is emulated, which says nothing about a board's speed or memory: certify on a board",
    # fp32 kernels take 90 to 190 times as long, of which the limits of a real board already allow for a part.
    patience=20.0,
)
#: No device at all: what a host can compile is compiled.
COMPILE_ONLY = Capabilities(
    runs=False,
    times=False,
    why="compiled only (--no-measure): neither its accuracy nor its latency was measured on the target",
)
