"""Started twice: shares a network's weights out (FSDP2), asks for its gradients, separates and ends at once.

python -m tests.distributed.separated RANK FILE
"""

from __future__ import annotations

import sys
import warnings

import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard

from stepcredit.distributed.process_group import destroy_process_group, full_tensor

warnings.simplefilter("ignore")
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=int(sys.argv[1]), world_size=2)
network = nn.Sequential(*[nn.Linear(64, 64) for _ in range(4)])  # alive to the end, as a global
for layer in network:
    fully_shard(layer)
fully_shard(network)
for _ in range(3):
    network(torch.zeros(4, 64)).sum().backward()
for parameter in network.parameters():
    assert parameter.grad is not None
    full_tensor(parameter.grad)
destroy_process_group()
