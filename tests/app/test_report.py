from pathlib import Path

from PIL import Image

from app import report
from models.manifest import HISTORY
from tests.versions import publish


def test_the_longest_and_the_newest_run_of_each_recipe_are_shown_and_all_are_listed(tmp_path: Path) -> None:
    first = publish(tmp_path, "wgan", recipe={"name": "other"}, epochs=3)
    longest = publish(tmp_path, "wgan", recipe={"name": "other"}, epochs=9)
    newest = publish(tmp_path, "wgan", recipe={"name": "other"}, epochs=2)
    damaged = publish(tmp_path, "wgan", recipe={"name": "other"}, epochs=99)
    (tmp_path / "wgan" / str(damaged.version) / HISTORY).write_text("")
    found = report.find_runs(tmp_path)
    shown = report.choose_shown(found)
    ours = [run for run in found if run.folder.is_relative_to(tmp_path)]
    assert [run.manifest.version for run in ours] == [
        first.version, longest.version, newest.version,
    ]  # fmt: skip
    assert [run.manifest.version for run in shown if run in ours] == [
        longest.version, newest.version,
    ]  # fmt: skip
    assert report.make_table(ours).count("| other |") == 3
    assert {(run.manifest.arch, run.manifest.version) for run in shown if run.manifest.recipe_name == "tuned"} == {
        ("vanilla", 1), ("dcgan", 1), ("wgan", 3),
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
    split = table.index("")
    metrics, times = table[:split], table[split + 1 :]
    assert len(metrics) == 2 + len(found) + 1
    for part in (metrics, times):
        assert all(line.count("|") == part[0].count("|") for line in part)
    for run, line in zip(found, metrics[2:], strict=False):
        said = run.manifest
        assert (
            f"| {said.arch} | {said.version} | {said.recipe_name} | {said.epochs} | {said.metrics['fid']:.3f} |" in line
        )
    assert [line.split(" | ")[0::5] for line in times[2:]] == [
        ["| vanilla", "1,320 |"], ["| dcgan", "2,177 |"], ["| wgan", "10,243 |"],
    ]  # fmt: skip
