"""Checks certificates without the program that made them: one file, which needs only Python, numpy and pyarrow.

    python second_verifier.py results/certificates/NAME.json ...

Written from docs/certificates.md, bounds.md, scores.md and message-format.md. Every file is hashed; corpus, table of
documents, plan, ledger and every row are computed again from shards and Parquet. Models are not decoded, so nothing
here shows that scores are the message's: `tokenbounds verify --rescore` does. What this program does not know is listed
as not checked. Memory grows with the largest score file, the corpus, and the number of blocks.

Exit status: 0 if all that can be checked is right, 2 if rows or fields were left unchecked, 1 if something is wrong.
"""

import contextlib
import hashlib
import itertools
import json
import math
import operator
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LN2 = math.log(2.0)
# Keys that are checked, besides those of rows and links; others are listed as not checked.
TOP = """assumptions batch_tokens blocks bounds certificate certificate_sha256 chain corpus delta dtype faithfulness
    ledger manifest message model notes plan prior rows schema_version scored_tokens scores software study subsets
    tokens vocabulary_size""".split()
SETTINGS = """alphas bounds certificates_per_sample delta faithfulness kappas lambdas link_alphas link_betas
    sampling_share subsets top_k""".split()
SINGLE, CHAINED = ("azuma", "freedman", "betting"), ("telescoped", "mixture", "control_variates")
UNITS = {unit + how: unit for unit in ("documents", "sequences") for how in ("", "_betting")}
KINDS_OF_BOUNDS = (*SINGLE, *CHAINED, *UNITS)
UNSEEN = ["that messages decode to what gives the scores", "assumptions, notes, software", "the values of bases"]
# What headers of messages are packed with (docs/message-format.md).
DICTIONARY = (
    b'"activation_function":"gelu","layer_norm_epsilon":1e-05,"scale_attn_weights":true,"hidden_act":"silu"'
    b'"attention_bias":true,"mlp_bias":true,"sliding_window":4096,"head_dim":64,"rope_parameters":{"rope_theta":10000.0,'
    b'"rope_type":"default"},"qwen3","qwen2","mistral"},"coder":"static","quantizer":{"kind":"counts","levels":16,'
    b'"model":{"family":"markov","order":2,"start_id":0,"threshold":2,"vocabulary_size":256'
    b'{"coder":"adaptive","model":{"config":{"hidden_size":576,"intermediate_size":1536,"num_attention_heads":9,'
    b'"num_hidden_layers":30,"num_key_value_heads":3,"rms_norm_eps":1e-05,"tie_word_embeddings":true},"context":1024,'
    b'"family":"llama","start_id":1,"vocabulary_size":49152},"quantizer":{"kind":"codebook"}}'
    b'{"coder":"adaptive","model":{"config":{"n_embd":128,"n_head":4,"n_inner":512,"n_layer":4,'
    b'"tie_word_embeddings":false},"context":128,"family":"gpt2","parameterization":{"kind":"lora","rank":16,"scale":32.0,'
    b'"targets":["attention","mlp","head","embedding"]},"seed":1,"vocabulary_size":256},"quantizer":{"kind":"uniform"}}'
)
KINDS = {1: "codebooks", 2: "scales", 3: "symbols", 4: "values", 5: "smoothing_head", 6: "side_information"}


class Refused(Exception):
    """What is wrong, in one line."""


def need(right, text):
    if not right:
        raise Refused(text)


def near(stated, found, what, slack=1e-8):
    """Floating-point numbers that two programs compute in different orders."""
    need(math.isclose(stated, found, rel_tol=slack, abs_tol=slack), f"{what} is {stated}, computed {found}")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unique_keys(pairs):
    need(len(dict(pairs)) == len(pairs), "a key occurs twice in some JSON")
    return dict(pairs)


def read_json(data):
    return json.loads(data, object_pairs_hook=unique_keys)


# --- the certificate and its files ------------------------------------------------------------------------------------


def read_certificate(path):
    data, options = path.read_bytes(), {"sort_keys": True, "ensure_ascii": False, "allow_nan": False}
    content = read_json(data)
    need((json.dumps(content, indent=2, **options) + "\n").encode() == data, "not canonical JSON")
    need(content["schema_version"] == 1, "another schema version")
    rest = {key: value for key, value in content.items() if key != "certificate_sha256"}
    own = hashlib.sha256(json.dumps(rest, separators=(",", ":"), **options).encode()).hexdigest()
    need(own == content["certificate_sha256"], "certificate_sha256 does not match")
    return content


def named_files(value):
    """Every file that some JSON names with its hash."""
    if isinstance(value, dict) and isinstance(value.get("file"), str):
        yield value["file"], value["sha256"]
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from named_files(inner)


def check_files(content, folder):
    root = folder.parent if folder.parent != Path(folder.anchor) else folder
    files = set(named_files({key: content[key] for key in ("message", "chain", "scores", "manifest", "plan", "prior")}))
    for name, digest in files:
        path = (folder / name).resolve()
        need(path.is_relative_to(root.resolve()) and path.is_file(), f"{name} is missing, or outside {root}")
        need(sha256(path) == digest, f"{name} has another SHA-256")
    return len(files)


def varint(data, at):
    value = shift = 0
    while at < len(data) and shift < 56:
        value, at, shift = value | (data[at] & 127) << shift, at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at
    raise Refused("a number of a message is cut off")


def check_message(record, folder):
    """Size, parts, header and checksum of a message; the hashes of its base and of its coarse message."""
    name, data = record["file"], (folder / record["file"]).read_bytes()
    need(data[:4] == b"TBM\x01" and data[-8:] == hashlib.sha256(data[:-8]).digest()[:8], f"{name} is no whole message")
    length, at = varint(data, 4)
    inflater = zlib.decompressobj(-15, zdict=DICTIONARY)
    text = inflater.decompress(data[at : at + length], 1 << 16)
    whole = inflater.eof and not inflater.unused_data
    need(whole and read_json(text) == record["header"], f"{name} has another header")
    count, at = varint(data, at + length)
    bits, named = {"header": 8 * length}, b""
    for _ in range(count):
        kind, (size, at) = KINDS.get(data[at], "?"), varint(data, at + 1)
        bits[kind] = bits.get(kind, 0) + 8 * size
        named, at = named + (data[at : at + size] if kind == "side_information" else b""), at + size
    need(at == len(data) - 8 and record["size_bits"] == 8 * len(data), f"{name} has another size than its parts")
    bits["container"] = 8 * len(data) - sum(bits.values())
    need({**dict.fromkeys(record["breakdown"], 0), **bits} == record["breakdown"], f"{name} has another breakdown")
    stated = {record[key]["sha256"] for key in ("base", "coarse") if key in record}
    need({named[i : i + 32].hex() for i in range(0, len(named), 32)} == stated, f"{name} names other side information")
    if coarse := record.get("coarse"):
        need(coarse["size_bits"] == 8 * (folder / coarse["file"]).stat().st_size, "the coarse message has another size")


