"""Which table of names a checkpoint is read and written by."""

from __future__ import annotations

from paddle_xc2.checkpoint.name_table import NameTable
from paddle_xc2.checkpoint.qwen_vl_names import QWEN_VL_NAMES
from paddle_xc2.checkpoint.xcomposer2_names import XCOMPOSER2_NAMES
from paddle_xc2.families.table import Family

NAMES = {"xcomposer2": XCOMPOSER2_NAMES, "qwen_vl": QWEN_VL_NAMES}  # by Family.network


def names_of(family: Family) -> NameTable:
    """The table of a family."""
    return NAMES[family.network]


def names_of_tensors(names) -> tuple[NameTable, str]:
    """The table that knows most of a checkpoint's tensors, and the layout in which it does."""
    names = list(names)
    pairs = [(table, layout) for table in NAMES.values() for layout in table.layouts]
    return max(pairs, key=lambda pair: pair[0].num_known(names, pair[1]))
