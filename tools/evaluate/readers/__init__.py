"""The data of ``run.py evaluate``: each reader is a model of its entry in the file, and reads it into cases.

Field names are known for PartEdit-Bench only in part, and for OIRBench not at all. Such names
are settings (``fields``), and a field that is not there is named together with those that are.
"""

from __future__ import annotations

from .demo import DemoData
from .folder import FolderData
from .oirbench import OirBench
from .partedit_bench import PartEditBench, published_token_files, read_parquet
from .prompts import PromptData

__all__ = [
    "DemoData",
    "FolderData",
    "OirBench",
    "PartEditBench",
    "PromptData",
    "published_token_files",
    "read_parquet",
]
