"""What the weights are worth: images at fixed prompts and noise, scored, with and without training.

`grid.evaluate` is what a training run shows of itself. `measuring.measure` scores many images with several rewards,
`findings` says what the scores amount to, `cross` compares runs, and `text` prints both.
"""

from stepcredit.evaluation.grid import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
