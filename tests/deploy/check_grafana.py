"""The dashboard: each expression is PromQL over metrics that exist, each panel has its place and its words."""
import json
import re
import tempfile

import promql
import tools
import yaml
from exported import exported
from harness import check, equal

VARIABLES = {"$job": "inferd", "$instance": ".*", "$__rate_interval": "5m"}


def dashboard():
    return json.loads(tools.read("deploy", "grafana", "inferd.json"))


def panels():
    return [p for p in dashboard()["panels"] if p["type"] != "row"]


def expressions():
    """[(where, expression)] of panels and annotations, with the dashboard's variables filled in."""
    rows = [(p["title"], t["expr"]) for p in panels() for t in p["targets"]]
    rows += [(a["name"], a["expr"]) for a in dashboard()["annotations"]["list"]]
    for name, value in VARIABLES.items():
        rows = [(where, e.replace(name, value)) for where, e in rows]
    return rows


def test_every_expression_is_promql(c):
    rows = expressions()
    check(len(rows) > 20, "expressions", len(rows))
    document = {"groups": [{"name": "dashboard", "rules": [
        {"record": f"panel:{i}", "expr": e} for i, (_, e) in enumerate(rows)]}]}
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as f:
        yaml.safe_dump(document, f)
        f.flush()
        code, said = tools.say("promtool", "check", "rules", f.name)
    check(code == 0, said)
    equal([e for _, e in rows if "$" in e], [], "variables that the dashboard does not have")


def test_every_metric_is_exported_or_recorded(c):
    recorded = re.findall(r"record: (\S+)", tools.read("deploy", "prometheus", "recording.rules.yml"))
    known = exported(c.options) | set(recorded)
    for where, e in expressions():
        used = promql.metrics(e)
        check(used and used <= known, where, "asks for", used - known)
    for v in dashboard()["templating"]["list"]:
        for name in re.findall(r"label_values\((\w+)", v.get("definition", "")):
            check(name in known, v["name"], name)


def test_every_expression_keeps_to_the_chosen_daemons(c):
    for p in panels():
        for t in p["targets"]:
            n = len(promql.metrics(t["expr"]))
            check(t["expr"].count('job="$job",instance=~"$instance"') >= n, p["title"], t["expr"])


def test_every_panel_has_a_place_and_words(c):
    ids = [p["id"] for p in dashboard()["panels"]]
    equal(len(ids), len(set(ids)), "ids")
    taken = {}
    for p in dashboard()["panels"]:
        g = p["gridPos"]
        check(g["x"] >= 0 and g["x"] + g["w"] <= 24, p["title"], "is wider than the page")
        for cell in ((x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])):
            check(cell not in taken, p["title"], "lies over", taken.get(cell))
            taken[cell] = p["title"]
    for p in panels():
        check(p["description"].endswith((".", "0.")) and p["fieldConfig"]["defaults"]["unit"], p["title"])
        equal([t["refId"] for t in p["targets"]], [chr(65 + i) for i in range(len(p["targets"]))], p["title"])
