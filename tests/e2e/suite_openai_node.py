"""The official Node client: tests/e2e/node/openai.mjs says one line for each test."""
import os
import subprocess

from harness import KEY, ROOT, Failure


def test_every_line_of_the_node_client(c):
    env = dict(os.environ, INFERD_URL=f"http://127.0.0.1:{c.server.port}", INFERD_KEY=KEY,
               INFERD_NODE=os.path.join(c.options.node_modules, "node_modules"))
    script = os.path.join(ROOT, "tests", "e2e", "node", "openai.mjs")
    done = subprocess.run(["node", script], env=env, capture_output=True, text=True, timeout=600)
    for line in done.stdout.splitlines():
        c.say(line)
    if done.returncode != 0:
        raise Failure(f"node ended with {done.returncode}\n{done.stderr[-2000:]}")
