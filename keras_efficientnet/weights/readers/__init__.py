"""Readers of weight files: each gives the arrays by name and runs nothing that a file contains."""
