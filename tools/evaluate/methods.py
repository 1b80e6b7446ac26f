"""The methods of ``run.py evaluate`` as graphs on a ComfyUI server, and the UNet rows each of them takes.

A row is one picture in one call of the diffusion model; with a guidance scale above 1 every picture takes two. Counts
are exact for samplers that call the model once per step; where a search decides, they are an upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from ..config_file import AtLeastOne, Count, Entry, Share, Text
from .cases import Case
from .graph import Graph, Made

Scale = Annotated[float, Field(ge=0, le=100)]
Inversion = Literal[
    "ddim_next_timestep", "ddim_current_timestep", "ddim_fixed_point", "edit_friendly_ddpm", "ledits_pp"
]
# InvertLatent's own default number.
FIXED_POINT_ITERATIONS = 3


class Settings(Entry):
    """Sampling, for all methods; a method may set its own."""

    steps: AtLeastOne = 50
    cfg: Scale = 7.5
    sampler_name: Text = "ddim"
    scheduler: Text = "normal"
    negative: Text = ""


class Scorer(Entry):
    """A CLIP: a file or folder for Load CLIP Scorer, or a clip_vision file beside the checkpoint's own text encoder."""

    clip_scorer: Text = ""
    clip_vision: Text = ""

    @model_validator(mode="after")
    def _one(self) -> Scorer:
        if bool(self.clip_scorer) == bool(self.clip_vision):
            raise ValueError("give either clip_scorer or clip_vision.")
        return self


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


@dataclass(frozen=True)
class Wanted:
    """What a prompt gives: {label: node} of pictures and of texts; ``edited`` is always there."""

    pictures: dict[str, str]
    texts: dict[str, str] = field(default_factory=dict)


def _variant_name(value: str) -> str:
    if not value.strip():
        raise ValueError("expected a name.")
    return value


class Method(Entry):
    """What all methods have."""

    kind: ClassVar[str]
    does: ClassVar[str]
    #: Whether it is told where the edit is.
    told_mask: ClassVar[bool] = False

    name: Annotated[Text, AfterValidator(_variant_name)] | None = None
    #: Names of the data sets that it is for; None: all.
    data: list[Text] | None = None
    steps: AtLeastOne | None = None
    cfg: Scale | None = None
    sampler_name: Text | None = None
    scheduler: Text | None = None
    negative: Text | None = None

    def settings(self, common: Settings) -> Settings:
        """The common settings with the method's own."""
        own = {name: getattr(self, name) for name in Settings.model_fields if getattr(self, name) is not None}
        return common.model_copy(update=own)

    def is_for(self, data: str) -> bool:
        """Whether the file wants this method on a data set."""
        return self.data is None or data in self.data

    def lacks(self, case: Case) -> str:
        """Why the method cannot edit this case; "" if it can."""
        return ""

    def rows(self, case: Case, common: Settings) -> int:
        raise NotImplementedError

    def at_most(self, case: Case) -> bool:
        """Whether `rows` is an upper bound."""
        return False

    def build(self, loaded: Loaded, case: Case, common: Settings, scorer: Scorer | None) -> Wanted:
        """Add the method's nodes. The case has a picture: a generated source was made before."""
        raise NotImplementedError


def needs_mask(case: Case) -> str:
    """Why a method that is told a mask cannot edit a case; "" if it can."""
    return "" if case.mask or case.mask_by_token else "no mask"


def with_guidance(cfg: float) -> int:
    """UNet rows of a picture: two with guidance, one at a scale of 1."""
    return 1 if cfg == 1 else 2


def _inversion_rows(inversion: str, steps: int) -> int:
    per_step = {"edit_friendly_ddpm": 0, "ledits_pp": 0, "ddim_fixed_point": 1 + FIXED_POINT_ITERATIONS}
    return steps * per_step.get(inversion, 1)


