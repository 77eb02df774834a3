"""The arithmetic of diffusion and RL: pure tensor functions that do not depend on models, pipelines or configurations.

Conventions:

- `B` trajectories, `T` denoising steps, `*L` the latent shape, `D` the number of latent elements. Step index 0 is the
  noisiest step; `final` is the latent after the last step.
- Half-precision inputs are computed in float32; float64 inputs stay float64.
- Log-probs are in nats per latent element (mean over `D`, not sum); see `gaussian.log_prob`.
- Weights `w` (B, T) sum to 1 over the steps of a trajectory and may be negative.
- A wrong shape raises ValueError; nothing is broadcast implicitly.
"""

from stepcredit.maths import advantage, credit, ddim, flow, gaussian, loss, schedules, transition
from stepcredit.maths.schedules import Schedule
from stepcredit.maths.transition import Transition

__all__ = [
    "Schedule",
    "Transition",
    "advantage",
    "credit",
    "ddim",
    "flow",
    "gaussian",
    "loss",
    "schedules",
    "transition",
]
