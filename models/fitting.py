"""Does a saved network fit one of ours? Its names, its shapes, and all that its layers say."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from models.saved_networks import SavedLayer, SavedNetwork

_MEANINGLESS = ("inplace", "momentum")  # attributes that change nothing of what a finished network gives
_SHOWN = 3  # names in a sentence


def find_misfit(saved: SavedNetwork, network: nn.Sequential) -> str | None:
    """Why a saved network is not like ``network``, in words; None if it is. No tensor is made."""
    if saved.layers is not None and (problem := _compare_layers(saved.layers, network)):
        return problem
    ours = network.state_dict()
    if len(saved.tensors) > 2 * len(ours):
        return f"it has {len(saved.tensors)} tensors, expected {len(ours)}"
    names = match_names(ours, saved.tensors)
    if missing := [name for name in ours if name not in names]:
        return f"it lacks {_list(missing)}{_list_unexpected(names, saved)}"
    if unexpected := _list_unexpected(names, saved):
        return unexpected.removeprefix("; ")
    for name, its_name in names.items():
        tensor, expected = saved.tensors[its_name], ours[name]
        if tensor.shape != tuple(expected.shape):
            return f"{its_name} has the shape {list(tensor.shape)}, expected {list(expected.shape)}"
        if tensor.dtype.is_floating_point != expected.dtype.is_floating_point or tensor.dtype is torch.bool:
            return f"{its_name} has the type {_name(tensor.dtype)}, expected {_name(expected.dtype)}"
    return None


def match_names(ours: Iterable[str], theirs: Iterable[str]) -> dict[str, str]:
    """Our name of each tensor → their name of it: parts that all of theirs, or of ours, begin with may differ."""
    ours, theirs = list(ours), list(theirs)
    inner = {name.removeprefix(_find_prefix(ours, len(ours))): name for name in ours}
    prefixes = [_find_prefix(theirs, parts) for parts in range(len(theirs[0].split(".")) if theirs else 0)]
    found = [
        {inner[name.removeprefix(prefix)]: name for name in theirs if name.removeprefix(prefix) in inner}
        for prefix in prefixes
    ]
    return max(found, key=len, default={})


def _find_prefix(names: list[str], parts: int) -> str:
    """The first ``parts`` of the dotted names, or fewer: as many as all of them share."""
    shared = 0
    split = [name.split(".")[:-1] for name in names]
    while shared < parts and len({tuple(one[: shared + 1]) for one in split}) == 1 and shared < len(split[0]):
        shared += 1
    return "".join(f"{part}." for part in split[0][:shared])


def _compare_layers(layers: list[SavedLayer], network: nn.Sequential) -> str | None:
    """What the first layer that differs is, and what it should be."""
    ours = [layer for layer in network.modules() if not list(layer.children())]
    for number, (saved, layer) in enumerate(zip(layers, ours, strict=False), start=1):
        kind = _find_kind(layer)
        if saved.kind != kind:
            return f"its layer {number} is {saved.kind}, expected {kind}"
        for name in getattr(layer, "__constants__", ()):
            found, expected = saved.facts.get(name), getattr(layer, name)
            if name not in _MEANINGLESS and not (_is_plain(found) and found == expected):
                return f"its layer {number}, {kind}, has {name} {_show(found)}, expected {_show(expected)}"
    if len(layers) != len(ours):
        return f"it has {len(layers)} layers, expected {len(ours)}"
    return None


def _find_kind(layer: nn.Module) -> str:
    """The class of torch that a layer is a form of."""
    return next(kind.__name__ for kind in type(layer).__mro__ if kind.__module__.startswith("torch.nn.modules"))


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return len(value) < 4 and all(type(one) is int for one in value)
    return value is None or isinstance(value, bool | int | float | str)


def _show(value: object) -> str:
    if not _is_plain(value) or (isinstance(value, int) and abs(value) > 2**62):
        return "of another type"
    return "x".join(map(_show, value)) if isinstance(value, tuple) else repr(value)[:40]


def _list_unexpected(names: Mapping[str, str], saved: SavedNetwork) -> str:
    known = set(names.values())
    unexpected = [name for name in saved.tensors if name not in known]
    return f"; it has {_list(unexpected)} besides" if unexpected else ""


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
