"""Kernels of ours against DGL's and OpenBLAS's on the same shapes, interleaved in one run; the fastest of the rounds.

usage: bench.py OURS-BINARY PEERS-PYTHON GRAPH-FOLDER [--json] [--rounds N] [--threads N]
"""
import argparse
import json
import os
import subprocess
import sys

parser = argparse.ArgumentParser()
parser.add_argument("ours")
parser.add_argument("python")
parser.add_argument("graph")
parser.add_argument("--json", action="store_true")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--threads", type=int, default=2)
options = parser.parse_args()

meta = json.load(open(f"{options.graph}/meta.json"))
nodes, edges = meta["nodes"], meta["edges"]
here = os.path.dirname(os.path.abspath(__file__))
threads = str(options.threads)
environment = dict(
    os.environ, OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads, DGLBACKEND="pytorch")
# An OpenBLAS older than the processor falls back to kernels half as wide as it could use.
flags = next((line for line in open("/proc/cpuinfo") if line.startswith("flags")), "")
if "OPENBLAS_CORETYPE" not in os.environ:
    core = "SKYLAKEX" if " avx512f" in flags else "HASWELL" if " avx2" in flags else None
    if core:
        environment["OPENBLAS_CORETYPE"] = core
commands = {
    "ours": [options.ours, "kernels", options.graph, "--threads", threads],
    "peer": [options.python, f"{here}/peer.py", options.graph, threads],
}
workers = {
    name: subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    for name, command in commands.items()
}


def ask(name, question):
    worker = workers[name]
    try:
        worker.stdin.write(question + "\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        sys.exit(f"{name} stopped at '{question}'; run it by hand: {' '.join(commands[name])}")
    return json.loads(line)


def fastest(question, names=("ours", "peer")):
    seconds = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            seconds[name].append(ask(name, question)["seconds"])
    return [min(seconds[name]) for name in names]


rows = []


def note(metric, ours, peer, target, **more):
    ratio = peer / ours
    rows.append(
        {"metric": metric, "ours": ours, "peer": peer, "ratio": round(ratio, 3), "target": target,
         "ok": ratio >= target, **more})


copy_bytes = 2 * 4 * (1 << 25)
copy_rate = copy_bytes / fastest("copy", ["ours"])[0]
for width in (16, 32, 64, 128, 256, 512):
    ours, peer = fastest(f"spmm {width}")
    # Every gathered row, every row written, every neighbour's number; reads of a copy count as well as its writes.
    rate = (edges * width * 4 + nodes * width * 4 + edges * 4) / ours
    note(
        f"SpMM, width {width}, against DGL", ours, peer, 1.0, gigabytesPerSecond=round(rate / 1e9, 1),
        shareOfCopy=round(rate / copy_rate, 2))
for kind, name in (("nn", "A·B"), ("tn", "Aᵀ·B")):
    for inner, columns in ((128, 256), (256, 256), (256, 40), (512, 512), (64, 64)):
        ours, peer = fastest(f"{kind} {inner} {columns}")
        note(
            f"{name}, 65,536 rows, {inner} and {columns} columns, against OpenBLAS", ours, peer, 0.95,
            gigaflops=round(2 * 65536 * inner * columns / ours / 1e9, 1))
for heads, width in ((4, 64), (8, 32), (8, 8), (1, 40)):
    for kind in ("forward", "backward"):
        ours, peer = fastest(f"{kind} {heads} {width}")
        note(f"attention {kind}, {heads} heads of {width}, against DGL", ours, peer, 3.0)
rates = ask("ours", "rates")
for worker in workers.values():
    worker.stdin.close()
    worker.wait()

if options.json:
    print(json.dumps(rows, indent=1, ensure_ascii=False))
else:
    clock = "processor" if options.threads == 1 else "wall"
    print(
        f"R-MAT, {nodes} nodes, {edges} edges, {threads} threads; {clock} time, the fastest of {options.rounds} "
        f"interleaved rounds; copy {copy_rate / 1e9:.1f} GB/s read and written")
    for row in rows:
        more = ""
        if "shareOfCopy" in row:
            more = f"  {row['gigabytesPerSecond']} GB/s, {row['shareOfCopy']} of the copy"
        elif "gigaflops" in row:
            more = f"  {row['gigaflops']} GFLOP/s"
        print(
            f"  {row['metric']}: {row['ours'] * 1e3:.2f} / {row['peer'] * 1e3:.2f} ms, {row['ratio']} ×, "
            f"target {row['target']}  {'ok' if row['ok'] else 'NOT met'}{more}")
    print(
        f"  the device's own measurement: copy {2 * rates['copyBytes'] / 1e9:.1f} GB/s read and written, gather "
        f"{rates['wideGatherBytes'] / 1e9:.1f} (1 KiB rows) and {rates['narrowGatherBytes'] / 1e9:.1f} (32 B) GB/s, "
        f"products {rates['productFlops'] / 1e9:.0f} and {rates['tileProductFlops'] / 1e9:.0f} GFLOP/s, "
        f"dropout {rates['dropElements'] / 1e9:.2f}, a step {rates['mapElements'] / 1e9:.2f} and losses {rates['lossElements'] / 1e9:.2f} G elements/s, "
        f"edges scored {rates['scoredEdges'] / 1e6:.0f} and attended {rates['attendedEdges'] / 1e6:.0f} M/s, "
        f"opening {rates['openBytes'] / 1e9:.2f} GB/s, a command's start {rates['commandSeconds'] * 1e6:.1f} µs, "
        f"in {rates['seconds'] * 1e3:.0f} ms")
