"""L3: what scores a picture of a scene, by aspects."""
