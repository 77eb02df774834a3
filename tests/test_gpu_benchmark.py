"""benchmarks/gpu.py on a CPU, with tiny models."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.families import FAMILIES
from tests.test_benchmarks import BENCHMARKS, module

from stepcredit.policy.loading import make_policy

__all__ = ["module"]


def task(gpu_model: Any, **changes: Any) -> Any:
    ways = ("reference", "eager", "checkpointing")
    whole = gpu_model.Task("sd15", "cpu", "float32", 3, ways, True, time.time() + 600)
    return replace(whole, **changes)


def result(way: str, batch: int, seconds: float, **more: Any) -> dict[str, Any]:
    """A measurement that took as long to sample as to train, at 25 TFLOP/s."""
    phase = {"seconds": seconds, "samples_per_second": batch / seconds, "tflops": 25.0, "peak_gb": 7.0}
    return {"model": "sd15", "way": way, "batch": batch, "pixels": 512, "sampling": phase, "training": phase, **more}


def report(*results: dict[str, Any], **more: Any) -> dict[str, Any]:
    card = {"device": "a card", "memory_gb": 80.0, "torch": "2", "dtype": "bfloat16", "tflops": 50.0}
    return {"card": card, "steps": 10, "tiny": False, "results": list(results), **more}


@pytest.mark.parametrize("model", ["sd15", "sd35m", "sdxl"])
def test_every_way_of_a_model_is_measured(module: Any, model: str) -> None:
    gpu_model = module("_gpu_model")
    facts, *found = gpu_model.measurements(task(gpu_model, model=model))
    ways = [(each["way"], each["batch"]) for each in found]
    assert ways[:3] == [("reference", 1), ("eager", 1), ("eager", 2)]
    assert ways[3][0] == "alternated" and len(found.pop(3)["times"]) == 3
    assert {way for way, _ in ways[4:]} == {"checkpointing"}
    turned = found.pop()["times_eager"]
    assert len(turned) == 3 and all(0 < times < 10 for times in turned)
    assert facts["weights"] > facts["trained"] > 0
    for each in found:
        trained = 2 if model == "sdxl" else 3  # the last step of its Euler schedule draws no noise
        for phase, forwards in (("sampling", 3), ("training", 2 * trained)):
            figures = each[phase]
            assert figures["samples_per_second"] == pytest.approx(each["batch"] / figures["seconds"])
            done = each["batch"] * forwards * facts["tflop"]
            assert figures["tflops"] == pytest.approx(done / figures["seconds"])


def test_what_is_compiled_can_be_switched_off_and_on_again(module: Any) -> None:
    whole = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    whole[0]._compiled_call_impl = lambda images: images + 7
    zero = torch.zeros(1, 1)
    compiled, switch = whole(zero), module("_gpu_model").compiled_or_not(whole)
    switch(False)
    torch.testing.assert_close(whole(zero), whole[1](whole[0].forward(zero)))
    switch(True)
    assert torch.equal(whole(zero), compiled) and not torch.equal(compiled, whole[1](whole[0].forward(zero)))


def test_what_was_compared_in_turn_is_told_of_every_model(module: Any) -> None:
    gpu = module("gpu")
    turns = {"model": "sdxl", "batch": 4, "pixels": 512}
    lines = gpu.in_turn(
        [
            turns | {"way": "alternated", "times": [3.0, 5.0, 4.0]},
            turns | {"way": "compiled", "times_eager": [1.5, 1.0, 1.25]},
        ]
    )
    assert lines == [
        "sdxl, eager at 4, in turn: 4.00 (3.00 to 5.00) times the reference loop, a query",
        "sdxl, compiled at 4, in turn: 1.25 (1.00 to 1.50) times eager, a query",
    ]


def test_operations_are_those_of_the_denoiser_on_both_rows_of_the_guidance(module: Any) -> None:
    gpu_model, throughput, tiny = module("_gpu_model"), module("_throughput"), module("_tiny_sd")
    config = throughput.configuration(1, 2)
    policy = make_policy(tiny.build(), config)
    forward, _ = tiny.counted_gflop(policy.pipeline.unet)
    assert gpu_model.forward_flops(policy, throughput.rollout(policy, config)) == pytest.approx(2e9 * forward)


def test_the_reference_loops_compute_the_gradient_of_the_update(module: Any) -> None:
    """One image at one step at a time, called directly or through the pipeline: else they are no reference."""
    gpu_model, throughput, microbatch = module("_gpu_model"), module("_throughput"), module("microbatch")
    config = throughput.configuration(2, 3)
    policy = make_policy(FAMILIES["sd"].build(0), config)
    trajectory = throughput.rollout(policy, config)
    assert trajectory.trainable.all(), "a bare loop trains every step"
    advantages = torch.randn(trajectory.log_probs.shape, generator=torch.Generator().manual_seed(0))
    ways = {
        "ours": lambda: microbatch.ours(policy, trajectory, advantages, config, 2),
        "bare": lambda: microbatch.bare(policy, trajectory, advantages, config),
        "replayed": lambda: gpu_model.replayed(policy, trajectory, advantages, config),
    }
    gradients = {name: microbatch.gradient_of(policy, way)[0] for name, way in ways.items()}
    assert float(gradients["ours"].norm()) > 0
    for name in ("bare", "replayed"):
        assert float((gradients[name] - gradients["ours"]).norm() / gradients["ours"].norm()) < 1e-4


def test_nothing_is_begun_that_may_not_end_in_time(module: Any) -> None:
    gpu_model = module("_gpu_model")
    bench = gpu_model.Bench(task(gpu_model, deadline=time.time() + 30), torch.device("cpu"), None, {})
    assert bench.guarded("eager", 1, lambda: {"done": True})["done"]
    bench.last = 11.0
    late = bench.guarded("eager", 2, lambda: {"done": True})
    assert "done" not in late and late["problem"].startswith("skipped: ")


def test_memory_that_runs_out_is_a_result(module: Any) -> None:
    gpu_model = module("_gpu_model")
    bench = gpu_model.Bench(task(gpu_model), torch.device("cpu"), 512, {})

    def full() -> dict[str, Any]:
        raise torch.OutOfMemoryError("no")

    assert bench.guarded("eager", 8, full) == {
        "model": "sd15",
        "way": "eager",
        "batch": 8,
        "pixels": 512,
        "problem": "does not fit into memory",
    }


def test_the_rate_of_the_card(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten products of 512 rows in the best of the rounds, which took half a second."""
    gpu_model = module("_gpu_model")
    seconds = itertools.cycle((2.0, 0.5))
    monkeypatch.setattr(gpu_model, "timed", lambda _, work: (work(), module("_throughput").Seconds(next(seconds), 1.0)))
    assert gpu_model.matrix_rate(torch.device("cpu"), torch.float32) == 2 * 512**3 * 10 / 0.5


