"""`.ci/audit` tells what is unsafe from what it could not ask about."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCK = """
package = [
  { name = "stepcredit", version = "1", source = { editable = "." } },
  { name = "a", version = "1", source = { registry = "https://pypi.org/simple" } },
  { name = "a", version = "2", source = { registry = "https://pypi.org/simple" } },
  { name = "b", version = "1", source = { registry = "https://pypi.org/simple" } },
]
"""
PIP = {"name": "pip", "version": "1", "vulns": []}
A, B = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "version": "1", "vulns": []}
VULNERABLE = {"name": "a", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "b", "skip_reason": "Dependency not found on PyPI"}
REFUSED = "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='pypi.org', port=443): refused"


def audited(folder: Path, *answers: list[dict[str, object]] | str) -> subprocess.CompletedProcess[str]:
    """With a pip-audit that writes one of `answers` after the other, or fails with that text."""
    (folder / "uv.lock").write_text(LOCK)
    (folder / "answers.json").write_text(json.dumps(answers))
    (folder / "pip_audit.py").write_text(
        "import json, pathlib, sys\n"
        "place = pathlib.Path(__file__).with_name('answers.json')\n"
        "answer, *rest = json.loads(place.read_text())\n"
        "place.write_text(json.dumps(rest))\n"
        "if isinstance(answer, str):\n"
        "    sys.exit(answer)\n"
        "pathlib.Path(sys.argv[sys.argv.index('--output') + 1]).write_text(json.dumps({'dependencies': answer}))\n"
        "sys.exit(any(entry.get('vulns') for entry in answer))\n"
    )
    command = [sys.executable, str(ROOT / ".ci/advisories.py"), str(folder / "uv.lock")]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("answers", "code", "said"),
    [
        (([PIP], [A, B], [{**A, "version": "2"}]), 0, "3 packages looked up, 0 problems"),
        (([PIP], [A, B], [VULNERABLE]), 1, "a 2: PYSEC-1, fixed in 3"),
        (([PIP], [A, UNKNOWN], [A]), 1, "b: Dependency not found on PyPI"),
        (([PIP], [A], [A]), 1, "2 packages"),
        (([PIP], "ERROR: invalid requirements input"), 1, "invalid requirements input"),
        (([UNKNOWN],), 3, "NOT AUDITED: the advisory database cannot be reached "),
        ((REFUSED,), 3, "NOT AUDITED: the advisory database cannot be reached (requests.exceptions.ConnectionError"),
        (([PIP], "Traceback\n" + REFUSED), 3, "NOT AUDITED"),
    ],
)
def test_what_is_unsafe_fails_and_what_could_not_be_asked_is_said(
    answers: tuple[list[dict[str, object]] | str, ...], code: int, said: str, tmp_path: Path
) -> None:
    ended = audited(tmp_path, *answers)
    assert ended.returncode == code, ended
    assert said in ended.stdout + ended.stderr


def test_the_check_script_fails_for_what_is_unsafe_alone() -> None:
    (line,) = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line.startswith(".ci/audit")]
    for code, expected in ((0, 0), (1, 1), (3, 0)):
        script = f"set -euo pipefail; audit() {{ return {code}; }}; {line.replace('.ci/audit', 'audit')}"
        assert subprocess.run(["bash", "-c", script]).returncode == expected
