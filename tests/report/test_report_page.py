"""The page of `dagron report` in a real browser: it is drawn, complains of nothing, asks nobody, and runs nothing."""

import itertools
import json
import time

import chromium
import psutil
import pytest

import dagron
from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.format.records import Failed, Output, RunEnded, RunStarted
from dagron.checkpoint.reading.history import History, RunHistory
from dagron.checkpoint.reading.ledger import Ledger
from dagron.figures import Figures
from dagron.report.build import build_report
from dagron.report.render import render

pytestmark = pytest.mark.skipif(chromium.PATH is None, reason="no Chromium or Chrome is installed")

HOSTILE = "</script><img src=x onerror=alert(1)><svg onload=alert(2)>\u202e"
SHARES = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser(all_dead_in):
    with chromium.Chromium() as started:
        processes = psutil.Process(started.pid).children(recursive=True)
        yield started
    assert all_dead_in(10, processes)


@pytest.fixture(autouse=True)
def no_process_is_left():
    """Unlike elsewhere: the browser lives as long as this module's tests, and its fixture looks after that."""


def commit(name, slot, start, seconds):
    return Commit(name, 0, slot, 1, 100, b"", b"", Figures(start, seconds, seconds * 0.8, 0.0, 2**25))


def report_of(dag, failures=(), *, seconds=0.5, n_slots=4):
    """Every node in turn on the slots, but the failures and what comes after them, in two runs."""
    failed = dict(failures)
    left_out = {child for name in failed for child in dag.descendants(name)} | set(failed)
    kept = [name for name in dag.topological_order() if name not in left_out]
    commits = [commit(name, i % n_slots, 1e9 + i // n_slots * seconds, seconds) for i, name in enumerate(kept)]
    half = len(commits) // 2
    middle = commits[half].figures.started_unix
    end = commits[-1].figures.started_unix + 2 * seconds
    first = RunHistory(RunStarted(1e9, True, slots=n_slots), commits=commits[:half], updated_unix=middle)
    second = RunHistory(RunStarted(middle, False, slots=n_slots), RunEnded(end), commits[half:], list(failed.values()))
    second.updated_unix = end
    view = Ledger(b"", {c.name: c for c in commits}, failed, RunStarted(1e9, False, total=len(dag)))
    return build_report(
        History(view, [first, second]), dag, directory=HOSTILE, version="0", generated_unix=end, how="interrupted"
    )


def failure(name, at, slot=1):
    text = f'Traceback (most recent call last):\n  File "{HOSTILE}", line 3, in f\nValueError: {HOSTILE}\n'
    return name, Failed(
        name,
        at,
        type="ValueError",
        message=HOSTILE,
        traceback=text,
        attempts=2,
        slot=slot,
        figures=Figures(at - 0.4, 0.4),
        output=Output(stderr=HOSTILE),
    )


def small():
    edges = [(f"load[{i}]", f"{HOSTILE}{i}") for i in range(30)] + [(f"{HOSTILE}{i}", "total") for i in range(30)]
    dag = dagron.DAG([f"load[{i}]" for i in range(30)] + [f"{HOSTILE}{i}" for i in range(30)] + ["total"], edges)
    return report_of(dag, [failure(f"{HOSTILE}7", 1e9 + 8)])


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(small()), encoding="utf-8")
    return path


def check_silent(page):
    assert page.messages == []
    assert page.requests == []
    assert page.evaluate("document.querySelectorAll('img, iframe, object, #main svg [onload]').length") == 0


def choose(page, element, value, event):
    found = f"document.getElementById({json.dumps(element)})"
    page.evaluate(f"{found}.value = {json.dumps(value)}; {found}.dispatchEvent(new Event({json.dumps(event)}))")


def painted(page):
    """How many colours the timeline has: an empty canvas has one."""
    script = """(() => {
        const c = document.querySelector('#lanes canvas');
        const pixels = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        return new Set(new Uint32Array(pixels.buffer)).size;
    })()"""
    return page.evaluate(script)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_is_drawn_at_every_width_in_both_schemes_and_hostile_text_stays_text(browser, page_file, width, dark):
    page = browser.open(page_file.as_uri(), width=width, dark=dark)
    assert painted(page) > 5
    assert page.evaluate("document.querySelectorAll('#graph-box .box').length") >= 3
    assert page.evaluate(SHARES), "the page is wider than its window"
    shown = page.evaluate("document.body.innerText")
    assert r"</script><img src=x onerror=alert(1)><svg onload=alert(2)>\u202e" in shown
    assert page.evaluate("document.title").startswith("</script><img")
    check_silent(page)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_what_is_written_has_contrast_enough_in_both_schemes(browser, page_file):
    # WCAG 2.1, success criterion 1.4.3: 4.5 to 1 for text.
    names = ("--text", "--faint", "--accent", "--page", "--raised")
    script = f"{json.dumps(names)}.map((n) => getComputedStyle(document.documentElement).getPropertyValue(n).trim())"
    for dark in (False, True):
        *inks, page, raised = browser.open(page_file.as_uri(), dark=dark).evaluate(script)
        for ink in inks:
            assert min(contrast(ink, page), contrast(ink, raised)) >= 4.5, (ink, dark)


def test_the_timeline_is_driven_by_the_keyboard(browser, page_file):
    page = browser.open(page_file.as_uri())
    page.evaluate("document.getElementById('lanes').focus()")
    chosen = "document.getElementById('chosen').textContent"
    page.press("n")
    first = page.evaluate(chosen)
    assert "load[0]" in first
    page.press("n")
    assert page.evaluate(chosen) != first
    page.press("p")
    assert page.evaluate(chosen) == first
    before = page.evaluate("document.querySelector('#lanes canvas').toDataURL()")
    page.press("+")
    closer = page.evaluate("document.querySelector('#lanes canvas').toDataURL()")
    assert closer != before
    page.press("ArrowRight")
    assert page.evaluate("document.querySelector('#lanes canvas').toDataURL()") != closer
    page.press("0")
    assert page.evaluate("document.querySelector('#lanes canvas').toDataURL()") == before
    check_silent(page)


def test_the_wheel_zooms_the_timeline_once_it_was_clicked_and_the_pointer_names_what_it_is_on(browser, page_file):
    page = browser.open(page_file.as_uri())
    page.evaluate("document.getElementById('timeline').scrollIntoView()")
    box = page.evaluate("document.querySelector('#lanes canvas').getBoundingClientRect().toJSON()")
    x, y = box["x"] + 90, box["y"] + 45
    picture = "document.querySelector('#lanes canvas').toDataURL()"
    page.mouse("mouseMoved", x, y)
    page.wait_for("!document.getElementById('tip').hidden")
    assert "load[" in page.evaluate("document.getElementById('tip').textContent")
    for kind in ("mousePressed", "mouseReleased"):
        page.mouse(kind, x, y, button="left", clickCount=1)
    assert "load[" in page.evaluate("document.getElementById('chosen').textContent")
    page.settle()
    before = page.evaluate(picture)
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-300)
    page.wait_for(f"{picture} !== {json.dumps(before)}")
    check_silent(page)


