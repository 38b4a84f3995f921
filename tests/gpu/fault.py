#!/usr/bin/env python3
"""A CUDA fault of the sticky kind under load: the engine ends with its reason, the front stays up,
and every stream goes on with the tokens it would have had.

    fault.py BIN-FOLDER MODEL      BIN-FOLDER: inferd, libinferd_cuda.so, libinferd_cuda_fault.so

Prints one line a fault, and the counts.  Needs a GPU; loopback only.
"""
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

STREAMS, TOKENS = 16, 400


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as r:
            return r.status, r.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def stream(port, model, i, out, seen):
    body = {"model": model, "prompt": [100 + i, 7, 300 + i], "max_tokens": TOKENS, "stream": True,
            "temperature": 0.8, "seed": i, "ignore_eos": True}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions",
                                     json.dumps(body).encode(), {"Content-Type": "application/json"})
    text, n, end = "", 0, "cut"
    with urllib.request.urlopen(request, timeout=120) as r:
        for line in r:
            if not line.startswith(b"data: "):
                continue
            if line.startswith(b"data: [DONE]"):
                end = "done"
                break
            event = json.loads(line[6:])
            if "error" in event:
                end = event["error"]["message"]
                break
            text += event["choices"][0]["text"]
            n += 1
            seen[i] = n
    out[i] = (text, end)


def run(port, model, fault=None):
    out, seen = [None] * STREAMS, [0] * STREAMS
    threads = [threading.Thread(target=stream, args=(port, model, i, out, seen))
               for i in range(STREAMS)]
    for t in threads:
        t.start()
    if fault:
        while min(seen) < TOKENS // 8:  # events: several tokens may share one
            time.sleep(0.001)
        fault()
    for t in threads:
        t.join()
    return out


def main():
    folder, checkpoint = sys.argv[1:3]
    work = tempfile.mkdtemp(prefix="inferd-fault-")
    shutil.copy(f"{folder}/inferd", work)
    shutil.copy(f"{folder}/libinferd_cuda.so", f"{work}/libinferd_cuda_real.so")
    shutil.copy(f"{folder}/libinferd_cuda_fault.so", f"{work}/libinferd_cuda.so")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    log = open(f"{work}/log", "w")
    daemon = subprocess.Popen([f"{work}/inferd", "serve", "--model", checkpoint, "--device", "cuda",
                               "--port", str(port), "--engine-backoff-ms", "1"], stdout=log, stderr=log)
    passed = failed = 0
    try:
        for _ in range(600):
            try:
                if get(port, "/readyz")[0] == 200:
                    break
            except OSError:
                pass
            time.sleep(0.1)
        model = json.loads(get(port, "/v1/models")[1])["data"][0]["id"]
        want = run(port, model)
        for word in ("trap", "address"):
            def fault():
                with open(f"{work}/fault.new", "w") as f:
                    f.write(word)
                os.rename(f"{work}/fault.new", f"{work}/fault")
            start = time.monotonic()
            got = run(port, model, fault)
            same = sum(g[0] == w[0] and g[1] == "done" for g, w in zip(got, want))
            deaths = re.findall(r"^inferd_engine_restarts_total\S* (\S+)", get(port, "/metrics")[1], re.M)
            reason = [l for l in open(f"{work}/log") if "CUDA device" in l][-1:]
            ok = same == STREAMS and reason
            passed, failed = passed + bool(ok), failed + (not ok)
            print(f"{word}: {same} of {STREAMS} streams equal to the undisturbed run, "
                  f"{time.monotonic() - start:.2f} s, deaths {deaths}; {reason[0].strip() if reason else 'no reason logged'}")
            for g in got:
                if g[1] != "done":
                    print("  ended:", g[1])
    finally:
        daemon.terminate()
        daemon.wait(30)
    print(f"{passed} passed, {failed} failed")
    if failed:
        print("".join(open(f"{work}/log").readlines()[-20:]))
    shutil.rmtree(work)
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
