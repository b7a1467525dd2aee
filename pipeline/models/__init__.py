"""What everything is about: immutable, validated data, without input or output."""
