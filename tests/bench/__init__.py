"""Benchmarks: what we take against what the tool of the trade takes, measured in one run."""
