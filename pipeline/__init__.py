"""Recast: infrastructure changes as tested, signed, versioned golden images."""

__version__ = "0.1.0"
