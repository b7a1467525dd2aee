"""Images to objects and back, with few bytes on the wire."""
