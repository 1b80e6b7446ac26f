"""Flow models of the host's own classes: inversion and back, noise maps, and OIR, against the flow's own equations."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from support.flow_models import FAMILIES
from support.stand_ins import FakeScorer, relative_error

STEPS = 4
SOURCE = "a cat and a chair"
GUIDED = "a large striped tiger and a chair"  # longer: most of these encoders do not pad
EULER = ("euler_next_timestep", "euler_current_timestep", "euler_fixed_point")
METHODS = (*EULER, "rf_solver")
STOCHASTIC = ("edit_friendly_ddpm", "ledits_pp")


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request, pack):
    return FAMILIES[request.param]()


@pytest.fixture(scope="module")
def qwen(pack):
    return FAMILIES["qwen_image"]()


def inverted(family, method="euler_fixed_point", *, steps=STEPS, spacing="leading", samples=None, **options):
    from partedit_oir.core.inversion.invert import invert
    from partedit_oir.core.inversion.schedule import model_sampling_of, spaced_sigmas

    sigmas = spaced_sigmas(model_sampling_of(family.model), steps, spacing)
    samples = family.latent() if samples is None else samples
    text = family.conditioning(SOURCE)
    return invert(
        family.model, samples, text, sigmas=sigmas, method=method, source_prompt=SOURCE, **{"seed": 3, **options}
    )


def levels(family, steps=STEPS):
    """Of leading spacing, image first: positions 0 and 1 + i · ⌊T / S⌋ of the table of T times."""
    positions = [0, *(1 + i * (family.table // steps) for i in range(steps))]
    return [family.sigma((position + 1) / family.table) for position in positions]


def denoised(family, trajectory, text=SOURCE, cfg=1.0):
    from partedit_oir.core.inversion.ddim import ddim_denoise
    from partedit_oir.core.inversion.engine import run_loop

    result, _ = run_loop(
        family.model,
        lambda denoise: ddim_denoise(
            denoise, trajectory.latents[0], trajectory.sigmas, 0, trajectory.steps, method=trajectory.method
        ),
        positive=family.conditioning(text),
        negative=family.conditioning("") if cfg != 1.0 else None,
        cfg=cfg,
        latent_image=trajectory.latent_image,
        rows=1,
        sigmas=trajectory.sigmas,
    )
    return family.model.model.process_latent_out(trajectory.to_image_latent(result))


def test_levels_are_those_of_the_flow(family):
    """x = (1 - sigma) z + sigma e, at the model's own times with its shift; the host says the same of each level."""
    from partedit_oir.core.inversion.schedule import model_sampling_of, scaling_of_model

    trajectory = inverted(family, "edit_friendly_ddpm")
    torch.testing.assert_close(trajectory.sigmas.flip(0), torch.tensor(levels(family)), rtol=1e-4, atol=0)
    sampling, scaling = model_sampling_of(family.model), scaling_of_model(family.model)
    one, none = torch.ones(1), torch.zeros(1)
    for sigma in trajectory.sigmas:
        assert scaling.image(float(sigma)) == pytest.approx(float(sampling.noise_scaling(sigma, none.clone(), one)))
        assert scaling.noise(float(sigma)) == pytest.approx(float(sampling.noise_scaling(sigma, one.clone(), none)))
    last = trajectory.latents[-1]
    torch.testing.assert_close(
        trajectory.to_image_latent(last), sampling.inverse_noise_scaling(trajectory.sigmas[-1], last)
    )
    z, generator = family.model.model.process_latent_in(family.latent()), torch.Generator().manual_seed(3)
    for i in range(STEPS):
        noise = torch.randn(z.shape, generator=generator)
        sigma = float(trajectory.sigmas[i])
        torch.testing.assert_close(trajectory.latents[i], (1 - sigma) * z + sigma * noise)


