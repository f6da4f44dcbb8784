"""The audit trail's figures beside their peers, in one run: usage: bench.py TRAIL-BENCH FOLDER [--json] [--rounds N]
[--records N]. Each round takes the trail and its peers in turn; medians are reported."""

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import threading
import time

parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("folder")
parser.add_argument("--json", action="store_true")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--milliseconds", type=int, default=2000)
parser.add_argument("--records", type=int, default=1_000_000)
options = parser.parse_args()

shutil.rmtree(options.folder, ignore_errors=True)
os.makedirs(options.folder)
RECORD = 700  # a record's frame: 512 bytes sealed, header, tag, frame


def trail(*arguments):
    done = subprocess.run([options.program, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"trail-bench {' '.join(map(str, arguments))}: {done.stdout}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def fdatasync_loop(bytes_each, seconds):
    """Writes and syncs on a preallocated, already written file: what the disk itself takes."""
    path = os.path.join(options.folder, "bare")
    with open(path, "wb") as file:
        file.write(bytes(64 << 20))
        os.fsync(file.fileno())
    descriptor = os.open(path, os.O_RDWR)
    block = os.urandom(bytes_each)
    waits = []
    at = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.perf_counter()
        os.pwrite(descriptor, block, at)
        os.fdatasync(descriptor)
        waits.append(time.perf_counter() - start)
        at = (at + bytes_each) % ((64 << 20) - bytes_each)
    os.close(descriptor)
    return len(waits) / sum(waits), statistics.median(waits) * 1e6


def sqlite_commits(writers, seconds):
    """One commit a record of 512 bytes, WAL with synchronous FULL: what a database gives."""
    path = os.path.join(options.folder, "peer.db")
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.remove(path + suffix)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE record (id INTEGER PRIMARY KEY, body BLOB)")
    connection.commit()
    connection.close()
    end = time.monotonic() + seconds
    counts = [0] * writers

    def write(number):
        own = sqlite3.connect(path, timeout=60, isolation_level=None)
        own.execute("PRAGMA synchronous=FULL")
        body = os.urandom(512)
        while time.monotonic() < end:
            own.execute("BEGIN IMMEDIATE")
            own.execute("INSERT INTO record (body) VALUES (?)", (body,))
            own.execute("COMMIT")
            counts[number] += 1
        own.close()

    start = time.monotonic()
    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - start)


rows = []


def row(metric, ours, peer, target, ok, peer_name=""):
    rows.append(
        {
            "metric": metric, "ours": ours, "peer": peer,
            "ratio": None if not peer else round(ours / peer, 3), "target": target, "ok": ok, "peer_name": peer_name,
        })


seconds = options.milliseconds / 1000
series = {}
for number in range(options.rounds):
    for writers in (1, 16, 64, 256):
        place = os.path.join(options.folder, "trail")
        shutil.rmtree(place, ignore_errors=True)
        result = trail("appends", place, writers, min(writers, 8), options.milliseconds)
        series.setdefault(("trail", writers), []).append(result["appends"] / result["seconds"])
        series.setdefault(("wait", writers), []).append(result["median_us"])
        series.setdefault(("processor", writers), []).append(result["processor"] / result["appends"] * 1e6)
        rate, wait = fdatasync_loop(RECORD * min(writers, 256), min(seconds, 1))
        series.setdefault(("bare", writers), []).append(rate * min(writers, 256))
        series.setdefault(("barewait", writers), []).append(wait)
        if writers <= 64:
            series.setdefault(("sqlite", writers), []).append(sqlite_commits(writers, min(seconds, 1)))
median = {key: statistics.median(values) for key, values in series.items()}
for writers in (1, 16, 64, 256):
    ours = round(median["trail", writers])
    target = 50_000 if writers >= 64 else None
    row(f"appends/s, {writers} writers, against a bare fdatasync of as many records", ours,
        round(median["bare", writers]), target, target is None or ours >= target, "fdatasync")
    if ("sqlite", writers) in median:
        row(f"appends/s, {writers} writers, against SQLite WAL FULL", ours, round(median["sqlite", writers]), None,
            ours >= median["sqlite", writers], "sqlite")
row("processor time a record, 64 writers, µs (two cores give 40 at 50,000/s)", round(median["processor", 64], 1), None,
    "≤ 40", median["processor", 64] <= 40)
single = median["wait", 1] / median["barewait", 1]
row("wait of a single writer, µs, against one fdatasync", round(median["wait", 1]), round(median["barewait", 1]),
    "ratio ≤ 1.5", single <= 1.5, "fdatasync")
heads = [trail("heads", os.path.join(options.folder, f"heads{n}"), options.milliseconds) for n in range(3)]
head = statistics.median(h["loaded_median_us"] for h in heads) / 1000
quiet = statistics.median(h["quiet_median_us"] for h in heads) / 1000
rate = statistics.median(h["rate"] for h in heads)
row(f"record in a signed head, ms, at {rate:.0f} records/s", round(head, 2), None, "≤ 50", head <= 50)
row("record in a signed head, ms, on a quiet trail", round(quiet, 2), None, "≤ 10", quiet <= 10)
if options.records:
    big = os.path.join(options.folder, "big")
    filled = trail("fill", big, options.records)
    opened = [trail("recover", big) for _ in range(3)]
    recovered = statistics.median(o["seconds"] for o in opened)
    size = filled["size"]
    row(f"recover {size:,} records with full re-hash, s", round(recovered, 2), None, "≤ 3 for 1,000,000",
        recovered <= 3 * max(size / 1e6, 0.001))
    row("the same, processor seconds", round(statistics.median(o["processor"] for o in opened), 2), None, "≤ 3",
        statistics.median(o["processor"] for o in opened) <= 3 * max(size / 1e6, 0.001))
    row("peak memory of recovering, MiB", round(opened[0]["peak_kib"] / 1024), None, "one segment", True)
    verified = [trail("verify", big) for _ in range(3)]
    speed = size / statistics.median(v["seconds"] for v in verified)
    row("verify, entries/s", round(speed), None, 500_000, speed >= 500_000)
    speed = size / statistics.median(v["processor"] for v in verified)
    row("verify, entries a processor second", round(speed), None, 500_000, speed >= 500_000)
    opened = [trail("open", big) for _ in range(3)]
    speed = size / statistics.median(o["seconds"] for o in opened)
    row("verify with an auditor's key: every entry opened and chained, entries/s", round(speed), None, None, True)
    row("peak memory of filling, MiB", round(filled["peak_kib"] / 1024), None, "does not grow with the log", True)
    row("peak memory of verifying, MiB", round(verified[0]["peak_kib"] / 1024), None, "does not grow", True)
    part = os.path.join(options.folder, "part")
    trail("fill", part, 100_000)
    target = os.path.join(options.folder, "export")
    sealed = os.path.join(options.folder, "export.age")
    took, seals = [], []
    for number in range(options.rounds):
        shutil.rmtree(target, ignore_errors=True)
        took.append(trail("export", part, target)["seconds"])
        seals.append(trail("seal", part, sealed)["seconds"])
    checked = statistics.median(trail("check", part, target)["seconds"] for _ in range(3))
    row("verify an export of 100,000 records with its manifest, entries/s", round(100_000 / checked), None, 500_000,
        100_000 / checked >= 500_000)
    took, seals = statistics.median(took), statistics.median(seals)
    exported = sum(
        os.path.getsize(os.path.join(root, name)) for root, _, names in os.walk(target) for name in names)
    row("export of 100,000 records as a folder, MB/s", round(exported / 1e6 / took), None, 200,
        exported / 1e6 / took >= 200)
    speed = os.path.getsize(sealed) / 1e6 / seals
    row("export of 100,000 records as one sealed file, MB/s", round(speed), None, 200, speed >= 200)

if options.json:
    for line in rows:
        print(json.dumps(line, ensure_ascii=False))
else:
    print("| | ours | peer | ratio | target | |\n|---|---|---|---|---|---|")
    for line in rows:
        peer = "" if line["peer"] is None else f"{line['peer']:,}"
        ratio = "" if line["ratio"] is None else line["ratio"]
        print(f"| {line['metric']} | {line['ours']:,} | {peer} | {ratio} | {line['target'] or ''} | "
              f"{'ok' if line['ok'] else 'MISSED'} |")
shutil.rmtree(options.folder, ignore_errors=True)
