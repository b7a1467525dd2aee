"""Testing machines: the fixtures that images' tests use, and the checks that every image gets.

Tests of images are pytest tests with testinfra, over ssh; see :mod:`pipeline.testing.plugin` for
what they are given. Only the process that runs them imports pytest and testinfra.
"""

from __future__ import annotations

from pathlib import Path

CHECKS = Path(__file__).parent / "checks"
"""The folder of checks that run on every image."""
