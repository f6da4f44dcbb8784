"""The fabric's figures beside their limits and peers, in one run: usage: bench.py FABRIC-BENCH [--json] [--rounds N]
[--megabytes N] [--picture FILE.svg]. nbdkit and the namespaces of the shaped lines end with it."""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("--json", action="store_true")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--megabytes", type=int, default=256)
parser.add_argument("--picture")
options = parser.parse_args()

ROUND_TRIPS = [0, 100, 400, 1000, 5000]  # microseconds that a line adds; 400 are 40 km of fibre there and back
rows = []


def row(metric, ours, peer=None, target=None, ok=None, better=max):
    """`target` is what must be reached, `better` says from which side."""
    if ok is None and target is not None:
        ok = ours >= target if better is max else ours <= target
    rows.append({
        "metric": metric, "ours": round(ours, 3), "peer": None if peer is None else round(peer, 3),
        "ratio": round(ours / peer, 3) if peer else None, "target": target, "ok": True if ok is None else ok})


@contextlib.contextmanager
def block_device_server():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    server = subprocess.Popen([
        "nbdkit", "--foreground", "--oldstyle", "--ipaddr", "127.0.0.1", "--port", str(port), "memory", "64M"])
    try:
        for _ in range(100):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            if server.poll() is not None:
                sys.exit("nbdkit does not start")
            time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def namespaces(paths, rate):
    """The gateway's namespace and the node's, and `paths` lines of `rate` between them."""
    names = [f"sekisho-bench-{os.getpid()}-{end}" for end in ("g", "n")]
    gateway, node = names

    def ip(words):
        subprocess.run(["ip", *words.split()], check=True)

    try:
        for name in names:
            ip(f"netns add {name}")
            ip(f"-n {name} link set lo up")
        for path, network in zip(range(paths), ["198.51.100", "203.0.113"]):
            ip(f"-n {gateway} link add path{path} type veth peer name path{path} netns {node}")
            ip(f"-n {gateway} addr add {network}.1/24 dev path{path}")
            ip(f"-n {node} addr add {network}.2/24 dev path{path}")
            for name in names:
                ip(f"-n {name} link set path{path} up")
            shape = f"tc -n {gateway} qdisc add dev path{path} root tbf rate {rate} burst 256kb latency 50ms"
            subprocess.run(shape.split(), check=True)
        if paths > 1:
            for name in names:
                ip(f"-n {name} mptcp limits set subflows 4 add_addr_accepted 4")
            ip(f"-n {node} mptcp endpoint add 203.0.113.2 dev path1 signal")
        yield gateway, node
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)


def measure(words):
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}")
    return {name: value / 1000 for name, value in json.loads(done.stdout.strip().splitlines()[-1]).items()}


def line(paths):
    with namespaces(paths, "1gbit") as (gateway, node):
        return measure([
            "ip", "netns", "exec", gateway, options.program, "line", "--namespace", node, "--here", "198.51.100.1",
            "--there", "198.51.100.2", "--megabytes", "64", "--rounds", "3", *(["--multipath"] * (paths > 1))])


def picture(figures, path):
    """Throughput over round trip: our window beside that of a PCIe bus with 256 tags of 512 bytes."""
    width, height, left, bottom, top = 640, 360, 70, 310, 40
    series = [
        ("4 MiB on its way (sekisho)", "#0a7d5a", [figures[f"distance_{us}us_gb_per_s"] for us in ROUND_TRIPS]),
        ("128 KiB on its way (a PCIe bus)", "#b4531a", [figures[f"distance_{us}us_bus_gb_per_s"] for us in ROUND_TRIPS])]
    most = max(max(values) for _, _, values in series)
    step = (width - left - 40) / (len(ROUND_TRIPS) - 1)

    def place(index, value):
        return left + index * step, bottom - (bottom - top) * value / most

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12"'
        ' role="img" aria-label="Throughput of sealed reads over added round trip">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{left}" y="20" font-size="14">Sealed reads, GB/s, over the round trip that a line adds</text>']
    for share in (0, 0.25, 0.5, 0.75, 1):
        _, y = place(0, most * share)
        parts.append(f'<path d="M{left} {y:.1f}H{width - 40}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{most * share:.2f}</text>')
    for index, us in enumerate(ROUND_TRIPS):
        x, _ = place(index, 0)
        words = f"{us} µs" + (" (40 km)" if us == 400 else "")
        parts.append(f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{words}</text>')
    for index, (name, colour, values) in enumerate(series):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(at, value) for at, value in enumerate(values)))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for at, value in enumerate(values):
            x, y = place(at, value)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
        parts.append(f'<text x="{width - 250}" y="{top + 20 + 18 * index}" fill="{colour}">{name}</text>')
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(parts + ["</svg>", ""]))


