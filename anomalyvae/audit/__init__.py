"""Audits of a data set: sparse and dense regions, duplicates, leaks, groups, and sample weights."""
