"""benchmarks/against_trl.py without the other system."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stepcredit.runs import recipes

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that imports one of the benchmarks, which are scripts and find each other in their own folder."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


def report(cpu: float, peak: float, *, rewards: tuple[float, ...] = (-1.0, -2.0), norm: float = 1.0) -> dict[str, Any]:
    """Two epochs, of which the first took a hundred times as long."""
    epochs = [{"cpu": 100 * cpu, "wall": 300 * cpu}, {"cpu": cpu, "wall": 3 * cpu}]
    return {
        "phases": {
            "sampling": epochs,
            "training": [{key: 4 * value for key, value in epoch.items()} for epoch in epochs],
        },
        "rewards": [list(rewards), [0.0, 0.0]],
        "grad_norms": [norm, 2 * norm, 9.0, 9.0],
        "resident_before": 100.0,
        "resident_peak": peak,
        "rate": 50.0,
    }


def pair(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    return {"stepcredit": ours, "TRL": theirs}


@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_a_benchmark_that_is_called_runs(script: Path) -> None:
    assert script.read_text().endswith('\n\n\nif __name__ == "__main__":\n    main()\n')


def test_ratios_leave_out_the_first_epoch(module: Any) -> None:
    comparison = module("_comparison")
    first, second = pair(report(1.0, 300.0), report(2.0, 500.0)), pair(report(3.0, 400.0), report(4.0, 500.0))
    found = comparison.ratios([first, second])
    assert found["sampling CPU"] == [0.5, 0.75]
    assert found["training wall"] == [0.5, 0.75]
    assert found["peak memory"] == [0.6, 0.8]
    assert found["memory of the run"] == [0.5, 0.75]


def test_an_only_epoch_is_timed(module: Any) -> None:
    alone = report(1.0, 1.0)
    alone["phases"]["sampling"] = alone["phases"]["sampling"][:1]
    assert module("_comparison").seconds(alone, "sampling", "cpu") == 100.0


def test_ratio_table_gives_the_range_and_judges_the_median(module: Any) -> None:
    lines = module("_comparison").ratio_table({"training CPU": [0.2, 0.3, 0.9], "sampling CPU": [0.7], "x": [1.0]})
    assert lines[1].split()[2:5] == ["0.200", "0.300", "0.900"]
    assert lines[1].endswith("target 0.333: met")
    assert lines[2].endswith("target 0.625: missed")
    assert "target" not in lines[3]


def test_cost_table_gives_the_part_of_the_matrix_rate(module: Any) -> None:
    gflop = {"sampling": 10.0, "training": 100.0}
    lines = module("_comparison").cost_table([pair(report(1.0, 3e8), report(2.0, 5e8))], gflop, images=10)
    assert "100.0 CPU-ms a query" in lines[0] and "20% of the matrix rate" in lines[0]
    assert "50% of the matrix rate" in lines[1]
    assert "300 MB at its peak" in lines[2]
    assert "10% of the matrix rate" in lines[3]


def test_agreement(module: Any) -> None:
    comparison = module("_comparison")
    ours, theirs = report(1.0, 1.0, rewards=(-1.0, -2.5), norm=1.1), report(1.0, 1.0)
    assert comparison.reward_difference(ours, theirs) == pytest.approx(0.25 / 0.5)
    assert comparison.norm_differences(ours, theirs, updates=2) == pytest.approx([0.1, 0.1])
    assert comparison.agrees(theirs, theirs, updates=2)
    for other in (report(1.0, 1.0, rewards=(-1.0, -2.5)), report(1.0, 1.0, norm=1.1)):
        assert not comparison.agrees(other, theirs, updates=2)


def test_work_that_trl_cannot_split_is_refused(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    parse = module("against_trl").parse
    assert parse(["--pairs", "2"]).pairs == 2
    for wrong in (
        ["--images", "10"],
        ["--trl-train-batch", "3"],
        ["--trl-sample-batch", "5"],
        ["--microbatch", "17"],
        ["--pairs", "0"],
    ):
        with pytest.raises(SystemExit):
            parse(wrong)
        assert "error: " in capsys.readouterr().err


def test_a_folder_that_is_no_environment_is_left_alone(module: Any, tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(SystemExit, match="not a virtual environment"):
        module("against_trl").environment(tmp_path)
    assert (tmp_path / "kept").exists()


def test_operations_of_the_denoiser(module: Any) -> None:
    """Close to a tenth of a GFLOP a row; backward to the inputs of each layer costs as much again."""
    tiny, against = module("_tiny_sd"), module("against_trl")
    denoiser = tiny.unet()
    denoiser.requires_grad_(False)
    denoiser.conv_in.weight.requires_grad_(True)
    forward, both = tiny.counted_gflop(denoiser)
    assert forward == pytest.approx(0.0995, rel=0.01)
    assert both / forward == pytest.approx(2.0, rel=0.05)
    assert against.shuffle(0, 0, 16, 4) != against.shuffle(0, 1, 16, 4)
    assert sorted(against.shuffle(0, 0, 16, 4)) == list(range(16))


def test_old_transformers_find_text_weights_and_vocabulary(module: Any, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import load_file

    tiny = module("_tiny_sd")
    tiny.save(tmp_path)
    names = load_file(tmp_path / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in names)
    assert {"vocab.json", "merges.txt"} <= {path.name for path in (tmp_path / "tokenizer").iterdir()}
    torch.manual_seed(0)
    built, loaded = tiny.build(), StableDiffusionPipeline.from_pretrained(tmp_path)
    ours, theirs = built.text_encoder.state_dict(), loaded.text_encoder.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_when_compiling_is_won_back(module: Any) -> None:
    microbatch, throughput = module("microbatch"), module("_throughput")
    assert throughput.break_even(30.0, 0.5, 0.25) == 120
    assert throughput.break_even(30.0, 0.25, 0.25) == float("inf")
    assert microbatch.compiling(34.0, 8.0, 4.0, 16) == (
        "compiling: 34 s for the first update instead of 4.0, won back after 120 queries"
    )
    assert microbatch.compiling(34.0, 4.0, 4.0, 16).endswith("never won back")


def test_the_table_of_micro_batches_has_ratios_of_each_round(module: Any) -> None:
    lines = module("microbatch").table({"16": [2.0, 4.0, 3.0], "64": [1.0, 3.0, 1.5]}, images=8)
    assert lines[0].split()[:2] == ["16", "375.0"] and lines[1].split()[:2] == ["64", "187.5"]
    assert lines[2] == "64 / 16: min 0.50, median 0.50, max 0.75"


def test_a_denoiser_in_channels_last_order_trains_the_same(module: Any) -> None:
    microbatch = module("microbatch")
    config = recipes.load(None, ["sample.steps=2"])
    options = argparse.Namespace(images=2, sizes=[2], bare=False, compiled=False, channels_last=True)
    ways = microbatch.ways(config, options, torch.float64)
    assert list(ways) == ["2", "channels_last"]
    weight = microbatch.otherwise(config, options, torch.float64)["channels_last"].pipeline.unet.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    gradients = {name: way()[0] for name, way in ways.items()}
    assert gradients["2"].dtype == torch.float64 and gradients["2"].norm() > 0
    assert microbatch.differences(gradients)["channels_last"] <= microbatch.LARGEST_DIFFERENCE == 1e-9


@pytest.mark.slow
def test_our_side_runs_as_the_other_is_told_to(module: Any, tmp_path: Path) -> None:
    against = module("against_trl")
    order = against.prepare(tmp_path, against.parse(["--images", "2", "--updates", "1", "--epochs", "1"]))
    runner = [sys.executable, BENCHMARKS / "_stepcredit_runner.py", tmp_path / "order.json", tmp_path / "report.json"]
    subprocess.run(runner, check=True, capture_output=True, timeout=300)
    found = json.loads((tmp_path / "report.json").read_text())
    assert len(found["rewards"]) == 1 and len(found["rewards"][0]) == len(order["prompts"]) == 2
    assert len(found["grad_norms"]) == 1 and found["grad_norms"][0] > 0
    assert {name: len(epochs) for name, epochs in found["phases"].items()} == {"sampling": 1, "training": 1}
