"""Ten edits of two objects on the demo's network as a rectified flow: whether OIR's edits mean something there, too.

    python run.py bench flow_edits [--limit 2] [--training-steps 60]

No flow checkpoint is small enough for this machine, so the demo's UNet is carried over. A rectified flow has the
marginals of a diffusion at the same ratio of signal to noise, so the change of variables is exact: with
s = sigma / (1 - sigma), the network is given x / sqrt((1 - sigma)² + sigma²) at the timestep of s, and its noise
estimate becomes the velocity (x - D) / sigma. Beyond the checkpoint's noisiest level (sigma 0.936) there is nothing to
carry over; a short training by flow matching, on velocities, with half of its levels there, closes that. Nothing of it
ships.

ComfyUI then samples the network as a flow (ModelSamplingSD3, shift 2), and everything runs through the pack's core:
``euler_fixed_point`` inversion, coarse-to-fine search, reassembly. For comparison, Latent Blend Sampler under both
masks. The edits, the judge and the rules are those of ``bench.object_edits``; ``reconstruction`` denoises the inverted
image with its own prompt.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from demo.training.defaults import CFG, STEPS
from tools.bootstrap import load_pack

from .object_cases import edit_case, object_mask
from .object_edits import EDIT_WEIGHT, figures
from .object_methods import Bench
from .results import write_result
from .scores import means

EDITS, SHIFT, METHOD = 10, 2.0, "euler_fixed_point"
# Training: scenes, rows of a step, learning rate; no bench and no test uses pictures of these seeds.
SCENES, ROWS, RATE, FIRST_SEED = 240, 8, 1e-5, 6_100_000
COLUMNS = ("source", "reconstruction", "oir", "oir_weighted", "blended")
THUMBNAIL = 160


class RectifiedFlow(torch.nn.Module):
    """A UNet with noise prediction, as a network that predicts the velocity of a rectified flow.

    Args:
        unet: takes variance-preserving latents and timesteps.
        sampling: its sampling object, for the timesteps of its levels.
    """

    def __init__(self, unet: torch.nn.Module, sampling: Any) -> None:
        super().__init__()
        self.unet, self.dtype = unet, unet.dtype
        self._sampling = [sampling]  # not a part of this module

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Velocity (R, C, H, W) of x at the time 1000 sigma, (R,)."""
        sampling = self._sampling[0]
        sigma = (timesteps / 1000).clamp(1e-5, 1.0)
        level = (sigma / (1 - sigma).clamp(min=1e-5)).clamp(float(sampling.sigma_min), float(sampling.sigma_max))
        shape = (-1,) + (1,) * (x.ndim - 1)
        sigma, scale = sigma.view(shape), (level**2 + 1).sqrt().view(shape)
        given = x / ((1 - sigma) ** 2 + sigma**2).sqrt()
        noise = self.unet(given, sampling.timestep(level).float(), *args, **kwargs)
        clean = given * scale - level.view(shape) * noise
        return (x - clean) / sigma


