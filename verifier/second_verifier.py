"""Checks certificates without the program that made them: one file, which needs only Python, numpy and pyarrow.

    python second_verifier.py results/certificates/NAME.json ...

Written from docs/certificates.md, bounds.md, scores.md and message-format.md. Every file is hashed; corpus, table of
documents, plan, ledger and every row are computed again from shards and Parquet. Models are not decoded, so nothing
here shows that scores are the message's: `tokenbounds verify --rescore` does. What this program does not know is listed
as not checked. Memory grows with the largest score file, the corpus, and the number of blocks.

Exit status: 0 if all that can be checked is right, 2 if rows or fields were left unchecked, 1 if something is wrong.
"""

import collections
import contextlib
import hashlib
import json
import math
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
    ledger manifest message model notes plan prior reference rows schema_version scored_tokens scores software study
    subsets tokens vocabulary_size""".split()
SETTINGS = """alphas bounds centre_order certificates_per_sample delta faithfulness include_tolerance kappas lambdas
    link_alphas link_betas sampling_share subsets top_k""".split()
# What rows of networks contain for rounding, where that is asked for: bits, and a share of tokens for errors.
TOLERANCES = {"none": (0.0, 0.0), "float32": (1e-4, 1e-4), "bfloat16": (0.02, 0.01)}
SINGLE, CHAINED = ("azuma", "freedman", "betting"), ("telescoped", "mixture", "control_variates")
ENTROPIES = ("entropy_bits", "cross_entropy_bits")  # what centres are made of, the second if centre_order says so
UNITS = {unit + how: unit for unit in ("documents", "sequences") for how in ("", "_betting")}
UNSEEN = ["that messages decode to what gives the scores", "assumptions, notes, software", "the values of bases"]
PLAN = ("context", "stride", "shards", "draws", "seed", "blocks", "visible_tokens", "blocks_per_document")
# What headers of messages are packed with (docs/message-format.md).
DICTIONARY = """
    "activation_function":"gelu","layer_norm_epsilon":1e-05,"scale_attn_weights":true,"hidden_act":"silu""attention_bias
    ":true,"mlp_bias":true,"sliding_window":4096,"head_dim":64,"rope_parameters":{"rope_theta":10000.0,"rope_type":"defa
    ult"},"qwen3","qwen2","mistral"},"coder":"static","quantizer":{"kind":"counts","levels":16,"model":{"family":"markov
    ","order":2,"start_id":0,"threshold":2,"vocabulary_size":256{"coder":"adaptive","model":{"config":{"hidden_size":576
    ,"intermediate_size":1536,"num_attention_heads":9,"num_hidden_layers":30,"num_key_value_heads":3,"rms_norm_eps":1e-0
    5,"tie_word_embeddings":true},"context":1024,"family":"llama","start_id":1,"vocabulary_size":49152},"quantizer":{"ki
    nd":"codebook"}}{"coder":"adaptive","model":{"config":{"n_embd":128,"n_head":4,"n_inner":512,"n_layer":4,"tie_word_e
    mbeddings":false},"context":128,"family":"gpt2","parameterization":{"kind":"lora","rank":16,"scale":32.0,"targets":[
    "attention","mlp","head","embedding"]},"seed":1,"vocabulary_size":256},"quantizer":{"kind":"uniform"}}
"""
KINDS = {1: "codebooks", 2: "scales", 3: "symbols", 4: "values", 5: "smoothing_head", 6: "side_information"}


class Refused(Exception):
    """What is wrong, in one line."""


def need(right, text):
    if not right:
        raise Refused(text)


def agree(stated, found, what, slack=1e-8):
    """Everything that was computed is stated; numbers nearly, which two programs compute in different orders."""
    for name, value in found.items():
        if isinstance(value, float):
            right = math.isclose(stated[name], value, rel_tol=slack, abs_tol=slack)
        else:
            right = (Fraction(stated[name]) if isinstance(value, Fraction) else stated[name]) == value
        need(right, f"{name} of {what} is {stated[name]}, computed {value}")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unique_keys(pairs):
    need(len(dict(pairs)) == len(pairs), "a key occurs twice in some JSON")
    return dict(pairs)


def read_json(data):
    return json.loads(data, object_pairs_hook=unique_keys)


def metadata(schema):
    return {key.decode(): value.decode() for key, value in schema.metadata.items()}


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
    inflater = zlib.decompressobj(-15, zdict="".join(DICTIONARY.split()).encode())
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
    """Tokens of a corpus [m], one document after the other; document i is in shard i % shards on disk."""

    def __init__(self, folder, manifest):
        self.documents, count, held = manifest["documents"], len(manifest["shards"]), []
        self.lengths, numbers = np.zeros(self.documents, np.int64), np.arange(self.documents)
        for number, entry in enumerate(manifest["shards"]):
            path = folder / entry["file"]
            need(sha256(path) == entry["sha256"], f"{path} differs from its manifest")
            table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
            lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in table["tokens"].chunks]
            values = [chunk.flatten().to_numpy() for chunk in table["tokens"].chunks]
            values = np.concatenate([np.zeros(0, np.uint16), *values])
            need(np.array_equal(table["document"].to_numpy(), numbers[number::count]), f"{path} has other documents")
            self.lengths[number::count] = np.concatenate([np.zeros(0, np.int64), *lengths])
            agree(entry, {"documents": table.num_rows, "tokens": len(values)}, path)
            need(values.max(initial=0) < manifest["tokenizer"]["vocabulary_size"], f"{path} has a token beyond V")
            held.append(values)
        need(int(self.lengths.sum()) == manifest["tokens"], "the shards have other tokens than the manifest")
        self.first = np.cumsum(self.lengths) - self.lengths
        self.tokens = np.zeros(manifest["tokens"], np.result_type(np.uint16, *held))
        for number, values in enumerate(held):
            self.tokens[np.repeat(numbers % count == number, self.lengths)] = values

    def document(self, number):
        return self.tokens[self.first[number] :][: self.lengths[number]]


def check_documents(folder, manifest, corpus):
    """Digests of texts and of tokens of a corpus's documents, as sets; the table must tell what the shards hold."""
    path = folder / manifest["documents_file"]["file"]
    need(sha256(path) == manifest["documents_file"]["sha256"], f"{path} differs from its manifest")
    rows = pq.read_table(path).drop_columns("name").to_pylist()
    need(len(rows) == manifest["documents"], f"{path} has other documents than its manifest")
    whole = manifest["tokenizer"]["identity"] == "bytes" and "reference" not in manifest  # those are cut
    for number, row in enumerate(rows if corpus else ()):  # shards of training corpora may be left out
        tokens = corpus.document(number)
        found = {"tokens": len(tokens), "tokens_sha256": hashlib.sha256(tokens.astype("<u4")).hexdigest()}
        found |= {"bytes": len(tokens), "sha256": hashlib.sha256(tokens.astype("u1")).hexdigest()} if whole else {}
        row["tokens_sha256"] = row.get("tokens_sha256") or found["tokens_sha256"]
        agree(row, found, f"document {number} in {path}")
    texts = {row["sha256"] for row in rows if row["bytes"]}
    return texts, {row["tokens_sha256"] for row in rows if row["tokens"] and row.get("tokens_sha256")}


