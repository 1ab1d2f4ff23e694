"""Choices by one rule: every family of rows has the same search on val, and its rows share what it chose where it was made."""

import contextlib
import json
from pathlib import Path

import pytest
import yaml
from ray import tune
from support.project import CHECKOUT, write_params

from effvis.errors import UserError
from pipeline import ablate as ablate_command
from pipeline import tune as command
from pipeline.grid.choice_file import Candidate, FamilyChoice, LinkingChoice, file_of, keep, read
from pipeline.grid.choices import data_of
from pipeline.grid.linking import chosen, has_test, reported
from pipeline.grid.rows import find_evaluation, load_table
from pipeline.mlflow_view import sync
from pipeline.runs.store import RunStore
from pipeline.search import handcraft
from pipeline.search import trials as trials_module
from pipeline.search.families import ChoiceSpace, FamilySearch, choice_of, families, load_choice_space
from pipeline.search.trials import _climb, _Proposals
from pipeline.settings.loading import load_params

END_TO_END, BY_HAND, WITHOUT_CL = "table1d:T=9 Fully e2e (ours)", "table1d:T=9 Hand-craft", "table1e:w/o CL"
# VisTR's rates and threshold in the profile, and others.
OWN = {"vistr.train.lr": 3e-4, "vistr.train.backbone_lr": 1e-4, "vistr.inference.presence_threshold": 0.05}
TWICE = {"vistr.train.lr": 6e-4, "vistr.train.backbone_lr": 2e-4, "vistr.inference.presence_threshold": 0.2}
SPACE = ChoiceSpace(share=0.5, rates=[0.5, 2], presence_thresholds=[0.05, 0.2])


def with_one_rate(folder):
    """The project, with a profile of one learning rate, which the tests below name, and without choices."""
    file = folder / "experiments" / "profiles" / "laptop.yaml"
    profile = yaml.safe_load(file.read_text())
    profile["train"] |= {"lr": 1e-4, "gate_lr": None}
    file.write_text(yaml.safe_dump(profile, sort_keys=False))
    file_of(load_params(folder / "params.yaml")).unlink(missing_ok=True)
    return folder


@pytest.fixture
def params(tiny_project):
    return load_params(with_one_rate(tiny_project()) / "params.yaml")


def again(params, *overrides):
    return load_params(params.root / "params.yaml", overrides)


def family(params, method, T, tables=("table1d",)):
    (found,) = [one for one in families(params, tables, [method]) if one.T == T]
    return found


def choice(params, **changes):
    """A choice for EfficientVIS at T=9, as if made on the parameters' data."""
    values = {"method": "efficientvis", "T": 9, "data": data_of(params), "row": {"T": 9}, "share": 0.5, "command": "by hand",
              "chosen": {"train.lr": 2e-4, "inference.presence_threshold": 0.2},
              "instead_of": {"train.lr": 1e-4, "inference.presence_threshold": 0.05},
              "candidates": [Candidate(rate=2, presence_threshold=0.2, AP=0.5, run="0" * 16)]}
    return FamilyChoice(**values | changes)


def settings_of(params, row):
    spec = find_evaluation(params, row)
    return spec.train.train.lr, spec.inference.presence_threshold


def test_a_family_has_the_rows_of_all_tables_and_tries_what_they_share(params):
    ours = family(params, "efficientvis", 9)
    assert set(ours.rows) == {"table1c:T=9", "table1d:T=9 Hand-craft", "table1d:T=9 Fully e2e (ours)", "table1e:w/o CL",
                              "table1e:w/ CL", "table1h:Original FPS", "table1h:1.5 FPS"}
    assert ours.shared.model_dump(exclude_unset=True) == {"method": "efficientvis", "T": 9} and ours.linked_by_hand
    peer = family(params, "vistr", 18)
    assert peer.shared.augmentation == "random-crop" and peer.linked_by_hand, "all its rows crop"
    crossvis = family(params, "crossvis", 36, ["table3"])
    assert crossvis.of_rows(params).crossvis.model.identities == 8171, "what all its rows set is tried, too"
    everything = families(params, ["table2", "table3"], ["efficientvis", "queryinst"])
    assert [one.name for one in everything] == ["efficientvis-T36", "queryinst-T36", "efficientvis-T36-youtube-vis-2021"]
    assert not any(one.linked_by_hand for one in everything)


