"""What priors, posteriors and tail fits cost and what they buy: `python -m benchmarks --help`.

Run them in a clone of the repository; they are no part of the installed package. What each command
measures, and what its columns mean, is in `docs/benchmarks.md` and `docs/generalisation.md`.

- `common`: what several kinds share; no other folder imports from another.
- `cost`: `overhead`, `growth`, `gpu` and `guides`: time and memory of training.
- `tails`: `tails`, `search` and `analyze`: tail fits and spectral reports.
- `study`: `posterior` and `generalisation`: predictions on test data; `report`.
- `results`: what the documentation shows, as it was measured.
- `digits_prior.py`: how the law of the default posterior was chosen.
"""
