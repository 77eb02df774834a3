"""benchmarks/against_trl.py, without TRL."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch


def report(cpu: float, peak: float, *, rewards: tuple[float, ...] = (-1.0, -2.0), norm: float = 1.0) -> dict[str, Any]:
    """A report of two epochs. The first took a hundred times as long."""
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


def test_ratios_exclude_the_first_epoch(module: Any) -> None:
    comparison = module("_comparison")
    first, second = pair(report(1.0, 300.0), report(2.0, 500.0)), pair(report(3.0, 400.0), report(4.0, 500.0))
    ratios = comparison.ratios([first, second])
    assert ratios["sampling CPU"] == [0.5, 0.75]
    assert ratios["training wall"] == [0.5, 0.75]
    assert ratios["peak memory"] == [0.6, 0.8]
    assert ratios["memory of the run"] == [0.5, 0.75]


def test_a_single_epoch_is_timed(module: Any) -> None:
    alone = report(1.0, 1.0)
    alone["phases"]["sampling"] = alone["phases"]["sampling"][:1]
    assert module("_comparison").seconds(alone, "sampling", "cpu") == 100.0


def test_ratio_table_has_a_row_for_each_figure(module: Any) -> None:
    lines = module("_comparison").ratio_table({"training CPU": [0.2, 0.3, 0.9], "sampling CPU": [0.7]})
    assert lines[1].split()[2:5] == ["0.200", "0.300", "0.900"]
    assert lines[1].endswith("met") and lines[2].endswith("missed")


def test_cost_table_computes_the_utilization(module: Any) -> None:
    gflop = {"sampling": 10.0, "training": 100.0}
    lines = module("_comparison").cost_table([pair(report(1.0, 3e8), report(2.0, 5e8))], gflop, images=10)
    assert [re.findall(r"[0-9]+%", line) for line in lines] == [["20%"], ["50%"], [], ["10%"], ["25%"], []]


def test_agreement_of_rewards_and_norms(module: Any) -> None:
    comparison = module("_comparison")
    ours, theirs = report(1.0, 1.0, rewards=(-1.0, -2.5), norm=1.1), report(1.0, 1.0)
    assert comparison.reward_difference(ours, theirs) == pytest.approx(0.25 / 0.5)
    assert comparison.norm_differences(ours, theirs, updates=2) == pytest.approx([0.1, 0.1])
    assert comparison.agrees(theirs, theirs, updates=2)
    for other in (report(1.0, 1.0, rewards=(-1.0, -2.5)), report(1.0, 1.0, norm=1.1)):
        assert not comparison.agrees(other, theirs, updates=2)


def test_work_that_trl_cannot_split_is_an_error(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_other_folders_are_not_overwritten(module: Any, tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(SystemExit, match="--venv"):
        module("against_trl").environment(tmp_path)
    assert (tmp_path / "kept").exists()


def test_gflop_of_the_denoiser(module: Any) -> None:
    """About a tenth of a GFLOP per row. The backward to the inputs costs the same again."""
    tiny, against = module("_tiny_sd"), module("against_trl")
    denoiser = tiny.unet()
    denoiser.requires_grad_(False)
    denoiser.conv_in.weight.requires_grad_(True)
    forward, both = tiny.count_gflop(denoiser)
    assert forward == pytest.approx(0.0995, rel=0.01)
    assert both / forward == pytest.approx(2.0, rel=0.05)
    assert against.shuffle(0, 0, 16, 4) != against.shuffle(0, 1, 16, 4)
    assert sorted(against.shuffle(0, 0, 16, 4)) == list(range(16))


def test_saved_files_are_readable_by_transformers_4(module: Any, tmp_path: Path) -> None:
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


@pytest.mark.slow
def test_stepcredit_runner(module: Any, benchmarks: Path, tmp_path: Path) -> None:
    against = module("against_trl")
    job = against.prepare(tmp_path, against.parse(["--images", "2", "--updates", "1", "--epochs", "1"]))
    runner = [sys.executable, benchmarks / "_stepcredit_runner.py", tmp_path / "job.json", tmp_path / "report.json"]
    subprocess.run(runner, check=True, capture_output=True, timeout=300)
    result = json.loads((tmp_path / "report.json").read_text())
    assert len(result["rewards"]) == 1 and len(result["rewards"][0]) == len(job["prompts"]) == 2
    assert len(result["grad_norms"]) == 1 and result["grad_norms"][0] > 0
    assert {name: len(epochs) for name, epochs in result["phases"].items()} == {"sampling": 1, "training": 1}
