"""L1: losses as pure functions: arrays in, per-example values out, float32 inside, no reduction over the batch."""
