"""Part tokens: what they are, the context they stand in, and their files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..attention import TOKEN_CONTEXT
from .token_files import check_embedding, check_file_size, clean_text, safe_file_name, where_to_get

FOLDER = "part_tokens"
SUFFIXES = (".safetensors", ".pt")
MAX_PART_NAME = 100
PADDINGS = ("background", "end_of_text", "zero")
# Width of the text conditioning of each family, as far as it identifies one.
FAMILY_WIDTHS = {"sd1": 768, "sd2": 1024, "sdxl": 2048}
_FAMILY_NAMES = {768: "SD1.x or the demo model", 1024: "SD2.x", 2048: "SDXL"}


@dataclass(frozen=True)
class PartToken:
    """Learned text-embedding rows that find parts of an object (PartEdit, Cvejic et al. 2025, Sec. 4.1).

    Attributes:
        embedding: (R, D) float32; D is the width of the model's text conditioning. Row 0 is background.
        part_rows: row of each part; all other rows are background. Published files: R = 2, part_rows = (1,).
        names: one name a part.
        model_family: "sdxl", "sd1", "sd2", "demo", or "" when unknown.
        metadata: provenance, all text.
    """

    embedding: torch.Tensor
    part_rows: tuple[int, ...]
    names: tuple[str, ...]
    model_family: str = ""
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = self.embedding
        if rows.ndim != 2 or not rows.is_floating_point():
            raise ValueError(
                f"part token: expected an embedding of shape (rows, width), got {tuple(rows.shape)} {rows.dtype}."
            )
        if not 2 <= rows.shape[0] <= TOKEN_CONTEXT:
            raise ValueError(
                f"part token: has {rows.shape[0]} rows; it needs background and part, and at most {TOKEN_CONTEXT}."
            )
        if not bool(torch.isfinite(rows).all()):
            raise ValueError(
                "part token: the embedding holds NaN or infinite values; the file is damaged or its training failed."
            )
        valid = all(0 < row < rows.shape[0] for row in self.part_rows) and len(set(self.part_rows)) == len(
            self.part_rows
        )
        if not self.part_rows or not valid:
            raise ValueError(
                f"part token: part rows {self.part_rows} do not fit {rows.shape[0]} rows (row 0 is the background, "
                "each part needs a row of its own)."
            )
        if len(self.names) != len(self.part_rows):
            raise ValueError(f"part token: {len(self.names)} names {self.names} for {len(self.part_rows)} parts.")

    @property
    def parts(self) -> int:
        return len(self.part_rows)

    @property
    def width(self) -> int:
        return self.embedding.shape[1]

    def context(
        self, padding: str = "background", end_of_text: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Distinct rows of the 77-row context and how often each occurs.

        Args:
            padding: ``background`` repeats row 0 (as the published ``BG`` and ``SOT_E`` do), ``end_of_text`` repeats
                the last row of the source conditioning, ``zero`` adds zeros.
            end_of_text: (D,), needed for that padding.

        Returns:
            (K, D) rows, the token's own first, and (K,) logarithms of their counts.
        """
        rows = self.embedding
        counts = [1.0] * rows.shape[0]
        left = TOKEN_CONTEXT - rows.shape[0]
        if padding == "background":
            counts[0] += left
        elif left:
            if padding == "zero":
                fill = torch.zeros_like(rows[:1])
            elif padding == "end_of_text" and end_of_text is not None:
                fill = end_of_text.reshape(1, -1).to(rows)
            else:
                raise ValueError(f"padding: {padding!r} is not one of {', '.join(PADDINGS)}.")
            rows = torch.cat([rows, fill])
            counts.append(float(left))
        return rows, torch.tensor([math.log(c) for c in counts])

    def check_width(self, width: int) -> None:
        """Raise a ValueError when the token does not fit a model whose text conditioning is ``width`` wide."""
        if self.width != width:
            own, wanted = (_FAMILY_NAMES.get(w, "another family") for w in (self.width, width))
            raise ValueError(
                f"part_token: {', '.join(self.names)} has rows {self.width} wide ({own}), but this model's text "
                f"conditioning is {width} wide ({wanted}). Choose a token that was trained for this model, or train "
                "one with TrainPartToken."
            )

    def part_indices(self, names: Sequence[str]) -> tuple[int, ...]:
        """Positions of the named parts; all of them for no names.

        Raises:
            ValueError: a name that the token does not have.
        """
        if not names:
            return tuple(range(self.parts))
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ValueError(
                f"part: {', '.join(unknown)} is not in the part token, which has: {', '.join(self.names)}. Use one of "
                "these names, or add the part with CombinePartTokens."
            )
        return tuple(self.names.index(name) for name in names)


