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

from stepcredit.policy.loading import make_policy


def task(gpu_model: Any, **changes: Any) -> Any:
    variants = ("reference", "eager", "checkpointing")
    default = gpu_model.Task("sd15", "cpu", "float32", 3, variants, True, time.time() + 600)
    return replace(default, **changes)


def result(way: str, batch: int, seconds: float, **more: Any) -> dict[str, Any]:
    """A measurement with equal sampling and training times, at 25 TFLOP/s."""
    phase = {"seconds": seconds, "samples_per_second": batch / seconds, "tflops": 25.0, "peak_gb": 7.0}
    return {"model": "sd15", "way": way, "batch": batch, "pixels": 512, "sampling": phase, "training": phase, **more}


def report(*results: dict[str, Any], **more: Any) -> dict[str, Any]:
    card = {"device": "a card", "memory_gb": 80.0, "torch": "2", "dtype": "bfloat16", "tflops": 50.0}
    return {"card": card, "steps": 10, "tiny": False, "results": list(results), **more}


@pytest.mark.parametrize("model", ["sd15", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd35m", "sdxl"))])
def test_every_variant_of_a_model_is_measured(module: Any, model: str) -> None:
    gpu_model = module("_gpu_model")
    facts, *results = gpu_model.measurements(task(gpu_model, model=model))
    ways = [(each["way"], each["batch"]) for each in results]
    assert ways[:3] == [("reference", 1), ("eager", 1), ("eager", 2)]
    assert ways[3][0] == "alternated" and len(results.pop(3)["times"]) == 3
    assert {way for way, _ in ways[4:]} == {"checkpointing"}
    ratios = results.pop()["times_eager"]
    assert len(ratios) == 3 and all(ratio > 0 for ratio in ratios)
    assert facts["weights"] > facts["trained"] > 0
    for each in results:
        trained = 3 if model == "sd15" else 2  # the last step has no noise (SDXL), or is that of a flow
        for phase, forwards in (("sampling", 3), ("training", 2 * trained)):
            figures = each[phase]
            assert figures["samples_per_second"] == pytest.approx(each["batch"] / figures["seconds"])
            work = each["batch"] * forwards * facts["tflop"]
            assert figures["tflops"] == pytest.approx(work / figures["seconds"])


def test_compile_switch(module: Any) -> None:
    whole = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    whole[0]._compiled_call_impl = lambda images: images + 7
    zero = torch.zeros(1, 1)
    compiled, switch = whole(zero), module("_gpu_model").compile_switch(whole)
    switch(False)
    torch.testing.assert_close(whole(zero), whole[1](whole[0].forward(zero)))
    switch(True)
    assert torch.equal(whole(zero), compiled) and not torch.equal(compiled, whole[1](whole[0].forward(zero)))


def test_forward_flops_include_guidance(module: Any) -> None:
    gpu_model, throughput, tiny = module("_gpu_model"), module("_throughput"), module("_tiny_sd")
    config = throughput.configuration(1, 2)
    policy = make_policy(tiny.build(), config)
    forward, _ = tiny.count_gflop(policy.pipeline.unet)
    assert gpu_model.forward_flops(policy, throughput.rollout(policy, config)) == pytest.approx(2e9 * forward)


def test_reference_loops_compute_the_gradient_of_the_update(module: Any) -> None:
    """Both reference loops give the gradient of the update."""
    gpu_model, throughput, microbatch = module("_gpu_model"), module("_throughput"), module("microbatch")
    config = throughput.configuration(2, 3)
    policy = make_policy(FAMILIES["sd"].build(0), config)
    trajectory = throughput.rollout(policy, config)
    assert trajectory.trainable.all(), "the bare loop trains all steps"
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


def test_measurements_that_may_exceed_the_deadline_are_skipped(module: Any) -> None:
    gpu_model = module("_gpu_model")
    bench = gpu_model.Bench(task(gpu_model, deadline=time.time() + 30), torch.device("cpu"), None, {})
    assert bench.guarded("eager", 1, lambda: {"done": True})["done"]
    bench.last = 11.0
    late = bench.guarded("eager", 2, lambda: {"done": True})
    assert "done" not in late and late["problem"].startswith("skipped: ")


def test_out_of_memory_is_a_result(module: Any) -> None:
    gpu_model = module("_gpu_model")
    bench = gpu_model.Bench(task(gpu_model), torch.device("cpu"), 512, {})

    def out_of_memory() -> dict[str, Any]:
        raise torch.OutOfMemoryError("no")

    assert "problem" in bench.guarded("eager", 8, out_of_memory)


def test_matrix_rate(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten products of 512x512 matrices take half a second in the best round."""
    gpu_model = module("_gpu_model")
    seconds = itertools.cycle((2.0, 0.5))
    monkeypatch.setattr(gpu_model, "timed", lambda _, work: (work(), module("_throughput").Seconds(next(seconds), 1.0)))
    assert gpu_model.matrix_rate(torch.device("cpu"), torch.float32) == 2 * 512**3 * 10 / 0.5


def test_a_section_that_exceeds_its_deadline_is_killed(module: Any) -> None:
    gpu, gpu_model = module("gpu"), module("_gpu_model")
    results = list(gpu.section(itertools.repeat, task(gpu_model), time.time() + 0.5))
    assert "problem" in results[-1]


def test_table_has_the_speed_up_over_the_reference(module: Any) -> None:
    """The reference takes 2 s per image. 8 images in 2 s for each phase are 0.5 s per image: four times as fast."""
    skipped = {"model": "sdxl", "way": "compiled", "batch": 4, "pixels": 1024, "problem": "skipped: 3 s left"}
    turns = {"model": "sd15", "way": "alternated", "batch": 8, "pixels": 512, "times": [4.5, 3.5, 4.0]}
    lines = module("gpu").table(report(result("reference", 1, 1.0), result("eager", 8, 2.0), turns, skipped))
    rows = {line.split()[1]: line.split() for line in lines if line.startswith("sd15 ")}
    assert rows["reference"][-1] == "1.00"
    assert rows["eager"] == ["sd15", "eager", "8", "4", "50%", "7.0", "4", "50%", "7.0", "4.00"]
    assert any("skipped: 3 s left" in line for line in lines)
    assert lines[-1].count(": met") == 2
    slower = module("gpu").table(report(result("reference", 1, 1.0), result("eager", 1, 0.5), turns | {"times": [2.0]}))
    assert slower[-1].count(": missed") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_cuda_device_is_required(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        module("gpu").parse([])
    assert "CUDA" in capsys.readouterr().err


@pytest.mark.slow
def test_tiny_command(benchmarks: Path, tmp_path: Path) -> None:
    command = [sys.executable, benchmarks / "gpu.py", "--device", "cpu", "--tiny", "--steps", "3", "--seconds", "30000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, "--json", tmp_path / "gpu.json"], capture_output=True, text=True, check=True, env=environment
    )
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert {each["model"] for each in report["results"]} == {"sd15", "sd35m", "sdxl"}
    assert [each["problem"] for each in report["results"] if "problem" in each] == []
