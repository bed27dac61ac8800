"""L5: what can be trained, beside the batches that it trains on."""
