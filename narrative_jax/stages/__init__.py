"""What happens, in order, on disk: one file a stage."""
