import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepcredit.maths import advantage, credit
from stepcredit.maths.running_statistics import PromptStatistics, StepStatistics

PROPERTY = settings(max_examples=50, deadline=None, derandomize=True)
REWARDS = st.lists(st.floats(-100, 100), min_size=1, max_size=20)


@pytest.mark.parametrize("rewards", [[0.1], [0.1] * 3, [1e6 + 0.1] * 7, [0.0, 0.0]])
def test_equal_rewards_are_exactly_zero(rewards):
    values = torch.tensor(rewards, dtype=torch.float64)
    zeros = torch.zeros(len(rewards))
    assert torch.equal(PromptStatistics(8, 1).update(["a"] * len(rewards), values), zeros)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PromptStatistics(0, 1), "buffer_size is 0"),
        (lambda: StepStatistics(4, 0), "min_count is 0"),
        (lambda: PromptStatistics().update(["a"], torch.zeros(1, 1)), "rewards has shape"),
        (lambda: PromptStatistics().update(["a"], torch.zeros(2)), "prompts has 1 names for 2 trajectories"),
        (lambda: StepStatistics().update(["a"], torch.zeros(1)), "step_advantages has shape"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_prompt_uses_its_own_buffer_once_it_holds_enough():
    tracker = PromptStatistics(buffer_size=3, min_count=3)
    # Too few of each: the batch decides (mean 4, std 3).
    result = tracker.update(["a", "b"], torch.tensor([1.0, 7.0]))
    torch.testing.assert_close(result, torch.tensor([-1.0, 1.0]))
    # a holds 1, 3, 5 (mean 3, std sqrt(8/3)); b holds 7, 8 and uses the batch 3, 5, 8 (mean 16/3, std sqrt(38)/3).
    result = tracker.update(["a", "a", "b"], torch.tensor([3.0, 5.0, 8.0]))
    torch.testing.assert_close(result, torch.tensor([0.0, 2 / (8 / 3) ** 0.5, 8 / 38**0.5]))
    # The oldest is forgotten.
    tracker.update(["a"], torch.tensor([9.0]))
    assert tracker.state_dict() == {"a": [3.0, 5.0, 9.0], "b": [7.0, 8.0]}


def test_one_sample_of_a_new_prompt_is_finite():
    assert PromptStatistics().update(["new"], torch.tensor([3.0])).tolist() == [0.0]


def test_a_refused_batch_leaves_the_buffers_unchanged():
    tracker = PromptStatistics(8, 1)
    tracker.update(["a"], torch.tensor([1.0]))
    with pytest.raises(ValueError, match="not finite"):
        tracker.update(["a", "a"], torch.tensor([2.0, torch.inf]))
    with pytest.raises(ValueError, match="1 names for 2"):
        tracker.update(["a"], torch.tensor([2.0, 3.0]))
    assert tracker.state_dict() == {"a": [1.0]}


@PROPERTY
@given(REWARDS, st.integers(1, 9), st.integers(1, 9))
def test_reward_state_survives_json_exactly(rewards, buffer_size, min_count):
    tracker = PromptStatistics(buffer_size, min_count)
    values = torch.tensor(rewards, dtype=torch.float64)
    prompts = ["even" if i % 2 == 0 else "odd" for i in range(len(rewards))]
    tracker.update(prompts, values)
    restored = PromptStatistics(buffer_size, min_count)
    restored.load_state_dict(json.loads(json.dumps(tracker.state_dict())))
    assert restored.state_dict() == tracker.state_dict()
    assert torch.equal(restored.update(prompts, values), tracker.update(prompts, values))


def test_loading_into_a_smaller_buffer_keeps_the_newest():
    tracker = PromptStatistics(2, 1)
    tracker.load_state_dict({"a": [1.0, 2.0, 3.0]})
    assert tracker.state_dict() == {"a": [2.0, 3.0]}


# Pooled step advantages


def _batches(count: int, rows: int = 3, steps: int = 10) -> torch.Tensor:
    return torch.randn(count, rows, steps, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1


def _pooled(values: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
    return ((values - entries.mean()) / (entries.std(correction=0) + 1e-6)).float()


def test_step_literals():
    # One prompt, entries 0 0 2 2 (mean 1, std 1).
    result = StepStatistics(4, 2).update(["a", "a"], torch.tensor([[0.0, 2.0], [2.0, 0.0]]))
    torch.testing.assert_close(result, torch.tensor([[-1.0, 1.0], [1.0, -1.0]]))


@pytest.mark.parametrize("buffer_size", [4, 7, 9, 32])
def test_step_buffer_is_the_pooled_moments_of_its_trajectories(buffer_size):
    tracker, seen = StepStatistics(buffer_size, min_count=2), torch.empty(0, 10, dtype=torch.float64)
    for batch in _batches(6):
        seen = torch.cat([seen, batch])[-buffer_size:]
        torch.testing.assert_close(tracker.update(["a"] * 3, batch), _pooled(batch, seen))
        assert len(tracker.state_dict()["a"]) == len(seen)


def test_step_buffer_filled_in_chunks_equals_one_update():
    batches = _batches(4)
    whole, chunked = StepStatistics(), StepStatistics()
    whole.update(["a"] * 12, batches.reshape(12, 10))
    for batch in batches:
        chunked.update(["a"] * 3, batch)
    assert whole.state_dict() == chunked.state_dict()


def test_step_min_count_counts_trajectories_and_prompts_stay_apart():
    tracker, batches = StepStatistics(32, min_count=4), _batches(2, rows=5)
    prompts = ["a", "a", "a", "b", "b"]
    torch.testing.assert_close(tracker.update(prompts, batches[0]), _pooled(batches[0], batches[0]))
    result = tracker.update(prompts, batches[1])
    # Six of a and four of b are buffered now: each uses its own.
    torch.testing.assert_close(result[:3], _pooled(batches[1][:3], batches[:, :3]))
    torch.testing.assert_close(result[3:], _pooled(batches[1][3:], batches[:, 3:]))
    # A prompt with three uses all entries of its batch, other prompts included.
    mixed = StepStatistics(32, min_count=4).update(["c", "c", "c", "a", "a"], batches[0])
    torch.testing.assert_close(mixed[:3], _pooled(batches[0][:3], batches[0]))


def test_equal_steps_of_equal_trajectories_give_zero():
    values = torch.full((3, 7), 0.1, dtype=torch.float64)
    for min_count in (1, 16):
        assert torch.equal(StepStatistics(8, min_count).update(["a"] * 3, values), torch.zeros(3, 7))


def test_a_large_offset_leaves_the_variance_positive():
    values = _batches(1)[0] * 1e-3 + 1e5
    torch.testing.assert_close(StepStatistics(8, 1).update(["a"] * 3, values), _pooled(values, values))


def test_pooling_keeps_the_credit_that_per_step_statistics_would_cancel():
    # Two opposite trajectories under one linear schedule: their difference per step is 2 G_i.
    steps = credit.step_advantages(torch.tensor([1.0, -1.0]), credit.linear_weights(5), 0.0)
    pooled = StepStatistics(8, 1).update(["a", "a"], steps)
    shape = (pooled[0] - pooled[1]) / (pooled[0, 0] - pooled[1, 0])
    torch.testing.assert_close(shape, torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2]))
    per_step = torch.stack([advantage.standardize(column) for column in steps.unbind(1)], dim=1)
    torch.testing.assert_close(per_step[0], torch.ones(5), rtol=0, atol=1e-4)


def test_step_state_survives_json_exactly():
    batches = _batches(3)
    tracker = StepStatistics(5, 2)
    tracker.update(["a", "b", "a"], batches[0])
    restored = StepStatistics(5, 2)
    restored.load_state_dict(json.loads(json.dumps(tracker.state_dict())))
    for batch in batches[1:]:
        assert torch.equal(restored.update(["a", "b", "a"], batch), tracker.update(["a", "b", "a"], batch))
    assert restored.state_dict() == tracker.state_dict()


def test_order_of_the_batch_does_not_matter():
    batch, order = _batches(1, rows=4)[0], torch.tensor([3, 1, 0, 2])
    prompts = ["a", "b", "a", "c"]
    straight = StepStatistics(8, 2).update(prompts, batch)
    permuted = StepStatistics(8, 2).update([prompts[i] for i in order], batch[order])
    torch.testing.assert_close(permuted, straight[order])
