"""Reassembly: what must hold whatever the weights are."""

from __future__ import annotations

import pytest
import torch

from support.stand_ins import (
    SOURCE,
    FakeClip,
    FakeVae,
    latent,
    make_pair,
    make_trajectory,
    progress_bars,
    prompt_conditioning,
    relative_error,
    two_objects,
)

STEPS = 10
CFG = 3.0


@pytest.fixture(scope="module")
def oir(pack):
    from partedit_oir.core.oir import reassembly

    return reassembly


@pytest.fixture(scope="module")
def setting(pack):
    return two_objects(STEPS)


def run(oir, setting, pairs, steps, target, **settings):
    from partedit_oir.core.oir.types import StepSearch

    model, trajectory, _ = setting
    search = StepSearch.fixed(pairs, steps, steps=trajectory.steps, cfg=CFG)
    options = oir.ReassemblySettings(cfg=CFG, **settings)
    return oir.reassemble(model, trajectory, search, prompt_conditioning(target), options)


def candidate(setting, pair, n):
    from partedit_oir.core.oir.making import make_candidates

    return make_candidates(setting[0], setting[1], pair, [n], cfg=CFG, batch_size=1)[0][n]


@pytest.mark.parametrize("reassembly", [0, 2, 7])
def test_a_single_pair_over_the_whole_picture_is_its_candidate(oir, setting, reassembly):
    pair = make_pair("cat", "tiger", torch.ones(64, 96))
    result = run(oir, setting, [pair], [7], pair.guided_prompt, reassembly=reassembly, reinversion=0.0)
    assert relative_error(result.latent, candidate(setting, pair, 7)) < 1e-5
    assert result.unet_rows == 2 * 7


@pytest.mark.parametrize("family", ["sdxl", "sd2", "sdxl-v"])
def test_other_families_search_and_reassemble(oir, family):
    """SDXL with its pooled embedding, v-prediction: one pair over the whole picture gives its searched candidate."""
    from partedit_oir.core.decoding import picture_decoder
    from partedit_oir.core.inversion.invert import invert
    from partedit_oir.core.inversion.schedule import model_sampling_of, spaced_sigmas
    from partedit_oir.core.oir.making import make_candidates
    from partedit_oir.core.oir.search import search_steps
    from partedit_oir.core.oir.search_settings import SearchSettings
    from partedit_oir.core.oir.types import Pair
    from support.stand_ins import FakeScorer
    from support.tiny_models import text_conditioning, tiny_sd, tiny_sdxl

    model = tiny_sd("sd2") if family == "sd2" else tiny_sdxl(v_prediction=family == "sdxl-v")

    def text(prompt):
        return text_conditioning(prompt, 1024, pooled=0) if family == "sd2" else text_conditioning(prompt)

    sigmas = spaced_sigmas(model_sampling_of(model), 4)
    trajectory = invert(model, latent(), text(SOURCE), sigmas=sigmas, source_prompt=SOURCE)
    guided = "a tiger and a chair"
    pair = Pair(SOURCE, "cat", "tiger", guided, torch.ones(64, 64), text(guided), (2, 5))
    search = search_steps(
        model, trajectory, [pair], picture_decoder(FakeVae()), FakeScorer(), SearchSettings(cfg=CFG, first=3)
    )
    settings = oir.ReassemblySettings(cfg=CFG, reassembly=1, reinversion=0.0)
    result = oir.reassemble(model, trajectory, search, text(guided), settings)
    n = search.chosen[0]
    expected = make_candidates(model, trajectory, pair, [n], cfg=CFG, batch_size=1)[0][n]
    assert relative_error(result.latent, expected) < 1e-5
    assert relative_error(result.latent, trajectory.latent_image) > 1e-3


def test_order_of_the_pairs_changes_nothing_when_masks_do_not_meet(oir, setting):
    """Each pair keeps its own prompt and step, whichever way they are listed."""
    pairs = setting[2]
    one = run(oir, setting, pairs, [8, 4], "a tiger and a throne")
    other = run(oir, setting, pairs[::-1], [4, 8], "a tiger and a throne")
    swapped = run(oir, setting, pairs, [4, 8], "a tiger and a throne")
    assert relative_error(other.latent, one.latent) < 1e-5
    assert relative_error(swapped.latent, one.latent) > 1e-3