def check_reference(content, home, manifest, corpus, delta):
    """The draw of a corpus by reference, and how many tokens the whole has at least (docs/reference.md).

    The share of delta that this costs.
    """
    reference, share, longest = manifest["reference"], delta / 20, manifest["reference"]["max_tokens"]
    data = (home / reference["file"]).read_bytes()
    need(hashlib.sha256(data).hexdigest() == reference["sha256"], "the list of files differs from its manifest")
    files = read_json(data)["files"]
    ends = np.cumsum([file["rows"] for file in files])
    rows = np.sort(draw_tokens(reference["seed"], manifest["documents"], int(ends[-1])))
    inside = [(files[at], row - ends[at]) for at, row in zip(np.searchsorted(ends, rows, "right"), rows, strict=True)]
    names = [f"{file['path']}:{row + file['rows']}" for file, row in inside]
    drawn = pq.read_table(home / manifest["documents_file"]["file"], columns=["name"])["name"].to_pylist()
    need(names == drawn and corpus.lengths.max() <= longest, "other documents than the seed draws from its list")
    said = {"documents": int(ends[-1]), "max_tokens": longest, "drawn": len(rows), "seed": reference["seed"]}
    need(reference["rows"] == said["documents"], "the manifest has another number of documents than its list")
    agree(content["reference"], {**said, "delta": share}, "the reference")
    mean = -upper(-corpus.lengths, -longest, 0.0, float(share), np.ones(len(rows)))
    found = max(1, math.floor(said["documents"] * mean))
    need(found * (1 - 1e-6) - 1 <= content["tokens"] <= found + 1, f"at least {found} tokens are sure, not as stated")
    return share


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


