"""Sizes of nodes, the room they need once a run has filled them, and where they go.

The figures hold for both renderers, classic and Nodes 2.0; tests/browser measures them.
"""

from __future__ import annotations

from typing import Any

TITLE, GAP = 30, 20
WIDTH, MARGIN = 360, 60
# Height of the picture in a node that shows one.
PICTURE = 360
PICTURES = ("PreviewImage", "SaveImage", "MaskPreview")
# What a node adds below its widgets when it has run: a text, a plot for each pair (three at most), or a live view.
TEXT, PLOT, PLOTS, LIVE = 90, 190, 3, 340
# Nodes 2.0 puts a bar below a node with an error or with advanced inputs.
FOOTER = 30
TEXTS = ("SavePartToken", "EditMetrics")
# The words of the edits and the threads between them, above the text.
WORDS = 300
# The chosen token with its picture, below the widgets from the start.
TOKEN = 76


def own_height(kind: str, sockets: int, lines: int) -> int:
    """Height of a node as it is saved, title not counted; that of a picture or a token belongs to it."""
    shown = PICTURE if kind in PICTURES else TOKEN if kind == "LoadPartToken" else 0
    return 40 + 22 * sockets + 26 * lines + shown


def room(kind: str, pairs: int = 1) -> int:
    """Height that a node of this class may grow by when the workflow runs.

    Args:
        pairs: editing pairs in the workflow.
    """
    if kind == "InversionStepSearch":
        return FOOTER + TEXT + PLOT * min(max(pairs, 1), PLOTS) + LIVE
    if kind == "FeatureBlendSampler":
        return FOOTER + LIVE
    if kind == "PartEditPrompt":
        return FOOTER + TEXT + WORDS
    if kind == "TrainPartToken":
        return FOOTER + TEXT + LIVE
    return FOOTER + (TEXT if kind in TEXTS else 0)


def place(nodes: list[dict[str, Any]], columns: list[int]) -> None:
    """Set ``pos``: columns from left to right, as wide as their widest node; each node below the room of the last."""
    pairs = sum(node["type"] == "EditingPair" for node in nodes)
    lefts: dict[int, int] = {}
    left = 0
    for column in sorted(set(columns)):
        lefts[column] = left
        left += max(node["size"][0] for node, own in zip(nodes, columns) if own == column) + MARGIN
    heights: dict[int, int] = {}
    for node, column in zip(nodes, columns):
        top = heights.get(column, 0)
        node["pos"] = [lefts[column], top]
        heights[column] = top + node["size"][1] + room(node["type"], pairs) + TITLE + GAP


def needed_box(node: dict[str, Any], pairs: int = 1) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of what a node of a workflow file covers once it has run, title included."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE, x + width, y + height + room(node["type"], pairs)
