"""L3: data sets on disk and in memory: record directories, scenes of one's own, pairs, batches."""
