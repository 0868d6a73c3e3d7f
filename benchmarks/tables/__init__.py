"""`HTRClassifier` on tables of data, beside other classifiers."""
