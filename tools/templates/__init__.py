"""Makes the workflow templates from short descriptions, so that they follow every change of a node's inputs."""
