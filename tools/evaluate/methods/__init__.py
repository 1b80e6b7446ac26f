"""The methods of ``run.py evaluate`` as graphs on a ComfyUI server, and the UNet rows each of them takes.

A row is one picture in one call of the diffusion model; with a guidance scale above 1 every picture takes two. Counts
are exact for samplers that call the model once per step; where a search decides, they are an upper bound.
"""

from __future__ import annotations

from .base import Method
from .blended import EditFriendly, PartEdit, PnPInversion, PromptToPrompt
from .oir import Oir
from .plain import Inpainting, LatentBlending, OneStep, SDEdit, Unchanged

ALL: tuple[type[Method], ...] = (
    PartEdit,
    Oir,
    PromptToPrompt,
    EditFriendly,
    PnPInversion,
    OneStep,
    SDEdit,
    LatentBlending,
    Inpainting,
    Unchanged,
)
