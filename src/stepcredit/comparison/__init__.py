"""Compare credit rules or other settings: each arm at its best learning rate, on seeds that no choice was made on.

`run.compare` carries out a comparison from start to end. Its parts, in the order in which they are used:

- `comparison_file` reads what the user wrote, `protocol` completes it into everything that is decided in advance.
- `cells` lists the runs, `directory` stores them, `process_pool` executes them.
- `curves` reads what a run measured, `learning_rates` chooses a rate for each arm, `results` computes the statistics.
- `tables` prints the results, `report` and `report_page` draw them.
"""
