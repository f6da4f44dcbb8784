"""Training epochs of ours, DGL and PyG on the same graphs, interleaved in one run, with the machine's floor beside
them; then ours with less memory than everything takes.

usage: bench.py OURS-BINARY PEERS-PYTHON GRAPH-FOLDER… [--models gcn,sage,gat] [--memory 50,25,5] [--rounds N]
                [--pyg-rounds N] [--threads N] [--only epochs,memory] [--no-pyg] [--profile] [--json]

A graph folder is what rmat.py or kgx.py writes. R1 to R7 are those of docs/performance.md; `epochs` are R3, R4 and R6
with the peers beside, `memory` R1, R2, R4 and R7 with less memory. `--profile` prints, with each R4, the milliseconds
of each kind of work in an epoch beside those of the forecast.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys

parser = argparse.ArgumentParser()
parser.add_argument("ours")
parser.add_argument("python")
parser.add_argument("graphs", nargs="+")
parser.add_argument("--models", default="gcn,sage,gat")
parser.add_argument("--memory", default="50,25,5", help="percent of the working set; empty for none")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--pyg-rounds", type=int, default=3, help="rounds in which PyG takes part, one epoch each")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--only", default="epochs,memory", help="parts to run")
parser.add_argument("--no-pyg", action="store_true")
parser.add_argument("--profile", action="store_true")
parser.add_argument("--json", action="store_true")
options = parser.parse_args()
models = options.models.split(",")
parts = options.only.split(",")
if set(parts) - {"epochs", "memory"}:
    parser.error("--only takes epochs, memory or both")
shares = [int(share) for share in options.memory.split(",") if share] if "memory" in parts else []
here = os.path.dirname(os.path.abspath(__file__))
environment = dict(
    os.environ, OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS=str(options.threads), DGLBACKEND="pytorch")
TARGETS = {
    ("dgl", "gcn"): 0.4, ("dgl", "sage"): 0.4, ("dgl", "gat"): 0.35, ("pyg", "gcn"): 0.05,
    ("slow", 50): 1.3, ("slow", 25): 2.0, "memory": 0.6, "link": 1.1, "floor": 1.5,
}
rows = []


class Stopped(Exception):
    pass


def available_bytes():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) * 1024


class Worker:
    def __init__(self, name, command):
        self.name, self.command = name, command
        # A peer that wants more than the machine has ends alone, instead of having the kernel choose.
        most = int(available_bytes() * 0.8)
        limit = None if name == "ours" else lambda: resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment, preexec_fn=limit)

    def ask(self, words):
        try:
            self.process.stdin.write(words + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Stopped(f"{self.name} stopped at '{words}'; run it by hand: {' '.join(self.command)}")
        return json.loads(line)

    def peak_mebibytes(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024

    def end(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()


def note(graph, metric, ours, peer, target=None, between=None):
    ratio = ours / peer if peer else None
    ok = None
    if target is not None and ratio is not None:
        ok = ratio <= target
    if between is not None and ratio is not None:
        ok = between[0] <= ratio <= between[1]
    rows.append(
        {"graph": graph, "metric": metric, "ours": round(ours, 5), "peer": round(peer, 5) if peer else None,
         "ratio": round(ratio, 4) if ratio else None, "target": target if between is None else list(between), "ok": ok})
    if not options.json:
        verdict = "" if ok is None else ("  ok" if ok else "  NOT met")
        against = f" / {peer:.5g} = {ratio:.3g}" if ratio else ""
        wanted = "" if target is None and between is None else f", target {target if between is None else between}"
        print(f"  {metric}: {ours:.5g}{against}{wanted}{verdict}", flush=True)


def note_forecast(graph, title, answer, seconds):
    """R4, and what it is made of."""
    note(graph, title, answer["forecastSeconds"], seconds, between=(0.85, 1.15))
    rows[-1]["profile"] = answer["profile"]
    if not options.profile or options.json:
        return
    for name, (measured, forecast) in answer["profile"].items():
        if measured >= 0.5 or forecast >= 0.5:
            print(f"      {name}: {measured:.1f} ms, forecast {forecast:.1f}", flush=True)


def least_seconds(model, meta, hidden, floor):
    """The larger of: every product of forward and backward at the machine's sgemm; features, neighbours' rows and the
    hidden layer, each read or written once for each use, at its copy rate. The first layer's gradient of X is not made."""
    n, e, f, c = meta["nodes"], meta["edges"], meta["features"], meta["classes"]
    twice = 2 if model == "sage" else 1
    flops = 2 * n * (2 * f * hidden + 3 * hidden * c) * twice
    widths = (hidden + c) if model == "gat" else c
    passes = 3 if model == "gat" else 2
    moved = 4 * (2 * n * f * twice + passes * e * widths + 4 * n * hidden)
    return max(flops / (floor["gigaflops"] * 1e9), moved / (floor["gigabytes"] * 1e9))


def machine():
    """What the machine can do at all: large products, and memory read once and written once."""
    answer = json.loads(
        subprocess.run(
            [options.python, f"{here}/machine.py", str(options.threads)], env=environment, capture_output=True,
            text=True, check=True).stdout)
    if not options.json:
        print(f"machine, {options.threads} threads: sgemm {answer['gigaflops']:.0f} GFLOP/s, "
              f"copy {answer['gigabytes']:.1f} GB/s read and written", flush=True)
    return answer


