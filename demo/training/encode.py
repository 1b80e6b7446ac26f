"""Draw captioned scenes and encode them with the trained VAE into shards: the image model's training data.

python -m demo.training.encode VAE.safetensors FOLDER --pictures 12000
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from tools.bootstrap import boot_host
from tools.host.layout import write_whole

from ..autoencoder import adapted_names
from .common import prepare_cpu, save, to_tensor
from .pictures import Scene, draw_scene, random_scene
from .vae import SDXL_FACTOR, build, moments

SHARD = 500
LABEL_STRIDE = 4  # every fourth row and column of the part labels is kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vae", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=12000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--pairs", type=float, default=0.4, help="fraction of scenes with two objects")
    parser.add_argument("--tones", type=float, default=0.35, help="fraction of two-tone objects")
    parser.add_argument("--loose", type=float, default=0.0, help="fraction of those captioned by the look of the part")
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    prepare_cpu(args.threads)
    boot_host()
    args.folder.mkdir(parents=True, exist_ok=True)
    model = build()
    model.load_state_dict(adapted_names({k: v.float() for k, v in load_file(str(args.vae)).items()}))
    for start in range(args.first, args.first + args.pictures, SHARD):
        path = args.folder / f"{start:07d}.safetensors"
        if path.exists():
            continue
        seeds = range(start, start + SHARD)
        shares = {"pairs": args.pairs, "tones": args.tones, "loose": args.loose}
        scenes: list[Scene] = [random_scene(seed, **shares) for seed in seeds]
        latents, labels = [], []
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for k in range(0, SHARD, 10):
                drawn = [draw_scene(s) for s in scenes[k : k + 10]]
                latents.append(moments(model, to_tensor(np.stack([p.image for p in drawn])))[0].float() * SDXL_FACTOR)
                labels += [torch.from_numpy(p.labels[::LABEL_STRIDE, ::LABEL_STRIDE].copy()) for p in drawn]
        write_whole(path.with_suffix(".json"), json.dumps([s.caption for s in scenes]))
        save({"latents": torch.cat(latents), "labels": torch.stack(labels)}, path)
        print(path.name, float(torch.cat(latents).std()), flush=True)


if __name__ == "__main__":
    main()
