"""What every reward of the package keeps to, and what each one measures."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stepcredit.config import RewardSection
from stepcredit.errors import InputError, RewardError
from stepcredit.rewards import REWARDS, CheckedReward, build_reward, checked
from stepcredit.rewards.alignment import Alignment
from stepcredit.rewards.vision.images import to_pil, to_uint8
from stepcredit.shapes.checker import Checker
from stepcredit.shapes.render import render
from stepcredit.shapes.rules import RULES
from stepcredit.shapes.scorers import load_scorer
from stepcredit.shapes.world import ATTRIBUTES, Scene, caption
from stepcredit.types import RewardFunction

SCENES = [
    Scene("circle", "red", "blue", "large", "solid", "center"),
    Scene("cross", "white", "green", "small", "striped", "left"),
    Scene("square", "black", "cyan", "large", "checkered", "right"),
]
CAPTIONS = [caption(SCENES[0], set()), caption(SCENES[1], {"size"}), caption(SCENES[2])]


class SureChecker(Checker):
    """Sees the given word of an attribute with the given probability, whatever the image."""

    def __init__(self, sees: dict[str, tuple[str, float]]) -> None:
        super().__init__(width=8)
        self.sees = sees

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {name: self._logits(name, words).expand(len(images), -1) for name, words in ATTRIBUTES.items()}

    def _logits(self, name: str, words: tuple[str, ...]) -> Tensor:
        word, probability = self.sees.get(name, (words[0], 1 / len(words)))
        rest = (1 - probability) / (len(words) - 1)
        return torch.tensor([probability if word == other else rest for other in words]).log()


def small_checker() -> Checker:
    torch.manual_seed(0)
    return Checker(width=8).eval()


PREFERENCES = ("harmony", "balance", "legibility", "faithfulness")

OFFLINE: dict[str, Callable[[], RewardFunction]] = {
    "jpeg_compressibility": REWARDS.get("jpeg_compressibility"),
    "jpeg_incompressibility": REWARDS.get("jpeg_incompressibility"),
    "warmth": REWARDS.get("warmth"),
    "alignment": lambda: Alignment(small_checker()),
    **{name: REWARDS.get(name) for name in PREFERENCES},
}
"""The rewards that need no network and no downloaded weights."""


@pytest.fixture(params=OFFLINE)
def reward(request: pytest.FixtureRequest) -> CheckedReward:
    return checked(OFFLINE[request.param](), request.param)


@pytest.fixture
def images() -> Tensor:
    return render(SCENES, np.random.default_rng(0))


def plain(red: float, green: float, blue: float) -> Tensor:
    return torch.tensor([red, green, blue]).view(1, 3, 1, 1).expand(1, 3, 32, 32)


def score(reward: RewardFunction, images: Tensor, prompts: list[str] | None = None) -> Tensor:
    return reward(images, prompts or ["a cat"] * len(images), [{}] * len(images))


def test_the_rewards() -> None:
    assert set(REWARDS.names()) >= set(OFFLINE)


def test_one_score_per_image_the_same_every_time(reward: CheckedReward, images: Tensor) -> None:
    scores = score(reward, images, CAPTIONS)
    assert scores.shape == (3,) and scores.dtype == torch.float32
    assert torch.equal(score(reward, images, CAPTIONS), scores)


def test_the_batch_does_not_matter(reward: CheckedReward, images: Tensor) -> None:
    alone = torch.cat([score(reward, images[row : row + 1], [CAPTIONS[row]]) for row in range(3)])
    torch.testing.assert_close(score(reward, images, CAPTIONS), alone)


def test_the_images_are_left_alone(reward: CheckedReward, images: Tensor) -> None:
    before = images.clone()
    score(reward, images, CAPTIONS)
    assert torch.equal(images, before)


def test_half_precision_images_are_welcome(reward: CheckedReward, images: Tensor) -> None:
    torch.testing.assert_close(
        score(reward, images.half(), CAPTIONS), score(reward, images, CAPTIONS), atol=0.02, rtol=0.02
    )


@pytest.mark.parametrize("name", REWARDS.names())
def test_a_reward_is_described(name: str) -> None:
    doc = REWARDS.get(name).__doc__
    assert doc is not None and doc.splitlines()[0].endswith(".") and len(doc.splitlines()[0]) < 110


def pillow_size(image: Tensor, quality: int) -> int:
    """Bytes of the JPEG, by another road than the reward's: numpy for the pixels, `getvalue` for the length."""
    pixels = np.rint(image.numpy().astype(np.float64) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.moveaxis(pixels, 0, -1)).save(buffer, "jpeg", quality=quality)
    return len(buffer.getvalue())