def test_the_splice_takes_each_region_from_its_pair(oir, setting):
    _, trajectory, pairs = setting
    both = run(oir, setting, pairs, [8, 4], "a tiger and a throne", reassembly=2)
    alone = [run(oir, setting, [pair], [n], "a tiger and a throne", reassembly=2) for pair, n in zip(pairs, [8, 4])]
    assert torch.allclose(both.spliced[..., :5], alone[0].spliced[..., :5])
    assert torch.allclose(both.spliced[..., 5:], alone[1].spliced[..., 5:])
    assert torch.equal(alone[0].spliced[..., 5:], trajectory.at(2)[..., 5:]), "the rest is the inverted background"


@pytest.mark.parametrize("overlap", ["first", "last", "blend"])
def test_overlapping_masks_are_not_summed(oir, setting, overlap):
    """Two pairs that want the same over the whole picture give what one of them gives."""
    whole = [make_pair("cat", "tiger", torch.ones(64, 96)) for _ in range(2)]
    one = run(oir, setting, whole[:1], [6], "a tiger and a chair")
    two = run(oir, setting, whole, [6, 6], "a tiger and a chair", overlap=overlap)
    assert relative_error(two.latent, one.latent) < 1e-5


def test_priority_decides_where_masks_overlap(oir, setting):
    whole = [make_pair("cat", "tiger", torch.ones(64, 96)), make_pair("chair", "throne", torch.ones(64, 96))]
    target = "a tiger and a throne"
    alone = [run(oir, setting, [pair], [6], target).latent for pair in whole]
    assert relative_error(run(oir, setting, whole, [6, 6], target, overlap="first").latent, alone[0]) < 1e-5
    assert relative_error(run(oir, setting, whole, [6, 6], target, overlap="last").latent, alone[1]) < 1e-5


@pytest.mark.parametrize("steps", [[1, 8], [3, 3], [0, 2], [4, 10]])
def test_pairs_at_or_below_the_reassembly_step_work(oir, setting, steps, monkeypatch):
    bars = progress_bars(monkeypatch)
    result = run(oir, setting, setting[2], steps, "a tiger and a throne", reassembly=4, reinversion=1)
    assert bool(torch.isfinite(result.latent).all())
    low, level = [n for n in steps if n < 4], 4
    per_pair = sum(2 * (n - level) for n in steps if n > level) + sum(2 * n + level for n in low)
    assert result.unet_rows == per_pair + 1 + 2 * (level + 1)
    (bar,) = bars
    assert bar.current == bar.total == sum(n - level if n >= level else n + level for n in steps) + 1 + level + 1


def test_a_pair_at_the_reassembly_step_enters_as_the_inverted_image(oir, setting):
    _, trajectory, pairs = setting
    result = run(oir, setting, pairs, [4, 4], "a tiger and a throne", reassembly=4)
    assert torch.allclose(result.spliced, trajectory.at(4), atol=1e-6)


def test_levels_as_fractions_and_as_steps(oir):
    assert oir.whole_steps(0.2, 50, "reassembly") == oir.whole_steps(10, 50, "reassembly") == 10
    assert oir.whole_steps(0.0, 50, "x") == 0 and oir.whole_steps(1.0, 50, "x") == 1
    for bad in (-0.1, 1.5, 51):
        with pytest.raises(ValueError, match=f"reassembly: expected .* got {bad}"):
            oir.whole_steps(bad, 50, "reassembly")


def test_levels_beyond_the_trajectory_are_refused(oir, setting):
    with pytest.raises(ValueError, match=r"reassembly, reinversion: 6 and 5 steps"):
        run(oir, setting, setting[2], [8, 8], "x", reassembly=6, reinversion=5)
    with pytest.raises(
        ValueError, match=r"^overrides: 11 is outside .* has steps 1 to 10 .*Give a step in that range, or 'auto'"
    ):
        run(oir, setting, setting[2], [8, 11], "x")


def test_reinversion_takes_part(oir, setting):
    pairs = setting[2]
    results = [run(oir, setting, pairs, [8, 4], "a tiger and a throne", reinversion=n).latent for n in (0, 3)]
    assert relative_error(results[1], results[0]) > 1e-3


def test_paste_back_returns_the_image_outside_the_masks(oir, setting):
    from partedit_oir.core.paste_back import PasteBack

    _, trajectory, pairs = setting
    result = run(oir, setting, pairs[:1], [8], "a tiger and a chair", paste_back=PasteBack(latent=True), feather=1.0)
    plain = run(oir, setting, pairs[:1], [8], "a tiger and a chair")
    assert relative_error(result.latent[..., 8:], trajectory.latent_image[..., 8:]) < 1e-6
    assert relative_error(plain.latent[..., 8:], trajectory.latent_image[..., 8:]) > 1e-4
    assert relative_error(result.latent[..., :5], plain.latent[..., :5]) < 1e-6


