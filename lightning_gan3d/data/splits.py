"""Which images are held out: picked by the hash of their names, copies of one picture together."""

import hashlib
from collections.abc import Mapping, Sequence


def hold_out(names: Sequence[str], share: float, group_of: Mapping[str, str]) -> set[str]:
    """Return the names of the images held out: `share` (in [0, 1)) of them, or just above it.

    `group_of` names the picture of which an image is a copy, or the object that it shows: a group
    is held out whole. An image that it does not name is a group of its own. A group keeps its place
    in the order when others are added or removed.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(group_of.get(name, name), []).append(name)
    wanted, held = round(share * len(names)), set[str]()
    for group in sorted(groups, key=lambda g: hashlib.sha256(g.encode()).digest()):
        if len(held) >= wanted:
            break
        held.update(groups[group])
    return held
