"""Which row of a batch gets which mask: given masks, regions, noise masks, and masks of conditionings."""

from __future__ import annotations

import pytest
import torch

from support.tiny_edits import SIZE, blend_guider, edit_prompt, relative, sample, token
from support.tiny_models import drawn, text_conditioning, tiny_sdxl

STEPS = 2


@pytest.fixture(scope="module")
def model(pack):
    return tiny_sdxl()


def left(columns, count=1):
    """Masks of 128×128 pixels with their first columns set."""
    mask = torch.zeros(count, 128, 128)
    mask[:, :, :columns] = 1.0
    return mask


def noise_of(pictures):
    return drawn("noise", 3, 4, *SIZE)[pictures]


def run(guider, pictures, denoise_mask=None):
    """Rows of a run over some pictures of a batch, each with noise and latent of its own."""
    import comfy.samplers

    latent = drawn("pictures", 3, 4, *SIZE)[pictures]
    sigmas = comfy.samplers.KSampler(guider.model_patcher, STEPS, torch.device("cpu"), "euler", "normal", 0.6).sigmas
    solver = comfy.samplers.sampler_object("euler")
    out = guider.sample(noise_of(pictures), latent, solver, sigmas, denoise_mask, disable_pbar=True, seed=5)
    return out, latent


def plainly(model, pictures, denoise_mask):
    """Ordinary sampling of the source."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(text_conditioning("source"), text_conditioning("negative"))
    guider.set_cfg(4.0)
    return run(guider, pictures, denoise_mask)[0]


@pytest.mark.parametrize("kind", ["mask", "region"])
def test_every_picture_is_edited_under_its_own_mask(model, kind):
    masks = torch.cat([left(32), left(64), left(96)])
    found = {"token": token()} if kind == "region" else {}
    guider = blend_guider(model, edit_prompt(["one", "two"]), **{kind: masks}, **found)
    together, _ = run(guider, [0, 1, 2])
    final = guider.last_masks.edit_masks()
    for picture in range(3):
        guider = blend_guider(model, edit_prompt(["one", "two"]), **{kind: masks[picture]}, **found)
        alone, _ = run(guider, [picture])
        assert relative(together[picture::3], alone) < 1e-5
        assert torch.allclose(final[:, picture], guider.last_masks.edit_masks()[:, 0], atol=1e-5)


@pytest.mark.parametrize("pictures", [[0], [0, 1]])
def test_every_edit_may_have_a_mask_of_its_own(model, pictures):
    """Edit by edit, the order of the edited latents and of the sampler's own mask output."""
    masks = torch.cat([left(columns) for columns in (32, 96, 64, 112)])[: 2 * len(pictures)]
    guider = blend_guider(model, edit_prompt(["one", "two"]), mask=masks)
    together, _ = run(guider, pictures)
    count = len(pictures)
    assert torch.equal(guider.last_masks.fitted_masks((128, 128)).flatten(0, 1).round(), masks)
    for number, name in enumerate(["one", "two"]):
        alone, _ = run(blend_guider(model, edit_prompt([name]), mask=masks[number * count :][:count]), pictures)
        assert relative(together[(1 + number) * count :][:count], alone[count:]) < 1e-5
    with pytest.raises(ValueError, match=f"^mask: has 3 masks for {count} images with 2 edits each"):
        run(blend_guider(model, edit_prompt(["one", "two"]), mask=torch.ones(3, 8, 8)), pictures)


@pytest.mark.parametrize(("masks", "pictures"), [(2, 1), (2, 3), (4, 2), (3, 2), (1, 2), (2, 2)])
def test_edits_keep_their_own_pictures_protected_side(model, masks, pictures):
    """Two noise masks for one picture, two for three, four for two: the source is as in an ordinary run, and an edit
    never gets another picture's mask."""
    columns = [4, 8, 12, 6][:masks]
    noise_mask = torch.cat([left(8 * count) for count in columns])[:, None]
    chosen = list(range(pictures))
    out, latent = run(blend_guider(model, edit_prompt(["one", "two"]), mask=torch.ones(1, 8, 8)), chosen, noise_mask)
    assert relative(out[:pictures], plainly(model, chosen, noise_mask)) < 1e-5
    for picture in chosen:
        free = columns[picture % masks]
        for row in out[picture::pictures]:
            change = (row - latent[picture]).abs().amax(dim=(0, 1))
            assert change[free + 1 :].max() < 1e-4 and change[: free - 1].min() > 1e-3


@pytest.mark.parametrize("kind", ["extras", "negative"])
@pytest.mark.parametrize("masks", [1, 2, 3])
def test_masks_of_a_conditioning_stay_with_their_picture(model, kind, masks):
    """ConditioningSetMask with more masks than pictures: an edit must not get the second one."""
    each = torch.cat([left(48), left(96), left(16)])[:masks]
    given = [[text_conditioning("negative")[0][0], {**text_conditioning("negative")[0][1], "mask": each}]]
    prompt = edit_prompt(["source"], source="source")
    guider = blend_guider(model, prompt, mask=torch.ones(1, 8, 8), **{kind: given})
    for pictures in ([0], [0, 1]):
        out, _ = run(guider, pictures)
        assert relative(out[len(pictures) :], out[: len(pictures)]) < 1e-5


