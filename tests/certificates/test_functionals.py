"""Losses within their tolerance, whose plain average is right, must not move what is certified."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from certified_study import TinyStudy, with_link, with_losses
from chain_study import build_chain
from json_certificates import certify_bound
from tokenbounds.bounds.betting import betting_value
from tokenbounds.bounds.freedman import freedman_value
from tokenbounds.bounds.smoothing import smooth
from tokenbounds.certificates import functionals, rescoring, verify
from tokenbounds.certificates.functionals import Difference, Functional
from tokenbounds.certificates.rescoring import Rescored
from tokenbounds.certificates.tolerances import TOLERANCES
from tokenbounds.certificates.verify import ALL_BLOCKS, verify_certificate
from tokenbounds.config import BoundsSpec
from tokenbounds.errors import CertificateError
from tokenbounds.scores.store import open_scores

SPEC = BoundsSpec(top_k=(1,), bounds=("azuma", "freedman", "betting"), alphas=(0.01, 0.1), lambdas=16)


class SpreadStudy(TinyStudy):
    """Losses that are spread widely, as those of language models are; tokens then count very differently."""

    def _score_rows(self, corpus, plan, shard):
        rows = super()._score_rows(corpus, plan, shard)
        nll_bits = np.random.default_rng([9, shard]).gamma(0.5, 8.0, rows.num_rows).astype(np.float32) + 1
        # Ranks that smaller losses may have too, as forgeries have them.
        return with_losses(with_losses(rows, nll_bits - np.float32(0.5)), nll_bits)


class Network:
    """What a message decodes to: it has no parameters, and gives the losses that `honest` says."""

    def parameters(self):
        return []


@dataclass
class Honest:
    """The scores that messages give, by the message's path, in place of models."""

    scores: dict

    def install(self, monkeypatch):
        monkeypatch.setattr(verify, "_decode", lambda _, link, __: self.scores[link.path.name])
        monkeypatch.setattr(rescoring, "make_scorer", lambda predictor, *_: predictor)
        monkeypatch.setattr(rescoring, "score_blocks", self.score)

    @staticmethod
    def score(network, corpus, rows, *_):
        for batch in open_scores(network.files).iter_batches():
            yield batch.filter(pa.array(np.isin(batch["block"].to_numpy(), rows["block"].to_numpy())))

    @classmethod
    def of(cls, inputs):
        found = {}
        for link in inputs.links:
            found[link.message.name] = network = Network()
            network.files = link.scores
        return cls(found)


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    return SpreadStudy(tmp_path_factory.mktemp("spread")).build()


def certify(inputs, folder, name="c", spec=SPEC):
    certify_bound(name, "tiny", inputs, spec, folder / f"{name}.json", model="m")
    return folder / f"{name}.json"


def forge(link, folder, shift, dtype="float32"):
    """Score files with other losses: `shift` says by how much, bits [n], from the losses [n]."""
    tables = [pq.read_table(path, partitioning=None) for path in link.scores]
    whole = np.concatenate([table["nll_bits"].to_numpy() for table in tables]).astype(float)
    moved, first, paths = (whole + shift(whole)).astype(np.float32), 0, []
    folder.mkdir(parents=True, exist_ok=True)
    for table, path in zip(tables, link.scores, strict=True):
        column = moved[first : first + table.num_rows]
        first += table.num_rows
        table = with_losses(table, column)
        table = table.replace_schema_metadata({**table.schema.metadata, b"dtype": dtype.encode()})
        paths.append(folder / path.name)
        pq.write_table(table, paths[-1])
    return tuple(paths)


def slopes(losses, row):
    """How much each token's raw loss counts in a row [n]."""
    step = 1e-4
    up, down = (smooth(losses + each, row["alpha"], 256) for each in (step, -step))
    rest = 1.0 if row["lambda"] is None else 1 - row["lambda"] * smooth(losses, row["alpha"], 256)
    return (up - down) / (2 * step) / rest


def attack(row, size):
    """Losses of tokens that count much are lowered and as many others raised, so that the plain average stays."""

    def shift(losses):
        order = np.argsort(slopes(losses, row))
        moved = np.zeros(len(losses))
        half = len(losses) // 2
        moved[order[:half]], moved[order[len(losses) - half :]] = size, -size
        return moved

    return shift


def row_of(path, bound):
    rows = json.loads(path.read_text())["rows"]
    return next(row for row in rows if (row["metric"], row["bound"]) == ("bpd", bound))


