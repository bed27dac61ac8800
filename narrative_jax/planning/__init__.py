"""What a program would need and take on TPUs that are not here, from programs compiled for them."""
