"""From a source of documents to shards of tokens: sources, tokenizers, shards."""
