"""WebDataset tar shards, read and written: members with their places, samples with all that is wrong with them, keys."""
