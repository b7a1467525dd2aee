"""Decisions: pure functions from facts to verdicts. The present time is an argument."""
