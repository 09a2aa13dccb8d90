"""Scoring heads on CLIP embeddings: LAION's aesthetic and NSFW models and the user's own, their files and publishers."""
