"""Networks that score rows, in torch alone: bodies (layers) x objectives (losses) x likelihoods, and one loop."""
