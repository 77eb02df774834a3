"""Images with an alpha channel become RGB images on a white background."""

from __future__ import annotations

import logging

import pytest
import torch
from tests.families import FAMILIES
from tests.families.proof import moved
from tests.tiny import PROMPTS, SEEDS

from stepcredit.policy.rgb import to_rgb


def test_a_color_is_mixed_with_white_as_much_as_it_is_transparent() -> None:
    color, expected = torch.tensor([0.2, 0.4, 1.0]), {1.0: [0.2, 0.4, 1.0], 0.5: [0.6, 0.7, 1.0], 0.0: [1.0, 1.0, 1.0]}
    for alpha, mixed in expected.items():
        image = torch.cat([color, torch.tensor([alpha])]).view(1, 4, 1, 1)
        torch.testing.assert_close(to_rgb(image).flatten(), torch.tensor(mixed))


def test_images_without_alpha_stay_as_they_are() -> None:
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(to_rgb(images), images)
    assert torch.equal(to_rgb(torch.cat([images, torch.ones(2, 1, 4, 4)], 1)), images)
    assert to_rgb(images.bfloat16()).dtype == torch.float32 and to_rgb(images.double()).dtype == torch.float64


def test_qwen_image_2_1_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    policy = moved("qwen_image_2.1")
    with caplog.at_level(logging.WARNING, "stepcredit"):
        rollouts = [policy.rollout(PROMPTS[:2], SEEDS[:2]) for _ in range(2)]
    assert [record.getMessage() for record in caplog.records if "alpha channel" in record.getMessage()] == [
        "note: QwenImage21Pipeline makes images with an alpha channel; they are put on a white background"
    ]
    assert rollouts[0].images.shape == (2, 3, 64, 64)
    decoded = policy.decode(rollouts[0].trajectory.final.requires_grad_())
    torch.testing.assert_close(decoded, rollouts[0].images, atol=1e-5, rtol=0)
    assert decoded.requires_grad and FAMILIES["qwen_image_2.1"].build(0).vae.config.out_channels == 4
