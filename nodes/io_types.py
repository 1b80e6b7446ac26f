"""The pack's own socket types; what flows through them is documented at the dataclasses of the same name in core."""

from __future__ import annotations

from comfy_api.latest import io

PartToken = io.Custom("PART_TOKEN")
# A name for another node's list. Not `io.Combo`: ComfyUI 0.3.75 takes the type of such an output for an empty list of
# options, which no input fits.
ListEntry = io.Custom("COMBO")
EditPrompt = io.Custom("EDIT_PROMPT")
Trajectory = io.Custom("TRAJECTORY")
EditingPairs = io.Custom("EDITING_PAIR")
StepSearch = io.Custom("STEP_SEARCH")
ClipScorer = io.Custom("CLIP_SCORER")
SamModel = io.Custom("OIR_SAM_MODEL")
GroundingModel = io.Custom("OIR_GROUNDING_MODEL")
