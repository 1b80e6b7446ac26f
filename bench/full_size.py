"""The templates for SDXL on a checkpoint of full size with drawn weights, from the file to the picture.

    python3 run.py bench full_size [--steps 3] [--levels 2] [--size 512]

Says nothing of quality, since the weights are noise: it shows that nothing breaks at 3.5 billion parameters, and what
it costs. ``partedit_sdxl`` runs as it is, with a drawn token. In ``oir_sdxl``, boxes stand in for SAM 3's masks, and a
drawn CLIP base for CLIP bigG. Needs 8 GB of disk for the files, which are deleted afterwards, and 12 GB of memory. On a
CPU the UNet is kept in bfloat16 and computes in float32.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from safetensors.torch import save_file

from tools.bootstrap import boot_host
from tools.host.client import Client
from tools.host.layout import PACK_DIR, RUNTIME, Host
from tools.host.link import link_pack
from tools.host.server import Server
from tools.templates.models import HUMAN_HEAD, SDXL

from .load import prompt_of, server_process
from .results import write_result

NAME = "full_size"
SCORER = "clip_base.safetensors"
# SDXL's, as ComfyUI recognises it.
UNET: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "num_head_channels": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "context_dim": 2048,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "legacy": False,
}
VAE: dict[str, Any] = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def drawn(blank: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Weights for the shapes of a network, float16: matrices keep the size of what they map, norms change nothing."""
    made = {}
    for name, shape in ((name, tensor.shape) for name, tensor in blank.items()):
        if len(shape) > 1:
            scale = 0.02 if "embedding" in name else math.prod(shape[1:]) ** -0.5
            made[name] = (torch.randn(shape, generator=generator) * scale).half()
        else:
            made[name] = torch.full(shape, float("norm" in name and name.endswith("weight")), dtype=torch.float16)
    return made


def write_checkpoint(path: Path, seed: int = 0) -> int:
    """An SDXL checkpoint in the usual format with drawn weights; gives back the number of its parameters."""
    import comfy.clip_model
    import comfy.ops
    import comfy.supported_models
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    generator = torch.Generator().manual_seed(seed)
    operations = comfy.ops.disable_weight_init
    saving = comfy.supported_models.SDXL(UNET)
    with torch.device("meta"):
        unet = UNetModel(**UNET, dtype=torch.float16, operations=operations).state_dict()
        vae = AutoencoderKL(embed_dim=4, ddconfig=VAE).state_dict()
        texts: dict[str, torch.Tensor] = {}
        folder = Path(comfy.clip_model.__file__).parent
        for prefix, file in (("clip_l", "sd1_clip_config.json"), ("clip_g", "clip_config_bigg.json")):
            config = json.loads((folder / file).read_text(encoding="utf-8"))
            tower = comfy.clip_model.CLIPTextModel(config, torch.float16, torch.device("meta"), operations)
            texts |= {f"{prefix}.transformer.{name}": tensor for name, tensor in tower.state_dict().items()}
    tensors = saving.process_unet_state_dict_for_saving(drawn(unet, generator))
    tensors |= saving.process_clip_state_dict_for_saving(drawn(texts, generator))
    tensors |= saving.process_vae_state_dict_for_saving(drawn(vae, generator))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return sum(tensor.numel() for tensor in tensors.values())


