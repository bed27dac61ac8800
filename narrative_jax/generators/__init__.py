"""L3: generators: denoiser, encoders and decoder behind one contract."""
