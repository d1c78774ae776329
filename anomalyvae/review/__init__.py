"""Flag, look, decide: what a person sees of a model's findings."""
