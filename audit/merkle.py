"""The RFC 6962 Merkle tree: hashes, frontier, proofs and their verification. Pure; hashes are 32-byte SHA-256.

A writer keeps only the frontier (one hash per set bit of the size). Proofs are computed from leaf hashes: the cost is
linear in the tree until tiles are stored.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(body: bytes) -> bytes:
    return sha256(b"\x00" + body).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The perfect subtrees that make up a tree of ``size`` leaves, largest first."""

    __slots__ = ("hashes", "size")

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        if len(hashes) != size.bit_count() or any(len(item) != HASH_BYTES for item in hashes):
            raise ValueError(f"{len(hashes)} hashes cannot be the frontier of {size} leaves")
        self.size, self.hashes = size, list(hashes)

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaf hashes; about one node hash each."""
        hashes, size = self.hashes, self.size
        for leaf in leaves:
            carried, position = leaf, size
            while position & 1:
                carried = sha256(b"\x01" + hashes.pop() + carried).digest()
                position >>= 1
            hashes.append(carried)
            size += 1
        self.size = size

    def root(self) -> bytes:
        if not self.hashes:
            return EMPTY_ROOT
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = node_hash(left, root)
        return root

    def copy(self) -> Frontier:
        return Frontier(self.size, self.hashes)

    def pack(self) -> bytes:
        return struct.pack(">Q", self.size) + b"".join(self.hashes)

    @classmethod
    def unpack(cls, packed: bytes) -> Frontier:
        """Raises ``ValueError`` for anything that ``pack`` cannot have written."""
        if len(packed) < 8 or len(packed) % HASH_BYTES != 8:  # noqa: PLR2004  8 bytes of size come first
            raise ValueError("not a packed frontier")
        (size,) = struct.unpack(">Q", packed[:8])
        return cls(size, [packed[at : at + HASH_BYTES] for at in range(8, len(packed), HASH_BYTES)])


def root_of(leaves: Iterable[bytes]) -> bytes:
    frontier = Frontier()
    frontier.extend(leaves)
    return frontier.root()


def _split(size: int) -> int:
    """The largest power of two smaller than ``size`` (RFC 6962 §2.1)."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """RFC 6962 §2.1.1, for the tree over all of ``leaves``; lowest sibling first."""
    low, high = 0, len(leaves)
    if not low <= index < high:
        raise ValueError(f"no leaf {index} in a tree of {high}")
    proof = []
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            proof.append(root_of(leaves[middle:high]))
            high = middle
        else:
            proof.append(root_of(leaves[low:middle]))
            low = middle
    return proof[::-1]


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """RFC 6962 §2.1.2, from the tree over the first ``old_size`` leaves to the tree over all of them."""
    low, high = 0, len(leaves)
    if not 0 < old_size <= high:
        raise ValueError(f"no tree of {old_size} leaves inside a tree of {high}")
    proof = []
    whole = True  # whether the old tree is the whole of what is on the left, so that its root is already known
    while old_size != high:
        middle = low + _split(high - low)
        if old_size <= middle:
            proof.append(root_of(leaves[middle:high]))
            high = middle
        else:
            proof.append(root_of(leaves[low:middle]))
            low, whole = middle, False
    if not whole:
        proof.append(root_of(leaves[low:high]))
    return proof[::-1]


def includes(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether ``proof`` places ``leaf`` at ``index`` of the tree with this size and root (RFC 9162 §2.1.3.2)."""
    if not 0 <= index < size:
        return False
    position, last, carried = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if position & 1 or position == last:
            carried = node_hash(sibling, carried)
            while position and not position & 1:
                position, last = position >> 1, last >> 1
        else:
            carried = node_hash(carried, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and carried == root


def extends(old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether ``proof`` shows the old tree to be a prefix of the new one (RFC 9162 §2.1.4.2)."""
    if old_size == size:
        return not proof and old_root == root
    if not 0 < old_size < size or not proof:
        return False
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    position, last = old_size - 1, size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old_carried = new_carried = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            old_carried, new_carried = node_hash(sibling, old_carried), node_hash(sibling, new_carried)
            while position and not position & 1:
                position, last = position >> 1, last >> 1
        else:
            new_carried = node_hash(new_carried, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and old_carried == old_root and new_carried == root
