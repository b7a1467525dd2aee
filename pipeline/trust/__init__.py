"""Who may say what: TUF metadata and in-toto attestations."""
