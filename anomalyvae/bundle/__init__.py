"""A fitted model as a folder: its card, its arrays, its preprocessing, and the manifest of what it learned."""
