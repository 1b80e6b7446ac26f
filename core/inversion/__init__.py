"""Inversion: from an image latent to the latents that lead to it, for every noise level of a schedule."""
