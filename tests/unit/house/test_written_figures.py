"""Figures in guides, help pages and the model card are those of the results in bench/results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from support.written import REPOSITORY, messages, text_of


def result(name: str) -> dict[str, Any]:
    return json.loads(text_of(f"bench/results/{name}.json"))


def percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def evaluated(section: str) -> dict[str, dict[str, str]]:
    """{method: {column: cell}} of a table of evaluate_demo.md."""
    text = text_of("bench/results/evaluate_demo.md").split(f"\n## {section}\n")[1].strip().split("\n\n")[0]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return {row[0]: dict(zip(head, row)) for row in rows}


def shares_of_searches(steps: str) -> list[float]:
    """The shares of an exhaustive search's rows: coarse-to-fine, short-to-full."""
    groups = [result("object_search")[steps][name] for name in ("chosen", "unseen")]
    pairs = sum(group["coarse-to-fine"]["pairs"] for group in groups)
    return [
        sum(group[strategy]["share_of_rows"] * group[strategy]["pairs"] for group in groups) / pairs
        for strategy in ("coarse-to-fine", "short-to-full")
    ]


def test_shares_that_are_given_in_words_are_those_of_the_results():
    (coarse, short), (coarse_of_ten, _) = shares_of_searches("25"), shares_of_searches("10")
    assert abs(coarse - 1 / 3) < 0.03 and abs(short - 1 / 6) < 0.03 and abs(coarse_of_ten - 1 / 2) < 0.03
    tooltips = " ".join("".join(messages(REPOSITORY / "nodes" / "step_search.py")).split())
    help_page = " ".join(text_of("js/docs/InversionStepSearch/en.md").split())
    assert "About a third of the work with 25 steps, half with 10." in tooltips
    assert "About a sixth of the work, but" in tooltips
    assert (
        "takes about a sixth of the UNet rows of an exhaustive search, `coarse-to-fine` about a third with 25"
        in help_page
    )
    assert "a third of the UNet rows with 25 steps" in text_of("docs/differences.md")


def figures_of_searches() -> Iterator[tuple[str, str]]:
    for steps, groups in result("object_search").items():
        cells = []
        both = [groups["chosen"], groups["unseen"]]
        pairs = sum(group["coarse-to-fine"]["pairs"] for group in both)
        for strategy in ("coarse-to-fine", "short-to-full"):
            for key in ("share_of_rows", "nearly_best_in_share_of_pairs"):
                cells.append(percent(sum(group[strategy][key] * group[strategy]["pairs"] for group in both) / pairs))
        rows, near, short_rows, short_near = cells
        words = (" of the rows", " of the pairs") if steps == "10" else ("", "")
        yield "docs/oir.md", f"| {steps} | {pairs} | {rows}{words[0]}, {near}{words[1]} | {short_rows}, {short_near} |"
    one = result("object_edits")["coarse_to_fine"]
    yield (
        "demo/MODEL_CARD.md",
        f"(the {one['pairs']} pairs of these edits): {percent(one['share_of_rows'])} of the UNet rows of an exhaustive "
        f"search; at least {percent(one['goals']['share_of_best_S'])} of the best S in "
        f"{percent(one['in_share_of_pairs'])} of the pairs, the same step in "
        f"{percent(one['same_step_in_share_of_pairs'])}.",
    )