def execute(setting, search, **options):
    from partedit_oir.nodes.reassemble import OIRReassemble

    inputs = {
        "cfg": CFG,
        "reassembly": 0.2,
        "reinversion": 0.2,
        "overlap": "first",
        "paste_back": False,
        "pixel_composite": False,
        "feather": 8.0,
        "target_prompt": "",
        "overrides": "",
        "vae": FakeVae(),
    }
    model, trajectory, _ = setting
    return OIRReassemble.execute(model=model, trajectory=trajectory, search=search, **{**inputs, **options}).args


def test_node_builds_the_target_prompt_and_composites_pixels(oir, setting):
    from partedit_oir.core.oir.types import StepSearch

    pairs = setting[2][:1]
    search = StepSearch.fixed(pairs, [8], steps=STEPS, cfg=CFG)
    clip = FakeClip()
    samples, picture, prompt = execute(setting, search, clip=clip)
    assert prompt == "a tiger and a chair" and clip.encoded == [prompt]
    expected = run(oir, setting, pairs, [8], prompt)
    assert relative_error(samples["samples"], expected.latent) < 1e-5
    assert picture.shape == (1, 64, 96, 3)

    original = torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(0))
    composed = execute(setting, search, clip=clip, pixel_composite=True, image=original, feather=4.0)[1]
    assert torch.allclose(composed[:, :, 48:], original[:, :, 48:])
    assert torch.allclose(composed[:, :, :40], picture[:, :, :40])


def test_node_takes_conditioning_and_overrides(oir, setting):
    from partedit_oir.core.oir.types import StepSearch

    pairs = setting[2]
    search = StepSearch.fixed(pairs, [8, 4], steps=STEPS, cfg=CFG)
    target = prompt_conditioning("a tiger and a throne")
    samples, _, prompt = execute(setting, search, target=target, overrides="auto, 6")
    assert prompt == ""
    expected = run(oir, setting, pairs, [8, 6], "a tiger and a throne")
    assert relative_error(samples["samples"], expected.latent) < 1e-5
    assert search.chosen == (8, 4), "the search itself is left as it was"


def test_node_names_what_is_missing(oir, setting):
    from partedit_oir.core.oir.types import StepSearch

    search = StepSearch.fixed(setting[2], [8, 4], steps=STEPS, cfg=CFG)
    with pytest.raises(ValueError, match=r"^clip: not connected"):
        execute(setting, search)
    with pytest.raises(ValueError, match=r"^image: not connected, but pixel_composite"):
        execute(setting, search, clip=FakeClip(), pixel_composite=True)


def test_what_cannot_work_is_refused_before_sampling(oir, setting, monkeypatch):
    import comfy.samplers

    from partedit_oir.core.oir.types import StepSearch

    def pick(pairs=setting[2], chosen=(8, 4), steps=STEPS):
        return StepSearch.fixed(pairs, chosen, steps=steps, cfg=CFG)

    two = (setting[0], make_trajectory(setting[0], 2, latent(8, 12, batch=2)), None)
    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", lambda *a, **k: pytest.fail("sampling started"))
    compose = {"clip": FakeClip(), "pixel_composite": True}
    with pytest.raises(ValueError, match=r"^image: the original is 8×8, but the edit is 96×64"):
        execute(setting, pick(), image=torch.zeros(1, 8, 8, 3), **compose)
    with pytest.raises(ValueError, match=r"^image: .* got a batch of 2"):
        execute(setting, pick(), image=torch.zeros(2, 64, 96, 3), **compose)
    with pytest.raises(ValueError, match=r"^vae: is empty"):
        execute(setting, pick(), clip=FakeClip(), vae=None)
    with pytest.raises(ValueError, match=r"^search: is of a trajectory with 50 steps, but the connected one has 10"):
        execute(setting, pick(steps=50), clip=FakeClip())
    with pytest.raises(ValueError, match=r"^target: its text embedding is 2048 wide"):
        execute(setting, pick(), target=[[torch.zeros(1, 77, 2048), {}]])
    tall = [make_pair("cat", "tiger", torch.ones(96, 64)), setting[2][1]]
    with pytest.raises(ValueError, match=r"^mask of 'cat' → 'tiger': the mask is 64×96 .* the image is 96×64"):
        execute(setting, pick(pairs=tall), clip=FakeClip())
    noisy = (setting[0], make_trajectory(setting[0], 2, latent(8, 12), method="ledits_pp"), None)
    with pytest.raises(ValueError, match=r"^trajectory: was inverted with ledits_pp, .* Choose a ddim method"):
        execute(noisy, pick(chosen=(1, 1), steps=2), clip=FakeClip())
    with pytest.raises(ValueError, match="has 2 images, but OIR edits one at a time"):
        execute(two, pick(chosen=(1, 1), steps=2), clip=FakeClip())


