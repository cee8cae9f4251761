"""What a device said about an artifact: raw evidence and what is derived from it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgebuild.core.values import Value

#: A reading that this machine cannot give. Never a pass, never a zero.
UNKNOWN = "unknown"


class Fact(Value):
    """One reading of the environment, as text; ``unknown`` where it can't be read."""

    name: str
    value: str


class Launch(Value):
    """One fresh process on the device.

    ``samples`` is the relative path of the raw latencies (little-endian int64 nanoseconds, one per inference, input
    and output copies included). ``invalid`` holds the reasons why this launch must not count.

    With several ``requests`` in flight ``per_s`` calls were completed a second, whatever their batch, and the samples
    are the starts, then the ends of all calls; ``median_ns`` is then the latency alongside the other requests.
    ``concurrent`` is false where the backend, or the model's state, allows one request at a time only.

    Of an artifact that ends early, ``exits`` says how many of the inferences ended where, ``mean_ns`` what one took in
    that mix: its median would be the time of whichever exit most took.

    Samples may be taken in ``bursts``, in turn with other processes: this is how many each holds, and ``burst_ns`` are
    their medians.

    Of an artifact that ships a weights file, ``decode_s`` is the part of ``load_s`` that decoding it took, and
    ``decoded_bytes`` what came out.
    """

    index: int = Field(ge=0)
    arm: str
    samples: str
    samples_sha256: str
    count: int = Field(ge=0)
    median_ns: int = Field(ge=0)
    requests: int | None = None
    concurrent: bool | None = None
    per_s: float | None = None
    mean_ns: int | None = None
    exits: tuple[tuple[str, int], ...] = ()
    bursts: tuple[int, ...] = ()
    burst_ns: tuple[int, ...] = ()
    start_s: float | None = None
    import_s: float
    load_s: float
    decode_s: float | None = None
    decoded_bytes: int | None = None
    warm_load_s: float | None = None
    first_inference_s: float
    warmup_inferences: int
    settled: bool
    page_cache: Literal["warm", "cold", "unknown"] = "unknown"
    environment: tuple[Fact, ...] = ()
    invalid: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether the launch counts."""
        return not self.invalid

    @property
    def cost_ns(self) -> float:
        """What launches are compared by, less is better: the median latency; in flight the time per completed call.

        Where an artifact ends early, the mean latency.
        """
        if self.per_s is not None:
            return 1e9 / self.per_s
        return float(self.median_ns if self.mean_ns is None else self.mean_ns)


class Percentile(Value):
    """A latency percentile; ``value_ms`` is ``None`` below its minimum sample count ("n/a, needs N")."""

    p: float
    value_ms: float | None
    needs_n: int


class Memory(Value):
    """Peak memory in a launch of its own, from VmHWM and smaps_rollup.

    ``decode_peak_bytes``: of the part of loading that decodes a weights file, where there is one.
    ``emulated``: of a process under an emulator, whose own share (part of every other figure) is ``emulator_bytes``.
    """

    baseline_bytes: int
    load_peak_bytes: int
    inference_peak_bytes: int
    pss_peak_bytes: int | None = None
    decode_peak_bytes: int | None = None
    emulated: bool = False
    emulator_bytes: int | None = None

    @property
    def peak_bytes(self) -> int:
        """The highest resident memory of the whole process."""
        return max(self.load_peak_bytes, self.inference_peak_bytes)


class Energy(Value):
    """Energy per inference in a launch of its own; only where a sensor exists."""

    rail: str
    gross_j_per_inference: float
    net_j_per_inference: float
    idle_w: float
    load_w: float


class LatencySummary(Value):
    """Derived from the valid launches: point = median of launch medians; interval = t on log-medians.

    Of an artifact that ends early: of launch means, and ``exits`` holds the share of inferences that ended where.
    ``decode_ms`` is the part of ``load_ms`` that a weights file takes, which becomes ``decoded_bytes``.
    """

    launches: int
    invalid_launches: int
    point_ms: float
    low_ms: float | None = None
    high_ms: float | None = None
    percentiles: tuple[Percentile, ...] = ()
    throughput_per_s: float
    load_ms: float
    decode_ms: float | None = None
    decoded_bytes: int | None = None
    first_inference_ms: float
    cold_start_ms: float | None = None
    outliers: int = 0
    spread: float | None = None
    exits: tuple[tuple[str, float], ...] = ()


class ThroughputSummary(Value):
    """Derived from the valid launches with ``requests`` in flight: samples (batch included) completed a second.

    Point: the median of the launches' rates; interval: t on their logarithms. ``latencies`` are those of a call beside
    the other requests, never those of a call alone. ``concurrent`` is false where only one could be in flight.
    """

    launches: int
    invalid_launches: int
    requests: int
    concurrent: bool
    per_s: float
    low_per_s: float | None = None
    high_per_s: float | None = None
    latencies: tuple[Percentile, ...] = ()
    spread: float | None = None


class Measurement(Value):
    """One artifact under one protocol on one device in one session; append-only."""

    schema_version: Literal[1] = 1
    protocol: Literal["screen", "certify", "layers"]
    artifact_digest: str
    runner_digest: str
    inputs_digest: str
    device: str
    configuration: tuple[Fact, ...]
    mode: Literal["locked", "deployed"] = "deployed"
    taken_at: str
    launches: tuple[Launch, ...]
    memory: Memory | None = None
    energy: Energy | None = None


class Layer(Value):
    """One layer as the runtime really runs it."""

    name: str
    op: str
    precision: str
    time_us: float | None = None


class Comparison(Value):
    """Two measurements compared; ``effect`` is the log-ratio candidate / baseline (negative is faster)."""

    outcome: Literal["better", "worse", "equivalent", "inconclusive"]
    effect: float
    low: float
    high: float
    pairs: int
    look: int = 1
    resolution: float | None = None


class Emulation(Value):
    """What an emulated device showed of an artifact in addition to its outputs and its memory. Nothing of it is a time.

    ``parity`` is the greatest difference of an fp32 artifact's outputs to the reference's over the frames of the
    validation sample, relative to the greatest output. ``instructions`` are those of one inference by class;
    ``not_counted`` says why there are none.
    """

    parity: float | None = None
    instructions: tuple[tuple[str, int], ...] = ()
    not_counted: str = ""

    @property
    def total(self) -> int:
        """All instructions of one inference."""
        return sum(count for _, count in self.instructions)


class Measurements(Value):
    """Everything that was measured of one artifact with its settings under one protocol; None is not measured."""

    latency: LatencySummary | None = None
    throughput: ThroughputSummary | None = None
    memory: Memory | None = None
    energy: Energy | None = None
    versus_reference: Comparison | None = None
    layers: tuple[Layer, ...] = ()
    emulation: Emulation | None = None


class LayerTime(Value):
    """One layer in isolation on a device, and what would take its place: medians over launches, and both compared."""

    before_ms: float = Field(gt=0)
    after_ms: float = Field(gt=0)
    comparison: Comparison
