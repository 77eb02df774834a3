"""Credit rules against each other, at a fair learning rate each, on seeds that nothing was chosen on.

`reading` takes a comparison file, `protocol` is all of what was decided beforehand, `cells` the runs that follow from
it, `directory` keeps them, `running` gets them done, `curves` reads what they measured, `choice` picks learning rates,
`findings` says what it amounts to in `estimates` over seeds, `text` prints it, `page` draws it (`sections` are what is
on it, `records` what the runs left for it).
"""
