"""The PTransforms, one a file; wiring only."""