class FlowBench(Bench):
    """The demo checkpoint as a flow model, and the pack's core on it."""

    method = METHOD

    def __init__(self) -> None:
        super().__init__("fp32")
        from comfy_extras.nodes_model_advanced import ModelSamplingSD3

        inner = self.studio.model.model
        self.flow = RectifiedFlow(inner.diffusion_model, inner.model_sampling)
        inner.diffusion_model = self.flow
        (self.model,) = ModelSamplingSD3().patch(self.studio.model, SHIFT)
        from partedit_oir.core.inversion.schedule import model_sampling_of, spaced_sigmas

        self.sigmas = spaced_sigmas(model_sampling_of(self.model), STEPS)

    def search(self, trajectory: Any, pairs: Any) -> Any:
        """OIR's step search, coarse to fine."""
        from partedit_oir.core.decoding import picture_decoder
        from partedit_oir.core.oir.search import search_steps
        from partedit_oir.core.oir.search_settings import SearchSettings

        settings = SearchSettings(cfg=CFG, strategy="coarse-to-fine", batch_size=8, edit_weight=1.0)
        return search_steps(self.model, trajectory, pairs, picture_decoder(self.studio.vae), self.scorer, settings)

    def reconstruct(self, trajectory: Any) -> torch.Tensor:
        """The inverted image, denoised with its own prompt: a latent as a LATENT holds it."""
        from partedit_oir.core.inversion.ddim import ddim_denoise
        from partedit_oir.core.inversion.engine import run_loop
        from partedit_oir.core.latents import process_latent_out

        result, _ = run_loop(
            self.model,
            lambda denoise: ddim_denoise(denoise, trajectory.latents[0], trajectory.sigmas, 0, trajectory.steps),
            positive=trajectory.conditioning,
            negative=None,
            cfg=1.0,
            latent_image=trajectory.latent_image,
            rows=1,
            sigmas=trajectory.sigmas,
        )
        return process_latent_out(self.model, trajectory.to_image_latent(result))

    def blend(self, trajectory: Any, pairs: Any, seed: int) -> torch.Tensor:
        """Latent Blend Sampler under the masks of all pairs, from independent noise at every level."""
        from partedit_oir.core.inversion.invert import invert
        from partedit_oir.core.inversion.masked_replay import MaskedReplaySettings, masked_replay
        from partedit_oir.core.oir.prompts import target_prompt

        mask = torch.stack([pair.mask for pair in pairs]).amax(0)
        path = invert(
            self.model, trajectory.latent_image, None, sigmas=self.sigmas, method="edit_friendly_ddpm", seed=seed
        )
        return masked_replay(
            self.model,
            path,
            self.studio.text(target_prompt(pairs)),
            mask,
            MaskedReplaySettings(cfg=CFG),
            negative=self.studio.text(""),
            source=trajectory.conditioning,
        )


