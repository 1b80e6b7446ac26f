"""Shares jobs between servers, so that each is done once, whichever servers die on the way."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from .worker import JobError, MissingError, ServerGone


class Runner(Protocol):
    """What `share` needs of a server; see `worker.Worker`."""

    @property
    def place(self) -> str: ...

    def reopen(self, patience: float) -> bool: ...


Job = TypeVar("Job")
PATIENCE = 20.0
_FAILED_STARTS = 3


@dataclass
class Outcome(Generic[Job]):
    """One finished job: what `share`'s ``work`` returned, why it failed, or what is missing for it."""

    job: Job
    place: str
    value: Any = None
    error: str = ""
    missing: str = ""


class NoServerLeft(RuntimeError):
    """Every server is gone and jobs are left; what was done is kept."""


def share(
    jobs: Sequence[Job],
    runners: Sequence[Runner],
    work: Callable[[Any, Job], Any],
    done: Callable[[Outcome[Job]], None],
    retries: int = 2,
    log: Callable[[str], None] = print,
    patience: float = PATIENCE,
) -> None:
    """Do every job on one of the servers.

    A job whose server dies goes back to the front of the queue, at most ``retries`` times. A server that is lost is
    started again, or waited for; the others go on meanwhile.

    Args:
        work: does one job on one server, in that server's thread.
        done: is told of each job once, by one thread at a time.

    Raises:
        NoServerLeft: jobs are left and no server is.
    """
    queue = deque((job, 0) for job in jobs)
    state = threading.Condition()
    left, lost, stop = len(queue), 0, False
    problem: BaseException | None = None

    def finish(outcome: Outcome[Job]) -> None:
        nonlocal left
        with state:
            if stop:
                return
            done(outcome)
            left -= 1
            state.notify_all()

    def take() -> tuple[Job, int] | None:
        with state:
            while left and not queue and not stop:
                state.wait(0.5)  # another server's job may come back
            return None if stop or not left else queue.popleft()

    def serve(runner: Runner) -> None:
        nonlocal lost
        while (taken := take()) is not None:
            job, attempt = taken
            try:
                finish(Outcome(job, runner.place, work(runner, job)))
            except MissingError as error:
                finish(Outcome(job, runner.place, missing=str(error)))
            except JobError as error:
                finish(Outcome(job, runner.place, error=str(error)))
            except ServerGone as error:
                if stop:
                    return
                if attempt < retries:
                    log(f"{runner.place}: {error}; its job goes to the next server")
                    with state:
                        queue.appendleft((job, attempt + 1))
                        state.notify_all()
                else:
                    why = f"the server was lost {attempt + 1} times; last: {error}"
                    finish(Outcome(job, runner.place, error=why))
                if not _back(runner):
                    log(f"{runner.place}: does not come back; going on without it")
                    with state:
                        lost += 1
                        state.notify_all()
                    return

    def _back(runner: Runner) -> bool:
        return any(not stop and left and runner.reopen(patience) for _ in range(_FAILED_STARTS)) or not left

    def guarded(runner: Runner) -> None:
        nonlocal problem, stop
        try:
            serve(runner)
        except BaseException as error:
            with state:
                problem, stop = problem or error, True
                state.notify_all()

    threads = [threading.Thread(target=guarded, args=(runner,), daemon=True) for runner in runners]
    for thread in threads:
        thread.start()
    try:
        with state:
            # A wait without end could not be interrupted everywhere.
            while left and lost < len(runners) and not stop:
                state.wait(0.5)
    finally:
        with state:
            stop = True
            state.notify_all()
    if problem is not None:
        raise problem
    if left:
        raise NoServerLeft(f"no server is left, {left} of {len(jobs)} jobs are not done.")
    for thread in threads:
        thread.join(timeout=2)
