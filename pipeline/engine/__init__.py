"""What to run, in which order, with what, and what came of it; no stage is known here."""
