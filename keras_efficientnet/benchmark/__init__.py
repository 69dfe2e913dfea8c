"""Benchmarks: which networks to time in which formats, and the tables and plots of the results."""
