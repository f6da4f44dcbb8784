"""The policy engine's figures beside Cedar, in one run: usage: bench.py POLICY-BENCH FOLDER [--json] [--rounds N]
[--decisions N] [--recorded N] [--datasets N] [--requests N]. Medians over rounds are reported."""

import argparse
import importlib.metadata
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--json", action="store_true")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--decisions", type=int, default=10_000)
parser.add_argument("--recorded", type=int, default=100_000)
parser.add_argument("--datasets", type=int, default=1000)
parser.add_argument("--requests", type=int, default=3000)
options = parser.parse_args()

root = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(root / "Tests/PolicyEngineTests/peers"))
import cedar  # noqa: E402  the facts that Cedar cannot compute, as the differential test makes them
import cedarpy  # noqa: E402

shutil.rmtree(options.folder, ignore_errors=True)
options.folder.mkdir(parents=True)
PEER = f"cedarpy {importlib.metadata.version('cedarpy')}"
POLICY = {"approvalRoles": ["dac", "data-custodian"], "authorMayApprove": False,
          "releaseRoles": ["dac", "data-custodian"], "diseases": {}}


def ours(*arguments):
    done = subprocess.run([options.program, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"policy-bench {' '.join(map(str, arguments))}: {done.stdout}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def peer():
    """Microseconds a decision takes Cedar, in one batch whose policies are parsed once; it must agree with ours."""
    schema = (options.folder / "schema.cedarschema").read_text()
    policies = (options.folder / "policies.cedar").read_text()
    cases = [json.loads(line) for line in (options.folder / "questions.jsonl").read_text().splitlines()]
    requests = [
        {"principal": 'Person::"anyone"', "action": f'Action::"{case["input"]["ask"]}"',
         "resource": f'Dataset::"{case["input"]["dataset"]}"', "context": cedar.context(case["input"], POLICY)}
        for case in cases
    ]
    start = time.perf_counter()
    answers = cedarpy.is_authorized_batch(requests, policies, [], schema)
    spent = time.perf_counter() - start
    for case, answer in zip(cases, answers):
        if answer.diagnostics.errors or answer.allowed != (case["verdict"] == "permit"):
            sys.exit(f"Cedar disagrees on {json.dumps(case)}: {answer.diagnostics.errors}")
    return spent / len(cases) * 1e6


rows = []


def row(metric, ours, peer, target, ok):
    rows.append({"metric": metric, "ours": ours, "peer": peer, "ratio": None if not peer else round(ours / peer, 3),
                 "target": target, "ok": bool(ok)})


decided, cedars = [], []
for number in range(options.rounds):
    decided.append(ours("decide", options.folder, options.decisions))
    cedars.append(peer())
median = statistics.median(d["median_nanoseconds"] for d in decided) / 1000
p99 = statistics.median(d["p99_nanoseconds"] for d in decided) / 1000
mean = statistics.median(d["total_nanoseconds"] / d["decisions"] for d in decided) / 1000
row(f"decision, µs, mean of {options.decisions} (peer: {PEER}, one batch)", round(mean, 2),
    round(statistics.median(cedars), 2), "≤ 50", mean <= 50)
row("decision, µs, median", round(median, 2), None, "≤ 50", median <= 50)
row("decision, µs, 99 of 100 are faster", round(p99, 2), None, "≤ 50", p99 <= 50)
replays = [ours("replay", options.recorded) for _ in range(min(options.rounds, 3))]
for name, what in (("same", "the same policy"), ("candidate", "a candidate")):
    seconds = statistics.median(r[f"{name}_milliseconds"] for r in replays) / 1000
    fine = seconds <= 10 and (replays[0][f"{name}_differences"] == 0) == (name == "same")
    processor = statistics.median(r[f"{name}_processor_milliseconds"] for r in replays) / 1000
    row(f"replay of {options.recorded} recorded decisions under {what}, s, {processor:.1f} of one processor "
        f"({replays[0][f'{name}_differences']} differ)", round(seconds, 2), None, "≤ 10", fine)
loaded = statistics.median(ours("load", options.datasets)["milliseconds"] for _ in range(3)) / 1000
row(f"reading {options.datasets} policies, s", round(loaded, 2), None, None, True)
if options.requests:
    # In memory where there is such a place: the lists are served from there, and filling is not what is measured.
    place = pathlib.Path("/dev/shm") if pathlib.Path("/dev/shm").is_dir() else options.folder
    with tempfile.TemporaryDirectory(dir=place) as folder:
        scale = ours("scale", folder, options.datasets, options.requests)
    size = f"{options.datasets} data sets, {options.requests} requests, {scale['events']} events"
    for name in ("requests", "own_requests", "reviews", "grants", "notices", "people", "policies"):
        p50, p99, slowest = (scale[f"{name}_{part}_microseconds"] / 1000 for part in ("p50", "p99", "slowest"))
        row(f"page of 50 of {name}, ms: slowest (p50 {p50:.2f}, p99 {p99:.2f}; {scale[f'{name}_items']} in "
            f"{scale[f'{name}_pages']} pages; {size})", round(slowest, 2), None, "≤ 100", slowest <= 100)
    for name, what in (("file", "filing a request"), ("decide", "deciding a request and issuing its grant")):
        p50, p99 = (scale[f"{name}_{part}_microseconds"] / 1000 for part in ("p50", "p99"))
        row(f"{what}, with its records, ms: p99 (p50 {p50:.2f}; {size})", round(p99, 2), None, "≤ 100", p99 <= 100)
    row(f"diff over the gateway's own {scale['history_decisions']} decisions, s",
        round(scale["history_milliseconds"] / 1000, 2), None, "≤ 10",
        scale["history_milliseconds"] <= 10_000 and scale["history_differences"] == 0)
for line in rows:
    if options.json:
        print(json.dumps(line, ensure_ascii=False))
    else:
        beside = "" if line["peer"] is None else f"  peer {line['peer']} (ratio {line['ratio']})"
        target = "" if line["target"] is None else f"  target {line['target']}"
        print(f"{'ok ' if line['ok'] else 'NOT'}  {line['metric']}: {line['ours']}{beside}{target}")
sys.exit(0 if all(line["ok"] for line in rows) else 1)