# --- the corpus -------------------------------------------------------------------------------------------------------


class Corpus:
    """Tokens of a corpus, in shards as they are on disk; document i is row i // shards of shard i % shards."""

    def __init__(self, folder, manifest):
        self.documents, self.shards, count = manifest["documents"], [], len(manifest["shards"])
        self.lengths = np.zeros(self.documents, np.int64)
        for number, entry in enumerate(manifest["shards"]):
            path = folder / entry["file"]
            need(sha256(path) == entry["sha256"], f"{path} differs from its manifest")
            table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
            lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in table["tokens"].chunks]
            values = [chunk.flatten().to_numpy() for chunk in table["tokens"].chunks]
            offsets = np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64)
            values = np.concatenate([np.zeros(0, np.uint16), *values])
            expected = np.arange(number, self.documents, count)
            need(np.array_equal(table["document"].to_numpy(), expected), f"{path} has other documents")
            need((entry["documents"], entry["tokens"]) == (len(expected), len(values)), f"{path} has other totals")
            need(values.max(initial=0) < manifest["tokenizer"]["vocabulary_size"], f"{path} has a token beyond V")
            self.lengths[number::count] = np.diff(offsets)
            self.shards.append((offsets, values))
        need(int(self.lengths.sum()) == manifest["tokens"], "the shards have other tokens than the manifest")

    def document(self, number):
        offsets, values = self.shards[number % len(self.shards)]
        return values[slice(*offsets[number // len(self.shards) :][:2])]

    def at(self, document, position):
        """Tokens at some places [n]."""
        found = np.zeros(len(document), np.int64)
        for number, (offsets, values) in enumerate(self.shards):
            here = document % len(self.shards) == number
            found[here] = values[offsets[document[here] // len(self.shards)] + position[here]]
        return found


def check_documents(folder, manifest, corpus):
    """Digests of texts and of tokens of a corpus's documents, as sets; the table must tell what the shards hold."""
    path = folder / manifest["documents_file"]["file"]
    need(sha256(path) == manifest["documents_file"]["sha256"], f"{path} differs from its manifest")
    columns = pq.read_table(path).drop_columns("name").to_pydict()
    need(len(columns["sha256"]) == manifest["documents"], f"{path} has other documents than its manifest")
    stated = columns.get("tokens_sha256", [None] * manifest["documents"])
    digests = list(stated)
    for number in range(manifest["documents"] if corpus else 0):  # shards of training corpora may be left out
        tokens = corpus.document(number)
        digests[number] = hashlib.sha256(tokens.astype("<u4").tobytes()).hexdigest()
        right = columns["tokens"][number] == len(tokens) and stated[number] in (None, digests[number])
        if manifest["tokenizer"]["identity"] == "bytes" and "reference" not in manifest:  # those are cut
            text = (hashlib.sha256(tokens.astype("u1").tobytes()).hexdigest(), len(tokens))
            right &= text == (columns["sha256"][number], columns["bytes"][number])
        need(right, f"{path} does not tell what the shards hold: document {number}")
    texts = {text for text, size in zip(columns["sha256"], columns["bytes"], strict=True) if size}
    return texts, {digest for digest, size in zip(digests, columns["tokens"], strict=True) if size and digest}


def check_training(content, folder, manifest, own, left):
    """No document of the corpus is in a training corpus."""
    for record in content["prior"]["trained_on"]:
        path = folder / record["file"]
        other = read_json(path.read_bytes())
        there = all((path.parent / shard["file"]).is_file() for shard in other["shards"])
        left += [] if there else [f"shards of the training corpus {record['corpus']}, which are not here"]
        texts, tokens = check_documents(path.parent, other, Corpus(path.parent, other) if there else None)
        shared = own[1] & tokens if other["tokenizer"]["sha256"] == manifest["tokenizer"]["sha256"] else set()
        need(not shared and not own[0] & texts, f"documents of the corpus are in {record['corpus']}, trained on")
        need(record["corpus"] == other["corpus"], "a training corpus has another name")


# --- plan and scores --------------------------------------------------------------------------------------------------


class Plan:
    """Blocks to score, computed again from the documents' lengths."""

    def __init__(self, path, record, manifest_sha256, corpus):
        table = pq.read_table(path)
        meta = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        self.rows = {name: table[name].to_numpy().astype(np.int64) for name in table.column_names}
        need(meta["manifest_sha256"] == manifest_sha256, "the plan names another manifest")
        context, stride, shards = (int(meta[key]) for key in ("context", "stride", "shards"))
        self.sampled = meta["mode"] == "sampled"
        stated = {"mode": meta["mode"], "draws": int(meta["draws"]), "seed": int(meta["seed"]), "context": context}
        visible = int(meta["visible_tokens"]) if "visible_tokens" in meta else None
        partial = int(meta["blocks_per_document"]) if "blocks_per_document" in meta else None
        need((partial is None) == (meta["mode"] != "partial"), "the plan's mode is another than its blocks")
        stated |= {"stride": stride, "blocks": table.num_rows, "visible_tokens": visible}
        stated |= {"blocks_per_document": partial} if partial else {}
        need(stated == {key: record[key] for key in stated}, "the certificate says something else of the plan")
        need(stated["draws"] == int(self.rows["draws"].sum()) < 1 << 30, "the plan has another number of draws")
        lengths = corpus.lengths
        further = -(-np.maximum(lengths - context, 0) // stride)
        first_block = np.concatenate([[0], np.cumsum(further + (lengths > 0))])
        first_token = np.concatenate([[0], np.cumsum(lengths)])
        blocks, draws = int(first_block[-1]), np.ones(int(first_block[-1]), np.int64)
        need(blocks == int(meta["blocks"]), "the plan has another number of blocks")
        chosen = np.arange(blocks)
        if partial:  # the blocks of each document with the smallest words
            owner = np.repeat(np.arange(len(lengths)), np.diff(first_block))
            chosen = np.lexsort((np.random.Philox(stated["seed"]).random_raw(blocks), owner))
            chosen = np.sort(chosen[np.arange(blocks) - first_block[owner] < partial])
            draws = np.ones(len(chosen), np.int64)
        if self.sampled:
            tokens, count = int(lengths.sum()), stated["draws"]
            words, generator = np.zeros(0, np.uint64), np.random.Philox(stated["seed"])
            while len(words) < count:  # words beyond the last multiple of m are drawn again
                more = generator.random_raw(count - len(words))
                words = np.concatenate([words, more[more <= np.uint64(2**64 // tokens * tokens - 1)]])
            drawn = (words % np.uint64(tokens)).astype(np.int64)
            document = np.searchsorted(first_token, drawn, side="right") - 1
            beyond = drawn - first_token[document] - context
            within = np.where(beyond < 0, 0, beyond // stride + 1)
            chosen, draws = np.unique(first_block[document] + within, return_counts=True)
        document = np.searchsorted(first_block, chosen, side="right") - 1
        within = chosen - first_block[document]
        start = np.where(within == 0, 0, context + (within - 1) * stride)
        length = np.minimum(lengths[document] - start, np.where(within == 0, context, stride))
        shown = np.where(within == 0, 0, context - stride)
        ends = np.cumsum(length)
        shard = (2 * ends - length) * shards // (2 * int(ends[-1]))
        again = {"block": chosen, "document": document, "start": start, "length": length, "context": shown}
        again |= {"draws": draws, "shard": shard}
        right = [np.array_equal(values, self.rows.get(name)) for name, values in again.items()]
        need(all(right) and len(self.rows) == len(again), "the plan is not what its settings and the corpus give")
        self.shards, self.scored = shards, int(ends[-1])
        if self.sampled:  # the first tenth of the draws, in an order of its own, is the pilot
            stream = np.random.Generator(np.random.Philox(np.random.SeedSequence([stated["seed"], 0x6F72646572])))
            order = stream.permutation(np.repeat(np.arange(len(chosen)), draws))
            parts = np.split(order, [max(len(order) // 10, min(1, len(order) - 1))])
            self.pilot, self.later = (np.bincount(part, minlength=len(chosen)) for part in parts)
        # Whether every token was scored, in blocks that do not overlap.
        self.whole = meta["mode"] == "exhaustive" and visible is None and stride == context

    def expand(self, shard):
        """Row of the plan, document and position of every token that a shard scores [n]."""
        here = np.flatnonzero(self.rows["shard"] == shard)
        length = self.rows["length"][here]
        inside = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        row = np.repeat(here, length)
        return row, self.rows["document"][row], self.rows["start"][row] + inside


class Scores:
    """Score files of a message, shard by shard, each row checked against plan and corpus."""

    def __init__(self, link, folder, plan, plan_sha256, manifest_sha256):
        self.plan, self.dtype, self.paths = plan, link["dtype"], [folder / each["file"] for each in link["scores"]]
        found = []
        for path, record in zip(self.paths, link["scores"], strict=True):
            schema = pq.read_schema(path)
            meta = {key.decode(): value.decode() for key, value in schema.metadata.items()}
            wanted = {"message_sha256": link["message"]["sha256"], "manifest_sha256": manifest_sha256}
            wanted |= {"plan_sha256": plan_sha256, "dtype": link["dtype"]}
            right = all(meta[key] == value for key, value in wanted.items())
            right &= str(link.get("batch_tokens")) == read_json(meta["software"]).get("batch_tokens", "None")
            need(right and pq.read_metadata(path).num_rows == record["rows"], f"{path} was made from something else")
            self.names, self.size = schema.names, int(meta["vocabulary_size"])
            self.alphas = tuple(json.loads(meta["alphas"])) if "alpha" in schema.names else ()
            self.original = meta.get("original_sha256")
            found.append(int(meta["shard"]))
        need(found == list(range(plan.shards)), f"{self.paths[0].parent} has not the plan's shards, each once")
        self.has_entropies = "entropy_bits" in self.names

    def shard(self, number, corpus):
        """Columns of a shard, checked."""
        path = self.paths[number]
        table = pq.read_table(path, page_checksum_verification=True)
        columns = {name: table[name].to_numpy() for name in table.column_names}
        row, document, position = self.plan.expand(number)
        wanted = {"block": self.plan.rows["block"][row], "document": document, "position": position}
        wanted["token"] = corpus.at(document, position)
        need(wanted["token"].max() < self.size, f"{path}: a token of the corpus is beyond what the model predicts")
        for name, values in wanted.items():
            need(np.array_equal(columns[name], values), f"{path}: column {name} is not that of plan and corpus")
        losses, rank = columns["nll_bits"].astype(float), columns["rank"]
        right = (losses >= 0) & (losses < np.inf) & (rank >= 1) & (rank <= self.size)
        # So many tokens are at least as probable as the true one; 2^-10 bit allows for rounding.
        right &= losses >= np.log2(np.maximum(rank, 1)) - 2**-10
        need(right.all(), f"{path} has an impossible loss or rank")
        if self.has_entropies:
            steps = columns["entropy_bits"].astype(float) * 8
            right = (steps >= 0) & (steps <= math.ceil(8 * math.log2(self.size))) & (steps == np.rint(steps))
            need(right.all(), f"{path} has an entropy that is no step of 1/8 bit up to log2 V")
        if self.original:
            right = (columns["kl_bits"] >= 0) & (columns["kl_bits"] <= math.log2(self.size) + 16)
            need(right.all(), f"{path} has an impossible divergence")
        if self.alphas:
            need(np.isin(columns["alpha"].astype(float), self.alphas).all(), f"{path} has a weight that no head names")
        return {**columns, "row": row}


def check_blocks(record, scores, plan, shards):
    """The Merkle root over the scores' blocks."""
    names = ("token", "nll_bits", "rank", "entropy_bits", "kl_bits", "first_choice_changed", "alpha")
    names = [name for name in names if name in scores.names]
    need(record["columns"] == names, "the tree over blocks has other columns")
    hashes = []
    for columns in shards:
        parts = [columns[name].astype("<f4" if columns[name].dtype.kind == "f" else "<i4") for name in names]
        starts = np.flatnonzero(np.diff(columns["row"], prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(columns["row"])], strict=True):
            number = np.array(plan.rows["block"][columns["row"][start]], "<i8")
            data = [part.tobytes() for part in (number, *(part[start:stop] for part in parts))]
            hashes.append(hashlib.sha256(b"\0" + b"".join(data)).digest())
    while len(hashes) > 1:
        pairs = [hashlib.sha256(b"\1" + hashes[i] + hashes[i + 1]).digest() for i in range(0, len(hashes) - 1, 2)]
        hashes = pairs + hashes[len(pairs) * 2 :]
    need(hashes[0].hex() == record["root"], "the tree over the scores' blocks has another root")


# --- averages ---------------------------------------------------------------------------------------------------------


def fractions(size):
    """The grid of λ × ceiling: evenly spaced in ln(x / (1 - x)) (docs/bounds.md, "Grids")."""
    low, high = (math.log(x / (1 - x)) for x in (1e-4, 0.995))
    return 1 / (1 + np.exp(-(low + (high - low) * (np.arange(size) + 0.5) / size)))


class Average:
    """An average over all tokens; of a sample also the averages of blocks [blocks]."""

    def __init__(self, mean, blocks=None, plan=None):
        self.mean, self.blocks, self.plan = mean, blocks, plan

    def pilot(self):
        """The average over the pilot's draws."""
        return float(self.blocks @ self.plan.pilot) / self.plan.pilot.sum()

    def upper(self, low, high, delta, draws=None):
        """Upper confidence bound from the draws after the pilot, by the averaged wealth of 64 bets."""
        if self.blocks is None:
            return self.mean
        draws = self.plan.later if draws is None else draws
        scaled, bets = (self.blocks - low) / (high - low), fractions(64)
        need(scaled.min() >= -1e-9 and scaled.max() <= 1 + 1e-9, "a draw is outside its interval")
        won, below, above = np.log1p(-bets[:, None] * np.clip(scaled, 0, 1)) @ draws, 0.0, 1.0
        for _ in range(60):
            middle = (below + above) / 2
            logs = won - draws.sum() * np.log1p(-bets * middle)
            reached = logs.max() + math.log(np.exp(logs - logs.max()).mean()) >= -math.log(delta)
            below, above = (below, middle) if reached else (middle, above)
        return low + (high - low) * above


def run(checks, parts, plan, documents):
    """One pass over the tokens for the averages that checks (generators) ask for by (unit, subset, function)."""
    asked = [(check, *next(check)) for check in checks]
    totals = [None] * len(asked)
    for part in parts:
        for index, (_, unit, subset, function) in enumerate(asked):
            keep = slice(None) if subset is None else part["labels"][subset[0]] == subset[1]
            steps = np.rint(8 * part["entropy"][-1]).astype(int)
            place = {"documents": part["document"], "entropies": steps}.get(unit, part["row"])[keep]
            size = {"documents": documents, "entropies": 512}.get(unit, len(plan.rows["block"]))
            values = [np.ones(len(place)), *(each[keep] for each in function(part))]
            values = [np.bincount(place, each, size) for each in values]
            totals[index] = values if totals[index] is None else list(map(np.add, totals[index], values))
    for (check, unit, _, _), (count, *sums) in zip(asked, totals, strict=True):
        means, draws = [each[count > 0] / count[count > 0] for each in sums], plan.rows["draws"]
        found = means if unit != "tokens" else [Average(math.fsum(each) / count.sum()) for each in sums]
        if unit == "tokens" and plan.sampled:
            found = [Average(float(each @ draws) / draws.sum(), each, plan) for each in means]
        with contextlib.suppress(StopIteration):
            check.send((count, *sums) if unit == "entropies" else found)


# --- bounds -----------------------------------------------------------------------------------------------------------


def smooth(nll, alpha, size):
    return -np.log2((1 - alpha) * np.exp2(-nll.astype(float)) + alpha / size)


def width(alpha, size):
    return np.log2(1 + (1 - alpha) * size / alpha)


def interval(alpha, size):
    """Smallest and largest smoothed loss."""
    return -math.log2(1 - alpha + alpha / size), math.log2(size / alpha)


def azuma(mean, span, nats, count):
    return mean + span * math.sqrt(nats / (2 * count))


def bet(kind, log, lambda_, nats, count):
    """Betting's or Freedman's bound for one λ, from the average of ln(1 - λ loss)."""
    return (nats / count - log) / lambda_ if kind == "freedman" else -math.expm1(log - nats / count) / lambda_


def tangent(kind, start, lambda_, nats, count, interval, most):
    """A bet's bound as a constant, plus the average of centre - slope × logarithm, with that one's ends.

    docs/bounds.md, "Centres on a sample"; `start` is the pilot's average logarithm, `most` the largest centre.
    """
    weight = 1.0 if kind == "freedman" else math.exp(start - nats / count)
    known = nats / count if kind == "freedman" else 1 - weight * (1 - start)
    low, high = interval
    turn = min(max((weight - 1) / lambda_ + low, 0.0), most)
    ends = [x - weight / lambda_ * math.log1p(-lambda_ * (y - x)) for x, y in ((turn, low), (0.0, high), (most, high))]
    return known / lambda_, weight / lambda_, (ends[0], max(ends[1:]))


def errors(kind, share, nats, count, lambdas):
    """Bound of a share of errors, and the price of λ in nats (docs/bounds.md, "Errors")."""
    if kind == "azuma":
        return azuma(share, 1.0, nats, count), 0.0
    if kind == "freedman":
        nats, price = nats + math.log(lambdas), math.log(lambdas)
        return min(bet(kind, share * math.log1p(-x), x, nats, count) for x in fractions(lambdas).tolist()), price
    high, _ = centred_errors(np.array([count * share]), np.array([count]), np.zeros((1, 1)), nats)
    pairs = [(x, y) for x, y in ((share, high), (1 - share, 1 - high)) if x]
    return high, max(0.0, count * sum(x * math.log(x / y) for x, y in pairs) - nats) if high < 1 else math.log(4096)


def centred_errors(wrong, counts, centres, nats):
    """Bound of a share of errors and the largest log-wealth there; of errors and tokens [b], with centres [q, b]."""
    count, known = counts.sum(), centres @ counts / counts.sum()
    bets, low, high = np.exp(np.linspace(-0.5 * math.log(max(count, 2)), 0, 4096)), wrong.sum() / counts.sum(), 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = [np.log1p(-np.outer(bets, 1 - each)) * wrong for each in centres]
        kept = np.array([np.log1p(np.outer(bets, each)) @ (counts - wrong) for each in centres])
        held = np.array([np.where(wrong > 0, each, 0.0).sum(axis=1) for each in lost]) + kept  # [q, bets]

        def wealths(mean):
            return np.where(held == -np.inf, -np.inf, held - count * np.log1p(-bets * (mean - known[:, None])))

        def refuted(mean):
            logs = wealths(mean)
            return logs.max() == np.inf or logs.max() + math.log(np.exp(logs - logs.max()).mean()) > nats

        for _ in range(100 if refuted(1.0) else 0):
            middle = (low + high) / 2
            low, high = (low, middle) if refuted(middle) else (middle, high)
        return high, float(wealths(high).max())


def log_fraction(value):
    return math.log(value.numerator) - math.log(value.denominator)


# --- rows -------------------------------------------------------------------------------------------------------------


class Setting:
    """What the rows of a certificate, or of a subset, share: grids, sizes, and each row's part of delta."""

    def __init__(self, content, models, plan, delta, part, subset=None):
        spec, tokens = content["bounds"], part["tokens"]
        self.models, self.sampled, self.whole, self.draws = models, plan.sampled, plan.whole, plan.rows["draws"]
        self.tokens, self.subset, self.size, self.lambdas = tokens, subset, content["vocabulary_size"], spec["lambdas"]
        self.grids = {key: sorted(set(spec[key])) for key in ("alphas", "kappas", "link_alphas", "link_betas")}
        self.guess = min(self.size, content["manifest"]["tokenizer"]["vocabulary_size"])
        self.own, self.most = models[-1]["alphas"] if subset is None else (), math.ceil(8 * math.log2(self.size)) / 8
        self.slack = 1e-6 if any(model["entropies"] for model in models) else 1e-8  # of averages by bins of entropies
        metrics = ["bpd", *(f"top{k}_error" for k in sorted(set(spec["top_k"])) if k < self.guess)]
        fits = [each for each in dict.fromkeys(spec["bounds"]) if not subset or each in (*SINGLE, *list(UNITS)[:2])]
        stated = [(row["metric"], row["bound"]) for row in part["rows"] if row["bound"] not in KINDS_OF_BOUNDS]
        known = [each for each in fits if each in KINDS_OF_BOUNDS]
        self.keys = [(metric, each) for metric in metrics for each in known if metric == "bpd" or each not in CHAINED]
        self.keys += [(metric, each) for metric, each in stated if each in fits]  # rows of bounds that came later
        self.delta, share = delta / len(self.keys), Fraction(str(spec["sampling_share"]) if plan.sampled else 0)
        self.general, self.sampling = self.delta * (1 - share), self.delta * share
        self.sharing = spec["certificates_per_sample"] if plan.sampled else 1

    def kappas(self, model):
        return self.grids["kappas"] if self.models[model]["entropies"] else [0.0]

    def entries(self, metric, kind, price=0.0, units=None):
        """The ledger of a row without links, by name, and L of the row."""
        own = bool(self.own) and kind in SINGLE
        ways = 1 if metric != "bpd" else len(self.grids["alphas"]) + own
        centres = len(self.kappas(-1)) if metric == "bpd" and kind in ("betting", "freedman") else 1
        cells = 2 if own and kind == "azuma" and metric == "bpd" else 1
        found = {"delta": self.delta, "delta_generalization": self.general, "delta_sampling": self.sampling}
        found |= {"sampling_cells": cells * self.sharing, "message": self.models[-1]["bits"]}
        found |= {"alpha_grid": math.log2(ways), "lambda_grid": price, "confidence": -log_fraction(self.general)}
        found |= {"certificates_per_sample": self.sharing} if self.sampled else {}
        found |= {"centre_grid": math.log2(centres)} if centres > 1 else {}
        nats = (found["message"] + math.log2(ways) + math.log2(centres)) * LN2 + found["confidence"] + price
        found |= {"complexity": nats} | ({"units": units} if units else {})
        return {(name, None): amount for name, amount in found.items()}, nats


def compare(row, found, entries, paid, setting, what, left):
    """A row and its ledger with what was computed."""
    allowed = 1e-3 if setting.sampled and row["bound"] in CHAINED else setting.slack
    guess = math.log2(setting.guess) if row["metric"] == "bpd" else 1 - int(row["metric"][3:-6]) / setting.guess
    found |= {"gap": row["value"] - row["empirical"], "random_guess": guess, "delta": float(setting.delta)}
    for name, value in found.items():
        near(row[name], value, f"{name} of {what}", allowed)
    rounding = max(1e-9, allowed - 1e-6) * max(1, abs(found["value"]))
    need(row["value"] >= found["value"] - rounding, f"{what} states less than it may")
    need(row["vacuous"] == (row["value"] >= row["random_guess"]), f"{what} contradicts itself on being vacuous")
    stated = {(each["name"], each.get("link")): each["amount"] for each in paid["entries"]}
    need(len(stated) == len(paid["entries"]) and entries.keys() <= stated.keys(), f"{what}: its ledger lacks entries")
    for (name, link), amount in stated.items():
        if (name, link) not in entries:
            left.append(f"ROW {what}: entry {name} of its ledger")
        elif isinstance(entries[name, link], Fraction):
            need(Fraction(amount) == entries[name, link], f"{name} in the ledger of {what} is {amount}")
        else:
            near(amount, entries[name, link], f"{name} in the ledger of {what}")
    known = {*found, "metric", "bound", "vacuous", "alpha", "alphas", "lambda", "kappa", "links"}
    left += [f"ROW {what}: {key}" for key in row.keys() - known]


def check_row(row, paid, setting, what, left):
    """A row over tokens or units of one model; a generator that asks for averages."""
    metric, kind, size, count, lambda_ = row["metric"], row["bound"], setting.size, setting.tokens, row["lambda"]
    entries, nats = setting.entries(metric, kind)
    cell, unit = float(setting.sampling / entries["sampling_cells", None]), UNITS.get(kind, "tokens")
    k = None if metric == "bpd" else int(metric[3:-6])
    alpha, own, kappa = row["alpha"], tuple(row.get("alphas", ())), row.get("kappa", 0.0)
    right = own == setting.own and alpha is None if own else alpha is None if k else alpha in setting.grids["alphas"]
    need(right, f"{what} has an alpha of no grid")
    least = own[0] if own else alpha
    (low, high), span = ((0.0, 1.0), 1.0) if k else (interval(least, size), float(width(least, size)))
    bets, grid = kind not in ("azuma", "documents", "sequences"), fractions(setting.lambdas) / high
    if bets and (not k or unit != "tokens"):
        right = kappa in ([0.0] if own or unit != "tokens" else setting.kappas(-1))
        need(right and np.isclose(grid, lambda_, rtol=1e-12).any(), f"{what} has a lambda or a kappa of no grid")

    def function(part):
        weights = part["alpha"].astype(float) if own else alpha
        loss = (part["rank"] > k) * 1.0 if k else smooth(part["nll"][-1], weights, size)
        if not k and unit == "tokens" and bets:
            return [loss, np.log1p(-lambda_ * (loss - kappa * part["entropy"][-1])), part["entropy"][-1]]
        return [loss, width(weights, size) ** 2] if own and not k else [loss]

    need(unit == "tokens" or setting.whole or (unit == "documents" and not setting.sampled), f"{what} has no units")
    if k and kind == "betting" and len(setting.kappas(-1)) > 1 and not setting.sampled:
        need(kappa in setting.kappas(-1), f"{what} has a kappa of no grid")
        counts, wrong = yield "entropies", setting.subset, function
        spread = np.maximum(0, np.arange(len(counts)) / 8 - math.log2(k))
        centres = 1 - np.exp2(-np.outer(setting.kappas(-1), spread))
        value, top = centred_errors(wrong, counts, centres, nats)
        price = max(0.0, top - nats) if top < math.inf else math.log(4096 * len(centres))
        entries, nats = setting.entries(metric, kind, price)
        found = {"value": value, "empirical": wrong.sum() / counts.sum(), "complexity": nats}
        compare(row, found | {"sampling": 0.0, "range": 1.0}, entries, paid, setting, what, left)
        return
    mean, *others = yield unit, setting.subset, function
    price, units = math.log(setting.lambdas) if bets or own else 0.0, None
    if unit != "tokens":
        units, means, mean = len(mean), mean, Average(float(mean.mean()))
        value = azuma(mean.mean, span, nats, units)
        if bets:
            value = bet("betting", float(np.log1p(-lambda_ * means).mean()), lambda_, nats + price, units)
        plain = value
    elif k:
        shares = (mean.upper(0, 1, cell, setting.draws), mean.mean)
        (value, price), (plain, _) = (errors(kind, share, nats, count, setting.lambdas) for share in shares)
    elif bets:
        log, entropy = others
        value = plain = kappa * entropy.mean + bet(kind, log.mean, lambda_, nats + price, count)
        if setting.sampled and kappa:
            about = kind, log.pilot(), lambda_, nats + price, count
            known, slope, ends = tangent(*about, (low, high), kappa * setting.most)
            value = known + Average(0, kappa * entropy.blocks - slope * log.blocks, log.plan).upper(*ends, cell)
        elif setting.sampled:
            ends = [-math.log1p(-lambda_ * each) for each in (low, high)]
            value = bet(kind, -Average(0, -log.blocks, log.plan).upper(*ends, cell), lambda_, nats + price, count)
    elif own:
        ends = [float(width(each, size)) for each in (own[-1], own[0])]
        square = others[0].upper(ends[0] ** 2 * (1 - 1e-9), ends[1] ** 2 * (1 + 1e-9), cell)
        guesses, span = np.geomspace(*ends, setting.lambdas), math.sqrt(others[0].mean)
        pairs = ((mean.upper(low, high, cell), square), (mean.mean, others[0].mean))
        value, plain = (azuma(x, float(np.min(guesses + y / guesses)) / 2, nats + price, count) for x, y in pairs)
    else:
        value, plain = (azuma(x, span, nats, count) for x in (mean.upper(low, high, cell), mean.mean))
    entries, nats = setting.entries(metric, kind, price, units)
    found = {"value": value, "empirical": mean.mean, "sampling": max(0.0, value - plain), "complexity": nats}
    found["range"] = high if bets and not k else span
    compare(row, found, entries, paid, setting, what, left)


def candidates(setting, whole, alone):
    """N of a chain's candidates (docs/bounds.md, "Which chain", "Control variates alone")."""
    last, total, grids = len(setting.models) - 1, 0, {key: len(grid) for key, grid in setting.grids.items()}
    for kept in itertools.chain.from_iterable(itertools.combinations(range(last), size) for size in range(last + 1)):
        ways = 1 if whole or not kept else 3  # splits of delta
        for place, model in enumerate([*kept, last]):
            ways *= grids["link_alphas" if place and not alone else "alphas"]
            ways *= 1 if whole and model != last else len(setting.kappas(model))
            ways *= grids["link_betas"] if place and not whole else 1
        total += ways
    return total


def check_chain(row, paid, setting, what, left):
    """A telescoped, mixture or control_variates row: every link, and their sum."""
    links, whole, models = row["links"], row["bound"] == "mixture", setting.models
    alone = row["bound"] == "control_variates"  # nothing is mixed; references' links have their coefficients as weights
    names, alphas = [model["name"] for model in models], links[-1]["alphas"]
    path = [names.index(name) for name in links[-1]["messages"]]
    size = models[path[0]]["size"]
    stated = [link["weight"] for link in links[:-1]] if alone else [link["beta"] for link in links[1:]]
    betas = [0.0, *([1.0] * (len(path) - 1) if whole else stated)]
    right = path == sorted(set(path)) and path[-1] == len(names) - 1 and len(links) == (1 if whole else len(path))
    grids = [setting.grids["link_alphas" if place and not alone else "alphas"] for place in range(len(path))]
    right &= all(map(operator.contains, grids, alphas)) and len(alphas) == len(path)
    right &= whole or all(beta in setting.grids["link_betas"] for beta in betas[1:])
    need(right, f"{what} is no candidate of its chain and its grids")
    shares = [Fraction(each["amount"]) for each in paid["entries"] if each["name"] == "delta" and each.get("link")]
    splits = [[ratio**place for place in range(len(links))] for ratio in (Fraction(1), Fraction(1, 8), Fraction(8))]
    splits = [[setting.general * each / sum(split) for each in split] for split in splits]
    need(shares in splits, f"{what} splits delta otherwise than it may")
    total, held, ends, bits = candidates(setting, whole, alone), {}, [], []
    for place, model in enumerate(path):
        held |= models[model]["messages"]
        bits.append(sum((models[model]["messages"] if alone and model != path[-1] else held).values()))
        least, before = math.prod(alphas[:place]) / size, math.log2(size / math.prod(alphas[:place]))
        low, high = interval(alphas[place], size)
        if alone:
            low, high = interval(alphas[place], models[model]["size"])
            low -= sum(map(operator.mul, betas[1:], [top for _, top in ends])) if model == path[-1] else 0
        elif place:  # the model before loses `before` at most
            low = -math.log2((1 - alphas[place]) / least + alphas[place])
            high = -math.log2(alphas[place]) + (1 - betas[place]) * before
        ends.append((low, high))
    if whole:
        bits, top = bits[-1:], math.log2(size / math.prod(alphas))
        ends = [(0.0, top)] if len(path) > 1 else ends
    deciding = path[-1:] if whole else path  # whose entropies are centres
    kappas, bets = [link.get("kappa", 0.0) for link in links], [link["lambda"] for link in links]
    for (_, high), lambda_, kappa, model in zip(ends, bets, kappas, deciding, strict=True):
        known = np.isclose(fractions(setting.lambdas) / high, lambda_, rtol=1e-9, atol=0).any()
        need(known and kappa in setting.kappas(model), f"{what} has a lambda or a kappa of no grid")

    def function(part):
        """For each link its loss, the logarithm of its bet, and the entropy of its last model."""
        mixed, before, found = np.full(len(part["row"]), 1 / size), 0.0, []
        if alone:
            found = [smooth(part["nll"][each], alphas[i], models[each]["size"]) for i, each in enumerate(path)]
            found[-1] = found[-1] - sum(map(operator.mul, betas[1:], found[:-1]))
        for model, alpha, beta in () if alone else zip(path, alphas, betas, strict=True):
            mixed = (1 - alpha) * np.exp2(-part["nll"][model].astype(float)) + alpha * mixed
            loss = -np.log2(mixed)
            found, before = [*found, loss - beta * before], loss
        averages = []
        for loss, lambda_, kappa, model in zip([before] if whole else found, bets, kappas, deciding, strict=True):
            averages += [loss, np.log1p(-lambda_ * (loss - kappa * part["entropy"][model])), part["entropy"][model]]
        return averages

    found = yield "tokens", None, function
    price = math.log(setting.lambdas)
    lines = {"delta": setting.delta, "delta_sampling": setting.sampling, "sampling_cells": setting.sharing}
    lines |= {"chain_candidates": total, "chain_choice": math.log2(total)}
    lines |= {"certificates_per_sample": setting.sharing} if setting.sampled else {}
    entries = {(name, None): amount for name, amount in lines.items()}
    sums = dict.fromkeys(("value", "empirical", "sampling", "range"), 0.0)
    allowed = 1e-3 if setting.sampled else setting.slack  # a chain's search keeps a part of the pilot
    factors = [1.0] if whole else [math.prod(betas[place + 1 :]) for place in range(len(path))]
    factors = [*betas[1:], 1.0] if alone else factors
    nats = [bits[i] * LN2 + math.log(total) - log_fraction(shares[i]) + price for i in range(len(links))]
    values, pieces, extra = [], [], 0.0
    for i, (factor, kappa, lambda_) in enumerate(zip(factors, kappas, bets, strict=True)):
        log, entropy = found[3 * i + 1 : 3 * i + 3]
        values.append(kappa * entropy.mean + bet("betting", log.mean, lambda_, nats[i], setting.tokens))
        if setting.sampled:
            about = "betting", log.pilot(), lambda_, nats[i], setting.tokens, ends[i], kappa * setting.most
            known, slope, sides = tangent(*about)
            pieces.append([factor * each for each in (known, kappa * entropy.blocks - slope * log.blocks, *sides)])
    if setting.sampled:  # one bound for the sum of all links
        known, blocks, *sides = (sum(parts) for parts in zip(*pieces, strict=True))
        bound = Average(0, blocks, found[0].plan).upper(*sides, float(setting.sampling / setting.sharing))
        extra = max(0.0, known + bound - sum(map(operator.mul, factors, values)))
    for place, (link, (_, high), weight) in enumerate(zip(links, ends, factors, strict=True)):
        sampling = extra / len(links) / weight
        reached = slice(len(path) if whole else place + 1)
        reached = slice(place, place + 1) if alone and place < len(path) - 1 else reached
        parts = {"messages": [names[model] for model in path[reached]], "alphas": alphas[reached]}
        parts |= {"beta": 0.0 if whole or alone else betas[place]}
        need(parts == {key: link[key] for key in parts}, f"link {place + 1} of {what} is no part of the others")
        numbers = {"value": values[place] + sampling, "empirical": found[3 * place].mean, "range": high}
        numbers |= {"complexity": nats[place], "weight": weight}
        for name, amount in (numbers | {"delta": float(shares[place])}).items():
            near(link[name], amount, f"{name} of link {place + 1} of {what}", allowed)
        for name in sums:
            sums[name] += weight * (numbers | {"sampling": sampling})[name]
        lines = {"delta": shares[place], "message": bits[place], "lambda_grid": price, "complexity": nats[place]}
        lines["confidence"] = -log_fraction(shares[place])
        entries |= {(name, place + 1): amount for name, amount in lines.items()}
        left += [f"ROW {what}: {key} of a link" for key in link.keys() - {*numbers, *parts, "delta", "lambda", "kappa"}]
    compare(row, sums | {"complexity": nats[-1]}, entries, paid, setting, what, left)


def check_rows(part, setting, what, left):
    """Checks (generators) of the rows of a certificate, or of a subset, and of how they divide delta."""
    keys = [(row["metric"], row["bound"]) for row in part["rows"]]
    paid = {(row["metric"], row["bound"]): row for row in part["ledger"]["rows"]}
    need(sorted(keys) == sorted(setting.keys) == sorted(paid), f"{what}: other rows than its settings and ledger name")
    need(Fraction(part["ledger"]["delta"]) == setting.delta * len(keys), f"{what}: its ledger has another delta")
    for row, key in zip(part["rows"], keys, strict=True):
        check = check_chain if key[1] in CHAINED else check_row if key[1] in (*SINGLE, *UNITS) else None
        left += [] if check else [f"ROW of a bound that it does not know: {what} {'/'.join(key)}"]
        yield from [check(row, paid[key], setting, f"{what} {'/'.join(key)}", left)] if check else []


def label_codes(column, folder, manifest):
    """The labels of tokens [n], from the tokens themselves or from their places in the corpus."""
    if column.get("codes_of_tokens") is not None:
        return lambda token, place: np.array(column["codes_of_tokens"])[token]
    path = folder / manifest["annotations_file"]["file"]
    values = pq.read_table(path, columns=[column["name"]])[column["name"]].to_numpy()
    whole = sha256(path) == manifest["annotations_file"]["sha256"] and len(values) == manifest["tokens"]
    need(whole, f"{path} differs from its manifest")
    return lambda token, place: values[place]


def read_parts(scores, corpus, codes):
    """The tokens of all models with their labels, shard by shard."""
    first = np.concatenate([[0], np.cumsum(corpus.lengths)])
    for number in range(scores[-1].plan.shards):
        all_columns = [each.shard(number, corpus) for each in scores]
        own, zero = all_columns[-1], np.zeros(len(all_columns[-1]["row"]))
        place = first[own["document"]] + own["position"]
        labels = {name: find(own["token"], place) for name, find in codes.items()}
        for name, found in labels.items():
            need(name not in own or np.array_equal(own[name], found), f"label {name} of scores is not the corpus's")
        entropies = [each["entropy_bits"].astype(float) if "entropy_bits" in each else zero for each in all_columns]
        yield own | {"nll": [each["nll_bits"] for each in all_columns], "entropy": entropies, "labels": labels}


def check_subsets(content, models, plan, delta, columns, source, left):
    """Checks of the rows of every label that occurs; labels with the same tokens make one statement."""
    names, counts, hashes, first, groups = content["bounds"]["subsets"], {}, {}, 0, {}
    for part in read_parts(*source) if names else ():
        for name, codes in part["labels"].items():
            for code in np.unique(codes).tolist():
                rows, key = np.flatnonzero(codes == code), (name, code)
                counts[key] = counts.get(key, 0) + len(rows)
                hashes.setdefault(key, hashlib.sha256()).update((rows + first).astype("<i8").tobytes())
        first += len(part["row"])
    keys = [key for name in names for key in sorted(counts) if key[0] == name]
    title = {key: [key[0], columns[key[0]]["categories"][key[1]]] for key in keys}
    stated = content.get("subsets", [])
    need([[each["column"], each["label"]] for each in stated] == list(title.values()), "other subsets than labels")
    for key in keys:
        groups.setdefault(hashes[key].digest(), []).append(key)
    for each, key in zip(stated, keys, strict=True):
        group, what = groups[hashes[key].digest()], " ".join(title[key])
        need(not plan.sampled and each["tokens"] == counts[key], f"{what} has {counts[key]} tokens")
        need(each.get("repeats") == (None if key == group[0] else title[group[0]]), f"{what} repeats another label")
        share = sum((delta / len(columns[name]["categories"]) for name, _ in group), Fraction(0))
        yield from check_rows(each, Setting(content, models, plan, share, each, key), what, left)


def check_faithfulness(content, plan, scores, delta):
    """Checks of the rows about how predictions differ from the original's, which spend `delta`."""
    stated, spec, rows = content["faithfulness"], content["bounds"], content["faithfulness"]["rows"]
    ends = {"kl_bits": math.log2(scores.size) + 16, "first_choice_changed": 1.0}
    said = stated["original"]["sha256"], stated["smoothing"], Fraction(stated["delta"])
    need(said == (scores.original, 2**-16, delta), "faithfulness names another model, smoothing or delta")
    overs = ["tokens", *(["documents"] if delta and not plan.sampled else [])]
    keys = [(over, metric) for over in overs for metric in ends]
    need(keys == [(row["over"], row["metric"]) for row in rows], "other rows about faithfulness")
    own, sharing = delta / 2, spec["certificates_per_sample"]

    def check(over, rows):
        averages = yield over, None, lambda part: [part[name].astype(float) for name in ends]
        for row, values, high in zip(rows, averages, ends.values(), strict=True):
            paid, nats = own if over == "documents" or plan.sampled else 0, 0.0
            if over == "tokens":
                mean, value = values.mean, values.upper(0.0, high, float(paid / sharing), plan.rows["draws"])
            else:
                mean, lambda_, nats = float(values.mean()), row["lambda"], math.log(spec["lambdas"]) - log_fraction(own)
                need(np.isclose(fractions(spec["lambdas"]) / high, lambda_, rtol=1e-12).any(), "a lambda of no grid")
                value = bet("betting", float(np.log1p(-lambda_ * values).mean()), lambda_, nats, len(values))
            need(Fraction(row["delta"]) == paid, f"{row['metric']} over {over} has another delta")
            found = {"range": high, "complexity": nats, "value": value, "empirical": mean}
            for name, amount in found.items():
                near(row[name], amount, f"{name} of {row['metric']} over {over}")

    return [check(over, [row for row in rows if row["over"] == over]) for over in overs]


# --- everything -------------------------------------------------------------------------------------------------------


def verify(path):
    """What was checked, and what was left, in words.

    Raises
    ------
    Refused
        At the first thing that is wrong.
    """
    content, folder, left = read_certificate(path), path.parent, list(UNSEEN)
    left += [f"field {key}" for key in [*content.keys() - {*TOP}, *content["bounds"].keys() - {*SETTINGS}]]
    files, links, record = check_files(content, folder), [*content["chain"], content], content["manifest"]
    for link in links:
        check_message(link["message"], folder)
    home, manifest = (folder / record["file"]).parent, read_json((folder / record["file"]).read_bytes())
    shards = [{**each, "file": Path(each["file"]).name} for each in record["shards"]]
    same = {key: record[key] for key in ("source", "licence", "tokenizer", "documents")} | {"shards": shards}
    same |= {"documents_file": {**record["documents_file"], "file": Path(record["documents_file"]["file"]).name}}
    same |= {"corpus": content["corpus"]} | ({} if "reference" in content else {"tokens": content["tokens"]})
    need(same == {key: manifest[key] for key in same}, "the certificate says something else of its corpus")
    beside = [Path(name).parent for name, _ in named_files({**record, "file": None})]
    need(set(beside) == {Path(record["file"]).parent}, "files of the corpus are not beside its manifest")
    corpus = Corpus(home, manifest)
    check_training(content, folder, manifest, check_documents(home, manifest, corpus), left)
    plan = Plan(folder / content["plan"]["file"], content["plan"], record["sha256"], corpus)
    scores, models = [Scores(link, folder, plan, content["plan"]["sha256"], record["sha256"]) for link in links], []
    need(scores[-1].size == content["vocabulary_size"] and plan.scored == content["scored_tokens"], "other scores")
    for link, own in zip(links, scores, strict=True):
        if "blocks" in link:
            check_blocks(link["blocks"], own, plan, (own.shard(number, corpus) for number in range(plan.shards)))
        message, paid = link["message"], content["prior"]["kind"] != "held_out"
        need(message["header"]["model"]["vocabulary_size"] == own.size, f"{message['name']} has another vocabulary")
        held = {each["sha256"]: each["size_bits"] for each in (message.get("coarse", message), message) if paid}
        about = {"entropies": own.has_entropies, "alphas": own.alphas, "size": own.size}
        models.append(about | {"name": message["name"], "bits": sum(held.values()), "messages": held})
    columns, names = {each["name"]: each for each in manifest.get("labels", ())}, content["bounds"]["subsets"]
    source = scores, corpus, {name: label_codes(columns[name], home, manifest) for name in names}
    delta, strays = Fraction(str(content["bounds"]["delta"])), content["bounds"].get("faithfulness", False)
    new = content["prior"]["kind"] == "held_out" and {"documents", "documents_betting"} & {*content["bounds"]["bounds"]}
    spent = delta / 10 if strays and (plan.sampled or new) else Fraction(0)
    delta = (delta - spent) / (1 + len(names))
    need(content["delta"] == content["bounds"]["delta"], "another delta than the settings have")
    left += ["that the first draws of the sample, its pilot, chose the cells of its rows"] if plan.sampled else []
    if "reference" in content:
        return f"{files} files, but no row", [*left, "ROWS of a corpus by reference"]
    checks = list(check_rows(content, Setting(content, models, plan, delta, content), "row", left))
    checks += check_subsets(content, models, plan, delta, columns, source, left)
    need(("faithfulness" in content) == strays, "rows about faithfulness are there without being asked for, or missing")
    checks += check_faithfulness(content, plan, scores[-1], spent) if strays else []
    run(checks, read_parts(*source), plan, corpus.documents)
    return f"{files} files, {content['tokens']:,} tokens, the plan, {len(links)} messages, {len(checks)} rows", left


def main(paths):
    """Print what was found of every certificate; the exit status."""
    status = 0
    for path in paths:
        try:
            right, left = verify(Path(path))
        except Exception as error:
            print(f"{path}: REFUSED: {type(error).__name__}: {str(error)[:500]}")
            return 1
        print("\n".join([f"{path}: right: {right}", *(f"  not checked by this verifier: {each}" for each in left)]))
        status = max(status, 2 * any(each.startswith(("ROW", "field")) for each in left))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) if sys.argv[1:] else __doc__)
