"""Look up all packages of a lock file, for all platforms, in PyPI's advisory database with pip-audit.

    python .ci/advisories.py uv.lock

Exit codes: 0 if no package has a known vulnerability; 1 if one has, or cannot be looked up; 3 if the database cannot be
reached, or the package index in use does not serve it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, NoReturn

OK, UNSAFE, UNREACHABLE = 0, 1, 3
REQUEST_TIMEOUT = 10
TOTAL_TIMEOUT = 180
PROBE = "pip==25.0"
"""A package that every copy of the database knows."""
NETWORK_ERRORS = (
    "requests.exceptions",
    "urllib3",
    "ConnectionError",
    "ServiceError",
    "Could not connect",
    "not redirecting",
)


def exit_unreachable(reason: str) -> NoReturn:
    print(f"NOT AUDITED: the advisory database cannot be reached ({reason})", file=sys.stderr)
    sys.exit(UNREACHABLE)


def pinned(lock: Path) -> list[list[str]]:
    """The requirements of all packages from an index, in lists that name each package at most once."""
    lists: list[list[str]] = []
    seen: dict[str, int] = {}
    for package in tomllib.loads(lock.read_text(encoding="utf-8"))["package"]:
        if "registry" in package["source"]:
            times = seen[package["name"]] = seen.get(package["name"], 0) + 1
            lists += [[]] * (times > len(lists))
            lists[times - 1] = [*lists[times - 1], f"{package['name']}=={package['version']}"]
    return lists


def look_up(requirements: list[str]) -> list[dict[str, Any]]:
    """The "vulns" of each package, or a "skip_reason" if the database does not know it."""
    with tempfile.TemporaryDirectory() as folder:
        file, report = Path(folder) / "requirements.txt", Path(folder) / "report.json"
        file.write_text("\n".join(requirements), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner", "off"),
            *(
                "--requirement",
                str(file),
                "--format",
                "json",
                "--output",
                str(report),
                "--timeout",
                str(REQUEST_TIMEOUT),
            ),
        ]
        try:
            process = subprocess.run(command, capture_output=True, text=True, timeout=TOTAL_TIMEOUT)
        except subprocess.TimeoutExpired:
            exit_unreachable(f"no answer within {TOTAL_TIMEOUT} s")
        if report.exists():
            packages: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
            if len(packages) == len(requirements):
                return packages
    if any(error in process.stderr for error in NETWORK_ERRORS):
        exit_unreachable(process.stderr.strip().splitlines()[-1])
    print(f"pip-audit did not report on all of {len(requirements)} packages\n{process.stderr}", file=sys.stderr)
    sys.exit(UNSAFE)


def main() -> int:
    if "skip_reason" in look_up([PROBE])[0]:
        exit_unreachable("the package index serves no advisories")
    packages = [package for requirements in pinned(Path(sys.argv[1])) for package in look_up(requirements)]
    problems = [f"{package['name']}: {package['skip_reason']}" for package in packages if "skip_reason" in package]
    for package in packages:
        for vulnerability in package.get("vulns", []):
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version"
            problems.append(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(packages)} packages looked up, {len(problems)} problems")
    return UNSAFE if problems or not packages else OK


if __name__ == "__main__":
    sys.exit(main())
