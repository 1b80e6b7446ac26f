"""A checkpoint as ComfyUI loads it, in the form that diffusers' pipelines take.

Only the UNet is converted, tensor by tensor, by ComfyUI's own table of names. The text encoders, their tokenizers and
the VAE stay ComfyUI's, behind the few calls that the pipelines make: so prompts and pictures mean the same to all
methods, and the demo's own tokenizer and VAE work as well.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

#: SDXL's size conditioning: what ComfyUI encodes each of the six numbers with.
SIZE_WIDTH = 256


class MissingError(RuntimeError):
    """A file or a package is not there; the message says which, and the table repeats it."""


def load_host_model(name: str) -> tuple[Any, Any, Any]:
    """ComfyUI's MODEL, CLIP and VAE of a checkpoint, or of the demo model.

    Raises:
        MissingError: the file is not on this machine, or holds no diffusion model with CLIP text encoders and a VAE.
    """
    from tools.bootstrap import load_pack

    load_pack()
    if name == "demo":
        from partedit_oir.demo.loader import load_demo_model

        return load_demo_model()
    import comfy.sd
    import folder_paths

    path = folder_paths.get_full_path("checkpoints", name)
    if path is None:
        raise MissingError(f"{name} is not in models/checkpoints on the machine where diffusers runs.")
    model, clip, vae = comfy.sd.load_checkpoint_guess_config(path, output_vae=True, output_clip=True)[:3]
    if model is None or clip is None or vae is None:
        raise MissingError(f"{name} holds no UNet, no text encoder, or no VAE; a whole checkpoint is needed.")
    return model, clip, vae


def unet_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of diffusers' ``UNet2DConditionModel`` for a ComfyUI UNet's configuration.

    Raises:
        MissingError: a UNet of another kind than Stable Diffusion 1, 2 and XL.
    """
    mult, blocks = config["channel_mult"], config["num_res_blocks"]
    channels = [config["model_channels"] * m for m in mult]
    depths, rest = [], list(config["transformer_depth"])
    for count in blocks:
        own, rest = rest[:count], rest[count:]
        if len(set(own)) != 1:
            raise MissingError("diffusers has no UNet whose levels mix transformers of several depths.")
        depths.append(own[0])
    if len(set(blocks)) != 1 or config.get("context_dim") is None:
        raise MissingError("diffusers' pipelines for text-guided edits have no UNet of this shape.")
    width, heads = config.get("num_head_channels", -1), config.get("num_heads", -1)
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    up = ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)]
    found = {
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "block_out_channels": tuple(channels),
        "layers_per_block": blocks[0],
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
        "transformer_layers_per_block": tuple(max(1, depth) for depth in depths),
        # in spite of its name, the number of heads
        "attention_head_dim": tuple(c // width for c in channels) if width and width > 0 else heads,
        "cross_attention_dim": config["context_dim"],
        # what pipelines take for the model's own size, in latents; they only compare it with 64
        "sample_size": 128 if config.get("adm_in_channels") else 64,
        "use_linear_projection": bool(config.get("use_linear_in_transformer")),
    }
    if config.get("adm_in_channels"):
        found |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": SIZE_WIDTH,
            "projection_class_embeddings_input_dim": config["adm_in_channels"],
        }
    return found


def diffusers_unet(model: Any) -> Any:
    """diffusers' UNet with the weights of a ComfyUI MODEL, float32.

    Raises:
        MissingError: the UNet's shape has no counterpart.
    """
    import comfy.utils
    from diffusers import UNet2DConditionModel

    config = model.model.model_config.unet_config
    state = model.model.diffusion_model.state_dict()
    unet = UNet2DConditionModel(**unet_arguments(config)).eval()
    wanted = unet.state_dict()
    names = comfy.utils.unet_to_diffusers(config)
    found = {name: state[names[name]].float() for name in wanted if names.get(name) in state}
    if lacking := sorted(set(wanted) - set(found)):
        raise MissingError(f"{len(lacking)} weights of the UNet have no counterpart, the first is {lacking[0]}.")
    unet.load_state_dict(found)
    return unet


