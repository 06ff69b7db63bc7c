import base64
import csv
import re
from html.parser import HTMLParser

import pytest
import yaml
from fabricated_runs import NUMBERS, Ball, make_run, write_labels

from lightning_gan3d.config import ConfigError
from lightning_gan3d.metric import MetricId
from lightning_gan3d.report import make
from lightning_gan3d.report.document import NOT_RECORDED, compose, conditions
from lightning_gan3d.report.groups import compare
from lightning_gan3d.report.make import MOST, ReportOptions, make_report
from lightning_gan3d.report.plots import image_sheets
from lightning_gan3d.report.plots.charts import quality
from lightning_gan3d.report.records import find_runs


def ball_of(run):
    return Ball(solid=run.representation != "image2d")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """One report of two seeds of everything, of which one run is unfinished."""
    root = tmp_path_factory.mktemp("a folder of runs")
    data = str(write_labels(root / "data"))
    for kind in NUMBERS:
        for seed in (0, 1):
            make_run(
                root,
                kind,
                seed,
                data=data,
                shift=0.002 * seed,
                finished=(kind, seed) != ("voxel", 1),
            )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_sheets, "NUM_LATENTS", 1)
        page = make_report([root], root / "report", load_generator=ball_of)
    assert page == root / "report" / "index.html"
    return page.parent


@pytest.fixture(scope="module")
def html(report):
    return (report / "index.html").read_text(encoding="utf-8")


def test_everything_is_written(report):
    names = {p.name for p in report.iterdir()}
    tables = {"results.csv", "differences.csv", "claims.tex", "table.tex"}
    assert names == {"index.html", "report.md", "plots", *tables}
    plots = {p.name: p.read_bytes() for p in (report / "plots").iterdir()}
    for start in ("quality_images", "quality_time", "pareto_", "growth_rendering", "turntable_0"):
        assert any(name.startswith(start) for name in plots), start
    for name, content in plots.items():
        mark = {"png": b"\x89PNG", "svg": b"</svg>", "webp": b"WEBPVP8X", "pdf": b"%PDF"}[
            name.rpartition(".")[2]
        ]
        assert mark in content
    markdown = (report / "report.md").read_text()
    shown = set(re.findall(r"\(plots/([^)]+)\)", markdown))
    assert shown == {name for name in plots if not name.endswith(".pdf")}
    assert {f"{x[:-4]}.pdf" for x in shown if x.endswith(".svg")} == set(plots) - shown


def test_groups_are_selected_ordered_and_renamed_and_metrics_selected(tmp_path):
    for kind in NUMBERS:
        make_run(tmp_path, kind)
    comparison = compare(find_runs([tmp_path]))
    options = make.ReportOptions(
        ("voxel", "triplane"), "pose.within*, quality.swd,quality.swd", ("voxel=Grid & more",)
    )
    arranged = options.rename(options.arrange(comparison))
    ids = options.headline(arranged)
    assert [g.label for g in arranged.groups] == ["Grid & more", "triplane"]
    assert {m.name for m in ids[:-1]} >= {"pose.within_20deg"}
    assert ids[-1] == MetricId("quality.swd")
    table = make.table_tex(arranged, ids)
    assert table.index(r"Grid \& more") < table.index("triplane")
    assert table.index("Pose @20°".replace("°", r"$^\circ$")) < table.index("SWD")
    for wrong, message in (
        (make.ReportOptions(rows=("voxle",)), "--rows voxle: no such group; use triplane; voxel"),
        (make.ReportOptions(labels=("x=y",)), "--labels x: no such group"),
        (make.ReportOptions(metrics="quality.sw"), "--metrics quality.sw: no such metric; use q"),
        (make.ReportOptions(metrics="speed.xyz"), "no run has it; run `gan3d bench` first"),
        (make.ReportOptions(("voxel", "voxel")), "name each group once"),
        (make.ReportOptions(labels=("voxel",)), "--labels voxel: write OLD=NEW"),
        (make.ReportOptions(labels=("voxel=triplane",)), "two groups would have this label"),
    ):
        with pytest.raises(ConfigError, match=message):
            wrong.headline(wrong.rename(wrong.arrange(comparison)))


