"""Prints, as JSON, what the machine reaches in large float32 products and in copying memory. usage: machine.py THREADS"""
import json
import sys
import time

import torch

torch.set_num_threads(int(sys.argv[1]))


def best(work, rounds=7):
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


n = 2048
a, b, c = torch.rand(n, n), torch.rand(n, n), torch.empty(n, n)
source, target = torch.rand(1 << 26), torch.empty(1 << 26)
product = best(lambda: torch.mm(a, b, out=c))
copy = best(lambda: target.copy_(source))
print(json.dumps({"gigaflops": 2 * n**3 / product / 1e9, "gigabytes": 2 * source.numel() * 4 / copy / 1e9}))
