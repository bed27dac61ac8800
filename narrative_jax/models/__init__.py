"""L2: networks in Flax NNX, each beside the names of its published checkpoints."""
