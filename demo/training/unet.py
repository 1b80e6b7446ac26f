"""Train the demo checkpoint's image model and both text encoders together, from encoded scenes.

    python -m demo.training.unet FOLDER OUT.safetensors --minutes 90

SDXL's own parameterisation (noise prediction at 1000 scaled-linear levels). The error is weighted by 1 / sqrt(SNR), and
noisy levels are drawn more often, because captions matter there: with the plain error or min-SNR weights these levels
hardly count, with the weights of velocity prediction they drown the rest. One caption in ten is dropped for
classifier-free guidance. The moving average of the weights is saved. The folder may still be filling while this runs:
new shards are picked up as they appear.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from tools.bootstrap import boot_host

from ..config import SIZE, UNET, UNET_EXTRA
from ..text import CONFIG_G, CONFIG_L, END, TOKENIZER_DIR, VOCABULARY, WIDTH_G, WIDTH_L, write_tokenizer
from ..world import LABELS
from .common import MovingAverage, initialise, prepare_cpu, save
from .parts import LAYERS

TOKENS = 77
CLASSES = len(LABELS) + 1  # parts, and the background


def out_of_place_layers() -> None:
    """ComfyUI's CLIP layers add in place, which autograd refuses; the sums are the same."""
    from comfy import clip_model

    def forward(self, x, mask=None, optimized_attention=None):
        x = x + self.self_attn(self.layer_norm1(x), mask, optimized_attention)
        return x + self.mlp(self.layer_norm2(x))

    clip_model.CLIPLayer.forward = forward


def plain_attention() -> None:
    """Attention by two matrix products: its backward pass is several times faster than the fused one's on a CPU."""
    from comfy.ldm.modules import attention

    def attend(q, k, v, heads, mask=None, **_):
        def split(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (heads, -1)).transpose(1, 2)

        q, k, v = split(q), split(k), split(v)
        logits = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).float()
        if k.shape[-2] != q.shape[-2]:
            # text: after the end token the context is zero, and a zero key has logit 0: count them, do not compute them
            rest = logits.new_full((*logits.shape[:-1], 1), math.log(TOKENS - k.shape[-2]))
            weights = torch.cat((logits, rest), -1).softmax(-1)[..., :-1]
        else:
            weights = logits.softmax(-1)
        return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)

    attention.optimized_attention = attend


