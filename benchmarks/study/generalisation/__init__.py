"""`python -m benchmarks generalisation`: do networks generalise better by heavy-tailed priors?

`docs/generalisation.md` states the protocol and shows what came out.
"""
