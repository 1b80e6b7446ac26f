"""What the nodes do with the masks people connect: LoadImage's empty one, batches that do not fit, odd values."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

from support.stand_ins import SOURCE, FakeClip
from support.tiny_edits import edit_prompt, relative, token
from support.tiny_models import drawn, text_conditioning, tiny_sdxl
from support.trained_tokens import PixelVAE

EMPTY = torch.zeros(1, 64, 64)
HELP = r"Load Image gives an empty 64×64 mask for an image without transparency: paint one"


@pytest.fixture(scope="module")
def nodes(pack):
    return {node.__name__: node for node in importlib.import_module("partedit_oir.nodes").NODE_CLASSES}


@pytest.fixture(scope="module")
def model(pack):
    return tiny_sdxl()


@pytest.fixture
def no_sampling(monkeypatch):
    """Fails the test when anything is sampled."""
    import comfy.samplers

    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", lambda *a, **k: pytest.fail("sampling started"))


def edit(nodes, model, node="FeatureBlendSampler", pictures=1, **masks):
    """Execute a blending node with a part token and masks."""
    common = {"model": model, "edit_prompt": edit_prompt(), "negative": text_conditioning("negative")}
    common |= {"cfg": 4.0, "edit_steps": 1.0, "omega": 1.5, "part_token": token()} | masks
    if node == "FeatureBlendGuider":
        return nodes[node].execute(**common, output_rows="edits")
    sampling = {"seed": 0, "steps": 2, "sampler_name": "euler", "scheduler": "normal"}
    return nodes[node].execute(**common, **sampling, latent_image={"samples": torch.zeros(pictures, 4, 16, 16)})


def find(nodes, model, region, pictures=1):
    latent = {"samples": drawn("pictures", pictures, 4, 16, 16)}
    return nodes["PartAttentionMask"].execute(
        model, token(), text_conditioning("source"), latent, 0.25, 0, region=region
    )


def test_loadimage_gives_the_mask_that_is_meant(pack, tmp_path, monkeypatch):
    """The host's own node; should it once give something else, the messages are to follow."""
    import folder_paths
    import nodes as host_nodes
    from PIL import Image

    Image.new("RGB", (96, 80), "white").save(tmp_path / "plain.png")
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    _, mask = host_nodes.LoadImage().load_image("plain.png")[:2]
    assert torch.equal(mask, EMPTY)


@pytest.mark.parametrize("node", ["FeatureBlendSampler", "FeatureBlendGuider"])
@pytest.mark.parametrize(
    ("name", "effect"), [("mask", "there is nothing to edit"), ("region", "the part cannot be anywhere")]
)
def test_empty_masks_are_refused_before_sampling(nodes, model, no_sampling, node, name, effect):
    with pytest.raises(ValueError, match=f"^{name}: the mask is empty, so {effect}. {HELP}.*disconnect this input"):
        edit(nodes, model, node, **{name: EMPTY})
    masks = torch.cat([torch.ones(1, 64, 64), EMPTY, EMPTY])
    with pytest.raises(ValueError, match=f"^{name}: the masks of images 2, 3 are empty"):
        edit(nodes, model, node, **{name: masks})


def test_an_empty_region_is_refused_before_the_picture_is_looked_at(nodes, model, no_sampling):
    with pytest.raises(ValueError, match=f"^region: the mask is empty, so the part cannot be anywhere. {HELP}"):
        find(nodes, model, EMPTY)
    with pytest.raises(ValueError, match=r"^region: the mask of image 2 is empty"):
        find(nodes, model, torch.cat([torch.ones(1, 64, 64), EMPTY]), pictures=2)


def test_a_region_beside_a_mask_is_said_to_have_no_effect(nodes, model, caplog):
    edit(nodes, model, "FeatureBlendGuider", mask=torch.ones(1, 8, 8))
    edit(nodes, model, "FeatureBlendGuider", region=torch.ones(1, 8, 8))
    assert "region has no effect" not in caplog.text
    edit(nodes, model, "FeatureBlendGuider", mask=torch.ones(1, 8, 8), region=torch.ones(1, 8, 8))
    assert "region has no effect" in caplog.text