def test_a_stopped_reassembly_leaves_the_model_as_it_was(oir, setting, monkeypatch):
    """The cancel button in every phase: a pair's denoising, the inversion of a low pair, re-inversion, the end."""
    import comfy.model_management
    import comfy.utils

    interrupt = comfy.model_management.InterruptProcessingException
    model, _, pairs = setting
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    expected = run(oir, setting, pairs, [5, 1], "a tiger and a throne", reassembly=3, reinversion=1)
    steps = 2 + (1 + 3) + 1 + 4
    for stop in (1, 4, steps - 4, steps - 1):

        class Cancelling(comfy.utils.ProgressBar):
            def update(self, value, stop=stop):
                super().update(value)
                if self.current == stop:
                    comfy.model_management.interrupt_current_processing(True)

        monkeypatch.setattr(comfy.utils, "ProgressBar", Cancelling)
        try:
            with pytest.raises(interrupt):
                run(oir, setting, pairs, [5, 1], "a tiger and a throne", reassembly=3, reinversion=1)
        finally:
            comfy.model_management.interrupt_current_processing(False)
            monkeypatch.undo()
        assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
        assert not model.patches and not any(model.wrappers.values())
    again = run(oir, setting, pairs, [5, 1], "a tiger and a throne", reassembly=3, reinversion=1)
    assert torch.equal(again.latent, expected.latent)


def test_inversion_node_needs_words_from_somewhere(pack, setting, monkeypatch):
    from partedit_oir.nodes import inversion
    from partedit_oir.nodes.inversion import InvertLatent

    model = setting[0]
    inputs = (model, {"samples": latent()}, "", "ddim_next_timestep", 4, 1.0, 0, "leading", 3, "none")
    with pytest.raises(ValueError, match=r"^source_prompt: is empty.*captioners"):
        InvertLatent.execute(*inputs, clip=FakeClip())
    for name in ("blip", "../blip"):  # before the prompt is queued as well, where it is no link
        with pytest.raises(ValueError, match=f"^captioner: no folder '{name}' with a BLIP model"):
            InvertLatent.execute(*inputs[:-1], name, clip=FakeClip(), image=torch.zeros(1, 8, 8, 3))
        assert str(InvertLatent.validate_inputs(name)).startswith(f"captioner: no folder '{name}'")
    with monkeypatch.context() as there:
        there.setattr(inversion, "captioner_folders", lambda roots: ["blip"])
        there.setattr(inversion, "model_folder", lambda *_: None)
        with pytest.raises(ValueError, match=r"^image: not connected\. The captioner"):
            InvertLatent.execute(*inputs[:-1], "blip", clip=FakeClip())
    with pytest.raises(ValueError, match=r"^clip: not connected"):
        InvertLatent.execute(model, {"samples": latent()}, SOURCE, *inputs[3:])


def test_inversion_node_gives_a_trajectory_and_the_prompt(pack, setting):
    from partedit_oir.nodes.inversion import InvertLatent

    inputs = (setting[0], {"samples": latent()}, f" {SOURCE} ", "ddim_next_timestep", 4, 1.0, 0, "leading", 3, "none")
    trajectory, prompt = InvertLatent.execute(*inputs, clip=FakeClip()).args
    assert prompt == trajectory.source_prompt == SOURCE and trajectory.steps == 4
    assert torch.equal(trajectory.latents, make_trajectory(setting[0], 4).latents)
    custom = InvertLatent.execute(*inputs, clip=FakeClip(), sigmas=torch.tensor([5.0, 1.0, 0.0])).args[0]
    assert custom.sigmas.tolist() == pytest.approx([5.0, 1.0, 0.0292], abs=1e-4)
