"""`python -m recovery` is `journal`."""

from recovery.cli import main

main()
