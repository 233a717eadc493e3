"""``python -m fedquad`` is the command ``fedquad``."""

from fedquad.cli import main

main()
