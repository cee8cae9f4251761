"""What `edgebuild init` writes: a commented `edgebuild.toml` with marked places to fill in."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgebuild.catalogue.tables import toml_key, toml_text
from edgebuild.core.artifact import BATCH_AXIS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgebuild.core.artifact import TensorSpec

#: Marks every place that the user must fill in.
PLACEHOLDER = "FILL IN"
#: What stands for the shape of an input of which the file says none.
UNKNOWN_SHAPE = f'["batch"]               # {PLACEHOLDER}: the file doesn\'t say the shape'

#: Names that exporters give to axes by counting them: ours (``axis2``), PaddlePaddle's, torch's.
NUMBERED_AXIS = re.compile(r"^(axis|dim_?)\d+$|DynamicDimension\.\d+$|^unk__\d+$|_dim_\d+$|^s\d+$", re.IGNORECASE)
#: How many numbers a box has, with its score and class or without.
BOX_COLUMNS = (4, 5, 6)
#: The most channels that an image is thought to have.
MOST_COLOURS = 4

#: Files that may run code of whoever wrote them when they are loaded.
PICKLED_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")

#: Ways to compress a torch model, or an ONNX file that can be read as one.
RECIPES = """
# [[recipes]]                           # each is tried alongside the original; docs/techniques.md has all techniques
# name = "narrow"
# steps = [
#   { technique = "prune-structured", keep = 0.5 },
#   { technique = "distil", epochs = 10 },          # needs [data].train
# ]
"""


def starter_from_onnx(
    name: str,
    onnx: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    unranked: Sequence[str] = (),
    unreadable: str = "",
    sample: Mapping[str, tuple[int, ...]] | None = None,
) -> str:
    """Return an `edgebuild.toml` for an ONNX file with these inputs and outputs; ``onnx`` is its path as written.

    Axes are named as ``named_axes`` does. The shapes of ``unranked`` inputs are left to the user: the file doesn't say
    them. ``unreadable`` is why the file can't be read as a torch module: then no recipes are proposed. ``sample`` holds
    the shapes of one sample's inputs, without the batch axis: what dynamic axes are to be.
    """
    inputs = named_axes(inputs)
    model = f"""\
[model]
onnx = {toml_text(onnx)}
# custom_ops = "libcustom.so"           # the library of its custom operators, if it has any
{_state_lines(inputs, outputs)}"""
    states = set(_state_pairs(inputs, outputs).values())
    read = _scores_first([spec for spec in outputs if spec.name not in states])
    names = [spec.name for spec in read]
    note = f"Outputs: {', '.join(_signature(spec) for spec in outputs)}."
    # Names in a file may hold what no comment may.
    why = "".join(letter if letter.isprintable() else "?" for letter in unreadable)
    recipes = f"\n# No [[recipes]]: {why}.\n" if unreadable else RECIPES
    sizes = {} if states else sizes_of(inputs, sample or {})
    metric = proposed_metric(read[:1])  # the one that ``output`` names, of several
    return _document(name, model, inputs, note, names, unranked, metric=metric, sizes=sizes) + recipes


def starter_from_factory(
    name: str,
    factory: str,
    inputs: Sequence[TensorSpec] = (),
    outputs: Sequence[TensorSpec] = (),
    *,
    guessed: Sequence[str] = (),
    weights: str | None = "weights.safetensors",
) -> str:
    """Return an `edgebuild.toml` for a model that ``module:function`` makes, as far as its tensors are known.

    The shapes of ``guessed`` inputs are left to the user to confirm. Without ``weights`` the factory loads its own.
    """
    loads = f"{PLACEHOLDER}: or remove the line, if the factory loads its weights itself"
    line = (
        f"weights = {toml_text(weights)}   # {loads}"
        if weights
        else '# weights = "weights.safetensors"       # unless the factory loads them'
    )
    model = f"""\
[model]
factory = {toml_text(factory)}   # called without arguments, returns a torch.nn.Module
{line}
{_names_line(outputs)}
# [model.state]                         # state carried between calls: input name = output name
# state = "stateN"
"""
    note = f"Outputs: {', '.join(_shape(spec) + ' ' + spec.dtype for spec in outputs)}." if outputs else ""
    read = _scores_first(outputs)
    names = [spec.name for spec in read]
    return _document(name, model, inputs, note, names, guessed=guessed, metric=proposed_metric(read[:1])) + RECIPES


def _names_line(outputs: Sequence[TensorSpec]) -> str:
    if len(outputs) < 2:
        return '# outputs = ["logits", "boxes"]         # names for what forward() returns, in order'
    names = ", ".join(toml_text(spec.name) for spec in outputs)
    return f"outputs = [{names}]   # {PLACEHOLDER}: names for what forward() returns, in order"


def _scores_first(outputs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Reals before whole numbers: of a label and its probabilities, as scikit-learn exports, the latter are judged."""
    return sorted(outputs, key=lambda spec: not spec.dtype.startswith("float"))


