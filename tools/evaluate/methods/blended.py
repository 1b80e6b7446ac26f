"""Methods in which source and edit share a batch: PartEdit, and those that the same sampler can make."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ...config_file import Share, Text
from ..cases import Case
from ..graph import Made
from .base import Inversion, Method, Wanted, inversion_rows, needs_mask, with_guidance
from .loaded import Loaded, empty_latent
from .settings import Scorer, Settings


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
        inverted = 0 if self._samples(case) else inversion_rows(self.inversion, own.steps)
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

    def reads_token(self, case: Case) -> bool:
        return not self.given_mask

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
