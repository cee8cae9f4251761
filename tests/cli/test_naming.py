"""How a candidate of a build is named on the command line."""

from __future__ import annotations

import pytest

from edgebuild.cli.building import pick_candidate
from edgebuild.errors import UsageError
from edgebuild.reporting import sentences
from tests.reporting import sample_record


def test_a_candidate_is_named_by_its_number_its_id_or_a_part_of_it() -> None:
    record = sample_record.full()
    ids = [each.id for each in sentences.ordered(record)]
    assert [pick_candidate(record, str(n)) for n in range(1, len(ids) + 1)] == ids
    assert [pick_candidate(record, name) for name in ids] == ids
    with pytest.raises(UsageError, match="there is no candidate 'none'"):
        pick_candidate(record, "none")
    with pytest.raises(UsageError, match=rf"'/' fits {len(ids)} candidates"):
        pick_candidate(record, "/")