@pytest.mark.parametrize("shape", [(128, 128), (1, 128, 128), (1, 1, 128, 128)])
@pytest.mark.parametrize("change", ["bool", "half", "overshoot"])
def test_every_form_of_a_mask_gives_the_same_edit(model, shape, change):
    mask = left(64).reshape(shape)
    changed = {"bool": mask.bool(), "half": mask.half(), "overshoot": mask * 1.35 - 0.12}[change]
    assert change != "overshoot" or (changed.min() < -0.1 and changed.max() > 1.2)
    expected = sample(blend_guider(model, edit_prompt(), mask=left(64)), steps=STEPS)
    assert torch.equal(sample(blend_guider(model, edit_prompt(), mask=changed), steps=STEPS), expected)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"region": torch.zeros(1, 64, 64)}, r"^region: the mask is empty, so the part cannot be anywhere. Load Image"),
        ({"region": torch.cat([left(32), left(0), left(0)])}, "^region: the masks of images 2, 3 are empty"),
        ({"region": torch.full((1, 8, 8), float("nan"))}, "^region: contains NaN or infinite values"),
        ({"region": left(64)[:, ::2]}, r"^region: the mask is 128×64 \(width × height\), .* the image is 128×128"),
        ({"mask": left(64)[:, :, ::2]}, r"^mask: the mask is 64×128 \(width × height\), .* the image is 128×128"),
        ({"mask": left(64, 2)}, "^mask: has 2 masks for 3 images"),
        ({"mask": left(64, 4)}, "^mask: has 4 masks for 3 images"),
        ({"mask": torch.zeros(0, 8, 8)}, "^mask: has no pixels"),
    ],
)
def test_masks_that_cannot_be_used_are_refused_before_sampling(model, monkeypatch, inputs, message):
    import comfy.samplers

    guider = blend_guider(model, edit_prompt(), token=token(), **inputs)
    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", lambda *a, **k: pytest.fail("sampling started"))
    with pytest.raises(ValueError, match=message):
        run(guider, [0, 1, 2])


def test_a_token_that_sees_nothing_is_named(model):
    """Equal rows of background and part: the map is the same everywhere, and no threshold makes a part of it."""
    from dataclasses import replace

    blind = replace(token(), embedding=token().embedding[:1].repeat(2, 1))
    with pytest.raises(ValueError, match=r"^part_token: found nothing in image 1 of 1: its attention is the same"):
        sample(blend_guider(model, edit_prompt(), token=blind))


@pytest.mark.parametrize("method", ["adaptive", "otsu", "fixed"])
def test_masks_of_a_step_are_resized_in_host_memory(model, monkeypatch, method):
    """Layers that run on another device get their masks from the CPU; "meta" stands for it."""
    from partedit_oir.core.partedit import masks

    def forbidden(tensor, antialias=False, **options):
        assert tensor.device.type == "cpu" or not antialias
        return interpolate(tensor, antialias=antialias, **options)

    interpolate = masks.F.interpolate
    guider = blend_guider(model, edit_prompt(), token=token(), threshold=method)
    sample(guider, steps=STEPS)
    monkeypatch.setattr(masks.F, "interpolate", forbidden)
    for area in ((), (8, 8, 4, 4)):
        for_layers = guider.last_masks.for_call([area], torch.device("meta"))
        layer = for_layers.blend((4, 4), last=False)
        assert layer.device.type == "meta" and layer.shape == (1, 16, 1)


@pytest.mark.parametrize("ends", ["well", "early"])
@pytest.mark.parametrize("kind", ["token", "mask"])
def test_a_guider_that_is_kept_keeps_nothing_on_the_layers_device(model, monkeypatch, kind, ends):
    """ComfyUI caches a node's guider with its masks; those are in host memory, and what layers used is let go."""
    import gc
    import weakref

    from partedit_oir.core.partedit.step_masks import StepMasks

    used = []

    class Noted:
        def __init__(self, masks):
            self._masks = masks

        def __getattr__(self, name):
            def call(*args, **kwargs):
                found = getattr(self._masks, name)(*args, **kwargs)
                used.extend(weakref.ref(one) for one in (*args, found) if isinstance(one, torch.Tensor))
                return found

            return call

    plainly = StepMasks.for_call
    monkeypatch.setattr(StepMasks, "for_call", lambda self, *args: Noted(plainly(self, *args)))
    given = {"mask": torch.ones(1, 128, 128)} if kind == "mask" else {"token": token()}
    guider = blend_guider(model, edit_prompt(), **given)

    def stop(step, *args):
        if step == 1 and ends == "early":
            raise KeyboardInterrupt

    try:
        sample(guider, steps=STEPS, callback=stop)
    except KeyboardInterrupt:
        assert ends == "early"
    gc.collect()
    assert len(used) > 10 and not [one for one in used if one() is not None]
    assert guider.last_masks.edit_masks().shape == (1, 1, *SIZE)
