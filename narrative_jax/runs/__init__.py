"""L5: what a run directory holds, and how each part of it is opened."""
