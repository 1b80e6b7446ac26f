"""Inputs shared by FeatureBlendSampler, FeatureBlendGuider and the mask nodes."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io

from ..core.mask_inputs import check_not_empty, mask_batch
from ..core.partedit.feature_blend import SampleSettings
from ..core.partedit.guider import NOTHING, NOWHERE
from ..core.partedit.layers import FIRST_8_DOUBT, PRESETS
from ..core.partedit.masks import THRESHOLDS
from ..core.partedit.prompt import EditPrompt
from ..core.partedit.settings import MAP_SIZES, TIMINGS, BlendInputs, BlendSettings
from ..core.partedit.tokens import PADDINGS, PartToken
from .common import advanced

# The core's defaults, shown by the inputs and used where an input is missing.
STANDARD = BlendSettings()
# The slider's range; larger values are taken, but hardly differ.
OMEGA_RANGE, MOST_OMEGA, MOST_EDIT_STEPS = (0.5, 3.0), 10.0, 10000.0
# Optional inputs, and the fields of BlendSettings they set.
_SETTINGS = {
    "threshold": "threshold",
    "fixed_threshold": "fixed",
    "layers": "layers",
    "timing": "timing",
    "padding": "padding",
    "map_size": "map_size",
    "keep_pooled": "keep_pooled",
}


def cfg_input() -> io.Float.Input:
    """The guidance scale of source and edits."""
    return io.Float.Input(
        "cfg",
        default=SampleSettings().cfg,
        min=0.0,
        max=100.0,
        step=0.1,
        tooltip="Guidance scale. The paper uses 7.5 for generated images and 12.5 for real ones.",
    )


def edit_steps_input() -> io.Float.Input:
    """tₑ, how long the edit is blended."""
    return io.Float.Input(
        "edit_steps",
        display_name="edit steps",
        default=STANDARD.edit_steps,
        min=0.0,
        max=1.0,
        step=0.01,
        display_mode=io.NumberDisplay.slider,
        tooltip="How long the edit is confined to the mask: fraction of the steps, 1 for all. Lower lets the edit grow "
        "beyond the part. A number above 1, from another node, is a number of steps.",
    )


def omega_input(
    tooltip: str = "Softness of the mask: from omega times Otsu's threshold on, a point belongs fully to the part.",
) -> io.Float.Input:
    """ω of the adaptive threshold."""
    return io.Float.Input(
        "omega",
        display_name="omega (softness)",
        default=STANDARD.omega,
        min=OMEGA_RANGE[0],
        max=OMEGA_RANGE[1],
        step=0.05,
        display_mode=io.NumberDisplay.slider,
        tooltip=tooltip,
    )


def beyond_sliders(edit_steps: Any = None, omega: Any = None) -> bool | str:
    """For ``validate_inputs``: what the sliders' inputs take from other nodes, API calls and older workflows.

    ComfyUI leaves the check of an input's range to a node that names it there. Values from other nodes are None here.
    """
    for name, value, high in (("edit_steps", edit_steps, MOST_EDIT_STEPS), ("omega", omega, MOST_OMEGA)):
        low = 0.0 if name == "edit_steps" else OMEGA_RANGE[0]
        if value is not None and not low <= float(value) <= high:
            return f"{name}: {value:g} is not between {low:g} and {high:g}."
    return True


def fixed_threshold_input() -> io.Float.Input:
    """The threshold of the method ``fixed``."""
    return advanced(
        io.Float.Input(
            "fixed_threshold",
            display_name="fixed threshold",
            default=STANDARD.fixed,
            min=0.0,
            max=1.0,
            step=0.01,
            display_mode=io.NumberDisplay.slider,
            optional=True,
            tooltip="For threshold fixed: from this value on, a point belongs to the part.",
        )
    )


def layers_input() -> io.String.Input:
    """Where a token's maps are read; see `reading_layers`."""
    return advanced(
        io.String.Input(
            "layers",
            default=STANDARD.layers,
            optional=True,
            tooltip="Attention layers to read the map from. auto: those each token was trained on, published if its "
            f"file does not say. Or {', '.join(PRESETS)}, or blocks: 'output.3, middle'. {FIRST_8_DOUBT}",
        )
    )


