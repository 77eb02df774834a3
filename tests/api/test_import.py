"""`import stepcredit` is light, and every public name can be imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

import stepcredit

HEAVY = ("torch", "diffusers", "transformers", "numpy", "pydantic", "PIL", "rich")


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, stepcredit; dir(stepcredit); print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize("name", stepcredit.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(stepcredit, name) is not None
    assert name in dir(stepcredit)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Trianer"):
        stepcredit.Trianer  # noqa: B018
