"""The toy policy behind the command line, and the counts for docs/results/reliability.md where they are asked for."""

from tests.cli.conftest import here, toy
from tests.hostile.trials import write_rows

__all__ = ["here", "toy"]


def pytest_sessionfinish() -> None:
    write_rows()
