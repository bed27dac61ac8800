"""L4: how parameters change: each algorithm a frozen dataclass of hyper-parameters with a pure loss."""
