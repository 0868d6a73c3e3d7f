"""What all kinds of benchmarks share: measuring, results, tables, statistics and pictures."""