@pytest.mark.parametrize("quality", [95, 50])
def test_jpeg_size_is_pillow_s(images: Tensor, quality: int) -> None:
    kilobytes = torch.tensor([pillow_size(image, quality) / 1000 for image in images])
    for name, sign in (("jpeg_incompressibility", 1), ("jpeg_compressibility", -1)):
        reward = build_reward(RewardSection(name=name, options={"quality": quality}))
        assert torch.equal(score(reward, images), sign * kilobytes)


def test_jpeg_quality_is_ddpo_s_by_default(images: Tensor) -> None:
    expected = torch.tensor([-pillow_size(image, 95) / 1000 for image in images])
    assert torch.equal(score(build_reward(RewardSection()), images), expected)


def test_noise_is_less_compressible_than_a_plain_image() -> None:
    noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sizes = score(build_reward(RewardSection(name="jpeg_incompressibility")), torch.cat([plain(0.5, 0.5, 0.5), noise]))
    assert sizes[1] > 2 * sizes[0] > 0


@pytest.mark.parametrize("quality", [0, 101, 95.0, "high"])
def test_a_bad_jpeg_quality(quality: object) -> None:
    with pytest.raises(InputError, match=f"JPEG quality is {quality!r}, expected a whole number from 1 to 100"):
        build_reward(RewardSection(options={"quality": quality}))


@pytest.mark.parametrize("name", ["jpeg_compressibility", "jpeg_incompressibility"])
def test_a_diverged_image_is_no_small_jpeg(name: str, images: Tensor) -> None:
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(RewardError, match=r"images \[1\] are not finite"):
        score(build_reward(RewardSection(name=name)), images)


@pytest.mark.parametrize(
    ("color", "expected"),
    [((1, 0, 0), 1), ((0, 0, 1), -1), ((0, 1, 0), 0), ((0.5, 0.5, 0.5), 0), ((0.75, 0, 0.5), 0.25)],
)
def test_warmth_is_red_less_blue(color: tuple[float, float, float], expected: float) -> None:
    assert score(build_reward(RewardSection(name="warmth")), plain(*color)).item() == pytest.approx(expected)


def test_warmth_is_a_mean_over_the_image() -> None:
    half = torch.cat([plain(1, 0, 0)[..., :16], plain(0, 0, 0)[..., :16]], dim=3)
    assert score(build_reward(RewardSection(name="warmth")), half).item() == pytest.approx(0.5)


def test_alignment_is_the_mean_over_the_mentioned_attributes() -> None:
    checker = SureChecker({"shape": ("circle", 0.9), "foreground": ("red", 0.6), "size": ("small", 0.7)})
    prompts = ["a red circle on a blue background", "a large red square on a blue background"]
    # Nothing is seen of the background, so that its 8 words share the probability.
    expected = [(0.9 + 0.6 + 1 / 8) / 3, (0.1 / 3 + 0.6 + 1 / 8 + 0.3) / 4]
    scores = score(Alignment(checker), torch.zeros(2, 3, 32, 32), prompts)
    torch.testing.assert_close(scores, torch.tensor(expected))


def test_alignment_lies_between_0_and_1(images: Tensor) -> None:
    scores = score(Alignment(small_checker()), images, CAPTIONS)
    assert ((scores > 0) & (scores < 1)).all()


