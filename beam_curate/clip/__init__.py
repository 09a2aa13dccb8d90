"""CLIP: where the weights of a model's towers come from, the towers, and the handlers that RunInference runs."""
