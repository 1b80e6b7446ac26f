"""What one job does on one server: an edit and its scores, or the generated source of a case."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..host.graph import WorkflowError
from .cases import SOURCE, Case, DataError
from .config import Plan
from .graph import Graph, MissingFile, token_contents
from .methods.base import Method, Wanted
from .methods.by_diffusers import Peer
from .methods.loaded import Loaded
from .methods.oir import Oir
from .methods.plain import Inpainting
from .methods.source import build_source
from .networks import Measures
from .scores import build_scores, read_scores
from .store import Store, key_of
from .worker import JobError

# Part of every key: raised when results of older versions no longer hold.
FORMAT = 1
# Part of every score's key: raised when what is measured changes.
SCORES = 3


class Server(Protocol):
    """What a job needs of a server; see `worker.Worker`."""

    info: dict[str, Any]

    def run(
        self, prompt: dict[str, Any], uploads: dict[str, bytes], pictures: dict[str, str], texts: dict[str, str]
    ) -> tuple[dict[str, bytes], dict[str, str], float]: ...

    def peer(self, request: dict[str, Any]) -> tuple[bytes, float]: ...


@dataclass(frozen=True)
class EditJob:
    """One edit of one case by one method. ``method`` None: the generated source of the case."""

    case: Case
    method: Method | None = None

    @property
    def name(self) -> str:
        return SOURCE if self.method is None else str(self.method.name)


class Bench:
    """The jobs of a plan: their keys, prompts and results."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.config = plan, plan.config
        self.store = Store(plan.output / "edits")
        self.measures = Measures(plan.config.networks)
        self.tokens: dict[str, str] = {}

    def know_tokens(self, infos: Mapping[str, dict[str, Any]]) -> list[str]:
        """Take over what the servers' token files hold: a token that was trained again is another one.

        Args:
            infos: {place: answer of GET /object_info} of all servers.

        Returns:
            A line for each token of the data that is not the same everywhere.
        """
        wanted = {case.token for case in self.plan.cases if case.token}
        wrong = []
        for place, info in infos.items():
            for name, content in sorted(token_contents(info).items()):
                if name in wanted and self.tokens.setdefault(name, content) != content:
                    wrong.append(f"{place}: its token {name} is not that of {next(iter(infos))}")
        return wrong

    def key(self, job: EditJob) -> str:
        """What an edit depends on."""
        parts: list[Any] = [FORMAT, dataclasses.asdict(job.case), self.config.model]
        read = job.case.mask_by_token if job.method is None else job.method.reads_token(job.case)
        if read and (content := self.tokens.get(job.case.token)):
            parts.append(content)
        if job.method is None:
            return key_of(*parts, self.config.settings.model_dump(), SOURCE)
        # The name says nothing of how an edit is made.
        parts += [
            job.method.settings(self.config.settings).model_dump(),
            job.method.model_dump(exclude={"name", "data"}),
        ]
        if isinstance(job.method, Oir):
            parts.append(_dump(self.config.search_scorer))
        return key_of(*parts)

    def score_key(self, job: EditJob) -> str:
        return key_of(SCORES, self.key(job), _dump(self.config.score_scorer), self.measures.key)

    def kept(self, job: EditJob) -> dict[str, Any] | None:
        """The result of an earlier run, whole with its scores."""
        found = self.store.read(job.case, job.name, self.key(job))
        if found is None or (job.method is not None and found.get("score_key") != self.score_key(job)):
            return None
        return found

    def graph(self, job: EditJob, info: dict[str, Any]) -> tuple[Graph, Wanted]:
        """The prompt of a job on a server.

        Raises:
            WorkflowError: the server lacks a node, a model or a value.
        """
        graph = Graph(info)
        if isinstance(job.method, Inpainting):
            try:
                loaded = Loaded(graph, job.method.checkpoint)
            except WorkflowError as error:
                raise MissingFile(str(error)) from error
        else:
            loaded = Loaded(graph, self.config.model)
        if job.method is None:
            return graph, build_source(loaded, job.case, self.config.settings)
        return graph, job.method.build(loaded, job.case, self.config.settings, self.config.search_scorer)

    def score_graph(self, job: EditJob, edited: str, info: dict[str, Any]) -> tuple[Graph, Wanted]:
        graph = Graph(info)
        loaded = Loaded(graph, self.config.model)
        return graph, build_scores(loaded, job.case, edited, self.config.score_scorer)

    def check(self, jobs: list[EditJob], info: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
        """What a server lacks for these jobs, one line each; nothing runs.

        Returns:
            What is wrong, and {method: what is missing} of methods that are left out where their own files are not.
        """
        found: dict[str, None] = {}
        absent: dict[str, str] = {}
        for job in jobs:
            case = job.case
            if case.generated and not case.picture:
                job = EditJob(case.with_source("picture.png", "mask.png"), job.method)
            try:
                if not isinstance(job.method, Peer):
                    self.graph(job, info)
            except MissingFile as error:
                absent.setdefault(job.name, str(error))
            except WorkflowError as error:
                found.setdefault(f"{job.name}: {error}")
            try:
                if job.method is not None:
                    self.score_graph(job, "picture.png", info)
            except WorkflowError as error:
                found.setdefault(f"metrics: {error}")
        return list(found), absent

    def do(self, server: Server, job: EditJob) -> dict[str, Any]:
        """Do what is missing of a job on a server, and keep it. Returns the result.

        Raises:
            JobError, ServerGone: see `worker.Worker.run`.
        """
        key = self.key(job)
        result = self.store.read(job.case, job.name, key)
        try:
            if result is None:
                result = self._make(server, job, key)
            if job.method is not None and result.get("score_key") != self.score_key(job):
                result = self._score(server, job, result)
        except WorkflowError as error:
            raise JobError(str(error)) from error
        return result

    def _make(self, server: Server, job: EditJob, key: str) -> dict[str, Any]:
        if isinstance(job.method, Peer):
            picture, seconds = server.peer(self._request(job.method, job.case))
            made, said = {"edited": picture}, dict[str, str]()
        else:
            graph, wanted = self.graph(job, server.info)
            made, said, seconds = server.run(graph.prompt, self._uploads(graph), wanted.pictures, wanted.texts)
        result = {
            "key": key,
            "case": dataclasses.asdict(job.case),
            "method": {} if job.method is None else job.method.model_dump(exclude_none=True),
            "pictures": sorted(made),
            "texts": said,
            "seconds": round(seconds, 3),
        }
        self.store.write(job.case, job.name, result, made)
        return result

    def _request(self, method: Peer, case: Case) -> dict[str, Any]:
        """What `peers.process` is asked for."""
        files = {"picture": case.picture, "mask": case.mask if method.told_mask else ""}
        pictures = {name: self.plan.pictures.path(file).read_bytes() if file else b"" for name, file in files.items()}
        fixed = {"method": method.kind, "model": self.config.model, "size": self.plan.pictures.size, "seed": case.seed}
        return {**fixed, **pictures, **method.request(case, self.config.settings)}

    def _score(self, server: Server, job: EditJob, result: dict[str, Any]) -> dict[str, Any]:
        data = self.store.picture(job.case, job.name).read_bytes()
        name = f"evaluate_{hashlib.sha256(data).hexdigest()[:20]}.png"
        graph, wanted = self.score_graph(job, name, server.info)
        uploads = {**self._uploads(graph, name), name: data}
        _, said, _ = server.run(graph.prompt, uploads, wanted.pictures, wanted.texts)
        scores = read_scores(said, data, job.case, self.plan.pictures, self.measures)
        result = {**result, "scores": scores, "score_key": self.score_key(job)}
        self.store.write(job.case, job.name, result)
        return result

    def _uploads(self, graph: Graph, without: str = "") -> dict[str, bytes]:
        """The pictures and masks that a prompt loads."""
        loads = [
            node["inputs"]["image"] for node in graph.prompt.values() if node["class_type"].startswith("LoadImage")
        ]
        return {name: self.plan.pictures.path(name).read_bytes() for name in dict.fromkeys(loads) if name != without}

    def with_source(self, job: EditJob) -> Case | None:
        """A case with its generated source, if that is there."""
        result = self.store.read(job.case, SOURCE, self.key(job))
        if result is None:
            return None
        picture = self.plan.pictures.keep_bytes(self.store.picture(job.case, SOURCE).read_bytes())
        mask = ""
        if "mask" in result["pictures"]:
            try:
                data = self.store.picture(job.case, SOURCE, "mask").read_bytes()
                mask = self.plan.pictures.keep_bytes(data, mask=True)
            except DataError:
                mask = ""  # the token saw its part nowhere, or everywhere
        return job.case.with_source(picture, mask)


def _dump(model: Any) -> Any:
    return None if model is None else model.model_dump()
