from __future__ import annotations

import dataclasses
import hashlib
import http.client
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bench import archive, browser, cases, http2, targets
from bench import report as reports
from bench.cases import CASES, TRANSFERS, Sample, WrongAnswerError
from bench.peers import (
    NO_PROXY,
    OURS,
    OURS_HTTP2,
    PEERS,
    REFERENCE,
    REFERENCE_HTTP2,
    Running,
    serving,
)
from bench.processes import CORES, Memory, Process, listens, running, tree

from tests.support.servers import Reply, free_port, stub

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LONG = 3_000_001
ORIGIN = "http://localhost:3000"
PREFLIGHT, SEARCH, *_ = CASES
FRAME = CASES[-1]

BUSY = """
import os, time
os.fork()
end = time.process_time() + 0.2
while time.process_time() < end:
    pass
time.sleep(60)
"""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Port of the bench's archive."""
    port = free_port()
    command = [sys.executable, "-m", "bench.archive", str(port), str(LONG)]
    with running(command, cores=CORES) as process:
        process.wait_until(lambda: listens(port))
        yield port


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that is uploaded."""
    file = tmp_path_factory.mktemp("bench") / "body"
    file.write_bytes(b"".join(archive.long_chunks(LONG)))
    return file


def get(port: int, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", archive.BASE_PATH + path, headers=headers)
    with connection.getresponse() as response:
        body = response.read()
    connection.close()
    return response.status, body


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Accept": cases.QUOTED}, 401),
        ({"Accept": cases.UNQUOTED, "Authorization": "Bearer t"}, 406),
        ({"Accept": cases.QUOTED, "Authorization": "Bearer t"}, 200),
    ],
)
def test_the_strict_study_needs_quotes_and_credentials(
    port: int, headers: Mapping[str, str], status: int
) -> None:
    strict = archive.study_of(archive.LARGEST, strict=True)
    assert get(port, archive.frame_path(strict, 7), **headers)[0] == status


@pytest.mark.parametrize("size", archive.FRAME_SIZES)
def test_frames_have_the_size_of_their_study(port: int, size: int) -> None:
    status, body = get(port, archive.frame_path(archive.study_of(size), 7))
    assert (status, body) == (200, archive.frame(size))
    assert len(body) == pytest.approx(1000 * size, rel=0.03)


@pytest.mark.parametrize("key", http2.KEYS)
def test_all_paths_of_a_case_get_the_same_response(port: int, key: str) -> None:
    first, *_, last = http2.paths(http2.KEYS[key])
    assert first != last
    assert get(port, first) == get(port, last) == get(port, http2.KEYS[key].path)


def test_the_archive_answers_what_the_cases_expect(port: int, body: Path) -> None:
    with serving(NO_PROXY, port, ORIGIN) as direct:
        for case in (SEARCH, FRAME):
            assert cases.check(case, direct)
        for transfer in TRANSFERS:
            cases.check_transfer(transfer, direct, body)


@pytest.mark.parametrize("size", archive.SEARCHES.values())
def test_searches_have_about_the_size_that_they_are_named_by(size: int) -> None:
    assert 0.6 * size < len(archive.search(size)) <= size


def test_a_proxy_that_agrees_on_http_1_1_only_is_found_out(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMWEB_PROXY_SERVER__HTTP2", "false")
    with serving(PEERS[OURS_HTTP2], port, ORIGIN) as proxy:
        assert proxy.process
        proxy.process.wait_until(lambda: cases.answers(proxy))
        with pytest.raises(WrongAnswerError, match=r"HTTP/1\.1 instead of HTTP/2"):
            cases.check(FRAME, proxy)


@pytest.mark.parametrize("key", [OURS, "naive"])
def test_a_proxy_that_does_the_job_passes(key: str, port: int, body: Path) -> None:
    with serving(PEERS[key], port, ORIGIN) as proxy:
        assert proxy.process
        proxy.process.wait_until(lambda: cases.answers(proxy))
        for case in (PREFLIGHT, SEARCH, FRAME):
            assert cases.check(case, proxy)
        for transfer in TRANSFERS:
            cases.check_transfer(transfer, proxy, body)
        with cases.stall(proxy, 2):
            memory = proxy.process.memory()
        assert 0 < memory.pss <= memory.rss


@pytest.mark.skipif(not shutil.which("h2load"), reason="h2load is not installed")
@pytest.mark.parametrize("key", [OURS_HTTP2, REFERENCE_HTTP2])
def test_requests_over_http2_are_checked_and_counted(key: str, port: int) -> None:
    if not PEERS[key].version():
        pytest.skip(f"{key} is not installed")
    with serving(PEERS[key], port, ORIGIN) as proxy:
        assert proxy.process
        proxy.process.wait_until(lambda: cases.answers(proxy))
        for name, case in http2.KEYS.items():
            size = cases.check(case, proxy)
            sample = http2.measure(name, proxy, size, (2, 3), 1)
            assert sample.cpu
            assert (sample.errors, sample.rate > 0) == (0, True)
            assert http2.measure(name, proxy, 2 * size, (2, 3), 1).errors > 0
        nobody = dataclasses.replace(proxy, port=free_port())
        assert http2.measure(name, nobody, size, (2, 3), 1).errors > 0


SAID = """
Application protocol: h2
finished in 1.04s, 692.00 req/s, 346.02MB/s
requests: 692 total, 724 started, 692 done, 692 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 692 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 346.02MB (362825440) total, 5.50KB (5633) headers (space savings 95%), 345MB (692000) data
"""


@pytest.mark.parametrize(
    ("old", "new", "errors"),
    [
        ("", "", 0),
        ("(692000) data", "(690000) data", 2),
        ("0 failed", "3 failed", 3),
        ("0 3xx", "4 3xx", 4),
        ("protocol: h2", "protocol: http/1.1", 1),
        ("692 done", "0 done", 1),
    ],
)
def test_what_h2load_says_is_read(old: str, new: str, errors: int) -> None:
    sample = http2.sample(SAID.replace(old, new), 1000, 1.384)
    assert sample.errors == errors
    if errors != 1:
        assert (sample.cpu, sample.rate) == (0.002, 692)


RIGHT = {"Access-Control-Allow-Origin": ORIGIN, "Access-Control-Expose-Headers": "etag"}
GRANT = {
    "Access-Control-Allow-Origin": ORIGIN,
    "Access-Control-Allow-Headers": "accept, authorization",
    "Access-Control-Max-Age": "7200",
}


@pytest.mark.parametrize(
    ("case", "reply", "fault"),
    [
        (FRAME, Reply(200, RIGHT, archive.frame()), None),
        (FRAME, Reply(502, RIGHT, archive.frame()), "status 502"),
        (FRAME, Reply(200, {}, archive.frame()), "Allow-Origin"),
        (FRAME, Reply(200, RIGHT | {"Access-Control-Allow-Origin": "null"}), "Allow-Origin"),
        (FRAME, Reply(200, GRANT, archive.frame()), "exposes ''"),
        (FRAME, Reply(200, RIGHT, archive.frame()[:-1]), "another body"),
        (PREFLIGHT, Reply(200, GRANT), None),
        (PREFLIGHT, Reply(200, RIGHT), "grants ''"),
        (PREFLIGHT, Reply(200, GRANT | {"Access-Control-Max-Age": "5"}), "Max-Age"),
    ],
)
def test_a_proxy_that_does_another_job_is_found_out(
    case: cases.Case, reply: Reply, fault: str | None
) -> None:
    with (
        stub(reply) as proxy,
        running([sys.executable, "-c", "input()"], cores=CORES) as process,
    ):
        port = int(proxy.url.rpartition(":")[2])
        subject = Running(PEERS[REFERENCE], ORIGIN, port, archive.BASE_PATH, process)
        if fault:
            with pytest.raises(WrongAnswerError, match=fault):
                cases.check(case, subject)
        else:
            assert cases.check(case, subject)


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "XZ"


def test_cpu_and_memory_are_those_of_the_whole_tree_and_all_of_it_is_ended() -> None:
    def settled(process: Process) -> bool:
        return len(tree(process.pid)) == 2 and process.cpu() > 0.4

    with running([sys.executable, "-c", BUSY], cores=CORES) as process:
        process.wait_until(lambda: settled(process))
        parent, child = tree(process.pid)
        assert process.cpu() < 2
        assert process.memory().rss > process.memory().pss
        assert is_alive(parent)
        assert is_alive(child)
    assert not is_alive(parent)
    while is_alive(child):  # the test's own timeout ends this
        time.sleep(0.01)


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
def test_failed_requests_are_counted(port: int) -> None:
    wrong = dataclasses.replace(SEARCH, path="/nothing")
    with serving(NO_PROXY, port, ORIGIN) as direct:
        size = cases.check(SEARCH, direct)
        good = cases.measure(SEARCH, direct, size, 2, 1)
        assert (good.errors, good.cpu) == (0, None)
        assert good.rate > 0
        assert cases.measure(wrong, direct, 0, 2, 1).errors > 0
        assert cases.measure(SEARCH, direct, size + 200, 2, 1).errors > 0
        nobody = dataclasses.replace(direct, port=free_port())
        assert cases.measure(SEARCH, nobody, size, 2, 1).errors > 0


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_failed_transfers_are_counted(port: int, body: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(LONG + 1))
    with serving(NO_PROXY, port, ORIGIN) as direct:
        nobody = dataclasses.replace(direct, port=free_port())
        for transfer in TRANSFERS:
            assert cases.transfer(transfer, direct, body).errors == 0
            assert cases.transfer(transfer, nobody, body).errors == 1
        assert cases.transfer(cases.ANSWER, direct, other).errors == 1


def test_the_relay_delays_and_changes_nothing(port: int) -> None:
    entrance = free_port()
    command = [sys.executable, "-m", "bench.relay", str(entrance), str(port), "150"]
    with running(command, cores=CORES) as relay:
        relay.wait_until(lambda: listens(entrance))
        began = time.monotonic()
        status, body = get(entrance, f"/studies/{archive.LONG_STUDY}")
        assert time.monotonic() - began > 0.29
    assert status == 200
    expected = b"".join(archive.long_chunks(LONG))
    assert hashlib.sha256(body).digest() == hashlib.sha256(expected).digest()


def results(*peers: str, **cpu: float) -> reports.Results:
    found = reports.Results(
        peers=[PEERS[key] for key in (*peers, *cpu)],
        options="python -m bench",
        rounds=3,
        streams=20,
        frames=300,
        long=1 << 30,
    )
    for key, value in cpu.items():
        for factor in (1, 3, 0.5):
            sample = Sample(cpu=value * factor, rate=1000, p99=0.002, errors=1)
            found.samples[SEARCH.key, 32, key].append(sample)
    return found


def test_tables_show_median_ratio_spread_and_errors() -> None:
    row = "| Caddy | 1.00 | 100 (50.0\N{EN DASH}300) | 1000, 2.00 | 3 |"
    text = reports.requests(results(caddy=1e-4, ours=1.3e-4))
    assert row in text
    assert "| **this proxy** | 1.30 | 130 (65.0\N{EN DASH}390) | 1000, 2.00 | 3 |" in text


def test_the_short_table_has_ratios_only_and_names_the_processor() -> None:
    head, _, _, row = reports.short(results(caddy=1e-4, ours=1.3e-4)).splitlines()
    assert head.startswith(f"| ÷ Caddy, {reports.processor()} | Preflight |")
    assert [cell for cell in row.split(" | ")[1:] if cell.strip("| ") != reports.NONE] == ["1.30"]


def test_the_short_table_leaves_http2_out() -> None:
    found = results("caddy-h2", "ours-h2", caddy=1e-4, ours=1.3e-4)
    cell = browser.Cell(512, 20, browser.PREFLIGHTED)
    for key in ("caddy", "ours", "caddy-h2", "ours-h2"):
        found.loads[cell, key].append(browser.Load(2.0, []))
    rows = [row.split(" | ")[0] for row in reports.short(found).splitlines()[2:]]
    assert rows == ["| Caddy", "| **this proxy**"]


def test_tables_over_http2_compare_with_the_reference_over_http2() -> None:
    found = results("caddy", "caddy-h2", "ours-h2")
    for key, cpu in (("caddy-h2", 1e-4), ("ours-h2", 1.3e-4)):
        for load in http2.LOADS:
            sample = Sample(cpu=cpu, rate=1000, p99=None, errors=1)
            found.samples["search-2k-h2", load, key].append(sample)
    text = reports.over_http2(found)
    assert "| **this proxy, HTTP/2** | 1.30 | 130 | 1.30 | 130 | 1000 | 1000 | 2 |" in text
    assert "512 KB frame" not in text


def test_loads_compare_with_the_same_origin_and_with_the_reference_over_http2() -> None:
    found = results("caddy", "caddy-h2", "ours-h2")
    cell = browser.Cell(60, 20, browser.PREFLIGHTED)
    for key, seconds in (("caddy", 4.0), ("caddy-h2", 1.5), ("ours-h2", 1.2), ("none", 3.0)):
        found.loads[cell, key].append(browser.Load(seconds, ["loaded by http/1.1"]))
    text = reports.over_http2(found)
    assert "### Chromium loads 300 frames of 60 KB, 20 ms added\n" in text
    dashes = " | ".join(4 * [reports.NONE])
    assert f"| **this proxy, HTTP/2** | 0.40 | 1.20 | {dashes} | 1 |" in text
    assert f"| Caddy | 1.33 | 4.00 | {dashes} | 1 |" in text
    assert "| ÷ Caddy over HTTP/2 | Caddy, HTTP/2 | **this proxy, HTTP/2** |" in text
    assert "| 60 KB, 20 ms, with preflights | 1.00 | 0.80 |" in text


def test_loads_are_compared_round_by_round() -> None:
    found = results("caddy-h2", "ours-h2")
    cell = browser.Cell(60, 20, browser.SIMPLE)
    for ours, caddy in ((1.0, 2.0), (9.0, 10.0), (4.0, 1.0)):
        found.loads[cell, "ours-h2"].append(browser.Load(ours, []))
        found.loads[cell, "caddy-h2"].append(browser.Load(caddy, []))
    assert found.load_ratio(cell, "ours-h2", "caddy-h2") == 0.9


@pytest.mark.parametrize(
    ("ours", "mark", "is_met"),
    [(1.1e-4, "met", True), (1.2e-4, "above, within tolerance", True), (1.3e-4, "MISSED", False)],
)
def test_a_figure_is_compared_with_its_target(ours: float, mark: str, *, is_met: bool) -> None:
    found = results(caddy=1e-4, ours=ours)
    assert targets.verdict(found) == (
        f"search-2k 32, CPU in Caddy's: {ours * 1e4:.2f}, target 1.1: {mark}",
        is_met,
    )


def test_all_kinds_of_targets_are_compared() -> None:
    found = results("caddy-h2", "ours-h2", caddy=1e-4, ours=1e-4)
    for key in ("caddy-h2", "ours-h2"):
        sample = Sample(cpu=1e-4, rate=1, p99=None, errors=0)
        found.samples["frame-h2", (1, 32), key].append(sample)
    found.memory["ours"] = Memory(0, 0), Memory(0, 20 << 20)
    found.starts["ours"] += [0.2, 0.5, 0.1]
    lines, is_met = targets.verdict(found)
    assert [line.rpartition(": ")[2] for line in lines.splitlines()] == [
        "met",
        "met",
        "MISSED",
        "met",
    ]
    assert not is_met


def test_without_a_figure_no_target_is_met() -> None:
    assert targets.verdict(results()) == ("none of the targets was measured", False)


def test_content_goes_between_the_marks() -> None:
    text = "a\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nb\n"
    assert reports.between(text, "bench", "new\n") == text.replace("old", "new")
    with pytest.raises(ValueError, match="bench:begin"):
        reports.between("a\n", "bench", "new\n")


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
def test_the_command_prints_tables() -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--long", "1"]
    command += ["--only", "preflight,answer,upload,memory,start", "--peers", "ours"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    for title in ("Preflight", "1 GB answer", "1 GB upload", "Memory", "Start"):
        assert f"\n### {title}" in done.stdout
    assert "not measured" not in done.stdout


@pytest.mark.parametrize(
    "option", ["--only=speed", "--peers=apache", "--sizes=61", "--delays=x,20", "--publish=no"]
)
def test_the_command_names_what_there_is(option: str) -> None:
    command = [sys.executable, "-m", "bench", option]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert "is none of" in done.stderr or "choose from" in done.stderr