@pytest.mark.parametrize(("dtype", "size"), [("float32", 0.00095), ("bfloat16", 0.49)])
@pytest.mark.parametrize("bound", ["azuma", "freedman", "betting"])
def test_tokens_that_count_much_cannot_be_moved_down(spread, tmp_path, monkeypatch, bound, dtype, size):
    inputs = spread.inputs
    honest_scores = forge(inputs.certified, tmp_path / "honest", lambda losses: 0 * losses, dtype)
    honest = certify(with_link(inputs, scores=honest_scores), tmp_path, "honest")
    attacked = forge(inputs.certified, tmp_path / "forged", attack(row_of(honest, bound), size), dtype)
    forged = certify(with_link(inputs, scores=attacked), tmp_path, "forged")
    understated = row_of(honest, bound)["value"] - row_of(forged, bound)["value"]
    assert understated > (1 if dtype == "float32" else 3) * TOLERANCES[dtype].mean_bits

    Honest.of(inputs).install(monkeypatch)
    names = {check.name for check in verify_certificate(honest, rescore=ALL_BLOCKS)}
    assert {"scored again", "averages of rows", "rows made again"} <= names
    with pytest.raises(CertificateError, match=r"rests on is .* bits, and .* as stored"):
        verify_certificate(forged, rescore=ALL_BLOCKS)
    with pytest.raises(CertificateError, match=r"rests on is .* bits, and .* as stored"):
        verify_certificate(forged, rescore=60, seed=1)

    # The rows by themselves, computed again from the message's losses, show it too.
    def compare(functional, *_):
        return Difference(0.0, TOLERANCES[dtype].mean_bits)

    with monkeypatch.context() as patched:
        patched.setattr(functionals, "_compare", compare)
        with pytest.raises(CertificateError, match=r"row bpd/\w+ states"):
            verify_certificate(forged, rescore=ALL_BLOCKS)
        # The same attack passes a check of the plain average alone.
        patched.setattr(verify, "compare_rows", lambda *_: "")
        verify_certificate(forged, rescore=ALL_BLOCKS)


def test_a_links_own_average_is_compared(tmp_path, monkeypatch):
    """Losses of the cheap message, moved by less than single losses may be, move the sum of the links."""
    inputs = build_chain(tmp_path / "results")
    spec = BoundsSpec(
        top_k=(), bounds=("betting", "telescoped", "mixture"), alphas=(0.1,), link_alphas=(0.1, 0.3), lambdas=8
    )
    folder = tmp_path / "results/certificates"
    folder.mkdir()
    Honest.of(inputs).install(monkeypatch)
    checks = verify_certificate(certify(inputs, folder, spec=spec), rescore=ALL_BLOCKS)
    telescoped = row_of(folder / "c.json", "telescoped")
    averages = next(check.detail for check in checks if check.name == "averages of rows")
    assert averages.startswith(f"{1 + len(telescoped['links']) + 1}, which differ by at most 0 bits")
    assert next(check.detail for check in checks if check.name == "rows made again").startswith("3 rows")

    cheap = inputs.links[0]

    def shift(losses):  # the tokens that cost much go up, others down
        moved = np.zeros(len(losses))
        order = np.argsort(losses)
        moved[order[:1157]], moved[order[-1157:]] = 0.0009, -0.0009
        return moved

    forged_scores = forge(cheap, tmp_path / "results/forged/cheap", shift)
    links = (type(cheap)(cheap.message, forged_scores), *inputs.links[1:])
    forged = certify(type(inputs)(corpus=inputs.corpus, plan=inputs.plan, links=links), folder, "forged", spec)
    # In this study's links tokens count too similarly for them to be moved by more than the usual tolerance.
    monkeypatch.setitem(TOLERANCES, "float32", replace(TOLERANCES["float32"], mean_bits=1e-5))
    with pytest.raises(CertificateError, match=r"row bpd/(telescoped|mixture) link"):
        verify_certificate(forged, rescore=ALL_BLOCKS)


def test_a_sample_is_compared_by_its_draws(tmp_path, monkeypatch):
    study = SpreadStudy(tmp_path / "results", sample_tokens=900).build()
    folder = tmp_path / "results/certificates"
    folder.mkdir()
    Honest.of(study.inputs).install(monkeypatch)
    assert verify_certificate(certify(study.inputs, folder), rescore=ALL_BLOCKS)[-1].name == "rows made again"
    row = row_of(folder / "c.json", "betting")
    scores = forge(study.inputs.certified, tmp_path / "results/forged", attack(row, 0.00095))
    with pytest.raises(CertificateError, match="rests on is"):
        verify_certificate(certify(with_link(study.inputs, scores=scores), folder, "f"), rescore=ALL_BLOCKS)


