"""Reading and writing part token files. They may come from anywhere, so they are read with care."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..attention import TOKEN_CONTEXT
from ..files import whole_file
from .published import published_token
from .token_names import SAFE_SUFFIXES, token_stem
from .tokens import PartToken, family_of_width

MAX_PART_NAME = 100
# A token of 77 rows at the widest text conditioning in use is far below a megabyte.
MAX_FILE_BYTES = 64 * 1024**2
MAX_WIDTH = 65536
MAX_TEXT = 20_000
_ANOTHER_KIND = "This is some other kind of file; move it out of the part token folder."


def save_token(token: PartToken, path: Path | str) -> None:
    """Write a token as safetensors (key ``embedding``), atomically."""
    from safetensors.torch import save_file

    metadata = {
        **token.metadata,
        "format": "partedit-part-token",
        "parts": json.dumps(list(token.names)),
        "part_rows": json.dumps(list(token.part_rows)),
        "model_family": token.model_family,
    }
    if token.layers:
        metadata["layers"] = _joined(token.layers)
    if token.paddings:
        metadata["padding"] = _joined(token.paddings)
    with whole_file(Path(path)) as temporary:
        save_file({"embedding": token.embedding.detach().float().cpu().contiguous()}, str(temporary), metadata)


def _joined(choices: tuple[str, ...]) -> str:
    """One choice for all parts, or a list with one for each part of a combined token."""
    return choices[0] if len(set(choices)) == 1 else json.dumps(list(choices))


def load_token(path: Path | str) -> PartToken:
    """Read a token file, told by its content: safetensors, or a tensor as torch saves it (the published ``.pt`` files
    hold one of shape (2, 2048)), which is read without running code.

    Raises:
        ValueError: no such file, not a token file, or invalid values.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"part token: {path} does not exist. Put token files into ComfyUI's models/part_tokens folder."
        )
    check_file_size(path)
    content, metadata = _read(path)
    embedding = check_embedding(content, path.name)
    metadata = {clean_text(key): clean_text(value) for key, value in metadata.items()}
    rows = embedding.shape[0]
    names = _json_list(metadata.pop("parts", None), str)
    part_rows = _json_list(metadata.pop("part_rows", None), int)
    if part_rows is None:
        # Without metadata, two rows are (background, part) and 2P rows are P such pairs, as in the published files.
        part_rows = tuple(range(1, rows, 2)) if rows % 2 == 0 else tuple(range(1, rows))
    names = None if names is None else tuple(clean_text(name)[:MAX_PART_NAME] for name in names)
    published = published_token(path.name)
    if published is not None and published.stem == token_stem(path.name) and published.shape == tuple(embedding.shape):
        names = (published.part,) if names is None else names
        own = {"source": published.url, "licence": published.licence, "note": published.remark}
        metadata = {key: value for key, value in own.items() if value} | metadata
    if names is None or len(names) != len(part_rows) or "" in names or len(set(names)) != len(names):
        names = (path.stem,) if len(part_rows) == 1 else tuple(f"{path.stem} {n + 1}" for n in range(len(part_rows)))
    metadata.pop("format", None)
    layers = _layers(metadata.pop("layers", ""), len(part_rows))
    paddings = _paddings(metadata, len(part_rows))
    family = metadata.pop("model_family", "") or family_of_width(embedding.shape[1])
    try:
        return PartToken(embedding, part_rows, names, family, metadata, layers, paddings)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _read(path: Path) -> tuple[Any, dict[str, str]]:
    """Content and metadata of a file, read without running any code in it; not yet checked by `check_embedding`."""
    with path.open("rb") as file:
        start = file.read(16)
    # The content decides: a file may have been saved under another suffix.
    safetensors = start[8:9] == b"{"
    if not safetensors and start.startswith((b"<", b"version https:")):
        raise ValueError(
            f"{path.name}: is a web page or a pointer to a file, not the token itself. Download the file again, by the "
            "site's download button or an address with /resolve/ in it."
        )
    try:
        if safetensors or (path.suffix.lower() in SAFE_SUFFIXES and not start.startswith((b"PK\x03\x04", b"\x80"))):
            from safetensors import safe_open

            with safe_open(str(path), framework="pt", device="cpu") as file:
                keys = list(file.keys())
                key = keys[0] if len(keys) == 1 else "embedding"
                content, metadata = (file.get_tensor(key) if key in keys else None), dict(file.metadata() or {})
        else:
            content, metadata = torch.load(path, map_location="cpu", weights_only=True), {}
    except Exception as error:
        # The libraries' own messages are left out: torch's suggests loading the file with its code.
        raise ValueError(
            f"{path.name}: is damaged, incomplete, or contains more than plain tensors ({type(error).__name__}), so it "
            "was not loaded. Download it again from its publisher."
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


def _layers(text: str, parts: int) -> tuple[str, ...]:
    """The layers recorded for each part. Whether the model has them is known only when the token is read."""
    return _for_each_part(text, parts)


def _paddings(metadata: dict[str, str], parts: int) -> tuple[str, ...]:
    """The padding that each part was trained with; ``padding`` is taken out of the metadata."""
    text = metadata.pop("padding", None)
    if text is None:  # files from before it was recorded say over which rows the softmax ran
        text = {"two_way": "none", "full": "background"}.get(metadata.get("softmax", ""), "")
    return _for_each_part(text, parts)


def _for_each_part(text: str, parts: int) -> tuple[str, ...]:
    """What was recorded for all parts, or the entries of a list with one for each; () for nothing of use."""
    each = _json_list(text, str)
    if each is None:
        return (text,) * parts if text else ()
    return tuple(each) if len(each) == parts and any(each) else ()


def check_file_size(path: Path) -> None:
    """Refuse a file that is empty or far too large for a token before reading it.

    Raises:
        ValueError: such a file, or an archive whose list of contents cannot be read.
    """
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path.name}: is empty. Download or save it again.")
    size = max(size, _unpacked_size(path))
    if size > MAX_FILE_BYTES:
        raise ValueError(
            f"{path.name}: has {size / 1024**2:.0f} MB, but a part token has less than {MAX_FILE_BYTES // 1024**2} MB. "
            f"{_ANOTHER_KIND}"
        )


