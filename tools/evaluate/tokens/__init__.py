"""The token laboratory: how well a token finds its part, by layer, noise, number of pictures, padding and threshold."""
