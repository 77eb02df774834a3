"""TensorBoard event files in the folder `tensorboard` of the run directory."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stepcredit.runs.trackers import TRACKERS


@TRACKERS.register("tensorboard")
class TensorBoardTracker:
    """One scalar per metric and one image per sample grid. Everything is in the file when a method returns.

    A resumed run starts another event file, which makes TensorBoard hide what older files have of later epochs.
    """

    def __init__(self, run: Path, config: Mapping[str, Any], finished_epochs: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # the import takes a second

        purge_step = finished_epochs + 1 if finished_epochs else None
        self._excepthook = threading.excepthook
        threading.excepthook = self._ignore_writer_thread
        try:
            self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=purge_step)
        except BaseException:
            threading.excepthook = self._excepthook
            raise

    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def log_images(self, epoch: int, path: Path) -> None:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image("samples", pixels, epoch, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        try:
            self._writer.close()
        finally:
            threading.excepthook = self._excepthook

    def _ignore_writer_thread(self, error: threading.ExceptHookArgs) -> None:
        """The writer raises errors of its thread again in the next call; their traceback is not printed as well."""
        if type(error.thread).__name__ != "_AsyncWriterThread":
            self._excepthook(error)
