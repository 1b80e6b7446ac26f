"""Prompts in the API's format, built node by node from what a server says of its nodes."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from ..host.graph import WorkflowError, input_specs

# Files that are uploaded just before a prompt runs; a server's list does not have them yet.
UPLOADED = {("LoadImage", "image"), ("LoadImageMask", "image")}


class MissingFile(WorkflowError):
    """The server does not have a file that a method can be left out for."""


@dataclass(frozen=True)
class Made:
    """A node of a graph; ``made["edited"]`` is a link to the output of that name, ``made[0]`` to the first."""

    key: str
    kind: str
    outputs: tuple[str, ...]

    def __getitem__(self, output: str | int) -> list[Any]:
        slot = output if isinstance(output, int) else self.outputs.index(output)
        return [self.key, slot]


class Graph:
    """A prompt under construction.

    Args:
        info: the answer of GET /object_info from the server that will run it.
    """

    def __init__(self, info: dict[str, Any]) -> None:
        self.info = info
        self.prompt: dict[str, Any] = {}

    def add(self, kind: str, **inputs: Any) -> Made:
        """A node; inputs that are not given have the node's defaults, and ``None`` leaves an optional one out.

        Raises:
            WorkflowError: the server has no such node or input, or does not offer the value; the message says what it
                has.
        """
        if kind not in self.info:
            hint = " Is this pack installed there?" if kind in OWN_NODES else ""
            raise WorkflowError(f"the server has no node {kind}.{hint}")
        given = {name: value for name, value in inputs.items() if value is not None}
        values: dict[str, Any] = {}
        known = []
        for name, type_, options, required in input_specs(self.info[kind]):
            known.append(name)
            choices = type_ if isinstance(type_, list) else options.get("options")
            if name in given:
                values[name] = given[name]
                if isinstance(choices, list) and (kind, name) not in UPLOADED and not isinstance(given[name], list):
                    _check_choice(kind, name, given[name], choices)
            elif required and "default" in options:
                values[name] = options["default"]
            elif required and isinstance(choices, list) and choices and not isinstance(choices[0], dict):
                values[name] = choices[0]
        if unknown := sorted(set(given) - set(known)):
            raise WorkflowError(f"{kind} on the server has no input {', '.join(unknown)}; it has {', '.join(known)}")
        key = str(len(self.prompt) + 1)
        self.prompt[key] = {"class_type": kind, "inputs": values}
        return Made(key, kind, tuple(self.info[kind].get("output_name") or self.info[kind]["output"]))


OWN_NODES = {"LoadDemoModel", "LoadPartToken", "PartEditPrompt", "FeatureBlendSampler", "EditMetrics", "InvertLatent"}


def token_contents(info: dict[str, Any]) -> dict[str, str]:
    """{token file: a text that changes with its content} on a server; {} where the pack does not say."""
    for name, _, options, _ in input_specs(info.get("LoadPartToken") or {}):
        if name == "part_token":
            found: dict[str, str] = options.get("partedit_contents") or {}
            return found
    return {}


def _check_choice(kind: str, name: str, value: Any, choices: list[Any]) -> None:
    if value in choices or (choices and isinstance(choices[0], dict)):
        return
    near = difflib.get_close_matches(str(value), [str(one) for one in choices], 3, 0.4)
    some = near or [str(one) for one in choices[:8]]
    more = " …" if not near and len(choices) > 8 else ""
    hint = f"It has: {', '.join(some)}{more}." if choices else "Its list is empty."
    raise WorkflowError(f"{kind}.{name}: the server does not offer {value!r}. {hint}")
