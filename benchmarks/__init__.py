"""Speed of the simulator itself, beside the model that one would write first; run with `python -m benchmarks`."""
