"""The toy policy behind the command line."""

from tests.cli.conftest import here, toy

__all__ = ["here", "toy"]
