"""Never run: the sample needs a test to be valid."""
