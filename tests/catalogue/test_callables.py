from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from edgebuild.catalogue.callables import load_callable
from edgebuild.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def clean_modules() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    assert sys.path == path
    for name in set(sys.modules) - modules:
        if name.startswith("tiny_"):
            del sys.modules[name]


def project(folder: Path, name: str, **files: str) -> Path:
    made = folder / name
    made.mkdir()
    for stem, text in files.items():
        (made / f"{stem}.py").write_text(text)
    return made


def problem(reference: str, folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_callable(reference, folder)
    assert caught.value.source == f'callable "{reference}"'
    assert caught.value.hint
    (only,) = caught.value.problems
    return only


def test_two_projects_with_modules_of_the_same_name(tmp_path: Path) -> None:
    text = "from tiny_helper import NAME\nSEEN = []\ndef load():\n    SEEN.append(NAME)\n    return NAME, len(SEEN)\n"
    one = project(tmp_path, "one", tiny_data=text, tiny_helper="NAME = 'one'")
    two = project(tmp_path, "two", tiny_data=text, tiny_helper="NAME = 'two'")
    first, second = load_callable("tiny_data:load", one), load_callable("tiny_data:load", two)
    assert first() == ("one", 1)
    assert second() == ("two", 1)
    assert load_callable("tiny_data:load", one)() == ("one", 2), "a project's module is imported once"


def test_imports_inside_functions_and_generators_belong_to_the_project(tmp_path: Path) -> None:
    text = (
        "def value():\n    from tiny_later import NAME\n    return NAME\n"
        "def steps():\n    yield 0\n    from tiny_later import NAME\n    yield NAME\n"
    )
    one = project(tmp_path, "one", tiny_data=text, tiny_later="NAME = 'one'")
    two = project(tmp_path, "two", tiny_data=text, tiny_later="NAME = 'two'")
    first, second = load_callable("tiny_data:steps", one)(), load_callable("tiny_data:steps", two)()
    assert [next(first), next(second), next(first), next(second)] == [0, 0, "one", "two"]
    assert load_callable("tiny_data:value", one)() == "one"
    assert load_callable("tiny_data:value", two)() == "two"


def test_packages_methods_and_arguments(tmp_path: Path) -> None:
    folder = project(tmp_path, "one")
    (folder / "tiny_pkg").mkdir()
    (folder / "tiny_pkg" / "__init__.py").write_text("")
    (folder / "tiny_pkg" / "net.py").write_text(
        "class Net:\n    @staticmethod\n    def build(n=1):\n        return n\n"
    )
    assert load_callable("tiny_pkg.net:Net.build", folder)(n=5) == 5


def test_an_installed_module_can_be_named(tmp_path: Path) -> None:
    assert load_callable("hypothesis.strategies:integers", tmp_path)() is not None


def test_a_plain_folder_hides_no_package(tmp_path: Path) -> None:
    folder = project(
        tmp_path, "one", tiny_data="import hypothesis\ndef version():\n    return hypothesis.__version__\n"
    )
    (folder / "hypothesis").mkdir()
    assert load_callable("tiny_data:version", folder)()


def test_what_the_callable_raises_passes_through(tmp_path: Path) -> None:
    folder = project(tmp_path, "one", tiny_data="def load():\n    raise KeyError('x')\n")
    with pytest.raises(KeyError):
        load_callable("tiny_data:load", folder)()


@pytest.mark.parametrize("body", ["sys.exit('usage')", "yield sys.exit('usage')"])
def test_a_callable_cannot_end_the_process(body: str, tmp_path: Path) -> None:
    (tmp_path / "leaving.py").write_text(f"import sys\n\n\ndef leave():\n    {body}\n")
    with pytest.raises(RuntimeError, match=r"it called sys\.exit\('usage'\)"):
        list(load_callable("leaving:leave", tmp_path)())


def test_the_parts_that_can_be_wrong(tmp_path: Path) -> None:
    folder = project(
        tmp_path,
        "one",
        tiny_data="def load():\n    pass\nNUMBER = 1\n",
        tiny_raises="x = 1\nraise RuntimeError('no data')\n",
        tiny_syntax="def f(:\n",
        tiny_needs="import tiny_not_installed\n",
        tiny_exits="import sys\nsys.exit(3)\n",
        statistics="def f():\n    pass\n",
    )
    assert problem("tiny_data.load", folder) == 'must be "module:function"'
    assert problem("tiny_dat:load", folder) == f'there is no module "tiny_dat" in {folder} or installed'
    assert problem("tiny_data:lod", folder) == (f'there is no "lod" in {folder}/tiny_data.py; did you mean "load"?')
    assert problem("tiny_data:NUMBER", folder) == "NUMBER is a int, which can't be called"
    assert problem("tiny_raises:f", folder) == (
        'importing "tiny_raises" failed: RuntimeError: no data (tiny_raises.py, line 2)'
    )
    assert problem("tiny_syntax:f", folder).startswith('importing "tiny_syntax" failed: SyntaxError: invalid syntax')
    assert problem("tiny_syntax:f", folder).endswith("(tiny_syntax.py, line 1)")
    assert problem("tiny_needs:f", folder) == '"tiny_needs" imports "tiny_not_installed", which isn\'t installed'
    assert problem("tiny_exits:f", folder).startswith('importing "tiny_exits" failed: SystemExit: 3')
    assert problem("statistics:f", folder) == (
        '"statistics" is also a module of Python itself; give the project\'s another name'
    )


def test_a_module_that_was_imported_from_elsewhere(tmp_path: Path) -> None:
    folder = project(tmp_path, "one", hypothesis="def f():\n    pass\n")
    assert problem("hypothesis:f", folder).startswith('another "hypothesis" is already imported, from ')