def test_the_page_needs_nothing_else(html):
    class Links(HTMLParser):
        links: list = []  # noqa: RUF012  # of one parser

        def handle_starttag(self, tag, attrs):
            assert tag not in ("script", "link", "iframe", "object")
            self.links += [(tag, k, v) for k, v in attrs if k in ("src", "href", "srcset")]

    parser = Links()
    parser.feed(html)
    assert len(parser.links) > 20
    for tag, key, value in parser.links:
        assert value.startswith("#" if key == "href" else "data:image/"), (tag, key, value[:60])
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_pictures_on_the_page_are_those_on_disk(report, html):
    sources = re.findall(r'<img src="data:image/(png|svg\+xml|webp);base64,([^"]+)"', html)
    on_disk = {p.read_bytes() for p in (report / "plots").iterdir()}
    assert len(sources) >= 9
    assert all(base64.b64decode(data) in on_disk for _, data in sources)


def test_the_page_is_well_formed_and_has_styles_for_phones_dark_pages_and_print(html):
    class Balance(HTMLParser):
        open: list = []  # noqa: RUF012  # of one parser

        def handle_starttag(self, tag, _):
            if tag not in ("meta", "img", "source", "br"):
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Balance()
    parser.feed(html)
    assert parser.open == []
    assert '<meta name="viewport" content="width=device-width' in html
    assert "@media print" in html
    assert "prefers-color-scheme: dark" in html
    assert html.count("<source media=") == html.count("<picture>")


def test_the_page_and_the_markdown_begin_with_their_titles(report, html):
    assert html.startswith("<!doctype html>\n")
    assert (report / "report.md").read_text().startswith("# Triplane, voxel, nerf\\_mlp and")


def test_pictures_plots_and_headline_metrics_come_first(report, html):
    order = [
        "<h1>",
        "image/webp",
        "SWD vs. training images",
        'id="results"',
        "4 generators with the same",
        *(f'id="{name}"' for name in ("claims", "findings", "plots", "summary", "metrics")),
    ]
    places = [html.index(text) for text in order]
    assert places == sorted(places)
    assert "n = 500" not in html[: html.index("</table>")]
    markdown = (report / "report.md").read_text()
    assert markdown.index("turning_0.webp") < markdown.index("## Results")
    assert "PSNR of held-out views (refit; blur raises it)" in html
    assert ">fails<" in html  # one run is unfinished


def test_differences_and_conditions_are_on_the_page_and_in_markdown(report, html):
    markdown = (report / "report.md").read_text()
    for text in (html, markdown):
        assert "Paired differences" in text
        assert "abcdef0123456789" in text
        assert "no interval from 2 seeds: it takes 3 or more" in text
    row = next(x for x in markdown.splitlines() if "triplane - nerf\\_mlp" in x and "SWD" in x)
    assert [c.strip() for c in row.split("|")][3] == "0.0200"
    lines = (report / "differences.csv").read_text().splitlines()
    assert any(x.startswith("quality.swd,triplane,voxel,,,,") for x in lines)  # voxel has a gap
    assert r"\begin{description}" in (report / "claims.tex").read_text()


def test_three_seeds_have_an_interval_in_their_cells(tmp_path):
    for seed in range(3):
        make_run(tmp_path, "voxel", seed, shift=0.001 * seed)
    comparison = compare(find_runs([tmp_path]))
    document = compose(comparison)
    row = next(cells for shown, cells in document.summary.rows if shown.name == "quality.swd")
    assert row[0].main == "0.0280 ± 0.0010"
    assert row[0].detail.startswith("95 %: 0.0255 to 0.0305; 0.0270, 0.0280, 0.0290")
    assert "95 % interval of the mean by Student's t" in document.explanation


def test_seeds_are_listed_and_a_gap_has_no_mean(report):
    lines = (report / "report.md").read_text().splitlines()
    headline, row = [line for line in lines if line.startswith("| SWD (sliced")][:2]
    cells = [c.strip() for c in headline.split("|")[2:-1]]
    assert cells[0] == "0.0520 ± 0.0014"
    cells = [c.strip() for c in row.split("|")[2:-1]]
    assert cells[0] == "0.0520 ± 0.0014<br>0.0510, 0.0530; n = 500"
    assert cells[1] == r"0.0270, gap \[1]<br>no mean".replace(r"\[", "[")
    assert cells[2].startswith("**0.0320 ± 0.0014**")
    assert "[1] seed 1: unfinished: stopped at 4 of 8 kimg<br>" in lines