def test_one_run_can_be_shown_alone(browser, page_file):
    page = browser.open(page_file.as_uri())
    picture = "document.querySelector('#lanes canvas').toDataURL()"
    before = page.evaluate(picture)
    choose(page, "run", "1", "change")
    page.settle()
    assert page.evaluate(picture) != before
    page.evaluate("document.getElementById('zoom-all').click()")
    page.settle()
    assert page.evaluate(picture) == before
    check_silent(page)


def test_a_group_opens_by_the_keyboard_and_the_list_follows(browser, page_file):
    page = browser.open(page_file.as_uri())
    boxes = "[...document.querySelectorAll('#graph-box .box')]"
    page.evaluate(f"{boxes}.find((box) => box.getAttribute('aria-label').startsWith('load[*]')).focus()")
    page.press("Enter")
    assert page.evaluate(f"{boxes}.filter((box) => !box.classList.contains('near')).length") == 30
    assert "load[*]" in page.evaluate("document.getElementById('scope').textContent")
    assert "of 30 nodes" in page.evaluate("document.getElementById('node-count').textContent")
    page.evaluate("document.querySelector('#graph-path button').click()")
    assert "of 61 nodes" in page.evaluate("document.getElementById('node-count').textContent")
    check_silent(page)


def test_the_list_is_searched_sorted_and_filtered(browser, page_file):
    page = browser.open(page_file.as_uri())
    rows = "[...document.querySelectorAll('#node-rows th')].map((cell) => cell.textContent)"
    choose(page, "search", "LOAD[2", "input")
    assert len(page.evaluate(rows)) == 11
    page.evaluate("document.querySelector('th[data-by=name] button').click()")
    assert page.evaluate(rows)[:2] == ["load[20]", "load[21]"]
    assert page.evaluate("document.querySelector('th[data-by=name]').getAttribute('aria-sort')") == "ascending"
    choose(page, "search", "", "input")
    choose(page, "state", "1", "change")
    assert len(page.evaluate(rows)) == 1
    check_silent(page)


