"""`stepcredit` on one process or several, each of which keeps the gradient of its first update.

    torchrun --nproc-per-node 2 -m -- tests.distributed.first_gradient FOLDER train RECIPE...

writes FOLDER/0.safetensors and FOLDER/1.safetensors: those of all weights as the optimizer gets them, added up over the
processes, before they are clipped.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from stepcredit.cli.main import main

_clip = torch.nn.utils.clip_grad_norm_
_place = Path(sys.argv[1]) / f"{os.environ.get('RANK', '0')}.safetensors"


def _clipped(parameters: list[torch.nn.Parameter], largest: float) -> Tensor:
    if not _place.exists():
        gradients = [(number, parameter.grad) for number, parameter in enumerate(parameters)]
        save_file({f"{number:04}": value for number, value in gradients if value is not None}, _place)
    return _clip(parameters, largest)


if __name__ == "__main__":
    torch.nn.utils.clip_grad_norm_ = _clipped
    sys.exit(main(sys.argv[2:]))
