"""A real ComfyUI from outside: set it up, start it, talk to it. Standard library only, as ``run.py`` uses it."""