def train(bench: FlowBench, steps: int) -> dict[str, Any]:
    """Flow matching (Lipman et al. 2023): the velocity noise - image at x = (1 - sigma) image + sigma · noise."""
    from demo.training.pictures import draw_scene, random_scene

    scenes = [random_scene(FIRST_SEED + k) for k in range(SCENES)]
    images = np.stack([draw_scene(scene).image for scene in scenes])
    latents = bench.studio.model.model.process_latent_in(bench.studio.encode(images))
    texts = [bench.studio.text(scene.caption)[0] for scene in scenes]
    empty = bench.studio.text("")[0]
    model, rng = bench.flow, torch.Generator().manual_seed(1)
    draw = np.random.default_rng(1)
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    begin, losses = time.perf_counter(), list[float]()
    for _ in range(steps):
        picks = draw.integers(0, SCENES, ROWS)
        given = [empty if draw.random() < 0.1 else texts[k] for k in picks]
        image = latents[picks]
        noise = torch.randn(image.shape, generator=rng)
        sigma = torch.rand(ROWS, generator=rng)
        sigma = torch.where(torch.arange(ROWS) < ROWS // 2, 0.9 + 0.1 * sigma, sigma).clamp(0.02, 0.999)
        s = sigma.view(-1, 1, 1, 1)
        context = torch.cat([text[0] for text in given])
        pooled = torch.cat([text[1]["pooled_output"] for text in given])
        y = bench.studio.model.model.encode_adm(pooled_output=pooled, width=256, height=256, device="cpu")
        velocity = model((1 - s) * image + s * noise, sigma * 1000, context=context, y=y)
        # In terms of the noise estimate, whose error the change of variables magnifies where there is little image.
        weight = (s * (1 - s).clamp(min=0.064)) ** 2
        loss = (weight * (velocity - (noise - image)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.requires_grad_(False)
    tenth = max(1, steps // 10)
    return {
        "steps": steps,
        "seconds": round(time.perf_counter() - begin, 1),
        "loss_first_tenth": float(np.mean(losses[:tenth])) if losses else None,
        "loss_last_tenth": float(np.mean(losses[-tenth:])) if losses else None,
    }


def run_edit(bench: FlowBench, judge: Any, number: int) -> dict[str, Any]:
    """One edit by every method: figures and pictures (H, W, 3 uint8)."""
    from demo.training.pictures import draw_scene
    from partedit_oir.core.oir.metric import combine

    begin, edit = time.perf_counter(), edit_case(number)
    picture = draw_scene(edit.scene)
    trajectory, pairs = bench.start(edit, picture)
    search = bench.search(trajectory, pairs)
    weighted = tuple(
        p.candidates[combine(p.metric.edit, p.metric.keep, edit_weight=EDIT_WEIGHT).best] for p in search.pairs
    )
    latents = {
        "vae": trajectory.latent_image,
        "reconstruction": bench.reconstruct(trajectory),
        "oir": bench.reassemble(trajectory, pairs, search.chosen),
        "oir_weighted": bench.reassemble(trajectory, pairs, weighted),
        "blended": bench.blend(trajectory, pairs, number),
    }
    pictures = {"source": torch.tensor(picture.image) / 255}
    pictures |= {name: bench.studio.decode(latent)[0] for name, latent in latents.items()}
    wanted = "; ".join(f"{change.before} -> {change.after}" for change in edit.changes)
    error = (latents["reconstruction"] - latents["vae"]).norm() / latents["vae"].norm()
    return {
        "edit": wanted,
        "steps": {"oir": list(search.chosen), "oir_weighted": list(weighted)},
        "share_of_rows": search.unet_rows / search.exhaustive_rows,
        "reconstruction_error": float(error),
        "figures": figures(judge, edit, picture, pictures),
        "pictures": {name: (image * 255).round().byte().numpy() for name, image in pictures.items()},
        "seconds": time.perf_counter() - begin,
        "area": float((object_mask(picture, 0) | object_mask(picture, 1)).mean()),
    }


def contact_sheet(records: list[dict[str, Any]]) -> np.ndarray:
    """A row an edit, with its words above, and the names of the methods on top; (H, W, 3) uint8."""
    head, row = 18, THUMBNAIL + 16
    sheet = Image.new("RGB", (len(COLUMNS) * THUMBNAIL, head + len(records) * row), "white")
    draw = ImageDraw.Draw(sheet)
    for x, name in enumerate(COLUMNS):
        draw.text((x * THUMBNAIL + 4, 3), name, fill="black")
        for y, record in enumerate(records):
            small = Image.fromarray(record["pictures"][name]).resize((THUMBNAIL,) * 2, Image.Resampling.LANCZOS)
            sheet.paste(small, (x * THUMBNAIL, head + y * row + 16))
    for y, record in enumerate(records):
        draw.text((4, head + y * row + 2), record["edit"], fill="black")
    return np.asarray(sheet)


def report(records: list[dict[str, Any]], training: dict[str, Any], whole: bool) -> None:
    """Write the table and the contact sheet."""
    each = {name: [record["figures"][name] for record in records] for name in records[0]["figures"]}
    values = {
        "edits": len(records),
        "steps": STEPS,
        "cfg": CFG,
        "shift": SHIFT,
        "method": METHOD,
        "training": training,
        "largest_reconstruction_error": max(r["reconstruction_error"] for r in records),
        "share_of_rows": round(float(np.mean([r["share_of_rows"] for r in records])), 4),
        "seconds_an_edit": round(float(np.mean([r["seconds"] for r in records])), 1),
        "methods": {name: means(figures) for name, figures in each.items()},
        "each": [{key: r[key] for key in ("edit", "steps")} for r in records],
    }
    write_result("flow_edits", values, contact_sheet(records), whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=EDITS, help="number of edits to run")
    parser.add_argument("--training-steps", type=int, default=60, help="of the flow matching")
    options = parser.parse_args()
    load_pack()
    from tools.evaluate.judge import load_judge

    bench, judge = FlowBench(), load_judge()
    training = train(bench, options.training_steps)
    print(training, flush=True)
    records: list[dict[str, Any]] = []
    for number in range(min(options.limit, EDITS)):
        records.append(run_edit(bench, judge, number))
        print(f"{number + 1}: {records[-1]['edit']}: {records[-1]['seconds']:.0f} s", flush=True)
        report(records, training, len(records) == EDITS)


if __name__ == "__main__":
    main()
