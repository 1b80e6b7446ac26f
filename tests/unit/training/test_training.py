"""Token training on cached queries, with a small random UNet: it learns, repeats itself, resumes, leaves no trace."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from safetensors.torch import save_file

from tools.bootstrap import load_pack

load_pack()
import comfy.model_management

from partedit_oir.core.partedit.masks import normalise, otsu
from partedit_oir.core.training import query_cache
from partedit_oir.core.training.losses import dice_loss, map_loss
from partedit_oir.core.training.maps import cached_part_maps, map_iou, otsu_regions
from partedit_oir.core.training.query_cache import build_query_cache, noise_levels
from partedit_oir.core.training.settings import TrainingReport, TrainingSettings, batch_of, split_pictures
from partedit_oir.core.training.state import load_state, picture_prints, same_pictures
from partedit_oir.core.training.training import train_on_cache, train_part_token
from partedit_oir.core.training.views import curves
from support.trained_tokens import WIDTH, conditioning, small_model, squares
from tools.parity.drawn_weights import standard_normal


def untrained(model, **changes) -> float:
    """IoU of the rows that a run starts from."""
    settings = dataclasses.replace(SETTINGS, steps=1, learning_rate=1e-6, **changes)
    latents, masks = squares(8, len(settings.part_names))
    _, report = train_part_token(model, latents, masks, conditioning(), settings)
    return sum(report.part_iou.values()) / len(report.part_iou)


# The recipe with which few steps show on a random network that training works; test_recipes.py has the other one.
SETTINGS = TrainingSettings(
    recipe="pack", steps=120, noise_count=2, held_out=0.25, evaluate_every=40, layers="decoder", seed=1
)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def learned(model):
    latents, masks = squares(8)
    return train_part_token(model, latents, masks, conditioning(), SETTINGS)


def test_it_learns_on_held_out_pictures(model, learned):
    token, report = learned
    assert token.embedding.shape == (2, WIDTH) and token.embedding.dtype == torch.float32
    assert token.part_rows == (1,) and token.names == ("part",)
    assert len(report.held_out) == 2 and report.maps.shape[:2] == (2, 1)
    assert report.losses[-1] < 0.7 * report.losses[0]
    assert report.part_iou["part"] > max(0.5, untrained(model) + 0.2)
    assert report.evaluations[-1][0] == 120


def test_same_seed_same_token(model, learned):
    latents, masks = squares(8)
    again, _ = train_part_token(model, latents, masks, conditioning(), SETTINGS)
    assert torch.equal(again.embedding, learned[0].embedding)
    other, _ = train_part_token(model, latents, masks, conditioning(), dataclasses.replace(SETTINGS, seed=2))
    assert not torch.equal(other.embedding, learned[0].embedding)


def test_it_works_in_inference_mode_where_nodes_run(model, learned):
    with torch.inference_mode():
        latents, masks = squares(8)
        again, _ = train_part_token(model, latents, masks, conditioning(), SETTINGS)
    assert torch.equal(again.embedding, learned[0].embedding)
    assert not again.embedding.is_inference()


@pytest.mark.filterwarnings("error::UserWarning")
def test_latents_may_come_with_a_graph(model):
    """As a VAE that ran outside inference mode gives them: nothing is learned through them, no warning."""
    settings = dataclasses.replace(SETTINGS, steps=3)
    latents, masks = squares(8)
    plain, _ = train_part_token(model, latents, masks, conditioning(), settings)
    latents.requires_grad_()
    again, _ = train_part_token(model, latents * 1.0, masks, conditioning(), settings)
    assert torch.equal(again.embedding, plain.embedding) and latents.grad is None


def test_a_stopped_run_resumes_to_the_same_token(model, learned, tmp_path):
    latents, masks = squares(8)
    state = tmp_path / "run.safetensors"
    settings = dataclasses.replace(SETTINGS, save_every=40)

    class Stop(BaseException):
        pass

    def stop_at(done, total):
        if done >= 16 + 90:
            raise Stop

    with pytest.raises(Stop):
        train_part_token(model, latents, masks, conditioning(), settings, state_file=state, progress=stop_at)
    assert state.is_file()
    token, report = train_part_token(model, latents, masks, conditioning(), settings, state_file=state)
    assert report.resumed_from == 80
    assert torch.equal(token.embedding, learned[0].embedding)
    assert report.losses == learned[1].losses


def test_a_run_that_is_stopped_keeps_the_best_so_far(model, tmp_path):
    """The step it stops at is evaluated too, so it gives what a run of so many steps would have given."""
    latents, masks = squares(8)
    state, views = tmp_path / "run.safetensors", []
    token, report = train_part_token(
        *(model, latents, masks, conditioning(), SETTINGS),
        state_file=state,
        watch=views.append,
        stop=lambda: len(views) == 49,
    )
    assert (report.stopped_at, report.stopped_by, len(report.losses)) == (50, "hand", 50)
    assert json.loads(report.as_json())["stopped_by"] == "hand"
    assert [step for step, _, _ in report.evaluations] == [40, 50]
    short, _ = train_part_token(model, latents, masks, conditioning(), dataclasses.replace(SETTINGS, steps=50))
    assert torch.equal(token.embedding, short.embedding)
    _, further = train_part_token(model, latents, masks, conditioning(), SETTINGS, state_file=state)
    assert (further.resumed_from, further.stopped_at, further.stopped_by) == (50, 120, "all steps")


def test_a_run_that_is_looked_at_learns_the_same(model, learned):
    latents, masks = squares(8)
    views = []
    token, report = train_part_token(
        model, latents, masks, conditioning(), SETTINGS, watch=views.append, stop=lambda: False
    )
    assert torch.equal(token.embedding, learned[0].embedding) and report.evaluations == learned[1].evaluations
    assert [view.step for view in views] == list(range(1, 121)) and {view.steps for view in views} == {120}
    assert [view.step for view in views if view.maps is not None] == [40, 80, 120]
    last = views[-1]
    assert last.pictures == report.held_out and last.best_step == report.best_step
    assert last.maps.shape[:2] == (2, 1) and 0 <= last.maps.min() < last.maps.max() <= 1


def test_without_held_out_images_the_first_ones_are_shown(model):
    latents, masks = squares(8)
    views = []
    settings = dataclasses.replace(SETTINGS, held_out=0.0, steps=2)
    train_part_token(model, latents, masks, conditioning(), settings, watch=views.append)
    assert views[-1].pictures == [0, 1, 2, 3] and views[-1].maps.shape[0] == 4 and views[0].maps is None


def test_curves_have_few_points_and_end_at_the_last_step():
    report = TrainingReport(losses=[1.0] * 1001, evaluations=[(step, 0.5, None) for step in range(50, 1001, 50)])
    shown = curves(report, most=100)
    assert len(shown["losses"]) == 91 and shown["losses"][-1] == [1001, 1.0]
    assert len(shown["evaluations"]) == 20 and shown["evaluations"][-1] == [1000, 0.5, None]
    assert curves(TrainingReport()) == {"losses": [], "evaluations": []}


def test_a_damaged_or_foreign_state_is_not_used(model, tmp_path):
    latents, masks = squares(8)
    state = tmp_path / "run.safetensors"
    settings = dataclasses.replace(SETTINGS, steps=10, save_every=5)
    train_part_token(model, latents, masks, conditioning(), settings, state_file=state)
    _, report = train_part_token(
        model, latents, masks, conditioning(), dataclasses.replace(settings, loss="l2"), state_file=state
    )
    assert report.resumed_from == 0
    state.write_bytes(state.read_bytes()[:100])
    _, report = train_part_token(model, latents, masks, conditioning(), settings, state_file=state)
    assert report.resumed_from == 0


def test_a_state_of_another_model_is_not_used(tmp_path):
    latents, masks = squares(8)
    state = tmp_path / "run.safetensors"
    settings = dataclasses.replace(SETTINGS, steps=10, save_every=5)
    train_part_token(small_model(), latents, masks, conditioning(), settings, state_file=state)
    _, report = train_part_token(small_model(), latents, masks, conditioning(), settings, state_file=state)
    assert report.resumed_from == 10
    _, report = train_part_token(small_model(seed=1), latents, masks, conditioning(), settings, state_file=state)
    assert report.resumed_from == 0


def test_a_state_of_another_prompt_is_not_used(model, tmp_path):
    """No padding reads the prompt by default, but the queries follow it."""
    latents, masks = squares(8)
    state = tmp_path / "run.safetensors"
    settings = dataclasses.replace(SETTINGS, steps=4, save_every=2)
    prompts = [conditioning(), [[torch.from_numpy(standard_normal(4, 1, 77, WIDTH)), {}]]]
    for prompt, expected in ((prompts[0], 0), (prompts[0], 4), (prompts[1], 0)):
        _, report = train_part_token(model, latents, masks, prompt, settings, state_file=state)
        assert report.resumed_from == expected


@pytest.mark.parametrize("change", ["images swapped", "one image recoloured", "a mask moved", "other views", "noise"])
def test_a_state_of_other_images_is_not_used(model, tmp_path, change):
    """A state knew its images by shape, mean and spread, and its masks by their sum."""
    latents, masks = squares(8)
    state = tmp_path / "run.safetensors"
    settings = dataclasses.replace(SETTINGS, steps=4, save_every=2)
    sources = [0, 1, 2, 3, 4, 5, 6, 7]
    train_part_token(model, latents, masks, conditioning(), settings, state_file=state, sources=sources)
    if change == "images swapped":
        latents = latents[[1, 0, *range(2, 8)]]
    elif change == "one image recoloured":
        latents = latents.clone()
        latents[3] = latents[3].flip(0)
    elif change == "a mask moved":
        masks = masks.clone()
        masks[3] = masks[3].roll(2, dims=-1)
    elif change == "other views":
        sources = [0, 0, 2, 3, 4, 5, 6, 7]
    else:  # of a VAE in half precision
        latents = latents + 0.02 * latents.std() * torch.from_numpy(standard_normal(7, *latents.shape))
    _, report = train_part_token(model, latents, masks, conditioning(), settings, state_file=state, sources=sources)
    assert report.resumed_from == (4 if change == "noise" else 0)


@pytest.mark.parametrize(
    "state",
    ["[1, 2]", '{"step": 5}', '{"evaluations": 3}', "no json", "[" * 100_000, None],
    ids=["list", "incomplete", "kinds", "text", "deep", "none"],
)
def test_a_state_with_other_contents_is_not_used(state, tmp_path):
    rows = {name: torch.zeros(2, WIDTH) for name in ("rows", "moment1", "moment2", "best_rows")}
    path = tmp_path / "run.safetensors"
    save_file(rows, str(path), {} if state is None else {"state": state})
    assert load_state(path, (2, WIDTH)) is None


def test_a_state_s_values_must_be_numbers(tmp_path):
    rows = {name: torch.zeros(2, WIDTH) for name in ("rows", "moment1", "moment2", "best_rows", "pictures")}
    values = {"step": 1, "best_score": 0.0, "best_step": 1, "losses": [], "evaluations": [], "fingerprint": ""}
    path = tmp_path / "run.safetensors"
    save_file(rows, str(path), {"state": json.dumps(values)})
    assert load_state(path, (2, WIDTH)) is not None
    for changed in (torch.full((2, WIDTH), float("nan")), torch.zeros(3, WIDTH), torch.zeros(2, WIDTH).long()):
        save_file({**rows, "moment2": changed}, str(path), {"state": json.dumps(values)})
        assert load_state(path, (2, WIDTH)) is None
    save_file({name: rows[name] for name in rows if name != "pictures"}, str(path), {"state": json.dumps(values)})
    assert load_state(path, (2, WIDTH)) is None


def test_two_parts_share_a_background(model):
    latents, masks = squares(8, parts=2)
    settings = dataclasses.replace(SETTINGS, part_names=("left", "right"), steps=160)
    token, report = train_part_token(model, latents, masks, conditioning(), settings)
    assert token.embedding.shape == (3, WIDTH) and token.part_rows == (1, 2)
    before = untrained(model, part_names=("left", "right"))
    assert sum(report.part_iou.values()) / 2 > before + 0.15


@pytest.mark.parametrize("loss, softmax", [("l2", "full"), ("bce_dice", "full"), ("bce", "two_way"), ("l2", "two_way")])
def test_other_recipes_learn_too(model, loss, softmax):
    latents, masks = squares(8)
    settings = dataclasses.replace(SETTINGS, loss=loss, softmax=softmax)
    _, report = train_part_token(model, latents, masks, conditioning(), settings)
    assert report.part_iou["part"] > untrained(model, softmax=softmax) + 0.05
    assert report.losses[-1] < report.losses[0]


@pytest.mark.parametrize("width, scale", [(48, 4.0), (48, 0.25), (160, 1.0)])
def test_one_learning_rate_fits_other_widths_and_scales(width, scale):
    latents, masks = squares(8)
    _, report = train_part_token(small_model(width, scale=scale), latents, masks, conditioning(width), SETTINGS)
    assert report.part_iou["part"] > 0.45


def test_maps_are_the_models_own_attention(model):
    """The cached formula equals softmax attention over a 77 row context [background, part, background x 75]."""
    latents, _ = squares(1)
    layers = (("output", 3, 0),)
    cache = build_query_cache(model, latents, conditioning(), layers, noise_levels(model, 0.0, 0.5, 2))
    rows = torch.from_numpy(standard_normal(9, 2, WIDTH)) * 3
    context = torch.cat([rows, rows[:1].expand(75, -1)])
    attention = model.model.diffusion_model.output_blocks[3][1].transformer_blocks[0].attn2
    with torch.no_grad():
        keys = attention.to_k(context).unflatten(-1, (2, -1))
    query = cache.queries[layers[0]][0].float().unflatten(-1, (2, -1))
    weights = torch.softmax(torch.einsum("tqhd,khd->thqk", query, keys) * keys.shape[-1] ** -0.5, dim=-1)
    expected = weights[..., 1].mean(dim=(0, 1)).view(16, 16)
    assert torch.allclose(cached_part_maps(cache, rows, [0])[0, 0], expected, atol=1e-6)


def test_it_starts_from_given_rows(model):
    latents, masks = squares(4)
    settings = dataclasses.replace(SETTINGS, steps=1, learning_rate=1e-6, init=torch.full((1, WIDTH), 0.5))
    token, _ = train_part_token(model, latents, masks, conditioning(), settings)
    assert torch.allclose(token.embedding[1], torch.tensor(0.5), atol=1e-4)
    assert not torch.allclose(token.embedding[0], torch.tensor(0.5), atol=0.1)
    for init in (torch.zeros(1, WIDTH + 1), torch.zeros(2, WIDTH), torch.zeros(WIDTH)):
        with pytest.raises(ValueError, match="init_words: "):
            train_part_token(model, latents, masks, conditioning(), dataclasses.replace(settings, init=init))


def test_noise_levels_cover_the_asked_stretch(model):
    """Middle levels, for big parts, lie between those of the start and those of the end."""
    low, middle, high = (noise_levels(model, *bounds, 3) for bounds in ((0.0, 0.25), (0.25, 0.6), (0.6, 1.0)))
    assert max(low) < min(middle) and max(middle) < min(high)
    assert list(middle) == sorted(middle, reverse=True)
    for bounds in ((0.5, 0.5), (-0.1, 0.5), (0.5, 1.1)):
        with pytest.raises(ValueError, match=r"^noise_low, noise_high: "):
            noise_levels(model, *bounds, 3)


def test_the_cache_goes_to_host_memory_when_the_device_is_short(monkeypatch):
    class OnDevice:
        """A query of 1 MB (half precision) on a GPU that is not there."""

        device = torch.device("cuda")

        def __getitem__(self, _):
            return torch.empty(2**19)

    for free, place in ((40, "cuda"), (20, "cpu")):
        monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda device, free=free: free * 2**20)
        monkeypatch.setattr(query_cache, "SPARE_DEVICE_BYTES", 10 * 2**20)
        assert query_cache._place(OnDevice(), 25).type == place


def test_batching_the_cache_changes_nothing(model):
    latents, _ = squares(3)
    layers, sigmas = (("output", 2, 0), ("output", 3, 0)), noise_levels(model, 0.0, 0.25, 2)
    one = build_query_cache(model, latents, conditioning(), layers, sigmas, rows=1)
    three = build_query_cache(model, latents, conditioning(), layers, sigmas, rows=3)
    for layer in layers:
        assert one.queries[layer].dtype == torch.float16
        assert torch.allclose(one.queries[layer].float(), three.queries[layer].float(), atol=5e-3)


def test_a_pass_ends_with_the_last_layer_that_is_asked_for(model):
    """What the UNet computes after it changes no query, and is more than half of the work for the default layers."""
    from partedit_oir.core.unet import all_cross_layers

    layers = [layer.key for layer in all_cross_layers(model)]
    latents, sigmas = squares(2)[0], noise_levels(model, 0.0, 0.5, 2)
    passes: list[int] = []
    unet = model.model.diffusion_model
    handle = unet.out.register_forward_pre_hook(lambda module, inputs: passes.append(1))
    try:
        for rows in (1, 2):
            first = build_query_cache(model, latents, conditioning(), layers[:3], sigmas, rows=rows)
            assert not passes
            whole = build_query_cache(model, latents, conditioning(), layers, sigmas, rows=rows)
            assert all(torch.equal(first.queries[layer], whole.queries[layer]) for layer in layers[:3])
            assert set(first.queries) == set(layers[:3]) and set(whole.queries) == set(layers)
        model.model.apply_model(torch.zeros(1, 4, 16, 16), torch.ones(1), c_crossattn=conditioning()[0][0])
        assert passes, "without the capture, the whole UNet runs"
    finally:
        handle.remove()


def test_the_model_is_left_as_it_was(model):
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    options = repr(model.model_options)
    latents, masks = squares(4)
    train_part_token(model, latents, masks, conditioning(), dataclasses.replace(SETTINGS, steps=2))
    assert repr(model.model_options) == options
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())


def test_early_stop(model):
    latents, masks = squares(8)
    settings = dataclasses.replace(SETTINGS, steps=1000, evaluate_every=10, patience=2)
    _, report = train_part_token(model, latents, masks, conditioning(), settings)
    assert report.stopped_at < 1000
    assert report.best_step <= report.stopped_at - 20


def test_views_of_a_held_out_picture_are_not_trained_on():
    sources = [0, 1, 2, 3, 0, 1, 2, 3]
    masks = torch.ones(8, 1, 8, 8)
    training, judged, held_out = split_pictures(masks, sources, dataclasses.replace(SETTINGS, held_out=0.5))
    assert len(held_out) == 2 and judged == held_out
    assert {sources[view] for view in training} == {0, 1, 2, 3} - set(held_out)
    assert sorted(batch_of(training, 0, 4, 0)) == sorted(training)


def test_a_part_that_only_held_out_pictures_show_is_refused():
    masks = torch.ones(4, 1, 8, 8)
    settings = dataclasses.replace(SETTINGS, held_out=0.25)
    _, _, held_out = split_pictures(masks, None, settings)
    masks[[index for index in range(4) if index not in held_out]] = 0
    with pytest.raises(ValueError, match=f"only held-out images \\({held_out[0]}, counted from 0\\) show 'part'"):
        split_pictures(masks, None, settings)


def test_a_text_of_another_model_is_refused_before_the_model_runs(model):
    latents, masks = squares(4)
    with pytest.raises(ValueError, match=r"positive: its text embedding is 64 wide, but the model takes 48"):
        train_part_token(model, latents, masks, conditioning(64), SETTINGS, progress=must_not_run)


def test_dice_counts_small_and_large_parts_alike():
    target = torch.zeros(2, 1, 16, 16)
    target[0, 0, :4, :4] = 1
    target[1, 0, :, :8] = 1
    assert dice_loss(target, target) == 0
    empty, half = dice_loss(torch.zeros_like(target), target), dice_loss(target * 0.5, target)
    assert empty > 0.94 and 0.25 < half < 0.35
    missed = [dice_loss(target[index : index + 1] * 0.5, target[index : index + 1]) for index in range(2)]
    assert abs(missed[0] - missed[1]) < 0.03
    assert dice_loss(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)) == 0


def test_a_broken_model_is_named(model):
    latents, masks = squares(4)
    layers = (("output", 3, 0),)
    cache = build_query_cache(model, latents, conditioning(), layers, noise_levels(model, 0.0, 0.5, 1))
    cache.queries[layers[0]][:] = float("nan")
    with pytest.raises(ValueError, match="queries contain NaN"):
        train_on_cache(cache, masks, SETTINGS)


def test_a_pass_that_another_node_skips_is_named(model):
    """Its queries would be whatever the memory held."""
    from comfy.patcher_extension import WrappersMP

    calls = []

    def skip_the_third(executor, x, *args, **kwargs):
        calls.append(1)
        return torch.zeros_like(x) if len(calls) == 3 else executor(x, *args, **kwargs)

    latents, _ = squares(2)
    other = model.clone()
    other.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "skips", skip_the_third)
    with pytest.raises(ValueError, match="1 of 4 passes did not reach layer"):
        build_query_cache(other, latents, conditioning(), (("output", 3, 0),), noise_levels(model, 0.0, 0.5, 2))


def must_not_run(done, total):
    raise AssertionError("the model ran")


@pytest.mark.parametrize(
    "masks, words",
    [
        (torch.zeros(4, 1, 8, 8), "empty"),
        (torch.full((4, 1, 8, 8), float("nan")), "NaN"),
        (torch.ones(3, 1, 8, 8), "masks: expected a shape"),
        (torch.ones(4, 1, 8, 8) * 255, "values from 0 to 1"),
    ],
)
def test_bad_masks_are_refused_before_the_model_runs(model, masks, words):
    with pytest.raises(ValueError, match=words):
        train_part_token(model, torch.zeros(4, 4, 16, 16), masks, conditioning(), SETTINGS, progress=must_not_run)


def test_a_value_at_the_threshold_belongs_to_the_part():
    """As in the masks of an edit; the IoU and the outlines of a training left it out."""
    level = torch.full((3, 3), 0.5)
    level[0, 0], level[0, 1] = 0.0, 1.0
    k = otsu(normalise(level))
    level[0, 2] = k * (1 + 1e-6)  # what normalising takes back
    assert otsu(normalise(level)) == k == normalise(level)[0, 2]
    wanted = torch.ones(3, 3)
    wanted[0, 0] = 0
    assert map_iou(level[None, None], wanted[None, None]).tolist() == [1.0]
    assert torch.equal(otsu_regions(level[None])[0], wanted > 0.5)


def test_losses_by_hand():
    maps = torch.tensor([[[[0.25, 0.5], [1.0, 0.0]]]])
    target = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])

    def loss(kind):
        return float(map_loss(maps, 1 - maps, target, kind))

    assert loss("l2") == pytest.approx((0.25**2 + 0.5**2) / 4)
    bce = -(math.log(0.75) + math.log(0.5)) / 4
    assert loss("bce") == pytest.approx(bce, abs=1e-6)
    # The map already reaches from 0 to 1: 1 - (2 · 1.5 + 1) / (1.75 + 2 + 1).
    assert loss("bce_dice") == pytest.approx(bce + 1 - 4 / 4.75, abs=1e-4)


@pytest.mark.parametrize("kind", ["bce", "bce_dice"])
def test_a_token_that_missed_entirely_can_recover(kind):
    """The loss stays finite and has a slope where a part has no attention, and where everything else has none."""
    values = torch.tensor([0.0, 1.0, 0.5, 0.5])
    maps = values.reshape(1, 1, 2, 2).requires_grad_()
    others = (1 - values).reshape(1, 1, 2, 2).requires_grad_()
    loss = map_loss(maps, others, torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]), kind)
    loss.backward()
    assert torch.isfinite(loss) and maps.grad[0, 0, 0, 0] < -1e3 and others.grad[0, 0, 0, 1] < -1e3


def test_iou_by_hand():
    maps, masks = torch.zeros(2, 2, 4, 4), torch.zeros(2, 2, 8, 8)
    maps[0, 0, :2], masks[0, 0, :4] = 1.0, 1.0  # the same half
    maps[0, 1, :2], masks[0, 1, :2] = 1.0, 1.0  # twice as much
    maps[1, 0, :2], masks[1, 0, 4:] = 1.0, 1.0  # the other half
    assert map_iou(maps[:1], masks[:1]).tolist() == pytest.approx([1.0, 0.5])
    # Nothing found where nothing is to be found, in the second image's second part.
    assert map_iou(maps, masks).tolist() == pytest.approx([0.5, 0.75])


def test_images_are_told_apart_by_what_they_show():
    latents = torch.randn((3, 4, 16, 24), generator=torch.Generator().manual_seed(0))
    prints = picture_prints(latents * 5)
    assert prints.shape == (3, 4 * 64)
    areas = latents.reshape(3, 4, 8, 2, 8, 3).mean(dim=(3, 5)).flatten(1)
    assert torch.allclose(prints, areas / latents.std(), atol=1e-5)
    nearly = picture_prints(latents + 0.01 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)))
    assert same_pictures(prints, nearly)
    for others in (latents[[1, 0, 2]], latents[:2], latents.flip(-1), latents.repeat(1, 1, 1, 1)[:, :3]):
        assert not same_pictures(prints, picture_prints(others))
    assert torch.isfinite(picture_prints(torch.zeros(1, 4, 8, 8))).all()