class DemoNet(torch.nn.Module):
    """UNet and text encoders under the checkpoint's names."""

    def __init__(self) -> None:
        super().__init__()
        import comfy.ops
        from comfy.clip_model import CLIPTextModel
        from comfy.ldm.modules.diffusionmodules.openaimodel import Timestep, UNetModel

        ops = comfy.ops.disable_weight_init
        self.unet = UNetModel(**{**UNET, **UNET_EXTRA}, dtype=torch.float32, device="cpu", operations=ops)
        self.clip_l = CLIPTextModel(dict(CONFIG_L), torch.float32, "cpu", ops)
        self.clip_g = CLIPTextModel(dict(CONFIG_G), torch.float32, "cpu", ops)
        for encoder, width in ((self.clip_l, WIDTH_L), (self.clip_g, WIDTH_G)):
            encoder.set_input_embeddings(ops.Embedding(len(VOCABULARY), width))
        sizes = Timestep(256)(torch.tensor([SIZE, SIZE, 0.0, 0.0, SIZE, SIZE])).flatten()
        self.register_buffer("sizes", sizes, persistent=False)

    def text(self, tokens: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids (B, n), padded after the end token, to context (B, n, 768) and pooled (B, 512)."""
        n = tokens.shape[1]
        causal = torch.full((n, n), -torch.finfo(torch.float32).max).triu_(1)
        rows = torch.arange(len(tokens))

        def run(encoder: torch.nn.Module, tap: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
            model = encoder.text_model
            x = model.embeddings.token_embedding(tokens) + model.embeddings.position_embedding.weight[:n]
            x, between = model.encoder(x, mask=causal, intermediate_output=tap)
            return model.final_layer_norm(x), between

        last, _ = run(self.clip_l, None)
        final, hidden = run(self.clip_g, 0)
        assert hidden is not None
        pooled = self.clip_g.text_projection(final[rows, lengths - 1])
        alive = (torch.arange(n)[None] < lengths[:, None])[..., None]
        context = torch.cat((last, hidden), -1) * alive
        return context, pooled

    def forward(self, x: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        context, pooled = self.text(tokens, lengths)
        y = torch.cat((pooled, self.sizes[None].expand(len(x), -1)), 1)
        return self.unet(x, t, context=context, y=y)


class PartReader(torch.nn.Module):
    """Predicts the parts from the queries of the decoder's finest cross-attention, which part tokens read. Not shipped.

    Each head of each layer gets a linear map to the parts and a softmax, and the probabilities are averaged, so that
    lowering its error makes a learned token's attention map follow the part.
    """

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.queries: dict[int, torch.Tensor] = {}  # of the last forward pass, by reader
        readers: list[torch.nn.Linear] = []
        for name in LAYERS.split(", "):
            block, number = name.split(".")
            attention = unet.get_submodule(f"{block}_blocks.{number}.1.transformer_blocks.0.attn2")
            attention.to_q.register_forward_hook(partial(self._keep, len(readers)))
            readers.append(torch.nn.Linear(attention.to_q.out_features, attention.heads * CLASSES))
        self.heads = attention.heads
        self.readers = torch.nn.ModuleList(readers)
        for reader in readers:
            # Block-diagonal: a head's classes only see that head's channels.
            width = reader.in_features // self.heads
            reader.register_buffer("own", torch.kron(torch.eye(self.heads), torch.ones(CLASSES, width)))
            torch.nn.init.normal_(reader.weight, std=width**-0.5)
            torch.nn.init.zeros_(reader.bias)

    def _keep(self, number: int, _module: torch.nn.Module, _inputs: tuple, queries: torch.Tensor) -> None:
        self.queries[number] = queries

    def loss(self, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy with part labels (B, H, W) after a forward pass; rare parts weigh more."""
        likely = []
        for number, reader in enumerate(self.readers):
            logits = torch.nn.functional.linear(self.queries[number].float(), reader.weight * reader.own, reader.bias)
            likely.append(logits.unflatten(-1, (self.heads, CLASSES)).softmax(-1).mean(-2))
        cells = math.isqrt(self.queries[0].shape[1])
        shares = torch.nn.functional.one_hot(labels.long(), CLASSES).movedim(-1, 1).float()
        shares = torch.nn.functional.adaptive_avg_pool2d(shares, cells).flatten(2).transpose(1, 2)
        weights = shares.mean((0, 1)).add(1e-3).rsqrt()
        error = -(torch.stack(likely).mean(0).clamp(min=1e-6).log() * shares * weights).sum(-1)
        return error.sum() / (shares * weights).sum()


class Shards:
    """Latents (N, 4, 32, 32), part labels (N, 64, 64) and tokenized captions of every finished shard in a folder."""

    def __init__(self, folder: Path):
        from transformers import PreTrainedTokenizerFast

        self.folder = folder
        self.seen: set[str] = set()
        self.parts: list[dict[str, torch.Tensor]] = []
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(str(TOKENIZER_DIR))
        self.captions: list[list[int]] = []
        self.latents = torch.empty(0)
        self.labels: torch.Tensor | None = None
        self.empty = self.tokenizer("")["input_ids"]

    def refresh(self) -> int:
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in self.seen:
                self.seen.add(path.name)
                self.parts.append(load_file(str(path)))
                captions = json.loads(path.with_suffix(".json").read_text())
                self.captions += self.tokenizer(captions)["input_ids"]
        if self.parts and sum(len(part["latents"]) for part in self.parts) != len(self.latents):
            self.latents = torch.cat([part["latents"] for part in self.parts])
            if all("labels" in part for part in self.parts):
                self.labels = torch.cat([part["labels"] for part in self.parts])
        return len(self.latents)

    def batch(
        self, size: int, rng: np.random.Generator, drop: float = 0.1
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        picks = rng.integers(0, len(self.latents), size)
        ids = [self.empty if rng.random() < drop else self.captions[k] for k in picks]
        lengths = torch.tensor([len(i) for i in ids])
        tokens = torch.full((size, int(lengths.max())), END)
        for row, i in enumerate(ids):
            tokens[row, : len(i)] = torch.tensor(i)
        return self.latents[picks].float(), tokens, lengths, None if self.labels is None else self.labels[picks]


def build() -> DemoNet:
    net = DemoNet()
    # The text's ways into the UNet start closed: as noise they only disturb, and training shuts them for good.
    initialise(net, zero=("out_layers.3", "proj_out", "out.2", "attn2.to_out.0", "label_emb.0.2"))
    with torch.no_grad():
        for encoder in (net.clip_l, net.clip_g):
            encoder.text_model.embeddings.token_embedding.weight.normal_(0, 0.05)
            encoder.text_model.embeddings.position_embedding.weight.normal_(0, 0.02)
    net.requires_grad_(True)
    return net.train()


def pyramid_noise(like: torch.Tensor, t: torch.Tensor, strength: float) -> torch.Tensor:
    """White noise, with coarse noise added above level 600.

    Averaged over an object, white noise vanishes even at the noisiest level, so colours can be read off the noise and
    need no caption. Coarse noise hides them ("offset noise", at three scales).
    """
    noise = torch.randn_like(like)
    if strength > 0:
        scale = strength * ((t - 600).clamp(min=0) / 400.0)[:, None, None, None]
        for size in (1, 4, 8):
            coarse = torch.randn(*like.shape[:2], size, size)
            noise = noise + scale * torch.nn.functional.interpolate(coarse, like.shape[-2:], mode="bicubic")
    return noise


def shipped(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the checkpoint holds: everything but the first encoder's projection, which nothing reads."""
    return {k: v for k, v in values.items() if k != "clip_l.text_projection.weight"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--noisy", type=float, default=0.0, help="fraction of each batch drawn from the noisiest fifth")
    parser.add_argument("--pyramid", type=float, default=0.0, help="strength of low-frequency noise at noisy levels")
    parser.add_argument("--parts", type=float, default=0.0, help="weight of predicting the parts from the queries")
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    prepare_cpu(args.threads)
    boot_host()
    write_tokenizer()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    net = build()
    out_of_place_layers()
    plain_attention()
    if args.resume:
        net.load_state_dict({k: v.float() for k, v in load_file(str(args.resume)).items()})
    unet, everything = (sum(p.numel() for p in m.parameters()) / 1e6 for m in (net.unet, net))
    print(f"{unet:.2f} M in the UNet, {everything:.2f} M in all", flush=True)
    data = Shards(args.folder)
    while data.refresh() < 500:
        time.sleep(5)
    if args.parts and data.labels is None:
        parser.error(f"--parts: shards in {args.folder} hold no labels. Encode them again with demo.training.encode.")
    reader = PartReader(net.unet) if args.parts else None
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0).float()
    snr = alphas / (1 - alphas)
    weights = snr.rsqrt()
    decay = [p for p in net.parameters() if p.ndim > 1]
    rest = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    if reader is not None:
        groups.append({"params": list(reader.parameters()), "weight_decay": 0.0, "factor": 5.0})
    optimiser = torch.optim.AdamW(
        groups,
        lr=args.rate,
        betas=(0.9, 0.995),
        fused=True,
    )
    average, begin, step, saved = MovingAverage(net, 0.999), time.time(), 0, time.time()
    losses: list[float] = []
    readings: list[float] = []
    while (share := (time.time() - begin) / (60 * args.minutes)) < 1:
        for group in optimiser.param_groups:
            rate = args.rate * group.get("factor", 1.0)
            group["lr"] = rate * min(1.0, (step + 1) / 100) * min(1.0, 1.5 * (1 - share)) + 1e-6
        latents, tokens, lengths, labels = data.batch(args.batch, rng)
        t = (1000 * torch.rand(args.batch) ** 0.6).long().clamp(max=999)
        t = torch.where(torch.rand(args.batch) < args.noisy, 800 + torch.randint(0, 200, (args.batch,)), t)
        a = alphas[t][:, None, None, None]
        noise = pyramid_noise(latents, t, args.pyramid)
        with torch.autocast("cpu", torch.bfloat16):
            guess = net(a.sqrt() * latents + (1 - a).sqrt() * noise, t.float(), tokens, lengths)
        loss = ((guess.float() - noise).square().mean((1, 2, 3)) * weights[t]).mean()
        optimiser.zero_grad(set_to_none=True)
        total = loss
        if reader is not None and labels is not None:
            reading = reader.loss(labels)
            readings.append(reading.item())
            total = loss + args.parts * reading
        total.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        average.update(net)
        losses.append(loss.item())
        step += 1
        if step % 50 == 0:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                other = net(
                    a.sqrt() * latents + (1 - a).sqrt() * noise, t.float(), tokens.roll(1, 0), lengths.roll(1, 0)
                )
            worse = ((other.float() - noise).square().mean((1, 2, 3)) * weights[t]).mean().item() / losses[-1]
            line = f"{time.time() - begin:6.0f}s step {step} loss {np.mean(losses[-50:]):.4f}"
            line += f", parts {np.mean(readings[-50:]):.3f}" if readings else ""
            print(f"{line}, with others' captions {worse:.2f} times, images {data.refresh()}", flush=True)
        if time.time() - saved > 300:
            save(average.values, args.out, {"steps": str(step)}, half=False)
            saved = time.time()
    done = {"steps": str(step), "minutes": f"{(time.time() - begin) / 60:.0f}"}
    save(average.values, args.out, done, half=False)
    save(shipped(average.values), args.out.with_stem(args.out.stem + "_fp16"), done)
    print(f"done: {step} steps")


if __name__ == "__main__":
    main()
