"""Start a run from the weights of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stepcredit.errors import InputError, shortened
from stepcredit.runs import checkpoint
from stepcredit.runs.directory import RunDirectory
from stepcredit.types import Policy


def load_weights(policy: Policy, source: Path) -> dict[str, Any]:
    """Load the trained weights of the newest checkpoint of a run into `policy`.

    The optimizer, the statistics of rewards and the counters start anew. The reference of a KL penalty is still the
    untrained model.

    Args:
        source: a run directory.

    Returns:
        What environment.json records: the run and the epoch of the checkpoint.

    Raises:
        InputError: there is no run or no checkpoint, or its weights do not fit the policy.
    """
    directory = RunDirectory.open(source)
    saved = checkpoint.folders(directory.checkpoint_root)
    if not saved:
        raise InputError(f"{source} holds no checkpoint to start from")
    found = checkpoint.load(saved[-1])
    try:
        policy.load_state_dict(found.part("policy"))
    except (InputError, RuntimeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"the weights of {source} do not fit this model: {shortened(str(error), 200)}; use the same model.path, "
            "model.adapter, model.lora_rank, model.lora_targets and model.ema"
        ) from error
    return {"run": str(source), "epoch": found.epoch}
