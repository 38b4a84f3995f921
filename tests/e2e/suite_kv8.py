"""Values in E4M3, keys in int8, and too few blocks for all: the same request gives the same bytes."""
from harness import check, equal, run_parallel
from suite_batching import ask, make_requests

# Each of 12 requests grows by 7 blocks while it runs, so some lose theirs.
OPTIONS = ("--max-seqs", "12", "--max-step-tokens", "256", "--prefill-chunk", "96",
           "--queue-wait-ms", "120000", "--kv-dtype", "fp8", "--kv-blocks", "60")


def test_12_together_equal_each_alone(c):
    requests = [dict(b, max_tokens=110, ignore_eos=True) for b in make_requests(12)]
    alone = [ask(c.server, body) for body in requests]
    together = run_parallel([lambda b=b: ask(c.server, b) for b in requests])
    for i, (got, want) in enumerate(zip(together, alone)):
        equal(got, want, f"request {i}")
    n = int(c.server.metric("inferd_preemptions_total"))
    check(n > 0, "nobody lost blocks")
    c.say(f"12 requests in 60 blocks, {n} preemptions, byte-equal to each alone")