@pytest.mark.parametrize("name", ["mask", "region"])
def test_a_mask_smaller_than_a_latent_pixel_is_named(pack, name, caplog):
    from partedit_oir.core.partedit.settings import BlendInputs
    from partedit_oir.core.partedit.step_masks import StepMasks

    def fitted(size, pixels):
        dot = torch.zeros(2, size, size)
        dot[0] = 1
        dot[1, :pixels, :pixels] = 1
        return StepMasks(BlendInputs(edit_prompt(), token(), **{name: dot}), 2, (16, 16))

    with pytest.raises(ValueError, match=f"^{name}: nothing is left of mask 2 at 16×16, the size of the latent"):
        fitted(512, 1)
    fitted(128, 8)
    assert "latent pixel" not in caplog.text
    fitted(128, 3)
    assert f"{name}: mask 2 reaches" in caplog.text


@pytest.mark.parametrize("masks", [2, 3])
def test_masks_for_other_pictures_are_refused_before_sampling(nodes, model, no_sampling, masks):
    pictures = 5 - masks
    region = torch.ones(masks, 8, 8)
    with pytest.raises(ValueError, match=f"^region: has {masks} masks for {pictures} images"):
        find(nodes, model, region, pictures)
    for name in ("mask", "region"):
        with pytest.raises(ValueError, match=f"^{name}: has {masks} masks for {pictures} images"):
            edit(nodes, model, pictures=pictures, **{name: region})


@pytest.mark.parametrize("per_pass", [0, 1, 2])
def test_the_samplers_own_masks_can_be_given_again(nodes, model, monkeypatch, per_pass):
    """Two pictures, three edits: six masks, edit by edit, whatever goes into one pass."""
    import comfy.samplers

    more = {"edit_prompt": edit_prompt(["one", "two", "three"]), "edits_per_pass": per_pass, "pictures": 2}
    masks = torch.zeros(6, 128, 128)
    for number, mask in enumerate(masks):
        mask[:, : 16 * (number + 2)] = 1
    edited, _, found, *_ = edit(nodes, model, mask=masks, **more).args
    assert torch.equal(found.round(), masks)
    again, *_ = edit(nodes, model, mask=found, **more).args
    assert relative(again["samples"], edited["samples"]) < 1e-2  # its edge is softer by the resizing
    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", lambda *a, **k: pytest.fail("sampling started"))
    with pytest.raises(ValueError, match=r"^mask: has 4 masks for 2 images with 3 edits each. Give one mask"):
        edit(nodes, model, mask=masks[:4], **more)


def test_a_mask_of_another_aspect_is_refused(nodes, model, no_sampling):
    wide = torch.zeros(1, 64, 128)
    wide[:, :, :64] = 1
    for act in (lambda: find(nodes, model, wide), lambda: edit(nodes, model, region=wide)):
        with pytest.raises(
            ValueError, match=r"^region: the mask is 128×64 \(width × height\), .* 128×128: another aspect"
        ):
            act()
    with pytest.raises(ValueError, match=r"^mask: the mask is 128×64"):
        nodes["EditMetrics"].execute(torch.rand(1, 64, 64, 3), torch.rand(1, 64, 64, 3), wide)


def overshooting():
    """A half mask as a bicubic filter leaves it."""
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    mask = torch.nn.functional.interpolate(mask, size=(64, 64), mode="bicubic")[0]
    assert mask.min() < -0.05 and mask.max() > 1.05
    return mask


@pytest.mark.parametrize("form", [lambda m: m, lambda m: m[0], lambda m: m[None], lambda m: m * 0 + 1.0000001])
def test_values_beyond_0_and_1_are_clamped_everywhere(nodes, model, form):
    mask = form(overshooting())
    clean = mask.clamp(0, 1)
    for key in ("mask", "region"):
        one, other = (edit(nodes, model, **{key: given}).args for given in (mask, clean))
        assert torch.equal(one[0]["samples"], other[0]["samples"]) and one[2].max() <= 1
    assert torch.equal(find(nodes, model, mask)[0], find(nodes, model, clean)[0])
    for method in ("adaptive", "otsu", "fixed"):
        one, other = (nodes["AdaptiveOtsuThreshold"].execute(given, method, 1.5)[0] for given in (mask, clean))
        assert torch.equal(one, other) and one.shape == (1, 64, 64)
    pairs = [
        nodes["EditingPair"].execute(FakeClip(), SOURCE, "cat", "tiger", given, 1, "")[0] for given in (mask, clean)
    ]
    assert torch.equal(pairs[0][0].mask, pairs[1][0].mask) and pairs[0][0].mask.max() <= 1
    before, after = torch.rand(1, 64, 64, 3), torch.rand(1, 64, 64, 3)
    assert nodes["EditMetrics"].execute(before, after, mask)[1] == nodes["EditMetrics"].execute(before, after, clean)[1]