class _Blended(Method):
    """Source and edit in one batch, by the pack's Feature Blend Sampler.

    A case with a picture replays its inversion; a generated one samples both from the case's seed.
    """

    #: Methods for given pictures invert generated ones as well.
    always_inverts: ClassVar[bool] = False

    inversion: Inversion = "ledits_pp"
    prompt_to_prompt: Literal["auto", "replace", "refine", "off"] = "auto"
    cross_replace: Share = 1.0
    changed_words: Share = 0.4
    self_replace: Share = 0.0
    noise_maps: Literal["from the source row", "as recorded"] = "from the source row"

    def rows(self, case: Case, common: Settings) -> int:
        own = self.settings(common)
        # The source and one edit. A picture has to be inverted first.
        inverted = 0 if self._samples(case) else _inversion_rows(self.inversion, own.steps)
        return inverted + 2 * own.steps * with_guidance(own.cfg)

    def _samples(self, case: Case) -> bool:
        """Whether the source is sampled again, and not inverted."""
        return case.generated and not self.always_inverts

    def _invert(self, loaded: Loaded, case: Case, own: Settings) -> list[Any]:
        """The trajectory of the case's picture."""
        _, encoded = loaded.encoded(case.picture)
        recorded = self.noise_maps == "as recorded" and self.inversion in ("edit_friendly_ddpm", "ledits_pp")
        return loaded.inverted(encoded, case, self.inversion, own.steps, record_noise_maps=recorded)

    def _sampled(self, loaded: Loaded, case: Case, common: Settings, **blend: Any) -> Made:
        own, graph = self.settings(common), loaded.graph
        prompt = graph.add(
            "PartEditPrompt",
            clip=loaded.clip,
            source=case.source,
            edit=case.edit,
            prompt_to_prompt=self.prompt_to_prompt,
            cross_replace=self.cross_replace,
            changed_words=self.changed_words,
            self_replace=self.self_replace,
            part=case.part,
        )
        trajectory = latent = None
        if self._samples(case):
            latent = empty_latent(loaded, case)
        else:
            trajectory = self._invert(loaded, case, own)
        return graph.add(
            "FeatureBlendSampler",
            model=loaded.model,
            edit_prompt=prompt[0],
            negative=loaded.text(own.negative),
            latent_image=latent,
            trajectory=trajectory,
            seed=case.seed,
            steps=own.steps,
            cfg=own.cfg,
            sampler_name=own.sampler_name,
            scheduler=own.scheduler,
            noise_maps=self.noise_maps,
            **blend,
        )

    def _everywhere(self, loaded: Loaded, case: Case, common: Settings, **more: Any) -> Wanted:
        """The edit with nothing confined to a part."""
        everywhere = loaded.graph.add("SolidMask", value=1.0, width=64, height=64)
        made = self._sampled(loaded, case, common, mask=everywhere[0], threshold="none", **more)
        return Wanted({"edited": loaded.shown(loaded.decoded(made["edited"]))})


class PartEdit(_Blended):
    """PartEdit, with its ablations."""

    kind: ClassVar[str] = "partedit"
    does: ClassVar[str] = "PartEdit: the edit blended in under the token's mask at every step"

    method: Literal["partedit"] = "partedit"
    given_mask: bool = False
    edit_steps: Share = 1.0
    omega: Annotated[float, Field(ge=0.5, le=3)] = 1.5
    threshold: Literal["adaptive", "otsu", "fixed", "none"] = "adaptive"
    fixed_threshold: Share = 0.5
    layers: Text = "auto"
    timing: Literal["clean", "clean, first step twice", "published"] = "clean"
    padding: Literal["auto", "background", "start_of_text", "end_of_text", "context", "zero", "none"] = "auto"
    map_size: Literal["latent", "published"] = "latent"
    paste_back: Literal["off", "latent"] = "off"

    def lacks(self, case: Case) -> str:
        if self.given_mask:
            return needs_mask(case)
        return "" if case.token else "no part token"

    def build(self, loaded: Loaded, case: Case, common: Settings, scorer: Scorer | None) -> Wanted:
        where: dict[str, Any] = {}
        if self.given_mask:
            where["mask"] = loaded.mask(case.mask)
        else:
            where["part_token"] = loaded.graph.add("LoadPartToken", part_token=case.token)[0]
        made = self._sampled(
            loaded,
            case,
            common,
            edit_steps=self.edit_steps,
            omega=self.omega,
            threshold=self.threshold,
            fixed_threshold=self.fixed_threshold,
            layers=self.layers,
            timing=self.timing,
            padding=self.padding,
            map_size=self.map_size,
            paste_back=self.paste_back,
            **where,
        )
        pictures = {"edited": loaded.shown(loaded.decoded(made["edited"])), "mask": loaded.shown_mask(made["mask"])}
        return Wanted(pictures)


class PromptToPrompt(_Blended):
    """Prompt-to-prompt on the same weights: the same sampling with nothing confined to a part."""

    kind: ClassVar[str] = "prompt_to_prompt"
    does: ClassVar[str] = "prompt-to-prompt alone: the same attention replacement, nothing blended"

    method: Literal["prompt_to_prompt"] = "prompt_to_prompt"

    def build(self, loaded: Loaded, case: Case, common: Settings, scorer: Scorer | None) -> Wanted:
        return self._everywhere(loaded, case, common)


