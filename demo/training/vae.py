"""Train the demo checkpoint's VAE: first the whole autoencoder, then, the encoder frozen, the decoder alone.

    python -m demo.training.vae OUT.safetensors --minutes 12
    python -m demo.training.vae OUT.safetensors --minutes 30 --decoder-only

Loss: L1 plus L2 on pixels, on 128² crops, with a small Kullback-Leibler term. The decoder is trained on latents with a
little noise added, because a diffusion model's latents are never exact. At the end, the latents' mean and standard
deviation are folded into the two 1×1 convolutions, so that SDXL's latent format (factor 0.13025) scales them to unit
variance.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from tools.bootstrap import boot_host

from ..autoencoder import adapt, adapted_names, plain_names
from ..config import VAE
from .common import MovingAverage, initialise, pictures, prepare_cpu, save, to_tensor
from .pictures import draw_scene, random_scene

SDXL_FACTOR = 0.13025
CROP = 128


def build() -> torch.nn.Module:
    """ComfyUI's own ``AutoencoderKL`` in the demo's size, weights drawn."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    model = AutoencoderKL(**VAE)
    initialise(model, zero=("conv2", "proj_out"))
    with torch.no_grad():
        model.encoder.conv_out.weight *= 0.1
        model.decoder.conv_out.weight.zero_()
        for conv in (model.quant_conv, model.post_quant_conv):
            conv.weight.copy_(torch.eye(len(conv.weight))[:, :, None, None])
    return adapt(model)


def crops(bank: np.ndarray, batch: int, rng: np.random.Generator) -> torch.Tensor:
    """Random crops (batch, 3, CROP, CROP) from a bank of images; half of them mirrored."""
    out = []
    for k in rng.integers(0, len(bank), batch):
        y, x = rng.integers(0, bank.shape[1] - CROP + 1, 2)
        crop = bank[k, y : y + CROP, x : x + CROP]
        out.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
    return to_tensor(np.stack(out))


def moments(model: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and log-variance of the latents, (N, 4, H/8, W/8) each."""
    mean, log_variance = model.quant_conv(model.encoder(x)).chunk(2, 1)
    return mean, log_variance.clamp(-20, 10)


def decode(model: torch.nn.Module, z: torch.Tensor) -> torch.Tensor:
    return model.decoder(model.post_quant_conv(z))


@torch.no_grad()
def psnr(model: torch.nn.Module, images: np.ndarray) -> float:
    """Mean PSNR in dB of whole images through encoder (mean) and decoder, pixels in 0 … 1."""
    values = []
    for k in range(0, len(images), 8):
        x = to_tensor(images[k : k + 8])
        error = (decode(model, moments(model, x)[0]).clamp(-1, 1) - x).div(2).square().mean((1, 2, 3))
        values.append(-10 * torch.log10(error))
    return float(torch.cat(values).mean())


@torch.no_grad()
def fold_statistics(model: torch.nn.Module, images: np.ndarray) -> None:
    """Shift and scale the latents to mean 0 and spread 1 / 0.13025, the decoder's input undone accordingly."""
    means = torch.cat([moments(model, to_tensor(images[k : k + 8]))[0] for k in range(0, len(images), 8)])
    shift, scale = means.mean((0, 2, 3)), 1 / (SDXL_FACTOR * means.std((0, 2, 3)))
    q, p = model.quant_conv, model.post_quant_conv
    q.weight[:4] *= scale[:, None, None, None]
    q.bias[:4] = (q.bias[:4] - shift) * scale
    q.bias[4:] += 2 * scale.log()
    p.bias += (p.weight[:, :, 0, 0] * shift).sum(1)
    p.weight /= scale[None, :, None, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--pictures", type=int, default=1500)
    parser.add_argument("--decoder-only", action="store_true")
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    prepare_cpu(args.threads)
    boot_host()
    torch.manual_seed(0)
    rng = np.random.default_rng(0 if not args.decoder_only else 1)
    first = 1_000_000
    bank = np.stack([p.image for p in pictures(range(first, first + args.pictures))])
    held = np.stack([draw_scene(random_scene(2_000_000 + k)).image for k in range(48)])
    model = build()
    if args.decoder_only:
        model.load_state_dict(adapted_names({k: v.float() for k, v in load_file(str(args.out)).items()}))
    trained = list(model.parameters())
    if args.decoder_only:
        trained = [*model.decoder.parameters(), *model.post_quant_conv.parameters()]
    for p in model.parameters():
        p.requires_grad_(False)
    for p in trained:
        p.requires_grad_(True)
    optimiser = torch.optim.AdamW(trained, lr=args.rate, betas=(0.9, 0.98), weight_decay=1e-4)
    print(f"before training: {psnr(model, held):.2f} dB", flush=True)
    average, begin, step, losses = MovingAverage(model, 0.99), time.time(), 0, []
    while (share := (time.time() - begin) / (60 * args.minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = args.rate * min(1.0, (step + 1) / 20) * min(1.0, 2.5 * (1 - share)) + 1e-6
        x = crops(bank, args.batch, rng)
        # bfloat16 products: 1.6 times as fast here; weights and optimiser stay in float32
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(not args.decoder_only):
                mean, log_variance = moments(model, x)
            spread = mean.detach().std((0, 2, 3), keepdim=True)
            y = decode(model, mean + 0.1 * spread * torch.randn_like(mean))
        y, mean, log_variance = y.float(), mean.float(), log_variance.float()
        loss = (y - x).abs().mean() + 2.0 * (y - x).square().mean()
        if not args.decoder_only:
            loss = loss + 1e-5 * (mean.square() + log_variance.exp() - log_variance - 1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        average.update(model)
        losses.append(loss.item())
        step += 1
        if step % 25 == 0:
            print(f"{time.time() - begin:6.0f}s step {step} loss {np.mean(losses[-25:]):.4f}", flush=True)
    model.load_state_dict(average.values)
    if not args.decoder_only:
        fold_statistics(model, bank[:256])
    score = psnr(model, held)
    print(f"held-out PSNR {score:.2f} dB after {step} steps")
    save(plain_names(model.state_dict()), args.out, {"psnr_db": f"{score:.2f}", "steps": str(step)})


if __name__ == "__main__":
    main()
