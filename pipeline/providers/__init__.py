"""Providers boot a disk image (:mod:`pipeline.providers.base`); one module or package for each."""
