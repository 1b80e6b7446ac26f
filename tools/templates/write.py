"""Writes workflows/*.json and subgraphs/*.json from their descriptions, and thumbnails of what the demo model can run.

python3 run.py templates            all of them
python3 run.py templates NAME ...   only these
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
from pathlib import Path

from PIL import Image

from ..host.client import Client
from ..host.graph import problems, to_prompt
from ..host.layout import PACK_DIR, RUNTIME, Host, whole_file, write_whole
from ..host.link import link_pack
from ..host.server import Server
from . import oir, oir_flow, oir_real, partedit, partedit_more, partedit_sdxl, tokens
from .blueprint import compose_blueprint
from .blueprints import BLUEPRINTS
from .compose import compose

FOLDER = PACK_DIR / "workflows"
SUBGRAPHS = PACK_DIR / "subgraphs"
# A template that cannot run without downloads uses the thumbnail of the same graph on the demo checkpoint.
BORROWED = {
    "partedit_sdxl": "partedit_demo",
    "partedit_sdxl_real_image": "partedit_real_image",
    "partedit_sdxl_sam3": "partedit_real_image",
    "partedit_sdxl_several_parts": "partedit_two_parts",
    "partedit_sdxl_turbo": "partedit_demo",
    "oir_sdxl": "oir_demo",
    "oir_sd15": "oir_demo",
    "oir_grounded_sam": "oir_demo",
    "oir_z_image": "oir_demo",
    "oir_flux": "oir_demo",
    "latent_blend_z_image": "oir_single_object_demo",
    "oir_single_object": "oir_single_object_demo",
    "train_token_from_word": "train_token",
    "train_token_from_painted_masks": "train_token",
}
ALL = (
    *partedit.WORKFLOWS,
    *partedit_more.WORKFLOWS,
    *partedit_sdxl.WORKFLOWS,
    *oir.WORKFLOWS,
    *oir_real.WORKFLOWS,
    *oir_flow.WORKFLOWS,
    *tokens.WORKFLOWS,
)
# Images that templates load.
EXAMPLES = PACK_DIR / "workflows" / "input"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="run.py templates", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these templates")
    parser.add_argument("--no-run", action="store_true", help="write the files without running them for thumbnails")
    options = parser.parse_args(arguments)
    there = [one.name for one in ALL]
    if unknown := sorted(set(options.names) - set(there)):
        parser.error(f"no template {', '.join(unknown)}. There are: {', '.join(there)}.")
    chosen = [one for one in ALL if not options.names or one.name in options.names]
    root = Path(os.environ["COMFYUI_PATH"])
    host = Host(root, Path(sys.executable), private=root.is_relative_to(RUNTIME))
    FOLDER.mkdir(exist_ok=True)
    failed = 0
    with Server(host, cpu=True, pack_name=link_pack(host)) as server:
        server.start()
        client = Client(server.base_url, alive=server.alive)
        for path in sorted(EXAMPLES.glob("*.webp")):
            client.upload_image(path)
        info = client.object_info()
        SUBGRAPHS.mkdir(exist_ok=True)
        for blueprint in () if options.names else BLUEPRINTS:
            graph = compose_blueprint(blueprint, info)
            write_whole(SUBGRAPHS / f"{blueprint.name}.json", json.dumps(graph, indent=2) + "\n")
            print(blueprint.name, flush=True)
        for one in chosen:
            graph = compose(one, info)
            write_whole(FOLDER / f"{one.name}.json", json.dumps(graph, indent=2) + "\n")
            prompt = to_prompt(graph, info)
            found = problems(prompt, info)
            print(one.name, found or "ok", flush=True)
            failed += bool(found)
            if found or options.no_run or not one.thumbnail:
                continue
            number = str(1 + [node.key for node in one.nodes].index(one.thumbnail))
            images = client.run(prompt).outputs[number]["images"]
            picture = Image.open(io.BytesIO(client.view(images[0]))).convert("RGB")
            picture.thumbnail((384, 384))
            with whole_file(FOLDER / f"{one.name}.jpg") as partial:
                picture.save(partial, format="JPEG", quality=85)
    for name, origin in BORROWED.items():
        if (FOLDER / f"{origin}.jpg").is_file():
            shutil.copyfile(FOLDER / f"{origin}.jpg", FOLDER / f"{name}.jpg")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