def test_every_family_has_the_same_number_of_candidates_and_the_profile_s_own_is_the_first(params):
    rules = load_choice_space(CHECKOUT / "experiments" / "search" / "choices.yaml")
    searches = [FamilySearch.of(params, one, rules) for one in families(params, ["table1d", "table2"], ["efficientvis", "vistr",
                                                                                                     "queryinst"])]
    assert {len(one.space.listed) for one in searches} == {(1 + len(rules.rates)) * len(rules.presence_thresholds)}
    peer = FamilySearch.of(params, family(params, "vistr", 18), SPACE)
    assert peer.space.listed[0] == OWN and len(peer.space.listed) == 6
    assert peer.space.listed[1] == {**OWN, "vistr.train.lr": 1.5e-4, "vistr.train.backbone_lr": 5e-5}, "all rates together"
    row = find_evaluation(params, "table1d:T=18 VisTR")
    (tried,) = peer.base.trial(params, peer.space.listed[0], 1)
    assert (tried.train.train.epochs, tried.train.train.lr_drop_epoch) == (row.train.train.epochs / 2,
                                                                           row.train.train.lr_drop_epoch / 2)
    assert tried.train.train.model_copy(update={"epochs": 1, "lr_drop_epoch": 0.8}) == row.train.train
    assert tried.train.model == row.train.model and tried.evaluation_digest == row.evaluation_digest
    trainings = {peer.base.trial(params, values, 1)[0].train.key for values in peer.space.listed}
    assert len(trainings) == 3, "as many as rates"


def test_the_rows_of_a_family_share_its_choice_and_others_do_not(params):
    rows = [END_TO_END, BY_HAND, WITHOUT_CL, "table1d:T=18 Fully e2e (ours)", "table2:EfficientVIS", "table3:EfficientVIS"]
    before = {row: find_evaluation(params, row) for row in rows}
    keep(params, choice(params))
    after = {row: find_evaluation(params, row) for row in rows}
    assert [settings_of(params, row) for row in rows] == [(2e-4, 0.2)] * 3 + [(1e-4, 0.05)] * 3
    assert [row for row in rows if after[row].train.key != before[row].train.key] == rows[:3]
    assert after[END_TO_END].train.parent == before[END_TO_END].train.parent, "the pretraining has a rate of its own"


def test_what_the_user_or_a_row_sets_counts_more(params):
    keep(params, choice(params))
    assert settings_of(again(params, "train.lr=1e-3"), END_TO_END) == (1e-3, 0.2)
    assert settings_of(again(params, "train.lr=1e-4"), END_TO_END) == (1e-4, 0.2), "also where it is the profile's value"
    assert settings_of(again(params, "inference.presence_threshold=0.05"), END_TO_END) == (2e-4, 0.05)
    write_params(params.root, train={"lr": 3e-3})
    assert settings_of(again(params), END_TO_END) == (3e-3, 0.2)
    write_params(params.root, train={"lr": None})
    table = params.root / "experiments" / "table1d.yaml"
    table.write_text(table.read_text().replace("set: {T: 9}", "set: {T: 9, params: {train.lr: 5.0e-4}}"))
    assert settings_of(params, END_TO_END) == (5e-4, 0.2) and settings_of(params, BY_HAND) == (2e-4, 0.2)


def test_rates_that_belong_together_are_taken_together(params):
    row = "table1d:T=18 VisTR"
    keep(params, choice(params, method="vistr", T=18, chosen=TWICE, instead_of=OWN))

    def found(*overrides):
        spec = find_evaluation(again(params, *overrides), row)
        return spec.train.train.lr, spec.train.train.backbone_lr, spec.inference.presence_threshold

    assert found() == (6e-4, 2e-4, 0.2)
    assert found("vistr.train.lr=1e-3") == (1e-3, 1e-4, 0.2)
    assert found("inference.presence_threshold=0.1") == (6e-4, 2e-4, 0.1), "VisTR's section leaves it to this key"