def test_alignment_judges_captions_only(images: Tensor) -> None:
    reward = checked(Alignment(small_checker()), "alignment")
    with pytest.raises(RewardError, match=r"^reward 'alignment' failed: 'a cat' is not a caption of the shapes world"):
        score(reward, images, [CAPTIONS[0], "a cat", CAPTIONS[2]])


def test_alignment_judges_images_of_the_shapes_world_only() -> None:
    with pytest.raises(InputError, match=r"images have shape \(1, 3, 64, 64\)"):
        score(Alignment(small_checker()), torch.zeros(1, 3, 64, 64), CAPTIONS[:1])


def test_the_preferences_are_all_of_the_rules() -> None:
    assert set(PREFERENCES) == set(RULES)


@pytest.mark.parametrize("name", PREFERENCES)
def test_a_preference_is_what_its_scorer_says(name: str, images: Tensor) -> None:
    expected = load_scorer(name)(images, CAPTIONS)
    assert torch.equal(score(build_reward(RewardSection(name=name)), images, CAPTIONS), expected)


def test_preferences_tell_a_good_picture_from_a_bad_one() -> None:
    good = {
        "harmony": Scene("circle", "yellow", "blue", "large", "solid", "center"),
        "balance": Scene("circle", "red", "blue", "large", "solid", "center"),
        "legibility": Scene("circle", "white", "black", "large", "solid", "center"),
        "faithfulness": SCENES[0],
    }
    bad = {
        "harmony": Scene("circle", "red", "green", "large", "solid", "center"),
        "balance": Scene("triangle", "red", "blue", "small", "solid", "left"),
        "legibility": Scene("circle", "purple", "blue", "large", "solid", "center"),
        "faithfulness": SCENES[2],
    }
    for name in PREFERENCES:
        images = render([good[name], bad[name]], np.random.default_rng(0))
        best, worst = score(build_reward(RewardSection(name=name)), images, [CAPTIONS[0]] * 2)
        assert best > worst + 1, name


def test_faithfulness_judges_captions_only_and_the_others_anything(images: Tensor) -> None:
    with pytest.raises(RewardError, match=r"^reward 'faithfulness' failed: 'a cat' is not a caption of the shapes"):
        score(build_reward(RewardSection(name="faithfulness")), images, [CAPTIONS[0], "a cat", CAPTIONS[2]])
    for name in PREFERENCES[:3]:
        reward = build_reward(RewardSection(name=name))
        assert torch.equal(score(reward, images, ["a cat", "", "b"]), score(reward, images, CAPTIONS))


@pytest.mark.parametrize("name", PREFERENCES)
def test_preferences_judge_images_of_the_shapes_world_only(name: str) -> None:
    with pytest.raises(RewardError, match=r"images have shape \(1, 3, 64, 64\), the scorer reads"):
        score(build_reward(RewardSection(name=name)), torch.zeros(1, 3, 64, 64), CAPTIONS[:1])


def test_pixels_are_rounded_and_clamped() -> None:
    values = torch.tensor([-0.5, 0.0, 0.4 / 255, 0.6 / 255, 254.4 / 255, 1.0, 1.5])
    images = values.view(1, 1, 1, 7).expand(1, 3, 1, 7)
    pixels = to_uint8(images)
    assert pixels.shape == (1, 1, 7, 3) and pixels.dtype == np.uint8
    assert pixels[0, 0, :, 1].tolist() == [0, 0, 0, 1, 254, 255, 255]


def test_8_bit_images_survive() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    assert np.array_equal(to_uint8(images), pixels)
    assert [picture.size for picture in to_pil(images)] == [(4, 5), (4, 5)]
    assert np.array_equal(np.asarray(to_pil(images)[1]), pixels[1])


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 8, 8, 3)])
def test_images_of_another_layout_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\)"):
        to_uint8(torch.zeros(shape))
