"""Training epochs of ours, DGL and PyG on one R-MAT graph, interleaved in one run; medians.

usage: bench.py OURS-BINARY PEERS-PYTHON GRAPH-FOLDER [--json] [--rounds N] [--threads N] [--no-pyg]
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

parser = argparse.ArgumentParser()
parser.add_argument("ours")
parser.add_argument("python")
parser.add_argument("graph")
parser.add_argument("--json", action="store_true")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--no-pyg", action="store_true")
options = parser.parse_args()

meta = json.load(open(f"{options.graph}/meta.json"))
hidden = 256
sizes = [str(meta["features"]), str(hidden), str(meta["classes"])]
here = os.path.dirname(os.path.abspath(__file__))
environment = dict(
    os.environ, OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS=str(options.threads), DGLBACKEND="pytorch")
commands = {
    "ours": [options.ours, "training", options.graph, *sizes, "--threads", str(options.threads)],
    "dgl": [options.python, f"{here}/peer.py", "dgl", options.graph, *sizes, str(options.threads)],
}
if not options.no_pyg:
    commands["pyg"] = [options.python, f"{here}/peer.py", "pyg", options.graph, *sizes, str(options.threads)]
workers = {
    name: subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    for name, command in commands.items()
}


def ask(name, model, count):
    worker = workers[name]
    try:
        worker.stdin.write(f"{model} {count}\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        sys.exit(f"{name} stopped; run it by hand: {' '.join(commands[name])}")
    return json.loads(line)


def peak_mebibytes(name):
    with open(f"/proc/{workers[name].pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


seconds = {}
memory = {}
for model in ("gcn", "sage"):
    for name in workers:
        ask(name, model, 1)
    for _ in range(options.rounds):
        for name in workers:
            # PyG takes many times longer; fewer of its epochs keep the run short.
            answer = ask(name, model, 1 if name == "pyg" else 3)
            seconds.setdefault((name, model), []).extend(answer["seconds"])
for name in workers:
    memory[name] = peak_mebibytes(name)
for worker in workers.values():
    worker.stdin.close()
    worker.wait()

median = {key: statistics.median(values) for key, values in seconds.items()}
targets = {("dgl", "gcn"): 0.4, ("dgl", "sage"): 0.4, ("pyg", "gcn"): 0.05, ("pyg", "sage"): None}
rows = []
for peer in [name for name in workers if name != "ours"]:
    for model in ("gcn", "sage"):
        ratio = median["ours", model] / median[peer, model]
        target = targets[peer, model]
        rows.append(
            {
                "metric": f"epoch seconds, {model}, executor in process on sealed in-memory windows, against {peer}",
                "ours": round(median["ours", model], 4),
                "peer": round(median[peer, model], 4),
                "ratio": round(ratio, 4),
                "target": target,
                "ok": None if target is None else ratio <= target,
            })
rows.append(
    {
        "metric": "peak memory of the process in MiB, against dgl",
        "ours": round(memory["ours"]), "peer": round(memory["dgl"]),
        "ratio": round(memory["ours"] / memory["dgl"], 3), "target": None, "ok": None,
    })
if options.json:
    print(json.dumps(rows, indent=1))
else:
    print(
        f"R-MAT, {meta['nodes']} nodes, {meta['edges']} edges, {meta['features']} features, hidden {hidden}, "
        f"{meta['classes']} classes, 2 layers, {options.threads} threads; medians of interleaved epochs")
    for (name, model), values in sorted(seconds.items()):
        print(f"  {name:5} {model:5} median {median[name, model]:.3f} s, fastest {min(values):.3f}, of {len(values)}")
    for row in rows:
        verdict = "" if row["ok"] is None else ("  ok" if row["ok"] else "  NOT met")
        print(
            f"  {row['metric']}: {row['ours']} / {row['peer']} = {row['ratio']}"
            + (f", target {row['target']}" if row["target"] else "") + verdict)
