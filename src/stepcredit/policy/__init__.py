"""A stock diffusers pipeline as a policy: recording schedulers, re-entry, adapters, the self-check.

Modules: `loading` (model path -> policy), `pipeline` (the policy), `reentry` and `hook` (recording and replaying its
`__call__`), `schedulers`, `adapters` (LoRA, full), `self_check`.
"""
