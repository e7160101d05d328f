"""Measurements: each module is a claim that its figures could refute, and says how to run it.

`record` writes rows with what they were measured on to `results/`; `provenance` says of which
code they are; `docs/benchmark_tables.py` makes the tables of the documentation of them.
"""
