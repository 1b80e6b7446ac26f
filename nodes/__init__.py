"""The node classes of the pack, and the extension that registers them with ComfyUI."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

# One import per file, in alphabetical order.
from .clip_scorer import CLIPScorerFromModels, LoadCLIPScorer
from .demo_model import LoadDemoModel
from .editing_pair import EditingPair
from .feature_blend import FeatureBlendSampler
from .feature_guider import FeatureBlendGuider
from .inversion import InvertLatent
from .latent_blend import LatentBlendSampler
from .mask import AdaptiveOtsuThreshold, PartAttentionMask
from .metrics import EditMetrics
from .part_token import CombinePartTokens, LoadPartToken, SavePartToken
from .prompt import PartEditPrompt
from .reassemble import OIRReassemble
from .segment import GroundedSAMMask, LoadGroundingModel, LoadSAMModel, SAMPointMask
from .step_search import InversionStepSearch
from .stops import serve_stops
from .train_part_token import TrainPartToken

# The order in which help pages and tests walk through the nodes: part tokens, editing, inversion, OIR, tools.
NODE_CLASSES: list[type[io.ComfyNode]] = [
    LoadPartToken,
    CombinePartTokens,
    TrainPartToken,
    SavePartToken,
    PartEditPrompt,
    PartAttentionMask,
    AdaptiveOtsuThreshold,
    FeatureBlendSampler,
    FeatureBlendGuider,
    LatentBlendSampler,
    InvertLatent,
    EditingPair,
    InversionStepSearch,
    OIRReassemble,
    LoadCLIPScorer,
    CLIPScorerFromModels,
    LoadSAMModel,
    LoadGroundingModel,
    GroundedSAMMask,
    SAMPointMask,
    EditMetrics,
    LoadDemoModel,
]


class PartEditOIRExtension(ComfyExtension):
    """Everything this pack adds to ComfyUI."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        serve_stops()  # not in on_load, which older ComfyUI versions never call
        return list(NODE_CLASSES)


async def comfy_entrypoint() -> PartEditOIRExtension:
    """Called once by ComfyUI when it loads custom nodes."""
    return PartEditOIRExtension()
