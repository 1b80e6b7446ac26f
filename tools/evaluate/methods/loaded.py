"""The nodes that every method's graph has: loading a model, encoding, inverting, sampling, showing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..cases import Case
from ..graph import Graph, Made
from .settings import Scorer, Settings


@dataclass
class Loaded:
    """The nodes that load a model, in one graph."""

    graph: Graph
    checkpoint: str
    demo: Made | None = None
    models: tuple[list[Any], list[Any], list[Any]] = field(init=False)

    def __post_init__(self) -> None:
        kind = "LoadDemoModel" if self.checkpoint == "demo" else "CheckpointLoaderSimple"
        inputs = {} if self.checkpoint == "demo" else {"ckpt_name": self.checkpoint}
        made = self.graph.add(kind, **inputs)
        self.demo = made if self.checkpoint == "demo" else None
        self.models = (made[0], made[1], made[2])

    @property
    def model(self) -> list[Any]:
        return self.models[0]

    @property
    def clip(self) -> list[Any]:
        return self.models[1]

    @property
    def vae(self) -> list[Any]:
        return self.models[2]

    def text(self, text: str) -> list[Any]:
        return self.graph.add("CLIPTextEncode", clip=self.clip, text=text)[0]

    def encoded(self, picture: str) -> tuple[list[Any], list[Any]]:
        """The image of an uploaded file, and its latent."""
        image = self.graph.add("LoadImage", image=picture)[0]
        return image, self.graph.add("VAEEncode", pixels=image, vae=self.vae)[0]

    def inverted(self, latent: list[Any], case: Case, method: str, steps: int, **more: Any) -> list[Any]:
        """The trajectory of a picture's latent; ``more``: further inputs of Invert Latent."""
        return self.graph.add(
            "InvertLatent",
            model=self.model,
            latent_image=latent,
            source_prompt=case.source,
            method=method,
            steps=steps,
            seed=case.seed,
            clip=self.clip,
            captioner="none",
            **more,
        )[0]

    def sampled(
        self,
        latent: list[Any],
        case: Case,
        settings: Settings,
        positive: list[Any],
        negative: list[Any],
        steps: int | None = None,
        denoise: float = 1.0,
    ) -> list[Any]:
        """The latent that KSampler makes; ``steps``: other than those of the settings."""
        return self.graph.add(
            "KSampler",
            model=self.model,
            positive=positive,
            negative=negative,
            latent_image=latent,
            seed=case.seed,
            steps=settings.steps if steps is None else steps,
            cfg=settings.cfg,
            sampler_name=settings.sampler_name,
            scheduler=settings.scheduler,
            denoise=denoise,
        )[0]

    def mask(self, file: str) -> list[Any]:
        return self.graph.add("LoadImageMask", image=file, channel="red")[0]

    def decoded(self, latent: list[Any]) -> list[Any]:
        return self.graph.add("VAEDecode", samples=latent, vae=self.vae)[0]

    def scorer(self, scorer: Scorer | None) -> list[Any] | None:
        """The CLIP scorer; on the demo its own, unless another one is named."""
        if scorer is None:
            return self.demo[3] if self.demo is not None else None
        if scorer.clip_scorer:
            return self.graph.add("LoadCLIPScorer", model=scorer.clip_scorer)[0]
        vision = self.graph.add("CLIPVisionLoader", clip_name=scorer.clip_vision)
        return self.graph.add("CLIPScorerFromModels", clip_vision=vision[0], clip=self.clip)[0]

    def shown(self, image: list[Any]) -> str:
        """Have the server keep an image for the answer; the key of its node."""
        return self.graph.add("PreviewImage", images=image).key

    def shown_mask(self, mask: list[Any]) -> str:
        return self.shown(self.graph.add("MaskToImage", mask=mask)[0])

    def told(self, text: list[Any]) -> str:
        """Have the server put a text into the answer; the key of its node."""
        return self.graph.add("PreviewAny", source=text).key


def empty_latent(loaded: Loaded, case: Case) -> list[Any]:
    return loaded.graph.add("EmptyLatentImage", width=case.size, height=case.size, batch_size=1)[0]
