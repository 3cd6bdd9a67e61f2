"""What people look at: the numbers of a study as tables, figures and one page."""