with block_device_server() as port:
    f = measure([
        options.program, "--json", "--nbd-port", str(port), "--rounds", str(options.rounds), "--megabytes",
        str(options.megabytes)])

row("sealed once, GB/s, beside raw TCP", f["sealed_once_gb_per_s"], f["raw_gb_per_s"])
row("sealed once, GB a processor second at the gateway, beside raw TCP's sender", f["sealed_once_sender_gb_per_cpu_s"],
    f["raw_sender_gb_per_cpu_s"], 8)
row("sealed once, GB a processor second at the node, which opens", f["sealed_once_receiver_gb_per_cpu_s"],
    f["raw_receiver_gb_per_cpu_s"])
row("sealed per record, GB a processor second at the gateway", f["sealed_each_sender_gb_per_cpu_s"],
    f["raw_sender_gb_per_cpu_s"], 2.5)
row("sealed per record, GB a processor second at the node", f["sealed_each_receiver_gb_per_cpu_s"],
    f["raw_receiver_gb_per_cpu_s"], 2.5)
for size, name in ((64, "64 B"), (4096, "4 KiB"), (65536, "64 KiB")):
    for share in ("p50", "p99"):
        row(f"remote read of {name}, {share}, µs over raw TCP's", f[f"read_{size}_added_{share}_us"], None,
            5 if (size, share) == (64, "p50") else None, better=min)
row("remote read of 4 KiB, p50, µs, beside nbdkit in clear", f["read_4096_p50_us"], f["nbd_4096_p50_us"],
    f["nbd_4096_p50_us"], better=min)
row("remote read of 1 MiB, GB/s, beside nbdkit in clear", f["read_1MiB_gb_per_s"], f["nbd_1MiB_gb_per_s"],
    f["nbd_1MiB_gb_per_s"])
row("attach to a program that answers, ms", f["attach_ms"], None, 50, better=min)
row("scrub with its proof, GB/s a core", f["scrub_gb_per_s_core"], None, 2.5)
if "stall_after_cut_ms" in f:
    row("the device's wait after every connection is cut, ms, median", f["stall_after_cut_ms"])
for us in ROUND_TRIPS:
    row(f"round trip + {us} µs: GB/s with 4 MiB on its way, beside a bus's 128 KiB", f[f"distance_{us}us_gb_per_s"],
        f[f"distance_{us}us_bus_gb_per_s"])
if os.geteuid() == 0 and shutil.which("ip") and shutil.which("tc"):
    one = line(1)
    row("a line of 1 Gb/s: Gb/s of sealed bytes, beside raw TCP's goodput", one["line_gbit_per_s"],
        one["line_raw_gbit_per_s"], 0.95 * one["line_raw_gbit_per_s"])
    two = line(2)
    row("two lines of 1 Gb/s, Multipath TCP: Gb/s of sealed bytes, beside raw TCP over one", two["line_gbit_per_s"],
        two["line_raw_gbit_per_s"])
else:
    print("shaped lines need root, ip and tc: not measured", file=sys.stderr)
if options.picture:
    picture(f, options.picture)

if options.json:
    for entry in rows:
        print(json.dumps(entry, ensure_ascii=False))
else:
    print(f"{'':78} {'ours':>9} {'peer':>9} {'ratio':>7} {'target':>8}")
    for entry in rows:
        cells = ["" if entry[key] is None else f"{entry[key]:g}" for key in ("ours", "peer", "ratio", "target")]
        print(f"{entry['metric']:78} {cells[0]:>9} {cells[1]:>9} {cells[2]:>7} {cells[3]:>8} {'' if entry['ok'] else 'missed'}")
