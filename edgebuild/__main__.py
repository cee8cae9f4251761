"""`python -m edgebuild`."""

from edgebuild.cli import main

main()