class EditFriendly(_Blended):
    """Edit-friendly DDPM (Huberman-Spiegelglas et al. 2024), with the paper's guidance and skipped steps.

    The picture's recorded noise maps are replayed with the edited prompt, from a level at which it is still visible.
    """

    kind: ClassVar[str] = "edit_friendly_ddpm"
    does: ClassVar[str] = "edit-friendly DDPM: the picture's recorded noise maps replayed with the edited prompt"
    always_inverts: ClassVar[bool] = True

    method: Literal["edit_friendly_ddpm"] = "edit_friendly_ddpm"
    inversion: Literal["edit_friendly_ddpm"] = "edit_friendly_ddpm"
    noise_maps: Literal["as recorded"] = "as recorded"
    prompt_to_prompt: Literal["off"] = "off"
    source_guidance: Annotated[float, Field(ge=1, le=30)] = 3.5
    skip: Annotated[float, Field(ge=0, lt=1)] = 0.36

    def rows(self, case: Case, common: Settings) -> int:
        own = self.settings(common)
        edited = max(1, round(own.steps * (1 - self.skip)))
        return own.steps * with_guidance(self.source_guidance) + 2 * edited * with_guidance(own.cfg)

    def _invert(self, loaded: Loaded, case: Case, own: Settings) -> list[Any]:
        _, encoded = loaded.encoded(case.picture)
        negative = None if self.source_guidance == 1 else loaded.text(own.negative)
        return loaded.inverted(
            encoded,
            case,
            self.inversion,
            own.steps,
            record_noise_maps=True,
            cfg=self.source_guidance,
            negative=negative,
        )

    def build(self, loaded: Loaded, case: Case, common: Settings, scorer: Scorer | None) -> Wanted:
        return self._everywhere(loaded, case, common, denoise=round(1 - self.skip, 6))


class PnPInversion(_Blended):
    """Direct inversion (PnP Inversion, Ju et al. 2024) with prompt-to-prompt.

    The source row is set to the DDIM-inverted latents at every step; the edit is left to itself, but for the attention
    that it takes from the source row.
    """

    kind: ClassVar[str] = "pnp_inversion"
    does: ClassVar[str] = "PnP Inversion: the inverted source is corrected at every step, prompt-to-prompt for the edit"
    always_inverts: ClassVar[bool] = True

    method: Literal["pnp_inversion"] = "pnp_inversion"
    inversion: Literal["ddim_next_timestep", "ddim_current_timestep", "ddim_fixed_point"] = "ddim_current_timestep"
    noise_maps: Literal["as recorded"] = "as recorded"

    def build(self, loaded: Loaded, case: Case, common: Settings, scorer: Scorer | None) -> Wanted:
        return self._everywhere(loaded, case, common)


