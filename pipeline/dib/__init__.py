"""diskimage-builder around its edges: elements, the archive, and one run of it."""
