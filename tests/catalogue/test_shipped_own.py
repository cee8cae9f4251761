"""The shipped folder may be met twice: by a command that runs inside the checkout itself."""

from __future__ import annotations

from edgebuild.catalogue.shipped import shipped_folder
from edgebuild.catalogue.targets import load_targets


def test_the_checkout_is_no_project_that_redefines_what_ships() -> None:
    assert load_targets(shipped_folder("targets").parent) == load_targets()
