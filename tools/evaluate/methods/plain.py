"""Methods made of core nodes alone: one inversion step, SDEdit, latent blending, inpainting, and no edit at all."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ...config_file import AtLeastOne, Share, Text
from ..cases import Case
from ..phrases import guided_prompts, missing_phrase
from .base import Method, Wanted, needs_mask, with_guidance
from .loaded import Loaded
from .settings import Scorer, Settings


class OneStep(Method):
    """Every object from the same inversion step, with the whole edited prompt, by core nodes alone."""

    kind: ClassVar[str] = "one_step"
    does: ClassVar[str] = "DDIM inversion to one fixed step, then plain denoising with the edited prompt"

    method: Literal["one_step"] = "one_step"
    step: AtLeastOne | None = None
    share: Share = 0.8

    def begin(self, steps: int) -> int:
        return self.step if self.step is not None else max(1, round(self.share * steps))

    def check(self, common: Settings) -> None:
        steps = self.settings(common).steps
        if self.step is not None and self.step > steps:
            raise ValueError(f"step: is {self.step}, but there are {steps} steps.")

    def rows(self, case: Case, common: Settings) -> int:
        own = self.settings(common)
        return self.begin(own.steps) * (1 + with_guidance(own.cfg))

    def build(self, loaded: Loaded, case: Case, common: Settings, scorer: Scorer | None) -> Wanted:
        own, graph = self.settings(common), loaded.graph
        _, encoded = loaded.encoded(case.picture)
        levels = graph.add("BasicScheduler", model=loaded.model, scheduler=own.scheduler, steps=own.steps, denoise=1.0)
        split = graph.add("SplitSigmas", sigmas=levels[0], step=own.steps - self.begin(own.steps))
        sampler = graph.add("KSamplerSelect", sampler_name="euler")
        source = loaded.text(case.source)
        rest = {"model": loaded.model, "add_noise": False, "noise_seed": case.seed, "sampler": sampler[0]}
        inverted = graph.add(
            "SamplerCustom",
            **rest,
            cfg=1.0,
            positive=source,
            negative=source,
            sigmas=graph.add("FlipSigmas", sigmas=split[1])[0],
            latent_image=encoded,
        )
        edited = graph.add(
            "SamplerCustom",
            **rest,
            cfg=own.cfg,
            positive=loaded.text(case.edit),
            negative=source,
            sigmas=split[1],
            latent_image=inverted[0],
        )
        return Wanted({"edited": loaded.shown(loaded.decoded(edited[0]))})


class _Noised(Method):
    """The picture's latent noised to a strength and denoised with the edited prompt, by core nodes."""

    strength: Annotated[float, Field(gt=0, le=1)] = 0.8

    def rows(self, case: Case, common: Settings) -> int:
        own = self.settings(common)
        return self.own_steps(own) * with_guidance(own.cfg)

    def own_steps(self, own: Settings) -> int:
        # KSampler takes all its steps below the strength; this takes those of the whole schedule that lie there.
        return max(1, round(own.steps * self.strength))

    def sampled(self, loaded: Loaded, case: Case, own: Settings, latent: list[Any], texts: Any = None) -> list[Any]:
        """The edited image from a latent; ``texts``: positive and negative, if not the prompts alone."""
        positive, negative = texts or (loaded.text(case.edit), loaded.text(own.negative))
        return loaded.decoded(
            loaded.sampled(latent, case, own, positive, negative, steps=self.own_steps(own), denoise=self.strength)
        )


class SDEdit(_Noised):
    """SDEdit (Meng et al. 2022)."""

    kind: ClassVar[str] = "sdedit"
    does: ClassVar[str] = "SDEdit: the picture noised to a strength, denoised with the edited prompt"

    method: Literal["sdedit"] = "sdedit"

    def build(self, loaded: Loaded, case: Case, common: Settings, scorer: Scorer | None) -> Wanted:
        _, encoded = loaded.encoded(case.picture)
        return Wanted({"edited": loaded.shown(self.sampled(loaded, case, self.settings(common), encoded))})


