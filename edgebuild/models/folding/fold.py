"""Folds what scales and shifts by constants into the layers around it, and takes out what does nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgebuild.models import trained_grids
from edgebuild.models.folding.affine import Affine, affine_of, data_of, identity, is_per_channel
from edgebuild.models.folding.idle import take_out
from edgebuild.models.folding.layers import inputs_of, layer_of, scale_input, scale_output, sees_edges
from edgebuild.models.folding.wiring import OWN_DOMAINS, Wiring
from edgebuild.models.onnx_graphs import label_of

if TYPE_CHECKING:
    from edgebuild.models.folding.affine import Channels
    from edgebuild.models.folding.layers import Layer

#: From here on operators broadcast as numpy does.
LEAST_OPSET = 7
#: Of the operators that stay, a note names this many.
NAMED = 5
ELSEWHERE = "what it reads is needed elsewhere too"
PADDED = "it shifts what the convolution pads with zeros"
ALONE = "no layer stands right before it"
UNSOUND = "together with its neighbours it leaves the range of float32"


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A graph after folding: ``operators`` went into ``layers``, ``idle`` ones did nothing, and what stayed and why."""

    model: Any
    operators: int = 0
    layers: int = 0
    idle: int = 0
    left: tuple[tuple[str, str], ...] = ()

    @property
    def changed(self) -> bool:
        """Whether it is another graph than before."""
        return self.operators + self.layers + self.idle > 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What to report of it."""
        notes = []
        if self.operators:
            layers = f"{self.layers} {'layer' if self.layers == 1 else 'layers'}"
            notes.append(f"scales and shifts folded into {layers}: {self.operators} fewer operators")
        if self.left:
            named = ", ".join(f"{label} ({reason})" for label, reason in self.left[:NAMED])
            more = f", and {len(self.left) - NAMED} more" if len(self.left) > NAMED else ""
            notes.append(f"scales and shifts not folded: {named}{more}")
        return tuple(notes)


def fold(model: Any) -> Folded:
    """Return a model whose outputs are the same up to rounding, with fewer operators; the given one stays as it is.

    Only what surely keeps the outputs is changed, in the main graph and in float32; ``shapes`` must be inferred for
    more than chains right behind convolutions.
    """
    wiring = Wiring(model)
    # A function of the model may stand for an operator of ONNX's own.
    if wiring.opset < LEAST_OPSET or any(function.domain in OWN_DOMAINS for function in model.functions):
        return Folded(model=model)
    work = _Folding(wiring=wiring, inputs=not trained_grids.read(model))
    idle = take_out(wiring)
    for node in wiring.standing():
        work.fold_around(node)
    idle += take_out(wiring)
    left = tuple(work.stayed())
    return Folded(model=wiring.finished(), operators=work.operators, layers=len(work.layers), idle=idle, left=left)


@dataclass(kw_only=True)
class _Folding:
    """One run over a graph. ``inputs``: whether weights may be scaled along them, which takes weights off a grid."""

    wiring: Wiring
    inputs: bool
    operators: int = 0
    layers: set[int] = field(default_factory=set)
    reasons: dict[int, str] = field(default_factory=dict)

    def fold_around(self, node: Any) -> None:
        """Fold what stands behind a layer into it, then what stands before it."""
        layer = layer_of(self.wiring, node)
        if layer is not None:
            self._fold_behind(layer)
            layer = layer_of(self.wiring, node)
        if layer is not None and self.inputs:
            self._fold_before(layer)

    def stayed(self) -> list[tuple[str, str]]:
        """Return the per-channel scales and shifts that stayed next to layers, and all normalisations."""
        return [
            (label_of(node), self.reasons.get(id(node), ALONE))
            for node in self.wiring.standing()
            if (node.op_type == "BatchNormalization" and node.domain in OWN_DOMAINS)
            or (id(node) in self.reasons and is_per_channel(self.wiring, node))
        ]

    def _fold_behind(self, layer: Layer) -> None:
        wiring = self.wiring
        links, total = self._behind(layer)
        if not links or (len(links) == 1 and _is_bias(links[0][0], layer)):
            return
        rest = scale_output(wiring, layer, total)
        if isinstance(rest, str):
            self.reasons.update((id(node), rest) for node, _ in links)
            return
        if rest.any():
            first, channels = links.pop(0)
            _make_addition(wiring, first, wiring.add_constant(f"{first.output[0]}_shift", channels.spread(rest)))
        for node, _ in links:
            source = data_of(wiring, node)
            wiring.splice(node, str(source))
        self.operators += len(links)
        self.layers.add(id(layer.node))

    def _behind(self, layer: Layer) -> tuple[list[tuple[Any, Channels]], Affine]:
        """Return the operators behind a layer that it can take in, and what they do together.

        What moves the channels between them, without mixing them with others, is passed by.
        """
        wiring, total = self.wiring, identity(layer.output.count)
        links: list[tuple[Any, Channels]] = []
        name, channels = layer.node.output[0], layer.output
        while (node := wiring.only_reader(name)) is not None:
            moved = channels.behind(wiring, node) if node.input[0] == name else None
            if moved is not None:
                name, channels = node.output[0], moved
                continue
            if data_of(wiring, node) != name:
                return links, total
            found = affine_of(wiring, node, channels)
            if isinstance(found, Affine):
                found = total.then(found) if total.then(found).sound else UNSOUND
            if isinstance(found, str):
                self.reasons[id(node)] = found
                return links, total
            links.append((node, channels))
            name, total = node.output[0], found
        self.reasons.update((id(node), ELSEWHERE) for node in wiring.readers(name) if data_of(wiring, node) == name)
        return links, total

    def _fold_before(self, layer: Layer) -> None:
        channels = inputs_of(layer)
        if channels is None:
            return
        links, total = self._before(layer, channels)
        if not links:
            return
        refused = scale_input(self.wiring, layer, total)
        if refused:
            self.reasons.update((id(node), refused) for node in links)
            return
        for node in links:
            self.wiring.splice(node, str(data_of(self.wiring, node)))
        self.operators += len(links)
        self.layers.add(id(layer.node))

    def _before(self, layer: Layer, channels: Channels) -> tuple[list[Any], Affine]:
        """Return the operators before a convolution that it can take in, nearest first, and what they do together."""
        wiring, total = self.wiring, identity(channels.count)
        links: list[Any] = []
        name = layer.node.input[0]
        while (node := wiring.makers.get(name)) is not None and wiring.only_reader(name) is not None:
            data = data_of(wiring, node)
            # Constants may widen what they meet: the channels must be there before.
            shape = wiring.shapes.get(data or "", ())
            if data is None or len(shape) != channels.rank or shape[channels.axis] != channels.count:
                break
            if not is_per_channel(wiring, node) and _is_gated(wiring, data):
                break
            found = affine_of(wiring, node, channels)
            if isinstance(found, Affine) and found.shift.any() and sees_edges(layer):
                found = PADDED
            if isinstance(found, Affine):
                found = found.then(total) if found.then(total).sound else UNSOUND
            if isinstance(found, str):
                self.reasons[id(node)] = found
                break
            links.append(node)
            name, total = data, found
        return links, total


def _is_bias(node: Any, layer: Layer) -> bool:
    """Whether an operator is the bias of a product already."""
    return not layer.takes_shift and node.op_type == "Add"


def _is_gated(wiring: Wiring, name: str) -> bool:
    """Whether a tensor is x · g(x), as in hard swish and GELU, which runtimes know with the factor behind it."""
    maker = wiring.makers.get(name)
    return maker is not None and maker.op_type == "Mul" and data_of(wiring, maker) is None


def _make_addition(wiring: Wiring, node: Any, constant: str) -> None:
    """Turn an operator that scales and shifts into one that adds a constant."""
    data = str(data_of(wiring, node))
    node.op_type = "Add"
    del node.attribute[:], node.output[1:]
    wiring.read(node, [data, constant])
