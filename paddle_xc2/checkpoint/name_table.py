"""Names of a checkpoint's tensors and names of our parameters: one table a family, read in both directions.

A checkpoint has one of three layouts: "hf", upstream's; "paddle", ours; "paddlemix", that of PaddleMIX's ports, which
store weights as Paddle does.

"{}" stands for a layer index. Everything that a table doesn't know is an error for the caller: nothing is guessed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from paddle_xc2.checkpoint.lazy_tensor import LazyTensor

LAYOUTS = ("hf", "paddlemix", "paddle")


class Rule(NamedTuple):
    """A tensor under its upstream, its Paddle and its PaddleMIX name; the last is "" where it is upstream's.

    `transpose` is stated, not guessed from the shape: upstream stores a linear weight [out, in], Paddle [in, out].
    """

    hf: str
    paddle: str
    transpose: bool = False
    paddlemix: str = ""

    def name_in(self, layout: str) -> str:
        return {"hf": self.hf, "paddle": self.paddle, "paddlemix": self.paddlemix or self.hf}[layout]


class Dropped(NamedTuple):
    """A tensor under its upstream and its PaddleMIX name that our model has no use for, and why."""

    hf: str
    reason: str
    paddlemix: str = ""

    def name_in(self, layout: str) -> str:
        return self.hf if layout == "hf" else self.paddlemix or self.hf


# What the index of a layer stands behind: in our names, in those of Qwen's decoder and of its vision transformer.
_LAYER_INDEX = re.compile(r"(?:(?<=\.layers\.)|(?<=\.h\.)|(?<=\.resblocks\.))\d+(?=\.)")


def _pattern(name: str) -> tuple[str, str]:
    """`name` with "{}" for its layer index, and the index ("" if it has none)."""
    found = _LAYER_INDEX.search(name)
    return (name, "") if found is None else (f"{name[: found.start()]}{{}}{name[found.end() :]}", found[0])


class NameTable:
    """The names of one family.

    Args:
        rules: of every parameter.
        dropped: tensors that some checkpoints hold and the model has no use for.
        parts: modules of upstream's model that may learn whole beside an adapter.
        layouts: those of LAYOUTS that there are of this family.
        resized: our name of the position table that is stored in the size of the images; None: there is none.
    """

    def __init__(
        self,
        rules: tuple[Rule, ...],
        dropped: tuple[Dropped, ...] = (),
        parts: tuple[str, ...] = (),
        layouts: tuple[str, ...] = LAYOUTS,
        resized: str | None = None,
    ):
        self.rules, self.dropped, self.parts, self.layouts, self.resized = rules, dropped, parts, layouts, resized
        self._rule_of = {layout: {rule.name_in(layout): rule for rule in rules} for layout in layouts}
        self._dropped_of = {
            layout: {one.name_in(layout): one for one in dropped if layout != "paddle"} for layout in layouts
        }

    def to_paddle(self, name: str, layout: str = "hf") -> tuple[str, bool] | None:
        """(our parameter's name, transpose) of a tensor in a checkpoint of `layout`, or None if no rule knows it."""
        return self._translate(name, layout, "paddle")

    def from_paddle(self, name: str, layout: str) -> tuple[str, bool] | None:
        """(name in `layout`, transpose) of one of our parameters, or None if no rule knows it."""
        return self._translate(name, "paddle", layout)

    def to_hf(self, paddle_name: str) -> tuple[str, bool] | None:
        """(upstream's name, transpose) of one of our parameters, or None if no rule knows it."""
        return self.from_paddle(paddle_name, "hf")

    def _translate(self, name: str, source: str, target: str) -> tuple[str, bool] | None:
        pattern, index = _pattern(name)
        rule = self._rule_of[source].get(pattern)
        if rule is None:
            return None
        return rule.name_in(target).replace("{}", index), rule.transpose and (source == "hf") != (target == "hf")

    def relabelled(self, name: str, tensor: LazyTensor, source: str, target: str) -> tuple[str, LazyTensor] | None:
        """A tensor of a checkpoint in the layout `source` as it is in one of `target`: its name, and it, transposed if
        only one of the two stores it as upstream does. None if no rule knows it.
        """
        found = self._translate(name, source, target)
        return None if found is None else (found[0], tensor.transposed() if found[1] else tensor)

    def reason_dropped(self, name: str, layout: str = "hf") -> str | None:
        """Why a tensor in a checkpoint of `layout` is left out, or None if it is not to be; ours has none."""
        dropped = self._dropped_of[layout].get(_pattern(name)[0])
        return None if dropped is None else dropped.reason

    def num_known(self, names: list[str], layout: str) -> int:
        """How many of the names are those of parameters in a checkpoint of `layout`."""
        return sum(self.to_paddle(name, layout) is not None for name in names)

    def layout_of(self, names) -> str:
        """The layout that knows most of the names.

        A count, so that one renamed tensor is reported as that, and not as a checkpoint of another layout.
        """
        names = list(names)
        return max(self.layouts, key=lambda layout: self.num_known(names, layout))