class Oir(Method):
    """OIR, with its ablations. One object: the search's best candidate is the result, as in the paper."""

    kind: ClassVar[str] = "oir"
    does: ClassVar[str] = "OIR: every object from its own best inversion step, then reassembled"
    told_mask: ClassVar[bool] = True

    method: Literal["oir"] = "oir"
    inversion: Literal["ddim_next_timestep", "ddim_current_timestep", "ddim_fixed_point"] = "ddim_next_timestep"
    strategy: Literal["exhaustive", "coarse-to-fine", "short-to-full"] = "exhaustive"
    first_step: AtLeastOne = 1
    last_step: Count = 0
    fixed_step: AtLeastOne | None = None
    edit_weight: Annotated[float, Field(ge=0.1, le=10)] = 1.0
    score_text: Literal["target phrase", "guided prompt"] = "target phrase"
    mask_mode: Literal["masked", "published_bias"] = "masked"
    reassembly: Share = 0.2
    reinversion: Share = 0.2
    reassemble_one: bool = False
    paste_back: bool = False

    def lacks(self, case: Case) -> str:
        if case.masked_pairs or (case.mask_by_token and len(case.pairs) == 1):
            return ""
        return "no objects (before, after) with a mask each"

    def at_most(self, case: Case) -> bool:
        # How long each object's own pass is depends on its step.
        return self.strategy != "exhaustive" or self._reassembles(case)

    def _reassembles(self, case: Case) -> bool:
        return len(case.pairs) > 1 or self.reassemble_one

    def candidates(self, steps: int) -> range:
        """The inversion steps that are tried for an object."""
        if self.fixed_step is not None:
            return range(self.fixed_step, self.fixed_step + 1)
        return range(self.first_step, (self.last_step or steps) + 1)

    def rows(self, case: Case, common: Settings) -> int:
        own = self.settings(common)
        two, steps, count = with_guidance(own.cfg), own.steps, len(case.pairs) or 1
        rows = _inversion_rows(self.inversion, steps) + count * two * sum(self.candidates(steps))
        if self._reassembles(case):
            level, again = round(self.reassembly * steps), round(self.reinversion * steps)
            passes = max(max(self.candidates(steps)) - level, 0)
            rows += two * count * passes + again + two * (level + again)
        return rows

    def build(self, loaded: Loaded, case: Case, common: Settings, scorer: Scorer | None) -> Wanted:
        own, graph = self.settings(common), loaded.graph
        image, encoded = loaded.encoded(case.picture)
        trajectory = loaded.inverted(
            encoded, case, self.inversion, own.steps, fixed_point_iterations=FIXED_POINT_ITERATIONS
        )
        pairs = None
        for pair in case.pairs:
            pairs = graph.add(
                "EditingPair",
                clip=loaded.clip,
                source_prompt=case.source,
                source_phrase=pair.before,
                target_phrase=pair.after,
                mask=loaded.mask(pair.mask),
                previous_pairs=None if pairs is None else pairs[0],
            )
        assert pairs is not None, "a case without pairs lacks something"
        tried = self.candidates(own.steps)
        search = graph.add(
            "InversionStepSearch",
            model=loaded.model,
            vae=loaded.vae,
            trajectory=trajectory,
            pairs=pairs[0],
            clip_scorer=loaded.scorer(scorer),
            cfg=max(own.cfg, 1.0),
            strategy=self.strategy,
            first_step=tried[0],
            last_step=tried[-1],
            mask_mode=self.mask_mode,
            edit_weight=self.edit_weight,
            score_text=self.score_text,
        )
        result = search["image"]
        if self._reassembles(case):
            result = graph.add(
                "OIRReassemble",
                model=loaded.model,
                vae=loaded.vae,
                trajectory=trajectory,
                search=search[0],
                cfg=max(own.cfg, 1.0),
                reassembly=self.reassembly,
                reinversion=self.reinversion,
                paste_back=self.paste_back,
                target_prompt=case.edit,
                clip=loaded.clip,
                image=image,
            )["image"]
        return Wanted({"edited": loaded.shown(result)}, {"search": loaded.told(search["scores"])})


class OneStep(Method):
    """Every object from the same inversion step, with the whole edited prompt, by core nodes alone."""

    kind: ClassVar[str] = "one_step"
    does: ClassVar[str] = "DDIM inversion to one fixed step, then plain denoising with the edited prompt"

    method: Literal["one_step"] = "one_step"
    step: AtLeastOne | None = None
    share: Share = 0.8

    def begin(self, steps: int) -> int:
        return min(self.step, steps) if self.step is not None else max(1, round(self.share * steps))

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
        if self.objects != "together" and not case.masked_pairs:
            return needs_mask(case) or ("" if self._alone(case) else "no objects (before, after) with a mask each")
        return needs_mask(case)

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
        for pair in case.pairs:
            guided = self.objects == "guided prompt"
            text = case.source.replace(pair.before, pair.after, 1) if guided else pair.after
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


ALL: tuple[type[Method], ...] = (
    PartEdit,
    Oir,
    PromptToPrompt,
    EditFriendly,
    PnPInversion,
    OneStep,
    SDEdit,
    LatentBlending,
    Inpainting,
    Unchanged,
)


def empty_latent(loaded: Loaded, case: Case) -> list[Any]:
    return loaded.graph.add("EmptyLatentImage", width=case.size, height=case.size, batch_size=1)[0]


def source_rows(settings: Settings) -> int:
    """The rows of a generated source."""
    return settings.steps * with_guidance(settings.cfg)


def build_source(loaded: Loaded, case: Case, settings: Settings) -> Wanted:
    """A generated source picture, and the part's mask in it by its token, the same for all methods.

    The mask is Part Attention Mask's over four noise draws, binarised by Otsu.
    """
    graph = loaded.graph
    positive, negative = loaded.text(case.source), loaded.text(settings.negative)
    made = loaded.sampled(empty_latent(loaded, case), case, settings, positive, negative)
    pictures = {"edited": loaded.shown(loaded.decoded(made))}
    if case.mask_by_token:
        soft = graph.add(
            "PartAttentionMask",
            model=loaded.model,
            part_token=graph.add("LoadPartToken", part_token=case.token)[0],
            positive=loaded.text(""),
            latent_image=made,
            noise_level=MASK_NOISE,
            seed=case.seed,
            samples=MASK_DRAWS,
        )
        pictures["mask"] = loaded.shown_mask(graph.add("AdaptiveOtsuThreshold", mask=soft[0], method="otsu")[0])
    return Wanted(pictures)


MASK_NOISE, MASK_DRAWS = 0.5, 4
