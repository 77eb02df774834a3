"""`stepcredit report`: write the HTML report of a run or of a comparison."""

from __future__ import annotations

from pathlib import Path

from stepcredit.errors import InputError


def report(source: Path, out: Path | None) -> None:
    """Write the report, by default to report.html in the folder, and print its path.

    Raises:
        InputError: `source` is neither a run nor a finished comparison, it cannot be read, or `out` cannot be written.
    """
    run, comparison = ((source / name).is_file() for name in ("config.yaml", "protocol.yaml"))
    if not source.is_dir():
        raise InputError(f"{source} is not a folder; give the folder of a run or of a comparison")
    if not run and not comparison:
        raise InputError(f"{source} is neither a run (no config.yaml) nor a comparison (no protocol.yaml)")
    if out is not None and out.is_dir():
        raise InputError(f"cannot write to {out}: it is a folder; choose another --out")
    try:
        print(_write_run(source, out) if run else _write_comparison(source, out))
    except OSError as error:
        raise InputError(_message(error, source, out or source / "report.html")) from error


def _message(error: OSError, source: Path, page: Path) -> str:
    """Name the file that failed: the page, which is written as `.NAME.PID.tmp` first, or a file of the run."""
    reason = error.strerror or error
    if error.filename is None:
        return f"cannot write {page} from {source}: {reason}"
    file = Path(error.filename)
    written = file.parent == page.parent and (file.name == page.name or file.name.startswith(f".{page.name}."))
    if written or file in page.parents:
        return f"cannot write to {page}: {reason}; choose another --out"
    return f"cannot read {file}: {reason}"


def _write_run(source: Path, out: Path | None) -> Path:
    from stepcredit.report import write_report  # torch takes seconds to import

    return write_report(source, out)


def _write_comparison(source: Path, out: Path | None) -> Path:
    from stepcredit.comparison.report import write_comparison_report  # torch takes seconds to import

    return write_comparison_report(source, out)
