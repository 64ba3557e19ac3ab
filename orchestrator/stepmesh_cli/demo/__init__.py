"""The demo: a survey of Python's standard library as a Stepmesh batch, and the same under a seeded chaos monkey."""