def figures_of_object_edits() -> Iterator[tuple[str, str]]:
    found = result("object_edits")
    for shown, method in (
        ("OIR, `edit weight` 1", "oir"),
        ("OIR, `edit weight` 2", "oir_weighted"),
        *((f"the same inversion step for all: {step} of 25", f"fixed {step}") for step in (12, 18, 25)),
        ("SDEdit (fresh noise, no masks), 18 of 25", "sdedit 18"),
        ("latent blending from noise, 25 of 25", "blended 25"),
        ("the VAE alone", "vae"),
    ):
        one = found["methods"][method]
        shares = " | ".join(percent(one[key]) for key in ("objects", "both", "both_kept"))
        yield "docs/oir.md", f"| {shown} | {shares} | {one['psnr_outside_db']:.1f} dB |"
    for shown, method in (
        ("OIR", "oir"),
        ("OIR, `edit weight` 2", "oir_weighted"),
        ("one fixed step, the best of the grid (25)", "fixed 25"),
        ("blended latents (25)", "blended 25"),
        ("SDEdit (25)", "sdedit 25"),
    ):
        one = found["methods"][method]
        row = f"| {shown} | {percent(one['both'])} | {percent(one['both_kept'])} | {one['ms_ssim']:.2f} |"
        yield "demo/MODEL_CARD.md", row
    colours, kinds = (found["both_by_change"][key] for key in ("colour+colour", "kind+kind"))
    yield (
        "demo/MODEL_CARD.md",
        f"If both objects change colour: OIR {percent(colours['oir'])}, with `edit weight` 2 "
        f"{percent(colours['oir_weighted'])}, the fixed step {percent(colours['fixed 25'])}; if both change kind: "
        f"{100 * kinds['oir']:.0f}, {100 * kinds['oir_weighted']:.0f} and {percent(kinds['fixed 25'])}.",
    )


def figures_of_two_colours() -> Iterator[tuple[str, str]]:
    found = {method: int(one["success, bg ≥ 20 dB % ↑"]) for method, one in evaluated("drawn pairs").items()}
    fixed, plain = (sorted(v for k, v in found.items() if k.startswith(name)) for name in ("oir, fixed", "one_step"))
    yield (
        "docs/oir.md",
        f"{found['oir']} % have both new colours and 20 dB outside the masks ({found['oir as published']} % at weight "
        f"1), from one step for both objects {fixed[0]} to {fixed[-1]} %, from one step without OIR {plain[0]} to "
        f"{plain[-1]} %.",
    )
    yield (
        "demo/MODEL_CARD.md",
        f"in {found['oir']} % ({found['oir as published']} % at weight 1); from one step for both objects in "
        f"{fixed[0]} to {fixed[-1]} %.",
    )


def figures_of_part_edits() -> Iterator[tuple[str, str]]:
    sixty, forty = evaluated("sixty generated parts"), evaluated("forty drawn parts")
    for shown, method in (
        ("ω 0.5", "partedit"),
        ("ω 0.5, source latent pasted back", "partedit with the source pasted back"),
        ("ω 0.7", "partedit, omega 0.7"),
        ("no blending", "prompt_to_prompt"),
    ):
        one = sixty[method]
        shares = f"{one['success % ↑']} % | {one['success, bg ≥ 20 dB % ↑']} %"
        yield "demo/MODEL_CARD.md", f"| {shown} | {shares} | {one['PSNR bg ↑']} dB | {one['SSIM bg ↑']} |"
    # ddim_current_timestep is what the demo's configuration sets.
    for shown in ("ddim_next_timestep", "ddim_current_timestep", "edit_friendly_ddpm", "ddim_fixed_point", "ledits_pp"):
        one = forty.get(f"partedit, inversion {shown}", forty["partedit"])
        shares = f"{one['success % ↑']} % | {one['success, bg ≥ 20 dB % ↑']} %"
        yield "demo/MODEL_CARD.md", f"| `{shown}` | {shares} | {one['PSNR bg ↑']} dB |"
    fifteen = evaluated("generated parts")
    auto, published = (fifteen[m]["success, bg ≥ 20 dB % ↑"] for m in ("partedit", "partedit, layers published"))
    for page in ("docs/partedit.md", "js/docs/PartAttentionMask/en.md"):
        yield page, f"{auto} % show the new colour and keep the rest on `auto`, {published} % on `published`"
    plain, pasted, free = (sixty[m] for m in ("partedit", "partedit with the source pasted back", "prompt_to_prompt"))
    yield (
        "docs/partedit.md",
        f"the demo model it has {plain['PSNR bg ↑']} dB and SSIM {plain['SSIM bg ↑']}; with the latent pasted back, "
        f"{pasted['PSNR bg ↑']} dB and {pasted['SSIM bg ↑']};",
    )
    changed, blended = (round(60 * int(one["success % ↑"]) / 100) for one in (free, plain))
    yield (
        "docs/partedit.md",
        f"the new colour in {changed} of 60 edits, but change everything else with it: {free['PSNR bg ↑']} dB and "
        f"SSIM {free['SSIM bg ↑']}. With blending it is {blended} of 60.",
    )


