"""``--methods`` and ``methods`` of params.yaml take any of the methods, and all of them."""

import pytest
import yaml
from support.project import CHECKOUT

from effvis.errors import UserError
from pipeline import methods
from pipeline.settings.loading import load_params


def test_methods_are_named_one_by_one_or_all_at_once():
    first, *others = methods.names()
    assert others, "one method would prove nothing"
    assert methods.named("all") == methods.names() == methods.named(f"{others[0]}, all")
    assert methods.named(f"{others[0]}, {first},{first}") == (others[0], first)


@pytest.mark.parametrize("text", ["visstr", "", "efficientvis,", "All"])
def test_what_is_no_method_is_refused(text):
    with pytest.raises(UserError, match=r"^--methods: .*: there is no such method\. The methods are efficientvis, .*, or all$"):
        methods.named(text)


def test_the_parameters_take_the_same(tiny_project):
    file = tiny_project() / "params.yaml"
    assert load_params(file, ["methods=all"]).methods == "all"
    with pytest.raises(UserError, match=r"^command line: methods: .*there is no such method: 'visstr'.* or all"):
        load_params(file, ["methods=efficientvis,visstr"])


def test_dvc_hands_the_parameter_on():
    command = yaml.safe_load((CHECKOUT / "dvc.yaml").read_text())["stages"]["ablate"]["do"]["cmd"]
    assert command.endswith("--ahead --methods ${methods}")
