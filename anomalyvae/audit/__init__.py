"""What a detector says about a table: sparse and dense regions, copies, leaks, groups, and weights."""
