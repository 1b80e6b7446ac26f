"""One picture and one edit of it, as every method gets it, and the pictures that cases are made of."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from ..host.layout import whole_file
from ..pictures import as_mask, as_picture, read_mask, read_picture

# What the files of a generated source are called, in the place of a method.
SOURCE = "source"


class DataError(ValueError):
    """A data set cannot be read; the message names the file, the entry, and what was expected."""


@dataclass(frozen=True)
class Pair:
    """One object or part: its words before and after, its mask, and on the demo the colour it should have.

    Attributes:
        mask: file of `Pictures`, white where the object is; "" if unknown.
        colour: a name of ``demo.world.COLOURS``, or "" where success cannot be read off a colour.
    """

    before: str
    after: str
    mask: str = ""
    colour: str = ""


@dataclass(frozen=True)
class Case:
    """One edit.

    Attributes:
        data: name of its data set.
        name: unique in its data set; names its files.
        source, edit: prompts of the whole picture before and after.
        picture: file of `Pictures`; "" before a generated source is made.
        mask: file of `Pictures`, the region that should change; "" if unknown.
        pairs: the objects or parts that change; empty if they are not named.
        token: file name of a part token, or "".
        part: which part of a token of several.
        size: width and height in pixels.
        judged: object and part whose new colour the demo's judge can see, where no exact mask is known.
        generated: the model makes the source from ``source`` and ``seed``; ``picture`` is that source once it is made.
    """

    data: str
    name: str
    source: str
    edit: str
    picture: str = ""
    mask: str = ""
    pairs: tuple[Pair, ...] = ()
    token: str = ""
    part: str = ""
    seed: int = 0
    size: int = 0
    generated: bool = False
    judged: tuple[str, str] | None = None

    @property
    def mask_by_token(self) -> bool:
        """Whether the mask is found by the token, in a picture that the model generates."""
        return self.generated and bool(self.token)

    @property
    def masked_pairs(self) -> bool:
        return bool(self.pairs) and all(pair.mask for pair in self.pairs)

    @property
    def befores(self) -> list[str]:
        """The words of the source that change."""
        return [pair.before for pair in self.pairs]

    @property
    def target(self) -> str:
        """What the edited region should show: the one pair's phrase, else the whole edited prompt."""
        return self.pairs[0].after if len(self.pairs) == 1 else self.edit

    def with_source(self, picture: str, mask: str) -> Case:
        """The case with its generated source, and the mask of the part in it ("" if none was found)."""
        pairs = self.pairs
        if mask and len(pairs) == 1:
            # Found by a token, so no exact mask: success by colour is measured by the demo's judge, or not at all.
            pairs = (replace(pairs[0], mask=mask, colour=pairs[0].colour if self.judged else ""),)
        return replace(self, picture=picture, mask=mask or self.mask, pairs=pairs)


@dataclass
class Pictures:
    """A folder of pictures and masks, scaled to the model's size and named by their content.

    Args:
        folder: where they are kept.
        size: width and height in pixels.
        fit: ``crop`` keeps the aspect and takes the middle, ``stretch`` does not keep it.
        write: False only computes names (for a plan).
    """

    folder: Path
    size: int
    fit: str = "crop"
    write: bool = True
    # Masks of a plan as PNG: unions are made of them.
    kept: dict[str, bytes] = field(default_factory=dict)

    def picture(self, image: Image.Image) -> str:
        """Keep an image; returns its file name."""
        return self._keep(self._fitted(as_picture(image), Image.Resampling.LANCZOS))

    def mask(self, image: Image.Image) -> str:
        """Keep a mask, white where something should change; see `pictures.as_mask`.

        Raises:
            DataError: nothing or everything is marked.
        """
        whole = as_mask(image)
        grey = self._fitted(whole, Image.Resampling.BILINEAR).point(lambda value: 255 if value > 127 else 0)
        if grey.getextrema() == (255, 255):
            raise DataError("the mask marks everything of the picture")
        if grey.getextrema() == (0, 0):
            peak = whole.getextrema()[1]
            raise DataError(f"the mask marks nothing of the picture: white marks, its brightest value is {peak} of 255")
        return self._keep(grey)

    def union(self, names: list[str]) -> str:
        """Keep the union of masks that are kept already."""
        from PIL import ImageChops

        joined = self.open(names[0])
        for name in names[1:]:
            joined = ImageChops.lighter(joined, self.open(name))
        return self._keep(joined)

    def open(self, name: str) -> Image.Image:
        with Image.open(io.BytesIO(self.kept[name]) if name in self.kept else self.folder / name) as image:
            image.load()
            return image

    def path(self, name: str) -> Path:
        return self.folder / name

    def keep_bytes(self, data: bytes, mask: bool = False) -> str:
        """Keep a picture or mask that a server made."""
        return self.mask(read_mask(data)) if mask else self.picture(read_picture(data))

    def _fitted(self, image: Image.Image, method: Image.Resampling) -> Image.Image:
        size = (self.size, self.size)
        if image.size == size:
            return image
        return image.resize(size, method) if self.fit == "stretch" else ImageOps.fit(image, size, method)

    def _keep(self, image: Image.Image) -> str:
        content = f"{image.mode}{image.size}".encode() + image.tobytes()
        name = f"evaluate_{hashlib.sha256(content).hexdigest()[:20]}.png"
        if not self.write:
            if image.mode == "L":
                data = io.BytesIO()
                image.save(data, format="PNG")
                self.kept[name] = data.getvalue()
        elif not (self.folder / name).is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(self.folder / name) as partial:
                image.save(partial, format="PNG")
        return name


def one_line(text: Any) -> str:
    """A prompt on one line: a second line of Part Edit Prompt's ``edit`` would be a second edit."""
    return " ".join(str(text).split())


# Windows keeps these for devices, with any ending.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)")


def file_name(text: str) -> str:
    """A file name that says what it is; texts that differ get names that differ, whatever the file system."""
    plain = re.sub(r"[^a-z0-9._=-]+", "-", text.lower()).strip("-._")[:60]
    if _DEVICE.match(plain):
        plain = f"x-{plain}"
    return plain if plain == text else f"{plain or 'x'}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
