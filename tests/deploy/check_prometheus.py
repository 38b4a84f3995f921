"""Rules and alerts: promtool takes them, each alert fires when it should, exists in the runbook, and asks
for metrics that the daemon has."""
import os
import re

import promql
import tools
import yaml
from exported import exported
from harness import check, equal

ALERTS, RECORDING, CONFIG = (tools.path("deploy", "prometheus", n) for n in
                             ("alerts.rules.yml", "recording.rules.yml", "prometheus.yml"))


def rules(path):
    with open(path) as f:
        return [r for g in yaml.safe_load(f)["groups"] for r in g["rules"]]


def test_the_expressions_are_read_right(c):
    """The reader of metric names, against what it must see and must not see."""
    got = promql.metrics('sum by (job) (rate(a_total{x="b_total",y=~"c|d"}[5m])) / on (job) group_left(z) e:f '
                         '> 0.5 and time() - g_seconds unless ignoring (h) i_bool > bool 1')
    equal(got, {"a_total", "e:f", "g_seconds", "i_bool"})


def test_promtool_takes_rules_and_configuration(c):
    for words in (("check", "rules", ALERTS, RECORDING), ("check", "config", CONFIG)):
        code, said = tools.say("promtool", *words)
        check(code == 0 and "SUCCESS" in said, said)


def test_every_alert_fires_and_is_silent_as_told(c):
    code, said = tools.say("promtool", "test", "rules", tools.path("tests", "deploy", "alerts.test.yml"))
    check(code == 0, said)


def test_every_alert_is_told_when_to_fire_and_when_not(c):
    with open(tools.path("tests", "deploy", "alerts.test.yml")) as f:
        cases = [a for t in yaml.safe_load(f)["tests"] for a in t["alert_rule_test"]]
    for r in rules(ALERTS):
        mine = [a["exp_alerts"] for a in cases if a["alertname"] == r["alert"]]
        check(any(mine) and not all(mine), r["alert"], "has", len(mine), "cases")
    equal({a["alertname"] for a in cases}, {r["alert"] for r in rules(ALERTS)}, "alerts with cases")


def test_every_metric_is_exported_or_recorded(c):
    known = exported(c.options) | {r["record"] for r in rules(RECORDING)} | {"up"}
    for r in rules(ALERTS) + rules(RECORDING):
        used = promql.metrics(r["expr"])
        check(used and used <= known, r.get("alert") or r["record"], "asks for", used - known)


def test_every_status_code_of_an_alert_is_one_that_the_daemon_gives(c):
    source = "".join(tools.read("server", n) for n in sorted(os.listdir(tools.path("server"))) if n.endswith(".c"))
    for r in rules(ALERTS) + rules(RECORDING):
        for codes in re.findall(r'code=~?"([^"]+)"', r["expr"]):
            for code in codes.split("|"):
                check(f'"{code}"' in source, r, "names the code", code)


def test_every_alert_has_its_section_and_points_at_it(c):
    text = tools.read("docs", "runbook.md")
    sections = dict(zip(re.findall(r"(?m)^## (\S+)$", text), re.split(r"(?m)^## \S+$", text)[1:]))
    equal(sorted(sections), sorted(r["alert"] for r in rules(ALERTS)), "sections")
    for r in rules(ALERTS):
        equal(r["annotations"]["runbook"], f"docs/runbook.md#{r['alert'].lower()}", r["alert"])
        check(r["labels"]["severity"] in ("page", "ticket"), r["alert"])
        for word in ("**Means:**", "**Look at:**", "**Do:**"):
            check(word in sections[r["alert"]], r["alert"], "lacks", word)


def test_what_the_runbook_names_exists(c):
    text = tools.read("docs", "runbook.md")
    options = set(re.findall(r"(?m)^  --([a-z0-9-]+) ", tools.say(c.options.binary, "--help")[1]))
    metrics = exported(c.options)
    for word in set(re.findall(r"`([^`\n]+)`", text)):
        if re.fullmatch(r"(inferd|process)_\w+", word):
            check(word in metrics, "no metric", word)
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", text)) - {"nvidia-smi"}
    equal(named - options, set(), "options that the daemon does not have")
    titles = set(re.findall(r'"title": "([^"]+)"', tools.read("deploy", "grafana", "inferd.json")))
    equal(set(re.findall(r'"([A-Z][^"\n]+)"', text)) - titles, set(), "panels that are not on the dashboard")
