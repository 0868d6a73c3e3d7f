"""`python -m benchmarks study`: experiments that tune methods on validation data and compare them.

There are two studies, `generalisation` and `posterior`, and one engine for both. A study is a value
of `studies.py`: cells (`cells.py`) and methods (`methods.py`). `protocol.py` decides which runs are
next, `runner.py` spreads them over processes, `runs.py` performs one of them, and `log.py` keeps
what has been found. `outcomes.py` reads the log for tables, pictures and the report.
"""
