"""A form is a file that exports ``write``."""
