"""Which images of an epoch are whose, where several processes share its work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from stepcredit.distributed.process_group import Processes
from stepcredit.types import Trajectory

Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """The images of an epoch that this process samples and trains, among those of the others.

    Attributes:
        owners: (N,), the process of each image of the epoch.
    """

    owners: Tensor
    processes: Processes

    @cached_property
    def rows(self) -> Tensor:
        """(n,), the images of this process, ascending."""
        return (self.owners == self.processes.index).nonzero().flatten()

    @property
    def total(self) -> int:
        """N, the images of all processes."""
        return len(self.owners)

    @property
    def size(self) -> int:
        """The images of the process that has most."""
        return -(-self.total // self.processes.count)

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Those of N items that are about images of this process."""
        return [items[row] for row in self.rows.tolist()]

    def among(self, group: Tensor) -> Tensor:
        """The images of a group that are of this process, as places in `rows`."""
        return torch.searchsorted(self.rows, group[self.owners[group] == self.processes.index])

    def largest(self, group: Tensor) -> int:
        """The images of a group of the process that has most of them."""
        return int(torch.bincount(self.owners[group]).max())

    def whole(self, values: Tensor) -> Tensor:
        """(N, ...), on each process: every process's `values` (n, ...), in the order of the images."""
        if self.processes.count == 1:
            return values
        return torch.cat(self.processes.exchange(values.detach().cpu()))[self.order].to(values.device)

    def whole_walks(self, trajectory: Trajectory) -> Trajectory:
        """The walks of all processes, for a credit rule to look at: without what it takes to replay them."""
        if self.processes.count == 1:
            return trajectory
        beside = self.processes.exchange((list(trajectory.prompts), list(trajectory.metadata)))
        prompts, metadata = ([entry for part in parts for entry in part] for parts in zip(*beside, strict=True))
        order = self.order.tolist()
        return replace(
            trajectory,
            latents=self.whole(trajectory.latents),
            log_probs=self.whole(trajectory.log_probs),
            x0=None if trajectory.x0 is None else self.whole(trajectory.x0),
            prompts=[prompts[place] for place in order],
            metadata=[metadata[place] for place in order],
            recording=None,
        )

    def figures(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Figures of this process's images as those of all: counts (int) added up, means (float) averaged."""
        if self.processes.count == 1:
            return dict(figures)
        shares = self.processes.exchange((len(self.rows), dict(figures)))
        return {name: _merged([(count, found[name]) for count, found in shares if count]) for name in figures}

    @cached_property
    def order(self) -> Tensor:
        """Where each image of the epoch is among the images of all processes, one process after the other."""
        return self.owners.argsort(stable=True).argsort()


def deal(groups: Sequence[Tensor], processes: Processes) -> Share:
    """Deal images out, group by group in turn, so that every process has as many of each group, give or take one.

    Args:
        groups: of the epoch's first updates; together they hold each image once.
    """
    images = torch.cat(list(groups))
    owners = torch.empty_like(images)
    owners[images] = torch.arange(len(images)) % processes.count
    return Share(owners, processes)


def alone(images: int) -> Share:
    """Every image, where there is one process."""
    return Share(torch.zeros(images, dtype=torch.long), Processes())


def _merged(found: Sequence[tuple[int, Any]]) -> Any:
    values = [value for _, value in found]
    if all(isinstance(value, int) for value in values):
        return sum(values)
    return sum(count * value for count, value in found) / sum(count for count, _ in found)
