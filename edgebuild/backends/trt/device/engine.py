"""Builds an engine from a typed ONNX file, reads back what became of it, and keeps the timing cache by digest."""

from __future__ import annotations

import hashlib
import json
import os

from .cuda import Cuda, Problem
from .inspector import described, lost_precision, placed
from .log import Log, logger, made, monitor, silent
from .machine import accelerator_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple

    from .log import Tell

    Fields = Dict[str, Any]

ENGINE = "engine.plan"
#: The builder flags that let a weakly typed network compute in less than fp32.
PRECISION_FLAGS = {"fp16": ("FP16",), "int8": ("INT8",)}
#: What the builder's lines on 2:4 begin with, among much else of the same severity.
SPARSITY = "(Sparsity)"


def plan(model: str, options: Fields, log: Log, cache: bytes = b"") -> Tuple[Any, bytes, List[str]]:
    """Return the serialised engine of the ONNX file ``model``, the timing cache after it, and what no DLA can run.

    Raises ``Problem`` that names the node. The references held here live until the engine is built: the parser reads
    the network's memory.
    """
    import tensorrt as trt

    watcher = monitor(log)
    builder = made(trt.Builder, log)
    network = builder.create_network(_network_flags(trt, options))
    own = logger(log)
    parser = trt.OnnxParser(network, own)
    if not parser.parse_from_file(model):
        raise Problem("model", "TensorRT can't read the model: %s" % _parser_errors(parser))
    config = builder.create_builder_config()
    timing = _configure(trt, builder, config, options, cache)
    if watcher is not None:
        config.progress_monitor = watcher
    refused = _use_dla(trt, network, config) if _dla(options) else []
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise Problem("model", "TensorRT can't build an engine: %s" % log.said())
    return engine, bytes(memoryview(timing.serialize())) if timing is not None else b"", refused


def _dla(options: Fields) -> bool:
    return bool(options.get("accelerator") == "dla")


def _weakly_typed(trt: Any, options: Fields) -> bool:
    """Whether flags choose the precision: where nothing else exists (8.5), and on a DLA as long as flags exist (10)."""
    strong = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    return not strong or (_dla(options) and hasattr(trt.BuilderFlag, "FP16"))


def _network_flags(trt: Any, options: Fields) -> int:
    """Strongly typed where the library can; explicit batch where that isn't the only sort yet (8.5)."""
    flags = trt.NetworkDefinitionCreationFlag
    name = "EXPLICIT_BATCH" if _weakly_typed(trt, options) else "STRONGLY_TYPED"
    return 1 << int(getattr(flags, name))


def _configure(trt: Any, builder: Any, config: Any, options: Fields, cache: bytes) -> Any:
    """Set everything that the options and the library have in common; return the timing cache, None without one."""
    if "workspace_bytes" in options:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options["workspace_bytes"]))
    if hasattr(trt, "ProfilingVerbosity"):
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if _weakly_typed(trt, options):
        for name in PRECISION_FLAGS.get(options["precision"], ()):
            config.set_flag(getattr(trt.BuilderFlag, name))
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    if hasattr(trt.BuilderFlag, "TF32"):
        # fp32 means fp32: with TF32 its matrix products would have fp16's mantissa.
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.get("sparse_weights") and hasattr(trt.BuilderFlag, "SPARSE_WEIGHTS"):
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if options.get("profiles"):
        profile = builder.create_optimization_profile()
        for name, shapes in sorted(options["profiles"].items()):
            profile.set_shape(name, *[tuple(shape) for shape in shapes])
        config.add_optimization_profile(profile)
    if "timing_caches" not in options:
        return None
    timing = config.create_timing_cache(cache)
    config.set_timing_cache(timing, False)
    return timing


def _use_dla(trt: Any, network: Any, config: Any) -> List[str]:
    """Put on the first DLA what it can run, let the GPU run the rest, and return the names of the rest."""
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = 0
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    blocks = [network.get_layer(i) for i in range(network.num_layers)]
    return [str(block.name) for block in blocks if not config.can_run_on_DLA(block)]