def write_scorer(path: Path, seed: int = 0) -> None:
    """A whole CLIP of base size (ViT-B/32) with drawn weights."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    save_file(CLIPModel(CLIPConfig()).half().state_dict(), path)


def write_files(folder: Path) -> None:
    """All that the two templates load, in a folder of models, and ``parameters.json`` beside it."""
    boot_host(cpu=True)
    for name in (SDXL.directory, "clip_scorers", HUMAN_HEAD.directory):
        (folder / name).mkdir()
    parameters = write_checkpoint(folder / SDXL.directory / SDXL.name)
    write_scorer(folder / "clip_scorers" / SCORER)
    token = torch.randn(2, 2048, generator=torch.Generator().manual_seed(1))
    torch.save(token, folder / HUMAN_HEAD.directory / HUMAN_HEAD.name)
    (folder / "parameters.json").write_text(json.dumps(parameters))


class Highest:
    """The most memory a process has held while the block ran, looked at twice a second."""

    def __init__(self, process: psutil.Process) -> None:
        self.process, self.megabytes, self.seconds = process, 0, 0.0
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._ended.wait(0.5):
            # Files that are mapped for reading can be dropped at any time; they do not count.
            held = self.process.memory_full_info().uss if hasattr(self.process, "memory_full_info") else 0
            self.megabytes = max(self.megabytes, held >> 20)

    def __enter__(self) -> Highest:
        self._clock = time.perf_counter()
        self._watch.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.seconds = time.perf_counter() - self._clock
        self._ended.set()
        self._watch.join()


def partedit_job(info: dict[str, Any], size: int, steps: int) -> dict[str, Any]:
    shape = {"width": size, "height": size}
    return prompt_of("partedit_sdxl", info, {"EmptyLatentImage": shape, "FeatureBlendSampler": {"steps": steps}})


def oir_job(info: dict[str, Any], size: int, levels: int, image: str) -> dict[str, Any]:
    """The template with boxes for SAM 3's masks, and one file for the scorer."""
    changes: dict[str, dict[str, Any]] = {
        "LoadImage": {"image": image},
        "ImageScale": {"width": size, "height": size},
        "InvertLatent": {"steps": levels},
        "InversionStepSearch": {"strategy": "exhaustive"},
    }
    prompt = prompt_of("oir_sdxl", info, changes)
    detectors = [key for key, node in prompt.items() if node["class_type"] == "SAM3_Detect"]
    texts = {prompt[key]["inputs"]["conditioning"][0] for key in detectors}
    loaders = {prompt[key]["inputs"]["model"][0] for key in detectors}
    prompt["nothing"] = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": size, "height": size}}
    half = {"value": 1.0, "width": size // 2, "height": size}
    prompt["box"] = {"class_type": "SolidMask", "inputs": half}
    for number, key in enumerate(detectors):
        place = {"x": number * size // 2, "y": 0, "operation": "add"}
        joined = {"destination": ["nothing", 0], "source": ["box", 0], **place}
        prompt[key] = {"class_type": "MaskComposite", "inputs": joined}
    (scorer,) = (key for key, node in prompt.items() if node["class_type"] == "CLIPScorerFromModels")
    vision = prompt[scorer]["inputs"]["clip_vision"][0]
    prompt[scorer] = {"class_type": "LoadCLIPScorer", "inputs": {"model": SCORER}}
    return {key: node for key, node in prompt.items() if key not in {*texts, *loaders, vision}}


def run_jobs(server: Server, client: Client, size: int, steps: int, levels: int) -> tuple[dict[str, Any], np.ndarray]:
    """Figures of each template, and their pictures side by side."""
    image = client.upload_image(PACK_DIR / "workflows" / "oir_demo.jpg")
    info, process = client.object_info(), server_process(server)
    found: dict[str, Any] = {"server_megabytes": process.memory_full_info().uss >> 20}
    shown = []
    jobs = {"partedit_sdxl": partedit_job(info, size, steps), "oir_sdxl": oir_job(info, size, levels, image)}
    for name, prompt in jobs.items():
        with Highest(process) as highest:
            result = client.run(prompt, limit=3600.0)
        found[name] = {"seconds": round(highest.seconds, 1), "megabytes": highest.megabytes}
        print(name, found[name], flush=True)
        for key, node in prompt.items():
            if node["class_type"] in ("SaveImage", "PreviewImage"):
                picture = Image.open(io.BytesIO(client.view(result.outputs[key]["images"][0]))).convert("RGB")
                shown.append(np.asarray(picture.resize((256, 256))))
    return found, np.concatenate(shown, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"run.py bench {NAME}", description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="of the pictures, in pixels")
    parser.add_argument("--steps", type=int, default=3, help="of the part edit")
    parser.add_argument("--levels", type=int, default=2, help="of the inversion for OIR")
    options = parser.parse_args()
    root = Path(os.environ["COMFYUI_PATH"])
    host = Host(root, Path(sys.executable), private=root.is_relative_to(RUNTIME))
    cpu = not torch.cuda.is_available()
    folder = Path(tempfile.mkdtemp(prefix="full-size-", dir=RUNTIME))
    try:
        clock = time.perf_counter()
        # In a process of its own, so that its memory is given back before the server needs it.
        writer = multiprocessing.get_context("spawn").Process(target=write_files, args=(folder,))
        writer.start()
        writer.join()
        if writer.exitcode:
            raise SystemExit(f"writing the files ended with {writer.exitcode}")
        values: dict[str, Any] = {
            "size": options.size,
            "steps": options.steps,
            "levels": options.levels,
            "device": "cpu" if cpu else torch.cuda.get_device_name(),
            "threads": torch.get_num_threads(),
            "parameters": json.loads((folder / "parameters.json").read_text()),
            "file_megabytes": (folder / SDXL.directory / SDXL.name).stat().st_size >> 20,
            "seconds_to_write": round(time.perf_counter() - clock, 1),
        }
        print(json.dumps(values), flush=True)
        extra = ("--bf16-unet",) if cpu else ()
        with Server(host, cpu=cpu, pack_name=link_pack(host), models=folder, options=extra) as server:
            server.start()
            client = Client(server.base_url, alive=server.alive)
            found, picture = run_jobs(server, client, options.size, options.steps, options.levels)
        write_result(NAME, {**values, **found}, picture)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
