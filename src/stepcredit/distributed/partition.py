"""Which images of an epoch are whose, where several processes share its work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from stepcredit.distributed.process_group import ProcessGroup
from stepcredit.types import Trajectory

Item = TypeVar("Item")


@dataclass(frozen=True)
class Partition:
    """The images of an epoch that this process samples and trains, among those of the others.

    Attributes:
        owners: (N,), the process of each image of the epoch.
    """

    owners: Tensor
    processes: ProcessGroup

    @cached_property
    def rows(self) -> Tensor:
        """(n,), the images of this process, ascending."""
        return (self.owners == self.processes.rank).nonzero().flatten()

    @property
    def total(self) -> int:
        """N, the images of all processes."""
        return len(self.owners)

    @property
    def size(self) -> int:
        """The images of the process that has most."""
        return -(-self.total // self.processes.world_size)

    def local(self, items: Sequence[Item]) -> list[Item]:
        """Those of N items that are about images of this process."""
        return [items[row] for row in self.rows.tolist()]

    def local_rows(self, group: Tensor) -> Tensor:
        """The images of a group that are of this process, as places in `rows`."""
        return torch.searchsorted(self.rows, group[self.owners[group] == self.processes.rank])

    def largest_part(self, group: Tensor) -> int:
        """The images of a group of the process that has most of them."""
        return int(torch.bincount(self.owners[group]).max())

    def gather(self, values: Tensor) -> Tensor:
        """(N, ...), on each process: every process's `values` (n, ...), in the order of the images."""
        if self.processes.world_size == 1:
            return values
        return torch.cat(self.processes.all_gather(values.detach().cpu()))[self.order].to(values.device)

    def gather_trajectories(self, trajectory: Trajectory) -> Trajectory:
        """The trajectories of all processes, for a credit rule to look at: without what it takes to replay them."""
        if self.processes.world_size == 1:
            return trajectory
        beside = self.processes.all_gather((list(trajectory.prompts), list(trajectory.metadata)))
        prompts, metadata = ([entry for part in parts for entry in part] for parts in zip(*beside, strict=True))
        order = self.order.tolist()
        return replace(
            trajectory,
            latents=self.gather(trajectory.latents),
            log_probs=self.gather(trajectory.log_probs),
            x0=None if trajectory.x0 is None else self.gather(trajectory.x0),
            prompts=[prompts[place] for place in order],
            metadata=[metadata[place] for place in order],
            recording=None,
        )

    def reduce_metrics(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Figures of this process's images as those of all: counts (int) added up, means (float) averaged."""
        if self.processes.world_size == 1:
            return dict(figures)
        shares = self.processes.all_gather((len(self.rows), dict(figures)))
        return {name: _merged([(count, found[name]) for count, found in shares if count]) for name in figures}

    @cached_property
    def order(self) -> Tensor:
        """Where each image of the epoch is among the images of all processes, one process after the other."""
        return self.owners.argsort(stable=True).argsort()


def partition_images(groups: Sequence[Tensor], processes: ProcessGroup) -> Partition:
    """Deal images out, group by group in turn, so that every process has as many of each group, give or take one.

    Args:
        groups: of the epoch's first updates; together they hold each image once.
    """
    images = torch.cat(list(groups))
    owners = torch.empty_like(images)
    owners[images] = torch.arange(len(images)) % processes.world_size
    return Partition(owners, processes)


def unpartitioned(images: int) -> Partition:
    """Every image, where there is one process."""
    return Partition(torch.zeros(images, dtype=torch.long), ProcessGroup())


def _merged(found: Sequence[tuple[int, Any]]) -> Any:
    values = [value for _, value in found]
    if all(isinstance(value, int) for value in values):
        return sum(values)
    return sum(count * value for count, value in found) / sum(count for count, _ in found)