def draw_tokens(seed, count, tokens):
    """Places of tokens, uniform [count]; words beyond the last multiple of m are drawn again."""
    words, generator = np.zeros(0, np.uint64), np.random.Philox(seed)
    while len(words) < count:
        more = generator.random_raw(count - len(words))
        words = np.concatenate([words, more[more <= np.uint64(2**64 // tokens * tokens - 1)]])
    return (words % np.uint64(tokens)).astype(np.int64)


class Plan:
    """Blocks to score, computed again from the documents' lengths."""

    def __init__(self, path, record, manifest_sha256, corpus, reference):
        table = pq.read_table(path)
        meta = metadata(table.schema)
        numbers = {key: int(meta[key]) for key in PLAN if key in meta}
        mode, context, stride, shards = meta["mode"], numbers["context"], numbers["stride"], numbers.pop("shards")
        self.rows = {name: table[name].to_numpy().astype(np.int64) for name in table.column_names}
        self.sampled, partial = mode == "sampled", numbers.get("blocks_per_document")
        need(meta["manifest_sha256"] == manifest_sha256, "the plan names another manifest")
        need((partial is None) == (mode != "partial"), "the plan's mode is another than its blocks")
        need(not (reference and self.sampled) and (reference or not partial), "this corpus has no such plan")
        stated = {"visible_tokens": None, **numbers, "mode": mode, "blocks": table.num_rows}
        need(stated == {key: record[key] for key in stated}, "the certificate says something else of the plan")
        need(stated["draws"] == int(self.rows["draws"].sum()) < 1 << 30, "the plan has another number of draws")
        lengths = corpus.lengths
        held = -(-np.maximum(lengths - context, 0) // stride) + (lengths > 0)  # blocks of each document
        owner = np.repeat(np.arange(len(lengths)), held)
        need(len(owner) == numbers["blocks"], "the plan has another number of blocks")
        within, draws = np.arange(len(owner)) - (np.cumsum(held) - held)[owner], np.ones(len(owner), np.int64)
        start = np.where(within == 0, 0, context + (within - 1) * stride)
        if partial:  # the blocks of each document with the smallest words
            order = np.lexsort((np.random.Philox(stated["seed"]).random_raw(len(owner)), owner))
            draws[order[within >= partial]] = 0
        if self.sampled:
            drawn = draw_tokens(stated["seed"], stated["draws"], int(lengths.sum()))
            drawn = np.searchsorted(corpus.first[owner] + start, drawn, side="right") - 1
            draws = np.bincount(drawn, minlength=len(owner))
        chosen = np.flatnonzero(draws)
        document, within, start, draws = (each[chosen] for each in (owner, within, start, draws))
        length = np.minimum(lengths[document] - start, np.where(within == 0, context, stride))
        ends = np.cumsum(length)
        again = {"block": chosen, "document": document, "start": start, "length": length, "draws": draws}
        again |= {"context": np.where(within == 0, 0, context - stride)}
        again |= {"shard": (2 * ends - length) * shards // (2 * int(ends[-1]))}
        right = [np.array_equal(values, self.rows.get(name)) for name, values in again.items()]
        need(all(right) and len(self.rows) == len(again), "the plan is not what its settings and the corpus give")
        self.shards, self.scored, self.longest = shards, int(ends[-1]), 0
        # What is drawn: blocks, whose averages count alike, or documents, by their sums and tokens; of both the
        # scored part is multiplied by its factor.
        self.unit, self.draws, seed = np.arange(len(chosen)), draws, stated["seed"]
        self.factors = 1 / length if self.sampled else np.ones(len(chosen))
        if reference:
            self.sampled, self.unit, self.draws = True, document, np.ones(len(lengths), np.int64)
            self.factors, seed = held / np.maximum(1, np.bincount(document, minlength=len(lengths))), reference["seed"]
            most = reference["max_tokens"]
            self.longest = context * (-(-max(most - context, 0) // stride) + 1) if partial else most
        self.pilot = np.zeros(len(self.draws), np.int64)
        if self.sampled:  # the first tenth of the draws, in an order of its own, is the pilot
            stream = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, 0x6F72646572])))
            order = stream.permutation(np.repeat(np.arange(len(self.draws)), self.draws))
            first_tenth = order[: max(len(order) // 10, min(1, len(order) - 1))]
            self.pilot = np.bincount(first_tenth, minlength=len(self.draws))
        self.later = self.draws - self.pilot
        # Whether every token was scored, in blocks that do not overlap.
        self.whole = mode == "exhaustive" and "visible_tokens" not in numbers and stride == context

    def expand(self, shard, corpus):
        """What a shard scores [n]: rows of the plan, places in the corpus, and what its files must say of them."""
        here = np.flatnonzero(self.rows["shard"] == shard)
        length = self.rows["length"][here]
        row = np.repeat(here, length)
        position = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length) + self.rows["start"][row]
        document = self.rows["document"][row]
        place = corpus.first[document] + position
        told = {"block": self.rows["block"][row], "document": document, "position": position}
        return row, place, told | {"token": corpus.tokens[place]}


class Model:
    """A message and its scores, whose rows are compared with plan and corpus."""

    def __init__(self, link, folder, plan, named, paid):
        message, found, self.centred = link["message"], [], 0  # which of ENTROPIES its centres are made of
        self.name, self.paths = message["name"], [folder / each["file"] for each in link["scores"]]
        held = (message.get("coarse", message), message) if paid else ()
        self.messages = {each["sha256"]: each["size_bits"] for each in held}
        for path, record in zip(self.paths, link["scores"], strict=True):
            file = pq.read_metadata(path)
            meta, self.columns = metadata(file), file.schema.names
            agree(meta, {**named, "message_sha256": message["sha256"], "dtype": link["dtype"]}, path)
            right = str(link.get("batch_tokens")) == read_json(meta["software"]).get("batch_tokens", "None")
            need(right and file.num_rows == record["rows"], f"{path} was made from something else")
            self.size = int(meta["vocabulary_size"])
            self.alphas = tuple(json.loads(meta["alphas"])) if "alpha" in self.columns else ()
            self.original, self.order = meta.get("original_sha256"), int(meta.get("centre_order", "0"))
            found.append(int(meta["shard"]))
        need(found == list(range(plan.shards)), f"{self.paths[0].parent} has not the plan's shards, each once")
        card = message["header"]["model"]
        need(card["vocabulary_size"] == self.size, f"{self.name} has another vocabulary")
        self.tolerance = TOLERANCES["none" if card.get("family") in ("markov", "online") else link["dtype"]]

    def read(self, number, told):
        """Columns of a shard, checked."""
        path = self.paths[number]
        table = pq.read_table(path, page_checksum_verification=True)
        columns = {name: table[name].to_numpy() for name in table.column_names}
        columns |= {name: column.astype(float) for name, column in columns.items() if column.dtype.kind == "f"}
        need(told["token"].max() < self.size, f"{path}: a token of the corpus is beyond what the model predicts")
        for name, values in told.items():
            need(np.array_equal(columns[name], values), f"{path}: column {name} is not that of plan and corpus")
        rank, most = columns["rank"], math.log2(self.size)
        loss, strays, *known = (columns.get(name, np.zeros(len(rank))) for name in ("nll_bits", "kl_bits", *ENTROPIES))
        right = (loss >= 0) & (loss < np.inf) & (rank >= 1) & (rank <= self.size)
        right &= (strays >= 0) & (strays <= most + 16)
        for entropy in known:
            right &= (entropy >= 0) & (8 * entropy <= math.ceil(8 * most)) & (8 * entropy == np.rint(8 * entropy))
        # So many tokens are at least as probable as the true one; 2^-10 bit allows for rounding.
        right &= loss >= np.log2(np.maximum(rank, 1)) - 2**-10
        right &= not self.alphas or np.isin(columns["alpha"], self.alphas)
        columns["centred"] = known[self.centred]
        need(right.all(), f"{path} has an impossible loss, rank, entropy, divergence or weight")
        return columns


def read_parts(models, plan, corpus, codes):
    """The tokens of all models with their labels, shard by shard."""
    for number in range(plan.shards):
        row, place, told = plan.expand(number, corpus)
        tables, labels = [model.read(number, told) for model in models], {}
        for name, find in codes.items():
            labels[name] = find(told["token"], place)
            right = np.array_equal(tables[-1].get(name, labels[name]), labels[name])
            need(right, f"label {name} of scores is not the corpus's")
        entropies, losses = ([table[name] for table in tables] for name in ("centred", "nll_bits"))
        yield tables[-1] | {"row": row, "nll": losses, "entropy": entropies, "labels": labels}


def check_blocks(record, model, plan, parts):
    """The Merkle root over the scores' blocks."""
    names = ("token", "nll_bits", "rank", *ENTROPIES, "kl_bits", "first_choice_changed", "alpha")
    names = [name for name in names if name in model.columns]
    need(record["columns"] == names, "the tree over blocks has other columns")
    hashes = []
    for columns in parts:
        cuts = np.flatnonzero(np.diff(columns["row"])) + 1
        numbers = plan.rows["block"][columns["row"][[0, *cuts]]].astype("<i8")
        kinds = {name: "<f4" if columns[name].dtype.kind == "f" else "<i4" for name in names}
        blocks = zip(numbers, *(np.split(columns[name].astype(kinds[name]), cuts) for name in names), strict=True)
        hashes += [hashlib.sha256(b"\0" + b"".join(each.tobytes() for each in block)).digest() for block in blocks]
    while len(hashes) > 1:
        pairs = [hashlib.sha256(b"\1" + hashes[i] + hashes[i + 1]).digest() for i in range(0, len(hashes) - 1, 2)]
        hashes = pairs + hashes[len(pairs) * 2 :]
    need(hashes[0].hex() == record["root"], "the tree over the scores' blocks has another root")


# --- averages ---------------------------------------------------------------------------------------------------------


def fractions(size):
    """The grid of λ × ceiling: evenly spaced in ln(x / (1 - x)) (docs/bounds.md, "Grids")."""
    low, high = (math.log(x / (1 - x)) for x in (1e-4, 0.995))
    return 1 / (1 + np.exp(-(low + (high - low) * (np.arange(size) + 0.5) / size)))


def on_grid(lambda_, size, high):
    """Whether each λ is in its grid."""
    return np.isclose(fractions(size)[:, None] / high, lambda_, rtol=1e-9, atol=0).any(axis=0).all()


def log_mean_exp(logs):
    return logs.max() + math.log(np.exp(logs - logs.max()).mean())


def largest(refuted, low, high, steps):
    """The end of what is not refuted, from above."""
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (low, middle) if refuted(middle) else (middle, high)
    return high


def upper(values, low, high, delta, draws):
    """Upper confidence bound of an average over draws, from block averages [blocks], by the wealth of 64 bets."""
    scaled, bets = (values - low) / (high - low), fractions(64)
    need(scaled.min() >= -1e-9 and scaled.max() <= 1 + 1e-9, "a draw is outside its interval")
    won = np.log1p(-bets[:, None] * np.clip(scaled, 0, 1)) @ draws

    def refuted(mean):
        return log_mean_exp(won - draws.sum() * np.log1p(-bets * mean)) >= -math.log(delta)

    return low + (high - low) * largest(refuted, 0.0, 1.0, 60)


def upper_ratio(sums, tokens, low, high, longest, delta):
    """The same of a ratio of sums to tokens of documents [d] (docs/bounds.md, "Error bars"), by 32 bets."""
    shares, lengths, bets = (sums - low * tokens) / (high - low) / longest, tokens / longest, fractions(32)[:, None]
    need(np.all(lengths <= 1) and np.all((shares > -1e-9) & (shares < lengths + 1e-9)), "a document out of its range")

    def refuted(ratio):
        return log_mean_exp(np.log1p(bets * (ratio * lengths - shares)).sum(axis=1)) >= -math.log(delta)

    return low + (high - low) * largest(refuted, shares.sum() / lengths.sum(), 1.0, 60)


class Averages:
    """Averages [q] over the corpus, from numbers and sums [1 + q, units]; of a sample also bounds of them."""

    def __init__(self, totals, plan):
        self.plan, (self.tokens, *sums) = plan, totals * plan.factors
        self.sums = np.array(sums)
        self.means = self.over(plan.draws)

    def over(self, draws):
        return self.sums @ draws / (self.tokens @ draws)

    def spread(self, sums):
        """Standard deviation over the pilot of what each unit adds to an average, from its sums [.., units]."""
        draws, tokens = self.plan.pilot / self.plan.pilot.sum(), self.tokens
        ratio = sums @ draws / (tokens @ draws)
        return np.sqrt(((sums - ratio[..., None] * tokens) / (tokens @ draws)) ** 2 @ draws)

    def bound(self, sums, low, high, delta, draws):
        """Upper confidence bound of an average whose sums these are [units]."""
        if self.plan.longest:
            return upper_ratio(sums[draws > 0], self.tokens[draws > 0], low, high, self.plan.longest, delta)
        return upper(sums, low, high, delta, draws)

    def upper(self, index, *about):
        return self.bound(self.sums[index], *about) if self.plan.sampled else self.means[index]


def run(checks, parts, plan, documents):
    """One pass over the tokens for the averages that checks (generators) ask for by (unit, subset, function)."""
    asked = [(check, *next(check)) for check in checks]
    totals, sizes = [0.0] * len(asked), {"documents": documents, "entropies": 512}
    for part in parts:
        places = {"documents": part["document"], "entropies": np.rint(8 * part["entropy"][-1]).astype(int)}
        for index, (_, unit, subset, function) in enumerate(asked):
            place, size = places.get(unit, plan.unit[part["row"]]), sizes.get(unit, len(plan.draws))
            keep = slice(None) if subset is None else part["labels"][subset[0]] == subset[1]
            keep = plan.pilot[place] > 0 if unit == "pilot" else keep
            place = place[keep]
            values = [np.ones(len(place)), *(each[keep] for each in function(part))]
            totals[index] = totals[index] + np.stack([np.bincount(place, each, size) for each in values])
    for (check, unit, _, _), found in zip(asked, totals, strict=True):
        count, *sums = found[:, found[0] > 0]
        with contextlib.suppress(StopIteration):
            plainly = {"entropies": found}.get(unit, np.array(sums) / count)
            check.send(Averages(found, plan) if unit in ("tokens", "pilot") else plainly)


# --- bounds -----------------------------------------------------------------------------------------------------------


def smooth(nll, alpha, size):
    return -np.log2((1 - alpha) * np.exp2(-nll) + alpha / size)


def width(alpha, size):
    return np.log2(1 + (1 - alpha) * size / alpha)


def interval(alpha, size):
    """Smallest and largest smoothed loss."""
    return -math.log2(1 - alpha + alpha / size), math.log2(size / alpha)


def azuma(mean, span, nats, count):
    return mean + span * math.sqrt(nats / (2 * count))


def bet(kind, log, lambda_, nats, count):
    """Betting's or Freedman's bound for one λ, from the average of ln(1 - λ loss)."""
    return (nats / count - log) / lambda_ if kind == "freedman" else -np.expm1(log - nats / count) / lambda_


def bet_on_units(means, lambda_, nats):
    return bet("betting", np.log1p(-lambda_ * means).mean(), lambda_, nats, len(means))


# Bets on losses in [low, high], each an array [bets]: λ, the largest centre, L in nats, and weights in a row's sum.
Bets = collections.namedtuple("Bets", "lambdas most nats low high weights")


def centre(entropy, k, kappa):
    """Centre of a loss in bits, or of a top-k error (docs/bounds.md, "Centres of errors")."""
    return 1 - np.exp2(-kappa * np.maximum(0, entropy - math.log2(k))) if k else kappa * entropy


def bet_on(losses, bets, centres):
    """Averages to ask for: losses, logarithms of bets, and centres [3 × bets, n]."""
    return [*losses, *np.log1p(-bets.lambdas[:, None] * (np.array(losses) - np.array(centres))), *centres]


def tangent(kind, start, lambdas, pieces, low, high, most):
    """Constants and slopes of bets' tangents at average logarithms `start`, and the ends of what they average."""
    grown = np.ones(len(start)) if kind == "freedman" else np.exp(start - pieces)
    known, slopes = pieces + 0 * start if kind == "freedman" else 1 - grown * (1 - start), grown / lambdas
    corners = ((np.clip((grown - 1) / lambdas + low, 0, most), low), (0.0, high), (most, high))
    least, *ends = (x - slopes * np.log1p(-lambdas * (y - x)) for x, y in corners)
    return known, slopes, least, np.maximum(*ends)


def bound_bets(kind, bets, found, setting, cell):
    """Values [bets] of bets, and what a sample adds to their weighted sum, which has one bound.

    On a sample a bound is a constant plus the average of centre - slope × logarithm, its tangent at the pilot's
    average logarithm (docs/bounds.md, "Centres on a sample").
    """
    lambdas, most, nats, low, high, weights = bets
    logs, centres = found.means[len(nats) :].reshape(2, -1)
    values = centres + bet(kind, logs, lambdas, nats, setting.tokens)
    if not setting.sampled:
        return values, 0.0
    plan, pieces, start = setting.plan, nats / setting.tokens, found.over(setting.plan.pilot)[len(nats) : 2 * len(nats)]
    logs, centres = found.sums[len(nats) :].reshape(2, len(nats), -1)
    if kind in SINGLE and not most.any():  # the average of the logarithm is all that is unknown
        ends = (-math.log1p(-lambdas[0] * each[0]) for each in (low, high))
        highest = found.bound(-logs[0], *ends, cell, plan.later)
        return values, (bet(kind, -highest, lambdas, nats, setting.tokens) - values)[0]
    known, slopes, least, most = tangent(kind, start, lambdas, pieces, low, high, most)
    sums = weights @ centres - (weights * slopes) @ logs
    highest = found.bound(sums, weights @ least, weights @ most, cell, plan.later)
    return values, highest + weights @ (known / lambdas - values)


def errors(kind, share, nats, count, lambdas):
    """Bound of a share of errors, and the price of λ in nats (docs/bounds.md, "Errors")."""
    if kind == "azuma":
        return azuma(share, 1.0, nats, count), 0.0
    if kind == "freedman":
        price, bets = math.log(lambdas), fractions(lambdas)
        return np.min(bet(kind, share * np.log1p(-bets), bets, nats + price, count)), price
    high, _ = centred_errors(np.array([count * share]), np.array([count]), np.zeros((1, 1)), nats)
    pairs = [(x, y) for x, y in ((share, high), (1 - share, 1 - high)) if x]
    return high, max(0.0, count * sum(x * math.log(x / y) for x, y in pairs) - nats) if high < 1 else math.log(4096)


def centred_errors(wrong, counts, centres, nats):
    """Bound of a share of errors and the price of its bet; of errors and tokens [b], with centres [q, b]."""
    count, known = counts.sum(), centres @ counts / counts.sum()
    bets = np.exp(np.linspace(-0.5 * math.log(max(count, 2)), 0, 4096))
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = [np.log1p(-np.outer(bets, 1 - each)) * wrong for each in centres]
        kept = np.array([np.log1p(np.outer(bets, each)) @ (counts - wrong) for each in centres])
        held = np.array([np.where(wrong > 0, each, 0.0).sum(axis=1) for each in lost]) + kept  # [q, bets]

        def wealths(mean):
            return np.where(held == -np.inf, -np.inf, held - count * np.log1p(-bets * (mean - known[:, None])))

        def refuted(mean):
            return wealths(mean).max() == np.inf or log_mean_exp(wealths(mean)) > nats

        high = largest(refuted, wrong.sum() / count, 1.0, 100 if refuted(1.0) else 0)
        top = float(wealths(high).max())
    return high, max(0.0, top - nats) if top < math.inf else math.log(held.size)


# --- rows -------------------------------------------------------------------------------------------------------------


class Setting:
    """What the rows of a certificate, or of a subset, share: grids, sizes, and each row's part of delta."""

    def __init__(self, content, models, plan, delta, part, subset=None):
        spec = content["bounds"]
        self.models, self.plan, self.sampled, self.tokens = models, plan, plan.sampled, part["tokens"]
        self.size, self.lambdas, self.subset = content["vocabulary_size"], spec["lambdas"], subset
        self.grids = {key: sorted(set(spec[key])) for key in ("alphas", "kappas", "link_alphas", "link_betas")}
        self.guess = min(self.size, content["manifest"]["tokenizer"]["vocabulary_size"])
        self.own, self.most = models[-1].alphas if subset is None else (), math.ceil(8 * math.log2(self.size)) / 8
        # Of averages that the other program takes by bins of entropies, or of ratios that it bounds to 2^-30.
        self.slack = 1e-6 if plan.longest or any("entropy_bits" in model.columns for model in models) else 1e-8
        metrics = ["bpd", *(f"top{k}_error" for k in sorted(set(spec["top_k"])) if k < self.guess)]
        fits = [each for each in dict.fromkeys(spec["bounds"]) if not subset or each in (*SINGLE, *list(UNITS)[:2])]
        known = [each for each in fits if each in METHODS]
        self.keys = [(metric, each) for metric in metrics for each in known if metric == "bpd" or each not in CHAINED]
        later = [row for row in part["rows"] if row["bound"] in fits and row["bound"] not in known]
        self.keys += [(row["metric"], row["bound"]) for row in later]
        self.delta, share = delta / len(self.keys), Fraction(str(spec["sampling_share"]) if plan.sampled else 0)
        self.general, self.sampling = self.delta * (1 - share), self.delta * share
        self.sharing = spec["certificates_per_sample"] if plan.sampled else 1
        self.scored = part.get("scored_tokens", part["tokens"])
        self.tolerance = max(model.tolerance for model in models) if spec.get("include_tolerance") else (0.0, 0.0)

    def kappas(self, model):
        return self.grids["kappas"] if "entropy_bits" in self.models[model].columns else [0.0]

    def allowed(self, row):
        """How far averages may be from what is stated: a chain's search keeps a part of the pilot."""
        return 1e-3 if self.sampled and row["bound"] in CHAINED else self.slack

    def margin(self, row, bound):
        """What the row contains for rounding: errors more in proportion to all that there are."""
        bits, share = self.tolerance
        if row["metric"] == "bpd" or not bits:
            return bits
        more = (1 + int(share * self.scored)) / self.scored
        return bound * min(1.0, more / row["empirical"] if row["empirical"] else 1.0)

    def entries(self, cells, **more):
        """A row's own part of its ledger, by name."""
        found = {"delta": self.delta, "delta_sampling": self.sampling, "sampling_cells": cells * self.sharing, **more}
        return found | ({"certificates_per_sample": self.sharing} if self.sampled else {})


def check_row(row, paid, setting, what, left):
    """A row and its ledger; a generator that asks for averages."""
    found, entries = yield from METHODS[row["bound"]](row, paid, setting, what, left)
    allowed, margin = setting.allowed(row), setting.margin(row, found["value"])
    found |= {"value": found["value"] + margin, **({"tolerance": margin} if margin else {})}
    guess = math.log2(setting.guess) if row["metric"] == "bpd" else 1 - int(row["metric"][3:-6]) / setting.guess
    found |= {"gap": row["value"] - row["empirical"], "random_guess": guess, "delta": float(setting.delta)}
    agree(row, found, what, allowed)
    rounding = max(1e-9, allowed - 1e-6) * max(1, abs(found["value"]))
    need(row["value"] >= found["value"] - rounding, f"{what} states less than it may")
    need(row["vacuous"] == (row["value"] >= row["random_guess"]), f"{what} contradicts itself on being vacuous")
    entries = {(name, link): amount for link, part in entries.items() for name, amount in part.items()}
    stated = {(each["name"], each.get("link")): each["amount"] for each in paid["entries"]}
    need(len(stated) == len(paid["entries"]) and entries.keys() <= stated.keys(), f"{what}: its ledger lacks entries")
    # The price of an error's bets follows from the bound, whose last digits m tokens multiply.
    agree(stated, entries, f"the ledger of {what}", 1e-8 + 1e-13 * setting.tokens)
    left += [f"ROW {what}: entry {name} of its ledger" for name, _ in stated.keys() - entries.keys()]
    known = {*found, "metric", "bound", "vacuous", "alpha", "alphas", "lambda", "kappa", "links"}
    left += [f"ROW {what}: {key}" for key in row.keys() - known]


def check_single(row, paid, setting, what, left):
    """Numbers and ledger of a row over tokens or units of one model."""
    kind, size, count, lambda_, kappas = row["bound"], setting.size, setting.tokens, row["lambda"], setting.kappas(-1)
    k, unit = None if row["metric"] == "bpd" else int(row["metric"][3:-6]), UNITS.get(kind)
    right = not unit or setting.plan.whole or (unit == "documents" and not setting.sampled)
    need(right, f"{what} has no units")
    bets, head = kind not in ("azuma", "documents", "sequences"), bool(setting.own) and not unit and not k
    centred = bets and not unit and not (k and kind == "freedman") and kappas != [0.0]
    chosen = centred and (setting.sampled or not k)  # errors of all tokens average the wealth of all centres
    alpha, own, kappa = row["alpha"], tuple(row.get("alphas", ())), row.get("kappa", 0.0)
    right = alpha is None if k or own else alpha in setting.grids["alphas"]
    need(right and (not own or (head and own == setting.own)), f"{what} has an alpha of no grid")
    least = own[0] if own else alpha
    (low, high), span = ((0.0, 1.0), 1.0) if k else (interval(least, size), float(width(least, size)))
    right = kappa in (kappas if centred and not own else [0.0])
    betting = bets and not unit and (not k or (chosen and kappa > 0))
    right &= not (betting or (bets and unit)) or on_grid(lambda_, setting.lambdas, high)
    need(right, f"{what} has a lambda or a kappa of no grid")

    ways, centres = 1 if k else len(setting.grids["alphas"]) + head, len(kappas) if chosen else 1
    about = {"message": sum(setting.models[-1].messages.values()), "alpha_grid": math.log2(ways)}
    about |= {"centre_grid": math.log2(centres)} if centres > 1 else {}
    nats = sum(about.values()) * LN2 - math.log(setting.general)
    about |= {"delta_generalization": setting.general, "confidence": -math.log(setting.general)}
    entries = setting.entries(1 + (head and kind == "azuma"), **about)
    cell, price = float(setting.sampling / entries["sampling_cells"]), math.log(setting.lambdas) if bets or own else 0.0
    one = Bets(*np.array([lambda_ or 0.0, centre(setting.most, k, kappa), nats + price, low, high, 1.0])[:, None])

    def averages(part):
        weights = part["alpha"] if own else alpha
        loss = (part["rank"] > k) * 1.0 if k else smooth(part["nll"][-1], weights, size)
        if betting:
            return bet_on([loss], one, [centre(part["entropy"][-1], k, kappa)])
        return [loss, width(weights, size) ** 2] if own else [loss]

    def bound(loss, square=None):
        """The bound and the price of its λ, from the average loss and that of squared ranges."""
        if k:
            return errors(kind, loss, nats, count, setting.lambdas)
        least = np.min(guesses + square / guesses) / 2 if own else span
        return azuma(loss, least, nats + price, count), price

    by_entropy = k and centred and not chosen
    found = yield "entropies" if by_entropy else unit or "tokens", setting.subset, averages
    if by_entropy:
        counts, wrong = found
        value, price = centred_errors(wrong, counts, centre(np.arange(len(counts)) / 8, k, np.c_[kappas]), nats)
        plain, mean = value, wrong.sum() / counts.sum()
    elif unit:
        mean, entries["units"] = found[0].mean(), (units := len(found[0]))
        value = plain = bet_on_units(found[0], lambda_, nats + price) if bets else azuma(mean, span, nats, units)
    elif betting:
        (plain,), more = bound_bets(kind, one, found, setting, cell)
        value, mean = plain + more, found.means[0]
    else:
        ends, draws = [(low, high)], setting.plan.draws if k and not chosen else setting.plan.later
        if own:
            narrow, wide = (float(width(each, size)) for each in (own[-1], own[0]))
            guesses, span = np.geomspace(narrow, wide, setting.lambdas), math.sqrt(found.means[1])
            ends.append((narrow**2 * (1 - 1e-9), wide**2 * (1 + 1e-9)))
        highest = [found.upper(index, *pair, cell, draws) for index, pair in enumerate(ends)]
        (value, price), (plain, _) = bound(*highest), bound(*found.means)
        mean = found.means[0]
    entries |= {"lambda_grid": price, "complexity": nats + price}
    found = {"value": value, "empirical": mean, "sampling": max(0.0, value - plain), "complexity": nats + price}
    return found | {"range": high if bets and not k else span}, {None: entries}


def check_pilot(rows, setting, what):
    """Whether the pilot's averages choose the cells of rows on bits per token; a generator that asks for them.

    docs/bounds.md, "Choosing on a pilot": the cell of the smallest bound to be expected from the other draws.
    """
    size, plan, kappas, own = setting.size, setting.plan, setting.kappas(-1), setting.own
    cells = [(alpha, kappa) for alpha in setting.grids["alphas"] for kappa in kappas] + [(None, 0.0)] * bool(own)
    grids = {alpha: fractions(setting.lambdas) / interval(alpha or own[0], size)[1] for alpha, _ in cells}

    def averages(part):
        found, entropy = [part["entropy"][-1]], part["entropy"][-1]
        for alpha, kappa in cells:
            weights = part["alpha"] if alpha is None else np.full(len(entropy), alpha)
            loss = smooth(part["nll"][-1], weights, size)
            found += [loss, width(weights, size) ** 2, *np.log1p(-grids[alpha][:, None] * (loss - kappa * entropy))]
        return found

    found = yield "pilot", None, averages
    means, sums, left = found.over(plan.pilot), found.sums, plan.later.sum()
    means, sums = means[1:].reshape(len(cells), -1), sums[1:].reshape(len(cells), -1, sums.shape[1])
    for row in rows:
        kind, nats, guesses = row["bound"], row["complexity"], {}
        log = 0.5 * math.log(64) - math.log(setting.sampling / setting.sharing / (1 + (bool(own) and kind == "azuma")))
        nats -= math.log(setting.lambdas) if kind == "azuma" and "alphas" in row else 0.0

        def wide(spread, span, log=log):
            """How wide an interval from the other draws is about to be (docs/bounds.md)."""
            return (log * span / 1.5 + np.sqrt((log * span / 1.5) ** 2 + 8 * left * log * spread**2)) / (2 * left)

        for (alpha, kappa), (mean, square, *logs), total in zip(cells, means, sums, strict=True):
            (low, high), lambdas, logs = interval(alpha or own[0], size), grids[alpha], np.array(logs)
            if kind == "azuma":
                risk = mean + wide(found.spread(total[:1]), width(alpha or own[0], size))
                guesses[alpha, kappa] = azuma(risk, math.sqrt(square), nats, setting.tokens)
                continue
            most, entropies = np.full(len(logs), kappa * setting.most), found.sums[0]
            _, slopes, least, most = tangent(kind, logs, lambdas, nats / setting.tokens, low, high, most)
            spread = found.spread(kappa * entropies - slopes[:, None] * total[2:])
            values = kappa * found.over(plan.pilot)[0] + bet(kind, logs, lambdas, nats, setting.tokens)
            guesses[alpha, kappa] = values + wide(spread, most - least)
        stated = guesses[row["alpha"], row.get("kappa", 0.0)]
        if kind != "azuma":
            stated = stated[np.argmin(np.abs(grids[row["alpha"]] - row["lambda"]))]
        least = min(np.min(each) for each in guesses.values())
        need(np.min(stated) <= least + 1e-8, f"{what} {kind}: its cell is not what the first draws choose")


def candidates(setting, whole, alone):
    """N of a chain's candidates (docs/bounds.md, "Which chain", "Control variates alone")."""
    alphas, link_alphas, betas = (len(setting.grids[key]) for key in ("alphas", "link_alphas", "link_betas"))
    further, kept = (alphas if alone else link_alphas) * (1 if whole else betas), 0
    for model in range(len(setting.models) - 1):  # paths that end with this model or one before it
        kept += (alphas + kept * further) * (1 if whole else len(setting.kappas(model)))
    return (alphas + kept * further * (1 if whole else 3)) * len(setting.kappas(-1))  # 3 splits of delta


def check_chain(row, paid, setting, what, left):
    """Numbers and ledger of a telescoped, mixture or control_variates row: every link, and their sum."""
    links, models, whole = row["links"], setting.models, row["bound"] == "mixture"
    alone = row["bound"] == "control_variates"  # nothing is mixed; references' links have their coefficients as weights
    names, alphas = [model.name for model in models], links[-1]["alphas"]
    path, last = [names.index(name) for name in links[-1]["messages"]], len(links[-1]["messages"]) - 1
    stated = [link["weight"] for link in links[:-1]] if alone else [link["beta"] for link in links[1:]]
    betas = [0.0, *([1.0] * last if whole else stated)]
    right = path == sorted(set(path)) and path[-1] == len(names) - 1 and len(links) == (1 if whole else len(path))
    grids = [setting.grids["link_alphas" if place and not alone else "alphas"] for place in range(len(path))]
    right &= all(alpha in grid for alpha, grid in zip(alphas, grids, strict=True))
    right &= whole or all(beta in setting.grids["link_betas"] for beta in betas[1:])
    need(right, f"{what} is no candidate of its chain and its grids")
    shares = [Fraction(each["amount"]) for each in paid["entries"] if each["name"] == "delta" and each.get("link")]
    splits = [[ratio**place for place in range(len(links))] for ratio in (Fraction(1), Fraction(1, 8), Fraction(8))]
    right = shares in ([setting.general * each / sum(split) for each in split] for split in splits)
    need(right, f"{what} splits delta otherwise than it may")

    size, held, ends, bits = models[path[0]].size, {}, [], []
    for place, (model, alpha, beta) in enumerate(zip(path, alphas, betas, strict=True)):
        held |= models[model].messages
        bits.append(sum((models[model].messages if alone and place < last else held).values()))
        low, high = interval(alpha, models[model].size)
        if alone and place == last:
            low -= np.dot(betas[1:], [top for _, top in ends])
        elif place and not alone:  # the model before loses `before` at most
            before = math.log2(size / math.prod(alphas[:place]))
            low, high = -math.log2((1 - alpha) * 2**before + alpha), (1 - beta) * before - math.log2(alpha)
        ends.append((low, high))
    deciding, factors = path, [*betas[1:], 1.0] if alone else np.cumprod([1.0, *betas[:0:-1]])[::-1]
    if whole:  # one link, whose centre is the last model's entropy
        bits, deciding, factors = bits[-1:], path[-1:], [1.0]
        ends = [(0.0, math.log2(size / math.prod(alphas)))] if last else ends
    total, price = candidates(setting, whole, alone), math.log(setting.lambdas)
    confidence = [-math.log(share) for share in shares]
    nats = np.array(bits) * LN2 + math.log(total) + confidence + price
    own, kappas = np.array([[link.get(key, 0.0) for link in links] for key in ("lambda", "kappa")])
    bets = Bets(own, kappas * setting.most, *map(np.array, (nats, *zip(*ends, strict=True), factors)))
    right = all(kappa in setting.kappas(model) for kappa, model in zip(kappas, deciding, strict=True))
    need(right and on_grid(bets.lambdas, setting.lambdas, bets.high), f"{what} has a lambda or a kappa of no grid")

    def averages(part):
        mixed, losses = 1 / size, []
        for model, alpha in zip(path, alphas, strict=True):
            mixed = (1 - alpha) * np.exp2(-part["nll"][model]) + alpha * (1 / models[model].size if alone else mixed)
            losses.append(-np.log2(mixed))
        if alone:
            losses[-1] = losses[-1] - sum(beta * loss for beta, loss in zip(betas[1:], losses, strict=False))
        elif not whole:
            changes = zip(losses, betas, [0.0, *losses], strict=False)
            losses = [loss - beta * before for loss, beta, before in changes]
        return bet_on(losses[-len(links) :], bets, kappas[:, None] * [part["entropy"][model] for model in deciding])

    found = yield "tokens", None, averages
    values, extra = bound_bets(row["bound"], bets, found, setting, float(setting.sampling / setting.sharing))
    extra = max(0.0, extra)
    numbers = {"value": values + extra / len(links) / bets.weights, "empirical": found.means[: len(links)]}
    numbers |= {"range": bets.high, "complexity": nats, "weight": bets.weights, "delta": np.array(shares, float)}
    entries = {None: setting.entries(1, chain_candidates=float(total), chain_choice=math.log2(total))}
    for place, link in enumerate(links):
        reached = slice(place if alone and place < last else 0, len(path) if whole else place + 1)
        parts = {"messages": [names[model] for model in path[reached]], "alphas": alphas[reached]}
        parts |= {"beta": Fraction(0.0 if whole or alone else betas[place])}
        parts |= {name: column[place] for name, column in numbers.items()}
        agree(link, parts, f"link {place + 1} of {what}", setting.allowed(row))
        left += [f"ROW {what}: {key} of a link" for key in link.keys() - {*parts, "lambda", "kappa"}]
        entries[place + 1] = {"delta": shares[place], "message": bits[place], "lambda_grid": price}
        entries[place + 1] |= {"confidence": confidence[place], "complexity": nats[place]}
    sums = {name: bets.weights @ numbers[name] for name in ("value", "empirical", "range")}
    return sums | {"sampling": extra, "complexity": nats[-1]}, entries


METHODS = {**dict.fromkeys((*SINGLE, *UNITS), check_single), **dict.fromkeys(CHAINED, check_chain)}


def check_rows(part, setting, what, left):
    """Checks (generators) of the rows of a certificate, or of a subset, and of how they divide delta."""
    keys = [(row["metric"], row["bound"]) for row in part["rows"]]
    paid = {(row["metric"], row["bound"]): row for row in part["ledger"]["rows"]}
    need(sorted(keys) == sorted(setting.keys) == sorted(paid), f"{what}: other rows than its settings and ledger name")
    need(Fraction(part["ledger"]["delta"]) == setting.delta * len(keys), f"{what}: its ledger has another delta")
    left += [f"ROW of a bound that it does not know: {what} {'/'.join(key)}" for key in keys if key[1] not in METHODS]
    known = [(row, key) for row, key in zip(part["rows"], keys, strict=True) if key[1] in METHODS]
    return [check_row(row, paid[key], setting, f"{what} {'/'.join(key)}", left) for row, key in known]


def label_codes(column, folder, manifest):
    """The labels of tokens [n], from the tokens themselves or from their places in the corpus."""
    if column.get("codes_of_tokens") is not None:
        return lambda token, place: np.array(column["codes_of_tokens"])[token]
    path = folder / manifest["annotations_file"]["file"]
    values = pq.read_table(path, columns=[column["name"]])[column["name"]].to_numpy()
    need(len(values) == manifest["tokens"], f"{path} has not one label for each token")
    return lambda token, place: values[place]


def check_subsets(content, models, plan, delta, columns, source, left):
    """Checks of the rows of every label that occurs; labels with the same tokens make one statement."""
    names, parts = content["bounds"]["subsets"], []
    parts += [part["labels"] for part in read_parts(*source)] if names else []
    codes = {name: np.concatenate([part[name] for part in parts]) for name in names}
    keys = [(name, code) for name in names for code in np.unique(codes[name]).tolist()]
    tokens = {key: hashlib.sha256(np.packbits(codes[key[0]] == key[1])).digest() for key in keys}
    counts = {key: np.count_nonzero(codes[key[0]] == key[1]) for key in keys}
    title = {key: [key[0], columns[key[0]]["categories"][key[1]]] for key in keys}
    stated = content.get("subsets", [])
    need([[each["column"], each["label"]] for each in stated] == list(title.values()), "other subsets than labels")
    for each, key in zip(stated, keys, strict=True):
        group, what = [other for other in keys if tokens[other] == tokens[key]], " ".join(title[key])
        need(not plan.sampled and each["tokens"] == counts[key], f"{what} has {counts[key]} tokens")
        need(each.get("repeats") == (None if key == group[0] else title[group[0]]), f"{what} repeats another label")
        share = sum((delta / len(columns[name]["categories"]) for name, _ in group), Fraction(0))
        yield from check_rows(each, Setting(content, models, plan, share, each, key), what, left)


def check_faithfulness(content, plan, model, delta):
    """Checks of the rows about how predictions differ from the original's, which spend `delta`."""
    stated, spec, rows = content["faithfulness"], content["bounds"], content["faithfulness"]["rows"]
    ends = {"kl_bits": math.log2(model.size) + 16, "first_choice_changed": 1.0}
    said = stated["original"]["sha256"], stated["smoothing"], Fraction(stated["delta"])
    need(said == (model.original, 2**-16, delta), "faithfulness names another model, smoothing or delta")
    overs = ["tokens", *(["documents"] if delta and not plan.sampled else [])]
    keys = [(over, metric) for over in overs for metric in ends]
    need(keys == [(row["over"], row["metric"]) for row in rows], "other rows about faithfulness")
    own, sharing = delta / 2, spec["certificates_per_sample"]

    def check(row):
        over, metric, nats = row["over"], row["metric"], 0.0
        paid, high = own if over == "documents" or plan.sampled else Fraction(0), ends[row["metric"]]
        found = yield over, None, lambda part: [part[metric]]
        if over == "tokens":
            mean, value = found.means[0], found.upper(0, 0.0, high, float(paid / sharing), plan.draws)
        else:
            mean, nats = found[0].mean(), math.log(spec["lambdas"]) - math.log(own)
            need(on_grid(row["lambda"], spec["lambdas"], high), "a lambda of no grid")
            value = bet_on_units(found[0], row["lambda"], nats)
        numbers = {"range": high, "complexity": nats, "value": value, "empirical": mean, "delta": paid}
        agree(row, numbers, f"{metric} over {over}")

    return map(check, rows)


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
    beside, manifest = Path(record["file"]).parent, read_json((folder / record["file"]).read_bytes())
    home = folder / beside
    same = {key: manifest[key] for key in ("source", "licence", "tokenizer", "documents")}
    same |= {"shards": [{**each, "file": f"{beside}/{each['file']}"} for each in manifest["shards"]]}
    for key in {"documents_file", "annotations_file"} & manifest.keys():
        same[key] = {**manifest[key], "file": f"{beside}/{manifest[key]['file']}"}
    right = content["corpus"] == manifest["corpus"] and same.items() <= record.items()
    right &= ("reference" in content) == ("reference" in manifest)
    right &= "reference" in content or content["tokens"] == manifest["tokens"]
    need(right, "the certificate says something else of its corpus")
    corpus = Corpus(home, manifest)
    check_training(content, folder, manifest, check_documents(home, manifest, corpus), left)
    plan = Plan(folder / content["plan"]["file"], content["plan"], record["sha256"], corpus, manifest.get("reference"))
    named = {"manifest_sha256": record["sha256"], "plan_sha256": content["plan"]["sha256"]}
    models = [Model(link, folder, plan, named, content["prior"]["kind"] != "held_out") for link in links]
    models[-1].centred = (order := content["bounds"].get("centre_order", 0)) > 0
    need(order in (0, models[-1].order), "its scores have no cross-entropies of this order")
    need(models[-1].size == content["vocabulary_size"] and plan.scored == content["scored_tokens"], "other scores")
    for link, model in zip(links, models, strict=True):
        if "blocks" in link:
            check_blocks(link["blocks"], model, plan, read_parts([model], plan, corpus, {}))
    columns, names = {each["name"]: each for each in manifest.get("labels", ())}, content["bounds"]["subsets"]
    source = models, plan, corpus, {name: label_codes(columns[name], home, manifest) for name in names}
    delta, strays = Fraction(str(content["bounds"]["delta"])), content["bounds"].get("faithfulness", False)
    new = content["prior"]["kind"] == "held_out" and {"documents", "documents_betting"} & {*content["bounds"]["bounds"]}
    delta -= check_reference(content, home, manifest, corpus, delta) if "reference" in content else 0
    spent = delta / 10 if strays and (plan.sampled or new) else Fraction(0)
    delta = (delta - spent) / (1 + len(names))
    need(content["delta"] == content["bounds"]["delta"], "another delta than the settings have")
    setting = Setting(content, models, plan, delta, content)
    checks = list(check_rows(content, setting, "row", left))
    chosen = [row for row in content["rows"] if row["metric"] == "bpd" and row["bound"] in SINGLE and plan.pilot.any()]
    pilots = [check_pilot(chosen, setting, "row")] if chosen else []
    own = any(setting.kappas(-1))  # then rows of errors, too, have a cell that the pilot chose
    others = [row for row in content["rows"] if row.get("links") or (own and row["metric"] != "bpd")]
    left += ["that the pilot chose candidates of chains, or centres of errors"] if others and plan.pilot.any() else []
    checks += check_subsets(content, models, plan, delta, columns, source, left)
    need(("faithfulness" in content) == strays, "rows about faithfulness are there without being asked for, or missing")
    checks += check_faithfulness(content, plan, models[-1], spent) if strays else []
    run([*checks, *pilots], read_parts(*source), plan, corpus.documents)
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
