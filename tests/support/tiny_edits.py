"""Edits on the small models of `support.tiny_models`: what tests and timings of PartEdit start from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from support.tiny_models import WIDTH, drawn, text_conditioning
from tools.bootstrap import load_pack

SIZE = (16, 16)


def edit_prompt(edits: Sequence[str] = ("edit",), source: str = "source", alignment: Any = None, **shape: int) -> Any:
    """An EditPrompt without a text encoder: conditioning drawn from the texts."""
    load_pack()
    from partedit_oir.core.partedit.prompt import Edit, EditPrompt, PartPrompt

    return EditPrompt(
        source,
        text_conditioning(source, **shape),
        tuple(Edit((PartPrompt(text, text_conditioning(text, **shape), alignment),)) for text in edits),
    )


def token(name: str = "head", width: int = WIDTH, parts: int = 1) -> Any:
    """A part token with drawn rows."""
    load_pack()
    from partedit_oir.core.partedit.tokens import PartToken

    names = (name,) if parts == 1 else tuple(f"{name} {n + 1}" for n in range(parts))
    return PartToken(drawn(f"token {name}", 2 * parts, width), tuple(range(1, 2 * parts, 2)), names)


def blend_guider(
    model: Any, prompt: Any, cfg: float = 4.0, base: Any = None, negative: Any = None, **inputs: Any
) -> Any:
    """A BlendGuider that returns source and edits; keywords of BlendSettings and BlendInputs are told apart."""
    load_pack()
    from partedit_oir.core.partedit.guider import BlendGuider
    from partedit_oir.core.partedit.settings import BlendInputs, BlendSettings

    given = {name: inputs.pop(name) for name in ("token", "mask", "region", "extras") if name in inputs}
    paste = inputs.pop("paste_back", False)
    settings = BlendSettings(**inputs)
    guider = BlendGuider(model, BlendInputs(prompt, settings=settings, **given), base, True, paste)
    source = prompt.source[0]
    shape = {"width": source[0].shape[-1], "pooled": pooled_width(prompt.source)}
    guider.set_negative(negative if negative is not None else text_conditioning("negative", **shape))
    guider.set_cfg(cfg)
    return guider


def sample(
    guider: Any,
    steps: int = 3,
    seed: int = 5,
    sampler: str | Any = "euler",
    batch: int = 1,
    size: tuple[int, int] = SIZE,
    latent: torch.Tensor | None = None,
    denoise: float = 1.0,
    **options: Any,
) -> torch.Tensor:
    """Rows [source, edits …] of a run, float32."""
    import comfy.sample
    import comfy.samplers

    model = guider.model_patcher
    name = sampler if isinstance(sampler, str) else "euler"
    plan = comfy.samplers.KSampler(model, steps, torch.device("cpu"), name, "normal", denoise)
    solver = comfy.samplers.sampler_object(name) if isinstance(sampler, str) else sampler
    latent = torch.zeros(batch, 4, *size) if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, seed)
    return guider.sample(noise, latent, solver, plan.sigmas, disable_pbar=True, seed=seed, **options)


def plain(
    model: Any,
    positive: Any,
    cfg: float = 4.0,
    negative: Any = None,
    **options: Any,
) -> torch.Tensor:
    """Ordinary sampling with the host's own guider."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    shape = {"width": positive[0][0].shape[-1], "pooled": pooled_width(positive)}
    guider.set_conds(positive, negative if negative is not None else text_conditioning("negative", **shape))
    guider.set_cfg(cfg)
    return sample(guider, **options)


def pooled_width(positive: Any) -> int:
    """Width of a conditioning's pooled embedding, 0 for none."""
    pooled = positive[0][1].get("pooled_output")
    return 0 if pooled is None else pooled.shape[-1]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative L2 distance."""
    return float((a.float() - b.float()).norm() / b.float().norm())
