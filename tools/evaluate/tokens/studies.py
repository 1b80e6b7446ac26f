"""The studies of the token laboratory; each gives plain figures for the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import engine
from .config import TokenPlan

JUDGE_SEED = 77
Keep = Callable[[str, Any, Callable[[], Any]], Any]


class StudyMissing(RuntimeError):
    """A study cannot be done here; the message says what is missing."""


@dataclasses.dataclass
class Pictures:
    """Some of the pictures: latents (N, C, h, w), masks (N, 1, H, W), and images (N, H, W, 3)."""

    images: torch.Tensor
    latents: torch.Tensor
    masks: torch.Tensor

    @property
    def truth(self) -> torch.Tensor:
        return self.masks[:, 0] > 0.5

    def some(self, places: Sequence[int]) -> Pictures:
        picked = list(places)
        return Pictures(self.images[picked], self.latents[picked], self.masks[picked])

    def __len__(self) -> int:
        return len(self.masks)


class Laboratory:
    """A model, its pictures, and what was measured.

    Args:
        keep: ``keep(name, settings, work)`` does ``work`` unless an earlier run did the same, and keeps it.
        log: is told what is being done.
    """

    def __init__(
        self, plan: TokenPlan, model: Any, clip: Any, pictures: Pictures, keep: Keep, log: Callable[[str], None]
    ) -> None:
        self.plan, self.config = plan, plan.config
        self.model, self.clip, self.keep, self.log = model, clip, keep, log
        order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(plan.config.seed)).tolist()
        count = min(plan.config.training, len(pictures) - 1)
        self.pictures = pictures
        self.training, self.held_out = pictures.some(sorted(order[:count])), pictures.some(sorted(order[count:]))
        with torch.no_grad():
            self.empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))
        self.text = self.empty[0][0][0].float().cpu()
        self.scale = float(self.empty[0][0].std())

    @property
    def judge_noise(self) -> dict[str, Any]:
        low, high = self.config.judge_noise
        return {"noise_low": low, "noise_high": high, "noise_count": self.config.judge_levels}

    @property
    def train_noise(self) -> dict[str, Any]:
        from partedit_oir.core.training.settings import TrainingSettings

        chosen = TrainingSettings(**self.plan.settings)
        return {name: getattr(chosen, name) for name in ("noise_low", "noise_high", "noise_count")}

    @cached_property
    def chosen_layers(self) -> tuple[Any, ...]:
        """The layers that tokens are trained on, unless a study sets them."""
        from partedit_oir.core.training.settings import TrainingSettings

        return engine.layers_of(self.model, TrainingSettings(**self.plan.settings).layers)

    def cache(
        self, pictures: Pictures, noise: Mapping[str, Any], seed: int, layers: Sequence[Any] | None = None
    ) -> Any:
        wanted = self.chosen_layers if layers is None else layers
        return engine.queries(self.model, self.empty, pictures.latents, wanted, noise, seed)

    @cached_property
    def trained_on(self) -> Any:
        """Queries of the training pictures."""
        self.log("queries of the training pictures")
        return self.cache(self.training, self.train_noise, self.config.seed)

    @cached_property
    def judged(self) -> Any:
        """Queries of the held-out pictures at the judged levels."""
        self.log("queries of the held-out pictures")
        return self.cache(self.held_out, self.judge_noise, JUDGE_SEED)

    def train(self, cache: Any, masks: torch.Tensor, **changes: Any) -> tuple[torch.Tensor, str]:
        return engine.train(cache, masks, self.scale, self.text, **{**self.plan.settings, **changes})

    @cached_property
    def token(self) -> tuple[torch.Tensor, str]:
        """The token of all training pictures, with the padding that it was trained with."""
        self.log("the token of all training pictures")
        return self.train(self.trained_on, self.training.masks)

    def seen_by_token(self, cache: Any) -> torch.Tensor:
        """Maps of `token` in a cache's pictures."""
        rows, padding = self.token
        return engine.part_maps(cache, rows, padding, text=self.text)

    # --- studies -----------------------------------------------------------------------------------------------

    def layers(self) -> dict[str, Any]:
        """Fig. 15: every cross-attention layer alone. ``alone``: a token trained and read in that layer only;
        ``read``: the token of the chosen layers, read there."""
        every = engine.layers_of(self.model, "all")
        found: dict[str, Any] = {}
        for start in range(0, len(every), self.config.layers_at_once):
            group = every[start : start + self.config.layers_at_once]
            made: dict[str, Any] = {}

            def caches(these: Sequence[Any] = group, made: dict[str, Any] = made) -> tuple[Any, Any]:
                if not made:
                    self.log(f"queries of layers {these[0]} to {these[-1]}")
                    made["train"] = self.cache(self.training, self.train_noise, self.config.seed, these)
                    made["judge"] = self.cache(self.held_out, self.judge_noise, JUDGE_SEED, these)
                return made["train"], made["judge"]

            for layer in group:

                def work(layer: Any = layer, caches: Callable[[], tuple[Any, Any]] = caches) -> dict[str, Any]:
                    trained, judged = caches()
                    seen = engine.subset(judged, [layer])
                    rows, padding = self.train(engine.subset(trained, [layer]), self.training.masks)
                    alone = engine.scores(engine.part_maps(seen, rows, padding, text=self.text), self.held_out.truth)
                    read = engine.scores(self.seen_by_token(seen), self.held_out.truth)
                    return {"alone": alone, "read": read, "grid": list(seen.grids[layer])}

                self.log(f"layer {layer}")
                found[str(layer)] = self.keep(f"layer {layer}", {}, work)
        ranked = sorted(found, key=lambda name: -found[name]["alone"]["adaptive"])
        return {"layers": found, "best_eight": ranked[:8], "chosen": [str(one) for one in self.chosen_layers]}

    def noise(self) -> dict[str, Any]:
        """Fig. 4: tokens trained on a stretch of the noise, read at every level of the diffusion time."""
        count = self.config.reading_levels
        levels = [round(1 - (k + 0.5) / count, 3) for k in range(count)]
        made: dict[str, Any] = {}

        def read() -> Any:
            if "cache" not in made:
                everything = {"noise_low": 0.0, "noise_high": 1.0, "noise_count": count}
                made["cache"] = self.cache(self.held_out, everything, JUDGE_SEED)
            return made["cache"]

        found: dict[str, Any] = {}
        for name, (low, high) in self.config.stretches.items():

            def work(low: float = low, high: float = high) -> list[dict[str, float]]:
                noise = {**self.train_noise, "noise_low": low, "noise_high": high}
                cache = self.cache(self.training, noise, self.config.seed)
                rows, padding = self.train(cache, self.training.masks, **noise)
                return engine.level_scores(read(), rows, self.held_out.truth, padding, text=self.text)

            self.log(f"trained on {name} noise, {low:g} to {high:g}")
            found[name] = self.keep(f"noise {name}", [low, high, count], work)
        return {"levels": levels, "stretches": self.config.stretches, "iou": found}

    def pictures_study(self) -> dict[str, Any]:
        """Fig. 12: IoU by the number of training pictures, over draws of the pictures."""
        total = len(self.training)
        counts = sorted({min(count, total) for count in self.config.counts})
        found: dict[str, Any] = {}
        for count in counts:
            # All pictures are one draw; only the seed differs.
            each = []
            for draw in range(self.config.draws):

                def work(count: int = count, draw: int = draw) -> dict[str, float]:
                    order = torch.randperm(total, generator=torch.Generator().manual_seed(draw)).tolist()[:count]
                    cache = engine.subset(self.trained_on, pictures=order)
                    rows, padding = self.train(cache, self.training.masks[order], seed=draw)
                    return engine.scores(
                        engine.part_maps(self.judged, rows, padding, text=self.text), self.held_out.truth
                    )

                self.log(f"{count} pictures, draw {draw + 1} of {self.config.draws}")
                each.append(self.keep(f"pictures {count} draw {draw}", {}, work))
            found[str(count)] = each
        return {"counts": counts, "draws": found, "held_out": len(self.held_out)}

    def folds(self) -> dict[str, Any]:
        """App. J: k-fold cross-validation over all pictures."""
        total, folds = len(self.pictures), min(self.config.folds, len(self.pictures))
        order = torch.randperm(total, generator=torch.Generator().manual_seed(self.config.seed)).tolist()
        each = []
        for fold in range(folds):

            def work(fold: int = fold) -> dict[str, float]:
                out = set(order[fold::folds])
                learned = self.pictures.some([k for k in range(total) if k not in out])
                judged = self.pictures.some(sorted(out))
                cache = self.cache(learned, self.train_noise, self.config.seed)
                rows, padding = self.train(cache, learned.masks)
                seen = self.cache(judged, self.judge_noise, JUDGE_SEED)
                return engine.scores(engine.part_maps(seen, rows, padding, text=self.text), judged.truth)

            self.log(f"fold {fold + 1} of {folds}")
            each.append(self.keep(f"fold {fold}", folds, work))
        values = [one["adaptive"] for one in each]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return {"folds": each, "mean": float(np.mean(values)), "std": spread, "pictures": total}

    def paddings(self) -> dict[str, Any]:
        """Fig. 14: one token, read over each padding of its context; and trained over each, read as trained."""
        found: dict[str, Any] = {}
        for name in self.config.paddings:

            def work(name: str = name) -> dict[str, Any]:
                rows, padding = self.token
                read = engine.scores(engine.part_maps(self.judged, rows, name, text=self.text), self.held_out.truth)
                own, trained = self.train(self.trained_on, self.training.masks, padding=name, softmax="auto")
                maps = engine.part_maps(self.judged, own, trained, text=self.text)
                own_scores = engine.scores(maps, self.held_out.truth)
                return {"read": read, "read_trained_over": padding, "trained": own_scores}

            self.log(f"padding {name}")
            found[name] = self.keep(f"padding {name}", {}, work)
        return {"paddings": found}

    def omega(self) -> dict[str, Any]:
        """Fig. 13: the adaptive threshold's ω, beside Otsu's alone."""

        def work() -> dict[str, Any]:
            maps = self.seen_by_token(self.judged)
            each = {
                f"{omega:g}": float(engine.map_ious(maps, self.held_out.truth, omega)["adaptive"].mean())
                for omega in self.config.omegas
            }
            return {"adaptive": each, "otsu": engine.scores(maps, self.held_out.truth)["otsu"]}

        self.log("omega")
        return self.keep("omega", self.config.omegas, work)

    def word(self) -> dict[str, Any]:
        """The word's own attention, over all layers and over the chosen ones.

        Raises:
            StudyMissing: no word or no prompt is named.
        """
        word, prompt = self.config.word, self.config.prompt
        if not word or not prompt:
            raise StudyMissing("set 'word' and a 'prompt' that holds it")

        def work() -> dict[str, Any]:
            sets = {"all layers": engine.layers_of(self.model, "all"), "chosen layers": self.chosen_layers}
            prompts = [prompt] * len(self.held_out)
            maps = engine.word_maps(
                self.model, self.clip, self.held_out.latents, prompts, word, self.judged.sigmas, JUDGE_SEED, sets
            )
            own = engine.scores(self.seen_by_token(self.judged), self.held_out.truth)
            return {**{name: engine.scores(one, self.held_out.truth) for name, one in maps.items()}, "token": own}

        self.log("the word's own attention")
        return self.keep("word", [word, prompt], work)

    def sam(self) -> dict[str, Any]:
        """Fig. 23: SAM with one point inside the part, each of its readings, beside the token.

        Raises:
            StudyMissing: no SAM checkpoint is there.
        """
        if not self.config.sam:
            raise StudyMissing("no SAM checkpoint is named under 'sam'")
        if not Path(self.config.sam).is_file():
            raise StudyMissing(f"the SAM checkpoint {self.config.sam} does not exist")

        def work() -> dict[str, Any]:
            from partedit_oir.core.vision.sam import SamModel

            try:
                sam = SamModel.from_file(self.config.sam)
            except (ImportError, ValueError) as error:
                raise StudyMissing(str(error)) from error
            readings: list[list[float]] = []
            rated: list[float] = []
            for image, true in zip(self.held_out.images, self.held_out.truth):
                masks, ratings = sam.readings(image, engine.inner_point(true))
                each = engine.iou(masks.cpu(), true[None].expand(len(masks), -1, -1)).tolist()
                readings.append(each)
                rated.append(each[int(ratings.argmax())])
            heads = [float(np.mean(head)) for head in zip(*readings)]
            best = float(np.mean([max(each) for each in readings]))
            own = engine.scores(self.seen_by_token(self.judged), self.held_out.truth)
            return {"readings": heads, "rated best": float(np.mean(rated)), "best of three": best, "token": own}

        self.log("SAM with one point")
        return self.keep("sam", self.config.sam, work)

    def run(self, name: str) -> dict[str, Any]:
        """One study by its name.

        Raises:
            StudyMissing: see the study.
        """
        return {"pictures": self.pictures_study}.get(name, getattr(self, name, None))()  # type: ignore[misc]