@pytest.mark.parametrize("changes, reason", [
    ({"data": {"name": "other", "train": "0" * 16, "val": "1" * 16}}, "other data (other)"),
    ({"instead_of": {"train.lr": 1e-5, "inference.presence_threshold": 0.05}}, "other values of train.lr"),
])
def test_a_choice_that_was_made_for_something_else_is_not_taken_and_named(params, capsys, changes, reason):
    ablate = ["--params", str(params.root / "params.yaml"), "--grid", "table1e", "--dry-run"]
    keep(params, choice(params))
    assert ablate_command.main(ablate) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("chosen for efficientvis at T=9 on ") and "choice" not in err
    assert "train.lr 0.0002 (profile: 0.0001), inference.presence_threshold 0.2 (profile: 0.05)" in out
    file_of(params).unlink()
    keep(params, choice(params, **changes))
    assert settings_of(params, END_TO_END) == (1e-4, 0.05)
    assert ablate_command.main(ablate) == 0
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if "choice" in line]
    assert reason in line and "pipeline.tune --choose table1e --methods efficientvis" in line and "chosen for" not in out


def test_choices_of_another_profile_are_refused(params):
    keep(params, choice(params))
    file = file_of(params)
    file.write_text(file.read_text().replace("profile: laptop", "profile: paper"))
    with pytest.raises(UserError, match="laptop.yaml: profile: .*for the profile paper.*pipeline.tune --choose"):
        find_evaluation(params, END_TO_END)
    file.write_text("profile: laptop\nfamilies: [{T: 9}]\n")
    with pytest.raises(UserError, match="families.0"):
        find_evaluation(params, END_TO_END)


def test_of_equal_candidates_the_profile_s_own_is_chosen_and_else_the_first(params):
    one = FamilySearch.of(params, family(params, "efficientvis", 9), SPACE)

    def best_of(*values):
        search = one.search.model_copy(update={"trials": []})
        for candidate, value in zip(one.space.listed, values, strict=True):
            trial = search.add(candidate, one.base.trial(params, candidate, 1))
            trial.state = "done" if value is not None else "diverged"
            if value is not None:
                search.report(trial, 0, value)
        return choice_of(params, one.family, SPACE, search, "by hand")

    assert best_of(*[0.25] * 6).chosen == one.space.listed[0] == {"train.lr": 1e-4, "inference.presence_threshold": 0.05}
    found = best_of(0.25, 0.5, 0.25, 0.5, 0.5, None)
    assert found.chosen == one.space.listed[1] and found.instead_of == one.space.listed[0]
    assert [(c.rate, c.presence_threshold, c.AP) for c in found.candidates] == [
        (1, 0.05, 0.25), (0.5, 0.05, 0.5), (2, 0.05, 0.25), (1, 0.2, 0.5), (0.5, 0.2, 0.5), (2, 0.2, None)]
    keep(params, found)
    assert read(again(params)).families == (found,), "it is read as it was written"


def test_an_earlier_choice_does_not_change_what_is_searched(params):
    """Or the same command, called again, would begin anew."""
    before = FamilySearch.of(params, family(params, "vistr", 18), SPACE)
    row = find_evaluation(params, "table1d:T=18 VisTR")
    keep(params, choice(params, method="vistr", T=18, chosen=TWICE, instead_of=OWN))
    keep(params, LinkingChoice(method="vistr", T=18, dataset="", reported=reported(params), handcraft={"mask_iou": 2.0},
                               command="", run="0" * 16, held_out=3, AP=0.5, AP_of_defaults=0.25))
    now = find_evaluation(params, "table1d:T=18 VisTR")
    assert now.train.key != row.train.key and now.inference.handcraft.mask_iou == 2.0
    assert FamilySearch.of(again(params), before.family, SPACE).search.key == before.search.key


def test_linking_is_chosen_on_val_only_where_test_is_reported(params):
    assert not has_test(params) and handcraft.choosing(params, 0.4).index_folder != params.index_folder
    without = reported(params)
    file = params.index_folder / "dataset.json"
    facts = json.loads(file.read_text())
    facts["splits"]["test"] = {**facts["splits"]["val"], "digest": "f" * 64}
    file.write_text(json.dumps(facts))
    assert handcraft.choosing(params).index_folder == params.index_folder and reported(params) == "f" * 16 != without
    assert chosen(params, "efficientvis", 9) is None


@pytest.mark.parametrize("arguments, problem", [
    ([], "--space: is missing"), (["--choose", "table1e", "--row", "table1e:w/ CL"], "--row: goes not with --choose"),
    (["--space", "x.yaml", "--methods", "vistr"], "--methods: goes only with --choose"),
    (["--choose", "table1e", "-S", "train.lr=1e-3"], "train.lr: is set by hand.*--methods"),
    (["--choose", "table9"], "table9: there is no such table"),
])
def test_mistakes_on_the_command_line(params, arguments, problem):
    with pytest.raises(UserError, match=problem):
        command.main(["--params", str(params.root / "params.yaml"), *arguments])