def proposed_metric(outputs: Sequence[TensorSpec]) -> tuple[str, str]:
    """Return a built-in metric that fits the output it reads, and what to think of instead."""
    shape = outputs[0].shape if len(outputs) == 1 else ()
    others = "docs/metrics.md has them all"
    if len(shape) == 1 or shape[1:] == (1,):
        return "auroc", "for one score; mae or rmse for one number, with `relative` below instead of `points`"
    if len(shape) == 4 and shape[2:] != (1, 1):
        return "mean_iou", f"for a map of class scores; {others}"
    if len(shape) == 3 and shape[2] in BOX_COLUMNS:
        return "box_f1", f"for boxes with a score behind them, put together by `decode`; coco_map too; {others}"
    if len(shape) == 3:
        return "cer", f"for texts read by CTC; accuracy for a class per position (classes on axis 1); {others}"
    return "accuracy", f"for scores of classes; {others}"


def _size_that_ships(axis: str) -> int:
    """Return a size to begin with for a dynamic axis, by what such axes are mostly called."""
    lowered = axis.lower()
    if any(word in lowered for word in ("height", "width")):
        return 224
    return 128 if any(word in lowered for word in ("seq", "length", "time", "token")) else 1


def conversion_advice(checkpoint: Path) -> str:
    """Return how to make a project of a pickled checkpoint, which edgebuild itself never loads."""
    weights = f"{checkpoint.stem}.safetensors"
    return f"""\
{checkpoint.name} is a pickled file: loading it can run code that someone hid in it, so edgebuild never does.
Convert it once, yourself, with the class that it was trained with:

    # model.py
    def build():
        from my_package import MyNet          # your model's class
        return MyNet()

    # convert.py
    import torch
    from safetensors.torch import save_model
    from model import build

    state = torch.load({str(checkpoint)!r}, map_location="cpu", weights_only=True)
    wraps = ("state_dict", "model_state_dict", "model_state", "model")    # as trainers often do: print(state.keys())
    state = next((state[name] for name in wraps if name in state), state)
    model = build()
    model.load_state_dict(state)
    save_model(model, {weights!r})

Then `edgebuild init model:build`, and set weights = {toml_text(weights)} in edgebuild.toml.
If weights_only=True refuses the file, it holds more than weights: save its state_dict where it was trained.
"""


_DOCUMENT = """\
# What edgebuild builds, and how good it must stay. Every key is explained in docs/edgebuild-toml.md.
# Places that say "{fill}" need you; lines that start with # are optional.

[project]
name = {name}

{model}
# The inputs, in order. Names in a shape are dynamic axes; "batch" is the batch axis.
{inputs}
[freeze]                                # the sizes that dynamic axes have in the shipped artifact
{freeze}

# [contract]                            # shipped with the artifact, for whoever calls it
# preprocess = "data:preprocess"
# postprocess = "data:postprocess"
# [contract.inputs.NAME]                # how the input is made: (raw * scale - mean) / std
# layout = "NCHW"
# [contract.outputs.NAME]
# labels = "labels.txt"                 # or a list

# Each yields edgebuild.Sample(inputs={{name: array}}, target=…), or is an .npz file with one array per input
# and "target", and optionally "group" (recording, subject) and "slice" (class, site). No batch axis in a sample.
[data]
calibration = "data:calibration"        # {fill}: a few hundred samples, targets not needed
validation = "data:validation"          # {fill}: candidates are chosen on these
test = "data:test"                      # {fill}: sealed; opened once, to certify the result
# train = "data:train"                  # for recipes with techniques that train

[metric]{note}
name = "{metric}"   # {fill}: {fits}; or yours:
{output}
# decode = "reading:texts"              # makes texts, boxes or maps of the outputs, where it needs them
# callable = "metrics:auc"              # metrics:auc(outputs, targets) -> float
# per_sample = "metrics:each"           # or numbers per sample, computed once: see docs/metrics.md
# direction = "maximise"
# scale = [0.0, 1.0]

[budget]                                # exactly one kind
points = 2.0                            # {fill}: may lose 2 hundredths of the metric's scale
# relative = 0.02                       # or 2 % of the original's metric
# floor = 0.9                           # or down to this value
# agreement = 0.98                      # or, without targets and [metric]: decides as the original on 98 %
# per_slice_points = 5.0                # and no slice or class loses more

[limits]                                # all optional
# latency_p50_ms = 5.0
# latency_p99_ms = 10.0
# throughput_per_s = 100.0
# peak_memory_mb = 200.0
# file_size_mb = 5.0
# load_time_ms = 500.0

[build]
objective = "latency"                   # latency | throughput | size | memory
targets = ["this-machine"]              # `edgebuild targets` lists them
# keep_float = ["/head/*"]              # ONNX nodes that are never quantised
# keep_dynamic = ["length"]             # axes that stay dynamic
# threads = 2                           # the only thread count to ship
"""


