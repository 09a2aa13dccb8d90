"""A run's folder: its state, the score table and its verdicts, the packing and writing of output shards, the summary."""
