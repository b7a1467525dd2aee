"""Moving releases: publishing, channels, their history, and what is thrown away."""
