"""Fine-tuning of low-rank adapters: spectral priors and posteriors beside AdamW and IVON."""
