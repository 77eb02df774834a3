import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stepcredit.maths import credit

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)
WINDOWS = st.integers(1, 15)
COSINES = st.floats(-1, 1)
INCREMENTS = st.floats(0.001, 1)


@st.composite
def similarities(draw, elements=COSINES):
    """(B, T + 1) float64 with T in 1..12."""
    columns = draw(st.integers(2, 13))
    row = st.lists(elements, min_size=columns, max_size=columns)
    return torch.tensor(draw(st.lists(row, min_size=1, max_size=4)), dtype=torch.float64)


def _similarity(rows: int = 4, steps: int = 12, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    rising = torch.rand(rows, steps + 1, generator=generator, dtype=torch.float64).cumsum(1)
    return (rising / rising[:, -1:]).to(dtype)


def _randn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


# Cosines


def test_cosines_of_literals():
    x0 = torch.tensor([[[1.0, 0.0], [3.0, 3.0], [-2.0, -2.0], [0.0, 0.0]]])
    expected = torch.tensor([[0.5**0.5, 1.0, -1.0, 0.0, 1.0]])
    torch.testing.assert_close(credit.cosine_to_final(x0, torch.tensor([[5.0, 5.0]])), expected)


def test_cosines_match_torch_and_end_at_exactly_one():
    x0, final = _randn(3, 7, 4, 5, 5, dtype=torch.float64), _randn(3, 4, 5, 5, dtype=torch.float64)
    similarity = credit.cosine_to_final(x0, final)
    expected = torch.nn.functional.cosine_similarity(x0.flatten(2), final.flatten(1).unsqueeze(1), dim=-1)
    torch.testing.assert_close(similarity[:, :-1], expected)
    assert torch.equal(similarity[:, -1], torch.ones(3, dtype=torch.float64))


def test_a_zero_final_latent_has_cosine_zero_and_falls_back():
    x0, final = _randn(2, 5, 3), _randn(2, 3)
    final[1] = 0
    similarity = credit.cosine_to_final(x0, final)
    assert torch.equal(similarity[1], torch.zeros(6))
    assert credit.degenerate_rows(similarity, 2).tolist()[1]
    assert torch.equal(credit.contribution_weights(similarity, 2)[1:], credit.linear_weights(5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_latents_and_similarities_are_upcast(dtype):
    x0, final = _randn(2, 6, 4, 8, dtype=dtype), _randn(2, 4, 8, dtype=dtype)
    similarity = credit.cosine_to_final(x0, final)
    assert torch.equal(similarity, credit.cosine_to_final(x0.float(), final.float()))
    half = similarity.to(dtype)
    weights = credit.contribution_weights(half, 2)
    assert torch.equal(weights, credit.contribution_weights(half.float(), 2))
    assert credit.reward_to_go(weights.to(dtype)).dtype == torch.float32


def test_cosines_ignore_positive_scale():
    x0, final = _randn(2, 6, 9, dtype=torch.float64), _randn(2, 9, dtype=torch.float64)
    scaled = credit.cosine_to_final(17.0 * x0, 0.003 * final)
    torch.testing.assert_close(scaled, credit.cosine_to_final(x0, final), rtol=0, atol=1e-12)


def test_cosines_do_not_exceed_one_by_rounding():
    # Without care a quarter of these come out as 1 + 1e-7.
    final = _randn(300, 37)
    assert credit.cosine_to_final(torch.stack([final, -final], dim=1), final).abs().max() == 1


def test_cosine_shapes_are_refused():
    with pytest.raises(ValueError, match=r"final has shape \(2, 4\), expected \(2, 5\)"):
        credit.cosine_to_final(torch.zeros(2, 3, 5), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="x0 has shape"):
        credit.cosine_to_final(torch.zeros(2, 3), torch.zeros(2))


# Contrast to a group


def test_contrast_of_literals():
    # The first two share a prompt, their finals (3, 1) and (1, 1) the mean (2, 1).
    final = torch.tensor([[3.0, 1.0], [1.0, 1.0], [5.0, 5.0]])
    x0 = torch.tensor([[[2.0, 4.0], [5.0, 1.0]], [[3.0, 2.0], [1.5, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    expected = torch.tensor([[0.0, 1.0, 1.0], [-(0.5**0.5), 1.0, 1.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(credit.contrast_to_group(x0, final, ["a", "a", "b"]), expected)
    order = [1, 2, 0]
    shuffled = credit.contrast_to_group(x0[order], final[order], ["a", "b", "a"])
    torch.testing.assert_close(shuffled, expected[order])


def test_contrast_ignores_what_the_group_shares():
    x0, final = _randn(4, 5, 7, dtype=torch.float64), _randn(4, 7, dtype=torch.float64)
    shared = torch.arange(7.0, dtype=torch.float64)
    groups = ["a", "a", "b", "b"]
    torch.testing.assert_close(
        credit.contrast_to_group(x0 + shared, final + shared, groups), credit.contrast_to_group(x0, final, groups)
    )


def test_equal_finals_have_no_contrast():
    final = _randn(1, 60).repeat(7, 1)
    assert final.mean(0).sub(final).any(), "a plain mean is off by rounding"
    assert torch.equal(credit.contrast_to_group(_randn(7, 4, 60), final, ["a"] * 7), torch.zeros(7, 5))


def test_contrast_refuses_too_few_groups():
    with pytest.raises(ValueError, match="give one group per trajectory"):
        credit.contrast_to_group(torch.zeros(2, 3, 5), torch.zeros(2, 5), ["a"])


# Weights


def test_contribution_of_literals_with_a_short_last_window():
    # Windows of s_1..s_5: (0.2, 0.4), (0.6, 0.8), (1.0); means 0.3, 0.7, 1.0; gains 0.3, 0.4, 0.3; s_0 = 0, total 1.
    similarity = torch.tensor([[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]])
    gains, sizes = credit.contribution_gain(similarity, 2)
    torch.testing.assert_close(gains, torch.tensor([[0.3, 0.4, 0.3]]))
    assert sizes.tolist() == [2, 2, 1]
    weights = credit.contribution_weights(similarity, 2)
    torch.testing.assert_close(weights, torch.tensor([[0.15, 0.15, 0.2, 0.2, 0.3]]))
    torch.testing.assert_close(credit.reward_to_go(weights), torch.tensor([[1.0, 0.85, 0.7, 0.5, 0.3]]))


def test_window_of_one_is_the_normalized_increment():
    similarity = _similarity(dtype=torch.float64)
    expected = similarity.diff(dim=1) / (1 - similarity[:, :1])
    torch.testing.assert_close(credit.contribution_weights(similarity, 1), expected)


def test_first_window_of_a_straight_line_gets_its_documented_partition():
    gains, _ = credit.contribution_gain(torch.linspace(0, 1, 51, dtype=torch.float64)[None], 5)
    torch.testing.assert_close(gains[0, 0] / gains[0, 1], torch.tensor(0.6, dtype=torch.float64))


def test_negative_gains_are_kept_unless_clamped():
    similarity = torch.tensor([[0.0, 0.8, 0.5, 1.0]])
    torch.testing.assert_close(credit.contribution_weights(similarity, 1), torch.tensor([[0.8, -0.3, 0.5]]))
    clamped = credit.contribution_weights(similarity, 1, clamp=True)
    torch.testing.assert_close(clamped, torch.tensor([[0.8 / 1.3, 0.0, 0.5 / 1.3]]))
    assert credit.reward_to_go(credit.contribution_weights(torch.tensor([[0.0, -0.2, 1.0]]), 1))[0, 1] > 1


def test_uniform_and_linear():
    assert credit.uniform_weights(4).tolist() == [[0, 0, 0, 1]]
    assert torch.equal(credit.reward_to_go(credit.uniform_weights(50)), torch.ones(1, 50))
    assert credit.linear_weights(4).tolist() == [[0.25] * 4]
    torch.testing.assert_close(credit.reward_to_go(credit.linear_weights(5)), torch.tensor([[1.0, 0.8, 0.6, 0.4, 0.2]]))
    assert credit.linear_weights(3, dtype=torch.float64).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 3, 7, 10, 49, 50])
def test_one_window_is_bitwise_linear(steps, dtype):
    similarity = torch.rand(64, steps + 1, generator=torch.Generator().manual_seed(steps), dtype=dtype)
    similarity = similarity[~credit.degenerate_rows(similarity, steps)]
    linear = credit.linear_weights(steps, dtype=dtype).repeat(len(similarity), 1)
    for window in (steps, steps + 5):
        weights = credit.contribution_weights(similarity, window)
        assert torch.equal(weights, linear)
        assert torch.equal(credit.reward_to_go(weights), credit.reward_to_go(linear))


@PROPERTY
@given(similarities(), WINDOWS, st.booleans())
def test_rows_sum_to_one(similarity, window, clamp):
    weights = credit.contribution_weights(similarity, window, clamp)
    assert weights.shape == (similarity.shape[0], similarity.shape[1] - 1)
    assert weights.isfinite().all()
    to_go = credit.reward_to_go(weights)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights), dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(to_go[:, 0], weights.sum(1), rtol=0, atol=1e-6)
    assert torch.equal(to_go[:, -1], weights[:, -1])
    assert not (clamp and (weights < 0).any())


@PROPERTY
@given(similarities(), WINDOWS)
def test_exactly_the_degenerate_rows_fall_back(similarity, window):
    steps = similarity.shape[1] - 1
    sizes = credit.contribution_gain(similarity, window)[1]
    gain = similarity[:, -int(sizes[-1]) :].mean(1) - similarity[:, 0]
    assume(((gain - credit.MIN_TOTAL_GAIN).abs() > 1e-12).all())
    degenerate = credit.degenerate_rows(similarity, window)
    assert torch.equal(degenerate, gain < credit.MIN_TOTAL_GAIN)
    for clamp in (False, True):
        weights = credit.contribution_weights(similarity, window, clamp)
        linear = credit.linear_weights(steps, dtype=torch.float64).expand(int(degenerate.sum()), steps)
        assert torch.equal(weights[degenerate], linear)


@PROPERTY
@given(similarities(INCREMENTS), WINDOWS)
def test_rising_similarity_gives_credit_that_only_falls(increments, window):
    similarity = increments.cumsum(1) / increments.sum(1, keepdim=True)
    weights = credit.contribution_weights(similarity, window)
    to_go = credit.reward_to_go(weights)
    assert (weights >= 0).all()
    assert (to_go.diff(dim=1) <= 0).all()
    assert (to_go >= 0).all()
    assert (to_go <= 1 + 1e-12).all()


@PROPERTY
@given(similarities(), WINDOWS, st.floats(0.1, 10), st.floats(-5, 5))
def test_affine_maps_of_the_similarity_change_nothing(similarity, window, scale, shift):
    gain = credit.contribution_gain(similarity, window)[0].sum(1)
    assume((gain.abs() > 1e-3).all())
    mapped = credit.contribution_weights(scale * similarity + shift, window)
    torch.testing.assert_close(mapped, credit.contribution_weights(similarity, window), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "row", [[0.5] * 6, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0.0, 0.3, 0.9, 0.2, 0.1, 0.0]], ids=["flat", "falling", "round"]
)
def test_fallback_leaves_other_rows_alone(row):
    similarity = torch.tensor([row, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]])
    assert credit.degenerate_rows(similarity, 1).tolist() == [True, False]
    weights = credit.contribution_weights(similarity, 1)
    assert torch.equal(weights[:1], credit.linear_weights(5))
    assert torch.equal(weights[1:], credit.contribution_weights(similarity[1:], 1))


def test_one_step_gets_all_credit():
    assert credit.contribution_weights(torch.tensor([[0.3, 1.0], [1.0, 1.0]]), 5).tolist() == [[1.0], [1.0]]


def test_nan_is_not_counted_as_a_fallback():
    similarity = torch.tensor([[0.0, float("nan"), 1.0]])
    assert not credit.degenerate_rows(similarity, 1).any()
    assert credit.contribution_weights(similarity, 1).isnan().any()


def test_bad_weights_are_refused():
    with pytest.raises(ValueError, match="window is 0, expected at least 1"):
        credit.contribution_weights(torch.zeros(2, 5), 0)
    with pytest.raises(ValueError, match="steps in similarity"):
        credit.contribution_weights(torch.zeros(2, 1), 1)
    with pytest.raises(ValueError, match="similarity has shape"):
        credit.degenerate_rows(torch.zeros(5), 1)
    with pytest.raises(ValueError, match="steps is 0"):
        credit.uniform_weights(0)
    with pytest.raises(ValueError, match="steps is 0"):
        credit.linear_weights(0)


def test_batch_mean_is_one_schedule_for_all():
    weights = torch.tensor([[0.2, 0.8], [0.6, 0.4]])
    torch.testing.assert_close(credit.mean_over_batch(weights), torch.tensor([[0.4, 0.6], [0.4, 0.6]]))
    mean = credit.mean_over_batch(credit.contribution_weights(_similarity(), 5))
    assert torch.equal(mean, mean[:1].expand(4, 12))
    torch.testing.assert_close(mean.sum(1), torch.ones(4))


# Multipliers and step advantages


def test_multiplier_of_literals():
    torch.testing.assert_close(
        credit.multiplier(torch.tensor([[1.0, 0.5, -0.5]]), 0.2), torch.tensor([[1.0, 0.6, -0.2]])
    )


@PROPERTY
@given(st.floats(0, 1))
def test_no_credit_is_exact(alpha):
    to_go = _randn(8, 50) * 3
    assert torch.equal(credit.multiplier(to_go, 1.0), torch.ones(8, 50))
    assert torch.equal(credit.multiplier(to_go, 0.0), to_go)
    assert torch.equal(credit.multiplier(torch.ones(2, 3), alpha), torch.ones(2, 3))


def test_alpha_one_and_uniform_weights_give_the_bare_advantage():
    advantage, weights = torch.tensor([1.7, -0.4, 2.5, 0.0]), credit.contribution_weights(_similarity(), 5)
    bare = advantage.unsqueeze(1).expand(4, 12)
    assert torch.equal(credit.step_advantages(advantage, weights, 1.0), bare)
    assert torch.equal(credit.step_advantages(advantage, credit.uniform_weights(12), 0.3), bare)


def test_step_advantages_are_linear_in_alpha():
    advantage, weights = torch.tensor([1.7, -0.4, 2.5, 0.0]), credit.contribution_weights(_similarity(), 5)
    ends = [credit.step_advantages(advantage, weights, alpha) for alpha in (0.0, 1.0)]
    for alpha in (0.2, 0.5, 0.9):
        blend = (1 - alpha) * ends[0] + alpha * ends[1]
        torch.testing.assert_close(credit.step_advantages(advantage, weights, alpha), blend)


def test_step_advantages_follow_the_batch():
    advantage, weights = torch.tensor([1.7, -0.4, 2.5, 0.0]), credit.contribution_weights(_similarity(), 5)
    order = torch.tensor([2, 0, 3, 1])
    permuted = credit.step_advantages(advantage[order], weights[order], 0.3)
    assert torch.equal(permuted, credit.step_advantages(advantage, weights, 0.3)[order])


def test_factors_are_used_as_they_are():
    advantage, factors = torch.tensor([2.0, -1.0]), torch.tensor([[0.5, 1.5, 1.0]])
    expected = torch.tensor([[1.0, 3.0, 2.0], [-0.5, -1.5, -1.0]])
    torch.testing.assert_close(credit.scaled_advantages(advantage, factors, 0.0), expected)
    assert torch.equal(credit.scaled_advantages(advantage, factors, 1.0), advantage.unsqueeze(1).expand(2, 3))
    with pytest.raises(ValueError, match=r"factors has shape \(3, 4\), expected \(2, 4\)"):
        credit.scaled_advantages(advantage, torch.ones(3, 4), 0.0)


def test_bad_multipliers_are_refused():
    with pytest.raises(ValueError, match=r"alpha is 1.5, expected a number in \[0, 1\]"):
        credit.multiplier(torch.ones(1, 2), 1.5)
    with pytest.raises(ValueError, match=r"weights has shape \(2, 4\), expected \(3, 4\)"):
        credit.step_advantages(torch.ones(3), torch.ones(2, 4), 0.0)
    with pytest.raises(ValueError, match="advantage has shape"):
        credit.step_advantages(torch.ones(3, 1), torch.ones(3, 4), 0.0)
    with pytest.raises(ValueError, match="weights has shape"):
        credit.reward_to_go(torch.ones(4))
