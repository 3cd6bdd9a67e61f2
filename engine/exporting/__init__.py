"""A poisoned data set in the forms that others read: one file a form, and its name is the form's."""

from engine.exporting.export import export, known_forms

__all__ = ["export", "known_forms"]