def test_attempts_of_nodes_that_left_the_job_are_grey_and_lead_nowhere(browser, tmp_path):
    commits = [commit("a", 0, 1e9, 1.0), commit(HOSTILE, 1, 1e9, 1.0)]
    run = RunHistory(RunStarted(1e9, True, slots=2), RunEnded(1e9 + 1), commits, updated_unix=1e9 + 1)
    view = Ledger(b"", {"a": commits[0]}, {}, RunStarted(1e9, False, total=1))
    view.absent = {HOSTILE}
    report = build_report(
        History(view, [run]), dagron.DAG(["a"]), directory="d", version="0", generated_unix=1e9, how="finished"
    )
    file = tmp_path / "report.html"
    file.write_text(render(report), encoding="utf-8")
    page = browser.open(file.as_uri())
    assert "no longer in the job" in page.evaluate("document.getElementById('lane-legend').innerText")
    page.evaluate("document.getElementById('lanes').focus()")
    for key in ("n", "n", "Enter"):
        page.evaluate(f"document.getElementById('lanes').dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}'}}))")
    chosen = page.evaluate("document.getElementById('chosen').innerText")
    assert r"\u202e" in chosen
    assert "no longer in the job" in chosen
    check_silent(page)


def test_ten_thousand_nodes_stay_usable(browser, tmp_path):
    n = 3_300
    kinds = ("load", "clean", "fit")
    names = [f"{kind}[{i}]" for kind in kinds for i in range(n)]
    names += [f"cell_{i}_{j}" for i in range(20) for j in range(20)]
    edges = [
        (f"{one}[{i}]", f"{other}[{(i + further) % n}]")
        for one, other in itertools.pairwise(kinds)
        for i in range(n)
        for further in (0, 1, 7)
    ]
    edges += [(f"cell_{i}_{j}", f"cell_{i + 1}_{j}") for i in range(19) for j in range(20)]
    edges += [(f"cell_{i}_{j}", f"cell_{i}_{j + 1}") for i in range(20) for j in range(19)]
    began = time.process_time()
    text = render(report_of(dagron.DAG(names, edges), [failure("cell_19_3", 1e9 + 50)], n_slots=32))
    assert time.process_time() - began < 10
    assert len(text.encode()) < 2 * 2**20
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    page = browser.open(path.as_uri())
    # Well above what it takes, on a machine that does other things: this is to catch what grows faster than the graph.
    assert page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") < 10_000
    opened = """((label) => {
        const began = performance.now();
        const buttons = [...document.querySelectorAll('#graph-rows button')];
        buttons.find((button) => button.textContent.includes(label)).click();
        return performance.now() - began;
    })"""
    assert page.evaluate(f"{opened}('cell_')") < 5_000
    page.evaluate("document.querySelector('#graph-path button').click()")
    assert page.evaluate(f"{opened}('clean')") < 5_000
    assert page.evaluate("document.querySelectorAll('#graph-box .box').length") < 100
    page.evaluate("document.getElementById('lanes').focus()")
    took = page.evaluate("""new Promise((done) => {
        const began = performance.now();
        let left = 10;
        const next = () => {
            document.getElementById(left % 2 ? 'zoom-in' : 'zoom-out').click();
            if (left--) requestAnimationFrame(next); else done((performance.now() - began) / 10);
        };
        next();
    })""")
    assert took < 500, "milliseconds for one step of a zoom"
    check_silent(page)
