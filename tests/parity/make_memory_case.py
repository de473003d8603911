#!/usr/bin/env python3
"""make_memory_case.py - a small case of an output memory, and what NumPy makes of it.

    make_memory_case.py DIR    write it (tests/data/memory)

Needs numpy; the test (tests/unit/test_memory.c) needs nothing of this. DIR gets

    golden.json          theta, edges, lambda and centre; tokens that followed; per query its best
                         cosine and the ids of all its hits, best first
    pairs/logits.npy     float32 [pairs][width]: hidden states, which are keys once they are centred
    queries/logits.npy   float32 [queries][width]: hidden states that are looked up
    model/logits.npy     float32 [queries][vocabulary]: what the model says
    mixed/logits.npy     float32 [queries][vocabulary]: probabilities of the mixture

Numbers come from NumPy's generator, with clusters, as hidden states have them. Keys are rounded to
float16, as pages hold them; all that follows is float64.
"""
import json
import pathlib
import sys

import numpy as np

PAIRS, QUERIES, WIDTH, VOCABULARY, K = 1500, 12, 24, 64, 1024
THETA = 11.0


def normalise(x):
    """Of float32, which it stays: another rounding here would be another float16 there."""
    norm = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    return x * (1 / norm).astype(np.float32)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def main(folder):
    rng = np.random.default_rng(9)
    centre = rng.normal(size=WIDTH).astype(np.float32)
    clusters = rng.normal(size=(40, WIDTH))
    def states(n):
        which = rng.integers(0, len(clusters), n)
        return (clusters[which] + 0.4 * rng.normal(size=(n, WIDTH)) + centre).astype(np.float32)
    pairs, queries = states(PAIRS), states(QUERIES)
    queries[0] = -3 * pairs[7] + 4 * centre  # far from all that is known
    queries[1] = pairs[3]
    tokens = rng.integers(0, VOCABULARY, PAIRS)
    logits = (3 * rng.normal(size=(QUERIES, VOCABULARY))).astype(np.float32)
    edges = np.sort(rng.uniform(0.75, 0.99, 12)).astype(np.float32)
    lambdas = np.concatenate([[0.0], np.linspace(0.05, 0.6, 12)])

    keys = normalise(pairs - centre).astype(np.float16).astype(np.float64)
    looked_up = normalise(queries - centre).astype(np.float64)
    cosines = looked_up @ keys.T
    hits, best, mixed = [], [], []
    for row, says in zip(cosines, logits):
        order = np.lexsort((np.arange(PAIRS), -row))[:K]
        weights = softmax(THETA * row[order])
        memory = np.bincount(tokens[order], weights=weights, minlength=VOCABULARY)
        share = lambdas[np.searchsorted(edges, row[order[0]], side="right")]
        mixed.append((1 - share) * softmax(says.astype(np.float64)) + share * memory)
        hits.append(order.tolist())
        best.append(float(row[order[0]]))
    for name, x in [("pairs", pairs), ("queries", queries), ("model", logits), ("mixed", mixed)]:
        (folder / name).mkdir(parents=True, exist_ok=True)
        np.save(folder / name / "logits.npy", np.asarray(x, np.float32))
    golden = {"theta": THETA, "edges": edges.tolist(), "lambda": lambdas.tolist(),
              "centre": centre.tolist(), "tokens": tokens.tolist(), "best": best, "hits": hits}
    (folder / "golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
