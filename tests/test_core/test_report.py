"""The report: one page that loads nothing, escapes everything and can be read by anyone."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from routellm_core import Calibration
from routellm_core.errors import ConfigurationError
from routellm_core.evaluation import EvaluationSet, compare, evaluate
from routellm_core.evaluation.report import write_report
from routellm_core.testing import ScriptedRouter

pytest.importorskip("matplotlib")

HOSTILE = '<script>alert(1)</script><img src="https://example.com/x.png"> & "quoted" \ud800 $x_'
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Every tag closed in order, every id once, and what could load something."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.loads, self.tags, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._look(attrs)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self._look(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def _look(self, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "srcset", "data", "action", "poster") or (
                name in ("href", "xlink:href") and not value.startswith("#")
            ):
                self.loads.append((name, value))
            if name.startswith("on"):
                self.loads.append((name, value))


def make_set(name="own set", n=60):
    rng = np.random.default_rng(0)
    gain = rng.integers(-1, 3, n).clip(max=1)
    scores = np.stack([np.maximum(gain, 0), np.maximum(-gain, 0)], axis=1).astype(float)
    return EvaluationSet(
        name=name,
        prompts=(HOSTILE, *(f"prompt {i} " + "long " * 200 for i in range(n - 1))),
        models=("<b>large</b>", "small"),
        scores=scores,
        strong="<b>large</b>",
        weak="small",
        groups=tuple("<i>" if i % 2 else "plain" for i in range(n)),
        group_column="domain",
        costs_usd=np.tile([0.02, 0.001], (n, 1)),
    )


def evaluated(data, **options):
    router = ScriptedRouter(lambda prompt: 1.0 if prompt == HOSTILE else (len(prompt) % 7) / 7)
    router.name = "<u>mine"
    router.calibration = Calibration.from_win_rates(np.linspace(0, 1, 50), source="<prompts> of mine")
    return evaluate(router, data, n_resamples=20, **options)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new"
    first, second = make_set(), make_set("second")
    files = write_report(
        [evaluated(first), compare({"a & b": evaluated(second), "zero": np.zeros(60)}, second, n_resamples=20)],
        folder / "page.html",
        command="routellm report '<file>'",
        made_on="a day",
    )
    return files, files[0].read_text(encoding="utf-8")


def test_the_page_is_whole_and_loads_nothing(written):
    _, text = written
    page = Page(text)
    assert page.loads == []
    assert len(set(page.ids)) == len(page.ids)
    assert not re.search(r"url\((?!#)|@import", text)
    # what is referred to is there
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', text)) <= set(page.ids)
    assert "default-src 'none'" in text


def test_nothing_of_the_data_becomes_markup(written):
    _, text = written
    page = Page(text)
    assert not {"script", "img", "iframe", "link", "object", "i", "u"} & set(page.tags)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text  # shown, as text
    shown = "".join(page.text)
    assert "<b>large</b>" in shown
    assert "<u>mine" in shown
    assert "a & b" in shown


def test_what_a_reader_looks_for_is_there(written):
    _, text = written
    shown = " ".join("".join(Page(text).text).split())
    for part in (
        "own set",
        "second",
        "60 prompts",
        "difference in APGR under 0.1 is noise",
        "Call performance",
        "prompt length",
        "oracle",
        "chance",
        "p, one-sided",
        "Brier score",
        "By domain",
        "all strong",
        "Highest win rates",
        "was calibrated on <prompts> of mine",
        "calibration prompts reach the threshold; quality is not promised",
        "routellm report '<file>'",
        make_set().digest,
        "Made on a day",
    ):
        assert part in shown, part
    assert "nan" not in re.findall(r"[a-z]+", shown.lower())
    assert "long " * 100 not in shown  # shortened


def test_plots_say_what_they_show(written):
    _, text = written
    svgs = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(svgs) == 3 + 4  # curve, reliability and scores; one more of scores for the second router
    for svg in svgs:
        title, description = re.search(r'aria-labelledby="(\S+) (\S+)"', svg).groups()
        assert f'<title id="{title}">' in svg
        assert f'<desc id="{description}">' in svg
        # every colour is the style sheet's, which has one for light and one for dark
        assert not re.search(r"#[0-9a-f]{6}", svg)
        assert "var(--" in svg
    variables = set(re.findall(r"var\((--[\w-]+)\)", text))
    light, dark = re.findall(r":root \{(.*?)\}", text, flags=re.DOTALL)[:2]
    for variable in variables:
        assert f"{variable}:" in light
        assert f"{variable}:" in dark


def test_each_plot_lies_beside_the_page_as_png_and_svg(written):
    files, _ = written
    assert {file.name for file in files} == {
        "page.html",
        *(
            f"page-{plot}.{suffix}"
            for plot in (
                "own-set-curve",
                "own-set-reliability",
                "own-set-scores",
                "second-curve",
                "second-reliability",
                "second-scores-a-b",
                "second-scores-zero",
            )
            for suffix in ("png", "svg")
        ),
    }
    for file in files[1:]:
        start = file.read_bytes()[:8]
        assert start == b"\x89PNG\r\n\x1a\n" if file.suffix == ".png" else start.startswith(b"<?xml")


def test_small_groups_are_marked(tmp_path):
    data = make_set()  # its groups have 30 prompts each
    page = write_report([evaluated(data)], tmp_path / "a.html", with_images=False)[0].read_text()
    assert 'class="few"' not in page
    page = write_report([evaluated(data.take(range(59)))], tmp_path / "b.html", with_images=False)[0].read_text()
    assert page.count('<tr class="few">') == 1  # the one that lost a prompt
    assert "under 30 prompts" in page
    assert "The oracle runs off the top" in page


def test_prompts_can_be_left_out(tmp_path):
    text = write_report([evaluated(make_set())], tmp_path / "page.html", with_examples=False, with_images=False)[
        0
    ].read_text()
    assert "alert" not in text
    assert "prompt 1" not in text


def test_the_same_content_gives_the_same_page(tmp_path):
    data = make_set()
    found = evaluate(np.linspace(0, 1, 60), data, n_resamples=20)
    pages = [write_report([found], tmp_path / f"{name}.html", with_images=False)[0].read_bytes() for name in "ab"]
    assert pages[0] == pages[1]


def test_reports_about_nothing_or_about_one_name_twice_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="nothing to report"):
        write_report([], tmp_path / "page.html")
    found = evaluated(make_set())
    with pytest.raises(ConfigurationError, match="same name: own set, own set"):
        write_report([found, found], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_routers_whose_names_differ_in_marks_only_keep_their_own_plots(tmp_path):
    data = make_set()
    found = compare({"a/b": np.zeros(60), "a-b": np.zeros(60), "?": np.zeros(60)}, data, n_resamples=10)
    page = Page(write_report([found], tmp_path / "page.html", with_images=False)[0].read_text())
    assert len(set(page.ids)) == len(page.ids)


def test_the_command_writes_it(tmp_path):
    file = tmp_path / "own.csv"
    file.write_text("prompt,strong_score,weak_score\n" + "".join(f"prompt {i},1,{i % 2}\n" for i in range(20)))
    command = "import sys; sys.path[:0] = eval(sys.argv.pop(1)); from routellm_core.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, repr([p for p in sys.path if p]), "report", file, "--router", "random",
         "--resamples", "10", "--no-images", "--out", tmp_path / "new" / "page.html"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]
    text = (tmp_path / "new" / "page.html").read_text()
    assert f"routellm report {file}" in "".join(Page(text).text)


def test_names_without_latin_letters_get_plots_of_their_own(tmp_path):
    found = [evaluated(make_set(name)) for name in ("数学", "化学", "unnamed-2")]
    written = write_report(found, tmp_path / "page.html")
    assert len({path.name for path in written}) == len(written) == 1 + 3 * (len(written) - 1) // 3
    assert len(written) > 3 * 2
    page = Page(written[0].read_text())
    assert len(set(page.ids)) == len(page.ids)
    assert {"unnamed", "unnamed-2", "unnamed-2-2"} <= set(page.ids)


def test_a_folder_is_no_place_for_the_page_and_that_is_said_before_the_work(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from routellm_core.cli.app import app

    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.csv").write_text("no columns that a report could be made of")
    refused = CliRunner().invoke(app, ["report", "own.csv", "--out", "."])
    assert refused.exit_code == 2
    assert "is a directory" in refused.output


def test_the_page_does_not_replace_the_file_it_is_about(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from routellm_core.cli.app import app

    monkeypatch.chdir(tmp_path)
    text = "prompt,strong_score,weak_score\n" + "".join(f"prompt {i},1,{i % 2}\n" for i in range(20))
    (tmp_path / "own.csv").write_text(text)
    refused = CliRunner().invoke(app, ["report", "own.csv", "--router", "random", "--out", f"{tmp_path}/own.csv"])
    assert "is the file to report on" in str(refused.exception)
    assert (tmp_path / "own.csv").read_text() == text
