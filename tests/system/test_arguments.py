"""Numbers on the command line: one out of range ends the command, which names the option."""

from importlib import import_module

import pytest

from pipeline.system.arguments import natural_int, positive_int, positive_number, probability


def test_what_is_in_range_is_a_number():
    assert (positive_int("1"), natural_int("0"), positive_number("0.5")) == (1, 0, 0.5)
    assert (probability("0"), probability("1")) == (0, 1)


@pytest.mark.parametrize("command, option, value", [
    ("predict v --out o", "--score", "2"), ("predict v --out o", "--fps", "0"), ("predict v --out o", "--folder-fps", "nan"),
    ("predict v --out o", "--scale", "0"), ("overlays", "--videos", "0"), ("overlays", "--score", "high"),
    ("hardships", "--pictures", "-1"), ("tune --space s.yaml", "--trials", "0"), ("tune --space s.yaml", "--seeds", "1.5"),
    ("import_weights f.pth --out o.safetensors", "--classes", "0"), ("ablate --grid table1e", "--seeds", "0"),
    ("import_weights f.pth --out o.safetensors --method vistr", "--clip-length", "0"), ("evaluate", "--seed", "-1"),
    ("import_coco i a.json --out o", "--fps", "0"), ("import_masks f --categories c.yaml --out o", "--fps", "inf"),
])
def test_what_is_out_of_range_ends_with_the_options_name(command, option, value, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, *arguments = command.split()
    with pytest.raises(SystemExit) as end:
        import_module(f"pipeline.{name}").main([*arguments, f"{option}={value}"])
    assert end.value.code == 2
    assert f"argument {option}: {value} is not a" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
