"""A small SD1-shaped model, and stand-ins for the parts that need trained weights: for tests of inversion and OIR."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from tools.parity.drawn_weights import standard_normal, text_seed
from tools.parity.oir import prompt_conditioning, relative_error, sd1_shaped_model

__all__ = [
    "FakeClip",
    "FakeScorer",
    "FakeVae",
    "latent",
    "make_pair",
    "make_trajectory",
    "prompt_conditioning",
    "relative_error",
    "sd1_shaped_model",
    "two_objects",
]

SOURCE = "a cat and a chair"


def latent(height: int = 8, width: int = 8, batch: int = 1, seed: int = 5) -> torch.Tensor:
    """A LATENT's samples, (batch, 4, height, width)."""
    return torch.from_numpy(0.8 * standard_normal(seed, batch, 4, height, width)) / 0.18215


class FakeClip:
    """Encodes a prompt to the embedding that the golden data gives it."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str) -> list[Any]:
        self.encoded.append(tokens)
        return prompt_conditioning(tokens)


class FakeVae:
    """Shows three latent channels, eight times as large; counts the pictures that are alive."""

    def __init__(self) -> None:
        self.decoded = 0

    def spacial_compression_decode(self) -> int:
        return 8

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        self.decoded += 1
        picture = (samples[:, :3] * 0.18215 * 0.2 + 0.5).clamp(0, 1)
        return picture.repeat_interleave(8, 2).repeat_interleave(8, 3).movedim(1, -1)


class FakeScorer:
    """S_e as a fixed function of the picture: the mean of one colour inside the mask, chosen by the text."""

    def __init__(self) -> None:
        self.calls: list[SimpleNamespace] = []

    def score(self, image: torch.Tensor, text: str, mask: torch.Tensor | None = None, mode: str = "masked") -> float:
        assert mask is not None and image.shape[:2] == mask.shape
        self.calls.append(SimpleNamespace(text=text, mode=mode, mask=mask))
        channel = text_seed(text) % 3
        return float((image[..., channel] * mask).sum() / mask.sum())


def make_trajectory(model: Any, steps: int = 6, samples: torch.Tensor | None = None, **options: Any) -> Any:
    """A trajectory of the source prompt (next-timestep DDIM unless told otherwise)."""
    from partedit_oir.core.inversion.invert import invert
    from partedit_oir.core.inversion.schedule import model_sampling_of, spaced_sigmas

    spacing = "leading" if steps > 1 else "trailing"  # leading cannot have a single step
    sigmas = spaced_sigmas(model_sampling_of(model), steps, spacing)
    samples = latent() if samples is None else samples
    return invert(model, samples, prompt_conditioning(SOURCE), sigmas=sigmas, source_prompt=SOURCE, **options)


def make_pair(phrase: str, target: str, mask: torch.Tensor) -> Any:
    """An editing pair of the source prompt."""
    from partedit_oir.core.oir.prompts import find_phrase, guided_prompt
    from partedit_oir.core.oir.types import Pair

    span = find_phrase(SOURCE, phrase)
    prompt = guided_prompt(SOURCE, span, target)
    return Pair(
        source_prompt=SOURCE,
        source_phrase=phrase,
        target_phrase=target,
        guided_prompt=prompt,
        mask=mask,
        conditioning=prompt_conditioning(prompt),
        span=span,
    )


def two_objects(steps: int) -> tuple[Any, Any, list[Any]]:
    """A model, a trajectory of a picture that is wider than high, and two pairs that share it."""
    model = sd1_shaped_model(4)
    left = torch.zeros(64, 96)
    left[:, :40] = 1.0
    pairs = [make_pair("cat", "tiger", left), make_pair("chair", "throne", 1.0 - left)]
    return model, make_trajectory(model, steps, latent(8, 12)), pairs


def progress_bars(monkeypatch: Any) -> list[Any]:
    """The progress bars that are made from now on."""
    import comfy.utils

    made: list[Any] = []

    class Bar(comfy.utils.ProgressBar):
        def __init__(self, total: int) -> None:
            super().__init__(total)
            made.append(self)

    monkeypatch.setattr(comfy.utils, "ProgressBar", Bar)
    return made
