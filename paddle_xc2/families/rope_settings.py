"""The rotary embedding's settings in a config.json, in whichever spelling; two spellings never differ.

Up to version 4, transformers writes `rope_theta` and `rope_scaling` ({"type" or "rope_type", "factor"}), from 5 on both
together as `rope_parameters` ({"rope_theta", "rope_type", "factor"}). Ours is the first, with "type", as in upstream's.
"""

from __future__ import annotations

from paddle_xc2.messages import short_repr

NESTED = "rope_parameters"
_UNSCALED = "default"  # the name that transformers has for no scaling


def read_rope(values: dict) -> tuple[dict, list[str]]:
    """{"rope_theta": number, "rope_scaling": {"type", "factor"} or None} as far as they are there.

    Args:
        values: of a config.json, without nulls.
    Returns: (settings, whose values `ModelSettings` checks, and what is wrong with the spelling).
    """
    thetas = {"rope_theta": values["rope_theta"]} if "rope_theta" in values else {}
    scalings, wrong = {}, []
    for name in ("rope_scaling", NESTED):
        if name not in values:
            continue
        if not isinstance(values[name], dict):
            wrong.append(f"{name} is {short_repr(values[name])}, but must be an object of settings, or null")
            continue
        given = {key: value for key, value in values[name].items() if value is not None}
        if "rope_theta" in given:
            thetas[name] = given.pop("rope_theta")
        complaints = _complaints(name, given, values)
        wrong += complaints
        if not complaints:
            scalings[name] = _scaling(name, given)
    settings = {}
    for setting, places in (("rope_theta", thetas), ("rope_scaling", scalings)):
        first = next(iter(places.values()), None)
        if any(value != first for value in places.values()):
            stated = " and ".join(f"{short_repr(value)} in {place}" for place, value in places.items())
            wrong.append(f"{setting} is {stated}; keep one of them")
        elif places:
            settings[setting] = first
    return settings, wrong


def with_rope(content: dict, rope_theta: float, rope_scaling: dict | None) -> dict:
    """A config.json with these settings in every spelling that it has, in upstream's if it has none."""
    content = dict(content)
    nested = content.get(NESTED) is not None
    if nested:
        scaling = {"rope_type": rope_scaling["type"], "factor": rope_scaling["factor"]} if rope_scaling else {}
        content[NESTED] = {"rope_theta": rope_theta, "rope_type": _UNSCALED, **scaling}
    for name, value in (("rope_theta", rope_theta), ("rope_scaling", rope_scaling)):
        if not nested or content.get(name) is not None:
            content[name] = value
    return content


def _complaints(name: str, given: dict, values: dict) -> list[str]:
    """What of an object can't be carried out, or says two things at once."""
    neutral = {
        "original_max_position_embeddings": values.get("max_position_embeddings"),
        "partial_rotary_factor": 1,
    }
    wrong = [
        f"{name}: {key} is {short_repr(value)}, which is not supported; only type and factor are"
        for key, value in given.items()
        if key not in ("type", "rope_type", "factor") and not (key in neutral and value == neutral[key])
    ]
    if given.get("type", given.get("rope_type")) != given.get("rope_type", given.get("type")):
        wrong.append(
            f"{name}: type is {short_repr(given['type'])} and rope_type {short_repr(given['rope_type'])}; keep one"
        )
    if _kind(name, given) == _UNSCALED and given.get("factor", 1) != 1:
        wrong.append(f"{name}: factor is {short_repr(given['factor'])}, which the type {_UNSCALED} has no use for")
    return wrong


def _kind(name: str, given: dict):
    return given.get("rope_type", given.get("type", _UNSCALED if name == NESTED else None))


def _scaling(name: str, given: dict) -> dict | None:
    kind = _kind(name, given)
    return None if kind == _UNSCALED else {"type": kind, **({"factor": given["factor"]} if "factor" in given else {})}