class _InMask(_Noised):
    """In a given mask; with several objects in one of the three ways of OIR's App. A.2."""

    told_mask: ClassVar[bool] = True

    strength: Annotated[float, Field(gt=0, le=1)] = 1.0
    #: ``together``: all masks at once and the whole edited prompt. The other two edit each object alone, in its own
    #: mask, and put the results together: with its ``guided prompt`` (the source prompt with this object's new words)
    #: or its ``target phrase`` alone.
    objects: Literal["together", "guided prompt", "target phrase"] = "together"

    def lacks(self, case: Case) -> str:
        if self.objects == "together" or needs_mask(case):
            return needs_mask(case)
        if not case.masked_pairs and not self._alone(case):
            return "no objects (before, after) with a mask each"
        return missing_phrase(case.source, case.befores) if self.objects == "guided prompt" else ""

    @staticmethod
    def _alone(case: Case) -> bool:
        return case.mask_by_token and len(case.pairs) == 1

    def rows(self, case: Case, common: Settings) -> int:
        count = 1 if self.objects == "together" else max(1, len(case.pairs))
        return count * super().rows(case, common)

    def build(self, loaded: Loaded, case: Case, common: Settings, scorer: Scorer | None) -> Wanted:
        own = self.settings(common)
        if self.objects == "together":
            return Wanted({"edited": loaded.shown(self.one(loaded, case, own, case.edit, case.mask))})
        whole = loaded.graph.add("LoadImage", image=case.picture)[0]
        guided = self.objects == "guided prompt"
        texts = guided_prompts(case) if guided else [pair.after for pair in case.pairs]
        for pair, text in zip(case.pairs, texts):
            whole = loaded.graph.add(
                "ImageCompositeMasked",
                destination=whole,
                source=self.one(loaded, case, own, text, pair.mask),
                x=0,
                y=0,
                resize_source=False,
                mask=loaded.mask(pair.mask),
            )[0]
        return Wanted({"edited": loaded.shown(whole)})

    def one(self, loaded: Loaded, case: Case, own: Settings, text: str, mask: str) -> list[Any]:
        """The picture with one mask filled."""
        raise NotImplementedError


class LatentBlending(_InMask):
    """Blended Latent Diffusion (Avrahami et al. 2023), as the host's noise mask does it."""

    kind: ClassVar[str] = "latent_blending"
    does: ClassVar[str] = "latent blending in a given mask (Set Latent Noise Mask)"

    method: Literal["latent_blending"] = "latent_blending"

    def one(self, loaded: Loaded, case: Case, own: Settings, text: str, mask: str) -> list[Any]:
        _, encoded = loaded.encoded(case.picture)
        masked = loaded.graph.add("SetLatentNoiseMask", samples=encoded, mask=loaded.mask(mask))
        return self.sampled(loaded, case, own, masked[0], (loaded.text(text), loaded.text(own.negative)))


class Inpainting(_InMask):
    """An inpainting checkpoint in a given mask (SDI in OIR's App. A.2)."""

    kind: ClassVar[str] = "inpainting"
    does: ClassVar[str] = "an inpainting checkpoint in a given mask"

    method: Literal["inpainting"] = "inpainting"
    checkpoint: Text

    def one(self, loaded: Loaded, case: Case, own: Settings, text: str, mask: str) -> list[Any]:
        graph = loaded.graph
        ready = graph.add(
            "InpaintModelConditioning",
            positive=loaded.text(text),
            negative=loaded.text(own.negative),
            vae=loaded.vae,
            pixels=graph.add("LoadImage", image=case.picture)[0],
            mask=loaded.mask(mask),
            noise_mask=True,
        )
        return self.sampled(loaded, case, own, ready[2], (ready[0], ready[1]))


class Unchanged(Method):
    """The picture through the VAE: the best background and the worst edit that are possible."""

    kind: ClassVar[str] = "unchanged"
    does: ClassVar[str] = "the picture through the VAE, not edited: what the other rows are to be read against"

    method: Literal["unchanged"] = "unchanged"

    def rows(self, case: Case, common: Settings) -> int:
        return 0

    def build(self, loaded: Loaded, case: Case, common: Settings, scorer: Scorer | None) -> Wanted:
        _, encoded = loaded.encoded(case.picture)
        return Wanted({"edited": loaded.shown(loaded.decoded(encoded))})
