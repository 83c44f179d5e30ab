"""JSON that is read in two ways, or that breaks its reader, is refused in one line."""

import json

import pytest
from tokenbounds.errors import TokenboundsError
from tokenbounds.files import read_json

pytestmark = pytest.mark.adversary
TEXTS = ['{"a": 1, "a": 2}', '{"b": [{"a": 1, "a": 1}]}', "[" * 10**5, '{"a":' * 10**5, "9" * 10**5, '"\\x"', ""]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_it_is_refused(tmp_path, text):
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(TokenboundsError, match=r"manifest\.json is not valid JSON"):
        read_json(path)


def test_python_alone_takes_the_last(tmp_path):
    assert json.loads(TEXTS[0]) == {"a": 2}
