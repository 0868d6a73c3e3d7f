"""`python -m benchmarks study`: experiments that tune methods on validation data and compare them.

There is one engine for all studies. A study is a value of `studies.py`: cells (`cells.py`) and
methods (`methods.py`, and those of others in `peers/`; `method.py` says what a method is).
`protocol.py` decides which runs are next, `runner.py` spreads them over processes, `runs.py`
performs one of them, and `log.py` keeps what has been found. `outcomes.py` reads the log for
tables, pictures and the report.
"""
