"""`stepcredit.Trainer` in a script that torchrun starts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.cli.command_line import rows
from tests.distributed.launched import TORCHRUN, free_port

pytestmark = pytest.mark.slow

SCRIPT = """
import os
from stepcredit import Trainer
from stepcredit.shapes.pipeline import load_pipeline

trainer = Trainer(
    model={"path": load_pipeline(), "device": "cpu"},
    reward=lambda images: images[:, 0].mean((1, 2)),
    prompts=["a red circle", "a blue square"],
    output_dir="run",
    sample={"steps": 3, "images_per_prompt": 3},
    train={"epochs": 1, "updates_per_epoch": 1},
    run={"grid_images": 2, "processes": 2},
)
first, second = trainer.train(), trainer.train(epochs=2)
assert [row["epoch"] for row in second.history] == [1, 2] and second.output_dir == first.output_dir
image = trainer.sample("a red circle")[0]
path = trainer.export("lora", "weights")
print(os.environ["RANK"], image.size, path, flush=True)
"""


def test_a_script_trains_samples_and_exports_on_two_processes(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [*TORCHRUN, "--nproc-per-node=2", f"--master-port={free_port()}", "script.py"]
    said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert said.returncode == 0, said.stderr
    lines = sorted(line for line in said.stdout.splitlines() if line.startswith(("0 ", "1 ")))
    assert [line.split()[0] for line in lines] == ["0", "1"], said.stdout
    assert [row["reward_queries"] for row in rows(tmp_path / "run")] == [6, 12]
    assert (tmp_path / "weights" / "pytorch_lora_weights.safetensors").is_file()