def padding_input() -> io.Combo.Input:
    """What fills the context after a token's rows; see `PartToken.context`."""
    return _combo(
        "padding",
        PADDINGS,
        STANDARD.padding,
        "What fills the token's context of 77 rows. auto: as the token was trained, or background if its file does not "
        "say. context, start_of_text, end_of_text: rows of the source prompt. none: nothing, the token's rows alone.",
    )


def _combo(name: str, options: tuple[str, ...], default: str, tooltip: str) -> io.Combo.Input:
    shown = name.replace("_", " ")
    return advanced(
        io.Combo.Input(name, display_name=shown, options=list(options), default=default, optional=True, tooltip=tooltip)
    )


def blend_inputs(paste_back: tuple[str, ...]) -> list[io.Input]:
    """Schema entries. Their values go to :func:`make_inputs`, except ``paste_back``, which the nodes read."""
    return [
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Edit here instead of where the token finds the part. One mask, one per image, or one per edited "
            "image.",
        ),
        io.Mask.Input(
            "region",
            optional=True,
            tooltip="Where the token may find the part: multiplied into its map. One mask, or one per image.",
        ),
        io.Conditioning.Input(
            "positive",
            optional=True,
            tooltip="Its ControlNet, hooks, areas and sizes apply to source and edits; its text is ignored.",
        ),
        _combo(
            "threshold",
            THRESHOLDS,
            STANDARD.threshold,
            "How the map becomes a mask: adaptive (soft between k/2 and omega·k), otsu, fixed or none.",
        ),
        fixed_threshold_input(),
        layers_input(),
        _combo(
            "timing",
            TIMINGS,
            STANDARD.timing,
            "clean: every layer uses the mask of the previous step. clean, first step twice: runs the first step "
            "twice, so that it has a mask too (for few-step models). published: as in the published code.",
        ),
        padding_input(),
        _combo(
            "map_size",
            MAP_SIZES,
            STANDARD.map_size,
            "Resolution at which the map is thresholded. published is 1024, and slower.",
        ),
        advanced(
            io.Boolean.Input(
                "keep_pooled",
                display_name="keep pooled embedding",
                default=STANDARD.keep_pooled,
                optional=True,
                tooltip="Use the source's pooled embedding for the edits: preserves the background, weakens the edit.",
            )
        ),
        _combo(
            "paste_back",
            paste_back,
            paste_back[0],
            "Restore the source outside the final mask after sampling: latent"
            + (", or pixels (in the image output; needs vae)." if "pixels" in paste_back else "."),
        ),
    ]


def make_inputs(
    edit_prompt: EditPrompt, part_token: PartToken | None, edit_steps: float, omega: float, options: dict[str, Any]
) -> BlendInputs:
    """Values of :func:`blend_inputs` for the core; missing ones take their defaults.

    Raises:
        ValueError: an invalid setting or mask, or an empty mask.
    """
    given = {field: options[name] for name, field in _SETTINGS.items() if name in options}
    settings = BlendSettings(edit_steps=edit_steps, omega=omega, **given)
    masks = {}
    for name, effect in (("mask", NOTHING), ("region", NOWHERE)):
        one = options.get(name)
        masks[name] = None if one is None else mask_batch(one, name)
        if one is not None:
            check_not_empty(masks[name], name, effect)
    if masks["mask"] is not None and masks["region"] is not None:
        logging.warning(
            "PartEdit: region has no effect, because mask says where to edit and the part token is not read. Combine "
            "the two masks (Combine Masks, multiply), or disconnect mask."
        )
    return BlendInputs(edit_prompt, part_token, masks["mask"], masks["region"], options.get("positive"), settings)
