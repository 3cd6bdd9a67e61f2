"""Training procedures: they know learners and defenses by their protocols, not by their kinds."""
