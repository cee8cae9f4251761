"""How a candidate and a build end: the first misfortune counts, and nothing is better than what was shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgebuild.core.verdict import Outcome, Verdict
from edgebuild.judging.endings import Course, ending_of, finalist_ending, outcome_of, summary_of
from edgebuild.judging.selection import Selection

REFUSED = Verdict(outcome=Outcome.REFUSED, reasons=("falls behind",))
ACCEPTED = Verdict(outcome=Outcome.ACCEPTED)
UNDECIDED = Verdict(outcome=Outcome.INCONCLUSIVE)
VERDICTS = st.sampled_from([ACCEPTED, REFUSED, UNDECIDED])
TEXTS = st.sampled_from(["", "why"])
MAYBE = st.sampled_from([None, "why"])


def selection(chosen: str | None = None, nearest: str | None = None, front: tuple[str, ...] = ()) -> Selection:
    return Selection(chosen=chosen, nearest=nearest, front=front, reasons={"a": "the fastest", "b": "slower"})


@given(
    st.builds(
        Course,
        failure=MAYBE,
        verdict=st.none() | VERDICTS,
        lost=MAYBE,
        screened=MAYBE,
        dropped=MAYBE,
        passed_over=st.just("passed over"),
        unproven=TEXTS,
    )
)
def test_every_candidate_has_one_ending_and_none_of_them_is_good(course: Course) -> None:
    ending = ending_of(course)
    assert ending.status in {"failed", "unraced", "refused", "screened"}
    assert ending.reason
    assert (ending.status == "screened") <= (course.screened is not None and course.verdict not in {None, REFUSED})
    assert (ending.status == "refused") <= (course.verdict is REFUSED)
    if course.failure is not None:
        assert (ending.status, ending.reason) == ("failed", course.failure)


@given(VERDICTS, st.booleans(), st.sampled_from([None, "a", "b"]), st.booleans())
def test_only_the_chosen_one_is_chosen(verdict: Verdict, front: bool, chosen: str | None, decidable: bool) -> None:
    found = selection(chosen, "a", ("a",) if front else ())
    status = finalist_ending("a", verdict, found, decidable=decidable).status
    assert (status == "chosen") == (chosen == "a")
    if chosen != "a" and verdict is not ACCEPTED:
        assert status == {Outcome.REFUSED: "refused", Outcome.INCONCLUSIVE: "inconclusive"}[verdict.outcome]
    assert (status == "unraced") == (chosen is None and verdict is ACCEPTED and not decidable)


@given(st.lists(VERDICTS), st.sampled_from([None, "a"]), st.booleans())
def test_a_build_is_ok_only_with_a_choice_and_proof(
    verdicts: list[Verdict], chosen: str | None, unproven: bool
) -> None:
    outcome = outcome_of(selection(chosen), verdicts, unproven=unproven)
    assert (outcome == "ok") == (chosen is not None and not unproven)
    assert (outcome == "missed") == (chosen is None and not unproven and UNDECIDED not in verdicts)


def test_the_sentence_names_the_chosen_the_nearest_or_what_went_wrong() -> None:
    refused, whole, broken = {"a": REFUSED}, {"a": None}, {"a": "broke"}
    assert summary_of(selection("a"), refused, "ok", failures=whole, unproven="") == "a: the fastest"
    missed = summary_of(selection(nearest="a"), refused, "missed", failures=whole, unproven="")
    assert missed == "No candidate stays inside the budget; the nearest is a: falls behind"
    undecided = summary_of(selection(nearest="a"), refused, "inconclusive", failures=whole, unproven="")
    assert undecided == "No candidate could be certified; the nearest is a: falls behind"
    assert summary_of(selection(), {}, "missed", failures=broken, unproven="") == "Nothing could be measured: a: broke"
    compiled = summary_of(selection(), {}, "inconclusive", failures=whole, unproven="compiled only")
    assert compiled == "Nothing is proven: compiled only"
    nothing = summary_of(selection(), {}, "missed", failures=broken, unproven="compiled only")
    assert nothing == "Nothing could be compiled: a: broke"
