"""The demo checkpoint in this process, for benchmarks: prompts to images in batches, and the pack's core."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tools.bootstrap import load_pack

from .parts import DemoPart

TOKENS = Path(__file__).resolve().parents[2] / "tokens"


class Studio:
    """MODEL, CLIP and VAE of the demo checkpoint, with shortcuts. Images are (N, H, W, 3) float in 0 … 1."""

    def __init__(self) -> None:
        load_pack()
        from partedit_oir.demo.loader import load_demo_model

        self.model, self.clip, self.vae = load_demo_model()
        self._texts: dict[str, Any] = {}
        self._tokens: dict[str, Any] = {}

    @torch.no_grad()
    def text(self, prompt: str) -> Any:
        """CONDITIONING of one prompt."""
        if prompt not in self._texts:
            self._texts[prompt] = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(prompt))
        return self._texts[prompt]

    def token(self, part: DemoPart) -> Any:
        """PART_TOKEN of one of the demo's parts, read once."""
        from partedit_oir.core.partedit.token_files import load_token

        if part.file not in self._tokens:
            self._tokens[part.file] = load_token(TOKENS / f"{part.file}.safetensors")
        return self._tokens[part.file]

    def texts(self, prompts: Sequence[str]) -> Any:
        """CONDITIONING of one row a prompt."""
        each = [self.text(p)[0] for p in prompts]
        pooled = torch.cat([c[1]["pooled_output"] for c in each])
        return [[torch.cat([c[0] for c in each]), {"pooled_output": pooled}]]

    def sample(
        self,
        prompts: Sequence[str],
        seed: int,
        steps: int = 25,
        cfg: float = 5.0,
        sampler: str = "dpmpp_2m",
        scheduler: str = "karras",
        size: tuple[int, int] = (256, 256),
        start: torch.Tensor | None = None,
        denoise: float = 1.0,
    ) -> torch.Tensor:
        """Latents (N, 4, H/8, W/8) of N prompts in one batch, from noise or from ``start`` (the same shape)."""
        import comfy.sample

        latent = torch.zeros(len(prompts), 4, size[0] // 8, size[1] // 8) if start is None else start
        noise = comfy.sample.prepare_noise(latent, seed)
        return comfy.sample.sample(
            self.model,
            noise,
            steps,
            cfg,
            sampler,
            scheduler,
            self.texts(prompts),
            self.text(""),
            latent,
            denoise=denoise,
            disable_pbar=True,
            seed=seed,
        )

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.vae.decode(z[None]) for z in latents]).float().cpu()

    @torch.no_grad()
    def encode(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Latents of (N, H, W, 3) pictures, uint8 or float in 0 … 1."""
        x = torch.as_tensor(np.array(images))
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        return torch.cat([self.vae.encode(one[None]) for one in x]).cpu()


def grid(images: torch.Tensor, columns: int) -> np.ndarray:
    """A contact sheet, (rows·H, columns·W, 3) uint8."""
    n, h, w, c = images.shape
    rows = -(-n // columns)
    sheet = torch.ones(rows * columns, h, w, c)
    sheet[:n] = images
    sheet = sheet.reshape(rows, columns, h, w, c).permute(0, 2, 1, 3, 4).reshape(rows * h, columns * w, c)
    return (sheet.clamp(0, 1) * 255).round().byte().numpy()
