#!/usr/bin/env python3
"""A CUDA fault of the sticky kind under load: the engine ends with its reason, the front stays up,
and every stream goes on with the tokens it would have had.

    fault.py BIN-FOLDER MODEL      BIN-FOLDER: inferd, libinferd_cuda.so, libinferd_cuda_fault.so

Prints one line a fault, and the counts.  Needs a GPU; loopback only.
"""
import shutil
import sys
import tempfile
import time

from daemon import Daemon, copy_program, order_fault, tail

STREAMS, TOKENS = 16, 400
BODIES = [{"prompt": [100 + i, 7, 300 + i], "max_tokens": TOKENS, "temperature": 0.8, "seed": i, "ignore_eos": True}
          for i in range(STREAMS)]


def trial(daemon, folder, want, word):
    start = time.monotonic()
    # events: several tokens may share one
    got = daemon.streams(BODIES, strike=lambda: order_fault(folder, word), events=TOKENS // 8)
    same = sum(g[0] == w[0] and g[1] == "done" for g, w in zip(got, want))
    reason = [line for line in tail(daemon.log, 1000).splitlines() if "CUDA device" in line][-1:]
    print(f"{word}: {same} of {STREAMS} streams equal to the undisturbed run, {time.monotonic() - start:.2f} s, deaths "
          f"{daemon.metric('inferd_engine_restarts_total'):.0f}; {reason[0] if reason else 'no reason logged'}")
    for _, how in got:
        if how != "done":
            print("  ended:", how)
    return same == STREAMS and bool(reason)


def main():
    work = tempfile.mkdtemp(prefix="inferd-fault-")
    folder = copy_program(sys.argv[1], work, "libinferd_cuda_fault.so")
    with Daemon(folder, sys.argv[2], "--device", "cuda", "--engine-backoff-ms", "1") as daemon:
        want = daemon.streams(BODIES)
        good = [trial(daemon, folder, want, word) for word in ("trap", "address")]
        print(f"{sum(good)} passed, {len(good) - sum(good)} failed")
        if not all(good):
            print(tail(daemon.log, 20))
    shutil.rmtree(work)
    return not all(good)


if __name__ == "__main__":
    sys.exit(main())
