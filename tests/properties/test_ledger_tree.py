"""The tree against the definition in RFC 6962 §2.1, written the slow way."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.merkle import Frontier, consistency_proof, extends, includes, inclusion_proof, leaf_hash, root_of

SIZES = st.integers(1, 130)


def leaves_of(size: int) -> list[bytes]:
    return [leaf_hash(b"%d" % number) for number in range(size)]


def oracle(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, by its recursion."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\x01" + oracle(leaves[:split]) + oracle(leaves[split:])).digest()


@given(SIZES, st.data())
def test_a_tree_grown_in_any_steps_has_the_root_of_the_definition(size: int, data: st.DataObject) -> None:
    leaves, frontier, at = leaves_of(size), Frontier(), 0
    while at < size:
        step = data.draw(st.integers(1, size - at))
        frontier = Frontier.unpack(frontier.pack())
        frontier.extend(leaves[at : at + step])
        at += step
    assert frontier.root() == oracle(leaves) == root_of(leaves)


@given(SIZES, st.data())
def test_any_prefix_proves_into_any_later_tree(size: int, data: st.DataObject) -> None:
    old_size = data.draw(st.integers(1, size))
    leaves = leaves_of(size)
    proof = consistency_proof(leaves, old_size)
    assert extends(old_size, oracle(leaves[:old_size]), size, oracle(leaves), proof)


@given(SIZES, st.data())
def test_every_leaf_proves_into_its_tree_and_nowhere_else(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    leaves = leaves_of(size)
    proof, root = inclusion_proof(leaves, index), oracle(leaves)
    assert includes(leaves[index], index, size, proof, root)
    for other in {0, index - 1, index + 1, size - 1, size} - {index}:
        assert not includes(leaves[index], other, size, proof, root)
    assert not includes(leaf_hash(b"another"), index, size, proof, root)


@given(st.integers(2, 130), st.data())
def test_a_history_that_was_changed_has_no_consistency_proof(size: int, data: st.DataObject) -> None:
    old_size = data.draw(st.integers(1, size - 1))
    changed = data.draw(st.integers(0, old_size - 1))
    leaves = leaves_of(size)
    old_root = oracle(leaves[:old_size])
    leaves[changed] = leaf_hash(b"rewritten")
    assert not extends(old_size, old_root, size, oracle(leaves), consistency_proof(leaves, old_size))


@given(st.integers(2, 130), st.data())
def test_a_damaged_proof_proves_nothing(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    leaves = leaves_of(size)
    proof = inclusion_proof(leaves, index)
    at = data.draw(st.integers(0, len(proof) - 1))
    bit = data.draw(st.integers(0, 255))
    flipped = (int.from_bytes(proof[at], "big") ^ 1 << bit).to_bytes(32, "big")
    assert not includes(leaves[index], index, size, [*proof[:at], flipped, *proof[at + 1 :]], oracle(leaves))
    assert not includes(leaves[index], index, size, proof[:-1], oracle(leaves))
    assert not includes(leaves[index], index, size, [*proof, proof[0]], oracle(leaves))


def test_two_trees_of_one_size_are_one_history_only_when_their_roots_agree() -> None:
    root, other = oracle(leaves_of(5)), oracle(leaves_of(4))
    assert extends(5, root, 5, root, [])
    assert not extends(5, root, 5, other, [])
    assert not extends(5, root, 5, root, [other])


def test_a_proof_says_nothing_of_a_tree_of_another_size() -> None:
    leaves = leaves_of(8)
    old_root, root, proof = oracle(leaves[:4]), oracle(leaves), consistency_proof(leaves, 4)
    assert extends(4, old_root, 8, root, proof)
    assert not extends(4, old_root, 9, root, proof)
    assert not extends(8, root, 4, old_root, proof)
    assert not extends(0, oracle([]), 8, root, proof)
    assert not extends(3, oracle(leaves[:3]), 8, root, [])


@pytest.mark.parametrize("index", [-1, 5])
def test_what_is_not_in_the_tree_cannot_be_proven(index: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        inclusion_proof(leaves_of(5), index)


@pytest.mark.parametrize("old_size", [-1, 0, 6])
def test_a_tree_that_never_was_has_no_consistency_proof(old_size: int) -> None:
    with pytest.raises(ValueError, match="no tree"):
        consistency_proof(leaves_of(5), old_size)


def test_hashes_of_another_number_of_leaves_are_no_frontier() -> None:
    packed = Frontier(2, [bytes(32)]).pack()
    for wrong in (packed[:-1], packed[:8], packed + bytes(32), packed[:7] + b"\x03" + packed[8:], b""):
        with pytest.raises(ValueError, match="frontier"):
            Frontier.unpack(wrong)
    with pytest.raises(ValueError, match="frontier"):
        Frontier(1, [bytes(31)])
