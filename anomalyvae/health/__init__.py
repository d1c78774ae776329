"""Sensor health: each signal of each window graded good, suspect or bad, with the reason."""
