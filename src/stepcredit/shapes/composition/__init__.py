"""The composition world: pictures of one to four objects, captions of six tasks, and a check of what a picture shows.

The tasks are those of GenEval (arXiv 2310.11513) in miniature: one object, two objects, counting, colors, position, and
the colors of two objects.
"""
