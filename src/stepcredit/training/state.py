"""The state of a run: everything that changes from epoch to epoch and that a checkpoint holds."""

from __future__ import annotations

import operator

import torch

from stepcredit.config import TrainConfig
from stepcredit.distributed.deepspeed import DeepSpeedOptimizer
from stepcredit.distributed.optimizer import PlainOptimizer, TrainingOptimizer, build_optimizer
from stepcredit.distributed.process_group import ProcessGroup, full_tensor
from stepcredit.errors import InputError, shortened
from stepcredit.runs.checkpoint import Checkpoint
from stepcredit.runs.directory import package_versions
from stepcredit.training.advantages import Advantages
from stepcredit.training.recovery import Recovery
from stepcredit.training.replay_buffer import ReplayBuffer
from stepcredit.types import CreditAssigner, Policy, StatefulCredit
from stepcredit.utils.state_dict import add_prefix


class TrainingState:
    """Everything that changes during a run: weights and their averages, optimizer, loss scaler, running statistics of
    rewards and step advantages, counters, and the state of the credit rule.

    Every random number of a run is a function of its seed, the epoch and the image's index, so no generator has a state
    to save.

    Attributes:
        finished_epochs: epochs whose updates are made.
        reward_queries: images scored for training so far.
        replay: the images of earlier epochs that the algorithm trains again.
        recovery: the micro-batch if it was halved, and the number of updates skipped in a row.
        optimizer: the optimizer and the loss scaler.
    """

    def __init__(
        self,
        config: TrainConfig,
        policy: Policy,
        recovery: Recovery,
        credit: CreditAssigner | None = None,
        processes: ProcessGroup | None = None,
        replay_epochs: int = 0,
    ) -> None:
        self.config = config
        self.policy = policy
        self.recovery = recovery
        self.learner = credit if isinstance(credit, StatefulCredit) else None
        self.finished_epochs = 0
        self.reward_queries = 0
        self.replay = ReplayBuffer(replay_epochs)
        self.advantages = Advantages(config.train, config.credit.standardize)
        self.optimizer = build_training_optimizer(config, policy, processes or ProcessGroup())

    def capture(self) -> Checkpoint:
        """The current state, with the configuration and the package versions."""
        state = {
            "reward_queries": self.reward_queries,
            **self.advantages.state_dict(),
            "scaler": self.optimizer.scaler.state_dict(),
            "skipped_in_a_row": self.recovery.skipped_in_a_row,
            "replay": self.replay.origins(),
            "microbatch": {"asked": self.config.train.microbatch, "halved": self.recovery.microbatch},
            "config": self.config.model_dump(mode="json"),
            "versions": package_versions(),
        }
        tensors = {
            **add_prefix("policy.", self.policy.state_dict()),
            **add_prefix("credit.", self.learner.state_dict() if self.learner else {}),
            **add_prefix("replay.", self.replay.state_dict()),
        }
        whole = {name: full_tensor(value) for name, value in tensors.items()}
        return Checkpoint(self.finished_epochs, whole | add_prefix("optimizer.", self.optimizer.tensors()), state)

    def restore(self, saved: Checkpoint, name: str) -> None:
        """Restore the result of `capture`.

        A micro-batch that was halved stays so, unless another one is asked for now.

        Raises:
            InputError: the checkpoint, called `name`, is of another run.
        """
        try:
            self._restore(saved)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"checkpoint {name} does not fit this run: {type(error).__name__}: {shortened(str(error))}"
            ) from error

    def _restore(self, saved: Checkpoint) -> None:
        self.policy.load_state_dict(saved.part("policy"))
        self.optimizer.restore(saved.part("optimizer"))
        self.advantages.load_state_dict(saved.state)
        if self.learner:
            self.learner.load_state_dict(saved.part("credit"))
        self.replay.load_state_dict(saved.part("replay"), saved.state.get("replay", {}))
        self.optimizer.scaler.load_state_dict(saved.state["scaler"])
        self.recovery.skipped_in_a_row = operator.index(saved.state["skipped_in_a_row"])
        size = saved.state["microbatch"]
        if size["halved"] is not None and size["asked"] == self.config.train.microbatch:
            self.recovery.microbatch = max(1, operator.index(size["halved"]))
        self.reward_queries = operator.index(saved.state["reward_queries"])
        self.finished_epochs = saved.epoch


def build_training_optimizer(config: TrainConfig, policy: Policy, processes: ProcessGroup) -> TrainingOptimizer:
    """The optimizer of a run: DeepSpeed's if the launcher asks for it, otherwise AdamW.

    Raises:
        InputError: the launcher asks for DeepSpeed and `config` or its own configuration for what that cannot do.
    """
    device, halves = policy.parameters()[0].device.type, config.model.dtype == "float16"
    if processes.deepspeed:
        if halves:
            raise InputError("model.dtype=float16 cannot be trained with DeepSpeed: use bfloat16 or float32")
        return DeepSpeedOptimizer(policy, config.train, processes)
    optimizer = build_optimizer(policy.parameters(), config.train, allow_fused=not halves)
    scaler = torch.amp.GradScaler(device, enabled=halves)
    return PlainOptimizer(policy, optimizer, scaler, config.train.max_grad_norm, processes)
