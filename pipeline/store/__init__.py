"""Stores: objects by key, in a folder, in S3 or behind a web server."""
