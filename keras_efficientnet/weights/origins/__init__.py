"""Naming tables, one for each program whose weights can be loaded."""
