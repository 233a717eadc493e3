"""The command line: ``fedquad``, one file a command."""

from fedquad.cli.app import app, main

__all__ = ["app", "main"]