def figures_of_tokens() -> Iterator[tuple[str, str]]:
    curves, tokens, cost = result("token_curves"), result("part_tokens"), result("token_cost")
    mean = curves["mean"]
    counts = (1, 2, 5, 10, 20)
    row = " | ".join(f"{mean[f'token, {count} pictures']['adaptive']:.2f}" for count in counts)
    yield "docs/tokens.md", f"| IoU | {row} |"
    words = [one for name, one in mean.items() if "prompt" in name]
    best, otsu = (max(one[threshold] for one in words) for threshold in ("adaptive", "otsu"))
    for page in ("docs/tokens.md", "demo/MODEL_CARD.md"):
        yield page, f"reaches {best:.2f} at best ({otsu:.2f} with plain Otsu)."
    stretches = result("token_recipes")["mean"].values()
    paper, pack = (sum(one[name]["adaptive"] for one in stretches) / len(stretches) for name in ("paper", "pack"))
    page = "js/docs/TrainPartToken/en.md"
    yield page, f"`paper` is slightly ahead of `pack` on average ({paper:.3f} against {pack:.3f}, one training each)"
    through, cached = mean["through the UNet, the picture's queries"], mean["the same recipe on the cache"]
    yield "docs/tokens.md", f"reaches an IoU of {through['adaptive']:.2f}, on recorded queries {cached['adaptive']:.2f}"
    parts = {name: one["adaptive_0.5"] for name, one in tokens["tokens"].items()}
    measured = re.search(
        r"Part tokens: (mean IoU [\d.]+) \([^)]*\); ([^;]+);", text_of("bench/results/evaluate_demo.md")
    )
    assert measured is not None
    yield "demo/MODEL_CARD.md", f"{measured[1]} ({measured[2]})."
    yield (
        "docs/tokens.md",
        f"reach a mean IoU of {tokens['mean_iou_adaptive_mid']:.2f} on 100 held-out images each; the weakest is the "
        f"car hood with {min(parts.values()):.2f}",
    )
    later = cost["extrapolated"]
    yield (
        "docs/tokens.md",
        f"{later['seconds_caching_20_pictures']:.0f} s to record the queries, {later['seconds_2000_steps']:.0f} s for "
        f"2,000 steps, and {cost['measured']['cache_bytes_20_pictures'] / 1e9:.1f} GB of recorded queries, "
        f"{later['cache_bytes_20_pictures_at_full_width'] / 1e9:.1f} GB at full width",
    )
    levels, layers = 4, len(cost["measured"]["layers"])
    megabytes = later["cache_bytes_20_pictures_at_full_width"] / (20 * levels * layers) / 1e6
    yield "js/docs/TrainPartToken/en.md", f"the queries take about {megabytes:.1f} MB per image, level and layer."


def figures_of_load() -> Iterator[tuple[str, str]]:
    jobs = result("load")["jobs"]
    edits, searches = (max(one["megabytes"] for one in jobs[kind]) for kind in ("edits", "searches"))
    yield "docs/reliability.md", f"({edits} MB through the edits, {searches:,} MB through the searches)"


@pytest.mark.parametrize(
    "figures",
    [
        figures_of_searches,
        figures_of_object_edits,
        figures_of_two_colours,
        figures_of_part_edits,
        figures_of_tokens,
        figures_of_load,
    ],
    ids=lambda figures: figures.__name__,
)
def test_figures_in_the_guides_are_those_of_the_results(figures):
    for page, expected in figures():
        assert expected in " ".join(text_of(page).split()), page
