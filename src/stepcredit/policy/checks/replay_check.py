"""The check before training: a replay of the first batch must reproduce what the rollout recorded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.maths import gaussian
from stepcredit.maths.indexing import filled
from stepcredit.policy.checks.gradient_check import require_derivative
from stepcredit.types import Policy, Trajectory
from stepcredit.utils.memory import out_of_memory

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-6, torch.bfloat16: 1e-3, torch.float16: 1e-3}
"""Largest accepted |log ratio| between rollout and replay, by the dtype of the latents."""

DETERMINISTIC_TOLERANCE = {dtype: 10 * tolerance for dtype, tolerance in TOLERANCE.items()}
"""Largest accepted relative error |mean - x_next| / |x_next| (L2) of a step without noise. It is larger because the
error of a log-probability averages over the latent elements."""

_MAX_SHARE = 0.5

OTHER_BATCH_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""The tolerance for images replayed in another batch, where kernels may round differently: detects wrong rows."""


@dataclass(frozen=True)
class ReplayCheck:
    """Result of `replay_check`.

    Attributes:
        max_deviation: largest |log ratio|, or relative error at steps without noise.
        trained: the trained steps that were compared, in order.
        steps: steps of the trajectory.
        samples: images of the trajectory.
        mode: how the policy replays.
        shares: (T,), see `Schedule.gradient_shares`.
        undecided: whether finite differences were too rough to compare the gradient with.
    """

    max_deviation: float
    trained: tuple[int, ...]
    steps: int
    samples: int
    mode: str
    shares: tuple[float, ...]
    undecided: bool = False

    @property
    def warnings(self) -> list[str]:
        """A line if more than half of the squared gradient comes from one step."""
        largest = max(self.shares)
        if largest <= _MAX_SHARE or len(self.trained) == 1:
            return []
        step = self.shares.index(largest) + 1
        return [
            f"step {step} of {self.steps} has {largest:.0%} of the squared gradient before credit, because it has "
            "little noise: credit.name=inverse-native-scale evens this out"
        ]

    def __str__(self) -> str:
        exact = "exact" if self.max_deviation == 0 else f"within {self.max_deviation:.1e}"
        text = f"{len(self.trained)} steps of {self.samples} images replay {exact} ({self.mode})"
        skipped = [str(step + 1) for step in range(self.steps) if step not in self.trained]
        if skipped:
            text += f"; not trained: step {', '.join(skipped)} of {self.steps}"
        if self.undecided:
            text += (
                "; gradient not checked: rounding or random numbers hide how the model output changes with the weights"
            )
        return text


