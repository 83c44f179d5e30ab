"""Settings of certificates that cannot work together are refused before any job starts."""

import copy

import pytest
from tokenbounds.config import parse_study
from tokenbounds.config.graph import centre_order, training_corpora
from tokenbounds.errors import ConfigError

BECAUSE = {"held_out_because": "Published on 2025-01-31, before the text was written."}

STUDY = {
    "study": "s",
    "corpora": {name: {"source": {"kind": "text", "paths": [name]}} for name in ("here", "there")},
    "models": {
        "zero": {"kind": "markov", "corpus": "here", "order": 0},
        "one": {"kind": "markov", "corpus": "here"},
        "other": {"kind": "markov", "corpus": "there"},
        "published": {"kind": "pretrained", "name": "folder"},
    },
    "messages": {
        **{name: {"model": name, "quantizer": {"kind": "counts"}} for name in ("zero", "one", "other")},
        "published": {"model": "published", "quantizer": {"kind": "uniform"}},
    },
    "evaluations": {"default": {}, "sample": {"sample_tokens": 100}},
    "certificates": {"c": {"message": "one", "corpus": "here"}},
}


def parse(**row):
    raw = copy.deepcopy(STUDY)
    raw["certificates"]["c"] |= row
    return parse_study(raw)


def test_chains_priors_and_units_that_work():
    parse(chain=["zero"], bounds={"bounds": ["betting", "telescoped", "mixture"]})
    parse(chain=["other", "zero", "published"], bounds={"bounds": ["mixture"]}, evaluation="sample")
    parse(message="other", prior="held_out", **BECAUSE)
    parse(bounds={"bounds": ["documents", "sequences_betting"]})
    parse(message="published", bounds={"faithfulness": True})


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (
            {"chain": ["zro"], "bounds": {"bounds": ["telescoped"]}},
            "c.chain: there is no row 'zro', did you mean 'zero'",
        ),
        ({"chain": ["zero"]}, "c.chain: no bound uses it"),
        ({"bounds": {"bounds": ["telescoped"]}}, "'telescoped' needs a 'chain'"),
        ({"bounds": {"bounds": ["betting", "mixture"]}}, "'mixture' needs a 'chain'"),
        ({"chain": ["zero", "zero"], "bounds": {"bounds": ["telescoped"]}}, "appears twice"),
        ({"chain": ["one"], "bounds": {"bounds": ["telescoped"]}}, "appears twice"),
        ({"chain": ["zero"] * 6, "bounds": {"bounds": ["telescoped"]}}, "at most 5"),
        ({"evaluation": "sample", "bounds": {"bounds": ["documents"]}}, "'documents' needs every token scored"),
        ({"prior": "held_out", **BECAUSE}, "trained on corpus 'here' itself"),
        ({"prior": "held_out", "message": "other", "chain": ["zero"], **BECAUSE}, "trained on corpus 'here' itself"),
        (
            {"bounds": {"faithfulness": True}},
            "compared with those of a dense network, trained or pretrained, and 'one'",
        ),
        ({"bounds": {"centre_order": 3}}, "c.bounds.centre_order: is for networks, and 'one' is none"),
        ({"message": "published", "bounds": {"centre_order": 9}}, "centre_order"),
        (
            {"message": "published", "bounds": {"centre_order": 3, "bounds": ["azuma"]}},
            "c.bounds.centre_order: no bound has centres",
        ),
        (
            {"message": "published", "bounds": {"centre_order": 3, "faithfulness": True}},
            "c.bounds.centre_order: cannot be scored together with 'faithfulness'",
        ),
        ({"prior": "heldout"}, "message"),
        ({"prior": "held_out", "message": "other"}, "c.held_out_because: is missing"),
        ({"prior": "held_out", "message": "other", "held_out_because": "It is."}, "c.held_out_because: names no date"),
        ({"prior": "held_out", "message": "other", "held_out_because": "On 2025-02-30."}, "names no date"),
        ({"prior": "held_out", "message": "other", "held_out_because": "2025-01-31\n"}, "printable"),
        (BECAUSE, "c.held_out_because: is for prior: held_out alone"),
        ({"bounds": {"bounds": ["telescopd"]}}, "telescoped"),
        ({"bounds": {"link_alphas": [0.5, 1.0]}}, "link_alphas"),
    ],
)
def test_certificates_that_cannot_work(row, complaint):
    with pytest.raises(ConfigError) as caught:
        parse(**row)
    assert complaint in str(caught.value)


def test_no_more_certificates_share_a_sample_than_are_paid_for():
    raw = copy.deepcopy(STUDY)
    row = {"message": "one", "corpus": "here", "evaluation": "sample"}
    raw["certificates"] = {name: copy.deepcopy(row) for name in "abcd"}
    raw["certificates"]["e"] = {**row, "evaluation": "default"}
    parse_study(raw)
    # Neither the number of jobs nor the arithmetic draws another sample.
    raw["evaluations"]["again"] = {"sample_tokens": 100, "shards": 1, "dtype": "bfloat16"}
    raw["certificates"]["f"] = {**row, "evaluation": "again"}
    with pytest.raises(
        ConfigError, match=r"a\.bounds\.certificates_per_sample: 5 certificates share .*'a' and 4 others"
    ):
        parse_study(raw)
    for name in "abcdf":
        raw["certificates"][name]["bounds"] = {"certificates_per_sample": 5}
    parse_study(raw)
    raw["certificates"]["f"]["corpus"] = "there"
    raw["certificates"]["a"].pop("bounds")
    parse_study(raw)


