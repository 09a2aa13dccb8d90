"""Selecting again from a finished score table: new verdicts by rule and by rank, without decoding or inference."""
