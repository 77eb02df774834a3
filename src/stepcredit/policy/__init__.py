"""A stock diffusers pipeline as a policy.

`loading` makes a policy from a configuration, `pipeline` has the policy itself. `replay` records and replays a
pipeline's `__call__`, `adapters` hold the trained weights, `checks` run before training, `export` writes weights for
other programs.
"""
