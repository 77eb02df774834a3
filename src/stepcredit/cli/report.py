"""`stepcredit report`: one self-contained HTML page of a run or of a comparison."""

from __future__ import annotations

from pathlib import Path

from stepcredit.errors import InputError


def report(source: Path, out: Path | None) -> None:
    """Write the page, by default to report.html in the folder, and print where it is.

    Raises:
        InputError: `source` is neither a run nor a finished comparison, it cannot be read, or `out` cannot be written.
    """
    run, comparison = ((source / name).is_file() for name in ("config.yaml", "protocol.yaml"))
    if not run and not comparison:
        what = "is neither a run (no config.yaml) nor a comparison (no protocol.yaml)"
        raise InputError(f"{source} {what if source.is_dir() else 'is no folder of a run or a comparison'}")
    if out is not None and out.is_dir():
        raise InputError(f"cannot write to {out}: it is a folder; choose another --out")
    try:
        print(_write_run(source, out) if run else _write_comparison(source, out))
    except OSError as error:
        raise InputError(_told(error, source, out or source / "report.html")) from error


def _told(error: OSError, source: Path, page: Path) -> str:
    """Which file it was: the page, first written as `.NAME.PID.tmp`, or one that is read for it."""
    reason = error.strerror or error
    if error.filename is None:
        return f"cannot make {page} of {source}: {reason}"
    file = Path(error.filename)
    written = file.parent == page.parent and (file.name == page.name or file.name.startswith(f".{page.name}."))
    if written or file in page.parents:
        return f"cannot write to {page}: {reason}; choose another --out"
    return f"cannot read {file}: {reason}"


def _write_run(source: Path, out: Path | None) -> Path:
    from stepcredit.report import write_report  # torch takes seconds to import

    return write_report(source, out)


def _write_comparison(source: Path, out: Path | None) -> Path:
    from stepcredit.comparison.report import write_comparison_report  # as above

    return write_comparison_report(source, out)
