"""Small configurations and pictures for the tests of run.py evaluate."""

from __future__ import annotations

import io

import yaml
from PIL import Image

from tools.evaluate.config import read_plan

SIZE = 64


def picture(colour=(200, 30, 30), size=(80, 60)):
    return Image.new("RGB", size, colour)


def box(left, right, size=(80, 60)):
    mask = Image.new("L", size)
    mask.paste(255, (left, 10, right, 50))
    return mask


def encoded(image):
    data = io.BytesIO()
    image.save(data, format="PNG")
    return data.getvalue()


def write_config(folder, data, methods=("unchanged",), **more):
    file = folder / "config.yaml"
    values = {"size": SIZE, "data": data, "methods": list(methods), **more}
    file.write_text(yaml.safe_dump(values))
    return file


def cases_of(folder, data):
    return list(read_plan(write_config(folder, [data])).data[0].cases)