def test_a_section_that_runs_over_is_ended_and_said(module: Any) -> None:
    gpu, gpu_model = module("gpu"), module("_gpu_model")
    started = time.time()
    found = list(gpu.section(itertools.repeat, task(gpu_model), started + 0.5))
    assert found[-1]["problem"] == "skipped: out of time"
    assert time.time() - started < 5


def test_the_table_compares_with_the_reference_and_the_card(module: Any) -> None:
    """The reference takes 2 s a query; 8 images in 2 s each phase are 0.5 s a query: four times as fast."""
    gpu = module("gpu")
    skipped = {"model": "sdxl", "way": "compiled", "batch": 4, "pixels": 1024, "problem": "skipped: 3 s left"}
    compiled = result("compiled", 8, 1.0, seconds_warm_up=30.0)
    turns = {"model": "sd15", "way": "alternated", "batch": 8, "pixels": 512, "times": [4.5, 3.5, 4.0]}
    lines = gpu.table(report(result("reference", 1, 1.0), result("eager", 8, 2.0), turns, compiled, skipped))
    rows = {line.split()[1]: line.split() for line in lines if line.startswith("sd15 ")}
    assert rows["reference"][-1] == "1.00"
    assert rows["eager"] == ["sd15", "eager", "8", "4", "50%", "7.0", "4", "50%", "7.0", "4.00"]
    assert "sdxl, compiled at 4: skipped: 3 s left" in lines
    assert next(line for line in lines if line.startswith("sd15    compiled")).endswith(
        "30 s to compile, won back after 120 samples"
    )
    assert "4.00 (3.50 to 4.50) times the reference-style loop" in lines[-1]
    assert lines[-1].count(": met") == 2
    slower = gpu.table(report(result("reference", 1, 1.0), result("eager", 1, 0.5), turns | {"times": [2.0]}))
    assert "2.00 (2.00 to 2.00) times" in slower[-1] and slower[-1].count(": missed") == 1


def test_a_cpu_gives_no_gpu_figure(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    gpu = module("gpu")
    on_cpu = report(result("eager", 1, 1.0), tiny=True)
    on_cpu["card"]["memory_gb"] = None
    assert "no GPU figure exists yet" in gpu.table(on_cpu)[-1]
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            gpu.parse([])
        assert "there is no CUDA device" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_ends_with_its_table(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "gpu.py", "--device", "cpu", "--tiny", "--steps", "3", "--seconds", "3000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    said = subprocess.run(
        [*command, "--json", tmp_path / "gpu.json"], capture_output=True, text=True, check=True, env=environment
    ).stdout
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {each["model"] for each in found["results"]} == {"sd15", "sd35m", "sdxl"}
    assert [each["problem"] for each in found["results"] if "problem" in each] == []
    assert said.rstrip().endswith("these say nothing about one.")