@pytest.mark.parametrize("method", METHODS)
def test_inversion_and_back_equal_the_flows_equations(family, method):
    """dx = v(x, sigma) dsigma, solved upward and downward, with the bare network in place of the host's sampling."""
    trajectory = inverted(family, method, fixed_point_iterations=2)
    up, v = levels(family), family.velocity(SOURCE)
    expected = [(1 - up[0]) * family.model.model.process_latent_in(family.latent())]
    for now, after in zip(up, up[1:]):
        x, h = expected[-1], after - now
        if method == "rf_solver":
            result = x + h * v(x + h / 2 * v(x, now), now + h / 2)
        else:
            result = x + h * v(x, now if method == "euler_current_timestep" else after)
        for _ in range(2 if method == "euler_fixed_point" else 0):
            result = x + h * v(result, after)
        expected.append(result)
    # At the lowest level, sigma 0.0003 with Flux, v = (x - D) / sigma keeps four digits in single precision.
    assert relative_error(trajectory.latents.flip(0), torch.stack(expected)) < 5e-5
    x = expected[-1]
    for now, after in zip(up[::-1], up[-2::-1]):
        h = after - now
        x = x + h * (v(x + h / 2 * v(x, now), now + h / 2) if method == "rf_solver" else v(x, now))
    back = family.model.model.process_latent_out(x / (1 - up[0]))
    assert relative_error(denoised(family, trajectory), back) < 5e-5


def test_fixed_points_bring_the_image_back(family):
    errors = {
        name: relative_error(denoised(family, inverted(family, name, **options)), family.latent())
        for name, options in (
            ("euler_fixed_point", {"fixed_point_iterations": 20}),
            ("euler_next_timestep", {}),
            ("rf_solver", {}),
        )
    }
    assert errors["euler_fixed_point"] < 1e-4 < errors["euler_next_timestep"]
    assert errors["rf_solver"] < errors["euler_next_timestep"], "second order reconstructs more closely"


@pytest.mark.parametrize("cfg", [1.0, 5.0])
@pytest.mark.parametrize("method", [*STOCHASTIC, "euler_next_timestep"])
def test_a_replay_by_residuals_is_exact_at_any_guidance(family, method, cfg):
    """The source row is the image; so is an edit row that changes nothing."""
    import comfy.samplers

    from partedit_oir.core.inversion.replay import TrajectorySampler

    trajectory = inverted(family, method, spacing="trailing")  # from pure noise
    guider = comfy.samplers.CFGGuider(family.model)
    guider.set_conds(family.conditioning(SOURCE), family.conditioning("another prompt"))
    guider.set_cfg(cfg)
    image = trajectory.latent_image.repeat(2, *[1] * (trajectory.latent_image.ndim - 1))
    sampler = comfy.samplers.KSAMPLER(TrajectorySampler(trajectory))
    with torch.no_grad():
        rows = guider.sample(torch.zeros_like(image), image, sampler, trajectory.sigmas, disable_pbar=True)
    for row in rows:
        assert relative_error(row[None], trajectory.latent_image) < 1e-5


@pytest.mark.parametrize("method", STOCHASTIC)
def test_noise_maps_are_those_of_the_same_process(family, method, monkeypatch):
    """x / (1 - sigma) = z + s e with s = sigma / (1 - sigma): DDPM's posterior, and the solver's second order."""
    trajectory = inverted(family, method, record_noise_maps=True)
    v, sigmas, clean = family.velocity(SOURCE), [float(s) for s in trajectory.sigmas], []
    for i, sigma in enumerate(sigmas[:-1]):
        x = trajectory.latents[i]
        clean.append(x - sigma * v(x, sigma))
        s, after = sigma / (1 - sigma), sigmas[i + 1] / (1 - sigmas[i + 1])
        target, kept = clean[i], (after / s) ** 2
        if method == "ledits_pp" and 0 < i < STEPS - 1:
            before = sigmas[i - 1] / (1 - sigmas[i - 1])
            ratio = torch.tensor(s / after).log() / torch.tensor(before / s).log()
            target = clean[i] + 0.5 * ratio * (clean[i] - clean[i - 1])
        mean = target + kept * (x / (1 - sigma) - target)
        expected = trajectory.latents[i + 1] - (1 - sigmas[i + 1]) * mean
        assert relative_error(trajectory.noise_maps[i], expected) < 1e-4
    monkeypatch.setattr("partedit_oir.core.inversion.invert.auto_batch_size", lambda *args: 1)
    alone = inverted(family, method, record_noise_maps=True)
    assert relative_error(alone.noise_maps, trajectory.noise_maps) < 1e-5


