"""Writes a seeded R-MAT graph (Chakrabarti et al. 2004; a, b, c = 0.57, 0.19, 0.19) as raw little-endian arrays.

usage: rmat.py OUT SCALE PAIRS FEATURES CLASSES SEED

indptr.bin uint64 [N+1], indices.bin uint32 [E] (symmetric, simple, no loops, ascending), features.bin float32 [N, F],
labels.bin int32 [N], split.bin uint8 [N] (1 train, 2 validation, 3 test). Labels are planted: features are the class's
mean plus noise.
"""
import json
import os
import sys

import numpy as np

out, scale, pairs, width, classes, seed = sys.argv[1], *map(int, sys.argv[2:])
nodes = 1 << scale
random = np.random.default_rng(seed)
a = np.zeros(pairs, np.int64)
b = np.zeros(pairs, np.int64)
for _ in range(scale):
    draw = random.random(pairs, dtype=np.float32)
    down = draw >= 0.57 + 0.19
    right = ((draw >= 0.57) & ~down) | (draw >= 0.57 + 0.19 + 0.19)
    a = a << 1 | down
    b = b << 1 | right
shuffle = random.permutation(nodes)
a, b = shuffle[a], shuffle[b]
keep = a != b
keys = np.unique(np.concatenate([a[keep] * nodes + b[keep], b[keep] * nodes + a[keep]]))
labels = (np.arange(nodes) % classes).astype(np.int32)
means = random.standard_normal((classes, width), dtype=np.float32)
features = means[labels] * np.float32(0.3) + random.standard_normal((nodes, width), dtype=np.float32)
split = random.choice(np.array([1, 2, 3], np.uint8), nodes, p=[0.5, 0.25, 0.25])
os.makedirs(out, exist_ok=True)
indptr = np.searchsorted(keys, np.arange(nodes + 1, dtype=np.int64) * nodes).astype(np.uint64)
indptr.tofile(f"{out}/indptr.bin")
(keys % nodes).astype(np.uint32).tofile(f"{out}/indices.bin")
features.tofile(f"{out}/features.bin")
labels.tofile(f"{out}/labels.bin")
split.tofile(f"{out}/split.bin")
with open(f"{out}/meta.json", "w") as file:
    json.dump({"nodes": nodes, "edges": len(keys), "features": width, "classes": classes, "seed": seed}, file)
