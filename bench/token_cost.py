"""Memory and time of training a part token at SDXL's size, with random weights.

    python run.py bench token_cost [--width 160] [--device cpu] [--limit 1]

SDXL's UNet (three levels, 70 cross-attention layers, text 2048 wide) with seeded random weights, 1024 × 1024
images as random latents, the recipe's defaults (eight decoder layers, four noise levels, 2000 steps). ``--width`` is
the number of channels of the first level: 320 is SDXL, 160 is half of it in every layer, heads kept at 64 channels.
``--limit`` images are really cached, the others are copies of their queries, so that the cache has its full size; time
is measured on ``--steps`` steps. The result separates what was measured from what was extrapolated. The VAE (20 images
to encode) and loading are left out.

The figures say nothing about the quality of the token: random weights have no parts.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any

import torch

from tools.bootstrap import boot_host, load_pack

from .peak_memory import Peak, hand_over, in_a_fresh_process
from .results import write_result

NAME = "token_cost"
SDXL_WIDTH, HALF_WIDTH, HEAD, CONTEXT, POOLED = 320, 160, 64, 2048, 1280
PICTURES, SIDE = 20, 128  # latents of 1024 × 1024 pictures


def unet_config(width: int) -> dict[str, Any]:
    """SDXL's UNet with another number of channels."""
    return {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": width,
        "num_res_blocks": [2, 2, 2],
        "channel_mult": (1, 2, 4),
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "context_dim": CONTEXT,
        "num_classes": "sequential",
        "adm_in_channels": POOLED + 6 * 256,
        "use_linear_in_transformer": True,
        "use_spatial_transformer": True,
        "legacy": False,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
    }


