"""SYNTHETIC build records: the right shape and the wrong numbers. No figure in here was ever measured."""

from __future__ import annotations

import math
import random
from typing import Any, Literal

from edgebuild.core.artifact import Fp16Meaning, Int8Scheme, Precision
from edgebuild.core.budget import Budget
from edgebuild.core.candidate import CandidateSpec
from edgebuild.core.measurement import Comparison, Fact, LatencySummary, Layer, Measurements, Memory, Percentile
from edgebuild.core.record import BuildRecord, CandidateRecord, Note, Refusal, StepRecord
from edgebuild.core.verdict import (
    Closeness,
    CrossCheck,
    Drop,
    LimitCheck,
    Outcome,
    SealedSetAccess,
    SliceDrop,
    Verdict,
)

MIB = 2**20
FP32 = Precision(kind="fp32")
FP16 = Precision(kind="fp16", fp16=Fp16Meaning.STORAGE)


def int8(quantiser: str, *, reduce_range: bool = False) -> Precision:
    scheme = Int8Scheme(activations="uint8", reduce_range=reduce_range)
    return Precision(kind="int8", scheme=scheme, quantiser=quantiser)


def drop(
    points: float, half: float = 0.35, *, split: Literal["validation", "test"] = "validation", **more: Any
) -> Drop:
    value = points / 100
    fields: dict[str, Any] = {
        "metric": "accuracy",
        "split": split,
        "samples": 10_000 if split == "test" else 5_000,
        "reference": 0.928,
        "artifact": 0.928 - value,
        "drop": value,
        "low": value - half / 100,
        "high": value + half / 100,
        "level": 0.95,
        "method": "paired proportions",
        "budget": 0.02,
    }
    return Drop(**(fields | more))


def latency(point_ms: float, *, certified: bool) -> LatencySummary:
    launches, half = (12, 0.012) if certified else (3, 0.05)
    percentiles = [(50, 1.0, 11), (90, 1.13, 64), (99, 1.42, 662), (99.9, None, 6636)]
    return LatencySummary(
        launches=launches,
        invalid_launches=1 if certified else 0,
        point_ms=point_ms,
        low_ms=point_ms * (1 - half),
        high_ms=point_ms * (1 + half),
        throughput_per_s=1000 / point_ms,
        load_ms=point_ms * 40,
        first_inference_ms=point_ms * 9,
        cold_start_ms=310 + point_ms * 50,
        outliers=17,
        spread=half * 1.4,
        percentiles=tuple(
            Percentile(p=p, value_ms=None if f is None else point_ms * f, needs_n=n) for p, f, n in percentiles
        ),
    )


def memory(peak_mib: float) -> Memory:
    return Memory(
        baseline_bytes=int(38.4 * MIB),
        load_peak_bytes=int((peak_mib - 3) * MIB),
        inference_peak_bytes=int(peak_mib * MIB),
        pss_peak_bytes=int((peak_mib - 6) * MIB),
    )


def faster(times: float, half: float = 0.02) -> Comparison:
    effect = -math.log(times)
    return Comparison(
        outcome="better", effect=effect, low=effect - half, high=effect + half, pairs=12, resolution=0.018
    )


def slices() -> tuple[SliceDrop, ...]:
    names = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
    drops = [0.4, 0.0, 0.9, 0.3, 1.2, -0.1, 2.6, 0.1, 0.2, 0.0]
    return tuple(
        SliceDrop(
            slice=n,
            samples=1000,
            reference=0.93,
            artifact=0.93 - d / 100,
            drop=d / 100,
            low=(d - 1.1) / 100,
            high=(d + 1.3) / 100,
            limit=0.05,
        )
        for n, d in zip(names, drops, strict=True)
    )


def layers(precision: str) -> tuple[Layer, ...]:
    found = [Layer(name="input/Quantize", op="Quantize", precision="f32", time_us=3.1)]
    found += [
        Layer(name=f"stage{s}/block{b}/conv{c}", op="Convolution", precision=precision, time_us=14.0 + 5 * s + c)
        for s in range(3)
        for b in range(1, 3)
        for c in range(1, 3)
    ]
    return (
        *found,
        Layer(name="pool", op="ReduceMean", precision="f32", time_us=4.4),
        Layer(name="fc", op="MatMul", precision=precision, time_us=2.2),
    )


def candidate(name: str, precision: Precision, backend: str, status: str, reason: str, **more: Any) -> CandidateRecord:
    profile = "intel-openvino" if backend == "openvino" else "x86-onnx"
    screened = Measurements(latency=more.pop("screen", None))
    measured = {name: more.pop(name) for name in Measurements.model_fields if name in more}
    return CandidateRecord.model_validate(
        {
            "id": name,
            "spec": CandidateSpec(profile=profile, backend=backend, precision=precision),
            "screened": screened,
            "measured": Measurements(**measured),
            "status": status,
            "reason": reason,
            "settings": (("threads", 2), ("spinning", False)),
            **more,
        }
    )


def judged(points: float, half: float = 0.35) -> Verdict:
    over = points - half > 2
    return Verdict(
        outcome=Outcome.REFUSED if over else Outcome.ACCEPTED,
        drop=drop(points, half),
        reasons=(f"the drop of {points} points is over the budget of 2 points",) if over else (),
    )


