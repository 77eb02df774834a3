"""Ask PyPI's advisory database about every version in a lock file, those of other systems too, with pip-audit.

    python .ci/advisories.py uv.lock

Exit codes: 0 nothing is known against any of them; 1 there is, or one could not be looked up, which never counts as
safety; 3 the database cannot be reached, or is not served by the registry that answers in its place.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, NoReturn

SOUND, UNSAFE, UNREACHABLE = 0, 1, 3
PATIENCE = 10
"""Seconds for one answer."""
WHOLE = 180
"""Seconds for all answers."""
KNOWN = "pip==25.0"
"""What every database of PyPI's packages knows."""
NETWORK = ("requests.exceptions", "urllib3", "ConnectionError", "ServiceError", "Could not connect", "not redirecting")


def unreachable(why: str) -> NoReturn:
    print(f"NOT AUDITED: the advisory database cannot be reached ({why})", file=sys.stderr)
    sys.exit(UNREACHABLE)


def pinned(lock: Path) -> list[list[str]]:
    """Requirements of everything that is locked from a registry, in lists that name each package once."""
    lists: list[list[str]] = []
    seen: dict[str, int] = {}
    for package in tomllib.loads(lock.read_text(encoding="utf-8"))["package"]:
        if "registry" in package["source"]:
            times = seen[package["name"]] = seen.get(package["name"], 0) + 1
            lists += [[]] * (times > len(lists))
            lists[times - 1] = [*lists[times - 1], f"{package['name']}=={package['version']}"]
    return lists


def looked_up(requirements: list[str]) -> list[dict[str, Any]]:
    """What the database says of each package: its "vulns", or a "skip_reason" where it does not know it."""
    with tempfile.TemporaryDirectory() as folder:
        asked, report = Path(folder) / "asked.txt", Path(folder) / "report.json"
        asked.write_text("\n".join(requirements), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner", "off"),
            *("--requirement", str(asked), "--format", "json", "--output", str(report), "--timeout", str(PATIENCE)),
        ]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=WHOLE)
        except subprocess.TimeoutExpired:
            unreachable(f"no end after {WHOLE} s")
        if report.exists():
            found: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
            if len(found) == len(requirements):
                return found
    if any(sign in said.stderr for sign in NETWORK):
        unreachable(said.stderr.strip().splitlines()[-1])
    print(f"pip-audit does not answer for each of {len(requirements)} packages\n{said.stderr}", file=sys.stderr)
    sys.exit(UNSAFE)


def main() -> int:
    if "skip_reason" in looked_up([KNOWN])[0]:
        unreachable("the registry has no advisories, not even on pip")
    packages = [package for part in pinned(Path(sys.argv[1])) for package in looked_up(part)]
    complaints = [f"{package['name']}: {package['skip_reason']}" for package in packages if "skip_reason" in package]
    for package in packages:
        for found in package.get("vulns", []):
            mended = ", ".join(found["fix_versions"]) or "no version"
            complaints.append(f"{package['name']} {package['version']}: {found['id']}, mended in {mended}")
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    print(f"{len(packages)} packages looked up, {len(complaints)} complaints")
    return UNSAFE if complaints or not packages else SOUND


if __name__ == "__main__":
    sys.exit(main())
