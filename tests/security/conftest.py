"""The toy policy behind the command line, as the tests of the commands have it."""

from tests.cli.conftest import here, toy

__all__ = ["here", "toy"]