def test_values_of_another_scale_and_nan_are_refused_by_name(nodes, model, no_sampling):
    pictures = torch.rand(1, 64, 64, 3)
    acts = {
        "mask": [
            lambda mask: edit(nodes, model, mask=mask),
            lambda mask: nodes["AdaptiveOtsuThreshold"].execute(mask, "otsu", 1.5),
            lambda mask: nodes["EditMetrics"].execute(pictures, pictures, mask),
            lambda mask: nodes["EditingPair"].execute(FakeClip(), SOURCE, "cat", "tiger", mask, 1, ""),
        ],
        "region": [lambda mask: find(nodes, model, mask), lambda mask: edit(nodes, model, region=mask)],
    }
    for name, each in acts.items():
        for act in each:
            with pytest.raises(ValueError, match=f"^{name}.*: expected values from 0 to 1, got 0 to 255"):
                act(torch.tensor([[0.0, 255.0]]))
            with pytest.raises(ValueError, match=f"^{name}.*: contains NaN or infinite values"):
                act(torch.tensor([[0.0, float("nan")]]))


def test_training_masks_are_clamped_and_an_empty_part_says_where_masks_come_from(nodes, model, no_sampling):
    from partedit_oir.core.training.inputs import paired

    images = torch.rand(1, 64, 64, 3)
    assert torch.equal(paired(images, [overshooting()])[1], overshooting().clamp(0, 1)[None])
    with pytest.raises(ValueError, match=f"^masks: part 1 is empty in every image, .*{HELP}"):
        nodes["TrainPartToken"].execute(
            model, PixelVAE(), text_conditioning("source"), images, EMPTY, "head", 1, 0, layers="decoder"
        )


def test_an_editing_pair_says_where_its_empty_mask_comes_from(nodes):
    with pytest.raises(ValueError, match=f"^mask of 'cat' → 'tiger': the mask is empty, .*{HELP}") as error:
        nodes["EditingPair"].execute(FakeClip(), SOURCE, "cat", "tiger", EMPTY, 1, "")
    assert "disconnect" not in str(error.value)  # the input is required


def test_metrics_take_one_mask_or_one_for_each_edited_picture(nodes):
    source, edited = torch.zeros(1, 32, 48, 3), torch.zeros(2, 32, 48, 3)
    edited[0, :, :24], edited[1, :, 24:] = 0.5, 0.25
    mask = torch.zeros(2, 1, 32, 48)
    mask[0, 0, :, :24], mask[1, 0, :, 24:] = 1, 1
    report = json.loads(nodes["EditMetrics"].execute(source, edited, mask)[1])
    assert [entry["psnr_outside"] for entry in report["pictures"]] == [1000, 1000]
    with pytest.raises(ValueError, match=r"^mask: has 3 masks for 2 images"):
        nodes["EditMetrics"].execute(source, edited, torch.ones(3, 32, 48))


@pytest.mark.parametrize("masked", [False, True])
def test_a_noise_mask_that_an_inversion_does_not_use_is_told(nodes, model, caplog, masked):
    latent = {"samples": drawn("picture", 1, 4, 16, 16)} | (
        {"noise_mask": torch.ones(1, 1, 128, 128)} if masked else {}
    )
    options = {"method": "ddim_next_timestep", "steps": 2, "cfg": 1.0, "seed": 0, "spacing": "leading"}
    options |= {"fixed_point_iterations": 1, "captioner": "none", "positive": text_conditioning("source")}
    nodes["InvertLatent"].execute(model, latent, "source", **options)
    assert ("latent_image has a noise mask" in caplog.text) == masked