class Texts:
    """A tokenizer for pipelines that numbers whole texts; `TextEncoder` has ComfyUI encode the text of a number."""

    def __init__(self, model: HostModel) -> None:
        self.model, self.model_max_length = model, 77
        self.added_tokens_encoder: dict[str, int] = {}

    def tokenize(self, text: str) -> list[str]:
        return text.split()

    def __call__(self, texts: str | list[str], **_: Any) -> Any:
        listed = [texts] if isinstance(texts, str) else texts
        ids = torch.tensor([[self.model.number(text)] for text in listed])
        lengths = np.array([self.model.length(text) for text in listed])
        return SimpleNamespace(input_ids=ids, length=lengths, attention_mask=torch.ones_like(ids))

    def batch_decode(self, ids: torch.Tensor) -> list[str]:
        return [self.model.told[int(row[0])] for row in ids if len(row)]


class Encoded(tuple[torch.Tensor, ...]):
    """What a text encoder gives: (first, …), and ``hidden_states``, whose last but one is the context."""

    hidden_states: tuple[torch.Tensor, ...]


class TextEncoder(nn.Module):
    """ComfyUI's text encoding behind the calls that pipelines make.

    Args:
        part: ``first`` or ``second``: one of SDXL's two, with the channels that it contributes to the context; the
            pooled text stands first in the output. ``whole``: the context stands first, for pipelines of Stable
            Diffusion 1 and 2. There SDXL's pooled text rides along as further channels, the same at every token, and
            `JoinedUNet` parts the two.
    """

    def __init__(self, model: HostModel, part: str) -> None:
        super().__init__()
        self.model, self.part = model, part
        self.dtype, self.device = torch.float32, torch.device("cpu")
        pooled = model.encoded("")[1].shape[-1]
        self.config = SimpleNamespace(projection_dim=pooled, use_attention_mask=False)

    def forward(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> Encoded:
        rows = [self.model.encoded(self.model.told[int(row[0])]) for row in input_ids]
        context, pooled = (torch.cat(parts) for parts in zip(*rows))
        if self.part == "whole":
            context = torch.cat((context, pooled[:, None].expand(-1, context.shape[1], -1)), -1)
        else:
            border = context.shape[-1] - pooled.shape[-1]
            context = context[..., :border] if self.part == "first" else context[..., border:]
        result = Encoded((context if self.part == "whole" else pooled,))
        result.hidden_states = (context, context)
        return result


class JoinedUNet(nn.Module):
    """An SDXL UNet for pipelines that hand over a context alone; see `TextEncoder`."""

    def __init__(self, unet: Any, size: int) -> None:
        super().__init__()
        self.unet, self.size, self.config = unet, size, unet.config
        self.dtype, self.device = unet.dtype, unet.device

    def forward(self, sample: Any, timestep: Any, encoder_hidden_states: Any = None, **more: Any) -> Any:
        width = self.config.cross_attention_dim
        if encoder_hidden_states.shape[-1] > width:
            added = added_conditions(encoder_hidden_states[:, 0, width:], self.size)
            more["added_cond_kwargs"] = added
        return self.unet(sample, timestep, encoder_hidden_states=encoder_hidden_states[..., :width], **more)


def added_conditions(pooled: torch.Tensor, size: int) -> dict[str, torch.Tensor]:
    """SDXL's conditions of a square picture that is not cropped, as ComfyUI gives them."""
    ids = torch.tensor([[size, size, 0, 0, size, size]], dtype=pooled.dtype, device=pooled.device)
    return {"text_embeds": pooled, "time_ids": ids.expand(len(pooled), -1)}


class Vae(nn.Module):
    """ComfyUI's VAE behind the calls that pipelines make: pictures (N, 3, H, W) in −1 … 1."""

    def __init__(self, vae: Any, latent_format: Any, size: int) -> None:
        super().__init__()
        from diffusers.configuration_utils import FrozenDict

        self.own = vae
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.config = FrozenDict(
            scaling_factor=float(latent_format.scale_factor),
            shift_factor=None,
            latents_mean=None,
            latents_std=None,
            # Only the number of levels is read: pictures are eight times as large as their latents.
            block_out_channels=(0, 0, 0, 0),
            latent_channels=latent_format.latent_channels,
            sample_size=size,
            force_upcast=False,
        )

    @torch.no_grad()
    def encode(self, pictures: torch.Tensor, **_: Any) -> Any:
        latent = self.own.encode(((pictures + 1) / 2).clamp(0, 1).movedim(1, -1)).float().cpu()
        given = SimpleNamespace(mode=lambda: latent, sample=lambda *_: latent)
        return SimpleNamespace(latent_dist=given)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, return_dict: bool = True, **_: Any) -> Any:
        pictures = self.own.decode(latents.float()).float().cpu().movedim(-1, 1) * 2 - 1
        return SimpleNamespace(sample=pictures) if return_dict else (pictures,)


