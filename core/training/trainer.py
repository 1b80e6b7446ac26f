"""The optimisation of a part token on cached queries: `Trainer`, one run of it."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .losses import masks_by_grid, token_loss
from .maps import cached_part_maps, map_iou, part_logits
from .query_cache import Progress, QueryCache
from .settings import TrainingReport, TrainingSettings, batch_of, checked_masks, split_pictures
from .state import TrainingState, load_state, same_pictures, save_state
from .views import VIEWS, TrainingView, Watch

# Root-mean-square change of a map's logits, in nats, made by the first step at a nominal learning rate of 30 under the
# rule "logit".
LOGIT_STEP_AT_30 = 3.0
PAPER_LEARNING_RATE = 30.0
# Settings that may differ between a stopped run and the one that resumes it.
FREE_SETTINGS = ("steps", "rows", "cache_device", "save_every", "init", "patience")


class Trainer:
    """State of one optimisation; see `training.train_on_cache`."""

    def __init__(
        self,
        cache: QueryCache,
        masks: torch.Tensor,
        settings: TrainingSettings,
        init_scale: float,
        sources: Sequence[int] | None,
        device: torch.device,
        state_file: Path | None,
        prints: torch.Tensor | None,
        text: torch.Tensor | None,
    ):
        on_device = {layer: weight.to(device) for layer, weight in cache.key_weights.items()}
        self.cache = dataclasses.replace(cache, key_weights=on_device)
        self.settings, self.device, self.state_file = settings, device, state_file
        self.prints = torch.empty(0) if prints is None else prints
        # A copy, because autograd refuses tensors made in inference mode.
        self.sources = None if sources is None else list(sources)
        self.text = None if text is None else text.detach().clone().float().to(device)
        self.masks = checked_masks(masks, cache.pictures, len(settings.part_names))
        self.targets = {grid: mask.to(device) for grid, mask in masks_by_grid(cache, self.masks).items()}
        self.training, self.judged, self.held_out = split_pictures(self.masks, sources, settings)
        self.report = TrainingReport(held_out=self.held_out)
        generator = torch.Generator().manual_seed(settings.seed)
        rows = torch.randn((1 + len(settings.part_names), cache.width), generator=generator) * init_scale
        if settings.init is not None:
            parts, given = len(settings.part_names), tuple(settings.init.shape)
            if given not in ((1, cache.width), (parts, cache.width)):
                raise ValueError(
                    f"init_words: expected one row, or one per part ({parts}), {cache.width} wide, got {given}."
                )
            rows[1:] = settings.init.detach().clone().float().cpu()
        self.rows = torch.nn.Parameter(rows.to(device))
        unit = self._logit_unit() if settings.learning_rate_rule == "logit" else 1.0
        self.report.effective_learning_rate = settings.learning_rate * unit
        # Under the rule, each step decays by `weight_decay`, whatever the scale of the embeddings: at the paper's
        # nominal rate, AdamW's own product with the rate would be 30 % per step.
        decay = settings.weight_decay
        if settings.learning_rate_rule == "logit":
            decay /= PAPER_LEARNING_RATE * unit
        self.optimizer = torch.optim.AdamW([self.rows], lr=self.report.effective_learning_rate, weight_decay=decay)
        self.best = (-1.0, 0, rows.clone())
        self.maps: torch.Tensor | None = None  # of the held-out images, as last evaluated
        self.start = self._resume()

    def run(
        self,
        progress: Progress | None = None,
        watch: Watch | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> tuple[torch.Tensor, TrainingReport]:
        settings, started = self.settings, time.perf_counter()
        waited = 0
        step = self.start
        while step < settings.steps:
            if progress is not None:
                progress(step, settings.steps)
            self._step(step)
            step += 1
            by_hand = stop is not None and stop()
            last = by_hand or step == settings.steps
            evaluated = last or step % settings.evaluate_every == 0
            if evaluated:
                waited = 0 if self._evaluate(step) else waited + 1
            if watch is not None:
                watch(self._view(step, evaluated))
            tired = bool(settings.patience and self.held_out and waited >= settings.patience)
            if self.state_file is not None and (step % settings.save_every == 0 or last or tired):
                self._save(step)
            if by_hand or tired:
                self.report.stopped_by = "hand" if by_hand else "patience"
                break
        if progress is not None:
            progress(settings.steps, settings.steps)
        self.report.stopped_at, self.report.best_step = step, self.best[1]
        self.report.seconds_training = time.perf_counter() - started
        with torch.no_grad():
            rows = self.best[2].to(self.device)
            maps = self._seen(rows, self.judged).cpu()
            iou = map_iou(maps, self.masks[self.judged])
        self.report.maps = maps
        self.report.part_iou = {name: float(value) for name, value in zip(settings.part_names, iou, strict=True)}
        return rows.detach().float().cpu().clone(), self.report

    def _step(self, step: int) -> None:
        settings = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = self.report.effective_learning_rate * settings.lr_gamma ** (step // settings.lr_step)
        loss = self._loss(batch_of(self.training, step, settings.batch_size, settings.seed))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        value = float(loss.detach())
        if not math.isfinite(value) or not torch.isfinite(self.rows).all():
            raise ValueError(
                f"learning_rate: the loss is NaN or infinite at step {step}. Lower the rate (now "
                f"{settings.learning_rate:g}), or check that the model itself gives no NaNs."
            )
        self.report.losses.append(value)

    def _loss(self, chosen: list[int]) -> torch.Tensor:
        return token_loss(self.cache, self.rows, self.targets, chosen, self.settings, self.text)

    def _logit_unit(self) -> float:
        """Learning rate, per nominal 1, whose first step changes the logits as `LOGIT_STEP_AT_30` says.

        Adam's first step is the gradient's sign; its effect on a logit depends on the scale of the model's queries and
        key weights and on the embedding's width. Measuring it makes one nominal rate work for all models.
        """
        chosen = self.training[:8]
        (gradient,) = torch.autograd.grad(self._loss(chosen), [self.rows])
        with torch.no_grad():
            squares = count = 0.0
            for logits in part_logits(self.cache, gradient.sign(), chosen):
                change = logits[..., 1:, :] - logits[..., :1, :]
                change = change - change.mean(dim=-1, keepdim=True)
                squares += float(change.square().sum())
                count += change.numel()
        change = math.sqrt(squares / count)
        if not math.isfinite(change):
            raise ValueError(
                "model: its queries contain NaN or infinite values. Check that it generates images at all."
            )
        if not change > 0:
            raise ValueError(
                "masks: give this model's queries nothing to learn from (the gradient is zero). Check that they fit "
                "the images."
            )
        return LOGIT_STEP_AT_30 / PAPER_LEARNING_RATE / change

    def _seen(self, rows: torch.Tensor, pictures: list[int]) -> torch.Tensor:
        """Maps (n, P, h, w) as an edit reads them by default: with the padding the token is trained with."""
        return cached_part_maps(self.cache, rows, pictures, self.settings.trained_padding, text=self.text)

    def _evaluate(self, step: int) -> bool:
        """Record the IoU; True if it is the best so far."""
        with torch.no_grad():
            seen = self.training[: max(8, len(self.held_out))]
            train_iou = float(map_iou(self._seen(self.rows, seen), self.masks[seen]).mean())
            held_iou = None
            if self.held_out:
                self.maps = self._seen(self.rows, self.judged)
                held_iou = float(map_iou(self.maps, self.masks[self.judged]).mean())
        self.report.evaluations.append((step, train_iou, held_iou))
        # Without held-out images the last rows are returned: the best on training images would be overfitted.
        score = held_iou if held_iou is not None else float(step)
        if score <= self.best[0]:
            return False
        self.best = (score, step, self.rows.detach().float().cpu().clone())
        return True

    def _view(self, step: int, evaluated: bool) -> TrainingView:
        maps = None
        if evaluated:
            with torch.no_grad():
                maps = self._seen(self.rows, self.judged[:VIEWS]) if self.maps is None else self.maps[:VIEWS]
            maps = maps.float().cpu()
        return TrainingView(step, self.settings.steps, self.report, self.best[1], self.judged[:VIEWS], maps)

    def _fingerprint(self) -> str:
        shown = {key: value for key, value in dataclasses.asdict(self.settings).items() if key not in FREE_SETTINGS}
        shown["init"] = None if self.settings.init is None else float(self.settings.init.double().sum())
        if self.text is not None:
            # Even where no padding reads it, the queries follow the prompt.
            text = self.text.double().cpu()
            places = torch.arange(text.numel(), dtype=torch.float64).cos().view(text.shape)
            shown["text"] = [
                tuple(text.shape),
                f"{float(text.abs().sum()):.5g}",
                f"{float((text * places).abs().sum()):.5g}",
            ]
        eight_bit = (self.masks.float() * 255).round().to(torch.uint8).contiguous().cpu()
        shown["masks"] = (tuple(eight_bit.shape), hashlib.sha256(eight_bit.numpy().tobytes()).hexdigest())
        shown["pictures"] = (self.cache.pictures, self.sources)
        shown["layers"] = [str(layer) for layer in self.cache.layers]
        shown["model"] = [f"{float(weight.norm()):.4g}" for weight in self.cache.key_weights.values()]
        return repr(sorted(shown.items()))

    def _save(self, step: int) -> None:
        assert self.state_file is not None
        moments = self.optimizer.state[self.rows]
        state = TrainingState(
            step=step,
            rows=self.rows.detach().cpu(),
            moment1=moments["exp_avg"].cpu(),
            moment2=moments["exp_avg_sq"].cpu(),
            best_rows=self.best[2],
            best_score=self.best[0],
            best_step=self.best[1],
            losses=self.report.losses,
            evaluations=self.report.evaluations,
            fingerprint=self._fingerprint(),
            pictures=self.prints,
        )
        save_state(state, self.state_file)

    def _resume(self) -> int:
        if self.state_file is None or not self.state_file.is_file():
            return 0
        state = load_state(self.state_file, tuple(self.rows.shape))
        if state is None or state.fingerprint != self._fingerprint() or state.step > self.settings.steps:
            return 0
        if not same_pictures(state.pictures, self.prints):
            return 0
        with torch.no_grad():
            self.rows.copy_(state.rows)
        self.optimizer.state[self.rows] = {
            "step": torch.tensor(float(state.step)),
            "exp_avg": state.moment1.to(self.device),
            "exp_avg_sq": state.moment2.to(self.device),
        }
        self.best = (state.best_score, state.best_step, state.best_rows)
        self.report.losses, self.report.evaluations = list(state.losses), list(state.evaluations)
        self.report.resumed_from = state.step
        return state.step
