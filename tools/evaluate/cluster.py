"""Servers that Ray starts on the machines of a cluster; Ray is an optional extra (``pip install 'ray>=2.30'``)."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from ..host.layout import PACK_DIR
from .config import RayCluster
from .worker import ServerGone, Worker


class Cluster:
    """A connection to a Ray cluster, as a context manager.

    Raises:
        ImportError: Ray is not installed.
    """

    def __init__(self, options: RayCluster, cpu: bool, limit: float) -> None:
        import ray

        self.ray, self.options, self.cpu, self.limit = ray, options, cpu, limit

    def __enter__(self) -> Cluster:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics unless the user asks for them
        environment = {key: os.environ[key] for key in ("COMFYUI_PATH", "OMP_NUM_THREADS") if key in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACK_DIR), os.environ.get("PYTHONPATH", "")]))
        self.ray.init(
            address=self.options.address,
            runtime_env={"env_vars": environment},
            ignore_reinit_error=True,
            include_dashboard=False if self.options.address is None else None,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.ray.shutdown()

    def runners(self) -> list[RayWorker]:
        return [RayWorker(self, number) for number in range(self.options.servers)]


class RayWorker:
    """A `worker.Worker` in a Ray actor: the same calls, done on that machine."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster, self.number = cluster, number
        self.actor: Any = None
        self.info: dict[str, Any] = {}
        self.place = f"Ray server {number + 1}"

    def _call(self, name: str, *arguments: Any) -> Any:
        ray = self.cluster.ray
        if self.actor is None:
            raise ServerGone("its actor is not running")
        try:
            return ray.get(getattr(self.actor, name).remote(*arguments))
        except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
            raise ServerGone(f"its actor was lost: {str(error).splitlines()[0]}") from error

    def open(self) -> dict[str, Any]:
        self.close()
        options = self.cluster.options
        kind = self.cluster.ray.remote(Worker).options(
            num_gpus=0 if self.cluster.cpu else options.gpus_per_server, num_cpus=options.cpus_per_server
        )
        self.actor = kind.remote("", self.cluster.cpu, None, self.cluster.limit)
        self.info = self._call("open")
        return self.info

    def run(
        self, prompt: dict[str, Any], uploads: dict[str, bytes], pictures: dict[str, str], texts: dict[str, str]
    ) -> tuple[dict[str, bytes], dict[str, str], float]:
        return self._call("run", prompt, uploads, pictures, texts)

    def peer(self, request: dict[str, Any]) -> tuple[bytes, float]:
        return self._call("peer", request)

    def reopen(self, patience: float) -> bool:
        with contextlib.suppress(ServerGone):
            self.open()
            return True
        return False

    def close(self) -> None:
        """Stop the server and its actor; safe to call twice."""
        if self.actor is None:
            return
        with contextlib.suppress(Exception):
            self._call("close")
        with contextlib.suppress(Exception):
            self.cluster.ray.kill(self.actor)
        self.actor = None
