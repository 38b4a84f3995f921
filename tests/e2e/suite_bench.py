"""`inferd bench http` against a daemon whose engine takes a known time a step; `bench kernels` on a CPU."""
import json
import re
import subprocess
import time

from harness import check, equal

SLOTS, STEP_US, TOKENS = 4, 2000, 20


class Daemon:
    """Without a key, on a port of the kernel's choice."""

    def __init__(self, options):
        self.process = subprocess.Popen(
            [options.binary, "serve", options.model, "--engine", "fake", "--port", "0",
             "--fake-step-us", str(STEP_US), "--max-seqs", str(SLOTS), "--queue-max", "100"],
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.lines = []
        try:
            self.wait_ready()
        except BaseException:
            self.process.kill()
            raise

    def wait_ready(self):
        for line in self.process.stderr:
            self.lines.append(line)
            port = re.search(r"listening.* port=(\d+)", line)
            if port:
                self.url = f"http://127.0.0.1:{port[1]}"
            if "engine ready" in line:
                return
        raise AssertionError("".join(self.lines))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.terminate()
        self.process.communicate(timeout=20)


def load(c, url, n):
    out = subprocess.run([c.options.binary, "bench", "http", "--url", url, "--json", "--rate", "inf",
                          "--requests", str(n), "--prompt-tokens", "4", "--max-tokens", str(TOKENS)],
                         capture_output=True, text=True, timeout=60, check=True)
    return json.loads(out.stdout)


def test_flags_that_are_wrong_or_idle_are_refused_by_name(c):
    url = ("--url", "http://127.0.0.1:9")
    rows = [("http", ("--seed", "abc"), 'seed: "abc" is not a number from 0 to 18446744073709551615'),
            ("http", ("--seed", "-1"), 'seed: "-1" is not a number'),
            ("http", ("--seed", "18446744073709551616"), "seed:"), ("http", ("--seed", "7x"), "seed:"),
            ("http", ("--seed", ""), "seed:"), ("http", ("--concurrency", "0"), "concurrency:"),
            ("http", ("--requests", "1e3"), "requests:"), ("http", ("--time-s", "99999"), "time-s:"),
            ("http", ("--stalled", "-1"), "stalled:"), ("http", ("--rate", "fast"), "rate:"),
            ("http", ("--rate", "nan"), "rate:"), ("http", ("--url", "http://127.0.0.1:80a"), "url:"),
            ("http", ("--lengths", "sharegpt", "--max-tokens", "9"), "max-tokens: has no effect with lengths"),
            ("http", ("--prompt-tokens", "9", "--lengths", "sharegpt"), "prompt-tokens: has no effect"),
            ("kernels", ("--rows-max", "x"), "rows-max:"), ("kernels", ("--threads", "-1"), "threads:"),
            ("kernels", ("--device-index", "1a"), "device-index:"), ("kernels", ("--ranks", "-1"), "ranks:"),
            ("kernels", ("--shape", "9b"), 'shape "9b": want 8b, 1b, 70b/2, tiny'),
            ("kernels", ("--op", "matmull"), 'op "matmull": want matmul.qkv|.o|.gated|.down, matmul_rope_kv, '),
            ("kernels", ("--format", "int3"), 'format "int3": want 16-bit, w8a16, '),
            ("kernels", ("--op", "norm.rms", "--format", "int4"), "format: int4 is of weights, which op norm.rms has none of"),
            ("kernels", ("--op", "matmul.o", "--format", "kv-int8"), "format: kv-int8 is of a cache, which op matmul.o"),
            ("kernels", ("--op", "norm", "--ranks", "2"), "ranks: op norm is one device's"),
            ("kernels", ("--op", "send"), "op: send wants ranks, 2 or more"),
            ("engine", ("--repeats", "x"), "repeats:"), ("engine", ("--parallel-max", "99"), "parallel-max:"),
            ("engine", ("--decode", "4x"), "decode:"), ("engine", ("--prefill", "1,x"), "prefill:"),
            ("engine", ("--threads", "x"), "threads:")]
    for what, flags, message in rows:
        done = subprocess.run([c.options.binary, "bench", what, *(url if what == "http" else ()), *flags],
                              capture_output=True, text=True, timeout=10)
        equal(done.returncode, 2, what, *flags, done.stderr)
        check(f"inferd: bench {what}: {message}" in done.stderr, what, *flags, done.stderr)


def test_options_that_the_engine_refuses_are_refused_before_rates_are_measured(c):
    """In the words of `check`, not in those of an engine that did not start."""
    for flags in (("--max-context", "9000000"), ("--max-memory", "0=9GiB,1=9GiB"), ("--device", "cuda", "--cpu-isa", "scalar")):
        checked, done = (subprocess.run([c.options.binary, *command, c.options.model, *flags],
                                        capture_output=True, text=True, timeout=30)
                         for command in (("check",), ("bench", "engine")))
        equal([checked.returncode, done.returncode], [1, 1], *flags)
        equal(done.stderr, checked.stderr.replace("inferd: ", "inferd: bench engine: ", 1), *flags)


def test_a_full_server_is_told_from_its_filling(c):
    n = 80
    with Daemon(c.options) as d:
        start = time.monotonic()
        few, many = load(c, d.url, SLOTS), load(c, d.url, n)
        took = time.monotonic() - start
    equal([few["ok"], many["ok"], many["output_tokens"]], [SLOTS, n, n * TOKENS])
    check("saturated_s" not in few, "nothing waited:", few)
    check(0 < many["saturated_s"] < many["wall_s"] < took, many)
    # All slots are busy then: a token each a step, and steps take at least what they are told to.
    check(many["saturated_events_per_s"] <= SLOTS / STEP_US * 1e6 * 1.3, many)
    check(many["saturated_events_per_s"] > many["events_per_s"] * 0.8, many)
    ratio = many["output_tokens"] / many["events"]
    check(abs(many["saturated_tokens_per_s"] / many["saturated_events_per_s"] - ratio) < 0.01, many)
    c.say(f"{many['events_per_s']:.0f} events/s, {many['saturated_events_per_s']:.0f} while "
          f"requests waited")


def kernels(c, *flags):
    return subprocess.run([c.options.binary, "bench", "kernels", "--device", "cpu", "--threads", "2",
                           "--shape", "tiny", "--rows-max", "16", *flags],
                          capture_output=True, text=True, timeout=60, check=True).stdout


def test_every_op_has_a_time(c):
    found = json.loads(kernels(c, "--json", "--ranks", "2"))
    ops = {"embed", "head", "head_split", "matmul_rope_kv", "rope_kv", "all_reduce", "send", "recv"}
    ops |= {f"matmul.{part}" for part in ("qkv", "o", "gated", "down")}
    ops |= {"attention.prefill", "attention.decode", "norm.rms", "norm.rms_add", "norm.layer"}
    ops |= {f"sample.{kind}" for kind in ("greedy", "random", "cut", "top_p", "all", "score")}
    equal({t["op"] for t in found["times"]}, ops)
    check(found["copy_gb_per_s"] > 0 and found["matmul_tflops"] > 0, found)
    equal([found["vendor"], found["no_vendor"], found["skipped"]], ["", "the cpu device has none", []])
    for t in found["times"]:
        check(0 < t["us"] < 1e6 and t["gb_per_s"] > 0, t)
        equal([t["vendor_us"], t["times_vendor"]], [None, None], t)


def test_the_table_has_a_row_for_what_is_chosen(c):
    lines = kernels(c, "--op", "matmul.o", "--format", "q4_k").splitlines()
    check("the cpu device has none" in lines[1], lines)
    equal(lines[2].split()[:4], ["shape", "op", "format", "rows"])
    for line, rows in zip(lines[3:], ("1", "16"), strict=True):
        equal(line.split()[:4], ["tiny", "matmul.o", "q4_k", rows])
        equal(line.split()[-2:], ["-", "-"])
