"""What all benchmarks share: results, tables, fair timing, pictures and common options."""
