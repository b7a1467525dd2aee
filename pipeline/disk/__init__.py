"""A root tree becomes deterministic images, in user space."""

FORMAT = 3
"""How trees become disks. Raised when equal trees come out as other bytes than before: every image
is then built again."""
