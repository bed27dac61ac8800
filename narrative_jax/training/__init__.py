"""L4: one loop and one jitted step for every algorithm."""