class Pictures:
    """Shows three channels of a latent of any shape."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def spacial_compression_decode(self) -> int:
        return 8

    def decode(self, samples):
        self.shapes.append(tuple(samples.shape))
        picture = (samples[:, :3] * 0.1 + 0.5).clamp(0, 1)
        return picture.repeat_interleave(8, -2).repeat_interleave(8, -1).movedim(1, -1)


def pair_of(family, mask):
    from partedit_oir.core.oir.types import Pair

    return Pair(SOURCE, "cat", "large striped tiger", GUIDED, mask, family.conditioning(GUIDED), (2, 5))


def candidates(family, trajectory, cfg, batch_size, steps=(1, 2, 3, 4)):
    from partedit_oir.core.oir.making import make_candidates

    pair = pair_of(family, torch.ones(64, 64))
    return make_candidates(family.model, trajectory, pair, steps, cfg=cfg, batch_size=batch_size)


@pytest.mark.parametrize("method", ["euler_fixed_point", "rf_solver"])
def test_batches_and_little_memory_change_no_candidate(family, method, monkeypatch):
    """Rows at different levels in one call, the guidance's rows in calls of their own, and one row at a time."""
    import comfy.model_base

    trajectory = inverted(family, method)
    one, rows, passes = candidates(family, trajectory, 3.0, 1)
    calls = (2 if method == "rf_solver" else 1) * sum(one)
    assert rows == 2 * calls and passes == 2 * calls
    many, *_ = candidates(family, trajectory, 3.0, 4)
    monkeypatch.setattr(comfy.model_base.BaseModel, "memory_required", lambda *args, **kwargs: 1e30)
    split, *_ = candidates(family, trajectory, 3.0, 3)
    for n in one:
        assert one[n].shape == family.latent().shape
        assert relative_error(many[n], one[n]) < 1e-5 and relative_error(split[n], one[n]) < 1e-5
    assert relative_error(one[STEPS], trajectory.latent_image) > 1e-3


def test_at_cfg_1_no_negative_is_asked(family):
    trajectory = inverted(family)
    _, rows, _ = candidates(family, trajectory, 1.0, 4)
    assert rows == 1 + 2 + 3 + 4


@pytest.mark.parametrize("method", ["euler_next_timestep", "rf_solver"])
def test_a_single_pair_over_the_whole_picture_is_its_candidate(family, method):
    """Searched and reassembled, with latents of the model's own shape."""
    from partedit_oir.core.decoding import picture_decoder
    from partedit_oir.core.oir.reassembly import ReassemblySettings, reassemble
    from partedit_oir.core.oir.search import search_steps
    from partedit_oir.core.oir.search_settings import SearchSettings

    trajectory, vae = inverted(family, method), Pictures()
    pair = pair_of(family, torch.ones(64, 64))
    search = search_steps(
        family.model, trajectory, [pair], picture_decoder(vae), FakeScorer(), SearchSettings(cfg=3.0, first=3)
    )
    settings = ReassemblySettings(cfg=3.0, reassembly=1, reinversion=0.0)
    result = reassemble(family.model, trajectory, search, family.conditioning(GUIDED), settings)
    n = search.chosen[0]
    expected = candidates(family, trajectory, 3.0, 1, [n])[0][n]
    assert relative_error(result.latent, expected) < 1e-5
    assert set(vae.shapes) == {tuple(family.latent().shape)}


class Words:
    """A text encoder whose conditioning belongs to the text."""

    def __init__(self, family) -> None:
        self.family = family

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, text):
        return self.family.conditioning(text)


