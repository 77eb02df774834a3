import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepcredit.maths import advantage

PROPERTY = settings(max_examples=50, deadline=None, derandomize=True)
REWARDS = st.lists(st.floats(-100, 100), min_size=1, max_size=20)


# Without memory


def test_standardize_literals():
    # mean 2, population std sqrt(2/3)
    expected = torch.tensor([-1.0, 0.0, 1.0]) / (2 / 3) ** 0.5
    torch.testing.assert_close(advantage.standardize(torch.tensor([1.0, 2.0, 3.0])), expected)


@PROPERTY
@given(REWARDS)
def test_standardized_rewards_have_mean_zero_and_keep_their_order(rewards):
    rewards = torch.tensor(rewards, dtype=torch.float64)
    result = advantage.standardize(rewards)
    assert abs(float(result.double().sum())) < 1e-4
    assert float(result.double().std(correction=0)) < 1 + 1e-6
    assert (result[rewards.argsort()].diff() >= 0).all()


@pytest.mark.parametrize("rewards", [[0.1], [0.1] * 3, [1e6 + 0.1] * 7, [0.0, 0.0]])
def test_equal_rewards_are_exactly_zero(rewards):
    # float64(0.1) * 3 / 3 is not 0.1: without care the remainder over 1e-6 is not zero.
    values = torch.tensor(rewards, dtype=torch.float64)
    zeros = torch.zeros(len(rewards))
    assert torch.equal(advantage.standardize(values), zeros)
    assert torch.equal(advantage.group_advantages(values, ["a"] * len(rewards)), zeros)


def test_a_large_offset_does_not_cost_precision():
    rewards = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(advantage.standardize(rewards + 1e6), advantage.standardize(rewards))


def test_groups_are_standardized_apart():
    rewards = torch.tensor([1.0, 10.0, 3.0, 30.0, 7.0])
    result = advantage.group_advantages(rewards, ["a", "b", "a", "b", "alone"])
    torch.testing.assert_close(result, torch.tensor([-1.0, -1.0, 1.0, 1.0, 0.0]), rtol=0, atol=2e-6)


def test_half_precision_rewards_give_float32():
    result = advantage.standardize(torch.tensor([1.0, 2.0], dtype=torch.float16))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: advantage.standardize(torch.zeros(2, 2)), "rewards has shape"),
        (lambda: advantage.standardize(torch.zeros(0)), "expected at least one entry"),
        (lambda: advantage.standardize(torch.tensor([0.0, torch.nan])), r"not finite in rows \[1\]"),
        (lambda: advantage.group_advantages(torch.zeros(2), ["a"]), "groups has 1 names for 2 trajectories"),
        (lambda: advantage.group_advantages(torch.zeros(2), "ab"), "give a list with one name for each"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_settings_of_flow_grpo() -> None:
    """Literals of its PerPromptStatTracker: mean per prompt, np.std of all rewards (global_std), epsilon 1e-4."""
    rewards, groups = torch.tensor([1.0, 3.0, 10.0, 14.0]), ["a", "a", "b", "b"]
    spread = 5.244044240850758
    expected = torch.tensor([-1.0, 1.0, -2.0, 2.0]) / (spread + 1e-4)
    torch.testing.assert_close(advantage.group_advantages(rewards, groups, 1e-4, batch_std=True), expected)
    own = torch.tensor([-1 / 1.0001, 1 / 1.0001, -2 / 2.0001, 2 / 2.0001])
    torch.testing.assert_close(advantage.group_advantages(rewards, groups, 1e-4), own)


def test_the_unbiased_standard_deviation_is_that_of_torch() -> None:
    rewards = torch.tensor([1.0, 2.0, 6.0])
    expected = (rewards - rewards.mean()) / (rewards.std() + 1e-8)
    torch.testing.assert_close(advantage.group_advantages(rewards, ["a"] * 3, 1e-8, unbiased=True), expected)
    assert advantage.group_advantages(rewards[:1], ["a"], unbiased=True).tolist() == [0]


def test_constant_groups_are_those_of_advantages_that_are_all_zero() -> None:
    advantages = torch.tensor([0.0, 1.0, 0.0, 0.0, -1.0, 0.0])
    assert advantage.constant_groups(advantages, list("abcbbc")).tolist() == [True, False, True, False, False, True]
    with pytest.raises(ValueError, match="groups has 1 names for 6 trajectories"):
        advantage.constant_groups(advantages, ["a"])


def test_flow_grpo_leaves_out_groups_of_equal_rewards() -> None:
    """Its loss of an update is the mean over the samples whose advantages are not 0."""
    rewards, groups = torch.tensor([2.0, 2.0, 1.0, 3.0]), list("aabb")
    found = advantage.group_advantages(rewards, groups, 1e-4)
    kept = ~advantage.constant_groups(found, groups)
    assert found[kept].abs().mean().item() == pytest.approx(1 / 1.0001)
    assert found.abs().mean().item() == pytest.approx(0.5 / 1.0001)
