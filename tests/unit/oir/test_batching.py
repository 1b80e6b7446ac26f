"""Candidates of different lengths in one batch: results and cost."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from support.stand_ins import (
    SOURCE,
    latent,
    make_pair,
    make_trajectory,
    prompt_conditioning,
    relative_error,
    sd1_shaped_model,
)


@pytest.fixture(scope="module")
def batching(pack):

    from partedit_oir.core.oir import batching as module

    return module


def count_passes(batching, lengths, batch_size, mixed=True):
    """Run jobs of the given lengths with a model that does nothing; rows of every pass."""
    sizes = []
    steps = max(lengths, default=1)
    sigmas = torch.linspace(10, 1, steps + 1)
    jobs = [batching.Job(k, torch.zeros(1, 1, 1), range(steps - n, steps + 1)) for k, n in enumerate(lengths)]
    done = []

    class Nothing(SimpleNamespace):
        def __call__(self, x, sigma):
            if not mixed:
                assert len(set(sigma.tolist())) == 1
            return x

    batching.run_jobs(
        Nothing(device=torch.device("cpu"), mixed_sigmas=mixed),
        jobs,
        sigmas,
        batch_size,
        on_done=lambda key, x: done.append(key),
        on_pass=sizes.append,
    )
    assert sorted(done) == list(range(len(lengths)))
    return sizes


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 10, 25, 26, 64])
def test_fifty_candidates_take_as_few_passes_as_possible(batching, batch_size):
    sizes = count_passes(batching, list(range(1, 51)), batch_size)
    assert sum(sizes) == 1275 and max(sizes) <= batch_size
    assert len(sizes) == max(50, math.ceil(1275 / batch_size))


@pytest.mark.parametrize("lengths", [[3, 2, 1], [5, 5, 5], [9, 1, 1, 1], [4, 4, 3, 3, 3], [7], [0, 2]])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_any_lengths_take_as_few_passes_as_possible(batching, lengths, batch_size):
    sizes = count_passes(batching, lengths, batch_size)
    assert len(sizes) == max(*lengths, math.ceil(sum(lengths) / batch_size), 0)


def test_rows_can_be_kept_at_one_sigma(batching):
    sizes = count_passes(batching, list(range(1, 11)), 4, mixed=False)
    assert sum(sizes) == 55
    assert len(sizes) == sum(math.ceil(k / 4) for k in range(1, 11))


@pytest.fixture(scope="module")
def setting(pack):
    model = sd1_shaped_model(4)
    mask = torch.zeros(64, 64)
    mask[:, :32] = 1.0
    return model, make_trajectory(model, 25, latent()), make_pair("cat", "tiger", mask)


def candidates(setting, steps, batch_size, pair=None):
    from partedit_oir.core.oir.making import make_candidates

    model, trajectory, own = setting
    return make_candidates(model, trajectory, pair or own, steps, cfg=4.0, batch_size=batch_size)


@pytest.mark.slow
def test_candidates_and_splice_do_not_depend_on_the_batch_size(setting):
    from partedit_oir.core.decoding import picture_decoder
    from partedit_oir.core.oir.reassembly import ReassemblySettings, reassemble
    from partedit_oir.core.oir.search import search_steps
    from partedit_oir.core.oir.search_settings import SearchSettings
    from support.stand_ins import FakeScorer, FakeVae

    model, trajectory, pair = setting
    steps = range(1, 26)
    made = {size: candidates(setting, steps, size) for size in (1, 7, 25)}
    for size, (latents, rows, passes) in made.items():
        assert rows == 2 * 325, "conditional and unconditional row of every step, and nothing else"
        assert passes == max(25, math.ceil(325 / size))
        for n in steps:
            assert relative_error(latents[n], made[1][0][n]) <= 1e-5

    finals = []
    for size in (1, 7, 25):
        settings = SearchSettings(cfg=4.0, strategy="exhaustive", batch_size=size, stride=6)
        search = search_steps(model, trajectory, [pair], picture_decoder(FakeVae()), FakeScorer(), settings)
        result = reassemble(
            model, trajectory, search, prompt_conditioning("a tiger and a chair"), ReassemblySettings(cfg=4.0)
        )
        finals.append(result.latent)
    assert max(relative_error(final, finals[0]) for final in finals) <= 1e-5


def test_conditioning_with_timestep_ranges_is_not_mixed(setting):
    """ComfyUI reads the progress from the first row; rows at other levels would get the wrong conditioning."""
    from dataclasses import replace

    _, _, pair = setting
    early, late = prompt_conditioning(pair.guided_prompt)[0][0], prompt_conditioning("a lion")[0][0]
    ranges = ({"start_percent": 0.0, "end_percent": 0.9}, {"start_percent": 0.9, "end_percent": 1.0})
    ranged = replace(pair, conditioning=[[early, ranges[0]], [late, ranges[1]]])
    steps = [2, 5, 9]
    one, together = candidates(setting, steps, 1, ranged)[0], candidates(setting, steps, 3, ranged)[0]
    for n in steps:
        assert relative_error(together[n], one[n]) <= 1e-5
    plain = candidates(setting, steps, 3)[0]
    assert relative_error(plain[9], together[9]) > 1e-4, "the range takes part"


def test_a_patch_that_follows_the_progress_gets_rows_of_one_level(setting):
    """As IPAdapter's start_at and end_at: on above a sigma, which it reads from the first row."""
    model, trajectory, pair = setting
    middle = float(trajectory.sigmas[trajectory.index(5)])

    def switched(q, k, v, options):
        return (q * 3.0 if float(options["sigmas"][0]) > middle else q), k, v

    patched = model.clone()
    patched.set_model_attn2_patch(switched)
    steps = [2, 5, 9]
    one, together = (candidates((patched, trajectory, pair), steps, size)[0] for size in (1, 3))
    for n in steps:
        assert relative_error(together[n], one[n]) <= 1e-5
    plain = candidates(setting, steps, 3)[0]
    assert relative_error(plain[9], together[9]) > 1e-4 and relative_error(plain[5], together[5]) <= 1e-5


