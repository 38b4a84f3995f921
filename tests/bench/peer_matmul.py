"""peer_matmul.py - torch's products (cuBLAS, as F.linear calls it) on the shapes and rows of `inferd bench kernels`.

    peer_matmul.py [--shape 8b|1b] [--rows-max N]

bf16, random values; calls are recorded in one CUDA graph and weights take turns, so that neither
launches nor the L2 cache count.  "gated" is the product alone: silu and the multiplication would
be a kernel of their own here.  The least of some runs counts, as there.
"""

import argparse

import torch

SHAPES = {  # name: [(op, n, in)]
    "8b": [("qkv", 6144, 4096), ("o", 4096, 4096), ("gated", 28672, 4096), ("down", 4096, 14336), ("head", 128256, 4096)],
    "1b": [("qkv", 3072, 2048), ("o", 2048, 2048), ("gated", 16384, 2048), ("down", 2048, 8192), ("head", 128256, 2048)],
}
ROWS = [1, 4, 16, 64, 256, 2048, 8192]
HEAD_ROWS_MAX = 256
CACHES = 256 << 20
COPIES_MAX = 32
TIMES = 7


def record(calls):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        calls()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        calls()
    return graph


def least_us(call, n):
    graph = record(lambda: [call(i) for i in range(n)])
    times = []
    for _ in range(TIMES + 1):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) * 1e3)
    return min(times[1:]) / n


def copy_gb_s():
    a = torch.empty(1 << 30, dtype=torch.int16, device="cuda").random_()
    b = torch.empty_like(a)
    return 2 * a.nbytes / least_us(lambda _: b.copy_(a), 2) * 1e-3


def bench(name, op, n, width, rows_max):
    copies = min(COPIES_MAX, CACHES // (n * width * 2) + 1)
    weights = [torch.empty(n, width, device="cuda", dtype=torch.bfloat16).normal_(0, 0.02) for _ in range(copies)]
    for rows in ROWS:
        if rows > (HEAD_ROWS_MAX if op == "head" else rows_max):
            continue
        x = torch.randn(rows, width, device="cuda", dtype=torch.bfloat16)
        out = torch.empty(rows, n, device="cuda", dtype=torch.bfloat16)
        flops = 2 * rows * n * width
        calls = max(2 * copies, min(200, int(2e-2 / (flops / 5e14 + n * width * 2 / 3e12))))
        us = least_us(lambda i: torch.mm(x, weights[i % copies].t(), out=out), calls)
        n_bytes = 2 * (n * width + rows * (n + width))
        print(f"{name:<5} {op:<8} {rows:6d} {us:11.2f} us {n_bytes / us * 1e-3:9.1f} GB/s {flops / us * 1e-6:9.2f} TFLOP/s",
              flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--rows-max", type=int, default=8192)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: no CUDA device")
        return
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: copy {copy_gb_s():.1f} GB/s")
    for name, ops in SHAPES.items():
        for op, n, width in ops if args.shape in (None, name) else []:
            bench(name, op, n, width, args.rows_max)


if __name__ == "__main__":
    main()
