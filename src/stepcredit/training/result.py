"""What a finished run has produced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainResult:
    """What a run has produced.

    Attributes:
        output_dir: the run directory.
        history: the rows of metrics.jsonl, one mapping per epoch.
        weights: the trained weights: a LoRA file for `load_lora_weights`, a LoRA folder for
            `peft.PeftModel.from_pretrained`, or the denoiser's folder.
        before: sample grid of the untrained model; None if the file has been removed.
        after: sample grid of the trained model, with the same prompts and noise.
        stopped_early: whether a callback has stopped the run.
    """

    output_dir: Path
    history: Sequence[Mapping[str, Any]]
    weights: Path
    before: Path | None
    after: Path | None
    stopped_early: bool
