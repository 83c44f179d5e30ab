"""Merkle trees: known roots, proofs by hand, and what no proof may show."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenbounds import merkle
from tokenbounds.merkle import (
    included_root,
    is_consistent,
    leaf_hash,
    node_hash,
    prove_consistency,
    prove_inclusion,
    root,
    siblings,
)

# The leaves with which implementations of RFC 6962 test themselves, and the roots of the first 1, 2, … of them.
KNOWN = [b"", b"\x00", b"\x10", b"\x20\x21", b"\x30\x31", b"@ABC", b"PQRSTUVW", b"`abcdefghijklmno"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
A, B, C, D, E = HASHES = [leaf_hash(letter) for letter in (b"a", b"b", b"c", b"d", b"e")]
sizes = st.integers(1, 70)


def many(count):
    return [leaf_hash(bytes([number])) for number in range(count)]


def test_known_roots():
    hashes = [leaf_hash(data) for data in KNOWN]
    assert [root(hashes[: count + 1]).hex() for count in range(8)] == ROOTS
    assert root([]) == hashlib.sha256(b"").digest()


def test_five_leaves_by_hand():
    ab, cd = node_hash(A, B), node_hash(C, D)
    abcd = node_hash(ab, cd)
    assert root(HASHES) == node_hash(abcd, E)
    assert prove_inclusion(HASHES, 2) == [D, ab, E]
    assert prove_inclusion(HASHES, 4) == [abcd]
    assert prove_consistency(HASHES, 3) == [C, D, ab, E]
    assert prove_consistency(HASHES, 4) == [E]
    assert prove_consistency(HASHES, 5) == []
    assert siblings(2, 5) == [(0, 3), (1, 0), (2, 1)]


@given(sizes, st.data())
def test_every_leaf_has_a_proof_that_serves_no_other(size, data):
    leaves = many(size)
    index, other = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    proof = prove_inclusion(leaves, index)
    assert included_root(leaves[index], index, size, proof) == root(leaves)
    if other != index:
        assert included_root(leaves[other], index, size, proof) != root(leaves)
    if proof:
        broken = [*proof[:-1], leaf_hash(b"else")]
        assert included_root(leaves[index], index, size, broken) != root(leaves)
    with pytest.raises(ValueError, match="digests"):
        included_root(leaves[index], index, size, [*proof, A])


@given(sizes, st.data())
def test_longer_lists_are_consistent_with_their_beginnings_alone(size, data):
    leaves, old = many(size), data.draw(st.integers(1, size))
    proof = prove_consistency(leaves, old)
    assert is_consistent(old, root(leaves[:old]), size, root(leaves), proof)
    changed = data.draw(st.integers(0, old - 1))
    forged = [*leaves[:changed], leaf_hash(b"else"), *leaves[changed + 1 :]]
    for wrong in (proof, prove_consistency(forged, old)):
        assert not is_consistent(old, root(leaves[:old]), size, root(forged), wrong)
    assert not is_consistent(old, root(leaves[:old]), size, root(leaves), [*proof, A])
    assert not proof or not is_consistent(old, root(leaves[:old]), size, root(leaves), proof[:-1])


@pytest.mark.parametrize("size", [0, 6])
def test_what_never_was_has_no_proof(size):
    with pytest.raises(ValueError, match="no earlier tree"):
        prove_consistency(HASHES, size)
    with pytest.raises(ValueError, match="no leaf 5"):
        prove_inclusion(HASHES, 5)
    assert not is_consistent(size, root(HASHES), 5, root(HASHES), [])


def test_without_the_marks_a_node_would_pass_for_a_leaf(monkeypatch):
    leaves, node = [A, B, C, D], [node_hash(A, B), node_hash(C, D)]
    assert leaf_hash(A + B) != node[0]
    monkeypatch.setattr(merkle, "leaf_hash", lambda data: hashlib.sha256(b"\x01" + data).digest())
    assert root([merkle.leaf_hash(A + B), merkle.leaf_hash(C + D)]) == root(leaves)
