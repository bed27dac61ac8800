"""L1: the straight path between data (t = 0) and noise (t = 1), and how to walk it; pure functions on arrays."""
