"""Studies of predictions on test data: posteriors, and regularisation by priors."""
