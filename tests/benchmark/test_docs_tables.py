import json
from pathlib import Path

import pytest

from benchmarks import docs_tables
from lightning_gan3d.metric import Metric, write_metrics

ROOT = Path(docs_tables.__file__).parents[1]
ROW = {
    "key": "image",
    "description": "an image",
    "precision": "fp32",
    "official_ms": 3000.0,
    "ours_ms": 1000.0,
    "ratio": 3.0,
    "ratio_low": 2.9,
    "ratio_high": 3.1,
    "rounds": 7,
    "official_mb": 100.0,
    "ours_mb": 50.0,
    "agreement": "1e-6",
    "path": "numba",
    "every": 1.0,
}
ABOUT = {
    "device": "cpu, a processor",
    "threads": 2,
    "versions": "v",
    "command": "gan3d",
    "official": "none",
}
PAGE = "before\n<!-- table: against cpu/against.json -->\nold\n<!-- end -->\nafter\n"


def stored(folder: Path, **changes: object) -> Path:
    (folder / "cpu").mkdir(exist_ok=True)
    content = {"about": ABOUT, "rows": [ROW | changes]}
    (folder / "cpu" / "against.json").write_text(json.dumps(content))
    return folder


def test_tables_are_replaced_and_filling_is_idempotent(tmp_path: Path) -> None:
    page = docs_tables.fill(PAGE, stored(tmp_path))
    assert "old" not in page
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    row = "| an image, fp32 | 3.00 s | 1.00 s | **3.00x** (2.90 to 3.10); goal 2.5x reached | "
    assert f"{row}100 MB, 50 MB, 2.00x | 1e-6 |" in page
    assert docs_tables.fill(page, tmp_path) == page


def test_a_missed_goal_is_marked(tmp_path: Path) -> None:
    assert "goal 2.5x missed" in docs_tables.fill(PAGE, stored(tmp_path, ratio=2.0))


def test_goals_depend_on_the_device(tmp_path: Path) -> None:
    stored(tmp_path, key="view", precision="bf16", ratio=6.0)
    assert "goal 7x missed" in docs_tables.fill(PAGE, tmp_path)
    file = tmp_path / "cpu" / "against.json"
    file.write_text(file.read_text().replace("cpu, a processor", "NVIDIA H100"))
    assert "goal 5x reached" in docs_tables.fill(PAGE, tmp_path)


def test_unknown_tables_and_missing_files_raise(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        docs_tables.fill(PAGE, tmp_path)
    with pytest.raises(KeyError):
        docs_tables.fill(PAGE.replace("against c", "other c"), stored(tmp_path))


def test_stages_of_generators_are_side_by_side(tmp_path: Path) -> None:
    for name, ms in (("demo-voxel", 5.0), ("demo-triplane", 2500.0)):
        (tmp_path / name).mkdir()
        rows = [
            Metric(name="speed.threads", value=2.0, note="a cpu"),
            Metric(name="speed.rendering_ms", value=ms, unit="ms"),
            Metric(name="speed.rendering_floor_share", value=0.25, unit="share"),
            Metric(name="memory.rendering_mb", value=12.0, unit="MB"),
            Metric(name="speed.fused", value=1.0, note="numba"),
            Metric(name="speed.peak_gflop_s", value=100.0, unit="GFLOP/s"),
            Metric(name="speed.peak_gb_s", value=10.0, unit="GB/s"),
        ]
        write_metrics(tmp_path / name / "bench.json", rows)
    text = docs_tables.stages(tmp_path)
    assert "| stage | demo-triplane | demo-voxel |" in text
    assert "| 2.50 s, 25 % of roofline, 12 MB | 5.00 ms, 25 % of roofline, 12 MB |" in text
    assert "| Rendering path | numba | numba |" in text


@pytest.mark.parametrize("page", ["docs/performance.md"])
def test_tables_of_the_docs_equal_the_results(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "<!-- table: against" in text
    assert docs_tables.fill(text, ROOT / "benchmarks" / "results") == text
