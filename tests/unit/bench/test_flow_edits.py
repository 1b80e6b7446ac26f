"""The demo's network as a rectified flow: an exact change of variables."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench import flow_edits
from support.tiny_models import POOLED, WIDTH, drawn, tiny_sdxl


@pytest.mark.parametrize("sigma", [0.05, 0.5, 0.9])
def test_the_flow_has_the_clean_estimate_of_the_diffusion(pack, sigma):
    """At the same ratio of signal to noise: x - sigma v of the flow is x / (1 - sigma) - s e of the diffusion."""
    model = tiny_sdxl().model
    given = {"context": drawn("text", 1, 7, WIDTH), "y": drawn("pooled", 1, POOLED + 6 * 256)}
    x, level = drawn("x", 1, 4, 8, 8), torch.tensor([sigma / (1 - sigma)])
    flow = flow_edits.RectifiedFlow(model.diffusion_model, model.model_sampling)
    with torch.no_grad():
        velocity = flow(x, torch.tensor([1000 * sigma]), **given)
        exploded = x / (1 - sigma)
        seen = model.model_sampling.calculate_input(level, exploded)
        noise = model.diffusion_model(seen, model.model_sampling.timestep(level).float(), **given)
    torch.testing.assert_close(x - sigma * velocity, exploded - level * noise, rtol=1e-4, atol=1e-4)


def test_beyond_the_noisiest_level_the_velocity_stays_finite(pack):
    model = tiny_sdxl().model
    given = {"context": drawn("text", 1, 7, WIDTH), "y": drawn("pooled", 1, POOLED + 6 * 256)}
    flow = flow_edits.RectifiedFlow(model.diffusion_model, model.model_sampling)
    with torch.no_grad():
        assert bool(flow(drawn("x", 1, 4, 8, 8), torch.tensor([1000.0]), **given).isfinite().all())


def test_the_sheet_has_a_row_for_each_edit():
    pictures = dict.fromkeys(flow_edits.COLUMNS, np.zeros((256, 256, 3), np.uint8))
    sheet = flow_edits.contact_sheet([{"edit": "a red cat -> a blue cat", "pictures": pictures}] * 2)
    assert sheet.shape == (18 + 2 * 176, 5 * 160, 3) and sheet[:17].min() < 255 and sheet[40, 40].max() == 0