def test_every_run_and_metric_is_in_the_table_of_results(report):
    with (report / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "run",
        "representation",
        "seed",
        "metric",
        "value",
        "unit",
        "n",
        "note",
        "protocol",
    ]
    assert len({(r["run"], r["metric"]) for r in rows}) == len(rows)
    assert len(rows) % 8 == 0

    def row(kind, seed, metric):
        (match,) = [
            r
            for r in rows
            if (r["representation"], r["seed"], r["metric"]) == (kind, str(seed), metric)
        ]
        return match

    plain = row("triplane", 0, "refit.psnr")
    assert (plain["value"], plain["unit"], plain["n"]) == ("27.1", "dB", "8")
    assert plain["note"] == "standard deviation 1.10 over n; 12 views fitted, 12 held out"
    missing = row("image2d", 1, "consistency.psnr")
    assert (missing["value"], missing["unit"]) == ("", "dB")
    assert missing["note"] == "no depth is rendered, so nothing can be warped"
    gap = row("voxel", 1, "speed.view_ms")
    assert gap["value"] == ""
    assert gap["note"] == "unfinished: stopped at 4 of 8 kimg (value when it stopped: 4.42 ms)"
    assert all(r["value"] or r["note"] for r in rows)


def test_the_latex_table_is_complete_and_escaped(report):
    text = (report / "table.tex").read_text()
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert body[0].startswith(r"\begin{tabular}{l")
    assert body[-1] == r"\end{tabular}"
    columns = len(body[0].partition("{l")[2].rstrip("}")) + 1
    rows = [line for line in body if line.endswith(r"\\")]
    assert len(rows) == 2 + 4
    assert {line.count(" & ") + 1 for line in rows} == {columns}
    assert r"nerf\_mlp" in text
    assert r"$\uparrow$" in text
    assert r"\textbf{0.0320} $\pm$ 0.0014" in text
    assert re.search(r"^voxel & -- & ", text, re.MULTILINE)
    assert "% voxel, quality.swd: seed 1: unfinished: stopped at 4 of 8 kimg" in text
    assert not re.search(r"(?<!\\)[_%](?![^%\n]*$)", "\n".join(body))


def test_protocol_and_n_are_on_the_page_and_in_markdown(report, html):
    for text in ((report / "report.md").read_text(), html):
        assert "n = 500; 500 against 500 held-out; levels 32 (Laplacian), 16" in text
        assert "12 views fitted, 12 held out" in text
        assert "median of 10 calls after 3 of warm-up" in text


def test_the_provenance_of_every_run_is_stated(html):
    tail = html[html.index('id="provenance"') :]
    for fact in (
        "0123abc",
        "torch 2.15.0",
        "cpu (a processor)",
        "f00dfeed",
        "demo/voxel",
        "threads",
    ):
        assert fact in tail, fact
    assert tail.count("<section>") == 1 + 8
    assert tail.count("0123abc") == 1  # what all share is said once


@pytest.fixture
def few_plots(monkeypatch):
    """Plots are most of the time of a report."""
    monkeypatch.setattr(make, "curves", lambda comparison: [quality(comparison, "kimg")])
    monkeypatch.setattr(make, "paretos", lambda _: [])
    monkeypatch.setattr(image_sheets, "NUM_LATENTS", 1)


@pytest.mark.usefixtures("few_plots")
def test_names_cannot_break_the_page(tmp_path):
    bad = "<script>alert('1')</script> & \"x\""
    make_run(tmp_path, "voxel", manifest={"command": ["gan3d", bad], "device": bad})
    (tmp_path / "voxel" / "0000022e-s0" / "evaluation.json").write_text(f"[{bad}")
    page = make_report([tmp_path], tmp_path / "out", load_generator=ball_of)
    assert "<script" not in page.read_text()
    assert "&lt;script&gt;" in page.read_text()
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert markdown.count("<script>") == markdown.count("\\<script>") > 0


@pytest.mark.usefixtures("few_plots")
def test_the_same_runs_give_the_same_bytes(tmp_path):
    make_run(tmp_path, "voxel", data=str(write_labels(tmp_path / "data")))
    a, b = (
        make_report([tmp_path / "voxel"], tmp_path / x, load_generator=ball_of).parent for x in "ab"
    )
    for path in a.rglob("*.*"):
        assert path.read_bytes() == (b / path.relative_to(a)).read_bytes(), path.name


