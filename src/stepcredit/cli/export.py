"""`stepcredit export`: write the newest weights of a run in a format that other programs read."""

from __future__ import annotations

from pathlib import Path

from stepcredit.config import TrainConfig
from stepcredit.evaluation.source import open_source
from stepcredit.runs.directory import RunDirectory
from stepcredit.utils.output import require_empty, writing_to

ANOTHER_OUT = "choose another --out"


def export(run: Path, form: str, out: Path | None) -> None:
    """Write the weights of the newest checkpoint into `out`, and print how to load them.

    With `model.ema` these are the averaged weights.

    Args:
        form: one of FORMATS.
        out: a new or empty folder; None is that of `RunDirectory.export_path`.

    Raises:
        InputError: `run` holds no checkpoint, an unknown format, or `out` cannot be written.
    """
    source = open_source(str(run), "to export", runs_only=True)
    assert source.checkpoint is not None, "open_source with runs_only returns runs"
    out = RunDirectory(run).export_path(form) if out is None else out
    require_empty(out, ANOTHER_OUT)

    from stepcredit.policy.export.formats import export_format, loading_hint, write  # diffusers takes seconds to import
    from stepcredit.policy.loading import load_policy
    from stepcredit.runs import checkpoint
    from stepcredit.utils.logging import quiet_libraries

    form = export_format(form)
    quiet_libraries()
    policy = load_policy(_on_cpu(source.config), safety_checker=True)
    policy.load_state_dict(checkpoint.load(source.checkpoint).part("policy"))
    with writing_to(out, ANOTHER_OUT):
        path = write(policy.pipeline, policy.adapter, form, out)
    print(f"wrote {source.checkpoint.name} of {run} to {path}\nload it with: {loading_hint(policy.pipeline, path)}")


def _on_cpu(config: TrainConfig) -> TrainConfig:
    """The configuration without the settings that training needs: weights can be copied on any machine."""
    changes = {"device": "cpu", "compile": False, "gradient_checkpointing": False}
    return config.model_copy(update={"model": config.model.model_copy(update=changes)})
