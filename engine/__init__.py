"""A declarative engine for the study of availability poisoning of contrastive learning."""

__version__ = "0.1.0"
