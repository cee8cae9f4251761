"""Training of low-precision weights alongside a teacher in full precision: Apprentice, schemes A, B and C."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from edgebuild.techniques.learning import TrainingParameters, array_loader, learn, user_loader
from edgebuild.techniques.technique import Change, Requirements, Technique

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from edgebuild.techniques.workspace import Workspace


class ApprenticeParameters(TrainingParameters):
    """Parameters of `apprentice`."""

    bits: int = Field(default=2, ge=2, le=4, description="The bits of a weight; 2 are the three values -s, 0 and s.")
    scheme: Literal["A", "B", "C"] = Field(
        default="C",
        description="`A`: teacher and model both learn from scratch; `B`: the model from scratch, the teacher is the "
        "trained original; `C`: as `B`, and the model begins with its trained weights.",
    )
    alpha: float = Field(default=1.0, ge=0, description="The weight of the teacher's own loss, for scheme `A`.")
    beta: float = Field(default=0.5, ge=0, description="The weight of the labels.")
    gamma: float = Field(default=0.5, ge=0, description="The weight of the teacher's answers; 0 trains on labels only.")
    ends: bool = Field(default=True, description="Whether the first and the last layer keep 8 bits.")
    skip: tuple[str, ...] = Field(default=(), description="Layers that stay in float; `*` stands for anything.")


class Apprentice(Technique):
    """Trains weights on grids of 2 to 4 bits; what layers read is on 8 bits, as in int8.

    No runtime has kernels for such weights: the exported file is a float one whose weights lie on the grid, and an
    int8 one holds them as small 8-bit codes. Only the stored model has them packed. Raises ``ModelError`` for a model
    that isn't a classifier, data without labels, or when no layer can be put on a grid. Source: Mishra and Marr 2018.
    """

    kind: ClassVar[str] = "apprentice"
    title: ClassVar[str] = "trains weights of 2 to 4 bits alongside the original"
    version: ClassVar[int] = 3
    tools: ClassVar[tuple[str, ...]] = ("torch", "lightning-fabric", "numpy", "onnxruntime")
    Parameters: ClassVar = ApprenticeParameters
    changes: ClassVar[frozenset[Change]] = frozenset({"grids", "values"})
    not_after: ClassVar[Mapping[Change, str]] = {
        "grids": "its layers are on grids already",
        "codebooks": "a scale per channel would break up the values that entries share",
        "heads": "early exits are trained together with the model; training it alone would leave them behind",
    }
    uses_int8: ClassVar[bool] = True

    @classmethod
    def needs(cls, parameters: Any) -> Requirements:
        """See ``Technique``."""
        return Requirements(train=True, labels=True, modules=("lightning-fabric",), references=parameters.references)

    def compress(self, work: Workspace) -> str:
        """See ``Technique``."""
        from edgebuild.techniques.low_bit import fake_quant
        from edgebuild.training import losses
        from edgebuild.training.pairs import Pair, freeze
        from edgebuild.training.randomness import mixed

        p: ApprenticeParameters = self.parameters
        fake_quant.require_one_row_of_classes(work)
        if p.scheme != "C":
            begin_anew(work.module, mixed(work.ctx.seed, "apprentice"))
            work.notes.append("Begun from scratch; a parameter that no layer of torch's own holds kept its values.")
        placed = self._place(work)
        teacher = work.teacher()
        if p.scheme == "A":
            begin_anew(teacher.requires_grad_(True), mixed(work.ctx.seed, "teacher"))
        pair = Pair(teacher if p.scheme == "A" else freeze(teacher), work.module)
        own = user_loader(work, p)
        loader = own if own is not None else array_loader(work, p)
        loss = losses.Apprentice(alpha=p.alpha, beta=p.beta, gamma=p.gamma)
        keep_up = fake_quant.UpdateScales()
        report = learn(work, pair, p.plan(), loader, loss, name="apprentice", after_step=[keep_up])
        keep_up(work.module)
        work.recalibrate_norms()
        work.notes.append(
            f"{p.bits}-bit weights are simulated: exported files hold them as float or 8-bit numbers on that grid, and "
            "no runtime computes faster for it."
        )
        work.notes.append(fake_quant.packed_size(work))
        how = f"{placed} layers with {p.bits}-bit weights, scheme {p.scheme}, {report.steps} steps"
        return f"{how}; {fake_quant.losses_text(report)}"

    def _place(self, work: Workspace) -> int:
        """Put the layers on their grids; return how many have low precision."""
        from edgebuild.models.edits import Grid
        from edgebuild.techniques.low_bit import fake_quant

        p: ApprenticeParameters = self.parameters
        scheme = fake_quant.int8_of(self.int8)
        read = fake_quant.reads(work, p.skip)
        names, placed = list(read), 0
        for name in names:
            wide = p.ends and name in {names[0], names[-1]}
            bits = p.bits if not wide else (7 if scheme.reduce_range else 8)
            done = fake_quant.place(work, name, Grid(bits=bits, per_channel=True), read[name], scheme)
            placed += done and not wide
        if not placed:
            raise fake_quant.nothing_to_do(work)
        return placed


def begin_anew(module: nn.Module, seed: int) -> None:
    """Give every layer of torch's own the weights that it starts with, by the seed."""
    import torch
    from torch import nn
    from torch.nn.utils import parametrize

    from edgebuild.models.interpreter import copied

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: Iterator[Any] = module.modules()
        for layer in layers:
            reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
            if not callable(reset):
                continue
            if not parametrize.is_parametrized(layer):
                reset()
                continue
            # What is masked is recomputed at every look: drawing into it would change nothing.
            hidden = {name: each.original for name, each in layer.parametrizations.items()}
            plain = copied(layer)
            # Not removed one by one: copies share the class that looks through them.
            plain.__class__ = parametrize.type_before_parametrizations(layer)
            del plain.parametrizations
            for name, value in hidden.items():
                plain.register_parameter(name, nn.Parameter(value.detach().clone()))
            getattr(plain, reset.__name__)()
            with torch.no_grad():
                for name, value in plain.named_parameters(recurse=False):
                    hidden.get(name, getattr(layer, name)).copy_(value)
