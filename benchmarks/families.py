"""What is claimed of every family of pipelines, measured on its tiny random pipeline, as a table in Markdown.

    OMP_NUM_THREADS=1 uv run --group dev python -m benchmarks.families [--out docs/families.md] [--only NAME ...]

The measurements are those of tests/families/proof.py, which the test suite asserts.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import torch
from tests.families import FAMILIES
from tests.families.proof import WITHOUT_LORA, Proof, prove

from stepcredit.utils.logging import quiet_libraries

HEAD = """# Families of pipelines

Every row is a genuine diffusers pipeline of that class with tiny random weights, built without network. The table is
the output of `python -m benchmarks.families`; the test suite asserts the same (`tests/policy/test_families.py`).

- **replay**: largest |log ratio| between what was recorded and what is replayed, over all trained steps of four images,
  sampled two at a time with guidance, after the weights were moved; and how it is replayed. Steps whose noise is below
  `sample.min_std` are not trained.
- **without gradient**: trained tensors that no gradient reaches, of all.
- **warmth**: mean of the reward over 32 fixed images before and after two epochs of the trainer (192 images each, every
  weight trained, contribution credit).
- **reloaded**: largest pixel difference between the trained pipeline and a stock one that loaded its exported weights:
  a LoRA by `load_lora_weights`, or the denoiser by `from_pretrained` where diffusers has no LoRA loader.
- **overhead**: median milliseconds that a replay of four images spends outside the denoiser, after the first.

| family | replay | trained steps | without gradient | warmth | reloaded | overhead, ms |
|---|---|---|---|---|---|---|
"""


def row(name: str, proof: Proof) -> str:
    check = proof.check
    weights = "all weights" if name in WITHOUT_LORA else "LoRA"
    cells = (
        name,
        f"{check.max_deviation:.2g}, {check.mode}",
        f"{len(check.trained)} of {check.steps}",
        f"{proof.idle} of {proof.trained}",
        f"{proof.before:+.4f} → {proof.after:+.4f}",
        f"{proof.reloaded:.2g} ({weights})",
        f"{proof.overhead:.2f}",
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
        options.out.write_text(HEAD + "\n".join(rows) + f"\n\nMachine: {machine}.\n", encoding="utf-8")


if __name__ == "__main__":
    main()
