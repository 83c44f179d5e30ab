"""`python -m tokenbounds.cli`."""

from tokenbounds.cli import main

main()