@pytest.mark.parametrize("name", ["flux", "qwen_image"])
def test_nodes_edit_from_the_image_to_the_image(pack, name):
    """Through the nodes, with a VAE whose pictures have a frame axis, and guidance that comes with the prompts."""
    from partedit_oir.nodes.editing_pair import EditingPair
    from partedit_oir.nodes.inversion import InvertLatent
    from partedit_oir.nodes.reassemble import OIRReassemble
    from partedit_oir.nodes.step_search import InversionStepSearch

    family, vae = FAMILIES[name](), Pictures()
    vae.encode = None
    clip, left = Words(family), torch.zeros(1, 64, 64)
    left[:, :, :32] = 1.0
    values = {"steps": STEPS, "cfg": 1.0, "seed": 0, "spacing": "trailing", "fixed_point_iterations": 2}
    trajectory, prompt = InvertLatent.execute(
        model=family.model,
        latent_image={"samples": family.latent()},
        source_prompt=SOURCE,
        method="euler_fixed_point",
        captioner="none",
        clip=clip,
        guidance=1.0,
        **values,
    ).args
    pairs, guided = EditingPair.execute(
        clip=clip,
        source_prompt=prompt,
        source_phrase="cat",
        target_phrase="large striped tiger",
        mask=left,
        occurrence=1,
        guided_prompt="",
        guidance=4.5,
    ).args
    assert guided == GUIDED
    assert trajectory.conditioning[0][1]["guidance"] == 1.0 and pairs[0].conditioning[0][1]["guidance"] == 4.5
    common = {"model": family.model, "vae": vae, "trajectory": trajectory, "cfg": 1.0, "overrides": ""}
    choices = {"strategy": "exhaustive", "mask_mode": "masked", "published_first": False}
    search = InversionStepSearch.execute(
        pairs=pairs, clip_scorer=FakeScorer(), first_step=2, last_step=0, stride=1, batch_size=0, **choices, **common
    )
    found, *_, image, latent, _ = search.args
    assert image.shape == (1, 64, 64, 3) and latent["samples"].shape == family.latent().shape
    source = vae.decode(trajectory.latent_image).reshape(1, 64, 64, 3)
    levels = {"reassembly": 1.0, "reinversion": 1.0, "overlap": "first", "feather": 0.0}
    edited, picture, target = OIRReassemble.execute(
        search=found,
        paste_back=True,
        pixel_composite=True,
        target_prompt="",
        clip=clip,
        image=source,
        guidance=4.5,
        **levels,
        **common,
    ).args
    assert target == GUIDED and edited["samples"].shape == family.latent().shape
    torch.testing.assert_close(picture[:, :, 32:], source[:, :, 32:])
    assert relative_error(picture[:, :, :32], source[:, :, :32]) > 1e-4


def test_paste_back_keeps_the_outside_of_latents_with_a_time_axis(qwen):
    from partedit_oir.core.oir.reassembly import ReassemblySettings, reassemble
    from partedit_oir.core.oir.types import StepSearch
    from partedit_oir.core.paste_back import PasteBack

    left = torch.zeros(64, 64)
    left[:, :32] = 1.0
    trajectory = inverted(qwen)
    search = StepSearch.fixed([pair_of(qwen, left)], [3], steps=STEPS, cfg=3.0)
    settings = ReassemblySettings(cfg=3.0, reassembly=1, reinversion=1, paste_back=PasteBack(latent=True), feather=0.0)
    result = reassemble(qwen.model, trajectory, search, qwen.conditioning(GUIDED), settings)
    assert result.latent.shape == (1, 16, 1, 8, 8)
    torch.testing.assert_close(result.latent[..., 4:], trajectory.latent_image[..., 4:])
    assert relative_error(result.latent[..., :4], trajectory.latent_image[..., :4]) > 1e-3


def test_latents_without_the_time_axis_get_it(qwen):
    flat = inverted(qwen, samples=qwen.latent()[:, :, 0])
    assert torch.equal(flat.latents, inverted(qwen).latents) and flat.latent_image.shape == (1, 16, 1, 8, 8)


def test_what_does_not_fit_is_refused_by_name_before_sampling(family, qwen, monkeypatch):
    import comfy.samplers

    from partedit_oir.core.inversion.scaling import Scaling
    from partedit_oir.core.inversion.schedule import inversion_sigmas, model_sampling_of
    from partedit_oir.core.oir.checks import check_inputs

    def no_sampling(*args, **kwargs):
        raise AssertionError("sampling started")

    stochastic, path = inverted(family, "ledits_pp"), inverted(family)
    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", no_sampling)
    for name in ("next_timestep", "current_timestep", "fixed_point"):
        with pytest.raises(ValueError, match=rf"^method: ddim_{name} reverses DDIM, .* Choose euler_{name}"):
            inverted(family, f"ddim_{name}")
    with pytest.raises(ValueError, match=r"^sigmas: begin at 14.6, but this is a flow model"):
        inversion_sigmas(model_sampling_of(family.model), torch.tensor([14.6, 1.0, 0.0]))
    with pytest.raises(ValueError, match="latent_image: has 3 channels, but this model uses"):
        inverted(family, samples=torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="latent_image: holds 5 frames"):
        inverted(qwen, samples=torch.zeros(1, 16, 5, 8, 8))
    pair = pair_of(family, torch.ones(64, 64))
    with pytest.raises(
        ValueError, match=r"^trajectory: was inverted with ledits_pp, .* Choose an euler method or rf_s"
    ):
        check_inputs(family.model, stochastic, [pair])
    noisy = replace(path, scaling=Scaling())
    with pytest.raises(ValueError, match=r"^model: samples as a flow model, but the trajectory was made with one of"):
        check_inputs(family.model, noisy, [pair])
    narrow = replace(path, conditioning=[[torch.zeros(1, 4, 8), {}]])
    with pytest.raises(
        ValueError, match=r"^model: is not the one .* its text embedding is 8 wide, but the model takes"
    ):
        check_inputs(family.model, narrow, [pair])


