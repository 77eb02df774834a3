"""Score the images of a run or a model at fixed prompts and noise, before and after training.

`evaluate` scores the grid that training saves every few epochs. `stepcredit.evaluation.sources.evaluate_sources` is
what `stepcredit evaluate` runs; `stepcredit.evaluation.sources.evaluate_policy` does the same for a policy in memory.
"""

from stepcredit.evaluation.grid import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
