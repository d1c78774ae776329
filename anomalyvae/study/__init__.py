"""What a fitted model says about the data that it learned: its latent space, its samples, its bias."""