@pytest.mark.parametrize("method", ["euler_fixed_point", "ledits_pp"])
def test_a_model_that_overflows_is_told_and_gives_no_black_image(pack, method):
    import comfy.patcher_extension

    from partedit_oir.core.oir.reassembly import ReassemblySettings, reassemble
    from partedit_oir.core.oir.types import StepSearch

    family = FAMILIES["z_image"]()
    trajectory = inverted(family)
    broken = family.model.clone()
    broken.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.APPLY_MODEL,
        "overflow",
        lambda model, *args, **given: model(*args, **given) * 1e39,
    )
    sick = replace(family, model=broken)
    with pytest.raises(ValueError, match=r"^model: .* holds NaN or infinite values\. The model overflows in half prec"):
        inverted(sick, method, record_noise_maps=method == "ledits_pp")
    search = StepSearch.fixed([pair_of(family, torch.ones(64, 64))], [3], steps=STEPS, cfg=3.0)
    with pytest.raises(ValueError, match=r"^model: what was spliced or denoised holds NaN"):
        reassemble(broken, trajectory, search, family.conditioning(GUIDED), ReassemblySettings(cfg=3.0))


def test_part_edits_stay_with_unets_and_say_what_works_instead(pack, qwen):
    from partedit_oir.core.unet import all_cross_layers

    with pytest.raises(
        ValueError, match=r"^model: QwenImage is not a UNet, .* edit a masked region with Latent Blend Sampler"
    ):
        all_cross_layers(qwen.model)


def test_guidance_on_top_of_guidance_is_remarked(pack, caplog):
    from partedit_oir.core.oir.checks import check_inputs

    flux = FAMILIES["flux"]()
    trajectory, pairs = inverted(flux), [pair_of(flux, torch.ones(64, 64))]
    for cfg, remarks in ((1.0, 0), (3.5, 1)):
        caplog.clear()
        check_inputs(flux.model, trajectory, pairs, cfg=cfg)
        assert len([r for r in caplog.records if "takes its guidance from the conditioning" in r.message]) == remarks


def test_sampling_classes_are_recognised_by_what_they_are(pack):
    """The host's classes, and those that other nodes build from them."""
    from comfy.model_base import ModelType, model_sampling

    from partedit_oir.core.inversion.scaling import COSMOS_FLOW, FLOW, NOISE, scaling_of

    config = SimpleNamespace(sampling_settings={})
    kinds = {kind: scaling_of(model_sampling(config, ModelType[kind])) for kind in ModelType.__members__}
    of = {name: None if one is None else one.kind for name, one in kinds.items()}
    assert of == {
        **dict.fromkeys(("EPS", "V_PREDICTION", "V_PREDICTION_EDM", "EDM", "V_PREDICTION_CONTINUOUS"), NOISE),
        "STABLE_CASCADE": NOISE,
        **dict.fromkeys(("FLOW", "FLUX"), FLOW),
        "FLOW_COSMOS": COSMOS_FLOW,
        **dict.fromkeys(("IMG_TO_IMG", "IMG_TO_IMG_FLOW", "V_PREDICTION_DDPM"), None),
    }


@pytest.mark.parametrize("kind", ["EPS", "EDM", "FLOW", "FLOW_COSMOS"])
def test_what_a_network_is_given_is_the_hosts(pack, kind):
    from comfy.model_base import ModelType, model_sampling

    from partedit_oir.core.inversion.scaling import scaling_of

    sampling = model_sampling(SimpleNamespace(sampling_settings={"sigma_data": 0.5}), ModelType[kind])
    scaling = scaling_of(sampling)
    for sigma in (0.03, 0.4, 0.9):
        seen = float(sampling.calculate_input(torch.tensor([sigma]), torch.ones(1, 1, 1, 1)))
        ratio = scaling.seen(sigma) / scaling.seen(0.5)
        half = float(sampling.calculate_input(torch.tensor([0.5]), torch.ones(1, 1, 1, 1)))
        assert ratio == pytest.approx(half / seen, rel=1e-5)
