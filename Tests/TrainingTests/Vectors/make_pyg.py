#!/usr/bin/env python3
"""Writes pyg.json: three training steps of each kind of model by PyTorch Geometric, in float64.

The tests hold the device's programs and the float64 twin to it. Run it in the environment that `scripts/bench training`
makes (torch 2.2.1, torch_geometric 2.8), in this folder: python make_pyg.py
"""
import json, math
import numpy as np
import torch
import torch.nn.functional as F
from torch_geometric.nn import GATConv, GCNConv, RGCNConv, SAGEConv

torch.set_default_dtype(torch.float64)
NODES, FEATURES, HIDDEN, CLASSES, SEED, STEPS, RATE = 30, 5, 8, 3, 7, 3, 0.01


def philox(key, counter):
    k0, k1 = key
    c = list(counter)
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32) ^ c[1] ^ k0, b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k1, a & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def initial(rows, columns, stream):
    """What the device's Initialise makes: uniform within the bound of Glorot & Bengio 2010."""
    bound = np.float32(math.sqrt(6 / (rows + columns)))
    out = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            word = philox((SEED, 0), (j // 4, i, 0xFFFFFFFF, stream))[j % 4]
            out[i, j] = np.float32(np.float32((word >> 8) / 8388608 - 1) * bound)
    return torch.tensor(out)


random = np.random.default_rng(1)
x = torch.tensor(random.normal(size=(NODES, FEATURES)).astype(np.float32)).double()
relations = {}
for name in ("a:first", "b:second"):
    pairs = {(int(s), int(t)) for s, t in random.integers(0, NODES - 2, size=(40, 2)) if s != t}  # two isolated nodes
    relations[name] = sorted(pairs)
labels = random.integers(0, CLASSES, size=NODES)
sets = (random.random(size=(NODES, CLASSES)) < 0.4).astype(int)
targets = random.normal(size=NODES).astype(np.float32)
split = [["train", "validation", "test"][i % 3] for i in range(NODES)]
train = torch.tensor([s == "train" for s in split])
both = {(s, t) for pairs in relations.values() for s, t in pairs} | {(t, s) for pairs in relations.values() for s, t in pairs}
edges = torch.tensor(sorted(both)).T  # source, target; symmetric
typed, kinds = [], []
for number, name in enumerate(sorted(relations)):
    # A forward relation's row is the subject, its neighbours are the objects: messages go from object to subject.
    typed += [(t, s) for s, t in relations[name]] + relations[name]
    kinds += [2 * number] * len(relations[name]) + [2 * number + 1] * len(relations[name])
typed, kinds = torch.tensor(typed).T, torch.tensor(kinds)


class Model(torch.nn.Module):
    def __init__(self, kind, widths, norm, residual, heads=2):
        super().__init__()
        self.kind, self.norm, self.residual, self.heads = kind, norm, residual, heads
        self.convs, self.norms, self.names = torch.nn.ModuleList(), torch.nn.ModuleList(), []
        last = len(widths) - 2
        for layer, (a, b) in enumerate(zip(widths, widths[1:])):
            if kind == "gcn": conv = GCNConv(a, b)
            elif kind == "sage": conv = SAGEConv(a, b)
            elif kind == "gat": conv = GATConv(a, b // heads if layer < last else b, heads, concat=layer < last)
            else: conv = RGCNConv(a, b, 2 * len(relations), aggr="mean")
            self.convs.append(conv)
            if layer < last and norm: self.norms.append(torch.nn.LayerNorm(b))
        self.take_initial(widths, last)

    def take_initial(self, widths, last):
        """Parameters by the layout's order and names, as closures that read and write them."""
        stream = 0
        self.parameters_by_name = {}

        def put(name, rows, columns, tensor, transposed=False, kind="matrix"):
            nonlocal stream
            value = initial(rows, columns, stream) if kind == "matrix" else torch.full((rows, columns), float(kind == "one"))
            stream += 1
            with torch.no_grad(): tensor.copy_((value.T if transposed else value).reshape(tensor.shape))
            self.parameters_by_name[name] = (tensor, transposed, rows, columns)

        for layer, (a, b) in enumerate(zip(widths, widths[1:])):
            conv, name = self.convs[layer], f"layers.{layer + 1}."
            if self.kind == "gcn":
                put(name + "weight", a, b, conv.lin.weight, True)
                put(name + "bias", 1, b, conv.bias, kind="zero")
            elif self.kind == "sage":
                put(name + "weight", a, b, conv.lin_l.weight, True)
                put(name + "root", a, b, conv.lin_r.weight, True)
                put(name + "bias", 1, b, conv.lin_l.bias, kind="zero")
            elif self.kind == "gat":
                wide = b if layer < last else b * self.heads
                put(name + "weight", a, wide, conv.lin.weight, True)
                put(name + "attention_source", 1, wide, conv.att_src)
                put(name + "attention_target", 1, wide, conv.att_dst)
                put(name + "bias", 1, b, conv.bias, kind="zero")
            else:
                for relation in range(2 * len(relations)): put(name + f"relations.{relation}", a, b, conv.weight[relation])
                put(name + "root", a, b, conv.root)
                put(name + "bias", 1, b, conv.bias, kind="zero")
            if layer < last and self.norm:
                put(name + "norm_scale", 1, b, self.norms[layer].weight, kind="one")
                put(name + "norm_shift", 1, b, self.norms[layer].bias, kind="zero")

    def forward(self):
        h = x
        for layer, conv in enumerate(self.convs):
            out = conv(h, typed, kinds) if self.kind == "rgcn" else conv(h, edges)
            if layer + 1 < len(self.convs):
                if self.norm: out = self.norms[layer](out)
                out = F.elu(out) if self.kind == "gat" else F.relu(out)
                if self.residual and out.shape == h.shape: out = out + h
            h = out
        return h

    def values(self, gradient=False):
        out = {}
        for name, (tensor, transposed, rows, columns) in self.parameters_by_name.items():
            source = tensor
            if gradient:
                source = self.relation_gradient(name) if "relations." in name else tensor.grad
            value = (source.T if transposed else source).detach().reshape(rows, columns)
            out[name] = [float(f"{v:.12g}") for v in value.flatten()]
        return out

    def relation_gradient(self, name):
        layer, relation = int(name.split(".")[1]) - 1, int(name.split(".")[3])
        return self.convs[layer].weight.grad[relation]


def loss(task, out):
    if task == "classification": return F.cross_entropy(out[train], torch.tensor(labels)[train])
    if task == "multilabel": return F.binary_cross_entropy_with_logits(out[train], torch.tensor(sets)[train].double())
    return F.mse_loss(out[train][:, 0], torch.tensor(targets).double()[train])


cases = []
for kind, task, hidden, norm, residual in [
    ("gcn", "classification", [8], False, False), ("sage", "classification", [8], False, False),
    ("gat", "classification", [8], False, False), ("rgcn", "classification", [8], False, False),
    ("gcn", "multilabel", [8, 8], True, True), ("sage", "regression", [8, 8], True, True),
    ("gat", "multilabel", [8, 8], True, True), ("rgcn", "regression", [8], True, False),
]:
    outputs = 1 if task == "regression" else CLASSES
    model = Model(kind, [FEATURES] + hidden + [outputs], norm, residual)
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    losses, gradient = [], None
    for _ in range(STEPS):
        optimiser.zero_grad()
        value = loss(task, model())
        value.backward()
        losses.append(value.item())
        gradient = gradient or model.values(gradient=True)
        optimiser.step()
    cases.append({"model": kind, "task": task, "hidden": hidden, "layerNorm": norm, "residual": residual,
                  "losses": losses, "firstGradient": gradient, "weights": model.values()})

json.dump({
    "nodes": NODES, "features": [float(v) for v in x.flatten()], "relations": relations,
    "labels": labels.tolist(), "sets": sets.flatten().tolist(), "targets": [float(v) for v in targets], "split": split,
    "seed": SEED, "rate": RATE, "heads": 2, "cases": cases}, open("pyg.json", "w"), separators=(",", ":"))
