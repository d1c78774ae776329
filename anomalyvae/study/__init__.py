"""Studies of a fitted model: its latent space and its samples."""