def _candidates() -> tuple[CandidateRecord, ...]:
    final = Verdict(
        outcome=Outcome.ACCEPTED,
        drop=drop(0.31, 0.24, split="test"),
        slices=slices(),
        limits=(
            LimitCheck(name="latency p99, ms", limit=1.5, measured=0.61, outcome=Outcome.ACCEPTED),
            LimitCheck(name="energy, mJ", limit=4.0, measured=None, outcome=Outcome.INCONCLUSIVE),
        ),
    )
    return (
        candidate(
            "openvino/int8-edgebuild-u8s8/2",
            int8("edgebuild"),
            "openvino",
            "chosen",
            "the fastest candidate inside the budget and every limit",
            size_bytes=98_304,
            artifact_digest="ab" * 32,
            validation=judged(0.28),
            test=final,
            latency=latency(0.412, certified=True),
            screen=latency(0.41, certified=False),
            memory=memory(71.3),
            versus_reference=faster(2.31),
            layers=layers("i8"),
            on_front=True,
            closeness=Closeness(sqnr_db=31.4, kl_nats=0.0041, agreement=0.987),
            crosscheck=CrossCheck(
                cause="rounding",
                explanation="output logits is up to 3.0 steps from the unoptimised graph's: rounding that adds up",
                sample="32 of 10,000 validation frames, spread evenly",
                frames=32,
                output="logits",
                steps=3.0,
                share=0.06,
                reach=0.5,
            ),
        ),
        candidate(
            "onnxruntime/fp32/2",
            FP32,
            "onnxruntime",
            "finalist",
            "the reference: 2.31 times slower than the chosen one",
            size_bytes=354_000,
            validation=judged(0.0, 0.0),
            latency=latency(0.952, certified=True),
            memory=memory(84.0),
            on_front=True,
            artifact_digest="cd" * 32,
            layers=layers("f32"),
        ),
        candidate(
            "onnxruntime/int8-edgebuild-u8s8-7bit/2",
            int8("edgebuild", reduce_range=True),
            "onnxruntime",
            "finalist",
            "inside the budget, but 1.27 times slower than the chosen one",
            size_bytes=101_500,
            validation=judged(0.55),
            latency=latency(0.523, certified=True),
            memory=memory(62.0),
            versus_reference=faster(1.82),
            on_front=False,
        ),
        candidate(
            "openvino/fp32/2",
            FP32,
            "openvino",
            "finalist",
            "slower than the chosen one",
            size_bytes=361_000,
            validation=judged(0.02, 0.05),
            latency=latency(0.701, certified=True),
            memory=memory(88.0),
            versus_reference=faster(1.36),
            on_front=True,
        ),
        candidate(
            "openvino/fp16-storage/2",
            FP16,
            "openvino",
            "dominated",
            "storage only here: computes in fp32, dominated by 1",
            size_bytes=182_000,
            validation=judged(0.01, 0.04),
            screen=latency(0.71, certified=False),
        ),
        candidate(
            "openvino/int8-nncf-u8s8/2",
            int8("nncf"),
            "openvino",
            "dominated",
            "as fast as 1, drops more",
            size_bytes=99_100,
            validation=judged(0.93, 0.4),
            screen=latency(0.42, certified=False),
        ),
        candidate(
            "openvino/int8-edgebuild-u8s8/1",
            int8("edgebuild"),
            "openvino",
            "screened",
            "screened out: 1.6 times slower with one thread",
            size_bytes=98_304,
            validation=judged(0.28),
            screen=latency(0.66, certified=False),
        ),
        candidate(
            "onnxruntime/int8-ort-u8s8/2",
            int8("ort"),
            "onnxruntime",
            "refused",
            "over the budget",
            size_bytes=104_000,
            validation=judged(3.4, 0.5),
            screen=latency(0.55, certified=False),
        ),
        candidate(
            "onnxruntime/int8-ort-u8s8/1",
            int8("ort"),
            "onnxruntime",
            "refused",
            "far over the budget",
            size_bytes=104_000,
            validation=judged(41.2, 1.0),
            screen=latency(0.8, certified=False),
        ),
        candidate(
            "openvino/int8-ort-u8s8/2",
            int8("ort"),
            "openvino",
            "inconclusive",
            "the interval straddles the budget",
            size_bytes=103_000,
            validation=Verdict(outcome=Outcome.INCONCLUSIVE, drop=drop(1.9, 0.4, needed_samples=4200)),
            screen=latency(0.47, certified=False),
        ),
        candidate(
            "onnxruntime/fp16-storage/2",
            FP16,
            "onnxruntime",
            "failed",
            "the compiler refused node 12: Resize has no fp16 kernel",
        ),
    )


