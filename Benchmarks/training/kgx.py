"""Writes a KGX data set as the raw arrays that rmat.py writes: its symmetric simple graph, features as they stand.

usage: kgx.py DATA-SET OUT HIDDEN
"""
import gzip
import json
import os
import sys

import numpy as np

source, out, hidden = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(f"{source}/nodes.tsv") as file:
    header, *lines = (line.rstrip("\n").split("\t") for line in file)
number = {line[header.index("id")]: row for row, line in enumerate(lines)}
labels = np.array([int(line[header.index("label")]) for line in lines], np.int32)
names = {"none": 0, "train": 1, "val": 2, "test": 3}
split = np.array([names[line[header.index("split")]] for line in lines], np.uint8)
plain = f"{source}/edges.tsv"
with open(plain) if os.path.exists(plain) else gzip.open(plain + ".gz", "rt") as file:
    next(file)
    pairs = np.array([[number[line.split("\t")[0]], number[line.rstrip("\n").split("\t")[2]]] for line in file])
nodes = len(lines)
a, b = pairs[pairs[:, 0] != pairs[:, 1]].T
keys = np.unique(np.concatenate([a * nodes + b, b * nodes + a]))
if os.path.exists(f"{source}/features.npy"):
    features = np.load(f"{source}/features.npy").astype(np.float32)
else:
    pointers, columns, values = (
        np.load(f"{source}/features_{part}.npy") for part in ("indptr", "indices", "data"))
    features = np.zeros((nodes, json.load(open(f"{source}/meta.json"))["features"]), np.float32)
    features[np.repeat(np.arange(nodes), np.diff(pointers)), columns] = values
os.makedirs(out, exist_ok=True)
np.searchsorted(keys, np.arange(nodes + 1, dtype=np.int64) * nodes).astype(np.uint64).tofile(f"{out}/indptr.bin")
(keys % nodes).astype(np.uint32).tofile(f"{out}/indices.bin")
features.tofile(f"{out}/features.bin")
labels.tofile(f"{out}/labels.bin")
split.tofile(f"{out}/split.bin")
with open(f"{out}/meta.json", "w") as file:
    json.dump(
        {"nodes": nodes, "edges": len(keys), "features": features.shape[1], "classes": int(labels.max()) + 1,
         "hidden": hidden}, file)
