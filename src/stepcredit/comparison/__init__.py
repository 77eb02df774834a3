"""Compare credit rules or other settings: each arm at its best learning rate and clip range, on other seeds.

`run.compare` carries out a comparison from start to end. Its parts, in the order in which they are used:

- `comparison_file` reads what the user wrote, `protocol` completes it into everything that is decided in advance.
  `controls` adds control arms, `settings` has the default grids.
- `cells` lists the runs, `cost` counts them, `directory` stores them, `process_pool` executes them as `training_job`
  and `evaluation_job`.
- `curves` reads what a run measured, `tuning` chooses a setting for each arm, `results` computes the statistics.
- `evaluation_plan` says what the fresh runs are evaluated on after training, `evaluations` reads what was found, and
  `evaluation_results` and `evaluation_tables` summarize it.
- `tables` prints the results, `report` and `report_page` draw them.
"""
