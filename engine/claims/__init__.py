"""Claims of papers, declared under specs/claims, and judged from the reports that studies left."""
