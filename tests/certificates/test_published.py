"""The sums of what a study publishes: damage is named, and nothing hides from them."""

import shutil
import subprocess

import pytest
from tokenbounds.certificates.published import check_sums, published_files, verify_published, write_sums
from tokenbounds.errors import CertificateError

pytestmark = pytest.mark.adversary
FILES = ("certificates/a.json", "figures/loss by position.svg", "messages/a.json", "report.html", "tables/a.csv")


@pytest.fixture
def results(tmp_path):
    for name in (*FILES, "messages/a.tbm", "logs/a.log", "tables/.a.csv.1.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    write_sums(tmp_path)
    return tmp_path


def test_what_is_published_is_summed_once_each_and_whole(results):
    assert published_files(results) == list(FILES)
    assert check_sums(results).startswith(f"{len(FILES)} files")
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=results, check=True)
    before = (results / "SHA256SUMS").read_bytes()
    write_sums(results)
    assert (results / "SHA256SUMS").read_bytes() == before


def altered(text, lines):
    return {
        "a line is missing": "".join(lines[1:]),
        "a line is there twice": text + lines[-1],
        "lines are in another order": "".join(reversed(lines)),
        "the last line has no end": text[:-1],
        "a digest has another one": text.replace(lines[0][:64], "0" * 64),
        "a digest is in capitals": text.upper(),
        "a file has another name": text.replace("tables/a.csv", "tables/b.csv"),
        "a file is outside": text.replace("tables/a.csv", "tables/../../a.csv"),
        "nothing is left": "",
    }


@pytest.mark.parametrize("kind", altered("", [""]))
def test_altered_sums_are_refused(results, kind):
    sums = results / "SHA256SUMS"
    text = sums.read_text()
    sums.write_text(altered(text, text.splitlines(keepends=True))[kind])
    with pytest.raises(CertificateError, match=r"certificates/a\.json|SHA256SUMS"):
        check_sums(results)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_a_further_and_a_changed_file_are_named(results, name):
    path = results / name
    path.write_text("else")
    with pytest.raises(CertificateError, match=f"{name} is not what was published"):
        check_sums(results)
    path.unlink()
    with pytest.raises(CertificateError, match=f"{name} is missing"):
        check_sums(results)


def test_a_later_file_is_named_and_a_link_outside_is_not_followed(results, tmp_path_factory):
    (results / "tables/b.csv").write_text("later")
    with pytest.raises(CertificateError, match=r"b\.csv is not in SHA256SUMS"):
        check_sums(results)
    (results / "tables/b.csv").unlink()
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "report.html"
    shutil.move(results / "report.html", elsewhere)
    (results / "report.html").symlink_to(elsewhere)
    with pytest.raises(CertificateError, match="outside"):
        check_sums(results)


def test_without_sums_it_says_so(results):
    (results / "SHA256SUMS").unlink()
    assert [check.made for check in verify_published(results)] == [False]
