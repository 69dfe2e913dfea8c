"""Naming tables: one module for each program whose weights load, with its way back where there is one."""