def _document(
    name: str,
    model: str,
    inputs: Sequence[TensorSpec],
    note: str,
    outputs: Sequence[str],
    unranked: Sequence[str] = (),
    *,
    guessed: Sequence[str] = (),
    metric: tuple[str, str],
    sizes: Mapping[str, int] = MappingProxyType({}),
) -> str:
    axes = dict.fromkeys(axis for spec in inputs for axis in spec.shape if isinstance(axis, str))
    if not inputs or unranked:
        axes = {BATCH_AXIS: None, **axes}
    freeze = "\n".join(_freeze_line(axis, sizes) for axis in axes)
    return _DOCUMENT.format(
        fill=PLACEHOLDER,
        name=toml_text(name),
        model=model,
        inputs=_input_lines(inputs, unranked, guessed),
        metric=metric[0],
        fits=metric[1],
        freeze=freeze,
        note=f" # {note}" if note else "",
        output=_output_line(outputs),
    )


def _freeze_line(axis: str, sizes: Mapping[str, int]) -> str:
    if axis == BATCH_AXIS:
        return f"{toml_key(axis)} = 1"
    if axis in sizes:
        return f"{toml_key(axis)} = {sizes[axis]}   # {PLACEHOLDER}: the size that ships; it is that of a sample"
    return f"{toml_key(axis)} = {_size_that_ships(axis)}   # {PLACEHOLDER}: the size that ships"


def _input_lines(inputs: Sequence[TensorSpec], unranked: Sequence[str], guessed: Sequence[str]) -> str:
    if not inputs:
        return f"""\
[[inputs]]
name = "input"                          # {PLACEHOLDER}: as in forward()
shape = ["batch", 3, 224, 224]          # {PLACEHOLDER}
dtype = "float32"
"""
    sure = dict.fromkeys(guessed, f"   # {PLACEHOLDER}: guessed by the first layer")
    return "\n".join(
        f"""\
[[inputs]]
name = {toml_text(spec.name)}
shape = {UNKNOWN_SHAPE if spec.name in unranked else _shape(spec) + sure.get(spec.name, "")}
dtype = "{spec.dtype}"
{"# value = 0                            # for an input that never changes" if not spec.shape else ""}
""".rstrip()
        + "\n"
        for spec in inputs
    )


def named_axes(inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return inputs whose dynamic axes have names to work with.

    The axis that leads the first input, where it is dynamic, becomes the batch axis wherever it occurs. A name without
    a letter, which exporters write for "any size" (PaddlePaddle: ``?``), says nothing of two axes being alike: each
    such axis, and each that was only numbered, gets a name by its place, the last two of an image ``height`` and
    ``width``.
    """
    lead = inputs[0].shape[0] if inputs and inputs[0].shape else None
    batch = {lead: BATCH_AXIS} if isinstance(lead, str) else {}
    return tuple(
        spec.model_copy(
            update={
                "shape": tuple(
                    axis if isinstance(axis, int) else batch.get(axis) or _axis_name(axis, index, spec.shape)
                    for index, axis in enumerate(spec.shape)
                )
            }
        )
        for spec in inputs
    )


def _axis_name(axis: str, index: int, shape: Sequence[int | str]) -> str:
    said = any(letter.isalpha() for letter in axis) and not NUMBERED_AXIS.search(axis)
    image = len(shape) == 4 and isinstance(shape[1], int) and shape[1] <= MOST_COLOURS
    if said:
        return axis
    if image and index >= 2:
        return "height" if index == 2 else "width"
    return axis if any(letter.isalpha() for letter in axis) else f"axis{index}"


def sizes_of(inputs: Sequence[TensorSpec], sample: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return the sizes of dynamic axes in a sample's shapes, those on which its inputs don't agree left out."""
    found: dict[str, set[int]] = {}
    for spec in inputs:
        shape = sample.get(spec.name, ())
        if len(shape) == len(spec.shape) - 1:
            for axis, size in zip(spec.shape[1:], shape, strict=True):
                if isinstance(axis, str) and size > 0:
                    found.setdefault(axis, set()).add(size)
    return {axis: sizes.pop() for axis, sizes in found.items() if len(sizes) == 1}


def _state_lines(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """Show the state table: live where an input is called a state and an output has its rank and type."""
    comment = "state carried between calls: input name = output name"
    pairs = _state_pairs(inputs, outputs)
    if not pairs:
        return f'# [model.state]                         # {comment}\n# state = "stateN"\n'
    lines = [f"{toml_key(into)} = {toml_text(out)}   # {PLACEHOLDER}: is it?" for into, out in pairs.items()]
    return "\n".join([f"[model.state]                           # {comment}", *lines]) + "\n"


def _state_pairs(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> dict[str, str]:
    return {
        into.name: out.name
        for into in inputs
        for out in outputs
        if into.dtype == out.dtype and len(into.shape) == len(out.shape) > 1 and "state" in into.name.lower()
    }


def _output_line(outputs: Sequence[str]) -> str:
    """Name the output that the metric reads: live where there are several, since one must be named then."""
    if len(outputs) < 2:
        return '# output = "logits"                     # which one it reads, of several outputs'
    return f"output = {toml_text(outputs[0])}   # {PLACEHOLDER}: which one it reads, of {', '.join(outputs)}"


def _signature(spec: TensorSpec) -> str:
    return f"{toml_text(spec.name)} {_shape(spec)} {spec.dtype}"


def _shape(spec: TensorSpec) -> str:
    return "[" + ", ".join(toml_text(a) if isinstance(a, str) else str(a) for a in spec.shape) + "]"
