"""Writes down what the hostile cases came to, where that is asked for."""

from tests.hostile.trials import write_rows


def pytest_sessionfinish() -> None:
    write_rows()
