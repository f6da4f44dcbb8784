"""Answers lines such as "gcn 3" with the seconds of that many training epochs of a peer, as JSON.

usage: peer.py dgl|pyg FOLDER FEATURES HIDDEN CLASSES THREADS

Two layers, relu (elu for gat, of four heads and one) and dropout 0.5 between them, Adam, weight decay on the first layer, cross-entropy over the training
nodes: forward, backward and step, no evaluation. The same as `sekisho-bench training`.
"""
import json
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

peer, folder = sys.argv[1:3]
width, hidden, classes, threads = map(int, sys.argv[3:])
torch.set_num_threads(threads)
torch.manual_seed(1)
HEADS = 4

indptr = torch.from_numpy(np.fromfile(f"{folder}/indptr.bin", np.int64))
indices = torch.from_numpy(np.fromfile(f"{folder}/indices.bin", np.int32).astype(np.int64))
nodes = len(indptr) - 1
features = torch.from_numpy(np.fromfile(f"{folder}/features.bin", np.float32).reshape(nodes, width))
labels = torch.from_numpy(np.fromfile(f"{folder}/labels.bin", np.int32).astype(np.int64))
train = torch.from_numpy(np.fromfile(f"{folder}/split.bin", np.uint8) == 1)
rows = torch.repeat_interleave(torch.arange(nodes), indptr[1:] - indptr[:-1])

if peer == "dgl":
    import dgl

    graph = dgl.graph((indices, rows), num_nodes=nodes)
    looped = dgl.add_self_loop(graph)
    # Made before the clock starts, as a user's first epoch would.
    for one in (graph, looped):
        one.create_formats_()

    class Model(torch.nn.Module):
        def __init__(self, kind):
            super().__init__()
            layer = {
                "gcn": lambda i, o: dgl.nn.GraphConv(i, o, norm="both"),
                "sage": lambda i, o: dgl.nn.SAGEConv(i, o, "mean"),
                "gat": lambda i, o: dgl.nn.GATConv(i, o // HEADS if o == hidden else o, HEADS if o == hidden else 1),
            }[kind]
            self.graph = graph if kind == "sage" else looped
            self.act = F.elu if kind == "gat" else F.relu
            self.first, self.second = layer(width, hidden), layer(hidden, classes)

        def forward(self, x):
            # GATConv keeps heads apart: [nodes, heads, width].
            x = F.dropout(self.act(self.first(self.graph, x).flatten(1)), 0.5, self.training)
            return self.second(self.graph, x).flatten(1)
else:
    import torch_geometric.nn as nn

    edges = torch.stack([indices, rows])

    class Model(torch.nn.Module):
        def __init__(self, kind):
            super().__init__()
            layer = {
                "gcn": lambda i, o: nn.GCNConv(i, o, cached=True),
                "sage": nn.SAGEConv,
                "gat": lambda i, o: nn.GATConv(i, o // HEADS if o == hidden else o, HEADS if o == hidden else 1),
            }[kind]
            self.act = F.elu if kind == "gat" else F.relu
            self.first, self.second = layer(width, hidden), layer(hidden, classes)

        def forward(self, x):
            x = F.dropout(self.act(self.first(x, edges)), 0.5, self.training)
            return self.second(x, edges)


models = {}


def epoch(model, optimiser):
    start = time.perf_counter()
    model.train()
    optimiser.zero_grad()
    loss = F.cross_entropy(model(features)[train], labels[train])
    loss.backward()
    optimiser.step()
    return time.perf_counter() - start


for line in sys.stdin:
    kind, count = line.split()[:2]
    if kind not in models:
        model = Model(kind)
        optimiser = torch.optim.Adam(
            [
                {"params": model.first.parameters(), "weight_decay": 5e-4},
                {"params": model.second.parameters(), "weight_decay": 0},
            ],
            lr=0.01,
        )
        models[kind] = (model, optimiser)
        epoch(model, optimiser)
    print(json.dumps({"seconds": [epoch(*models[kind]) for _ in range(int(count))]}), flush=True)
