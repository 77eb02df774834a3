"""What a tracker does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Receives the metrics and sample images of a run, on rank 0 only.

    Any exception that a method raises is printed as one line. The run then continues without the tracker.
    """

    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Called after every epoch with the numbers of its row of metrics.jsonl.

        Args:
            epoch: number of finished epochs.
            metrics: values may be NaN or infinite. The scores of a mixture of rewards are `reward/<name>_mean` and
                `reward/<name>_std`; those of prompts with a tag are `reward_by_tag/<tag>_mean` and
                `reward_by_tag/<tag>_images`.
        """
        ...

    def log_images(self, epoch: int, path: Path) -> None:
        """Called with each new grid of sample images.

        Args:
            epoch: number of finished epochs.
            path: a PNG file of captioned images.
        """
        ...

    def close(self) -> None:
        """Called when the run ends, however it ends."""
        ...


class TrackerFactory(Protocol):
    """Builds a tracker when the first epoch starts. Usually the tracker's class."""

    def __call__(self, run: Path, config: Mapping[str, Any], finished_epochs: int) -> Tracker:
        """
        Args:
            run: the run directory.
            config: the configuration of the run, as in config.yaml.
            finished_epochs: 0 for a new run. A resumed run logs later epochs again if they had been logged before: the
                tracker should discard what it has of them.
        """
        ...
