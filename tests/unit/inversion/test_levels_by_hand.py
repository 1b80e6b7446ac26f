"""What a level is made of, for each kind of model, and the loops over levels, with a model that does nothing."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from tools.bootstrap import load_pack

load_pack()
from partedit_oir.core.inversion.ddim import ddim_denoise, ddim_invert
from partedit_oir.core.inversion.scaling import COSMOS_FLOW, FLOW, NOISE, STANDARD, Scaling
from partedit_oir.core.inversion.schedule import inversion_sigmas, spaced_sigmas
from partedit_oir.core.inversion.stochastic import find_noise_maps, independent_latents
from partedit_oir.core.inversion.trajectory import Trajectory


@pytest.mark.parametrize(
    ("scaling", "sigma", "image", "noise", "seen", "exploded"),
    [
        (STANDARD, 0.75, 1.25, 0.75, 1.25, (1.0, 0.75)),
        (Scaling(NOISE, sigma_data=0.5), 1.2, 2.6, 1.2, 2.6, (1.0, 1.2)),
        (Scaling(FLOW, noise_scale=2.0), 0.6, 0.4, 1.2, 1.0, (0.4, 3.0)),
        (Scaling(FLOW), 1.0, 0.0, 1.0, 1.0, (0.0, math.inf)),
        (Scaling(COSMOS_FLOW), 3.0, 1.0, 3.0, 4.0, (1.0, 3.0)),
    ],
)
def test_what_a_level_is_made_of(scaling, sigma, image, noise, seen, exploded):
    assert scaling.image(sigma) == pytest.approx(image) and scaling.noise(sigma) == pytest.approx(noise)
    assert scaling.seen(sigma) == pytest.approx(seen) and scaling.exploded(sigma) == pytest.approx(exploded)
    assert scaling.is_flow == (scaling.kind != NOISE)


class Nothing(SimpleNamespace):
    """A model whose clean estimate is 0, so that every step along sigma is a scaling."""

    def __call__(self, x, sigma):
        self.seen.append(torch.as_tensor(sigma).tolist())
        return torch.zeros_like(x)


def nothing(mixed_sigmas=True):
    return Nothing(device=torch.device("cpu"), mixed_sigmas=mixed_sigmas, seen=[])


SIGMAS = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.25])


def test_the_levels_that_a_run_reaches():
    x, reached = torch.ones(2, 1, 1, 1), []
    keep = lambda index, latent: reached.append((index, float(latent[0])))  # noqa: E731
    ddim_denoise(nothing(), x, SIGMAS, 1, 4, on_step=keep)
    assert reached == [(2, 0.5), (3, 0.25), (4, 0.125)]
    reached.clear()
    ddim_invert(nothing(), x, SIGMAS, 4, 1, "ddim_current_timestep", on_step=keep)
    assert reached == [(3, 2.0), (2, 4.0), (1, 8.0)]
    # Euler on a flow from the next timestep: x + (s' - s)·x/s'.
    reached.clear()
    ddim_invert(nothing(), x, SIGMAS, 4, 2, "euler_next_timestep", scaling=Scaling(FLOW), on_step=keep)
    assert reached == [(3, 1.5), (2, 2.25)]
    # With fixed-point iterations it tends to 2, the reverse of the step.
    for iterations, expected in ((0, 1.5), (1, 1.75), (2, 1.875)):
        options = {"scaling": Scaling(FLOW), "fixed_point_iterations": iterations}
        assert float(ddim_invert(nothing(), x, SIGMAS, 4, 3, "euler_fixed_point", **options)[0]) == expected


@pytest.mark.parametrize("scaling", [STANDARD, Scaling(FLOW, noise_scale=2.0), Scaling(COSMOS_FLOW)])
def test_independent_latents_have_the_noise_of_their_level(scaling):
    image, sigmas = torch.full((1, 2, 3, 4), 3.0), torch.tensor([0.9, 0.6, 0.1])
    made = independent_latents(image, sigmas, 7, scaling)
    generator = torch.Generator().manual_seed(7)
    for level, sigma in zip(made[:2], (0.9, 0.6)):
        noise = torch.randn(image.shape, generator=generator)
        kept, added = (1 - sigma, 2 * sigma) if scaling.kind == FLOW else (1.0, sigma)
        assert torch.allclose(level, kept * image + added * noise, atol=1e-5)
    assert torch.allclose(made[2], image * scaling.image(float(sigmas[2])), atol=1e-6)
    trajectory = Trajectory(made, sigmas, "edit_friendly_ddpm", image, scaling=scaling)
    assert torch.allclose(trajectory.to_image_latent(made[2]), image, atol=1e-5)


@pytest.mark.parametrize(
    ("batch_size", "mixed", "calls"), [(5, True, [2, 2, 1]), (1, True, [1] * 5), (9, False, [1] * 5)]
)
def test_noise_maps_tell_of_every_level(batch_size, mixed, calls):
    image = torch.ones(2, 1, 2, 2)
    latents, told, model = independent_latents(image, SIGMAS, 1), [], nothing(mixed)
    find_noise_maps(model, latents, SIGMAS, "edit_friendly_ddpm", batch_size=batch_size, on_levels=told.append)
    assert told == calls and [len(sigma) for sigma in model.seen] == [2 * count for count in calls]
    assert [one for sigma in model.seen for one in sigma] == SIGMAS[:-1].repeat_interleave(2).tolist()


@pytest.mark.parametrize(
    ("spacing", "steps", "timesteps"),
    [
        ("leading", 5, [9, 7, 5, 3, 1, 0]),
        ("leading", 3, [7, 4, 1, 0]),
        ("trailing", 4, [9, 7, 4, 1, 0]),
        ("trailing", 9, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        ("linspace", 4, [9, 7, 4, 2, 0]),
        ("linspace", 1, [9, 0]),
    ],
)
def test_spacings_by_hand(spacing, steps, timesteps):
    """Of ten timesteps; halves are rounded to even numbers."""
    table = SimpleNamespace(sigmas=torch.arange(1.0, 11.0) ** 2)
    assert spaced_sigmas(table, steps, spacing).tolist() == [(1.0 + at) ** 2 for at in timesteps]


def test_leading_says_how_many_steps_reach_the_noise():
    table = SimpleNamespace(sigmas=torch.arange(1.0, 11.0) ** 2)
    words = r"^steps: 6 with spacing 'leading' would only reach timestep 6 of 10 \(sigma 49\.00 of 100\.00\).* Choose 5"
    with pytest.raises(ValueError, match=words):
        spaced_sigmas(table, 6)
    with pytest.raises(ValueError, match=r"^steps: 1 with spacing 'leading' would only reach timestep 1 .* Choose 2 "):
        spaced_sigmas(table, 1)
    with pytest.raises(ValueError, match=r"^spacing: 'even' is not one of leading, trailing, linspace\."):
        spaced_sigmas(table, 5, "even")
    with pytest.raises(ValueError, match=r"^model: object has no table of training timesteps"):
        spaced_sigmas(SimpleNamespace(), 5)


def test_sigmas_begin_no_lower_than_the_models():
    sampling = SimpleNamespace(sigma_min=0.5)
    for given, levels in (([4, 2, 0], [4, 2, 0.5]), ([4, 0.5, 0], [4, 0.5]), ([4, 0.3, 0], [4, 0.5]), ([4, 1], [4, 1])):
        assert inversion_sigmas(sampling, torch.tensor(given)).tolist() == levels
    for given in ([0.5, 0.0], [4.0], [1.0, 2.0], [2.0, 2.0, 1.0]):
        with pytest.raises(ValueError, match=r"^sigmas: expected at least two descending levels"):
            inversion_sigmas(sampling, torch.tensor(given))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "heun"}, "method 'heun' is not one of ddim_next_timestep, "),
        ({"latents": torch.zeros(3, 4, 8, 8)}, r"latents must be \(S\+1, B, C, H, W\)"),
        ({"sigmas": torch.tensor([2.0, 1.0])}, r"got latents \(3, 1, 4, 8, 8\) and sigmas \(2,\)"),
        ({"sigmas": torch.tensor([2.0, 1.0, 0.0])}, "strictly descending and above 0"),
        ({"sigmas": torch.tensor([2.0, 2.0, 1.0])}, "strictly descending and above 0"),
        ({"latents": torch.zeros(1, 1, 4, 8, 8), "sigmas": torch.ones(1)}, "at least two levels"),
        ({"latent_image": torch.zeros(1, 4, 8, 9)}, r"latent_image \(1, 4, 8, 9\) does not fit"),
        ({"noise_maps": torch.zeros(2, 1, 4, 8, 8)}, "is deterministic and has no noise maps"),
        ({"method": "ledits_pp", "noise_maps": torch.zeros(3, 1, 4, 8, 8)}, r"expected \(2, 1, 4, 8, 8\)"),
    ],
)
def test_what_is_no_trajectory_is_refused(changes, words):
    sound = {
        "latents": torch.zeros(3, 1, 4, 8, 8),
        "sigmas": torch.tensor([3.0, 2.0, 1.0]),
        "method": "ddim_next_timestep",
        "latent_image": torch.zeros(1, 4, 8, 8),
    }
    found = Trajectory(**sound)
    assert found.steps == 2 and [found.index(n) for n in range(3)] == [2, 1, 0] and found.size == (8, 8)
    assert [found.start_index(share) for share in (1.0, 0.5, 0.01)] == [0, 1, 1]
    with pytest.raises(ValueError, match=f"^Trajectory: .*{words}"):
        Trajectory(**{**sound, **changes})