def epochs(graph, model, workers, least):
    """R6, R3, R4 and peak memory, everything resident. Ends the peers."""
    seconds = {name: [] for name in workers}

    def ask(name, question):
        try:
            return workers[name].ask(question)["seconds"]
        except Stopped as stop:
            if name == "ours":
                sys.exit(str(stop))
            if not options.json:
                print(f"  {model}: {name} stopped, most likely for want of memory", flush=True)
            rows.append({"graph": graph, "metric": f"R6 {model} against {name}", "peer": "stopped", "ok": None})
            workers.pop(name).end()
            seconds.pop(name)
            return []

    for name in list(workers):
        ask(name, f"{model} 1")
    for turn in range(options.rounds):
        for name in list(workers):
            # PyG takes many times longer; fewer of its epochs keep the run short.
            if name != "pyg" or turn < options.pyg_rounds:
                found = ask(name, f"{model} {1 if name == 'pyg' else 3}")
                if name in seconds:
                    seconds[name] += found
    memory = {name: worker.peak_mebibytes() for name, worker in workers.items()}
    for name, worker in workers.items():
        if name != "ours":
            worker.end()
    median = {name: statistics.median(values) for name, values in seconds.items()}
    for peer in median:
        if peer != "ours":
            note(graph, f"R6 {model} seconds an epoch against {peer}", median["ours"], median[peer],
                 TARGETS.get((peer, model)))
    if "dgl" in memory:
        note(graph, f"peak memory {model}, MiB of the process, against dgl", memory["ours"], memory["dgl"],
             TARGETS["memory"])
    note(graph, f"R3 {model} seconds an epoch against the slowest resource's floor", median["ours"], least,
         TARGETS["floor"])
    # Its rates are measured now: when the first epoch was asked for, the peers were still starting.
    full = workers["ours"].ask(f"{model} 5 evaluate anew")
    note_forecast(graph, f"R4 {model} predicted against measured, with evaluation", full,
                  statistics.median(full["seconds"]))


def run(folder, floor):
    graph = os.path.basename(os.path.normpath(folder))
    meta = json.load(open(f"{folder}/meta.json"))
    hidden = meta.get("hidden", 256)
    sizes = [str(meta["features"]), str(hidden), str(meta["classes"]), ]
    if not options.json:
        print(f"{graph}: {meta['nodes']} nodes, {meta['edges']} edges, {meta['features']} features, hidden {hidden}, "
              f"{meta['classes']} classes, 2 layers; medians of interleaved epochs", flush=True)
    commands = {"ours": [options.ours, "training", folder, *sizes, "--threads", str(options.threads)]}
    if "epochs" in parts:
        for peer in ["dgl"] + ([] if options.no_pyg else ["pyg"]):
            commands[peer] = [options.python, f"{here}/peer.py", peer, folder, *sizes, str(options.threads)]
    for model in models:
        # A process for each model, so that peak memory is that model's.
        workers = {name: Worker(name, command) for name, command in commands.items()}
        ours = workers["ours"]
        if "epochs" in parts:
            epochs(graph, model, workers, least_seconds(model, meta, hidden, floor))
        if not shares:
            ours.end()
            continue
        whole = ours.ask(f"{model} 2 weights")
        for share in shares:
            cut = ours.ask(f"{model} 1 memory={share} evaluate")
            if "refused" in cut:
                if not options.json:
                    print(f"  {model} with {share} % of the working set: refused ({cut['refused']})", flush=True)
                rows.append({"graph": graph, "metric": f"R1 {model} {share} %", "refused": cut["refused"], "ok": False})
                continue
            times = {"whole": [], "cut": []}
            for _ in range(max(options.rounds // 2, 1)):
                times["whole"] += ours.ask(f"{model} 2 evaluate")["seconds"]
                cut = ours.ask(f"{model} 2 memory={share} evaluate")
                times["cut"] += cut["seconds"]
            slow, fast = statistics.median(times["cut"]), statistics.median(times["whole"])
            note(graph, f"R1 {model} with {share} % of the working set, seconds an epoch", slow, fast,
                 TARGETS.get(("slow", share)))
            note(graph, f"R2 {model} {share} %: MiB over the link an epoch against the working set beyond memory, once",
                 (cut["fetchedBytes"] + cut["storedBytes"]) / 2**20, cut["leastLinkBytes"] / 2**20, TARGETS["link"])
            note(graph, f"R2 {model} {share} %: the same against thrice that (forward, backward, evaluation)",
                 (cut["fetchedBytes"] + cut["storedBytes"]) / 2**20, 3 * cut["leastLinkBytes"] / 2**20)
            note_forecast(graph, f"R4 {model} {share} %: predicted against measured", cut, slow)
            bits = ours.ask(f"{model} 2 memory={share} weights")
            same = bits["weights"] == whole["weights"]
            rows.append({"graph": graph, "metric": f"R7 {model} {share} %: the weights are the resident plan's",
                         "ok": same})
            if not options.json:
                print(f"  R7 {model} {share} %: weights {'bit-equal' if same else 'DIFFER'}", flush=True)
        ours.end()


floor = machine()
for folder in options.graphs:
    run(folder, floor)
if options.json:
    print(json.dumps({"machine": floor, "rows": rows}, indent=1))
