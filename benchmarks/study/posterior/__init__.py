"""`python -m benchmarks posterior`: what the uncertainty of a posterior buys in predictions."""