def sparsity(trt: Any, options: Fields, lines: List[str]) -> List[str]:
    """Return what is to be said of 2:4: whether the builder may skip zeros, and its own words on where it does.

    Empty where it wasn't to.
    """
    if not options.get("sparse_weights"):
        return []
    if not hasattr(trt.BuilderFlag, "SPARSE_WEIGHTS"):
        return ["this TensorRT has no SPARSE_WEIGHTS: zeros cost what other weights do"]
    return ["SPARSE_WEIGHTS is set"] + [line.partition(" ")[2] for line in lines if SPARSITY in line]


def _parser_errors(parser: Any) -> str:
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        name = error.node_name() if hasattr(error, "node_name") else ""
        op = error.node_operator() if hasattr(error, "node_operator") else ""
        found.append("node %r (%s): %s" % (name or "number %d" % error.node(), op or "?", error.desc()))
    return "; ".join(found[:3]) or "it doesn't say why"


def compile(model: str, out: str, options: Fields, tell: Tell = silent) -> Fields:  # noqa: A001  the operation's name
    """Build ``engine.plan`` into ``out``, with ``build.log`` and ``layers.json``; see ``plan`` for what it raises.

    Raises ``Problem`` too where a layer runs in fp32 that the file wants in less: the engine would be slower than
    what was asked for, and nobody would know. ``tell`` hears of progress.
    """
    import tensorrt as trt

    cuda = Cuda()
    log = Log(tell)
    path = _cache_path(model, options, cuda.device_name(), str(trt.__version__))
    engine, timing, refused = plan(model, options, log, _read(path))
    data = bytes(memoryview(engine))
    with open(os.path.join(out, ENGINE), "wb") as file:
        file.write(data)
    if timing:
        _write_whole(path, timing)
    on_zeros = sparsity(trt, options, log.lines)
    with open(os.path.join(out, "build.log"), "w", encoding="utf-8") as file:
        # Times and addresses in the other lines differ from build to build.
        kept = [line for line in log.lines if not line.startswith(("VERBOSE", "INFO"))]
        file.write("".join("%s\n" % line for line in on_zeros + kept))
    runtime, built = deserialise(data, log, dla=_dla(options))
    found = described(built)
    del built, runtime  # in this order
    with open(os.path.join(out, "layers.json"), "w", encoding="utf-8") as file:
        json.dump(found, file, indent=1, sort_keys=True)
    lost = lost_precision(found, options.get("expected", {}), hidden=_dla(options))
    if lost:
        raise Problem(
            "model",
            "TensorRT does not run %d layers in the precision that was asked for: %s."
            % (len(lost), ", ".join(lost[:5])),
            "layers.json lists them; name them in keep_float, or leave this precision out.",
        )
    answer: Fields = {
        "version": str(trt.__version__),
        "timing_cache_sha256": hashlib.sha256(timing).hexdigest(),
        "skipped_tactics": sum("skipping tactic" in line.lower() for line in log.lines),
        "accelerator_memory": accelerator_memory(),
    }
    if on_zeros:
        answer["sparsity"] = on_zeros
    return {**answer, **(placed(log.lines, refused) if _dla(options) else {})}


def deserialise(data: bytes, log: Log, *, dla: bool) -> Tuple[Any, Any]:
    """Return the runtime, which must outlive its engine, and the engine."""
    import tensorrt as trt

    runtime = made(trt.Runtime, log)
    if dla:
        runtime.DLA_core = 0
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise Problem(
            "model",
            "TensorRT %s can't load the engine: %s" % (trt.__version__, log.said()),
            "An engine is tied to the TensorRT version and the GPU that built it: build the artifact again.",
        )
    return runtime, engine


def _cache_path(model: str, options: Fields, gpu: str, runtime: str) -> str:
    digest = hashlib.sha256()
    with open(model, "rb") as file:
        digest.update(file.read())
    shape = {name: value for name, value in options.items() if name != "timing_caches"}
    digest.update(json.dumps([shape, gpu, runtime], sort_keys=True).encode())
    return os.path.join(options["timing_caches"], digest.hexdigest())


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _write_whole(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open("%s.%d" % (path, os.getpid()), "wb") as file:
        file.write(data)
    os.replace(file.name, path)