class HostModel:
    """A checkpoint for diffusers, loaded once.

    Attributes:
        unet: diffusers' UNet.
        vae: see `Vae`.
        xl: whether it has SDXL's two text encoders and size conditioning.
    """

    def __init__(self, name: str, size: int) -> None:
        model, self.clip, vae = load_host_model(name)
        self.size = size
        self.unet = diffusers_unet(model)
        self.vae = Vae(vae, model.model.latent_format, size)
        self.sampling = model.model.model_sampling
        self.prediction = "v_prediction" if "V_PREDICTION" in str(model.model.model_type) else "epsilon"
        self.xl = bool(model.model.model_config.unet_config.get("adm_in_channels"))
        self.told: list[str] = []

    def number(self, text: str) -> int:
        """The number of a text, for `Texts`."""
        if text not in self.told:
            self.told.append(text)
        return self.told.index(text)

    def length(self, text: str) -> int:
        """How many tokens a prompt has, with its start and its end."""
        tokens = next(iter(self.clip.tokenize(text, return_word_ids=True).values()))[0]
        # Words count from 1; start, end and padding are 0.
        return 2 + sum(token[2] > 0 for token in tokens)

    @torch.no_grad()
    def encoded(self, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Context (1, T, C) and pooled text (1, P; P = 0 without SDXL) of a prompt, as ComfyUI encodes it."""
        context, pooled = self.clip.encode_from_tokens(self.clip.tokenize(text), return_pooled=True)
        context = context.float().cpu()
        return context, pooled.float().cpu() if self.xl else context.new_zeros(1, 0)

    def scheduler(self, kind: Any, **more: Any) -> Any:
        """A scheduler of diffusers with the noise schedule that is read off the model."""
        kept = 1 / (self.sampling.sigmas.double().cpu() ** 2 + 1)
        betas = 1 - kept / torch.cat((kept.new_ones(1), kept[:-1]))
        fixed = {"prediction_type": self.prediction, "steps_offset": 1, "timestep_spacing": "leading"}
        return kind(trained_betas=betas.tolist(), **fixed, **more)

    def xl_parts(self) -> dict[str, Any]:
        """UNet, VAE and texts of an SDXL pipeline."""
        texts = Texts(self)
        return {
            "unet": self.unet,
            "vae": self.vae,
            "text_encoder": TextEncoder(self, "first"),
            "text_encoder_2": TextEncoder(self, "second"),
            "tokenizer": texts,
            "tokenizer_2": texts,
        }

    def parts(self) -> dict[str, Any]:
        """UNet, VAE and texts of a pipeline of Stable Diffusion 1 and 2, on any checkpoint."""
        return {
            "unet": JoinedUNet(self.unet, self.size) if self.xl else self.unet,
            "vae": self.vae,
            "text_encoder": TextEncoder(self, "whole"),
            "tokenizer": Texts(self),
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }
