"""The alerts of deploy/, run by Prometheus's own tool."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ALERTS = Path(__file__).parents[2] / "deploy" / "alerts.yaml"


def promtool(*arguments: str | Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool, of Debian's prometheus")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_prometheuss() -> None:
    promtool("check", "rules", ALERTS)


JOB = 'job="dicomweb-cors-proxy", instance="proxy:8080"'
NAMES = ("requests_total", "upstream_errors_total", "preflights_total")


@pytest.mark.parametrize(
    ("series", "alert"),
    [
        ({f"up{{{JOB}}}": "0x20"}, "DICOMwebProxyDown"),
        ({f'upstream_errors_total{{{JOB}, reason="credentials"}}': "0+1x20"},
         "DICOMwebArchiveRefusesProxy"),
        pytest.param({f'upstream_errors_total{{{JOB}, reason="token"}}': "0+1x20"},
                     "DICOMwebArchiveRefusesProxy", id="no token"),
        ({f'upstream_errors_total{{{JOB}, reason="connect"}}': "0+10x20",
          f'requests_total{{{JOB}, method="GET", status="502"}}': "0+100x20"},
         "DICOMwebArchiveFails"),
        ({f'requests_total{{{JOB}, method="GET", status="500"}}': "0+10x30",
          f'requests_total{{{JOB}, method="GET", status="200"}}': "0+90x30"},
         "DICOMwebServerErrors"),
        ({f'upstream_ttfb_seconds_bucket{{{JOB}, le="10.0"}}': "0+1x40",
          f'upstream_ttfb_seconds_bucket{{{JOB}, le="30.0"}}': "0+10x40",
          f'upstream_ttfb_seconds_bucket{{{JOB}, le="+Inf"}}': "0+10x40"},
         "DICOMwebArchiveSlow"),
        ({f'upstream_connections{{{JOB}, state="waiting"}}': "2x20"},
         "DICOMwebConnectionsExhausted"),
        ({f'preflights_total{{{JOB}, outcome="refused"}}': "0+5x40",
          f'preflights_total{{{JOB}, outcome="allowed"}}': "0+5x40"},
         "DICOMwebPreflightsRefused"),
        ({f"log_lines_dropped_total{{{JOB}}}": "0+1x20"}, "DICOMwebLogLinesDropped"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_an_alert_fires(series: dict[str, str], alert: str, tmp_path: Path) -> None:
    """As long as what it stands for lasts, and not where there is none of it."""
    inputs = [
        {"series": name if name.startswith("up{") else f"dicomweb_proxy_{name}", "values": values}
        for name, values in series.items()
    ]
    firing = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    idle = [{**each, "values": "1x40"} for each in inputs if "waiting" not in each["series"]]
    tests = tmp_path / "tests.yaml"
    tests.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(ALERTS)],
                "evaluation_interval": "1m",
                "tests": [
                    {
                        "interval": "1m",
                        "input_series": given,
                        "promql_expr_test": [
                            {"expr": firing, "eval_time": "19m", "exp_samples": samples}
                        ],
                    }
                    for given, samples in (
                        (inputs, [{"labels": "{}", "value": 1}]),
                        (idle, []),
                    )
                ],
            }
        )
    )
    promtool("test", "rules", tests)