def drawn_model(width: int, device: str, seed: int = 0) -> Any:
    """ModelPatcher of that UNet, half precision on a GPU, with weights that keep activations near 1."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    class Shape(comfy.supported_models.SDXL):
        unet_extra_config = {"num_heads": -1, "num_head_channels": min(HEAD, width)}

    config = Shape(unet_config(width))
    config.set_inference_dtype(torch.float16 if device == "cuda" else torch.float32, None)
    place = torch.device(device)
    model = comfy.model_base.SDXL(config, device=place)
    generator = torch.Generator(place).manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.diffusion_model.named_parameters():
            if weight.ndim == 1:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
            else:
                weight.normal_(0, weight[0].numel() ** -0.5, generator=generator)
                if name.endswith(("to_out.0.weight", "ff.net.2.weight", "out_layers.3.weight", "proj_out.weight")):
                    weight.mul_(0.25)
    return comfy.model_patcher.ModelPatcher(model, place, place)


def measure(width: int, side: int, device: str, limit: int, steps: int) -> dict[str, Any]:
    """Everything in one process; see the module's text."""
    boot_host(cpu=device == "cpu")
    import comfy.model_management

    load_pack()
    from partedit_oir.core.partedit.layers import choose_layers
    from partedit_oir.core.training.query_cache import build_query_cache, noise_levels
    from partedit_oir.core.training.settings import TrainingSettings
    from partedit_oir.core.training.training import train_on_cache
    from partedit_oir.core.unet import all_cross_layers

    whole = TrainingSettings()
    torch.set_flush_denormal(True)
    clock = time.perf_counter()
    model = drawn_model(width, device)
    comfy.model_management.load_models_gpu([model])
    seconds_model = time.perf_counter() - clock
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn((limit, 4, side, side), generator=generator)
    cond = [
        [
            torch.randn((1, 77, CONTEXT), generator=generator),
            {"pooled_output": torch.randn((1, POOLED), generator=generator)},
        ]
    ]
    layers = choose_layers(all_cross_layers(model), whole.layers)
    sigmas = noise_levels(model, whole.noise_low, whole.noise_high, whole.noise_count)
    with Peak(device) as caching:
        cache = build_query_cache(model, latents, cond, layers, sigmas)
    copies = -(-PICTURES // limit)
    with Peak(device) as training:
        queries = {layer: q.repeat(copies, 1, 1, 1)[:PICTURES] for layer, q in cache.queries.items()}
        cache = dataclasses.replace(cache, queries=queries)
        masks = torch.zeros(PICTURES, 1, side * 8, side * 8)
        masks[:, :, side * 2 : side * 4, side * 3 : side * 6] = 1
        settings = dataclasses.replace(whole, steps=steps, evaluate_every=steps)
        marks: list[float] = []
        # Called before each step and once at the end: the last step's entry holds the look at the pictures, too.
        train_on_cache(
            cache,
            masks,
            settings,
            device=model.load_device,
            progress=lambda done, total: marks.append(time.perf_counter()),
        )
    passes = limit * len(sigmas)
    seconds_pass = caching.seconds / passes
    seconds_step = (marks[-2] - marks[0]) / (len(marks) - 2)
    seconds_look = max(marks[-1] - marks[-2] - seconds_step, 0.0)
    looks = whole.steps // whole.evaluate_every
    # While the last pictures are cached the rest of the cache is there already; training holds all of it.
    peak = max(caching.bytes + cache.nbytes * (PICTURES - limit) // PICTURES, training.bytes)
    return {
        "measured": {
            "parameters": sum(weight.numel() for weight in model.model.diffusion_model.parameters()),
            "model_bytes": sum(w.numel() * w.element_size() for w in model.model.diffusion_model.parameters()),
            "seconds_drawing_the_model": round(seconds_model, 1),
            "layers": [str(layer) for layer in layers],
            "passes": passes,
            "seconds_caching": round(caching.seconds, 2),
            "peak_bytes_beyond_the_model_caching": caching.bytes,
            "cache_device": str(next(iter(cache.queries.values())).device),
            "cache_bytes_20_pictures": cache.nbytes,
            "steps": steps,
            "seconds_a_step": seconds_step,
            "seconds_a_look_at_the_pictures": seconds_look,
            "peak_bytes_beyond_the_model_training": training.bytes,
            "peaks_exact": caching.exact and training.exact,
        },
        "extrapolated": {
            "seconds_caching_20_pictures": round(seconds_pass * PICTURES * len(sigmas), 1),
            f"seconds_{whole.steps}_steps": round(seconds_step * whole.steps, 1),
            f"seconds_{looks}_looks": round(seconds_look * looks, 1),
            "peak_bytes_beyond_the_model": peak,
            "cache_bytes_20_pictures_at_full_width": round(cache.nbytes * SDXL_WIDTH / width),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, help="channels of the first level; 320 on a GPU, else 160")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--limit", type=int, help="pictures really cached; all 20 on a GPU, else 1")
    parser.add_argument("--steps", type=int, help="training steps timed, at least 3; all 2000 on a GPU, else 20")
    parser.add_argument("--side", type=int, default=SIDE, help="side of the latents; 128 for 1024 pixels")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    cpu = args.device == "cpu"
    width = args.width or (HALF_WIDTH if cpu else SDXL_WIDTH)
    limit, steps = args.limit or (1 if cpu else PICTURES), max(args.steps or (20 if cpu else 2000), 3)
    if args.measure:
        hand_over(measure(width, args.side, args.device, limit, steps))
        return
    options = {"width": width, "side": args.side, "device": args.device, "limit": limit, "steps": steps}
    clock = time.perf_counter()
    arguments = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    figures = in_a_fresh_process("bench.token_cost", ["--measure", *arguments])
    device = "CPU" if cpu else torch.cuda.get_device_name()
    settings = {**options, "device": device, "threads": torch.get_num_threads(), "pictures": PICTURES}
    values = {"settings": settings, **figures, "seconds": round(time.perf_counter() - clock)}
    whole = args.side == SIDE and width == (HALF_WIDTH if cpu else SDXL_WIDTH)
    write_result(NAME, values, whole=whole)


if __name__ == "__main__":
    main()
