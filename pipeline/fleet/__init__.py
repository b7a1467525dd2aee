"""The fleet's side of check-ins: taking reports from machines, and reading what they say."""
