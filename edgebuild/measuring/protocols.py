"""The named protocols. Launches carry the variance, so launches are what is counted.

*screen* ranks candidates inside a build: never a claim, can't be released. *certify* holds at most four finalists
against the reference artifact, interleaved in one session. *layers* times one layer against its replacement.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgebuild.core.values import Value

#: The most finalists that one certify session takes alongside the reference artifact.
MAX_FINALISTS = 4


class Protocol(Value):
    """How an arm is launched: ``launches`` fresh processes, up to ``max_launches`` where further looks are needed.

    With ``bursts`` the arms of a round are alive together, one runs at a time while the others are stopped, and each
    takes so many bursts of ``burst_s`` (and at least ``burst_inferences``) in turn with the others. Without, or
    ``apart``, one process follows the other.

    A launch whose threads stood ready without a core for a larger share of the time than stated, or with more of the
    CPU time stolen by the host, is disturbed where its samples show it, their quartiles lying further apart than
    ``spread_ratio``: it is made again up to ``attempts`` times, and doesn't count.

    ``mode``: ``single`` times one request after the other; ``flight`` keeps as many in flight as the runtime wants and
    counts what is completed. Their figures never mix.
    """

    name: Literal["screen", "certify", "layers"]
    mode: Literal["single", "flight"] = "single"
    launches: int = Field(ge=1)
    max_launches: int = Field(ge=1)
    sample_s: float = Field(gt=0)
    bursts: int = Field(default=0, ge=0, le=10_000)
    burst_s: float = Field(default=0.05, gt=0)
    burst_inferences: int = Field(default=3, ge=1)
    warmup_min_s: float = Field(default=1.0, ge=0)
    warmup_min_inferences: int = Field(default=10, ge=0)
    warmup_cap_s: float = Field(gt=0)
    rotate: int = Field(default=16, ge=1)
    waiting_ratio: float = 0.1
    steal_ratio: float = 0.02
    spread_ratio: float = 0.05
    attempts: int = Field(default=1, ge=1)
    schema_version: Literal[3] = 3

    @property
    def launch_s(self) -> float:
        """About what one launch takes, start and load included; for estimates only."""
        return self.start_s + self.bursts * self.turn_s if self.bursts else self.sample_s + self.warmup_min_s + 1.2

    @property
    def start_s(self) -> float:
        """About what passes before a launch takes its first burst."""
        return self.warmup_min_s + 1.7

    @property
    def turn_s(self) -> float:
        """About what one burst takes, with waking and stopping the process."""
        return 1.1 * self.burst_s

    @property
    def looks(self) -> tuple[int, ...]:
        """After how many launches of each arm it is looked whether the question is settled: each time twice as many."""
        found = [self.launches]
        while 2 * found[-1] <= self.max_launches:
            found.append(2 * found[-1])
        return (*found[:-1], self.max_launches)

    def apart(self) -> Protocol:
        """Return the protocol of the same name in which one process follows the other."""
        return {"screen": SCREEN_APART, "certify": CERTIFY_APART}.get(self.name, self) if self.bursts else self

    def in_flight(self) -> Protocol:
        """Return the same protocol with several requests in flight, one process after the other."""
        return self.apart().model_copy(update={"mode": "flight"})


SCREEN = Protocol(
    name="screen", launches=2, max_launches=2, bursts=10, sample_s=2.5, warmup_min_s=0.5, warmup_cap_s=10.0
)
CERTIFY = Protocol(name="certify", launches=6, max_launches=24, bursts=30, sample_s=5.0, warmup_cap_s=60.0, attempts=3)
#: Where the arms can't be alive together: they don't fit into memory, say.
SCREEN_APART = Protocol(name="screen", launches=3, max_launches=3, sample_s=2.5, warmup_cap_s=10.0)
CERTIFY_APART = Protocol(name="certify", launches=10, max_launches=20, sample_s=5.0, warmup_cap_s=60.0, attempts=3)
#: A layer takes microseconds: a second holds samples enough, and rounds in both orders are what tells two apart.
LAYERS = Protocol(
    name="layers", launches=4, max_launches=8, sample_s=1.0, warmup_min_s=0.3, warmup_cap_s=5.0, attempts=2
)
