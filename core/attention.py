"""The only place that touches a model's attention: probe, blend and prompt-to-prompt.

Everything here is installed for one call of the UNet, on a copy of that call's ``transformer_options``, so nothing
outlives the call and whatever other nodes have put there (IPAdapter, PAG, hooks …) is seen and chained, whether it was
added before or after. Queries, keys and values are taken as the host hands them over, so LoRA, offloading and
quantised weights need no care.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import get_attn_precision, optimized_attention
from comfy.patcher_extension import WrappersMP
from comfy.utils import repeat_to_batch_size

from .unet import LayerKey, transformer_block

# The length of the text context that part tokens are trained in: the token's rows, then padding (PartEdit, Sec. 4.1).
TOKEN_CONTEXT = 77


# --- the probe -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProbeContext:
    """What source queries meet in a layer: the context of the tokens that count there, its rows, then padding up to 77.

    Equal padding rows are one key with a weight, so a few key columns give the same softmax as all 77 (for one token
    with background padding: σ(l_part − l_bg − ln 76)).

    Attributes:
        rows: (K, D) distinct context rows; (B, K, D) if they differ between images (padding with their prompts).
        log_counts: (K,) logarithm of how often each row occurs in the context.
        part_columns: which rows are parts.
        parts: indices of these parts among all parts of the run.
    """

    rows: torch.Tensor
    log_counts: torch.Tensor
    part_columns: tuple[int, ...]
    parts: tuple[int, ...]


@dataclass
class Probe:
    """Reads where part tokens find their parts, from the source rows' queries only: softmax(Q_source K_tokenᵀ).

    Attributes:
        contexts: the layers to read, and what is read there: a context for each group of parts that share one.
        cache: keys of a layer are computed once; None recomputes them (weights may change under hooks).
        counts: the contexts' ``log_counts`` on each device.
    """

    contexts: Mapping[LayerKey, tuple[ProbeContext, ...]]
    cache: dict[tuple[LayerKey, int, torch.device], torch.Tensor] | None = field(default_factory=dict)
    counts: dict[tuple[LayerKey, int, torch.device], torch.Tensor] = field(default_factory=dict)

    def keys(self, unet: Any, layer: LayerKey, group: int, like: torch.Tensor) -> torch.Tensor:
        """(K, heads·d) or (B, K, heads·d) keys of the rows of one of the contexts in ``layer``."""
        at = (layer, group, like.device)
        if self.cache is not None and at in self.cache:
            return self.cache[at]
        keys = transformer_block(unet, layer).attn2.to_k(self.contexts[layer][group].rows.to(like))
        if self.cache is not None:
            self.cache[at] = keys
        return keys

    def read(
        self, unet: Any, layer: LayerKey, query: torch.Tensor, heads: int, grid: tuple[int, int]
    ) -> Iterator[tuple[torch.Tensor, tuple[int, ...]]]:
        """For each context in ``layer``: maps (B, p, h, w) float32 of its p parts, summed over heads, and the parts.

        ``query``: (B, h·w, heads·d) of the source rows.
        """
        for group, context in enumerate(self.contexts[layer]):
            keys = self.keys(unet, layer, group, query)
            keys = keys[None] if keys.ndim == 2 else keys
            logits = _logits(query, repeat_to_batch_size(keys, query.shape[0]), heads)
            at = (layer, group, logits.device)
            if at not in self.counts:
                self.counts[at] = context.log_counts.to(logits)
            found = (logits + self.counts[at]).softmax(dim=-1).sum(dim=1)  # over heads: (B, h·w, K)
            # One by one, because a list of columns would be copied to the device in every layer.
            maps = torch.stack([found[..., column] for column in context.part_columns], dim=1)
            yield maps.reshape(query.shape[0], -1, *grid), context.parts


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2).float()


def _logits(query: torch.Tensor, keys: torch.Tensor, heads: int) -> torch.Tensor:
    q, k = _split(query, heads), _split(keys, heads)
    return (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5


def _attention(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, h·w, heads·d) of (B, h·w, heads·d) and (B, L, heads·d), by torch's fused kernels, which never store the
    probabilities, sum in single precision, and give exactly -y for -values."""
    q, k, v = (x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2) for x in (query, keys, values))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