def test_rows_over_documents_are_made_again(spread, tmp_path, monkeypatch):
    spec = BoundsSpec(top_k=(1,), bounds=("documents", "documents_betting"), alphas=(0.1,), lambdas=8)
    Honest.of(spread.inputs).install(monkeypatch)
    checks = verify_certificate(certify(spread.inputs, tmp_path, spec=spec), rescore=ALL_BLOCKS)
    assert checks[-1].detail.startswith("4 rows from the new losses: understated by at most 0 ")
    assert " by them" in checks[-1].detail and "; bpd/" in checks[-1].detail


# --- the tolerance ----------------------------------------------------------------------------------------------------


def make_functional(lambda_, freedman=False, kappa=0.0):
    losses = lambda columns: smooth(columns[0]["nll_bits"], 0.01, 256)  # noqa: E731
    return Functional("test", (0,), losses, lambda_, freedman, (kappa,))


def as_chunks(losses, entropies):
    weights = np.full(len(losses), 1 / len(losses))
    for part in np.array_split(np.arange(len(losses)), 3):
        yield weights[part], [{"nll_bits": losses[part], "entropy_bits": entropies[part]}]


@pytest.mark.parametrize(
    ("lambda_", "freedman", "kappa"),
    [(None, False, 0), (0.01, False, 0), (0.06, False, 0.5), (0.06, True, 0), (0.06, True, 1)],
)
def test_sensitivities_are_those_of_the_average(lambda_, freedman, kappa):
    """Against the definition: the average's derivatives by each loss and by each entropy, one at a time."""
    rng = np.random.default_rng(1)
    columns, step = np.array([rng.gamma(0.6, 6.0, 40), rng.gamma(2.0, 1.0, 40)]), 1e-5
    functional = make_functional(lambda_, freedman, kappa)
    gradients = np.empty((2, 40))
    for index in np.ndindex(2, 40):
        shift = np.zeros((2, 40))
        shift[index] = step
        up, down = (functional.average(as_chunks(*(columns + sign * shift))) for sign in (1, -1))
        gradients[index] = (up - down) / (2 * step)
    losses, centre = smooth(columns[0], 0.01, 256), kappa * columns[1]
    bound = losses.mean()
    if lambda_ is not None:
        total = np.log1p(-lambda_ * (losses - centre)).mean()
        bound = centre.mean() + (freedman_value if freedman else betting_value)(total, lambda_, 0.0, 40)
    assert functional.average(as_chunks(*columns)) == pytest.approx(bound, rel=1e-12)
    wanted = np.sqrt(np.mean((40 * gradients) ** 2, axis=1))
    assert functional.sensitivities(as_chunks(*columns))[0] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "chain"])
@pytest.mark.parametrize("size", [3, 100, 20_000])
def test_rounding_is_never_refused(dtype, size):
    """Errors independent of their tokens' weights, as large as single losses may have; and one common to all."""
    rng = np.random.default_rng(7)
    tolerance = TOLERANCES[dtype]
    for trial in range(40):
        stored, entropies = rng.gamma(0.6, 6.0, (2, size))
        noise = rng.normal(0, tolerance.token_bits / 6, size)
        common = (-1) ** trial * 0.6 * tolerance.mean_bits
        for errors in (noise - noise.mean() + common, np.full(size, common)):
            again = np.rint(8 * (entropies + errors)) / 8
            columns = (
                {"nll_bits": stored + errors, "entropy_bits": again},
                {"nll_bits": stored, "entropy_bits": np.rint(8 * entropies) / 8},
            )
            rescored = Rescored(*columns, np.ones(size), 256, tolerance, (), "")
            for lambda_, kappa in ((None, 0), (0.02, 1), (0.06, 0), (0.06, 0.5)):
                found = functionals._compare(make_functional(lambda_, kappa=kappa), [rescored], None)
                assert abs(found.found) <= found.allowed


def test_a_bet_of_everything_on_a_subset_without_errors_is_compared():
    """Tokens outside the subset are wrong, and the bet would lose all of them: they do not count."""
    wrong = np.arange(60) % 3 == 0
    columns = {"nll_bits": np.ones(60), "entropy_bits": np.full(60, 2.0), "rank": 1 + wrong.astype(np.int32)}
    rescored = Rescored(columns, columns, np.ones(60), 256, TOLERANCES["chain"], (), "")
    losses = lambda each: (each[0]["rank"] > 1).astype(np.float64)  # noqa: E731
    functional = Functional("test", (0,), losses, 1.0, kappas=(0.0,), error_k=1)
    found = functionals._compare(functional, [rescored], ~wrong)
    assert (found.found, np.isfinite(found.allowed)) == (0.0, True)
