"""Measure the replay and training of each pipeline family on a tiny random pipeline. Prints a Markdown table.

    OMP_NUM_THREADS=1 uv run --group dev python -m benchmarks.families [--out docs/families.md] [--only NAME ...]

The measurements come from tests/families/proof.py. The test suite asserts them too.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import torch
from tests.families import FAMILIES
from tests.families.proof import WITHOUT_LOADER, Proof, prove

from stepcredit.utils.logging import quiet_libraries

HEAD = """# Model families

This page shows how exactly the pipelines of each family replay, train and export. Every row is a real diffusers
pipeline of its class with tiny random weights. `python -m benchmarks.families` wrote the table, and the tests in
`tests/policy/test_families.py` check the same properties. [Your model](guides/models.md) explains which pipelines work.

- **replay**: largest |log ratio| between recorded and replayed steps of four images, sampled two at a time with
  guidance and changed weights; and the [replay mode](concepts/method.md#the-policy-is-the-stock-pipeline).
- **trained steps**: steps whose noise is above `sample.min_std`.
- **without gradient**: trained tensors that no gradient reaches. They are those of a LoRA.
- **warmth**: mean reward of 32 fixed images before and after two epochs of training on it (four for
  `pixart_sigma`), with 192 images per epoch, all weights trained and contribution credit.
- **reloaded**: largest pixel difference between the trained pipeline and a stock one that loaded its export. The LoRA
  is loaded by diffusers (`load_lora_weights`), or by peft (`PeftModel.from_pretrained`) if diffusers has no loader.
- **overhead**: median milliseconds that a replay of four images spends outside the denoiser, without the first replay.

- **stock**: largest pixel difference between four images sampled without noise and those of the stock pipeline with the
  same latents. DPM solvers take first-order steps for it, as rollouts do.
- **derivative**: a finite difference of the model output along one direction of the trained weights, divided by what
  the gradient says.
- **reshuffled**: largest |log ratio| of three of the images, replayed together in reverse order.

HiDream is listed without its experts. The experts of its published checkpoints compute without gradients, so `train`
and `doctor` refuse these checkpoints; they can be sampled. `qwen_image_2.1` makes images with an alpha channel,
which are put on a white background.

"""

TABLE = (
    "family",
    "replay",
    "trained steps",
    "without gradient",
    "warmth",
    "reloaded",
    "overhead, ms",
    "stock",
    "derivative",
    "reshuffled",
)


def header() -> str:
    return f"| {' | '.join(TABLE)} |\n{'|---' * len(TABLE)}|\n"


def row(name: str, proof: Proof) -> str:
    check = proof.check
    loader = "peft" if name in WITHOUT_LOADER else "diffusers"
    cells = (
        name,
        f"{check.max_deviation:.2g}, {check.mode}",
        f"{len(check.trained)} of {check.steps}",
        f"{proof.idle} of {proof.trained}",
        f"{proof.before:+.4f} → {proof.after:+.4f}",
        f"{proof.reloaded:.2g} ({loader})",
        f"{proof.overhead:.2f}",
        f"{proof.stock:.1g}",
        f"{proof.gradient:.4f}",
        f"{proof.reshuffled:.1g}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    options = parser.parse_args()
    quiet_libraries()
    rows = []
    for name in options.only:
        rows.append(row(name, prove(name)))
        print(rows[-1], flush=True)
    machine = f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, float32, one seed"
    if options.out is not None:
        options.out.write_text(HEAD + header() + "\n".join(rows) + f"\n\nMachine: {machine}.\n", encoding="utf-8")


if __name__ == "__main__":
    main()