# --- prompt-to-prompt ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PromptStep:
    """One prompt of an edit at one step: which columns of the edit row's context it owns, and what it takes over.

    A_edit ← α·R + (1 − α)·A_edit with R = c·(keep·A_edit + (1 − keep)·A_source M) (Prompt-to-Prompt, Hertz et al. 2022,
    Sec. 3: word swap, refinement, re-weighting).

    Attributes:
        columns: first and one-past-last column of the prompt in the edit row's context (before any repetition).
        source_length: length of the source row's context.
        mapper: M, (source_length, length).
        keep: (length,) 1 where the edit's own attention stays (inserted words).
        weights: (length,) c, 1 for words that are not re-weighted.
        gate: (length,) α at this step: 1 where the prompt follows the source.
    """

    columns: tuple[int, int]
    source_length: int
    mapper: torch.Tensor | None = None
    keep: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    gate: torch.Tensor | None = None
    _copies: dict[tuple[torch.device, torch.dtype], Any] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """S and o in A_edit ← A_edit·(1 + o) + A_source S, which is the equation above sorted by whose attention it is.

        (source_length, length) and (length,), both 0 for a prompt that follows nothing. Attention is linear in the
        values, so factors on columns become factors on values, and no probabilities are needed.
        """
        if self.gate is None:
            length = self.columns[1] - self.columns[0]
            return torch.zeros(self.source_length, length), torch.zeros(length)
        assert self.mapper is not None and self.keep is not None and self.weights is not None
        from_source = self.gate * self.weights * (1 - self.keep)
        return self.mapper * from_source, self.gate * (self.weights * self.keep - 1)

    @cached_property
    def active(self) -> bool:
        """Whether anything is exchanged at this step."""
        return any(bool(factor.any()) for factor in self.factors)

    @cached_property
    def whole(self) -> bool:
        """Whether nothing of the edit's own attention is left."""
        return bool((self.factors[1] == -1).all())

    def source_values(self, v: torch.Tensor) -> torch.Tensor:
        """(B, source_length, heads·d): what source queries find at the source's keys. ``v``: (B, L, heads·d)."""
        return self._factors_on(v)[0] @ v[:, slice(*self.columns)]

    def own_values(self, v: torch.Tensor) -> torch.Tensor:
        """(B, length, heads·d): what is left at the edit's own keys. ``v``: (B, L, heads·d)."""
        return self._factors_on(v)[2] * v[:, slice(*self.columns)]

    def change(self, q_source, k_source, q, k, v, heads: int) -> torch.Tensor:
        """(B, h·w, heads·d) float32 that prompt-to-prompt adds to the ordinary attention: A_edit·o + A_source S, on the
        values.

        Exactly 0 where nothing is exchanged, and where rows and prompts of source and edit are equal, because the two
        terms then have the same probabilities and opposite values. The step must be active.
        """
        columns = slice(*self.columns)
        less = _attention(q, k[:, columns], self._factors_on(v)[1] * v[:, columns], heads).float()
        return less + self.from_source(q_source, k_source, v, heads)

    def attend(self, q_source, k_source, q, k, v, heads: int) -> torch.Tensor:
        """(B, h·w, heads·d) float32, the whole attention of the prompt: A_edit·(1 + o) + A_source S, on the values."""
        if self.whole:
            return self.from_source(q_source, k_source, v, heads)
        own = _attention(q, k[:, slice(*self.columns)], self.own_values(v), heads).float()
        return own + self.from_source(q_source, k_source, v, heads) if self.active else own

    def from_source(self, q_source: torch.Tensor, k_source: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
        """(B, h·w, heads·d) float32: A_source S on the values."""
        return _attention(q_source, k_source[:, : self.source_length], self.source_values(v), heads).float()

    def _factors_on(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """S, and o and 1 + o as columns, on a device: copied there once a step and not in every layer."""
        at = (like.device, like.dtype)
        if at not in self._copies:
            from_source, less = (factor.to(like) for factor in self.factors)
            self._copies[at] = from_source, less[:, None], (less + 1.0)[:, None]
        return self._copies[at]


@dataclass(frozen=True)
class EditStep:
    """What one edit does at one step: its prompts (several when parts have prompts of their own) and self-attention."""

    prompts: tuple[PromptStep, ...]
    replace_self: bool = False

    @property
    def rewrites_cross(self) -> bool:
        return len(self.prompts) > 1 or any(p.active for p in self.prompts)

    @property
    def follows(self) -> bool:
        """Whether an edit with one prompt takes something over from its source."""
        return len(self.prompts) == 1 and self.prompts[0].active

    def attend(self, q_source, k_source, q, k, v, heads: int, shares: torch.Tensor | None) -> torch.Tensor:
        """Output (B, h·w, heads·d) float32 before ``to_out``; ``shares``: see `CallMasks.shares`."""
        out = 0.0
        for number, prompt in enumerate(self.prompts):
            one = prompt.attend(q_source, k_source, q, k, v, heads)
            if len(self.prompts) > 1:
                one = one * (1.0 / len(self.prompts) if shares is None else shares[number].to(one))
            out = out + one
        return out


# --- one call of the UNet --------------------------------------------------------------------------------


class CallMasks(Protocol):
    """The interface between a call of the UNet and the masks of its run. By default nothing is blended."""

    def collect(self, maps: torch.Tensor, parts: tuple[int, ...]) -> None:
        """Take the maps (B, p, h, w) float32 of one layer, summed over heads, and which parts they are of."""

    def blend(self, grid: tuple[int, int], last: bool) -> torch.Tensor | None:
        """Float32 mask for a layer of ``grid`` (h, w), or None for no blending.

        (N·B, h·w, 1) for all groups of rows, or (chunks, N·B, h·w, 1) if they are about different areas of the image.
        ``last``: it is the last cross-attention layer, so all maps of the call have been collected.
        """
        return None

    def shares(self, edit: int, grid: tuple[int, int], chunk: int) -> torch.Tensor | None:
        """(prompts, B, h·w, 1) share of each prompt of an edit in a group of rows, or None for equal shares."""
        return None


@dataclass
class BlendCall:
    """The roles of the rows in one call of the UNet, and what to do with them.

    The batch holds ``chunks`` groups (conditional, unconditional …) of (1 + N)·B rows: B source rows, then B rows for
    each of N edits.

    Attributes:
        batch: B, images.
        edits: what each of the N edits does at this step.
        chunks: number of groups.
        positive: indices of the groups that carry the prompts.
        probe: reads part maps, or None.
        probed: indices of the groups whose source rows it reads.
        masks: takes these maps, and gives the masks to blend with.
        self_limit: largest number of queries at which self-attention is replaced.
    """

    batch: int
    edits: Sequence[EditStep]
    chunks: int
    positive: Sequence[int]
    probe: Probe | None
    masks: CallMasks
    self_limit: int
    probed: Sequence[int] = ()

    def _rows(self, chunk: int, member: int) -> slice:
        start = (chunk * (1 + len(self.edits)) + member) * self.batch
        return slice(start, start + self.batch)

    def tiles(self, tensor: torch.Tensor, rows: slice) -> slice:
        """``rows`` in a tensor whose rows an earlier patch has cut into tiles, row by row (HyperTile)."""
        count = tensor.shape[0] // (self.chunks * (1 + len(self.edits)) * self.batch)
        return slice(rows.start * count, rows.stop * count)

    def pairs(self) -> Iterator[tuple[int, int, EditStep, slice, slice]]:
        """(group, edit number, edit, source rows, edit rows) of the positive groups."""
        for chunk in self.positive:
            for number, edit in enumerate(self.edits):
                yield chunk, number, edit, self._rows(chunk, 0), self._rows(chunk, number + 1)

    def source_rows(self) -> list[slice]:
        """Of the groups that are probed."""
        return [self._rows(chunk, 0) for chunk in self.probed]


def layer_of(extra_options: dict[str, Any]) -> LayerKey:
    """The layer that a patch is called for."""
    block = extra_options["block"]
    return LayerKey(block[0], block[1], extra_options["block_index"])


def grid_of(extra_options: dict[str, Any]) -> tuple[int, int]:
    """(h, w) of the layer that a patch is called for."""
    return tuple(extra_options["activations_shape"][-2:])


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
    """What the host's ``CrossAttention`` computes when no patch sits in the slot."""
    precision = extra_options.get("attn_precision")
    return optimized_attention(
        q, k, v, extra_options["n_heads"], attn_precision=precision, transformer_options=extra_options
    )


def untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """A patch that torch.compile skips: it is made for one call, so tracing it would fail or never be reused.

    Does nothing without a compiled model in this process; the compiler takes seconds to import.
    """
    return torch.compiler.disable(function) if "torch._dynamo" in sys.modules else function


def without_compile(clone: Any) -> Any:
    """The same clone, without ComfyUI's TorchCompileModel.

    That node makes the compiler ignore ``transformer_options`` when it checks whether compiled code is still valid, but
    everything that belongs to a call is stored there: compiled code could continue with the masks of an earlier call.
    """
    clone.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, "torch.compile")
    return clone


def call_untraced(wrapper: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a wrapper around the UNet: the wrapper is skipped, what it calls may be compiled."""
    return torch.compiler.disable(wrapper, recursive=False) if "torch._dynamo" in sys.modules else wrapper


def chain_cross(options: dict[str, Any], layers: Sequence[LayerKey], patch: Callable[..., torch.Tensor]) -> None:
    """Put ``patch(q, k, v, extra_options, occupant)`` into the cross-attention slots of ``layers``.

    ``occupant`` is whatever sat there (None for nothing), called with (q, k, v, extra_options). ``options`` must be
    a copy that belongs to the caller; its nested dictionaries are replaced, not changed.
    """
    replace = dict(options.get("patches_replace", {}))
    slots = dict(replace.get("attn2", {}))
    before = dict(slots)
    for layer in layers:
        occupant = before.get(tuple(layer), before.get((layer.block, layer.number)))

        def chained(q, k, v, extra_options, *args, _occupant=occupant, **kwargs):
            return patch(q, k, v, extra_options, _occupant)

        slots[tuple(layer)] = untraced(chained)
    replace["attn2"] = slots
    options["patches_replace"] = replace


def _append(options: dict[str, Any], name: str, patch: Callable[..., Any]) -> None:
    patches = dict(options.get("patches", {}))
    patches[name] = [*patches.get(name, []), untraced(patch)]
    options["patches"] = patches


def _exchanged_rows(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, followed: Sequence[tuple[PromptStep, slice, slice]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values with which the model's own attention does its part of prompt-to-prompt.

    The rows of an edit that has none of its own attention left get their source's, on values of its own: so nothing
    else is to be computed, and an edit that changes nothing equals its source to the last bit. The others keep what is
    left of their own attention, and `PromptStep.from_source` is to be added.

    Args:
        followed: prompt, source rows and edit rows of every edit that follows its source.
    """
    if any(prompt.whole for prompt, _, _ in followed):
        q, k = q.clone(), k.clone()
    if followed:
        v = v.clone()
    for prompt, source, rows in followed:
        if prompt.whole:
            values = prompt.source_values(v[rows])
            q[rows], k[rows] = q[source], k[source]
        else:
            values = prompt.own_values(v[rows])
        if values.shape[1] != v.shape[1]:
            # The host repeats a shorter prompt's keys, so its values are repeated, too.
            values = values.repeat(1, v.shape[1] // values.shape[1], 1)
        v[rows] = values
    return q, k, v


def blended_options(options: dict[str, Any], unet: Any, layers: Sequence[LayerKey], call: BlendCall) -> dict[str, Any]:
    """A copy of one call's ``transformer_options`` with the probe, prompt-to-prompt and blending installed.

    Args:
        options: the call's ``transformer_options``; left as it is.
        unet: the UNet that is about to run (its own clone on each device).
        layers: all of its cross-attention layers, in the order in which they run.
        call: what to do.
    """
    options = options.copy()
    patches = _CallPatches(unet, layers, call)
    if touched := [layer for layer in layers if patches.rewriting or layer in patches.probed]:
        chain_cross(options, touched, patches.cross)
    if call.positive and any(edit.replace_self for edit in call.edits):
        _append(options, "attn1_patch", patches.replace_self)
    if call.edits:
        _append(options, "attn1_output_patch", patches.blend_self)
        _append(options, "attn2_output_patch", patches.blend_cross)
    return options


class _CallPatches:
    """The patches of one call of the UNet; see `blended_options`."""

    def __init__(self, unet: Any, layers: Sequence[LayerKey], call: BlendCall) -> None:
        self.unet, self.call, self.last_layer = unet, call, layers[-1] if layers else None
        self.rewriting = any(edit.rewrites_cross for edit in call.edits) and bool(call.positive)
        self.probed = call.probe.contexts if call.probe is not None and call.probed else {}
        self.sources, self.pairs = call.source_rows(), tuple(call.pairs())
        self.followed = [(edit.prompts[0], source, rows) for *_, edit, source, rows in self.pairs if edit.follows]
        self._ready: dict[tuple[int, torch.dtype], tuple[torch.Tensor, torch.Tensor]] = {}

    def cross(self, q, k, v, extra_options, occupant):
        """In a cross-attention slot: read the source rows, then attend with prompt-to-prompt."""
        call, layer, grid, heads = self.call, layer_of(extra_options), grid_of(extra_options), extra_options["n_heads"]
        if call.probe is not None and layer in self.probed:
            for rows in self.sources:
                for maps, parts in call.probe.read(self.unet, layer, q[rows], heads, grid):
                    call.masks.collect(maps, parts)
        if not self.rewriting:
            return occupant(q, k, v, extra_options) if occupant else plain_attention(q, k, v, extra_options)
        if occupant:
            out = occupant(q, k, v, extra_options).clone()
        else:
            out = plain_attention(*_exchanged_rows(q, k, v, self.followed), extra_options)
        # As the model's own attention: SD2.x asks for it, and so may ComfyUI (--force-upcast-attention, macOS).
        if get_attn_precision(extra_options.get("attn_precision"), q.dtype) == torch.float32:
            q, k, v = q.float(), k.float(), v.float()
        for chunk, number, edit, source, rows in self.pairs:
            if not edit.rewrites_cross:
                continue
            if len(edit.prompts) == 1:
                (prompt,) = edit.prompts
                if occupant:
                    # It adds to the ordinary attention (IPAdapter's image tokens), which must stay as it is.
                    change = prompt.change(q[source], k[source], q[rows], k[rows], v[rows], heads)
                elif prompt.whole:
                    continue  # the model's own attention has done it all
                else:
                    change = prompt.from_source(q[source], k[source], v[rows], heads)
                out[rows].add_(change)  # summed in single precision, rounded once
                continue
            shares = call.masks.shares(number, grid, chunk)
            new = edit.attend(q[source], k[source], q[rows], k[rows], v[rows], heads, shares)
            if occupant:
                # An occupant adds to the ordinary attention (IPAdapter's image tokens): exchange only that term.
                new = out[rows].float() + new - _attention(q[rows], k[rows], v[rows], heads).float()
            out[rows] = new.to(out.dtype)
        return out

    def replace_self(self, n, context, value, extra_options):
        """Before self-attention: edits that follow their source there attend as it does."""
        call, grid = self.call, grid_of(extra_options)
        if grid[0] * grid[1] > call.self_limit:
            return n, context, value
        shared = context is n
        n = n.clone()
        context = n if shared else context.clone()
        for *_, edit, source, rows in self.pairs:
            if edit.replace_self:
                for tensor in (n,) if shared else (n, context):
                    tensor[call.tiles(tensor, rows)] = tensor[call.tiles(tensor, source)]
        return n, context, value

    def blend_self(self, n: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
        """After self-attention."""
        return self._blend(n, extra_options, last=False)

    def blend_cross(self, n: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
        """After cross-attention."""
        return self._blend(n, extra_options, last=layer_of(extra_options) == self.last_layer)

    def _blend(self, n: torch.Tensor, extra_options: dict[str, Any], last: bool) -> torch.Tensor:
        call, grid = self.call, grid_of(extra_options)
        mask = call.masks.blend(grid, last)
        if mask is None:
            return n
        if n.shape[1] != grid[0] * grid[1]:
            _warn_once(
                f"PartEdit: a patch changed the number of image tokens in {layer_of(extra_options)}; not blended."
            )
            return n
        groups = n.reshape(call.chunks, 1 + len(call.edits), call.batch, *n.shape[1:])
        # lerp, because a mask of 0 or 1 must give exactly one of the two, and two that are equal must stay so: an edit
        # that changes nothing would otherwise leave its source by the rounding of half precision.
        return torch.lerp(groups[:, :1], groups, self._for_all_rows(mask, n)).reshape(n.shape)

    def _for_all_rows(self, mask: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        """(1 or chunks, 1 + N, B, h·w, 1): the mask, and ones for the source, made once a call for all layers of a
        size."""
        at = (id(mask), n.dtype)
        if at not in self._ready:
            edits = mask.to(n).reshape(-1, len(self.call.edits), self.call.batch, *mask.shape[-2:])
            # The mask is kept, too, so that no other one gets its id.
            self._ready[at] = mask, torch.cat([torch.ones_like(edits[:, :1]), edits], dim=1)
        return self._ready[at][1]


_warned: set[str] = set()


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        logging.warning(message)


def replace_options(args: tuple[Any, ...], kwargs: dict[str, Any], new: Callable[[dict[str, Any]], dict[str, Any]]):
    """Exchange ``transformer_options`` in the arguments of a DIFFUSION_MODEL wrapper; everything else is forwarded."""
    if "transformer_options" in kwargs:
        return args, {**kwargs, "transformer_options": new(kwargs["transformer_options"])}
    position = 5  # (x, timesteps, context, y, control, transformer_options)
    return (*args[:position], new(args[position]), *args[position + 1 :]), kwargs


# --- queries for training --------------------------------------------------------------------------------


class _Enough(Exception):
    """All queries that were asked for are there."""


def capture_queries(
    model: Any,
    layers: Sequence[LayerKey],
    store: Callable[[LayerKey, torch.Tensor, int, tuple[int, int]], None],
) -> Any:
    """A clone of ``model`` that hands every cross-attention query of ``layers`` to ``store``, and predicts nothing.

    A call ends with the last of the layers and gives zeros: what the UNet would compute after it (for the default
    layers more than half of the network) changes none of the queries.

    Args:
        model: a ``ModelPatcher``, left as it is.
        store: called with (layer, query (rows, h·w, heads·d), heads, (h, w)).
    """
    wanted = tuple(LayerKey(*layer) for layer in layers)

    def wrapper(executor, *args, **kwargs):
        waiting = set(wanted)

        def capture(q, k, v, extra_options, occupant):
            layer = layer_of(extra_options)
            store(layer, q, extra_options["n_heads"], grid_of(extra_options))
            waiting.discard(layer)
            if not waiting:
                raise _Enough
            return occupant(q, k, v, extra_options) if occupant else plain_attention(q, k, v, extra_options)

        def with_capture(options):
            options = options.copy()
            chain_cross(options, wanted, capture)
            return options

        given, named = replace_options(args, kwargs, with_capture)
        try:
            return executor(*given, **named)
        except _Enough:
            x = args[0]
            return x.new_zeros(x.shape[0], executor.class_obj.out_channels, *x.shape[2:])

    clone = without_compile(model.clone())
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "partedit_capture", call_untraced(wrapper))
    return clone


def key_projection(inner_model: Any, layer: LayerKey) -> torch.Tensor:
    """(D, heads·d) float32: a context row times this gives the layer's key (read while the model is loaded)."""
    projection = transformer_block(inner_model.diffusion_model, LayerKey(*layer)).attn2.to_k
    weight = projection.weight
    dtype = (
        inner_model.get_dtype_inference()
        if weight.dtype.itemsize < 2 or not weight.is_floating_point()
        else weight.dtype
    )
    # Through the layer itself rather than its weight, so that LoRA under low memory and quantisation are included.
    return projection(torch.eye(projection.in_features, device=weight.device, dtype=dtype)).float()
