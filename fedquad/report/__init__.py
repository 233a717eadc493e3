"""Figures, tables and the verdict on each of the paper's claims, from tidy frames."""