def replay_check(
    policy: Policy,
    trajectory: Trajectory,
    batch: int | None = None,
    microbatch: int | None = None,
    *,
    tolerance: float = math.inf,
    gradient: bool = True,
) -> ReplayCheck:
    """Replay every trained step of `trajectory` without gradients, compare, and check the gradient of one step.

    At steps with a density the log-probabilities are compared. At steps without noise the replayed mean is compared
    with the recorded next latents. The policy's replay modes are tried in order; the first exact one stays set. Then
    one step is replayed in a batch of another size and order, which only agrees if every image gets its own prompt.

    Args:
        batch: images sampled at a time, None for all. The same number is replayed at a time.
        microbatch: (image, step) pairs per training forward. If it differs from `batch`, it is checked too.
        tolerance: largest deviation that the algorithm accepts. It applies if it is smaller than TOLERANCE.
        gradient: whether to compare the gradient with a finite difference, see `gradient_check`. Not possible for
            weights that are sharded over processes.

    Raises:
        InputError: the difference exceeds the tolerance, no gradient reaches the weights, or it is not the derivative.
            Such a policy would be trained on something other than what it sampled.
    """
    steps = _steps_to_check(trajectory)
    for mode in policy.replay_modes:
        policy.replay_mode = mode
        worst = _try_mode(policy, trajectory, steps, min(batch or len(trajectory), len(trajectory)), tolerance)
        if worst.accepted:
            break
    else:
        raise InputError(
            f"this pipeline does not replay: {worst.quantity} differ by {worst.deviation:.2e} at step "
            f"{worst.step + 1} of {trajectory.steps} (allowed {worst.tolerance:.0e}), so training would not see what "
            f"was sampled; {_remedy(worst, trajectory)}"
        )
    largest = worst.deviation
    if microbatch is not None and microbatch != batch:
        largest = max(largest, _require_microbatch(policy, trajectory, steps, batch, microbatch, tolerance))
    _require_gradient(policy, trajectory, steps[0])
    reshuffled = reshuffled_deviation(policy, trajectory, steps[0])
    _require_in_other_batch(reshuffled, trajectory, f"{len(trajectory) - 1} images replayed in another order")
    ratio = require_derivative(policy, trajectory, steps[len(steps) // 2]) if gradient else 1.0
    shares = trajectory.schedule.gradient_shares(trajectory.trainable.cpu())
    return ReplayCheck(
        largest, tuple(steps), trajectory.steps, len(trajectory), mode, tuple(shares.tolist()), math.isnan(ratio)
    )


@dataclass(frozen=True)
class _Worst:
    """The pair of image and step whose deviation is largest relative to its tolerance."""

    deviation: float
    step: int
    tolerance: float
    quantity: str

    @property
    def accepted(self) -> bool:
        return self.deviation <= self.tolerance


def _remedy(worst: _Worst, trajectory: Trajectory) -> str:
    """What to do about a replay that differs: rounding can be avoided, anything else is in the pipeline."""
    dtype, remedies = trajectory.latents.dtype, []
    if dtype in (torch.bfloat16, torch.float16):
        remedies.append("set model.dtype=float32")
    if worst.tolerance < float(_tolerances(trajectory)[worst.step]):
        remedies.append(f"raise train.clip_range to {10 * worst.deviation:.0e} or more")
    if remedies and worst.deviation <= OTHER_BATCH_TOLERANCE[dtype]:
        return f"this may be rounding: {', or '.join(remedies)}"
    return (
        "switch off in sample.call or in the model what keeps state between steps or draws random numbers, such as "
        "caches and dropout, or train another model"
    )


def _try_mode(policy: Policy, trajectory: Trajectory, steps: list[int], size: int, tolerance: float) -> _Worst:
    """As `_worst`. The deviation is infinite if the pipeline fails because a batch mixes steps."""
    try:
        return _worst(policy, trajectory, steps, size, tolerance)
    except (InputError, IndexError, RuntimeError, TypeError, ValueError) as error:
        if not policy.mixes_steps or out_of_memory(error):
            raise
        return _Worst(math.inf, steps[0], 0.0, _quantity(trajectory, steps[0]))


def _worst(policy: Policy, trajectory: Trajectory, steps: list[int], size: int, tolerance: float) -> _Worst:
    """The worst of all pairs of images and steps, replayed `size` at a time; NaN counts as the worst.

    If steps may be mixed, each replay holds as many different ones as possible.
    """
    at, rows = torch.cartesian_prod(torch.tensor(steps), torch.arange(len(trajectory))).view(-1, 2).unbind(1)
    if policy.mixes_steps:
        order = rows.argsort(stable=True)
        batches = list(zip(at[order].split(size), rows[order].split(size), strict=True))
    else:
        batches = [
            (at[rows_of], rows[rows_of]) for step in steps for rows_of in (at == step).nonzero().flatten().split(size)
        ]
    with torch.no_grad():
        parts = [_deviations(policy, trajectory, filled(at, size), filled(rows, size)) for at, rows in batches]
    deviations, replayed = torch.cat(parts).cpu(), torch.cat([filled(at, size) for at, _ in batches])
    tolerances = _tolerances(trajectory).clamp_max(tolerance)[replayed]
    number = int((deviations / tolerances).argmax())
    step = int(replayed[number])
    return _Worst(float(deviations[number]), step, float(tolerances[number]), _quantity(trajectory, step))


def _require_microbatch(
    policy: Policy, trajectory: Trajectory, steps: list[int], batch: int | None, microbatch: int, tolerance: float
) -> float:
    """The largest deviation of replays of `microbatch` images; InputError if it exceeds the tolerance."""
    worst, count = _worst(policy, trajectory, steps, microbatch, tolerance), len(trajectory)
    if not worst.accepted:
        raise InputError(
            f"replayed {microbatch} images at a time, images sampled {min(batch or count, count)} at a time differ by "
            f"{worst.deviation:.1e} (allowed {worst.tolerance:.0e}), because kernels round by batch size: leave "
            "sample.batch unset, or set it to train.microbatch"
        )
    return worst.deviation


def _require_gradient(policy: Policy, trajectory: Trajectory, step: int) -> None:
    deviation = _deviations(policy, trajectory, torch.tensor([step]), torch.arange(1)).max()
    if not deviation.requires_grad:
        raise InputError("no gradient reaches the trained weights: the pipeline disables it inside its __call__")
    _require_in_other_batch(float(deviation.detach()), trajectory, "one image replayed alone")


def reshuffled_deviation(policy: Policy, trajectory: Trajectory, step: int) -> float:
    """The deviation of all images but the first, replayed in reverse order; 0 if there is one image.

    The deviation is large if an image gets the encoding of another prompt, or depends on the rest of the batch. A batch
    in the order of the rollout would not show this.
    """
    rows = torch.arange(1, len(trajectory)).flip(0)
    if not len(rows):
        return 0.0
    with torch.no_grad():
        return float(_deviations(policy, trajectory, torch.full_like(rows, step), rows).max())


def _require_in_other_batch(deviation: float, trajectory: Trajectory, what: str) -> None:
    allowed = OTHER_BATCH_TOLERANCE[trajectory.latents.dtype]
    if not deviation <= allowed:
        raise InputError(
            f"{what}: log-probabilities differ from the rollout by {deviation:.2e} (allowed {allowed:.0e}), because "
            "the pipeline mixes the images of a batch, or gives them encodings of other prompts; such a pipeline "
            "cannot be trained"
        )


def _deviations(policy: Policy, trajectory: Trajectory, steps: Tensor, rows: Tensor) -> Tensor:
    """(n,) |log ratio| of images at their steps, or the relative error of the mean at steps without density."""
    transition = policy.replay(trajectory, steps, rows)
    reached = trajectory.latents[rows, steps + 1]
    log_prob = gaussian.step_log_prob(transition, reached)
    log_ratio = (log_prob - trajectory.log_probs[rows, steps]).abs()
    error = (reached - transition.mean.to(reached.dtype)).to(transition.mean.dtype).flatten(1).norm(dim=1)
    relative = error / reached.to(error.dtype).flatten(1).norm(dim=1).clamp_min(torch.finfo(error.dtype).tiny)
    return torch.where(_has_density(trajectory)[steps].to(log_ratio.device), log_ratio, relative)


def _quantity(trajectory: Trajectory, step: int) -> str:
    return "log-probabilities" if _has_density(trajectory)[step] else "latents"


def _tolerances(trajectory: Trajectory) -> Tensor:
    """(T,)."""
    dtype = trajectory.latents.dtype
    return torch.where(_has_density(trajectory), TOLERANCE[dtype], DETERMINISTIC_TOLERANCE[dtype])


def _has_density(trajectory: Trajectory) -> Tensor:
    """(T,) bool, on the CPU."""
    return trajectory.log_probs.any(0).cpu()


def _steps_to_check(trajectory: Trajectory) -> list[int]:
    """The trained steps, without those whose noise is too small for a density: their draw cannot be replayed."""
    if not trajectory.trainable.any():
        raise InputError(
            "no step of the trajectory has enough noise to be trained: raise sample.eta (or sample.noise_level), or "
            "lower sample.min_std"
        )
    comparable = _has_density(trajectory) | (trajectory.schedule.stds == 0)
    steps: list[int] = (trajectory.trainable & comparable).nonzero().flatten().tolist()
    if not steps:
        raise InputError(
            "all steps have too little noise for a density, and a replay cannot be checked without one: "
            "lower sample.min_std, or sample without noise"
        )
    return steps
