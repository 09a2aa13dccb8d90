"""Files on any Beam file system: whole, ranged and atomic access with retries, and which shards an input names."""
