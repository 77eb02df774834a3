"""The section `run`."""

from __future__ import annotations

from pydantic import Field

from stepcredit.config.section import Section


class RunSection(Section):
    """Seed, processes, grids, checkpoints and plugins."""

    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all random numbers of the run.")
    processes: int | None = Field(None, ge=1, description="Required number of processes. `null` accepts any number.")
    connect_timeout: float | None = Field(
        300.0,
        gt=0,
        description="Seconds to wait for the other processes of the launcher to connect. `null` means no limit.",
    )
    grid_every: int = Field(5, ge=1, description="Number of epochs between sample grids.")
    grid_images: int = Field(16, ge=1, description="Number of images on a sample grid.")
    checkpoint_every: int = Field(1, ge=1, description="Number of epochs between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="Number of most recent checkpoints to keep.")
    keep_best: int = Field(
        1,
        ge=0,
        description="Number of best checkpoints to keep in addition to the most recent ones. The best are those "
        "whose images scored highest.",
    )
    plugins: list[str] = Field(
        [],
        description="Files (`path/file.py`) or modules of your own to import. They register rewards, credit "
        "rules and so on.",
    )
    self_check: bool = Field(
        True,
        description="Replay the first batch before training, and refuse a model whose replay differs from its rollout.",
    )
    profile: bool = Field(
        False, description="Profile the second epoch with the torch profiler. Writes a trace and a table to `profile/`."
    )
    trackers: list[str] = Field(
        ["tensorboard"],
        description="Trackers that log metrics and sample grids: names, `module:Class` or `path/file.py:Class`. "
        "`stepcredit list tracker` lists the names.",
    )
