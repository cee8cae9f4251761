"""Contract suites that every plugin passes, ours and third parties': plain functions, no test framework needed.

Each raises ``ContractBroken`` with the sentence of the contract that doesn't hold.
"""

from __future__ import annotations


class ContractBroken(AssertionError):
    """A promise that the plugin doesn't keep."""


def require(holds: bool, promise: str) -> None:
    """Raise ``ContractBroken`` unless the promise holds."""
    if not holds:
        raise ContractBroken(promise)
