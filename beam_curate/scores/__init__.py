"""Scores without a head of their own (the user's scorers, technical quality) and the rules that judge all scores."""
