"""The project's own benchmark: what the speed budget is measured with."""
