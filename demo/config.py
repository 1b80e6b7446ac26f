"""Shapes of the demo checkpoint: one place for the training scripts and the loader."""

from __future__ import annotations

SIZE = 256  # images are SIZE x SIZE, latents SIZE / 8

#: ``comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel``: SDXL's layout (three levels, transformers on the two
#: lower ones, class embedding of pooled text and sizes) at a fraction of its width.
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": (1, 2, 3),
    "transformer_depth": [0, 1, 1],
    "transformer_depth_output": [0, 0, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "num_classes": "sequential",
    "adm_in_channels": 512 + 6 * 256,
    "use_linear_in_transformer": True,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}
UNET_EXTRA = {"num_heads": -1, "num_head_channels": 32}

#: ``comfy.ldm.models.autoencoder.AutoencoderKL``: 8x downscaling, four channels. It works on 4 × 4 pixel blocks as 48
#: channels, so no layer runs at full resolution: ten times cheaper to train.
VAE_BLOCK = 4
VAE = {
    "embed_dim": 4,
    "ddconfig": {
        "double_z": True,
        "z_channels": 4,
        "resolution": SIZE // VAE_BLOCK,
        "in_channels": 3 * VAE_BLOCK**2,
        "out_ch": 3 * VAE_BLOCK**2,
        "ch": 32,
        "ch_mult": [2, 3],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
}
#: ComfyUI's VAE blocks would normalise in 32 groups of two or three channels here, which loses absolute colours. The
#: demo's VAE uses fewer groups (set after construction).
VAE_GROUPS = 4


def text_encoder(width: int, heads: int, vocabulary: int, start: int, end: int) -> dict:
    """A ``comfy.clip_model.CLIPTextModel`` configuration."""
    return {
        "architectures": ["CLIPTextModel"],
        "num_hidden_layers": 2,
        "hidden_size": width,
        "intermediate_size": 512,
        "num_attention_heads": heads,
        "hidden_act": "gelu",
        "max_position_embeddings": 77,
        "vocab_size": vocabulary,
        "projection_dim": width,
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": end,
        "layer_norm_eps": 1e-5,
    }
