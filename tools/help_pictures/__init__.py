"""The pictures of the help pages, made from what the nodes give with the demo model.

python -m tools.help_pictures.make            all of them
python -m tools.help_pictures.make NODE ...   only these
"""