def combine(tokens: Sequence[PartToken]) -> PartToken:
    """Join tokens into one that finds all their parts; the rows keep their order, as in the published multi-part use.

    Raises:
        ValueError: no token, different widths, or a part name that occurs twice.
    """
    if not tokens:
        raise ValueError("part tokens: none connected. Connect at least one LoadPartToken or TrainPartToken.")
    widths = {token.width for token in tokens}
    if len(widths) > 1:
        shown = ", ".join(f"{'/'.join(t.names)} {t.width}" for t in tokens)
        raise ValueError(
            f"part tokens: widths differ ({shown}). Combine only tokens trained for the same model family."
        )
    names = [name for token in tokens for name in token.names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"part tokens: {', '.join(twice)} occurs more than once. Connect each part only once.")
    rows, part_rows, start = [], [], 0
    for token in tokens:
        rows.append(token.embedding)
        part_rows += [start + row for row in token.part_rows]
        start += token.embedding.shape[0]
    families = {token.model_family for token in tokens}
    family = families.pop() if len(families) == 1 else ""
    return PartToken(torch.cat(rows), tuple(part_rows), tuple(names), family, {"combined_from": ", ".join(names)})


def save_token(token: PartToken, path: Path | str) -> None:
    """Write a token as safetensors (key ``embedding``), whole or not at all."""
    from safetensors.torch import save_file

    path = Path(path)
    metadata = {
        **token.metadata,
        "format": "partedit-part-token",
        "parts": json.dumps(list(token.names)),
        "part_rows": json.dumps(list(token.part_rows)),
        "model_family": token.model_family,
    }
    temporary = path.with_name(path.name + ".part")
    try:
        save_file({"embedding": token.embedding.detach().float().cpu().contiguous()}, str(temporary), metadata)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_token(path: Path | str) -> PartToken:
    """Read a token file: safetensors, or the published ``.pt`` tensors (2, D), which are read without running code.

    Raises:
        ValueError: no such file, no token in it, or values that cannot be a token.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"part token: no file {path}. Put token files into ComfyUI's models/{FOLDER} folder.")
    check_file_size(path)
    content, metadata = _read(path)
    embedding = check_embedding(content, path.name)
    metadata = {clean_text(key): clean_text(value) for key, value in metadata.items()}
    rows = embedding.shape[0]
    names = _json_list(metadata.pop("parts", None), str)
    part_rows = _json_list(metadata.pop("part_rows", None), int)
    if part_rows is None:
        # Without a note, two rows are (background, part) and 2P rows are P such pairs, as in the published files.
        part_rows = tuple(range(1, rows, 2)) if rows % 2 == 0 else tuple(range(1, rows))
    names = None if names is None else tuple(clean_text(name)[:MAX_PART_NAME] for name in names)
    if names is None or len(names) != len(part_rows) or "" in names or len(set(names)) != len(names):
        names = (path.stem,) if len(part_rows) == 1 else tuple(f"{path.stem} {n + 1}" for n in range(len(part_rows)))
    metadata.pop("format", None)
    family = metadata.pop("model_family", "")
    if not family:
        family = next((f for f, w in FAMILY_WIDTHS.items() if rows and w == embedding.shape[1] and w != 768), "")
    try:
        return PartToken(embedding, part_rows, names, family, metadata)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _read(path: Path) -> tuple[Any, dict[str, str]]:
    """What a file holds, read without running anything in it; see `check_embedding` for what it must be."""
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(str(path), framework="pt", device="cpu") as file:
                keys = list(file.keys())
                key = keys[0] if len(keys) == 1 else "embedding"
                content, metadata = (file.get_tensor(key) if key in keys else None), dict(file.metadata() or {})
        else:
            content, metadata = torch.load(path, map_location="cpu", weights_only=True), {}
    except Exception as error:
        # The libraries' own words are left out: torch's suggest to load the file with code in it.
        raise ValueError(
            f"{path.name}: is damaged, incomplete, or holds more than plain tensors ({type(error).__name__}), so it "
            "was not loaded. Get it again from where it is published."
        ) from error
    if isinstance(content, dict):
        content = content.get("embedding", next(iter(content.values()), None))
    return content, metadata


def _json_list(text: str | None, kind: type) -> tuple[Any, ...] | None:
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, list) or not all(isinstance(v, kind) for v in values):
        return None
    return tuple(values)


def keep_token(token: PartToken, name: str, *, replace: bool = False, note: str = "") -> Path:
    """Save a token into the user's token folder under a plain name.

    Args:
        name: see `safe_file_name`; an ending of a token file is taken off.
        replace: overwrite a token of that name; otherwise a number is added.
        note: the user's words, kept as metadata.

    Returns:
        The file's path.

    Raises:
        ValueError: a name that is none, or a file of that name that is no token.
    """
    import folder_paths

    stem = safe_file_name(name)
    stem = stem[: -len(".safetensors")] if stem.lower().endswith(".safetensors") else stem
    stem = safe_file_name(stem)
    # The pack's own folder comes with the code: an update would take what is saved there away.
    own = Path(__file__).resolve().parents[2] / "tokens"
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(FOLDER)]
    folder = next((folder for folder in folders if folder.resolve() != own), None)
    if folder is None:
        raise ValueError(f"file_name: ComfyUI has no models/{FOLDER} folder to save into.")
    folder.mkdir(parents=True, exist_ok=True)
    path, number = folder / f"{stem}.safetensors", 1
    if replace and path.exists():
        try:
            load_token(path)
        except ValueError as error:
            raise ValueError(f"file_name: {path} exists and is no part token, so it is not replaced.") from error
    while not replace and path.exists():
        number += 1
        path = folder / f"{stem}_{number}.safetensors"
    metadata = {**token.metadata, "pack_version": _pack_version()}
    if note.strip():
        metadata["note"] = clean_text(note)
    save_token(PartToken(token.embedding, token.part_rows, token.names, token.model_family, metadata), path)
    return path


def _pack_version() -> str:
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    line = next((line for line in text.splitlines() if line.startswith("version")), "")
    return line.partition("=")[2].strip().strip('"')


def list_tokens() -> list[str]:
    """Names of the token files ComfyUI knows: models/part_tokens, extra_model_paths, and those of the pack."""
    import folder_paths

    return [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(SUFFIXES)]


def find_token(name: str) -> Path:
    """Path of a listed token.

    Raises:
        ValueError: the name is not listed (it is never used as a path itself).
    """
    import folder_paths

    path = folder_paths.get_full_path(FOLDER, name) if name in list_tokens() else None
    if path is None:
        folders = " or ".join(folder_paths.get_folder_paths(FOLDER))
        shown = name if name.isprintable() else ascii(name)
        published = where_to_get(name, folder_paths.get_folder_paths(FOLDER)[0])
        raise ValueError(
            f"part_token: {published}"
            if published
            else f"part_token: {shown!r} is not among the token files. Put it into {folders}."
        )
    return Path(path)
