"""Every artefact between jobs carries a digest of its content, which its reader checks."""

import hashlib
from pathlib import Path

import pytest
from tokenbounds import seals
from tokenbounds.errors import ScoreError, TokenboundsError
from tokenbounds.seals import BLANK_SEAL, seal, sha256_of_sealed

MARK, ZEROS = BLANK_SEAL[:-64].encode(), b"0" * 64


def check(path):
    return sha256_of_sealed(path, ScoreError, "Score again.")


def test_a_seal_is_the_digest_of_the_file_with_zeros_in_its_place(tmp_path):
    path, content = tmp_path / "a", b"head " + BLANK_SEAL.encode() + b" middle " + BLANK_SEAL.encode() + b" end"
    path.write_bytes(content)
    seal(path)
    digest = hashlib.sha256(content).hexdigest().encode()
    assert path.read_bytes() == content.replace(ZEROS, digest)
    assert check(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("chunk", [1, 7, 82, 83, 84, 1 << 20])
@pytest.mark.parametrize("before", [0, 1, 83, 500])
def test_seals_are_found_wherever_chunks_end(tmp_path, monkeypatch, chunk, before):
    monkeypatch.setattr(seals, "_CHUNK_BYTES", chunk)
    path = tmp_path / "a"
    path.write_bytes(bytes(before) + BLANK_SEAL.encode() + bytes(before // 2) + BLANK_SEAL.encode())
    digest = hashlib.sha256(path.read_bytes()).hexdigest().encode()
    seal(path)
    assert path.read_bytes().count(digest) == 2
    assert check(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    for place in range(0, path.stat().st_size, 13):
        flip(path, place)
        with pytest.raises(ScoreError, match=r"a is damaged: .* Score again\."):
            check(path)
        flip(path, place)


def flip(path: Path, place: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(bytes(data))


def test_files_without_a_seal_are_read_as_they_are(tmp_path):
    path = tmp_path / "a"
    for content in (b"", b"old", BLANK_SEAL.encode(), MARK):
        path.write_bytes(content)
        assert check(path) == hashlib.sha256(content).hexdigest()


def test_a_file_whose_data_look_like_a_seal_is_left_without_one(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(BLANK_SEAL.encode() + MARK + b"x" * 64)
    seal(path)
    assert ZEROS in path.read_bytes()


def test_missing_files_are_named(tmp_path):
    with pytest.raises(TokenboundsError, match=r"cannot read .*nothing"):
        check(tmp_path / "nothing")