def test_source_prompt_is_the_unconditional_branch(setting):
    """With the source prompt as guided prompt both branches agree, so guidance changes nothing."""
    from dataclasses import replace

    from partedit_oir.core.oir.making import make_candidates

    model, trajectory, pair = setting
    same = replace(pair, conditioning=prompt_conditioning(SOURCE))
    low = make_candidates(model, trajectory, same, [4], cfg=1.0, batch_size=1)
    high = make_candidates(model, trajectory, same, [4], cfg=9.0, batch_size=1)
    assert (low[1], high[1]) == (4, 8)
    assert relative_error(high[0][4], low[0][4]) < 1e-5


def test_the_published_stand_in_for_one_step_is_the_image(setting):
    from partedit_oir.core.oir.making import make_candidates

    model, trajectory, pair = setting
    made, rows, passes = make_candidates(model, trajectory, pair, [1, 2], cfg=4.0, batch_size=2, published_first=True)
    assert torch.equal(made[1], trajectory.latent_image) and (rows, passes) == (4, 2)
    assert not torch.equal(candidates(setting, [1], 1)[0][1], trajectory.latent_image)


def test_the_hosts_multi_gpu_clones_take_their_share(setting):
    """Two "devices" of one processor: the guided rows go to one, the unguided to the other, with the same result."""
    import comfy.model_patcher

    if not hasattr(comfy.model_patcher.ModelPatcher, "deepclone_multigpu"):
        pytest.skip("this ComfyUI has no multi-GPU clones")
    model, trajectory, pair = setting
    from partedit_oir.core.oir.making import make_candidates

    first = model.clone()
    first.cached_patcher_init = (sd1_shaped_model, (4,))
    second = first.deepclone_multigpu(new_load_device=torch.device("cpu", 1))
    second.is_multigpu_base_clone = True
    both = first.clone()
    both.set_additional_models("multigpu", [second])
    both.match_multigpu_clones()
    rows = {}
    hooks = [
        one.model.diffusion_model.register_forward_hook(
            lambda module, inputs, output, name=name: rows.__setitem__(name, rows.get(name, 0) + len(inputs[0]))
        )
        for name, one in (("first", first), ("second", second))
    ]
    try:
        made, counted, _ = make_candidates(both, trajectory, pair, [2, 5, 6], cfg=4.0, batch_size=3)
    finally:
        for hook in hooks:
            hook.remove()
    assert rows == {"first": 13, "second": 13} and counted == 26
    alone = candidates(setting, [2, 5, 6], 3)[0]
    for n in (2, 5, 6):
        assert relative_error(made[n], alone[n]) <= 1e-5
