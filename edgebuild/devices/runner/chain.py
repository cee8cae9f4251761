"""A chain of models that may end early, as one session: backends know nothing of it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .artifact import Opened
    from .protocol import Fields

#: What the end of the whole chain is called among its exits.
END = "end"


class Chain:
    """Runs stage after stage, one sample at a time, until a stage's confidence reaches its exit's threshold.

    ``names`` are the ends in order; ``ended`` counts at which of them the calls ended so far.
    """

    def __init__(self, opened: Opened) -> None:
        self._sessions = []
        for number in range(len(opened.stages)):
            manifest, folder = opened.stage(number)
            self._sessions.append(opened.open(manifest, folder))
        self.input_names = [spec["name"] for spec in opened.contract["inputs"]]
        self.output_names = [spec["name"] for spec in opened.contract["outputs"]]
        exits = [stage["exit"] for stage in opened.stages[:-1]]
        self.names = [one["name"] for one in exits] + [END]
        self.ended = [0] * len(self.names)
        self._stages = [_stage(session, one) for session, one in zip(self._sessions, exits)]
        last = self._sessions[-1]
        self._last = last.run, last.input_names, [last.output_names.index(name) for name in self.output_names]

    def run(self, inputs: Fields) -> list[Any]:
        """Run once: the answer is that of the exit that was taken."""
        values = dict(inputs)
        for number, (run, wanted, made, answer, confidence, threshold) in enumerate(self._stages):
            found = run({name: values[name] for name in wanted})
            if found[confidence].item() >= threshold:
                self.ended[number] += 1
                return [found[answer]]
            values.update(zip(made, found))
        run, wanted, places = self._last
        self.ended[-1] += 1
        found = run({name: values[name] for name in wanted})
        return [found[place] for place in places]

    def passed_on(self, number: int, values: Fields) -> Fields:
        """Return ``values`` and what one stage makes of them."""
        session = self._sessions[number]
        found = session.run({name: values[name] for name in session.input_names})
        return {**values, **dict(zip(session.output_names, found))}

    def exits(self, before: list[int]) -> list[list[Any]]:
        """Return how many calls ended at each exit since ``ended`` was ``before``."""
        return [[name, now - then] for name, now, then in zip(self.names, self.ended, before)]

    def close(self) -> None:
        """Free all models."""
        for session in self._sessions:
            session.close()


def _stage(session: Any, way_out: Fields) -> tuple[Any, ...]:
    places = [session.output_names.index(way_out[name]) for name in ("output", "confidence")]
    return (session.run, session.input_names, session.output_names, *places, way_out["threshold"])