def test_scores_hold_cross_entropies_of_one_order_where_a_certificate_wants_them():
    row = {"message": "published", "corpus": "here"}
    raw = copy.deepcopy(STUDY)
    raw["certificates"] = {"c": row, "d": {**row, "bounds": {"centre_order": 2}}}
    study = parse_study(raw)
    assert centre_order(study, "here", "default", "published") == 2
    assert centre_order(study, "here", "sample", "published") == centre_order(study, "here", "default", "one") == 0
    raw["certificates"]["c"] = {**row, "bounds": {"centre_order": 3}}
    with pytest.raises(ConfigError, match=r"d\.bounds\.centre_order: another certificate .* has order 3"):
        parse_study(raw)
    raw["certificates"]["c"] = {**row, "bounds": {"faithfulness": True}}
    with pytest.raises(ConfigError, match=r"d\.bounds\.centre_order: 'published' is scored with a comparison"):
        parse_study(raw)


def test_training_corpora_of_a_certificate_and_its_chain():
    study = parse(message="other", chain=["published"], bounds={"bounds": ["mixture"]}, prior="held_out", **BECAUSE)
    assert training_corpora(study, study.certificates["c"]) == ["there"]
    study = parse(message="published", prior="held_out", **BECAUSE)
    assert training_corpora(study, study.certificates["c"]) == []


def test_held_out_certificates_spend_nothing_on_azuma_unless_asked_to():
    held = {"message": "published", "prior": "held_out", **BECAUSE}
    assert parse(**held).certificates["c"].bounds.bounds == ("betting",)
    assert parse(**held, bounds={"top_k": [1]}).certificates["c"].bounds.bounds == ("betting",)
    assert parse(**held, bounds={"bounds": ["azuma", "betting"]}).certificates["c"].bounds.bounds[0] == "azuma"
    assert parse().certificates["c"].bounds.bounds == ("azuma", "betting")


def test_held_out_certificates_pay_for_no_other_on_their_sample_unless_asked_to():
    """Each is about one model named beforehand; those that pay for messages still pay for one another."""
    held = {"message": "published", "prior": "held_out", **BECAUSE}
    assert parse(**held).certificates["c"].bounds.certificates_per_sample == 1
    assert parse(**held, bounds={"certificates_per_sample": 3}).certificates["c"].bounds.certificates_per_sample == 3
    assert parse().certificates["c"].bounds.certificates_per_sample == 4
    raw = copy.deepcopy(STUDY)
    row = {"message": "published", "corpus": "here", "evaluation": "sample"}
    raw["certificates"] = {name: {**row, "prior": "held_out", **BECAUSE} for name in "abcde"}
    parse_study(raw)


def test_a_model_whose_data_are_unknown_may_only_be_held_out():
    raw = copy.deepcopy(STUDY)
    raw["models"]["published"] = {
        "kind": "pretrained",
        "package": "iglm",
        "subfolder": "trained_models/IgLM-S",
        "start_id": 31,
    }
    raw["certificates"]["c"] = {"message": "published", "corpus": "here", "prior": "held_out", **BECAUSE}
    parse_study(raw)
    raw["certificates"]["c"] = {"message": "published", "corpus": "here"}
    with pytest.raises(ConfigError, match=r"c\.prior: model 'published' of package 'iglm'.*held_out"):
        parse_study(raw)
    raw["certificates"]["c"] = {"message": "one", "corpus": "here", "chain": ["published"]}
    raw["certificates"]["c"]["bounds"] = {"bounds": ["mixture"]}
    with pytest.raises(ConfigError, match="not known"):
        parse_study(raw)


def test_a_subfolder_lies_in_a_package():
    raw = copy.deepcopy(STUDY)
    raw["models"]["published"]["subfolder"] = "small"
    with pytest.raises(ConfigError, match=r"published\.subfolder"):
        parse_study(raw)


REFERENCE = {"source": {"kind": "reference", "pins": "pins.json", "documents": 9}}


@pytest.mark.parametrize(
    ("place", "change", "words"),
    [
        (("models", "one"), {"corpus": "drawn"}, "models.one.corpus: 'drawn' is a corpus by reference, whose draw is"),
        (("certificates", "c"), {"evaluation": "sample"}, "c.evaluation: 'drawn' is a corpus by reference, a draw"),
        (
            ("certificates", "e"),
            {"message": "zero", "corpus": "here", "evaluation": "partly"},
            "e.evaluation: blocks_per_document is for corpora by reference",
        ),
        (("evaluations", "partly"), {"sample_tokens": 9}, "another way to score a part"),
        (("certificates", "c"), {"bounds": {"bounds": ["documents"]}}, "'documents' cannot be stated, as 'drawn'"),
        (
            ("certificates", "c"),
            {"chain": ["zero"], "bounds": {"bounds": ["telescoped"]}},
            "'telescoped' cannot be stated, as 'drawn'",
        ),
        (("certificates", "c"), {"prior": "held_out", **BECAUSE}, "most of which is not read"),
        (("certificates", "d"), {"bounds": {"certificates_per_sample": 1}}, r"2 certificates share the sample"),
    ],
)
def test_a_corpus_by_reference_is_for_scoring_alone(place, change, words):
    raw = copy.deepcopy(STUDY)
    raw["corpora"]["drawn"] = REFERENCE
    raw["evaluations"]["partly"] = {"blocks_per_document": 1}
    raw["certificates"]["c"] = {"message": "other", "corpus": "drawn"}
    raw["certificates"]["d"] = {"message": "zero", "corpus": "drawn"}
    parse_study(raw)
    raw[place[0]].setdefault(place[1], {}).update(change)
    with pytest.raises(ConfigError, match=words):
        parse_study(raw)
