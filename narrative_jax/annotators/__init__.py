"""L5: who writes annotations: what a config calls an annotator."""
