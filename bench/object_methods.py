"""The four methods of editing two objects that ``bench.object_edits`` compares, all with DDIM steps on one schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from demo.training.defaults import CFG, STEPS
from demo.training.studio import Studio

from .object_cases import ObjectEdit, object_mask

ROWS = 25  # candidates a UNet call, twice as many rows with guidance


class Bench:
    """The demo checkpoint, its scorer, and the pack's core, on one picture after the other.

    Args:
        precision: ``bf16`` runs the UNet under autocast, ``fp32`` does not.
    """

    method = "ddim_next_timestep"

    def __init__(self, precision: str = "bf16") -> None:
        self.studio = Studio()
        from partedit_oir.core.inversion.schedule import model_sampling_of, spaced_sigmas
        from partedit_oir.demo.loader import load_demo_scorer

        self.scorer = load_demo_scorer()
        self.model = self.studio.model.clone()
        self.sigmas = spaced_sigmas(model_sampling_of(self.model), STEPS)
        if precision == "bf16":
            import comfy.patcher_extension

            self.model.add_wrapper_with_key(
                comfy.patcher_extension.WrappersMP.APPLY_MODEL, "bench_precision", _in_bfloat16
            )

    def start(self, edit: ObjectEdit, picture: Any) -> Any:
        """The inverted picture (H, W, 3 uint8) and its editing pairs, made as the nodes make them."""
        from partedit_oir.core.inversion.invert import invert
        from partedit_oir.nodes.editing_pair import make_pair

        latent = self.studio.encode(picture.image[None])
        trajectory = invert(
            self.model,
            latent,
            self.studio.text(edit.source),
            sigmas=self.sigmas,
            method=self.method,
            source_prompt=edit.source,
        )
        pairs = [
            make_pair(
                self.studio.clip,
                edit.source,
                change.before,
                change.after,
                torch.from_numpy(object_mask(picture, position)).float()[None],
                1,
                "",
            )
            for position, change in enumerate(edit.changes)
        ]
        return trajectory, pairs

    def search(self, trajectory: Any, pairs: Sequence[Any]) -> Any:
        """OIR's step search over every candidate."""
        from partedit_oir.core.decoding import picture_decoder
        from partedit_oir.core.oir.search import search_steps
        from partedit_oir.core.oir.search_settings import SearchSettings

        settings = SearchSettings(cfg=CFG, strategy="exhaustive", batch_size=ROWS)
        return search_steps(self.model, trajectory, pairs, picture_decoder(self.studio.vae), self.scorer, settings)

    def reassemble(self, trajectory: Any, pairs: Sequence[Any], steps: Sequence[int]) -> torch.Tensor:
        """OIR's reassembly from the given inversion steps, with the published 20 %: a latent (1, 4, h, w)."""
        from partedit_oir.core.oir.prompts import target_prompt
        from partedit_oir.core.oir.reassembly import ReassemblySettings, reassemble
        from partedit_oir.core.oir.types import StepSearch

        search = StepSearch.fixed(pairs, steps, steps=STEPS, cfg=CFG)
        target = self.studio.text(target_prompt(pairs))
        return reassemble(self.model, trajectory, search, target, ReassemblySettings(cfg=CFG)).latent

    def from_noise(
        self, trajectory: Any, pairs: Sequence[Any], steps: Sequence[int], seed: int, blend: bool
    ) -> dict[int, torch.Tensor]:
        """Noise the picture to level n and denoise it with the target prompt (empty negative), for every n.

        Without ``blend`` this is SDEdit (Meng et al. 2022). With it the latent outside the masks is replaced by the
        noised picture after every step, as Blended Latent Diffusion does (Avrahami et al. 2023).

        Returns:
            n → latent (1, 4, h, w) as a LATENT holds it.
        """
        from partedit_oir.core.inversion.ddim import ddim_step
        from partedit_oir.core.inversion.engine import run_loop
        from partedit_oir.core.latents import process_latent_in, process_latent_out
        from partedit_oir.core.oir.prompts import target_prompt
        from partedit_oir.core.oir.reassembly import pair_masks

        clean = process_latent_in(self.model, trajectory.latent_image)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
        mask = pair_masks(pairs, *clean.shape[-2:]).amax(0)
        levels, last = trajectory.sigmas, trajectory.steps
        starts = [trajectory.index(n) for n in steps]

        def loop(denoise: Any) -> torch.Tensor:
            rows: dict[int, torch.Tensor] = {}
            for index in range(min(starts), last):
                if index in starts:
                    rows[index] = clean + levels[index] * noise
                x = torch.cat(list(rows.values()))
                now, after = (levels[i].expand(len(x)) for i in (index, index + 1))
                x = ddim_step(x, denoise(x, now), now, after)
                if blend:
                    kept = trajectory.latents[last] if index + 1 == last else clean + levels[index + 1] * noise
                    x = mask * x + (1 - mask) * kept
                rows = dict(zip(rows, x.split(1)))
            return torch.cat([rows[index] for index in starts])

        result, _ = run_loop(
            self.model,
            loop,
            positive=self.studio.text(target_prompt(pairs)),
            negative=self.studio.text(""),
            cfg=CFG,
            latent_image=trajectory.latent_image,
            rows=len(starts),
            sigmas=levels,
            seed=seed,
        )
        latents = process_latent_out(self.model, trajectory.to_image_latent(result))
        return dict(zip(steps, latents.split(1)))


def _in_bfloat16(executor: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return executor(*args, **kwargs).float()
