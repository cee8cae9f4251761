"""What `store du` and `store gc` say of a store that lies elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.execution.store import Store

from .example import run, write_project

if TYPE_CHECKING:
    from pathlib import Path


def test_a_shared_store_is_named_by_its_url_and_only_its_copy_is_collected(tmp_path: Path) -> None:
    url = (tmp_path / "shared").as_uri()
    project = write_project(tmp_path / "project", {"store": f'url = "{url}"'})
    with Store.open(url, cache=tmp_path / "elsewhere") as other:
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "file").write_text("something")
        other.commit("a" * 64, tmp_path / "made", {})
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    used = run("store", "du", cwd=project, env=env)
    collected = run("store", "gc", "--quota-gb", "0", cwd=project, env=env)
    (copy,) = (tmp_path / "cache" / "edgebuild" / "stores").iterdir()
    assert used.out.startswith(f"{url} (its copy here: {copy}): 0 B in 0 results\n")
    assert collected.out.splitlines() == [
        f"{url} (its copy here: {copy}): removed 0 results, 0 B; 0 B are left",
        "  only the copy: who else uses what lies at the URL can't be seen from here",
    ]
    assert Store.open(url, cache=tmp_path / "fresh").lookup("a" * 64) is not None


def test_a_folder_is_seen_from_the_project_not_from_where_the_command_runs(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", {"store": 'url = "../results"'})
    used = run("store", "du", "--project", str(project), cwd=tmp_path)
    assert used.out.startswith(f"{project.parent / 'results'}: 0 B"), used
