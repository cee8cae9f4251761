"""`python -m edgebuild.techniques.reference`: writes the JSON Schema and the reference page of edgebuild.toml again."""

from __future__ import annotations

from edgebuild.catalogue import reference
from edgebuild.techniques.registry import TABLE


def main() -> None:
    """Write both with the parameters of edgebuild's own techniques: those of other packages are on their pages."""
    reference.write({name: technique.Parameters for name, technique in TABLE.items()})


if __name__ == "__main__":
    main()
