"""Published methods from diffusers, on the weights that the servers use, in a process of their own."""