def full(**changes: Any) -> BuildRecord:
    """Return a synthetic build in which everything happened."""
    record = BuildRecord(
        build_id="20990101-000000-synthetic",
        project="fashion-mnist",
        target="this-machine",
        device="this machine (synthetic CPU, 2 cores)",
        started_at="2099-01-01T00:00:00Z",
        seconds=431.0,
        objective="latency",
        budget=Budget(points=2.0),
        outcome="ok",
        chosen="openvino/int8-edgebuild-u8s8/2",
        baseline="onnxruntime/fp32/2",
        summary="synthetic",
        test_set=SealedSetAccess(number=1, opened_at="2099-01-01T00:00:00Z", artifacts=("ab",), level=0.95),
        candidates=_candidates(),
        resolution=0.018,
        refused_in_planning=(
            Refusal(what="openvino · fp16-compute", reason="this CPU has no fp16 arithmetic (amx_fp16 is missing)"),
            Refusal(what="tensorrt · every precision", reason="TensorRT isn't installed: pip install it"),
        ),
        steps=(
            StepRecord(label="export", kind="export", key="1f" * 32, reused=True, seconds=0.01, why="nothing changed"),
            StepRecord(
                label="quantise openvino/int8-edgebuild-u8s8/2",
                kind="quantise",
                key="2e" * 32,
                reused=False,
                seconds=21.4,
                why="parameter scheme changed",
                candidate=_candidates()[0].spec.id,
            ),
            StepRecord(label="measure", kind="measure", key="3d" * 32, reused=False, seconds=312.0, why="first build"),
        ),
        facts=(
            Fact(name="arch", value="x86_64"),
            Fact(name="isa", value="avx2 avx512_vnni"),
            Fact(name="power sensors", value="unknown"),
        ),
        environment=(
            Fact(name="governor", value="unknown"),
            Fact(name="load before", value="0.12"),
            Fact(name="steal", value="0.1 %"),
        ),
        versions=(("edgebuild", "0.1.0"), ("onnxruntime", "0.0.0"), ("openvino", "0.0.0")),
        command="edgebuild build --target this-machine --budget '2 points'",
        anchor_ms=(0.2, 0.203, 0.201, 0.208),
        host_peak_bytes=900 * MIB,
    )
    return record.model_copy(update=changes)


def samples(record: BuildRecord, *, per_launch: int = 400) -> dict[str, list[list[int]]]:
    """Return synthetic raw latencies for the certified candidates."""
    source = random.Random(7)
    found: dict[str, list[list[int]]] = {}
    for c in record.candidates:
        if c.measured.latency is None:
            continue
        centre = c.measured.latency.point_ms * 1e6
        levels = [centre * math.exp(source.gauss(0, 0.015)) for _ in range(c.measured.latency.launches)]
        found[c.id] = [
            [
                int(
                    level
                    / (1 + math.log(2) / 25)
                    * (1 + source.expovariate(25))
                    * (6 if source.random() < 0.002 else 1)
                )
                for _ in range(per_launch)
            ]
            for level in levels
        ]
    return found


def hostile(**changes: Any) -> BuildRecord:
    """Return a synthetic build in which every text tries to break out of the page."""
    evil = "<script>alert('1')</script>\"'><img src=x onerror=alert(2)>&amp;\x1b[31m\u202egnp"
    only = candidate(
        f"id {evil}",
        int8(evil),
        evil,
        "chosen",
        f"reason {evil}",
        notes=(Note(topic="compile", text=evil),),
        size_bytes=1,
        settings=((evil, evil),),
        latency=latency(1.0, certified=True),
        screen=None,
        validation=Verdict(
            outcome=Outcome.ACCEPTED,
            drop=drop(0.1, metric=evil, method=evil),
            reasons=(evil,),
            slices=(slices()[0].model_copy(update={"slice": evil}),),
            limits=(LimitCheck(name=evil, limit=1, measured=None, outcome=Outcome.REFUSED),),
        ),
        layers=(Layer(name=evil, op=evil, precision=evil, time_us=1.0),),
    )
    texts = dict.fromkeys(
        (
            "build_id",
            "project",
            "target",
            "device",
            "started_at",
            "summary",
            "baseline",
            "command",
        ),
        evil,
    )
    lists = {
        "refused_in_planning": (Refusal(what=evil, reason=evil),),
        "test_set": SealedSetAccess(number=1, opened_at=evil, artifacts=(), level=0.95),
        "notes": (Note(topic="data", text=evil),),
        "versions": ((evil, evil),),
        "facts": (Fact(name=evil, value=evil), Fact(name=evil, value="unknown")),
        "environment": (Fact(name=evil, value=evil),),
        "steps": (StepRecord(label=evil, kind=evil, key=evil, reused=False, seconds=1, why=evil),),
    }
    return full(candidates=(only,), chosen=only.id, **texts, **lists).model_copy(update=changes)


def bare() -> BuildRecord:
    """Return a synthetic build in which as little as possible was measured."""
    only = candidate(
        "only", FP32, "onnxruntime", "chosen", "nothing else was there", settings=(), screen=latency(1, certified=False)
    )
    return BuildRecord(
        build_id="b",
        project="p",
        target="t",
        device="d",
        started_at="2099-01-01T00:00:00Z",
        seconds=1,
        objective="latency",
        budget=Budget(floor=0.9),
        outcome="ok",
        chosen="only",
        summary="",
        baseline="gone",
        candidates=(only,),
    )
