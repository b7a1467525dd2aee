"""What holds for every golden image, checked on the running machine."""
