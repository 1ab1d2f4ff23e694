"""Keys follow from what decides a result, and from nothing else."""

import pytest
import yaml

from effvis.errors import UserError
from pipeline import keys, methods
from pipeline.identity import digests
from pipeline.identity.digests import code_digest, key, read_same_results

LOOP = '''"""Trains."""
from lib.model import net
from . import clips


def train(x):
    """Doubles."""
    # twice
    return net.forward(x) * 2 + clips.size()


def report(x):
    return x
'''
NET = "def forward(x):\n    return x + 1\n"
CLIPS = "def size():\n    import lib.deep\n    return lib.deep.DEPTH\n"


@pytest.fixture
def package(tmp_path):
    for name, text in {"lib/__init__.py": "", "lib/loop.py": LOOP, "lib/model/__init__.py": "", "lib/model/net.py": NET,
                       "lib/clips.py": CLIPS, "lib/deep.py": "DEPTH = 3\n", "lib/unrelated.py": "A = 1\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def edit(root, name, old, new):
    path = root / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_key_is_sixteen_hex_digits_and_ignores_the_order_of_the_facts():
    first = key({"a": 1, "b": {"c": 0.5, "d": [1, 2]}})
    assert first == key({"b": {"d": [1, 2], "c": 0.5}, "a": 1})
    assert len(first) == 16 and int(first, 16) >= 0
    assert first != key({"a": 1, "b": {"c": 0.5, "d": [2, 1]}})
    with pytest.raises(ValueError):
        key({"a": float("nan")})


@pytest.mark.parametrize("name, old, new", [
    ("lib/loop.py", "# twice", "# two times"),
    ("lib/loop.py", "    # twice\n", ""),
    ("lib/loop.py", '"""Doubles."""', '"""Doubles the answer of the network."""'),
    ("lib/loop.py", '"""Trains."""\n', ""),
    ("lib/loop.py", "net.forward(x) * 2", "(net.forward(x)\n            * 2)"),
    ("lib/unrelated.py", "A = 1", "A = 2"),
])
def test_what_changes_no_result_changes_no_digest(package, name, old, new):
    before = code_digest(["lib.loop"], root=package)
    edit(package, name, old, new)
    assert code_digest(["lib.loop"], root=package) == before


@pytest.mark.parametrize("name, old, new", [
    ("lib/loop.py", "* 2", "* 3"),
    ("lib/loop.py", "* 2", "* 2.0"),
    ("lib/model/net.py", "x + 1", "x - 1"),
    ("lib/clips.py", "lib.deep.DEPTH", "-lib.deep.DEPTH"),
    ("lib/deep.py", "3", "None"),
    ("lib/model/__init__.py", "", "SCALE = 1\n"),
])
def test_a_changed_line_changes_the_digest(package, name, old, new):
    before = code_digest(["lib.loop"], root=package)
    edit(package, name, old, new)
    assert code_digest(["lib.loop"], root=package) != before


def test_moving_the_project_changes_nothing(package, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "project"
    package.rename(elsewhere)
    before = code_digest(["lib.loop"], root=elsewhere)
    elsewhere.rename(package)
    assert code_digest(["lib.loop"], root=package) == before


def test_one_function_is_taken_without_its_module(package):
    before = code_digest(["lib.loop:train"], root=package)
    edit(package, "lib/loop.py", "return x\n", "return -x\n")
    assert code_digest(["lib.loop:train"], root=package) == before
    edit(package, "lib/loop.py", "* 2", "* 3")
    assert code_digest(["lib.loop:train"], root=package) != before


@pytest.mark.parametrize("entry", ["lib.lopp", "lib.loop:trian"])
def test_a_missing_entry_is_an_error_that_names_it(package, entry):
    with pytest.raises(LookupError, match=entry):
        code_digest([entry], root=package)


def entry(code, earlier):
    return {"code": code, "as": earlier, "because": "the same numbers"}


@pytest.fixture
def same_results(tmp_path, monkeypatch):
    """Writes a replacement for pipeline/identity/same_results.yaml."""
    file = tmp_path / "same_results.yaml"
    monkeypatch.setattr(digests, "SAME_RESULTS", file)
    monkeypatch.setattr(digests.read_same_results, "__defaults__", (file,))
    cached = (digests.training_digest, digests.evaluation_code_digest)
    for function in cached:
        function.cache_clear()
    yield lambda **content: file.write_text(yaml.safe_dump({"training": [], "evaluation": []} | content))
    for function in cached:
        function.cache_clear()


def test_a_version_that_gives_the_results_of_an_earlier_one_counts_as_it(same_results):
    today = code_digest(digests.training_code(methods.get("vistr")))
    same_results(training=[entry(today, "e" * 64), entry("another version", "f" * 64)])
    assert digests.training_digest("vistr") == "e" * 64
    assert digests.training_digest("efficientvis") == code_digest(digests.training_code(methods.get("efficientvis")))
    assert digests.evaluation_code_digest("vistr") == code_digest(digests.evaluation_code(methods.get("vistr")))


def test_entries_that_cannot_be_meant_are_told(same_results):
    same_results(evaluation=[entry("a", "b"), {"code": "c", "as": "b"}])
    with pytest.raises(UserError, match=r"evaluation\[1\].*because"):
        read_same_results()
    same_results(evaluation=[entry("a", "b"), entry("b", "c")])
    with pytest.raises(UserError, match=r"evaluation\[0\].as.*counts as an earlier one"):
        read_same_results()


def test_the_projects_own_entries_can_be_read(capsys):
    assert set(read_same_results()) == {"training", "evaluation"}
    keys.main([])
    assert capsys.readouterr().out.count("efficientvis") == 2


def test_what_a_package_gives_on_demand_is_in_no_digest_but_the_rest_of_it_is(package):
    def digest():
        return code_digest(["lib.loop"], root=package)

    before = digest()
    edit(package, "lib/__init__.py", "", '"""Trains."""\n\n\ndef __getattr__(name):\n    import lib.unrelated\n')
    assert digest() == before
    edit(package, "lib/__init__.py", '"""Trains."""', "import lib.unrelated")
    assert digest() != before


def test_what_a_single_module_gives_on_demand_is_in_its_digest(package):
    edit(package, "lib/loop.py", "def report(x):\n    return x", "def __getattr__(x):\n    return x")
    before = code_digest(["lib.loop"], root=package)
    edit(package, "lib/loop.py", "def __getattr__(x):\n    return x", "def __getattr__(x):\n    return 2")
    assert code_digest(["lib.loop"], root=package) != before
