"""Train the demo's tiny CLIP on generator pictures and their captions: the CLIP_SCORER of LoadDemoModel.

    python -m demo.train_scorer OUT.safetensors --minutes 8

A ``transformers.CLIPModel`` on 128² pictures in patches of 16. Each step meets whole scenes and cut-out single
objects, each with its own words ("a red cat"), so both a scene and a masked region of it can be scored.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .pictures import article, draw_scene, random_scene
from .scorer import PATCH, SIZE, build_clip, build_tokenizer
from .text import END
from .training import MovingAverage, prepare_cpu, save, to_tensor


def _views(seed: int) -> list[tuple[np.ndarray, str, np.ndarray]]:
    """(picture at SIZE, words, patch mask) of one scene: the whole, and each object alone by its mask."""
    scene = random_scene(seed, tones=0.3)
    picture = draw_scene(scene)
    small = picture.image.reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3)).astype(np.uint8)
    patches = SIZE // PATCH
    out: list[tuple[np.ndarray, str, np.ndarray]] = [(small, scene.caption, np.ones((patches, patches), bool))]
    for index, thing in enumerate(scene.things, 1):
        looks = list(thing.looks.values())
        common = max(looks, key=looks.count)
        cover = (picture.owner == index).reshape(patches, 2 * PATCH, patches, 2 * PATCH).mean((1, 3)) > 0.1
        out.append((small, f"{article(common.words)} {thing.name}", cover))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=96)
    args = parser.parse_args()
    prepare_cpu()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    views = [v for k in range(args.scenes) for v in _views(7_000_000 + k)]
    images = np.stack([v[0] for v in views])
    covers = torch.from_numpy(np.stack([v[2] for v in views]))
    tokenizer, model = build_tokenizer(), build_clip()
    tokens = tokenizer([v[1] for v in views], padding="max_length", max_length=32, truncation=True, return_tensors="pt")
    ids = tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, END)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=0.05, betas=(0.9, 0.98))
    average, begin, step = MovingAverage(model, 0.998), time.time(), 0
    while (share := (time.time() - begin) / (60 * args.minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = 1.5e-3 * min(1.0, (step + 1) / 100) * min(1.0, 2 * (1 - share)) + 1e-6
        picks = rng.permutation(len(views))[: args.batch]
        x = to_tensor(images[picks])
        # objects are seen through their mask alone, the way the scorer blocks patches
        keep = covers[picks].flatten(1)
        hidden = model.vision_model.embeddings(x)
        blocked = torch.cat((torch.ones(len(x), 1, dtype=torch.bool), keep), 1)
        bias = (
            torch.zeros(blocked.shape)
            .masked_fill(~blocked, -torch.inf)[:, None, None]
            .expand(-1, 1, blocked.shape[1], -1)
        )
        hidden = model.vision_model.pre_layrnorm(hidden)
        for layer in model.vision_model.encoder.layers:
            out = layer(hidden, attention_mask=bias)
            hidden = out[0] if isinstance(out, tuple) else out
        seen = model.visual_projection(model.vision_model.post_layernorm(hidden[:, 0]))
        read = model.text_projection(model.text_model(input_ids=ids[picks]).pooler_output)
        logits = model.logit_scale.exp().clamp(max=50) * F.normalize(read, dim=-1) @ F.normalize(seen, dim=-1).T
        # equal words are no mistakes: share the target among them
        same = (ids[picks][:, None] == ids[picks][None]).all(-1).float()
        same = same / same.sum(1, keepdim=True)
        loss = -(same * logits.log_softmax(1)).sum(1).mean() / 2 - (same * logits.log_softmax(0)).sum(0).mean() / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.update(model)
        step += 1
        if step % 50 == 0:
            print(f"{time.time() - begin:5.0f}s step {step} loss {loss.item():.4f}", flush=True)
    save({k: v for k, v in average.values.items() if not k.endswith("position_ids")}, args.out, {"steps": str(step)})


if __name__ == "__main__":
    main()
