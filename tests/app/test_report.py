from pathlib import Path

from PIL import Image

from app import report
from models.manifest import HISTORY
from tests.versions import publish


def test_the_longest_and_the_newest_run_of_each_recipe_are_shown_and_all_are_listed(tmp_path: Path) -> None:
    first = publish(tmp_path, "wgan", recipe={"name": "book"}, epochs=3)
    longest = publish(tmp_path, "wgan", recipe={"name": "book"}, epochs=9)
    newest = publish(tmp_path, "wgan", recipe={"name": "book"}, epochs=2)
    damaged = publish(tmp_path, "wgan", recipe={"name": "book"}, epochs=99)
    (tmp_path / "wgan" / str(damaged.version) / HISTORY).write_text("")
    found = report.find_runs(tmp_path)
    shown = report.choose_shown(found)
    assert [run.manifest.version for run in found if run.manifest.recipe_name == "book"] == [
        first.version, longest.version, newest.version,
    ]  # fmt: skip
    assert [run.manifest.version for run in shown if run.manifest.recipe_name == "book"] == [
        longest.version, newest.version,
    ]  # fmt: skip
    assert report.make_table(found).count("| book |") == 3
    assert {(run.manifest.arch, run.manifest.version) for run in shown if run.manifest.recipe_name == "tuned"} == {
        ("vanilla", 1), ("dcgan", 1), ("wgan", 1),
    }  # fmt: skip


def test_the_report_of_the_shipped_versions(tmp_path: Path) -> None:
    found = report.find_runs(tmp_path / "none")
    written = report.write_report(found, tmp_path / "report")
    assert [path.name for path in written] == ["samples.png", "learning.png", "fid.png", "metrics.md"]
    for path in written[:3]:
        with Image.open(path) as image:
            assert image.width > 500
            assert len(image.convert("L").getcolors(256) or []) > 10  # something is drawn
    table = written[3].read_text().splitlines()
    assert len(table) == 2 + len(found) + 1 + 2
    assert all(line.count("|") == table[0].count("|") for line in table[:-2])
    assert "Colab" in table[-1]
    for run, line in zip(found, table[2:], strict=False):
        assert (
            f"| {run.manifest.arch} | 1 | tuned | {run.manifest.epochs} | {run.manifest.metrics['fid']:.3f} |" in line
        )
