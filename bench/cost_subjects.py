"""What `bench.cost` times: part edits of the demo's model, or of a drawn one, and how seconds are counted."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

CFG = 7.5
Work = Callable[[], Any]


@dataclass(frozen=True)
class Clock:
    """How seconds are counted: ``wall``, or ``cpu`` for the CPU time of this process."""

    kind: str
    device: torch.device

    def seconds(self, work: Work) -> float:
        """Of one run of ``work``."""
        self._wait()
        now = time.process_time if self.kind == "cpu" else time.perf_counter
        start = now()
        work()
        self._wait()
        return now() - start

    def ratio(self, work: Work, base: Work, rounds: int) -> dict[str, float]:
        """Median, lowest and highest of ``work`` / ``base`` over ``rounds`` pairs of runs, after one of each."""
        work(), base()
        return self.ratios({"work": work, "base": base}, "base", rounds)["work"]

    def ratios(self, works: Mapping[str, Work], base: str, rounds: int) -> dict[str, dict[str, float]]:
        """The same for each of ``works`` but the one called ``base``; all run once a round, in turning order."""
        names, found, seconds = list(works), defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
        for _ in range(rounds):
            took = {name: self.seconds(works[name]) for name in names}
            names.reverse()
            for name in works:
                found[name].append(took[name] / took[base])
                seconds[name].append(took[name])
        return {
            name: {
                "ratio": round(median(ratios), 4),
                "lowest": round(min(ratios), 4),
                "highest": round(max(ratios), 4),
                "seconds": round(median(seconds[name]), 4),
            }
            for name, ratios in found.items()
            if name != base
        }

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Subject:
    """A model with a source prompt, edits of it and a part token.

    Attributes:
        side: of the latent; steps, batch: of the runs.
    """

    model: Any
    token: Any
    prompt: Any
    negative: Any
    side: int
    steps: int = 4
    batch: int = 1

    def at(self, **changes: Any) -> Subject:
        """The same with another ``side``, ``steps`` or ``batch``."""
        return replace(self, **changes)

    def edits(self, count: int, follow: bool = True) -> Any:
        """The EditPrompt with the first ``count`` edits; ``follow``: with prompt-to-prompt."""
        prompt = self.prompt.subset(0, count)
        if follow:
            return prompt
        each = (replace(one, prompts=tuple(replace(p, alignment=None) for p in one.prompts)) for one in prompt.edits)
        return replace(prompt, edits=tuple(each))

    def edit(self, prompt: Any, trajectory: Any = None, **settings: Any) -> Any:
        """Run a part edit."""
        from partedit_oir.core.partedit.feature_blend import SampleSettings, feature_blend
        from partedit_oir.core.partedit.settings import BlendInputs, BlendSettings

        inputs = BlendInputs(prompt, self.token, settings=BlendSettings(**settings))
        latent = None if trajectory is not None else {"samples": self._empty(self.batch)}
        return feature_blend(
            self.model, inputs, self.negative, latent, SampleSettings(steps=self.steps, cfg=CFG), trajectory
        )

    def rows(self, count: int) -> torch.Tensor:
        """Plain sampling of the source and the first edits: ``count`` prompts, each with and without text."""
        import comfy.sample

        prompts = [self.prompt.source, *(edit.prompts[0].conditioning for edit in self.prompt.edits)][:count]
        text = torch.cat([entries[0][0] for entries in prompts]).repeat_interleave(self.batch, dim=0)
        pooled = torch.cat([entries[0][1]["pooled_output"] for entries in prompts]).repeat_interleave(self.batch, dim=0)
        latent = self._empty(count * self.batch)
        noise = comfy.sample.prepare_noise(latent, 0)
        positive = [[text, {"pooled_output": pooled}]]
        return comfy.sample.sample(
            self.model, noise, self.steps, CFG, "euler", "normal", positive, self.negative, latent, disable_pbar=True
        )

    def _empty(self, rows: int) -> torch.Tensor:
        return torch.zeros(rows, 4, self.side, self.side)


def demo_subject() -> tuple[Subject, Any]:
    """The demo checkpoint, and its studio."""
    from demo.training.parts import DEMO_PARTS
    from demo.training.studio import Studio

    studio, part = Studio(), DEMO_PARTS[0]
    from partedit_oir.core.partedit.alignment import FollowSettings
    from partedit_oir.core.partedit.prompt import build_edit_prompt

    name = part.names[0]
    colours = ("blue", "green", "yellow", "orange", "purple", "black", "white", "pink")
    edits = [f"a {colour} {name} in the snow" for colour in colours]
    prompt = build_edit_prompt(studio.clip, f"a red {name} in the snow", edits, FollowSettings())
    return Subject(studio.model, studio.token(part), prompt, studio.text(""), 32), studio


def drawn_subject(width: int, side: int, device: str) -> Subject:
    """An SDXL UNet with drawn weights, drawn prompts and a drawn token."""
    from .token_cost import CONTEXT, POOLED, drawn_model

    model = drawn_model(width, device)
    from partedit_oir.core.partedit.alignment import Alignment
    from partedit_oir.core.partedit.prompt import Edit, EditPrompt, PartPrompt
    from partedit_oir.core.partedit.tokens import PartToken

    generator = torch.Generator().manual_seed(2)

    def text() -> Any:
        pooled = torch.randn((1, POOLED), generator=generator)
        return [[torch.randn((1, 77, CONTEXT), generator=generator), {"pooled_output": pooled}]]

    shares = torch.ones(77, dtype=torch.float64)
    shares[4:6] = 0.4  # the changed words', by default
    follow = Alignment(torch.eye(77), torch.zeros(77), torch.ones(77), shares, 0.0, "")
    edits = tuple(Edit((PartPrompt(f"edit {n}", text(), follow),)) for n in range(8))
    prompt = EditPrompt("source", text(), edits)
    token = PartToken(torch.randn((2, CONTEXT), generator=generator), (1,), ("part",))
    return Subject(model, token, prompt, text(), side)
