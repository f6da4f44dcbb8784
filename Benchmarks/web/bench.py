"""Latency of the API with 50 readers while a run trains, against the same readers with no run, and against the bare
health answer, in one session.

usage: bench.py BIN-FOLDER WORK-FOLDER [--json] [--seconds N] [--readers N] [--each PER-SECOND]

The readers are Debian's `hey`: each has a connection of its own and asks `--each` times a second. `ours` and `peer` are
milliseconds.
"""
import argparse
import csv
import json
import pathlib
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "Tests" / "api"))
import check  # noqa: E402
import clinic  # noqa: E402

parser = argparse.ArgumentParser()
parser.add_argument("binaries")
parser.add_argument("work")
parser.add_argument("--json", action="store_true")
parser.add_argument("--seconds", type=int, default=20)
parser.add_argument("--readers", type=int, default=50)
parser.add_argument("--each", type=float, default=2)
options = parser.parse_args()


def tell(words):
    print(words, file=sys.stderr, flush=True)


def read(enclave, path, person="alice"):
    """Milliseconds at the median and at 99 of 100, and how many answers there were; any other answer than 200 ends it."""
    command = [
        "hey", "-z", f"{options.seconds}s", "-c", str(options.readers), "-q", str(options.each), "-o", "csv", "-H",
        f"Authorization: Bearer {enclave.token(person)}", enclave.url + path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = list(csv.DictReader(done.stdout.splitlines()))
    bad = [row for row in rows if row["status-code"] != "200"]
    if bad or not rows:
        sys.exit(f"{len(bad)} of {len(rows)} answers of {path} were not 200")
    times = sorted(float(row["response-time"]) * 1000 for row in rows)
    return times[len(times) // 2], times[min(len(times) - 1, len(times) * 99 // 100)], len(times)


def main():
    enclave = check.Enclave(options.work, options.binaries)
    paths = {"a run": "/api/v1/runs/long", "runs": "/api/v1/runs?limit=50", "me": "/api/v1/me"}
    try:
        enclave.make(epochs=10000)
        enclave.serve()
        data = enclave.work / "data"
        request = enclave.client("alice", "request", "file", data / "form.json")["request"]
        enclave.client("dai", "request", "review", request, "approve")
        grant = enclave.client("chika", "request", "review", request, "approve")["grant"]
        # A closed run, so that there is something to list before the long one.
        (data / "short.yaml").write_text(clinic.specification(3))
        enclave.client("alice", "run", "start", data / "short.yaml", "--grant", grant, "--id", "short")
        quiet = {name: read(enclave, path.replace("/long", "/short")) for name, path in paths.items()}
        health = read(enclave, "/healthz")
        follower = threading.Thread(target=lambda: enclave.client(
            "alice", "run", "start", data / "spec.yaml", "--grant", grant, "--id", "long"), daemon=True)
        follower.start()
        epochs = 0
        for _ in range(600):
            time.sleep(0.1)
            state = enclave.client("alice", "run", "list")
            epochs = next((run["epochs"]["done"] for run in state if run["run"] == "long"), 0)
            if epochs:
                break
        else:
            sys.exit("the run did not begin to train")
        first, started = epochs, time.monotonic()
        busy = {name: read(enclave, path) for name, path in paths.items()}
        busy_health = read(enclave, "/healthz")
        run = next(run for run in enclave.client("alice", "run", "list") if run["run"] == "long")
        rate = (run["epochs"]["done"] - first) / (time.monotonic() - started)
        if run["stage"] != "train":
            sys.exit(f"the run was at {run['stage']} before the readers were done; give it more epochs")
        tell(f"meanwhile the run trained {rate:.1f} epochs a second, each with its record in the trail")
        enclave.client("alice", "run", "cancel", "long")
        follower.join(60)
        enclave.stop_service()
    finally:
        enclave.stop()

    rows = []
    for name in paths:
        for place, part in ((0, "p50"), (1, "p99")):
            # While a run trains, reading may take twice as long at the median, and 50 ms at 99 of 100.
            ours, peer = busy[name][place], quiet[name][place]
            rows.append({
                "metric": f"{name}, {part}, while a run trains / with none (ms)", "ours": round(ours, 3),
                "peer": round(peer, 3), "ratio": round(ours / peer, 3), "target": 2.0 if place == 0 else None,
                "ok": ours / peer <= 2.0 if place == 0 else None})
            rows.append({
                "metric": f"{name}, {part}, while a run trains / bare health then (ms)", "ours": round(ours, 3),
                "peer": round(busy_health[place], 3), "ratio": round(ours / busy_health[place], 3), "target": None,
                "ok": None})
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{options.readers} readers, {options.each} calls a second each, {options.seconds} s a row")
    for name in paths:
        print(f"  {name:8} no run: p50 {quiet[name][0]:.2f} p99 {quiet[name][1]:.2f} ms of {quiet[name][2]};"
              f" training: p50 {busy[name][0]:.2f} p99 {busy[name][1]:.2f} ms of {busy[name][2]}")
    print(f"  health   no run: p50 {health[0]:.2f} p99 {health[1]:.2f} ms;"
          f" training: p50 {busy_health[0]:.2f} p99 {busy_health[1]:.2f} ms")
    for row in rows:
        verdict = "" if row["ok"] is None else ("  ok" if row["ok"] else "  NOT met")
        target = f", target {row['target']}" if row["target"] else ""
        print(f"  {row['metric']}: {row['ours']} / {row['peer']} = {row['ratio']}{target}{verdict}")


main()
