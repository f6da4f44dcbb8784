"""Answers the questions of `sekisho-bench kernels` with the seconds that a peer takes, as JSON.

usage: peer.py GRAPH-FOLDER THREADS

spmm and attention: DGL on PyTorch (message passing as its GATConv does it; backward is autograd's). nn and tn: NumPy's
OpenBLAS. With one thread the seconds are the process's own processor time.
"""
import json
import sys
import time

import dgl
import dgl.function as fn
import dgl.ops
import numpy as np
import torch
import torch.nn.functional as F
from dgl.nn.functional import edge_softmax

folder, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
clock = time.process_time if threads == 1 else time.perf_counter
random = np.random.default_rng(1)
indptr = torch.from_numpy(np.fromfile(f"{folder}/indptr.bin", np.int64))
indices = torch.from_numpy(np.fromfile(f"{folder}/indices.bin", np.int32).astype(np.int64))
nodes = len(indptr) - 1
rows = torch.repeat_interleave(torch.arange(nodes), indptr[1:] - indptr[:-1])
graph = dgl.graph((indices, rows), num_nodes=nodes)
graph.create_formats_()
TALL = 65536


def tensor(*shape):
    return random.standard_normal(shape, dtype=np.float32)


def attention(heads, width, backward):
    z = torch.from_numpy(tensor(nodes, heads, width)).requires_grad_()
    target = torch.from_numpy(tensor(nodes, heads, 1)).requires_grad_()
    source = torch.from_numpy(tensor(nodes, heads, 1)).requires_grad_()
    gradient = torch.from_numpy(tensor(nodes, heads, width))

    def forward():
        with graph.local_scope():
            graph.ndata["z"] = z
            graph.srcdata["s"] = source
            graph.dstdata["t"] = target
            graph.apply_edges(fn.u_add_v("s", "t", "e"))
            graph.edata["a"] = edge_softmax(graph, F.leaky_relu(graph.edata.pop("e"), 0.2))
            graph.update_all(fn.u_mul_e("z", "a", "m"), fn.sum("m", "o"))
            return graph.dstdata["o"]

    if not backward:
        return None, lambda _: forward()
    return forward, lambda output: torch.autograd.grad(output, [z, target, source], gradient)


def prepare(words):
    """What is done before the clock starts each time, and what is timed."""
    kind, sizes = words[0], [int(word) for word in words[1:]]
    if kind == "spmm":
        x = torch.from_numpy(tensor(nodes, sizes[0]))
        return None, lambda _: dgl.ops.copy_u_sum(graph, x)
    if kind == "nn":
        a, b, c = tensor(TALL, sizes[0]), tensor(*sizes), np.empty((TALL, sizes[1]), np.float32)
        return None, lambda _: np.matmul(a, b, out=c)
    if kind == "tn":
        a, b, c = tensor(TALL, sizes[0]), tensor(TALL, sizes[1]), np.empty(sizes, np.float32)
        return None, lambda _: np.matmul(a.T, b, out=c)
    return attention(*sizes, kind == "backward")


kept = None
for line in sys.stdin:
    if kept is None or kept[0] != line:
        kept = None
        kept = (line, *prepare(line.split()))
        kept[2](kept[1]() if kept[1] else None)
    ready = kept[1]() if kept[1] else None
    start = clock()
    kept[2](ready)
    print(json.dumps({"seconds": clock() - start}), flush=True)
