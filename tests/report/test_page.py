"""The page: whole without the network, safe against what traces hold, plain about what is missing."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest

from mlflow_assay import semconv
from mlflow_assay.report.model import Section
from mlflow_assay.report.render import render

VOID = {"meta", "br", "link", "img", "hr", "input"}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><style>*{display:none}</style>{{7*7}}"


class Page(HTMLParser):
    """Elements with attributes and text, checked for balance."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.headings: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open and self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.texts.append(data)
            if self._open[-1] in ("h1", "h2"):
                self.headings.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_page_is_whole_without_the_network(full):
    """No element loads anything; the only addresses are links into the MLflow UI that was named."""
    html = render(full)
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & {t for t, _ in page.elements}
    for _, attributes in page.elements:
        assert not {"src", "srcset", "poster", "background", "action"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
        if "href" in attributes:
            assert attributes["href"].startswith("http://mlflow.example:5000/#/experiments/7/")
    assert not re.search(r"url\(|@import|@font-face", html)
    assert re.findall(r"https?://[^/\"' <]+", html.replace("http://mlflow.example:5000", "")) == []


def test_what_traces_hold_is_text_and_nothing_else(make, build):
    """Names, tags, rationales, requests, sessions, models: whatever stands in them is shown, never run."""
    traces = [
        make.trace(
            i,
            [
                make.verdict(
                    False,
                    judge=f"judge {HOSTILE}",
                    outcome="fail",
                    rationale=HOSTILE,
                    by=HOSTILE,
                    metadata={semconv.JUDGE_VERSION: HOSTILE, semconv.JUDGE_DIGEST: HOSTILE},
                ),
                make.verdict(None, judge=f"other {HOSTILE}", error=HOSTILE),
                make.label(HOSTILE, judge=f"thumbs {HOSTILE}", by=HOSTILE),
                make.label(False, judge=f"judge {HOSTILE}", by=HOSTILE),
            ],
            session=HOSTILE,
            tags={"t": HOSTILE + str(i % 2)},
            request=HOSTILE,
        )
        for i in range(4)
    ]
    section = Section("dataset", HOSTILE, HOSTILE, ((HOSTILE, HOSTILE),), (HOSTILE,), ((HOSTILE,),))
    data = build(
        traces,
        experiment=HOSTILE,
        title=HOSTILE,
        selection=HOSTILE,
        by=("tag:t",),
        sections=(section,),
        ui_url="http://h",
    )
    html = render(data)
    page = Page(html)
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert len(page.all("style")) == 1
    assert not [n for _, attributes in page.elements for n in attributes if n.startswith("on")]
    assert "<script>alert(1)</script>" in page.text
    assert "{{7*7}}" in page.text
    assert "49" not in re.findall(r"\d+", page.headings[0])


def test_long_and_strange_text_is_cut_and_cleaned(make, build):
    strange = "\u202egnp.exe\x00\x07 " + "word " * 5000
    html = render(build([make.trace(1, [make.verdict(False, outcome="fail", rationale=strange)], request="é" * 9999)]))
    assert "\u202e" not in html
    assert "\x00" not in html
    assert " …" in html
    assert len(html) < 60_000


def test_every_section_stands_in_its_place(full):
    assert Page(render(full)).headings == [
        "support",
        "How good is it?",
        "How to read this page",
        "Is it getting better?",
        "Where does it go wrong?",
        "Where to look first",
        "Can the judges be believed?",
        "Who judged, and what it cost",
    ]


def test_later_sections_appear_only_when_given_and_in_order(full):
    given = (
        Section("comparison", "Was it fixed?", "Ten wins, no losses."),
        Section("dataset", "What fails", "40 examples.", (("examples", "40"),), ("request",), (("Which phone?",),)),
    )
    headings = Page(render(replace(full, sections=given))).headings
    assert headings[5:8] == ["Where to look first", "What fails", "Was it fixed?"]


def test_every_number_stands_with_its_interval_and_sample(full):
    """The large figures and every group carry `[low–high], n`."""
    text = Page(render(full)).text
    for judge in full.judges:
        assert f"n = {judge.estimate.n_judged}" in text.replace("\xa0", " ")
    assert text.count("[") >= len(full.judges) + sum(len(j.groups) for b in full.breakdowns for j in b.judges)


def test_pictures_have_a_text_and_ids_are_unique(full):
    page = Page(render(full))
    pictures = [a for _, a in page.elements if a.get("role") == "img"]
    assert len(pictures) > 5
    assert all(a.get("aria-label") for a in pictures)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids


def test_mixed_versions_of_a_judge_are_flagged(full):
    text = Page(render(full)).text
    assert "Verdicts of 2 versions of this judge are mixed in this number." in text
    assert "judge changed" in text


# --- empty states ---------------------------------------------------------------------------------------


def test_no_traces_says_so(build):
    text = Page(render(build([], selection="since 7d"))).text
    assert "There are no traces for since 7d in the experiment “support”" in text
    assert "How good is it?" not in text


def test_no_verdicts_says_how_to_get_some(make, build):
    text = Page(render(build([make.trace(1)]))).text
    assert "carry no verdicts yet" in text
    assert "assay score --experiment support" in text


def test_no_labels_says_that_nobody_checked_the_judges(make, build):
    text = Page(render(build([make.trace(1, [make.verdict(True, outcome="pass")])]))).text
    assert "Nobody has labelled any of these traces" in text
    assert "Not corrected: nobody has labelled these traces for this judge." in text


def test_one_session_only_says_what_that_means(make, build):
    traces = [make.trace(i, [make.verdict(i % 2 == 0, outcome="pass")], session="s") for i in range(30)]
    text = Page(render(build(traces))).text
    assert "All 30 traces come from one session." in text


def test_no_failure_no_session_to_point_at(make, build):
    text = Page(render(build([make.trace(1, [make.verdict(True, outcome="pass")])]))).text
    assert "No verdict failed, so there is nothing to point at." in text


def test_one_moment_has_no_course_over_time(make, build):
    text = Page(render(build([make.trace(1, [make.verdict(True, outcome="pass")])]))).text
    assert "there is no course over time to show yet" in text


def test_without_a_page_to_link_to_ids_are_shown_and_the_reason_given(make, build):
    page = Page(render(build([make.trace(5, [make.verdict(False, outcome="fail")])])))
    assert page.all("a") == []
    assert f"tr-{5:032x}" in page.text
    assert "--ui-url" in page.text


def test_only_unscored_verdicts_give_reasons_and_no_rate(make, build):
    traces = [make.trace(i, [make.verdict(None, outcome="unscored", reason="timeout")]) for i in range(3)]
    text = Page(render(build(traces))).text
    assert "no verdict on any of 3 traces: no reply in time (3)" in text
    assert "3 of 3" in text


def test_an_unknown_pass_rule_is_said(make, build):
    text = Page(render(build([make.trace(i, [make.verdict(float(i))]) for i in range(4)]))).text
    assert "no pass rule known. 4 values from 0 to 3, half of them up to 1.5" in text


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({semconv.SIMULATED: "true"}, "This is simulated data."),
        ({"customer": "simulated"}, "The customers are simulated."),
    ],
)
def test_simulation_is_said_loudly(make, build, tags, said):
    """Before the first number, in a notice of its own."""
    html = render(build([make.trace(1, [make.verdict(True, outcome="pass")], tags=tags)]))
    assert said in html
    assert html.index(said) < html.index('class="facts"')


def test_real_data_carry_no_such_notice(full):
    assert "simulated" not in render(full)


# --- looks ----------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_marks_can_be_read_in_both_themes(theme):
    """WCAG 2.2 AA: 4.5 to 1 for text, 3 to 1 for marks that carry meaning."""
    css = files("mlflow_assay.report").joinpath("templates/report.css").read_text(encoding="utf-8")
    block = re.findall(r":root \{(.*?)\}", css, re.S)[theme]
    colour = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    for ground in ("paper", "card"):
        for text in ("ink", "soft", "faint", "accent", "fail"):
            assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
    assert contrast(colour["warn-ink"], colour["warn"]) >= 4.5
    assert contrast(colour["accent"], colour["band"]) >= 3


def test_the_wheel_carries_the_templates():
    """What hatch would pack holds every template the page needs."""
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    root = Path(__file__).parents[2]
    packed = {f.distribution_path for f in wheel.WheelBuilder(str(root)).recurse_included_files()}
    folder = root / "plugins/mlflow_assay/report/templates"
    wanted = {f"mlflow_assay/report/templates/{p.name}" for p in folder.iterdir()}
    assert "mlflow_assay/report/templates/report.html.j2" in wanted
    assert wanted <= packed
