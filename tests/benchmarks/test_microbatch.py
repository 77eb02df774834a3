"""benchmarks/microbatch.py: its variants compute the same gradient."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from stepcredit.runs import recipes


def test_queries_that_recover_the_compile_time(module: Any) -> None:
    break_even = module("_throughput").break_even
    assert break_even(30.0, 0.5, 0.25) == 120
    assert break_even(30.0, 0.25, 0.25) == float("inf")


def test_channels_last_gives_the_same_gradient(module: Any) -> None:
    microbatch = module("microbatch")
    config = recipes.load(None, ["sample.steps=2"])
    options = argparse.Namespace(images=2, sizes=[2], bare=False, compiled=False, channels_last=True)
    variants = microbatch.build_variants(config, options, torch.float64)
    assert list(variants) == ["2", "channels_last"]
    weight = microbatch.other_policies(config, options, torch.float64)["channels_last"].pipeline.unet.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    gradients = {name: variant()[0] for name, variant in variants.items()}
    assert gradients["2"].dtype == torch.float64 and gradients["2"].norm() > 0
    assert microbatch.differences(gradients)["channels_last"] <= microbatch.LARGEST_DIFFERENCE == 1e-9
