"""What Prometheus and vLLM's dashboards read: promtool takes it, and no family is missing."""
import os
import subprocess

from harness import ROOT, check


def test_metrics_are_what_prometheus_wants(c):
    c.server.post("/v1/completions", '{"model":"test-model","prompt":"hi","max_tokens":4}')
    script = os.path.join(ROOT, "tests", "e2e", "check_metrics.sh")
    url = f"http://127.0.0.1:{c.server.port}/metrics"
    said = subprocess.run([script, url], capture_output=True, text=True)
    check(said.returncode == 0, said.stdout, said.stderr)
