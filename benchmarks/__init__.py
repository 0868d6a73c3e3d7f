"""What priors, posteriors and tail fits cost and what they buy: `python -m benchmarks --help`.

Run the benchmarks in a clone of the repository, as they are not part of the installed package.
`docs/benchmarks.md` and `docs/generalisation.md` explain the commands and their tables.

- `common`: what all kinds share. The other folders do not import from each other.
- `cost`: `overhead`, `growth`, `gpu` and `guides` measure time and memory of training.
- `tails`: `tails`, `search` and `analyze` measure tail fits and spectral reports.
- `study`: `study generalisation` and `study posterior` compare predictions on test data.
- `results`: the results in the documentation, as they were measured.
- `calls.py`, `imports.py`, `digits_prior.py`, `full_gradient.py`, `frames_reference.py`: scripts
  that count calls, time imports, choose the law of the default posterior, compare gradients of the
  spectral guide, and compare that guide with NUTS at fixed and at sampled singular vectors.
"""
