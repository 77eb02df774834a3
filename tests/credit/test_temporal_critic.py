"""TDPO: a critic that learns from epoch to epoch, and TDPO-R, whose critic forgets."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.toy_policy import ToyPolicy
from torch import Tensor

from stepcredit.config import CreditSection
from stepcredit.credit import build_credit
from stepcredit.credit._critic import Critic
from stepcredit.credit.temporal_critic import ResetTemporalCritic, TemporalCritic
from stepcredit.errors import InputError
from stepcredit.types import LearningCredit, Prompt, Trajectory

IMAGES, STEPS = 16, 4


def trajectories(epoch: int = 0, count: int = IMAGES) -> Trajectory:
    prompts = [Prompt("a lake")] * count
    return ToyPolicy(STEPS).rollout(prompts, range(epoch * count, (epoch + 1) * count), keep_x0=True).trajectory


def worth(trajectory: Trajectory) -> Tensor:
    """What the last prediction is worth, of mean 0 and standard deviation 1."""
    assert trajectory.x0 is not None
    total = trajectory.x0[:, -1].flatten(1).sum(1)
    return (total - total.mean()) / total.std(correction=0)


def taught(rule: TemporalCritic, epochs: int) -> TemporalCritic:
    for epoch in range(epochs):
        rule.learn(trajectories(epoch), worth(trajectories(epoch)))
    return rule


def small(kind: type[TemporalCritic] = TemporalCritic, **options: Any) -> Any:
    return kind(**{"hidden": 8, "batch": 8, "learning_rate": 1e-2, **options})


def weights(rule: TemporalCritic) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in rule.state_dict().items()}


def alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("name", ["tdpo", "tdpo-r"])
def test_the_rules_learn(name: str) -> None:
    assert isinstance(build_credit(CreditSection(name=name)), LearningCredit)
    assert not isinstance(build_credit(CreditSection(name="uniform")), LearningCredit)


@pytest.mark.parametrize("name", ["tdpo", "tdpo-r"])
def test_the_first_epoch_is_uniform_bit_for_bit(name: str) -> None:
    advantage = worth(trajectories())
    found = build_credit(CreditSection(name=name))(trajectories(), advantage)
    assert torch.equal(found, advantage.unsqueeze(1).expand(IMAGES, STEPS))


def test_asking_for_credit_changes_nothing() -> None:
    rule = taught(small(), 2)
    before = weights(rule)
    first = rule(trajectories(2), worth(trajectories(2)))
    assert torch.equal(rule(trajectories(2), worth(trajectories(2))), first) and alike(weights(rule), before)


def test_what_the_critic_has_learned_is_taken_from_the_advantage() -> None:
    rule = taught(small(), 30)
    unseen = trajectories(99)
    left = rule(unseen, worth(unseen))
    assert (left[:, -1] ** 2).mean() < 0.5 < 0.9 < (worth(unseen) ** 2).mean()
    assert (left[:, -1] ** 2).mean() < (left[:, 0] ** 2).mean(), "late predictions tell more of the image"
    foreseen = rule.diagnostics(unseen)["credit_critic_explained"]
    assert 0.2 < foreseen < 1
    assert small().diagnostics(unseen) == {}


def test_what_is_taken_away_does_not_depend_on_the_epoch_s_own_rewards() -> None:
    rule, unseen = taught(small(), 3), trajectories(9)
    zeros = torch.zeros(IMAGES)
    torch.testing.assert_close(rule(unseen, worth(unseen)) - worth(unseen).unsqueeze(1), rule(unseen, zeros))
    assert rule(unseen, zeros).abs().max() > 0.01


def test_the_critic_sees_the_step() -> None:
    trajectory = trajectories()
    assert trajectory.x0 is not None
    still = replace(trajectory, x0=trajectory.x0[:, :1].expand_as(trajectory.x0))
    values = taught(small(), 5)(still, torch.zeros(IMAGES))
    assert (values.diff(dim=1).abs() > 1e-6).all()


def test_a_seed_gives_one_critic() -> None:
    first, again, other = (weights(taught(small(seed=seed), 2)) for seed in (3, 3, 4))
    assert alike(first, again) and not alike(first, other)


def test_every_pass_takes_all_steps_in_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[list[list[int]]] = []
    monkeypatch.setattr(Critic, "fit", lambda *given: orders.append([rows.tolist() for rows in given[3]]))
    taught(small(batch=24, passes=2), 2)
    assert [list(map(len, order)) for order in orders] == [[24, 24, 16]] * 4
    flat = [[row for rows in order for row in rows] for order in orders]
    assert all(sorted(order) == list(range(IMAGES * STEPS)) for order in flat)
    assert len({tuple(order) for order in flat}) == 4


def test_the_seed_is_that_of_the_run() -> None:
    rule = build_credit(CreditSection(name="tdpo"), seed=7)
    assert isinstance(rule, TemporalCritic) and rule.seed == 7
    with pytest.raises(InputError, match=r"credit\.options\.seed cannot be set: it is run\.seed"):
        build_credit(CreditSection(name="tdpo", options={"seed": 7}))


@pytest.mark.parametrize("kind", [TemporalCritic, ResetTemporalCritic])
def test_what_was_learned_goes_on_as_if_nothing_had_happened(kind: type[TemporalCritic]) -> None:
    options = {"reset_every": 2} if kind is ResetTemporalCritic else {}
    whole = taught(small(kind, **options), 3)
    again = small(kind, **options)
    again.load_state_dict(weights(whole))
    for rule in (whole, again):
        rule.learn(trajectories(3), worth(trajectories(3)))
    assert alike(weights(again), weights(whole))
    assert again.diagnostics(trajectories()) == whole.diagnostics(trajectories())


def test_before_the_first_epoch_there_is_nothing_to_keep() -> None:
    rule = small()
    assert rule.state_dict() == {}
    rule.load_state_dict({})
    assert rule.state_dict() == {}


def test_the_state_of_a_larger_critic_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        small(hidden=4).load_state_dict(weights(taught(small(), 1)))


@pytest.mark.parametrize("shape", [(4, 40, 24), (6, 5)])
def test_large_latents_are_averaged_and_those_of_another_layout_are_not(shape: tuple[int, ...]) -> None:
    x0 = torch.randn(2, STEPS, *shape, generator=torch.Generator().manual_seed(0))
    rule = small(grid=8)
    rule.learn(replace(trajectories(0, 2), x0=x0), torch.tensor([1.0, -1.0]))
    features = 4 * 8 * 8 if len(shape) == 3 else 30
    assert rule.state_dict()["layers.0.weight"].shape == (8, features + 1)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("tdpo", {"hidden": 0}, "credit.options.hidden is 0, expected a whole number, 1 or more"),
        ("tdpo", {"passes": 1.5}, "credit.options.passes is 1.5, expected a whole number, 1 or more"),
        ("tdpo", {"batch": True}, "credit.options.batch is True, expected a whole number, 1 or more"),
        ("tdpo", {"grid": -1}, "credit.options.grid is -1, expected a whole number, 1 or more"),
        ("tdpo", {"learning_rate": 0}, "credit.options.learning_rate is 0, expected a number above 0"),
        ("tdpo", {"clip_range": math.inf}, "credit.options.clip_range is inf, expected a number above 0"),
        ("tdpo", {"clip_range": "wide"}, "cannot build tdpo"),
        ("tdpo", {"reset_every": 5}, "unknown tdpo option 'reset_every'"),
        ("tdpo-r", {"reset_every": 0}, "credit.options.reset_every is 0, expected a whole number, 1 or more"),
        ("tdpo-r", {"dormant": -0.1}, "credit.options.dormant is -0.1, expected a number, 0 or more"),
    ],
)
def test_options_out_of_range_are_the_user_s_error(name: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError) as raised:
        build_credit(CreditSection(name=name, options=options))
    assert reason in str(raised.value)


# The reset, by hand


def by_hand() -> Critic:
    """Two inputs, two neurons a layer. On (1, 0) and (0, 1) neurons say 1 0 / 3 0, then 1 2 / 3 6: one is dormant."""
    critic = Critic(2, 2, 0.1, np.random.default_rng(0))
    inner, outer, last = critic.layers
    for layer, rows in ((inner, [[1.0, 3.0], [-1.0, -1.0]]), (outer, [[1.0, 9.0], [2.0, 9.0]]), (last, [[5.0, 7.0]])):
        layer.weight.data = torch.tensor(rows)
    return critic


INPUTS = torch.eye(2)


def test_active_neurons_by_hand() -> None:
    assert [layer.tolist() for layer in by_hand().active(INPUTS, 0.0)] == [[True, False], [True, True]]
    # Activities are 2 and 0, then 2/3 and 4/3.
    assert [layer.tolist() for layer in by_hand().active(INPUTS, 1.0)] == [[True, False], [False, True]]


def test_a_reset_takes_active_neurons_and_their_momentum() -> None:
    critic = by_hand()
    critic.fit(INPUTS, torch.ones(2), [torch.tensor([0, 1])], math.inf)  # the optimizer has moments from here on
    kept = {name: value.clone() for name, value in critic.state_dict().items()}
    critic.reset([torch.tensor([True, False]), torch.tensor([False, True])], np.random.default_rng(5))
    new = Critic(2, 2, 0.1, np.random.default_rng(5)).state_dict()
    found = critic.state_dict()
    first, second, last = (f"layers.{number}.weight" for number in range(3))
    assert torch.equal(found[first][0], new[first][0]) and torch.equal(found[first][1], kept[first][1])
    assert torch.equal(found[second][:, 0], new[second][:, 0]), "out of the first layer's active neuron"
    assert torch.equal(found[second][1], new[second][1]), "into the second layer's"
    assert found[second][0, 1] == kept[second][0, 1], "between two dormant ones"
    assert found[last][0].tolist() == [kept[last][0, 0].item(), 0.0]
    assert found["layers.0.bias"][0] == 0 and found["layers.0.bias"][1] == kept["layers.0.bias"][1]
    assert torch.equal(found["layers.2.bias"], kept["layers.2.bias"])
    for moment in ("exp_avg", "exp_avg_sq"):
        into, between, out = (f"optimizer.{index}.{moment}" for index in (0, 2, 4))
        assert found[into][0].tolist() == [0, 0] and torch.equal(found[into][1], kept[into][1])
        assert found[between][:, 0].tolist() == found[between][1].tolist() == [0, 0]
        assert found[out][0].tolist() == [kept[out][0, 0].item(), 0]
    assert kept["optimizer.0.exp_avg"][0].any() and kept["optimizer.4.exp_avg"].all()


def test_a_fully_reset_critic_returns_its_output_bias() -> None:
    critic = by_hand()
    critic.layers[-1].bias.data.fill_(0.25)
    critic.reset([torch.ones(2, dtype=torch.bool)] * 2, np.random.default_rng(0))
    assert critic.values(torch.randn(5, 2)).tolist() == [0.25] * 5


def test_neurons_are_reset_every_few_epochs() -> None:
    rule = small(ResetTemporalCritic, reset_every=3)
    reset = []
    for epoch in range(7):
        rule.learn(trajectories(epoch), worth(trajectories(epoch)))
        figures = rule.diagnostics(trajectories())
        reset.append(figures["credit_neurons_reset"])
        if reset[-1]:
            assert reset[-1] == pytest.approx(16 * (1 - figures["credit_neurons_dormant"]))
    assert [count > 0 for count in reset] == [False, False, True, False, False, True, False]
    early, late = (
        alike(weights(taught(small(ResetTemporalCritic, reset_every=3), epochs)), weights(taught(small(), epochs)))
        for epochs in (2, 3)
    )
    assert early and not late


def test_dormant_neurons_alone_keep_what_they_learned() -> None:
    """Above every activity all are dormant, and the rule is tdpo."""
    kept = small(ResetTemporalCritic, reset_every=1, dormant=1e9)
    assert alike(weights(taught(kept, 3)), weights(taught(small(), 3)))
    assert kept.diagnostics(trajectories())["credit_neurons_dormant"] == 1
    assert not alike(weights(taught(small(ResetTemporalCritic, reset_every=1), 3)), weights(taught(small(), 3)))
