"""The parts of a bundle, the folder of a fitted model: card, arrays, preprocessing, manifest."""
