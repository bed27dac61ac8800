"""L0: records, errors and small helpers that every floor may use."""
