"""The code that trained the bundled weights. Nothing outside this folder imports it.

    python -m stepcredit.shapes.build.build --pipeline ddim|flow --out DIR [--install]
    python -m stepcredit.shapes.build.preferences --out DIR [--install]

- `networks` and `flow_networks` define the pipelines' components. `training` and `flow_training` train them.
- `random_pictures`, `corruptions` and `preference_pairs` make the data of the preference scorers.
  `preference_training` trains them and `preference_agreement` evaluates them.
- `loop` and `autoencoder` hold what the trainings share. `stages` makes a build resumable. `evaluation` and `packaging`
  write the result with its report.
"""