def test_the_committed_choices_can_be_read():
    for file in sorted((CHECKOUT / "experiments" / "choices").glob("*.yaml")):
        params = load_params(CHECKOUT / "params.yaml", [f"profile={file.stem}"])
        assert file_of(params) == file and (read(params).families or read(params).linking)


def run_here(plan, search, *, trials, on_change):
    """``run_trials`` in this process."""
    proposals = _Proposals(plan, search, trials)
    for name in map(str, range(proposals.open)):
        proposals.suggest(name)
        proposals.started(name)
        with pytest.MonkeyPatch.context() as patched:
            results = []
            patched.setattr(tune, "report", results.append)
            trial = search.trials[int(name)]
            _climb(plan, plan.base.trial(plan.params, trial.parameters, plan.seeds), report=lambda progress: None)
        proposals.on_trial_complete(name, results[-1])


@pytest.mark.slow
def test_a_real_choice_from_its_search_to_the_keys_of_the_rows(tiny_project, capsys, monkeypatch):
    """Two rates and two thresholds, then the linking by hand; the second time nothing is run. Without Ray and MLflow, which
    tests/search/test_tune.py has."""
    worth = trials_module._worth
    monkeypatch.setattr(trials_module, "run_trials", run_here)
    monkeypatch.setattr(trials_module, "_worth", lambda plan, spec, report: worth(plan, spec, report) + spec.train.train.lr)
    monkeypatch.setattr(sync, "Tracker", lambda params: contextlib.nullcontext())
    folder = with_one_rate(tiny_project(pretrain={"source": "none"}, resources={"slots": 1}, seeds=1))
    params = load_params(folder / "params.yaml")
    space = folder / "small.yaml"
    space.write_text("share: 0.5\nrates: [2]\npresence_thresholds: [0.05, 0.01]\n")
    few = {**handcraft.choose.__kwdefaults__, "thresholds": (0.0, 0.5), "weights": (1.0,)}
    monkeypatch.setattr(handcraft.choose, "__kwdefaults__", few)
    arguments = ["--params", str(folder / "params.yaml"), "--choose", "table1e", "--space", str(space)]
    before = {row: find_evaluation(params, row) for row in (END_TO_END, BY_HAND, WITHOUT_CL)}
    assert command.main([*arguments, "--dry-run"]) == 0
    assert "efficientvis-T9: 4 candidates, 4 missing; 2 trainings of 0.5 of the epochs" in capsys.readouterr().out
    assert not (folder / "runs").exists() and not file_of(params).exists()

    assert command.main(arguments) == 0
    (found,), (linking,) = read(params).families, read(params).linking
    assert [(one.rate, one.presence_threshold) for one in found.candidates] == [(1, 0.05), (2, 0.05), (1, 0.01), (2, 0.01)]
    assert found.chosen == {"train.lr": 2e-4, "inference.presence_threshold": 0.05}, "as if twice the rate were better"
    assert found.data == data_of(params) and found.command.startswith("python -m pipeline.tune --params")
    store, runs = RunStore(params.runs_dir), {one.run for one in found.candidates}
    assert len(runs) == 2 and all(store.is_done(run) and len(list(store.evaluations(run))) == 2 for run in runs)
    assert linking.reported == reported(params) and linking.run not in runs and len(linking.tried) == 3
    for row, spec in before.items():
        now = find_evaluation(params, row)
        assert now.train.key != spec.train.key and now.train.train == spec.train.train.model_copy(update={"lr": 2e-4})
        assert now.inference == (spec.inference.model_copy(update={"handcraft": linking.handcraft}) if row == BY_HAND
                                 else spec.inference)
    text, history = file_of(params).read_text(), sorted(map(str, params.runs_dir.rglob("history.jsonl")))
    assert command.main(arguments) == 0
    assert file_of(params).read_text() == text and sorted(map(str, params.runs_dir.rglob("history.jsonl"))) == history
    assert Path(params.results_dir / "search" / "choice-efficientvis-T9" / "index.html").is_file()
    assert yaml.safe_load(text)["profile"] == "laptop" and load_table(params, "table1e").rows