def _unpacked_size(path: Path) -> int:
    """Unpacked size in bytes of a ZIP archive, such as torch saves; 0 for any other file.

    torch writes uncompressed archives but reads compressed ones, which may expand to a thousand times their size.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return 0
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except Exception as error:  # a malicious archive makes zipfile raise all sorts of errors
        raise ValueError(
            f"{path.name}: is damaged or incomplete ({type(error).__name__}), so it was not loaded. Download it "
            "again from its publisher."
        ) from error


def check_embedding(value: Any, name: str) -> torch.Tensor:
    """The tensor of a token file as plain (R, D) float32 on the CPU, as a copy.

    Shape and kind are checked before anything is computed: a few bytes can describe a view of terabytes.

    Raises:
        ValueError: not a dense floating-point tensor, or a shape or values that no token has.
    """
    if not isinstance(value, torch.Tensor):
        raise ValueError(
            f"{name}: contains no tensor. A part token is one tensor of shape (rows, width). {_ANOTHER_KIND}"
        )
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        raise ValueError(
            f"{name}: contains a sparse, quantised or device tensor. A part token is a plain one. {_ANOTHER_KIND}"
        )
    if not value.is_floating_point():
        raise ValueError(
            f"{name}: contains {value.dtype} values. A part token has floating-point values. {_ANOTHER_KIND}"
        )
    if value.ndim != 2 or not 2 <= value.shape[0] <= TOKEN_CONTEXT or not 1 <= value.shape[1] <= MAX_WIDTH:
        raise ValueError(
            f"{name}: its tensor has shape {tuple(value.shape)}. A part token has shape (rows, width) with 2 to "
            f"{TOKEN_CONTEXT} rows, background first; published ones have (2, 2048). {_ANOTHER_KIND}"
        )
    rows = value.detach().to(torch.float32).clone()
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(
            f"{name}: contains NaN or infinite values. The file is damaged, or its training failed. Download "
            "or train it again."
        )
    return rows


def clean_text(text: str) -> str:
    """A text from a file's metadata, without control characters and limited in length."""
    kept = "".join(letter for letter in text[:MAX_TEXT] if letter.isprintable() or letter in "\n\t")
    return kept.strip()
