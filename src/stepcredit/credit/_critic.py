"""A small network that predicts the reward of an image from the clean latents predicted at a step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from stepcredit.maths.critic import clipped_value_loss, neuron_activity
from stepcredit.utils.optimizer_state import optimizer_tensors, restore_optimizer
from stepcredit.utils.state_dict import add_prefix, strip_prefix

MAX_GRAD_NORM = 1.0


class Critic:
    """V: features (N, F) -> (N,), two hidden layers of ReLU neurons, trained by AdamW on the CPU in float32.

    Weights into a hidden layer are initialized from N(0, 2 / fan-in); biases and the output layer are 0, so a new
    critic returns 0.

    Args:
        rng: draws the initial weights.
    """

    def __init__(self, features: int, hidden: int, learning_rate: float, rng: np.random.Generator) -> None:
        self.layers = [nn.Linear(features, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 1)]
        for layer in self.layers:
            _set(layer.weight, self._initial(layer, rng))
            _set(layer.bias, torch.zeros(()))
        self.optimizer = torch.optim.AdamW(
            [parameter for layer in self.layers for parameter in layer.parameters()],
            lr=learning_rate,
            weight_decay=1e-4,
        )

    @torch.no_grad()
    def values(self, features: Tensor) -> Tensor:
        return self._forward(features)

    def fit(self, features: Tensor, targets: Tensor, order: Sequence[Tensor], clip_range: float) -> None:
        """One optimizer step on each batch in `order`, which holds indices of `features` and `targets`."""
        before = self.values(features)
        for rows in order:
            loss = clipped_value_loss(self._forward(features[rows]), before[rows], targets[rows], clip_range).mean()
            loss.backward()
            nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], MAX_GRAD_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def active(self, features: Tensor, threshold: float) -> list[Tensor]:
        """Neurons whose activity exceeds `threshold`: (H,) bool for each hidden layer."""
        active, outputs = [], features
        for layer in self.layers[:-1]:
            outputs = layer(outputs).relu()
            active.append(neuron_activity(outputs) > threshold)
        return active

    @torch.no_grad()
    def reset(self, neurons: Sequence[Tensor], rng: np.random.Generator) -> None:
        """Give `neurons`, (H,) bool per hidden layer, new incoming and outgoing weights, and clear their momentum."""
        new = [self._initial(layer, rng) for layer in self.layers]
        for number, chosen in enumerate(neurons):
            incoming, outgoing = self.layers[number], self.layers[number + 1]
            incoming.weight[chosen] = new[number][chosen]
            incoming.bias[chosen] = 0
            outgoing.weight[:, chosen] = new[number + 1][:, chosen]
            for name in ("exp_avg", "exp_avg_sq"):
                for parameter in (incoming.weight, incoming.bias):
                    self._moment(parameter, name)[chosen] = 0
                self._moment(outgoing.weight, name)[:, chosen] = 0

    def state_dict(self) -> dict[str, Tensor]:
        weights = {
            f"layers.{number}.{name}": value
            for number, layer in enumerate(self.layers)
            for name, value in layer.state_dict().items()
        }
        return weights | add_prefix("optimizer.", optimizer_tensors(self.optimizer))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for number, layer in enumerate(self.layers):
            layer.load_state_dict({name: state[f"layers.{number}.{name}"] for name in ("weight", "bias")})
        restore_optimizer(self.optimizer, strip_prefix("optimizer.", state))

    def _forward(self, features: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            features = layer(features).relu()
        return last(features).squeeze(1)  # type: ignore[no-any-return]

    def _initial(self, layer: nn.Linear, rng: np.random.Generator) -> Tensor:
        if layer is self.layers[-1]:
            return torch.zeros_like(layer.weight)
        drawn = rng.standard_normal(tuple(layer.weight.shape)) * math.sqrt(2 / layer.in_features)
        return torch.from_numpy(drawn).float()

    def _moment(self, parameter: Tensor, name: str) -> Tensor:
        moment: Tensor | None = self.optimizer.state[parameter].get(name)
        return torch.zeros_like(parameter) if moment is None else moment


@torch.no_grad()
def _set(parameter: Tensor, values: Tensor) -> None:
    parameter.copy_(values)