@pytest.mark.usefixtures("few_plots")
def test_an_unknown_metric_is_listed_by_its_key(tmp_path):
    path = make_run(tmp_path, "voxel")
    text = (path / "evaluation.json").read_text()
    (path / "evaluation.json").write_text(text.replace("pose.within_20deg", "novelty.of_it"))
    page = make_report([tmp_path], tmp_path / "out", load_generator=ball_of).read_text()
    assert "<h3>novelty</h3>" in page
    assert "novelty.of_it" in page


@pytest.mark.usefixtures("few_plots")
def test_nothing_but_gaps_still_makes_a_report(tmp_path):
    path = make_run(tmp_path, "voxel", finished=False)
    (path / "metrics.jsonl").write_text("")
    for file in ("evaluation.json", "bench.json", "manifest.json"):
        (path / file).unlink()
    page = make_report([tmp_path], tmp_path / "out", load_generator=ball_of).read_text()
    assert "unfinished: no step was logged of 8 kimg" in page
    assert "no run is finished" in page
    assert "no run&#39;s metrics.jsonl holds eval/swd" in page


def test_folders_without_runs_are_rejected_and_nothing_is_written(tmp_path):
    with pytest.raises(ConfigError, match="no run in"):
        make_report([tmp_path], tmp_path / "out", load_generator=ball_of)
    assert not (tmp_path / "out").exists()


def test_conditions_are_those_of_each_run(tmp_path):
    make_run(tmp_path, "voxel")
    make_run(tmp_path, "triplane", evaluated=False)
    table = conditions(compare(find_runs([tmp_path])).runs)
    without, known = (dict(zip(table.heads, row, strict=True)) for row in table.rows)
    assert {v for k, v in without.items() if k != "run"} == {NOT_RECORDED}
    assert known["images"] == "32²"
    assert known["renderings"] == "16²"
    assert known["truncation"] == "none"
    assert known["seed of latents"] == "0"
    assert known["weights (SHA-256)"] == "abcdef0123456789"
    assert known["data fingerprint"] == "f00dfeed"
    assert known["commit of the evaluation"] == "0123abc0123a, modified"


@pytest.mark.parametrize("text", ["[1]", "{", "null"])
def test_a_damaged_conditions_file_leaves_cells_not_recorded(tmp_path, text):
    path = make_run(tmp_path, "voxel")
    (path / "evaluation.conditions.json").write_text(text)
    (run,) = compare(find_runs([tmp_path])).runs
    assert set(conditions([run]).rows[0][1:]) == {NOT_RECORDED}
    assert run.problems
    assert run.metric(MetricId("refit.psnr")).value is not None


def test_a_report_of_many_groups_shows_the_best_and_lists_all(tmp_path, monkeypatch):
    for i in range(MOST + 3):
        make_run(tmp_path / "runs", "voxel", variant=f"{i:08x}", shift=0.1 - 0.001 * i)
        config = tmp_path / f"runs/voxel/{i:08x}-s0/config.yaml"
        config.write_text(config.read_text() + f"label: arm {i:02}\n")
    monkeypatch.setattr(make, "curves", lambda _: [])
    monkeypatch.setattr(make, "paretos", lambda _: [])
    monkeypatch.setattr(image_sheets, "image_sheets", lambda *_: ([], []))
    make_report([tmp_path / "runs"], tmp_path / "out")
    page = (tmp_path / "out/index.html").read_text()
    assert f"the {MOST} of {MOST + 3} generators with the best SWD; 12 of 12 runs" in page
    assert [f"arm {i:02}" in page for i in range(MOST + 3)] == [False] * 3 + [True] * MOST
    table = (tmp_path / "out/results.csv").read_text()
    assert len({line.split(",")[0] for line in table.splitlines()[1:]}) == MOST + 3
    make_report([tmp_path / "runs"], tmp_path / "two", ReportOptions(("arm 00",)))
    assert "arm 00" in (tmp_path / "two/index.html").read_text()


@pytest.mark.parametrize("renderer", ["volume", "splat"])
def test_the_opening_names_the_renderer_only_if_it_is_shared(tmp_path, renderer):
    for kind, own in (("triplane", "volume"), ("voxel", renderer)):
        config = make_run(tmp_path, kind) / "config.yaml"
        tree = yaml.safe_load(config.read_text())
        tree["generator"]["renderer"] = {"kind": own}
        config.write_text(yaml.safe_dump(tree))
    shared = "training loop, renderer and" if renderer == "volume" else "training loop and"
    opening = compose(compare(find_runs([tmp_path]))).opening
    assert opening[0].startswith(f"2 generators with the same {shared} metrics: triplane")
