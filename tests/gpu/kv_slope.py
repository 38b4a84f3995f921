#!/usr/bin/env python3
"""How a decode step's time grows with the context, with keys and values in 16 bits and in 8.

    kv_slope.py BIN-FOLDER SHAPE [--batch N] [--contexts 1024,4096,8192] [--kv bf16,int8,fp8] [--limit 0.6]
                [--device cuda|cpu] [--prefill] [options of serve]

BIN-FOLDER: inferd, libinferd_cuda.so, libinferd_cuda_fill.so, by which the prompts of all that come before the
steps cost next to nothing; --prefill computes them, which 64 x 8192 tokens of an 8B take 14 s of.  Runs `inferd
bench engine --random SHAPE --decode` with each type; the slope is that of a line through its points, least squares.
Fails where an 8-bit type's is above LIMIT of the first type's.  Contexts for which the first type's cache has no
room are left out for all, and named.
"""
import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time

from daemon import copy_program, environment


def read_rows(text):
    """{tokens: ms} of the rows that were printed."""
    return {int(tokens): float(ms) for tokens, ms in re.findall(r"^decode +\d+ +(\d+) +([\d.]+)", text, re.M)}


def measure(o, folder, kv, contexts):
    """{context: ms a step}; contexts that do not fit come last, and end it."""
    rows = ",".join(f"{o.batch}x{c}" for c in contexts)
    done = subprocess.run(
        [f"{folder}/inferd", "bench", "engine", "--random", o.shape, "--device", o.device, "--kv-dtype", kv,
         "--parallel-max", "0", "--repeats", "1", "--tables", "full", "--decode", rows, *o.options],
        env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    found = read_rows(done.stdout)
    if done.returncode != 0:
        print(f"{kv}: {done.stderr.strip()[-300:]}", flush=True)
    if len(found) < 2:
        raise SystemExit(f"{kv}: {len(found)} contexts measured, want 2 at least\n{done.stdout}")
    if slope(found) <= 0:
        raise SystemExit(f"{kv}: a longer context takes no longer: {found}")
    return found


def slope(points):
    """ms for each token of context."""
    n, x, y = len(points), list(points), list(points.values())
    mean_x, mean_y = sum(x) / n, sum(y) / n
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum((a - mean_x) ** 2 for a in x)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ap.add_argument("folder")
    ap.add_argument("shape")
    ap.add_argument("--batch", type=int, default=64)
    ap.add_argument("--contexts", default="1024,4096,8192")
    ap.add_argument("--kv", default="bf16,int8,fp8")
    ap.add_argument("--limit", type=float, default=0.6)
    ap.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    ap.add_argument("--prefill", action="store_true")
    o, o.options = ap.parse_known_args()
    work = tempfile.mkdtemp(prefix="inferd-slope-")
    fills = o.device == "cuda" and not o.prefill
    folder = copy_program(o.folder, work, "libinferd_cuda_fill.so") if fills else o.folder
    contexts, first, bad = sorted(int(c) for c in o.contexts.split(",")), None, 0
    for kv in o.kv.split(","):
        start = time.monotonic()
        points = measure(o, folder, kv, contexts)
        contexts, per_token = list(points), slope(points)
        first = first or per_token
        good = per_token == first or per_token / first <= o.limit
        bad += not good
        print(f"{kv}: batch {o.batch}, {', '.join(f'{c}: {ms:.3f} ms' for c, ms in points.items())}; "
              f"{per_token * 1e6:.1f} ns a token of context, {per_token / first:.3f} of the first"
              f"{'' if good else f'  MISSED, wanted {o.limit}'}; {time.monotonic() - start:.1f} s", flush=True)
    shutil.rmtree(work)
    return bad != 0


if __name__ == "__main__":
    sys.exit(main())
