"""Which process samples and trains which images of an epoch."""

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
    """The division of an epoch's N images among the processes.

    Attributes:
        owners: (N,), the rank that samples and trains each image.
        processes: the processes of the run.
    """

    owners: Tensor
    processes: ProcessGroup

    @cached_property
    def rows(self) -> Tensor:
        """(n,), the indices of this process's images, ascending."""
        return (self.owners == self.processes.rank).nonzero().flatten()

    @property
    def total(self) -> int:
        """N, the number of images of all processes."""
        return len(self.owners)

    @property
    def size(self) -> int:
        """The largest number of images that a process has."""
        return -(-self.total // self.processes.world_size)

    def local(self, items: Sequence[Item]) -> list[Item]:
        """Of N items, one per image, those of this process."""
        return [items[row] for row in self.rows.tolist()]

    def local_rows(self, group: Tensor) -> Tensor:
        """The images of `group` that belong to this process, as positions in `rows`."""
        return torch.searchsorted(self.rows, group[self.owners[group] == self.processes.rank])

    def largest_part(self, group: Tensor) -> int:
        """The largest number of images of `group` that a process has."""
        return int(torch.bincount(self.owners[group]).max())

    def gather(self, values: Tensor) -> Tensor:
        """(N, ...) on all processes: the `values` (n, ...) of each, in the order of the images."""
        if self.processes.world_size == 1:
            return values
        return torch.cat(self.processes.all_gather(values.detach().cpu()))[self.order].to(values.device)

    def from_rank_0(self, values: Tensor) -> Tensor:
        """The `values` of rank 0, on all processes."""
        if self.processes.world_size == 1:
            return values
        return self.processes.all_gather(values.detach().cpu())[0].to(values.device)

    def gather_trajectories(self, trajectory: Trajectory) -> Trajectory:
        """The trajectories of all processes, without `recording`: they cannot be replayed."""
        if self.processes.world_size == 1:
            return trajectory
        gathered = self.processes.all_gather((list(trajectory.prompts), list(trajectory.metadata)))
        prompts, metadata = ([entry for part in parts for entry in part] for parts in zip(*gathered, strict=True))
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

    def reduce_metrics(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Metrics of all images, from those of each process's: ints are summed, floats averaged over images."""
        if self.processes.world_size == 1:
            return dict(metrics)
        gathered = self.processes.all_gather((len(self.rows), dict(metrics)))
        return {name: _reduce([(count, other[name]) for count, other in gathered if count]) for name in metrics}

    @cached_property
    def order(self) -> Tensor:
        """(N,), the position of each image in the concatenation of all processes' images."""
        return self.owners.argsort(stable=True).argsort()


def partition_images(groups: Sequence[Tensor], processes: ProcessGroup) -> Partition:
    """Deal the images out in turn, group by group, so that the parts of each group differ by at most one image.

    Args:
        groups: the image indices of each update of the epoch's first pass. Together they hold every image once.
    """
    images = torch.cat(list(groups))
    owners = torch.empty_like(images)
    owners[images] = torch.arange(len(images)) % processes.world_size
    return Partition(owners, processes)


def unpartitioned(images: int) -> Partition:
    """The partition of a run with one process, which has every image."""
    return Partition(torch.zeros(images, dtype=torch.long), ProcessGroup())


def _reduce(values: Sequence[tuple[int, Any]]) -> Any:
    """Reduce one metric from (number of images, value) of each process that has images."""
    if all(isinstance(value, int) for _, value in values):
        return sum(value for _, value in values)
    return sum(count * value for count, value in values) / sum(count for count, _ in values)
